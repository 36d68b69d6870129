"""Which partitions are cut in a turn: the longest ago first, few where it takes long, and whoever is waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sinks.publisher import CUT_S, Publisher

INTERVAL_S = 0.2


class Partition:
    """One partition's outlet as far as cuts go: it always has something to make durable."""

    def __init__(self, clock: list[float], takes_s: float, answers: int = 0) -> None:
        self.cut_at, self.cuts = 0.0, 0
        self.ledger = SimpleNamespace(answers=[None] * answers)
        self._clock, self._takes_s = clock, takes_s

    def cut_due(self, now: float, interval_s: float) -> bool:
        return now >= self.cut_at + interval_s

    def cut(self, now: float) -> None:
        self.cut_at = now
        self.cuts += 1
        self._clock[0] += self._takes_s


def turns(outlets: list[Partition], clock: list[float], turns: int, turn_s: float, before_s: float = 0.0) -> None:
    """So many turns; in each `before_s` go by before cuts have their part of it."""
    pace = SimpleNamespace(commit_interval_s=INTERVAL_S)
    publisher = SimpleNamespace(outlets=dict(enumerate(outlets)), _pace=pace, _clock=lambda: clock[0])
    for _ in range(turns):
        clock[0] += turn_s
        began = clock[0]
        clock[0] += before_s
        Publisher._cut(cast(Any, publisher), began)


def test_cuts_that_take_long_are_one_per_turn_and_nobody_is_left_out() -> None:
    """Where all are due again before all have been cut, they come one after the other."""
    clock = [10.0]
    outlets = [Partition(clock, takes_s=2 * CUT_S) for _ in range(12)]
    turns(outlets, clock, turns=120, turn_s=INTERVAL_S / 4)
    assert [outlet.cuts for outlet in outlets] == [10] * 12


def test_cuts_that_take_no_time_are_made_as_they_are_due() -> None:
    """All of them in one turn."""
    clock = [10.0]
    outlets = [Partition(clock, takes_s=0.0) for _ in range(12)]
    turns(outlets, clock, turns=10, turn_s=1.01 * INTERVAL_S)
    assert [outlet.cuts for outlet in outlets] == [10] * 12


@pytest.mark.parametrize("takes_s", [0.0, 2 * CUT_S])
def test_turns_that_are_full_of_other_work_are_cut_in_as_well(takes_s: float) -> None:
    """However long acknowledgements and records took before: what is not cut is not committed."""
    clock = [10.0]
    outlets = [Partition(clock, takes_s) for _ in range(3)]
    turns(outlets, clock, turns=30, turn_s=INTERVAL_S, before_s=10 * CUT_S)
    assert [outlet.cuts for outlet in outlets] == [10 if takes_s else 30] * 3


def test_a_cut_that_answers_wait_for_does_not_wait_for_others() -> None:
    """Whoever asked for a reservation is answered by the next turn, whatever else is due."""
    clock = [10.0]
    outlets = [Partition(clock, takes_s=2 * CUT_S, answers=number == 2) for number in range(3)]
    turns(outlets, clock, turns=1, turn_s=INTERVAL_S)
    assert [outlet.cuts for outlet in outlets] == [1, 0, 1]
