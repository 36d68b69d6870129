"""Processes that end, in good order or not, and come back: nothing is lost and nothing counts twice."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from schemas.state import CLAIM_KEY
from schemas.topics import AVAILABILITY, STOCK_STATE
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_a_process_that_is_asked_to_end_leaves_nothing_undone_and_the_next_goes_on(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """SIGTERM in mid-stream ends with exit code 0; the next process continues from there, exactly."""
    on = stage()
    load = sending(on)
    records = stories(seed=11, partitions=on.partitions)
    first = on.pipeline().start()
    load.start(records, per_second=300)
    on.wait_for_records(100)
    on.stop(first)
    second = on.pipeline().start()
    on.wait_for_records(100)
    load.stop()
    on.wait_until_committed()
    on.stop(second)
    report = settle(on, load)
    assert report.outcomes["reported_dead_letter"] == len(load.refused)


def test_a_process_killed_ten_times_in_mid_stream_loses_nothing_and_counts_nothing_twice(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """kill -9 while it restores, while it catches up and while it is up to date, with events flowing all the time."""
    on = stage()
    load = sending(on)
    load.start(stories(seed=12, partitions=on.partitions), per_second=150)
    pipeline = on.pipeline()
    for number in range(10):
        claims = on.claims()
        pipeline.launch()
        if number % 3 == 0:
            on.wait_for_claim_after(claims)
        elif number % 3 == 1:
            on.wait_for_records(5 * number)
        else:
            on.eventually(lambda: pipeline.is_ready, "it is ready")
            on.wait_for_records(5 * number)
        pipeline.kill()
        assert pipeline.exit_code == -signal.SIGKILL
    pipeline.start()
    settle(on, load)
    assert pipeline.pid is not None


def test_partitions_move_live_while_processes_come_die_and_leave(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Two processes, one is killed, two more join, one leaves in order: the others never restart."""
    on = stage(partitions=6)
    load = sending(on)
    load.start(stories(seed=13, partitions=on.partitions), per_second=200)
    first, second = on.pipeline().start(), on.pipeline().start()
    on.wait_for_owners(3, 3)
    on.wait_for_records(50)
    second.kill()
    on.wait_for_owners(6)
    third, fourth = on.pipeline().launch(), on.pipeline().launch()
    on.wait_for_owners(2, 2, 2)
    on.wait_for_records(50)
    on.stop(third)
    on.wait_for_owners(3, 3)
    on.wait_for_records(50)
    settle(on, load)
    for survivor in (first, fourth):
        assert len(survivor.logged("starting")) == 1
        assert survivor.pid is not None


def test_a_process_that_wakes_up_after_its_lease_does_no_harm(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """SIGSTOP beyond the lease, takeover by another process, SIGCONT: the first gives up, the result is exact."""
    on = stage(LEASE_MS="2000")
    load = sending(on)
    load.start(stories(seed=14, partitions=on.partitions), per_second=200)
    sleeper = on.pipeline().start()
    on.wait_for_records(50)
    sleeper.pause()
    sleeper.may_end = True
    heir = on.pipeline().start()
    on.eventually(lambda: heir.owned == on.partitions, "the second process owns all partitions")
    on.wait_for_records(50)
    sleeper.resume()
    on.eventually(
        lambda: sleeper.exit_code is not None or sleeper.owned + heir.owned == on.partitions,
        "the first process gives its partitions up, or ends",
    )
    on.wait_for_records(50)
    settle(on, load, late_records=True)
    assert sleeper.exit_code in (None, 1)
    assert heir.pid is not None


def test_a_short_pause_ends_nothing(stage: Callable[..., Stage], sending: Callable[[Stage], Sending]) -> None:
    """A process that was stopped for less than its lease goes on as if nothing had been."""
    on = stage(LEASE_MS="2000")
    load = sending(on)
    load.start(stories(seed=15, partitions=on.partitions), per_second=200)
    pipeline = on.pipeline().start()
    for _ in range(3):
        on.wait_for_records(20)
        pipeline.pause()
        load.wait_for_more(100)
        pipeline.resume()
    settle(on, load)
    assert len(pipeline.logged("assigned")) == 1


def test_the_classic_group_protocol_shares_and_hands_over_as_well(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Older brokers: two processes share the partitions, one is killed, another comes and goes, nothing is lost."""
    on = stage(
        GROUP_PROTOCOL="classic", LEASE_MS="2000", KAFKA__SESSION_TIMEOUT_MS="3000", KAFKA__HEARTBEAT_INTERVAL_MS="500"
    )
    load = sending(on)
    load.start(stories(seed=16, partitions=on.partitions), per_second=200)
    first, second = on.pipeline().start(), on.pipeline().start()
    on.wait_for_owners(1, 2)
    on.wait_for_records(50)
    first.kill()
    on.wait_for_owners(3)
    third = on.pipeline().start()
    on.wait_for_owners(1, 2)
    on.wait_for_records(50)
    on.stop(second)
    on.wait_for_owners(3)
    settle(on, load)
    assert third.pid is not None


def test_what_a_fenced_writer_leaves_behind_changes_nothing(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Late records of an old generation, on the view and in the state, beside a living process and while none runs."""
    on = stage(partitions=1)
    load = sending(on)
    load.start(stories(seed=17, partitions=1), per_second=200)
    first = on.pipeline().start()
    on.wait_for_records(30)
    on.stop(first)
    view, state = on.read(AVAILABILITY), [record for record in on.read(STOCK_STATE) if record.key != CLAIM_KEY.encode()]
    load.stop()  # what the first told last is the newest of many keys, and will be told once more
    second = on.pipeline().start()
    settle(on, load)

    on.append(AVAILABILITY, *view)
    on.append(STOCK_STATE, *state)
    settle(on, load, late_records=True)
    second.kill()

    on.append(AVAILABILITY, *view)
    on.append(STOCK_STATE, *state)
    third = on.pipeline().start()
    settle(on, load, late_records=True)
    load.start(stories(seed=18, partitions=1), per_second=200)
    on.wait_for_records(10)
    settle(on, load, late_records=True)
    on.stop(third)
