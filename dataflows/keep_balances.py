"""The stateful step: one ledger per Kafka partition takes in facts and says what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from bytewax.operators import StatefulBatchLogic
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from dataflows.tracing import LINKS_MAX, TracedBatch, Tracing
from schemas.events import ItemRemoved, Refusal, check_names, decode, decode_item
from schemas.topics import KEYED_INPUTS, STOCK_ITEMS, partition_of
from schemas.traces import Trace, is_sampled, trace_in
from sinks.latency import Latencies
from sinks.outlet import Letter
from sources.arrivals import Arrival, Batch, CaughtUp, Closed, Opened, SettingsRefused
from sources.restore import Restored
from stock.doubts import Thresholds
from stock.effects import SUPPORTED
from stock.events import ItemSet
from stock.ledger import OUTCOMES, Ledger, LimitReached
from stock.policies import Policies
from stock.times import moment
from stock.verdicts import NODE_ORDER

_SETTINGS = -1  # Position of the settings topic, which is not keyed.
_ITEMS = KEYED_INPUTS.index(STOCK_ITEMS)


@dataclass(frozen=True)
class Changes:
    """What a batch did. `opened` comes once, first; the ledger's touched keys say the rest."""

    epoch: int
    arrivals: int  # how many items of the source are behind this one
    letters: tuple[Letter, ...] = ()
    opened: tuple[Restored, Ledger] | None = None
    caught_up: bool = False
    closed: bool = False
    gone: Ledger | None = None  # of the assignment that was closed
    traces: Mapping[tuple[str, str], Trace] = field(default_factory=dict)  # of its events, by their source and id
    traced_batch: TracedBatch | None = None
    more: bool = False  # the next batch of the partition follows soon


class BalanceStats:
    """Counts of one process over all its partitions; written by the worker's thread, read by anyone."""

    def __init__(self) -> None:
        self.events = {kind: [0] * len(OUTCOMES) for kind in (*SUPPORTED, ItemSet)}  # by type and outcome
        self.refused = 0
        self.applied = Latencies()
        self.handled = 0


class NotAdmitted(Exception):
    """A fact's key can have no balance in this partition."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


@dataclass(frozen=True)
class BalanceContext:
    """What every partition's step shares. `topics`: positions of the keyed inputs by their name on the broker.
    `traced`: hand the trace context of events on to the records they cause. `node_order`: as in `Ledger`.
    `thresholds`: of alerts. `tracing`: is told of batches with events that somebody follows.

    `die` ends the process at once: an exception that Bytewax unwinds takes seconds, in which records still go out.
    """

    policies: Policies
    topics: dict[str, int]
    partitions: int
    facts_remembered: int
    stats: BalanceStats
    wall_us: Callable[[], int]
    die: Callable[[BaseException], NoReturn]
    traced: bool = False
    node_order: Sequence[str] = NODE_ORDER
    thresholds: Thresholds = field(default_factory=Thresholds)
    tracing: Tracing | None = None

    def new_ledger(self, restored: Restored) -> tuple[Ledger, Iterator[None]]:
        """An empty ledger for a restored partition, and what fills it portion by portion."""

        partition = restored.partition

        def admit(sku: str, location: str | None) -> None:
            """Keep out what cannot have a balance here; asked for new keys only: known ones were checked before."""
            refusal = check_names(sku, location)
            if refusal is not None:
                raise NotAdmitted(refusal)
            home = partition_of(sku, self.partitions)
            if home != partition:
                raise NotAdmitted(
                    Refusal(
                        "wrong_partition",
                        f"sku {sku} belongs to partition {home} of {self.partitions}, not {partition}: "
                        "the producer must use the murmur2 partitioner on the SKU",
                    )
                )

        ledger = Ledger(self.policies, self.facts_remembered, admit, self.node_order, self.thresholds)
        return ledger, ledger.restoring(restored.records, restored.rewrite, self.wall_us())


class _Followed:
    """The trace contexts found in a batch: those that go on, and those that a span is linked to."""

    def __init__(self) -> None:
        self.traces: dict[tuple[str, str], Trace] = {}
        self.sampled = 0
        self.links: list[Trace] = []
        self.topics: dict[str, None] = {}

    def note(self, topic: Any, headers: Any) -> Trace | None:
        """The context in a message's headers."""
        trace = trace_in(headers)
        if trace is not None and is_sampled(trace):
            self.sampled += 1
            self.topics[topic] = None
            if len(self.links) < LINKS_MAX:
                self.links.append(trace)
        return trace

    def batch(self, began_us: int, messages: int, refused: int) -> TracedBatch | None:
        """What a span is made of; None if nobody follows any of the events."""
        if not self.sampled:
            return None
        return TracedBatch(began_us, messages, refused, tuple(self.topics), self.sampled, tuple(self.links))


class KeepBalances(StatefulBatchLogic[Arrival, Changes, None]):
    """Bytewax's logic for one Kafka partition; it discards itself when the partition is lost."""

    def __init__(self, context: BalanceContext) -> None:
        self._context = context
        self._ledger: Ledger | None = None
        self._epoch = 0
        self._caught_up = False

    def on_batch(self, values: list[Arrival]) -> tuple[Iterable[Changes], bool]:
        """Take in arrivals in order; one `Changes` comes out for each that belongs to the present assignment."""
        try:
            changes = [self._take(arrival) for arrival in values]
        except BaseException as error:  # noqa: BLE001 - whatever it is, the state may be half changed
            self._context.die(error)
        lost = isinstance(values[-1], Closed) and self._ledger is None
        return changes, lost

    def on_notify(self) -> tuple[Iterable[Changes], bool]:
        """A hold ends."""
        if self._ledger is None or not self._caught_up:
            return (), False
        try:
            self._ledger.advance(self._context.wall_us())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the state may be half changed
            self._context.die(error)
        return (Changes(self._epoch, 0),), False

    def notify_at(self) -> datetime | None:
        """When the next hold ends; while catching up a renewal may still arrive, so nothing does."""
        if self._ledger is None or not self._caught_up:
            return None
        return moment(self._ledger.next_timer_us())

    def snapshot(self) -> None:
        """Nothing: Bytewax recovery is not used."""

    def _take(self, arrival: Arrival) -> Changes:
        if isinstance(arrival, Opened):
            return self._open(arrival)
        if isinstance(arrival, Closed):
            gone = None
            if arrival.epoch == self._epoch:
                gone, self._ledger = self._ledger, None
            return Changes(arrival.epoch, 1, closed=True, gone=gone)
        if arrival.epoch != self._epoch or self._ledger is None:
            return Changes(arrival.epoch, 1)
        if isinstance(arrival, Batch):
            return self._apply(self._ledger, arrival.messages, arrival.more)
        if isinstance(arrival, SettingsRefused):
            return Changes(self._epoch, 1, tuple(Letter(r.message, r.refusal, _SETTINGS) for r in arrival.refused))
        assert isinstance(arrival, CaughtUp)
        self._caught_up = True
        self._ledger.catching_up = False
        self._ledger.advance(self._context.wall_us())
        return Changes(self._epoch, 1, caught_up=True)

    def _open(self, opened: Opened) -> Changes:
        restored, self._ledger = opened.restored, opened.ledger
        for topic, start in enumerate(opened.starts):
            self._ledger.passed(topic, start)
        self._ledger.catching_up = True
        self._epoch, self._caught_up = restored.epoch, False
        return Changes(restored.epoch, 1, opened=(restored, self._ledger))

    def _apply(self, ledger: Ledger, messages: list[Message], more: bool) -> Changes:
        context = self._context
        follows, followed = context.traced or context.tracing is not None, _Followed()
        topics, stats = context.topics, context.stats
        events = stats.events
        now_us = context.wall_us()
        letters: list[Letter] = []
        applied: dict[int, int] = {}  # facts by the timestamp of their record: many share one
        for message in messages:
            topic: int = topics[message.topic()]  # type: ignore[index]
            offset: int = message.offset()  # type: ignore[assignment]
            if message.error() is not None:
                ledger.passed(topic, offset)
                continue
            kind, timestamp_ms = message.timestamp()
            # Other clients write -1 for "none" and still call it a time of creation.
            timestamp_us = now_us if kind == TIMESTAMP_NOT_AVAILABLE or timestamp_ms < 0 else timestamp_ms * 1000
            event: Any
            trace = None
            if follows:
                try:
                    headers = message.headers()
                except UnicodeDecodeError:  # Kafka itself takes any bytes as a name.
                    headers = None
                if headers:
                    trace = followed.note(message.topic(), headers)
            if topic == _ITEMS:
                event = self._apply_item(ledger, message, offset, timestamp_us)
                if event.__class__ is not Refusal:
                    if trace is not None and event.__class__ is ItemSet:
                        followed.traces[event.source, event.id] = trace
                    continue
            else:
                event = decode(topic, message.value(), timestamp_us)
            if event.__class__ is not Refusal:
                try:
                    outcome = ledger.apply(
                        event, topic, offset, timestamp_us if timestamp_us < now_us else now_us, timestamp_us
                    )
                except NotAdmitted as reason:
                    event = reason.refusal
                except LimitReached as reason:
                    event = Refusal("limit", str(reason))
                else:
                    if trace is not None:
                        followed.traces[event.source, event.id] = trace
                    if outcome is not None:
                        events[event.__class__][outcome] += 1
                        applied[timestamp_us] = applied.get(timestamp_us, 0) + 1
                    continue
            if ledger.refuse(topic, offset):
                stats.refused += 1
            letters.append(Letter(message, event, topic))
        for timestamp_us, facts in applied.items():
            stats.applied.observe((now_us - timestamp_us) / 1e6, facts)
        if self._caught_up:
            ledger.advance(context.wall_us())
        traces = followed.traces if context.traced else {}
        batch = followed.batch(now_us, len(messages), len(letters))
        return Changes(self._epoch, 1, tuple(letters), traces=traces, traced_batch=batch, more=more)

    def _apply_item(
        self, ledger: Ledger, message: Message, offset: int, timestamp_us: int
    ) -> ItemSet | ItemRemoved | Refusal:
        """Let one record of the items topic hold, and give it back, or say why it is refused."""
        event = decode_item(message.key(), message.value(), timestamp_us)
        if isinstance(event, Refusal):
            return event
        try:
            outcome = ledger.apply_item(event.sku, None if isinstance(event, ItemRemoved) else event, offset)
        except NotAdmitted as reason:
            return reason.refusal
        if outcome is not None:
            self._context.stats.events[ItemSet][outcome] += 1
        return event
