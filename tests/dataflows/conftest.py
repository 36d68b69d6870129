"""A publisher over a simulated broker, for the tests of what goes out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.topics import (
    AVAILABILITY,
    DEAD_LETTERS,
    KEYED_INPUTS,
    NETWORK_AVAILABILITY,
    RESERVATION_VERDICTS,
    STOCK_ALERTS,
    STOCK_STATE,
)
from sinks.publisher import OutputTopics, Pace, Publisher
from tests.simulation.clients import Host, Troubles
from tests.simulation.kafka import Broker, Group, Timeline
from tests.simulation.process import simulated_clients
from tests.strategies import START

NOW_US = int(START.timestamp() * 1_000_000)


class View:
    """A view that takes everything."""

    def own(self, partition: int, generation: int) -> None: ...
    def disown(self, partition: int) -> None: ...
    def delivered(self, partition: int, key: str, value: bytes | None, offset: int, mark: int) -> None: ...


class Commits:
    """Notes what is to be committed."""

    def __init__(self) -> None:
        self.requested: list[tuple[int, ...]] = []

    def request(self, partition: int, positions: tuple[int, ...], metadata: str) -> None:
        self.requested.append(positions)


class NoRanges:
    """Nobody else writes here."""

    def read_range(self, topic: str, partition: int, first: int, end: int) -> list[tuple[bytes | None, bytes | None]]:
        raise AssertionError("nothing was written by others")


@pytest.fixture
def publisher() -> Iterator[tuple[Publisher, Broker]]:
    """A publisher over a simulated broker without troubles."""
    timeline = Timeline(1)
    group = Group(timeline, tuple(topic.name for topic in KEYED_INPUTS), 1, session_s=6)
    outputs = (
        AVAILABILITY, DEAD_LETTERS, STOCK_STATE, RESERVATION_VERDICTS, NETWORK_AVAILABILITY, STOCK_ALERTS,
    )  # fmt: skip
    broker = Broker(timeline, [(topic.name, False) for topic in outputs], 1, group, start_ms=0)
    with simulated_clients({"here": Host("here", timeline, broker, Troubles(0, 0, 0, 0, 0, 0))}):
        yield (
            Publisher(
                {"client.id": "here"},
                OutputTopics(*(topic.name for topic in outputs)),
                Pace(0.0, 0.1, 5.0, 0.0),
                View(),
                View(),
                Commits(),
                NoRanges(),
                "here",
                lambda: timeline.now,
                lambda: NOW_US,
                None,
            ),
            broker,
        )
