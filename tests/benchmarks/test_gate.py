"""The guard of the worker's CPU per event passes what there is and stops a fifth more."""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks import gate, hot_path
from benchmarks.workload import Options

SLOWER = 0.20


@pytest.fixture(scope="module")
def cost() -> gate.Cost:
    """What an event costs now."""
    return gate.measure()


def test_an_event_costs_no_more_than_was_accepted() -> None:
    """The hot path against the floor's work in the same thread, within a tenth of the accepted ratio."""
    said: list[str] = []
    assert gate.judge(show=said.append), "\n".join(said)


def test_a_fifth_more_work_is_stopped(cost: gate.Cost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted slowdown of 20 % is found, however often it is measured again."""
    genuine = hot_path.KeepBalances.on_batch
    extra_s = cost.stockflow_us * SLOWER / 1e6

    def slowed(self: Any, arrivals: list[Any]) -> Any:
        done = genuine(self, arrivals)
        until = time.thread_time() + extra_s * sum(len(getattr(one, "messages", ())) for one in arrivals)
        while time.thread_time() < until:
            pass
        return done

    monkeypatch.setattr(hot_path.KeepBalances, "on_batch", slowed)
    said: list[str] = []
    assert not gate.judge(accepted=cost.ratio, show=said.append), "\n".join(said)
    assert len(said) == gate.TRIES


def test_both_take_in_every_event(cost: gate.Cost) -> None:
    """Neither side is fast because it did nothing."""
    assert cost.floor_us > 1
    assert cost.stockflow_us > 1
    small = gate.measure(Options(events=1_200, balances=100, partitions=3), chunks=2)
    assert small.ratio > 0
