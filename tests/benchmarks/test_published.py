"""The workloads of others end with what a second computation says, or their time does not count."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from benchmarks import published
from benchmarks.published import WORKS, Output
from benchmarks.rig import Servers, WrongResult
from tests import services

COUNT = {"shuffle": 40_000, "q17": 6_000, "q18": 6_000}  # A consumer of the first has eight, so some have ten.


@pytest.mark.parametrize("name", WORKS)
def test_a_workload_is_worked_off_through_kafka(name: str, kafka: services.Kafka) -> None:
    """In a process of its own, from one topic to another; the measurement itself checks the outputs."""
    (found,) = published.measure(name, Servers(kafka.bootstrap, "", "test"), COUNT[name], 1, 0)
    assert found["seconds"] > 0
    assert found["cpu_s"] > 0


@pytest.mark.parametrize("name", WORKS)
def test_a_missing_output_is_seen(name: str) -> None:
    """In memory, group by group: all outputs are right, and those of all keys but one are not."""
    work = WORKS[name]()
    inputs = work.make(COUNT[name], random.Random(1))
    keeps = [work.keep() for _ in range(published.GROUPS)]
    outputs: list[Output] = []
    for first in range(0, len(inputs), 500):
        for group, items in work.route(inputs[first : first + 500]).items():
            outputs += keeps[group](items)
    work.check(inputs, outputs)
    with pytest.raises(WrongResult):
        work.check(inputs, without_a_key(outputs))


def without_a_key(outputs: Sequence[Output]) -> list[Output]:
    """All but those of the last one's key."""
    return [output for output in outputs if output[0] != outputs[-1][0]]
