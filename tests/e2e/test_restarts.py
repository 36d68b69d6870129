"""Processes that end, in good order or not, and come back: nothing is lost and nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
    on.wait_for_records(300)
    on.stop(first)
    second = on.pipeline().start()
    on.wait_for_records(300)
    load.stop()
    on.wait_until_committed()
    on.stop(second)
    report = settle(on, load)
    assert report.outcomes["reported_dead_letter"] == len(load.refused)
