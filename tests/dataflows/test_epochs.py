"""Whatever belongs to an assignment that was lost has no effect on the next one: batches, changes, ends of replays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from dataflows.keep_balances import BalanceContext, BalanceStats, KeepBalances
from schemas.topics import (
    AVAILABILITY,
    DEAD_LETTERS,
    KEYED_INPUTS,
    NETWORK_AVAILABILITY,
    ORDER_RESERVATIONS,
    POS_SALES,
    RESERVATION_VERDICTS,
    STOCK_ALERTS,
    STOCK_STATE,
    WMS_MOVEMENTS,
)
from sinks.publisher import OutputTopics, Pace, Publisher
from sources.arrivals import Batch, CaughtUp, Closed, Opened
from sources.restore import Restored
from stock.events import PosSale, ReservationRequested, StockFact, WmsReceipt
from stock.ledger import TOPIC_COUNT, Ledger
from stock.policies import Policies
from tests.simulation.clients import Host, Troubles
from tests.simulation.kafka import Broker, Group, Timeline
from tests.simulation.process import simulated_clients
from tests.strategies import START

NOW_US = int(START.timestamp() * 1_000_000)
KEY = "SKU-1|STORE-A"


def raised(error: BaseException) -> NoReturn:
    raise error


def step(epoch: int) -> KeepBalances:
    """The step of a partition that was opened in this assignment."""
    topics = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
    logic = KeepBalances(BalanceContext(Policies(), topics, 1, 1_000, BalanceStats(), lambda: NOW_US, raised))
    logic.on_batch([Opened(Restored(0, epoch, generation=1), (0,) * TOPIC_COUNT)])
    return logic


def sale(offset: int) -> Message:
    event = PosSale(id=f"s-{offset}", source="till", occurred_at=START, sku="SKU-1", location="STORE-A", units=2)
    stamp = (TIMESTAMP_CREATE_TIME, NOW_US // 1000)
    where = {"topic": POS_SALES.name, "partition": 0, "offset": offset}
    return Message(**where, key=b"SKU-1", value=msgspec.json.encode(event), timestamp=stamp)


@pytest.mark.parametrize(("epoch", "known"), [(7, True), (6, False), (8, False)])
def test_a_batch_of_another_assignment_is_dropped(epoch: int, known: bool) -> None:
    """Its records are read again by whoever owns them now."""
    logic = step(epoch=7)
    [change], discard = logic.on_batch([Batch(epoch, [sale(0)])])
    assert (change.epoch, change.arrivals, discard) == (epoch, 1, False)
    assert logic._ledger is not None
    assert (KEY in logic._ledger) is known


@pytest.mark.parametrize("stale", [Closed(6), CaughtUp(6)])
def test_the_end_of_another_assignment_ends_nothing(stale: Closed | CaughtUp) -> None:
    """A loss or the end of a replay concerns the assignment that it belongs to."""
    logic = step(epoch=7)
    logic.on_batch([stale])
    [change], _ = logic.on_batch([Batch(7, [sale(0)])])
    assert change.epoch == 7
    assert logic._ledger is not None
    assert KEY in logic._ledger
    assert logic.notify_at() is None


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


@pytest.mark.parametrize(("epoch", "published"), [(7, 1), (6, 0), (8, 0)])
def test_changes_of_another_assignment_are_not_published(
    epoch: int, published: int, publisher: tuple[Publisher, Broker]
) -> None:
    """What a lost assignment had to say is said by the next owner."""
    outgoing, broker = publisher
    ledger = Ledger(Policies())
    outgoing.open(Restored(0, 7, generation=1), ledger)
    event = PosSale(id="s", source="till", occurred_at=START, sku="SKU-1", location="STORE-A", units=2)
    ledger.apply(event, 0, 0, NOW_US)
    outgoing.publish(0, epoch, (), {})
    broker.timeline.advance(1.0)
    assert broker.logs[AVAILABILITY.name, 0].end == published
    outgoing.lose(0, 6)
    assert 0 in outgoing.outlets
    outgoing.lose(0, 7)
    assert outgoing.outlets == {}


def told(offset: int, topic: str, event: StockFact, trace: bytes) -> Message:
    stamp = (TIMESTAMP_CREATE_TIME, NOW_US // 1000)
    headers: list[tuple[str, str | bytes | None]] = [("traceparent", trace)]
    where = {"topic": topic, "partition": 0, "offset": offset}
    return Message(**where, key=b"SKU-1", value=msgspec.json.encode(event), timestamp=stamp, headers=headers)


@pytest.mark.parametrize(
    ("text", "asked", "units", "traced"),
    [
        ("a location is chosen", "*", 2, {KEY: b"r"}),
        ("a location is named", "STORE-A", 2, {KEY: b"r"}),
        ("nobody has so many", "*", 9, {}),
        ("nobody has so many there", "STORE-B", 9, {}),
    ],
)
def test_a_request_hands_its_trace_to_the_record_that_it_changes(
    text: str, asked: str, units: int, traced: dict[str, bytes]
) -> None:
    """Under the key where the units are held; a request that is rejected leads to no record."""
    topics = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
    logic = KeepBalances(BalanceContext(Policies(), topics, 1, 1_000, BalanceStats(), lambda: NOW_US, raised, True))
    logic.on_batch([Opened(Restored(0, 7, generation=1), (0,) * TOPIC_COUNT)])
    said: dict[str, Any] = {"source": "s", "occurred_at": START, "sku": "SKU-1"}
    receipt = WmsReceipt(id="1", location="STORE-A", units=5, **said)
    wanted = ReservationRequested(id="2", location=asked, reservation="R", units=units, mode="ship", **said)
    logic.on_batch([Batch(7, [told(0, WMS_MOVEMENTS.name, receipt, b"w")])])
    [change], _ = logic.on_batch([Batch(7, [told(0, ORDER_RESERVATIONS.name, wanted, b"r")])])
    assert change.traces == traced, text
