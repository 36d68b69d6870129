"""W3C trace context from events to what they lead to: an output carries that of the event it names as its cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from dataflows.keep_balances import BalanceContext, BalanceStats, Changes, KeepBalances
from dataflows.tracing import LINKS_MAX, TracedBatch
from schemas.topics import KEYED_INPUTS, NETWORK_AVAILABILITY, STOCK_ITEMS
from sinks.outlet import Outlet, OutletStats
from sinks.publisher import Publisher
from sinks.traces import TRACES_MAX, Traces
from sources.arrivals import Batch, CaughtUp, Opened
from sources.restore import Restored
from stock.events import ItemSet, StockFact
from stock.ledger import TOPIC_COUNT
from stock.policies import Policies
from tests.oracle import topic_of
from tests.simulation.kafka import Broker
from tests.sinks.fake_wire import FakeWire, Stream
from tests.stock.facts import at, fact, us

Header = tuple[str, Any]


def parent(number: int, sampled: bool = True) -> bytes:
    """The `traceparent` of a trace that is known by its number."""
    return f"00-{number:032x}-{number:016x}-{sampled:02d}".encode()


class Watcher:
    """Notes what it is told of batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, TracedBatch, int]] = []

    def processed(self, partition: int, batch: TracedBatch, ended_us: int) -> None:
        self.batches.append((partition, batch, ended_us))


class Line:
    """The step and the outlet of one partition, over a wire without a Kafka."""

    def __init__(self, with_headers: bool = False, traced: bool = True, watcher: Watcher | None = None) -> None:
        self.now = 0.0
        self.wire = FakeWire()
        topics = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
        context = BalanceContext(
            Policies(), topics, 1, 1_000, BalanceStats(), lambda: us(self.now), _raise, traced, tracing=watcher
        )
        self._step = KeepBalances(context)
        restored = Restored(0, 7, generation=1)
        [change], _ = self._step.on_batch([Opened(restored, context.new_ledger(restored)[0], (0,) * TOPIC_COUNT)])
        assert change.opened is not None
        self.outlet = Outlet(
            wire=self.wire,
            partition=0,
            epoch=7,
            generation=1,
            ledger=change.opened[1],
            next_offsets=(0, 0, 0),
            shown=set(),
            tail_starts=(0, 0),
            known_letters=set(),
            on_published=lambda *_: None,
            routine_interval_s=0.25,
            stats=OutletStats(),
            with_headers=with_headers,
        )
        self._step.on_batch([CaughtUp(7)])
        self.outlet.caught_up()
        self._offsets = dict.fromkeys(topics, 0)

    def tell(self, *told: tuple[StockFact | ItemSet, Sequence[Header]]) -> Changes:
        """Take in one batch of events with their headers, and publish."""
        [change], _ = self._step.on_batch([Batch(7, [self._message(event, headers) for event, headers in told])])
        self.outlet.traces.remember(change.traces)
        if change.letters:
            self.outlet.refuse(change.letters, us(self.now))
        self.serve()
        return change

    def serve(self, until: float | None = None) -> None:
        """Publish what changed and what is due, cut, and let all of it land."""
        self.now = self.now if until is None else until
        while self.outlet.sweep():
            continue
        self.outlet.publish(self.now, us(self.now))
        self.outlet.publish_due(self.now, us(self.now))
        for log in self.wire.logs.values():
            log.land()
        if self.outlet.cut_due(self.now, 0.0):
            self.outlet.cut(self.now)
        for _ in range(3):
            for log in self.wire.logs.values():
                log.land()
            self.outlet.cut_ready()

    def headers(self, stream: Stream) -> list[tuple[str, list[Header]]]:
        """Keys and headers of an output so far."""
        return [((key or b"").decode(), headers) for key, _, headers in self.wire.logs[stream].records]

    def _message(self, event: StockFact | ItemSet, headers: Sequence[Header]) -> Message:
        topic = STOCK_ITEMS.name if isinstance(event, ItemSet) else topic_of(event).name
        offset, self._offsets[topic] = self._offsets[topic], self._offsets[topic] + 1
        where = {"topic": topic, "partition": 0, "offset": offset}
        stamp = (TIMESTAMP_CREATE_TIME, us(self.now) // 1_000)
        value = msgspec.json.encode(event)
        return Message(**where, key=event.sku.encode(), value=value, timestamp=stamp, headers=list(headers))


def _raise(error: BaseException) -> NoReturn:
    raise error


def traced(number: int) -> list[Header]:
    return [("traceparent", parent(number))]


def test_context_goes_on_with_the_records_that_name_its_event_as_their_cause() -> None:
    """To the location and the network, as it came, with its state; records of other events go without."""
    line = Line()
    mine = [("other", b"x"), ("traceparent", parent(1)), ("tracestate", b"shop=1")]
    line.tell((fact("wms.receipt", 0, 5), mine), (fact("wms.receipt", 0, 5, sku="SKU-2"), []))
    assert line.headers("availability") == [("SKU|A", mine[1:]), ("SKU-2|A", [])]
    assert line.headers("network") == [("SKU|*", mine[1:]), ("SKU-2|*", [])]
    assert all(headers == [] for _, headers in line.headers("state"))


def test_context_follows_a_transfer_to_both_of_its_ends() -> None:
    """One event, two balances."""
    line = Line()
    line.tell((fact("wms.receipt", 0, 9), []), (fact("wms.receipt", 0, 9, location="B"), []))
    line.serve(1)
    line.tell((fact("transfer.shipped", 1, 4, to_location="B", eta=at(99)), traced(2)))
    assert sorted(line.headers("availability")[2:]) == [("SKU|A", traced(2)), ("SKU|B", traced(2))]


def test_context_waits_with_a_record_of_the_routine_lane() -> None:
    """The record at the end of the interval has that of its newest event."""
    line = Line()
    line.tell((fact("wms.receipt", 0, 9), traced(1)))
    line.serve(1)
    line.tell((fact("pos.sale", 1, 1), traced(2)))
    line.serve(1.1)
    line.tell((fact("pos.sale", 1, 1), traced(3)))
    line.tell((fact("pos.sale", 1, 1), traced(4)))
    line.serve(1.3)
    assert [headers for _, headers in line.headers("availability")] == [traced(1), traced(2), traced(4)]


def test_context_of_an_event_without_effect_is_lent_to_no_other() -> None:
    """A repeat leads to no record, and the next one of the key is somebody else's."""
    line = Line()
    receipt = fact("wms.receipt", 0, 9)
    line.tell((receipt, []))
    line.serve(1)
    line.tell((receipt, traced(1)))
    line.serve(2)
    line.tell((fact("pos.sale", 2, 1), []))
    assert [headers for _, headers in line.headers("availability")] == [[], []]


def test_context_of_a_request_goes_on_with_its_answer_and_its_hold() -> None:
    """A request that is rejected leads to an answer alone."""
    line = Line()
    line.tell((fact("wms.receipt", 0, 5), []))
    line.serve(1)
    line.tell((fact("reservation.requested", 1, 9, reservation="many"), traced(1)))
    line.tell((fact("reservation.requested", 1, 2, reservation="few", location="*"), traced(2)))
    line.tell((fact("reservation.requested", 1, 1, reservation="quiet"), []))
    line.serve(2)
    assert line.headers("verdicts") == [("many", traced(1)), ("few", traced(2)), ("quiet", [])]
    assert [headers for _, headers in line.headers("availability")][:2] == [[], traced(2)]


def test_context_of_an_item_goes_on_with_all_records_of_its_sku() -> None:
    """Also with the null that delists."""
    line = Line()
    line.tell((fact("wms.receipt", 0, 5), []), (fact("wms.receipt", 0, 5, location="B"), []))
    line.serve(1)
    item = ItemSet(id="i", source="pim", occurred_at=at(1), sku="SKU", brand="b", category="c", lifecycle="delisted")
    line.tell((item, traced(1)))
    line.serve(2)
    assert line.headers("availability")[2:] == [("SKU|A", traced(1)), ("SKU|B", traced(1))]
    assert [value for _, value, _ in line.wire.logs["availability"].records][2:] == [None, None]


def test_dead_letter_keeps_the_context_among_its_headers() -> None:
    """As everything else that the record brought."""
    line = Line()
    line.tell((fact("wms.receipt", 0, 5, location="no|name"), traced(1)))
    [(_, headers)] = line.headers("letters")
    assert headers[:1] == traced(1)


def test_context_stands_behind_the_headers_of_cloudevents() -> None:
    """Each availability record has those, the traced one its context too."""
    line = Line(with_headers=True)
    line.tell((fact("wms.receipt", 0, 5), traced(1)), (fact("wms.receipt", 0, 5, sku="SKU-2"), []))
    [(_, first), (_, second)] = line.headers("availability")
    assert [name for name, _ in first] == [*(name for name, _ in second), "traceparent"]
    assert [headers for _, headers in line.headers("network")] == [traced(1), []]


def test_no_context_goes_on_where_nobody_wants_it() -> None:
    """A batch may still be followed."""
    watcher = Watcher()
    line = Line(traced=False, watcher=watcher)
    change = line.tell((fact("wms.receipt", 0, 5), traced(1)))
    assert line.headers("availability") == [("SKU|A", [])]
    assert change.traced_batch is not None


@pytest.mark.parametrize("with_headers", [(), (0,), (4,), (1, 2), (0, 2, 4), (0, 1, 2, 3, 4)])
def test_records_with_headers_keep_their_place_among_the_others(
    with_headers: tuple[int, ...], publisher: tuple[Publisher, Broker]
) -> None:
    """The log is in the order of sending, whichever of them go in batches."""
    outgoing, broker = publisher
    landed: list[bytes | None] = []
    records: list[tuple[str, bytes | None]] = [(f"key-{number}", b"value") for number in range(5)]
    outgoing.network(
        0, records, lambda _, message: landed.append(message.key()), {at: traced(1) for at in with_headers}
    )
    broker.timeline.advance(1.0)
    outgoing.serve(cuts_allowed=False)
    found = [(record.key, list(record.headers)) for record in broker.logs[NETWORK_AVAILABILITY.name, 0].records]
    assert found == [(key.encode(), traced(1) if at in with_headers else []) for at, (key, _) in enumerate(records)]
    assert landed == [key for key, _ in found]


def test_memory_of_contexts_is_bounded() -> None:
    """The newest are there, old ones are forgotten whether they were used or not."""
    traces = Traces()
    assert not traces
    for number in range(3 * TRACES_MAX):
        traces.remember({("till", str(number)): [("traceparent", parent(number + 1))]})
    assert traces
    kept = [number for number in range(3 * TRACES_MAX) if traces.of_event("till", str(number))]
    assert TRACES_MAX <= len(kept) <= 2 * TRACES_MAX
    assert kept[-1] == 3 * TRACES_MAX - 1
    assert traces.of(("pos.sale", "14999", "till", 0)) == [("traceparent", parent(15_000))]
    assert traces.of(None) == traces.of(("pos.sale", "0", "till", 0)) == []


@pytest.mark.parametrize(
    ("text", "headers", "followed"),
    [
        ("no header", [], False),
        ("recorded", traced(1), True),
        ("not recorded by whoever began it", [("traceparent", parent(1, sampled=False))], False),
        ("malformed", [("traceparent", b"1")], False),
    ],
)
def test_batch_is_told_of_only_if_somebody_follows_an_event(text: str, headers: list[Header], followed: bool) -> None:
    """Others would fill a collector with batches that lead nowhere."""
    change = Line(watcher=Watcher()).tell((fact("wms.receipt", 0, 5), headers))
    assert (change.traced_batch is not None) is followed, text


def test_batch_says_what_was_in_it() -> None:
    """Its size, what was refused, where the followed events came from, and the first of their contexts."""
    line = Line(watcher=Watcher())
    line.now = 3.0
    many = [(fact("pos.sale", 0, 1), traced(number)) for number in range(1, LINKS_MAX + 3)]
    refused = (fact("wms.receipt", 0, 5, location="no|name"), traced(99))
    change = line.tell((fact("order.allocated", 0, 1), []), *many, refused)
    contexts = tuple(traced(number) for number in range(1, LINKS_MAX + 1))
    topics = tuple(topic_of(event).name for event in (many[0][0], refused[0]))
    assert change.traced_batch == TracedBatch(us(3), LINKS_MAX + 4, 1, topics, LINKS_MAX + 3, contexts)
