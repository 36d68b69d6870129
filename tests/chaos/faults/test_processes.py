"""Processes that hang, are rolled over, scaled, or live in another time, while events flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.faults.conftest import LEASE
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Stage

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PARTITIONS = 6


@pytest.mark.parametrize("asleep_s", [pytest.param(8, id="8s"), pytest.param(30, id="30s", marks=pytest.mark.long)])
def test_a_process_that_hangs_is_replaced_and_does_no_harm_when_it_wakes(
    stage: Callable[..., Stage], watch: Callable[..., Watch], asleep_s: int
) -> None:
    """SIGSTOP of one of two: the other has all partitions after a session, and the sleeper ends when it wakes."""
    on = stage(PARTITIONS, **LEASE)
    sleeper, heir = on.pipeline().start(), on.pipeline().start()
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=101).start()
    sleeper.may_end = True
    with seen.fault(f"process hangs {asleep_s} s (SIGSTOP)") as fault:
        sleeper.pause()
        seen.wait(asleep_s)
        on.eventually(lambda: heir.owned == PARTITIONS, "the other process owns all")
        sleeper.resume()
        fault.healed()
        on.eventually(lambda: sleeper.exit_code is not None or sleeper.owned > 0, "it ended, or joined again")
    seen.judge(late_records=True)
    assert sleeper.exit_code in (None, 1)
    assert heir.pid is not None


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
