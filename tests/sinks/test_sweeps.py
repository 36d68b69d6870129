"""Keys that are looked at again after rules changed: who comes first, and that everybody comes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sinks.publisher import SWEEP_LONG_PAUSE_S, SWEEP_PAUSE_S, SWEEP_PORTIONS, SWEEP_S, Publisher


class Partition:
    """One partition's outlet as far as sweeps go: so many portions are left to look at, which have something to say."""

    def __init__(self, portions: int, says: bool = False) -> None:
        self.left, self.swept, self.sent = portions, 0, 0
        self._says = says

    def sweep(self) -> bool:
        if not self.left:
            return False
        self.left -= 1
        self.swept += 1
        return True

    def publish(self, *_: object) -> None:
        """What it found."""
        self.sent += self._says


def turn(outlets: dict[int, Partition], clock: list[float], portion_s: float, swept: int) -> int:
    """One turn of a publisher over these partitions; the partition that was swept last comes back."""

    def now() -> float:
        clock[0] += portion_s
        return clock[0]

    publisher = publisher_of(outlets, now, calm=True)
    publisher._swept = swept
    Publisher._sweep(cast(Any, publisher), clock[0], 0)
    found: int = publisher._swept
    return found


def publisher_of(outlets: dict[int, Partition], now: Callable[[], float], calm: bool) -> SimpleNamespace:
    """What a publisher needs for its sweeps; `calm`: hardly anything waits for its acknowledgement."""
    return SimpleNamespace(outlets=outlets, has_room=True, _clock=now, _swept=-1, _said_at=float("-inf"), _is_calm=calm)


def test_rules_that_keep_changing_do_not_keep_a_partition_from_being_looked_at() -> None:
    """One more portion for everybody in each turn, and time for a few: all come on alike."""
    outlets, clock, swept = {number: Partition(0) for number in range(3)}, [0.0], -1
    for _ in range(300):
        for outlet in outlets.values():
            outlet.left += 1
        swept = turn(outlets, clock, SWEEP_S / 4, swept)
    portions = [outlet.swept for outlet in outlets.values()]
    assert max(portions) - min(portions) <= SWEEP_PORTIONS
    assert min(portions) >= 250


def test_a_turn_looks_no_longer_than_events_may_wait() -> None:
    """However much is left, and even where a clock stands still."""
    slow, fast = {0: Partition(1_000)}, {0: Partition(1_000)}
    turn(slow, [0.0], SWEEP_S, -1)
    turn(fast, [0.0], 0.0, -1)
    assert (slow[0].swept, fast[0].swept) == (1, SWEEP_PORTIONS)


@pytest.mark.parametrize(("calm", "pause_s"), [(True, SWEEP_PAUSE_S), (False, SWEEP_LONG_PAUSE_S)])
def test_events_go_before_keys_that_have_something_to_say(calm: bool, pause_s: float) -> None:
    """One portion of them comes after a pause, a longer one while acknowledgements are awaited, under any load."""
    outlets, now = {0: Partition(1_000, says=True)}, 0.0
    publisher = publisher_of(outlets, lambda: now, calm)
    for turn_ms in range(1_000):
        now = turn_ms / 1_000
        Publisher._sweep(cast(Any, publisher), now, 0)
    assert outlets[0].swept == pytest.approx(1 / pause_s, abs=1)
