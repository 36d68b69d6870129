"""Whatever belongs to an assignment that was lost has no effect on the next one: batches, changes, ends of replays."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from dataflows.keep_balances import BalanceContext, BalanceStats, KeepBalances
from schemas.topics import (
    AVAILABILITY,
    KEYED_INPUTS,
    POS_SALES,
)
from sinks.publisher import Publisher
from sources.arrivals import Batch, CaughtUp, Closed, Opened
from sources.restore import Restored
from stock.events import PosSale
from stock.ledger import TOPIC_COUNT, Ledger
from stock.policies import Policies
from tests.simulation.kafka import Broker
from tests.strategies import START

NOW_US = int(START.timestamp() * 1_000_000)
KEY = "SKU-1|STORE-A"


def raised(error: BaseException) -> NoReturn:
    raise error


def step(epoch: int) -> KeepBalances:
    """The step of a partition that was opened in this assignment."""
    topics = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
    context = BalanceContext(Policies(), topics, 1, 1_000, BalanceStats(), lambda: NOW_US, raised)
    logic, restored = KeepBalances(context), Restored(0, epoch, generation=1)
    logic.on_batch([Opened(restored, context.new_ledger(restored)[0], (0,) * TOPIC_COUNT)])
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
