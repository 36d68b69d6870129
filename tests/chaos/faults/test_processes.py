"""Processes that hang, are rolled over, scaled, or live in another time, while events flow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from stock.events import ReservationRequested
from tests.chaos.faults.conftest import LEASE
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import utc_now
from tests.oracle import expected

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(900)]
TRIES = 3  # What is told is random: at some moments no hold is about to end.

PARTITIONS = 6
ASLEEP_S = 30.0
SKEWED = Path(__file__).with_name("skewed.py")


@pytest.mark.long
def test_a_process_that_hangs_is_replaced_and_does_no_harm_when_it_wakes(
    stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """SIGSTOP of one of two: the other has all partitions after a session, and the sleeper ends when it wakes."""
    on = stage(PARTITIONS, **LEASE)
    sleeper, heir = on.pipeline().start(), on.pipeline().start()
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=101).start()
    sleeper.may_end = True
    with seen.fault(f"process hangs {ASLEEP_S:.0f} s (SIGSTOP)") as fault:
        sleeper.pause()
        seen.wait(ASLEEP_S)
        on.eventually(lambda: heir.owned == PARTITIONS, "the other process owns all")
        sleeper.resume()
        fault.healed()
        on.eventually(lambda: sleeper.exit_code is not None or sleeper.owned > 0, "it ended, or joined again")
    seen.judge(late_records=True)
    assert sleeper.exit_code in (None, 1)
    assert heir.pid is not None


@pytest.mark.long
def test_processes_scale_and_are_rolled_over_without_anyone_noticing_much(
    stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """1 -> 3, each of the three replaced in turn, one killed, 3 -> 2, all under load; the rest never restart."""
    on = stage(PARTITIONS, **LEASE)
    first = on.pipeline().start()
    seen = watch(on, seed=102).start()
    with seen.fault("scale 1 -> 3"):
        running = [first, on.pipeline().launch(), on.pipeline().launch()]
        on.wait_for_owners(2, 2, 2)
    for number, old in enumerate(tuple(running), 1):
        with seen.fault(f"rolling restart, {number} of 3"):
            running.remove(old)
            running.append(on.pipeline().start())
            on.stop(old)
            on.wait_for_owners(2, 2, 2)
    with seen.fault("one of 3 killed, 3 -> 2"):
        running.pop(0).kill()
        on.wait_for_owners(3, 3)
    with seen.fault("scale 2 -> 1 (SIGTERM)"):
        on.stop(running.pop(0))
        on.wait_for_owners(PARTITIONS)
    seen.judge()
    assert [len(pipeline.logged("starting")) for pipeline in on.pipelines] == [1] * 6


def test_clocks_that_differ_by_minutes_shift_the_end_of_holds_and_nothing_else(
    stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """Holds end by the owner's clock: three minutes ahead, one behind, and right again after each takeover."""
    on = stage(PARTITIONS, **LEASE)
    right = on.pipeline().start()
    seen = watch(on, seed=106).start()
    ahead = in_another_time(on.pipeline(), timedelta(minutes=3))
    with seen.fault("an owner 3 minutes ahead joins, then has all"):
        ahead.start()
        on.wait_for_owners(3, 3)
        seen.wait(2.0)
        on.stop(right)
        on.wait_for_owners(PARTITIONS)
    rest_where_it_matters(seen, timedelta(minutes=3))
    seen.go_on()
    behind = in_another_time(on.pipeline(), timedelta(minutes=-1))
    with seen.fault("killed, replaced by one 1 minute behind"):
        behind.start()
        on.wait_for_owners(3, 3)
        ahead.kill()
        on.wait_for_owners(PARTITIONS)
    rest_where_it_matters(seen, timedelta(minutes=-1))
    seen.go_on()
    with seen.fault("replaced by one whose clock is right"):
        on.pipeline().start()
        on.wait_for_owners(3, 3)
        on.stop(behind)
        on.wait_for_owners(PARTITIONS)
    seen.judge()


def in_another_time(pipeline: Pipeline, skew: timedelta) -> Pipeline:
    """The same program with a wall clock that is so far ahead."""
    pipeline.program = [sys.executable, str(SKEWED), str(int(skew.total_seconds() * 1_000))]
    return pipeline


def rest_where_it_matters(seen: Watch, skew: timedelta) -> None:
    """Judge all at rest with a clock so far ahead, at a moment at which that makes a difference."""
    for _ in range(TRIES):
        seen.rest(skew=skew)
        if differs(seen, skew):
            return
        seen.go_on()
        seen.wait(2.0)
    raise AssertionError(f"no hold ends within {skew}: this proves nothing")


def differs(seen: Watch, skew: timedelta) -> bool:
    """Whether a clock that is so far ahead makes a difference now."""
    now, settings = utc_now(), seen.load.settings
    facts = [fact for fact in seen.load.facts if not isinstance(fact.event, ReservationRequested)]
    return expected(facts, settings, now) != expected(facts, settings, now + skew)
