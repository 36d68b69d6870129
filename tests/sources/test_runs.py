"""What is read at once is passed on in portions, and nothing of it is lost or told in another order."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Message

from sources.runs import Run, Runs


def taken(runs: Runs, messages: int) -> list[tuple[int, list[Any], bool]]:
    """Partition, messages and whether more follow, of one portion."""
    return [(run.partition, run.messages, run.more) for run in runs.take(messages)]


def filled(*runs: tuple[int, int]) -> Runs:
    """Runs of partitions with so many messages, numbered through."""
    made, number = Runs(), 0
    for partition, count in runs:
        made.add(Run(partition, 1, list(range(number, number + count))))  # type: ignore[arg-type]
        number += count
    return made


def test_a_run_is_taken_in_portions_and_the_last_says_so() -> None:
    """Until then more of the same follow, so nothing of it need be told."""
    runs = filled((0, 7), (1, 2))
    assert taken(runs, 3) == [(0, [0, 1, 2], True)]
    assert taken(runs, 3) == [(0, [3, 4, 5], True)]
    assert taken(runs, 3) == [(0, [6], False), (1, [7, 8], False)]
    assert not runs
    assert taken(runs, 3) == []


@pytest.mark.parametrize("portion", range(1, 12))
def test_portions_of_any_size_are_all_that_was_read(portion: int) -> None:
    """In order, none twice, each run with exactly one end."""
    runs, passed = filled((3, 4), (1, 1), (2, 5)), []
    while runs:
        one = taken(runs, portion)
        assert 0 < sum(len(messages) for _, messages, _ in one) <= portion
        passed += one
    assert [message for _, messages, _ in passed for message in messages] == list(range(10))
    assert [partition for partition, _, more in passed if not more] == [3, 1, 2]


def test_the_rest_is_of_the_same_assignment() -> None:
    """It is dropped with it."""
    runs = Runs()
    runs.add(Run(0, 7, [0, 1, 2]))  # type: ignore[list-item]
    assert [run.epoch for _ in range(2) for run in runs.take(2)] == [7, 7]


@pytest.mark.parametrize(
    ("partition", "epoch", "pieces"), [(0, 1, [(0, 4)]), (0, 2, [(0, 3), (0, 1)]), (1, 1, [(0, 3), (1, 1)])]
)
def test_what_goes_on_with_the_last_run_makes_it_longer(
    partition: int, epoch: int, pieces: list[tuple[int, int]]
) -> None:
    """Of the same partition and assignment only."""
    runs = filled((0, 3))
    runs.add(Run(partition, epoch, [3]))  # type: ignore[list-item]
    assert [(at, len(messages)) for at, messages, _ in taken(runs, 10)] == pieces


def test_where_what_waits_begins() -> None:
    """By log, the first of each."""
    runs = Runs()
    for partition, places in ((0, [("a", 5), ("b", 2), ("a", 6)]), (1, [("a", 9)]), (0, [("a", 7)])):
        runs.add(Run(partition, 1, [Message(topic=topic, partition=partition, offset=at) for topic, at in places]))
    assert runs.first_offsets() == {("a", 0): 5, ("b", 0): 2, ("a", 1): 9}
