"""The one sink: composes availability, dead letters, state records and the Redis view, and decides what is committed.

Kafka is asked through three idempotent producers, each with a connection of its own: a broker answers the requests of
one connection after another, so neither a flush of state nor the networks may stand in front of availability. The
first failed delivery ends the process: librdkafka goes on with later messages after one has timed out, so from there
on only a restart knows what is in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.dead_letters import Header
from schemas.state import CLAIM_KEY, Claim, UnknownFormat, decode_claim, encode_claim
from schemas.topics import DEAD_LETTER_BYTES_MAX
from schemas.traces import Trace
from sinks.latency import LaneLatencies
from sinks.network_lane import Tail
from sinks.outlet import Letter, Outlet, OutletStats, nowhere
from sinks.streams import Delivered
from stock.balance import Cause
from stock.ledger import Ledger

# Of networks and state, for which nobody waits by the millisecond: less than half of the requests where much happens.
LINGER_LONGER_MS = 5.0
IN_FLIGHT_MAX = 200_000  # Records sent and not acknowledged; beyond this no input is read. About 150 MB.
# Of a turn so much may go into looking at keys again after rules changed, and so many portions of keys. What a portion
# has to say goes before the events that follow, so the next one comes after a pause, a longer one while more than so
# many records wait for their acknowledgement. It comes under any load: rules must reach every key.
SWEEP_S = 0.002
SWEEP_PORTIONS = 20
SWEEP_PAUSE_S = 0.01
SWEEP_LONG_PAUSE_S = 0.02
SWEEP_IN_FLIGHT_MAX = 10
# How often partitions are asked what has become due. What facts change is sent with them, and acknowledgements are
# looked at in each turn, of which there are thousands a second.
DUE_INTERVAL_S = 0.002
CUT_S = 0.002  # Of a turn may go into beginning cuts, and each in itself takes about as long where much has changed.
CHECK_INTERVAL_S = 1.0  # How often the ends of our own outputs are compared with what was acknowledged.
CHECK_TIMEOUT_S = 10.0


class DeliveryFailed(Exception):
    """A record could not be delivered; what is in the log is unknown until a restart reads it."""


class NewerClaim(Exception):
    """Another process owns the partition now; nothing may be produced any more."""


class View(Protocol):
    """The Redis view as the publisher sees it."""

    def own(self, partition: int, generation: int) -> None:
        """A partition was taken over."""

    def disown(self, partition: int) -> None:
        """A partition was lost."""

    def delivered(self, partition: int, key: str, value: bytes | None, offset: int, mark: int) -> None:
        """A record was acknowledged on the availability topic."""


class CommitRequests(Protocol):
    """The commit protocol's other half, on the consumer's side."""

    def request(self, partition: int, positions: tuple[int, ...], metadata: str) -> None:
        """Commit these positions."""


class RangeReader(Protocol):
    """Reads a stretch of one partition of an output topic."""

    def read_range(self, topic: str, partition: int, first: int, end: int) -> list[tuple[bytes | None, bytes | None]]:
        """Key and value of every record from `first` up to, not including, `end`."""


class Takeover(Protocol):
    """What a restore found out (`sources.restore.Restored`)."""

    partition: int
    epoch: int
    generation: int
    shown: set[str]
    tail_starts: tuple[int, int]
    letters: set[tuple[str, int, int]]
    state_next: int
    availability_next: int
    dead_letters_next: int
    network_next: int
    network_start: int
    network_shown: set[str]


@dataclass(frozen=True)
class OutputTopics:
    """Names on the broker of the topics this program writes."""

    availability: str
    dead_letters: str
    state: str
    verdicts: str
    network: str
    alerts: str

    def in_order(self) -> tuple[str, str, str, str]:
        """As the streams of an outlet."""
        return self.state, self.availability, self.dead_letters, self.network


@dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds."""

    routine_interval_s: float
    commit_interval_s: float
    delivery_timeout_s: float
    linger_s: float


class Publisher:
    """Serves every outlet of this process. All calls come from the worker's thread and none blocks.

    Args:
        client_config: librdkafka properties of every client.
        view, network_view: the Redis views of availability and of network records.
        commits: where finished cuts go.
        reader: re-reads a stretch where somebody else wrote.
        writer: this process, unique per start.
        clock, wall_us: monotonic seconds, and microseconds since 1970.
        with_headers: give every availability record CloudEvents headers.

    Every method may raise DeliveryFailed or NewerClaim: the process must then end at once without producing more.
    """

    def __init__(
        self,
        client_config: Mapping[str, str],
        topics: OutputTopics,
        pace: Pace,
        view: View,
        network_view: View,
        commits: CommitRequests,
        reader: RangeReader,
        writer: str,
        clock: Callable[[], float],
        wall_us: Callable[[], int],
        log: Any,
        with_headers: bool = False,
    ) -> None:
        self._with_headers = with_headers
        self.outlets: dict[int, Outlet] = {}
        self.stats = OutletStats()
        self.acknowledged = LaneLatencies()
        self._topics, self._pace = topics, pace
        self._view, self._network_view = view, network_view
        self._commits, self._reader, self._writer = commits, reader, writer
        self._clock, self._wall_us, self._log = clock, wall_us, log
        self._failure: Exception | None = None
        self._acknowledged_us = 0  # when the poll began that brings acknowledgements: one reading for all of them
        config = {
            **client_config,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(pace.delivery_timeout_s * 1000),
            "message.max.bytes": 4 * DEAD_LETTER_BYTES_MAX,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
        }
        longer = {**config, "linger.ms": max(LINGER_LONGER_MS, pace.linger_s * 1000)}
        self._outputs = Producer({**config, "linger.ms": pace.linger_s * 1000})
        self._networks, self._states = Producer(longer), Producer(longer)
        self._producers = self._outputs, self._networks, self._states
        self._client_config: dict[str, Any] = dict(client_config)
        self._admin = AdminClient(self._client_config)
        self._checked_at = 0.0
        self._due_at = float("-inf")
        self._swept = -1  # the partition of which keys were looked at last
        self._said_at = float("-inf")  # when such keys had something to say
        self._check: tuple[dict[TopicPartition, Future[Any]], dict[tuple[str, int], int]] | None = None

    # What the flow calls

    def open(self, restored: Takeover, ledger: Ledger) -> None:
        """Begin to publish for a partition that was restored."""
        partition = restored.partition
        outlet = Outlet(
            self,
            partition,
            restored.epoch,
            restored.generation,
            ledger,
            (restored.state_next, restored.availability_next, restored.dead_letters_next),
            restored.shown,
            restored.tail_starts,
            restored.letters,
            self._published,
            self._pace.routine_interval_s,
            self.stats,
            self._with_headers,
            Tail(restored.network_next, restored.network_start, restored.network_shown),
            self._network_published,
        )
        self.outlets[partition] = outlet
        self._view.own(partition, restored.generation)
        self._network_view.own(partition, restored.generation)

    def publish(
        self,
        partition: int,
        epoch: int,
        letters: Sequence[Letter],
        traces: Mapping[tuple[str, str], Trace],
        more: bool = False,
    ) -> None:
        """Send what a batch of facts changed; a batch of another assignment is dropped.

        Args:
            partition: the Kafka partition.
            epoch: the assignment.
            letters: what was refused.
            traces: contexts of the facts, by their source and id.
            more: the next batch follows soon: what this one changed may be sent with it.
        """
        outlet = self.outlets.get(partition)
        if outlet is None or outlet.epoch != epoch:
            return
        now_us = self._wall_us()
        if traces:
            outlet.traces.remember(traces)
        if letters:
            outlet.refuse(letters, now_us)
        outlet.publish(self._clock(), now_us, more)

    def caught_up(self, partition: int, epoch: int) -> None:
        """A partition has read everything that was there at its assignment."""
        outlet = self.outlets.get(partition)
        if outlet is not None and outlet.epoch == epoch:
            outlet.caught_up()

    def rules_changed(self, sku: str | None, location: str | None, cause: Cause | None) -> None:
        """Look again at every key that a change of the rules may concern."""
        for outlet in self.outlets.values():
            outlet.look_again(sku, location, cause)

    def lose(self, partition: int, epoch: int | None = None) -> None:
        """Forget a partition: whatever is still under way for it has no say any more.

        Args:
            partition: the Kafka partition.
            epoch: only if its outlet belongs to this assignment; None for any.
        """
        outlet = self.outlets.get(partition)
        if outlet is not None and epoch in (None, outlet.epoch):
            del self.outlets[partition]
            outlet.close()
            self._view.disown(partition)
            self._network_view.disown(partition)

    # What the source calls

    def serve(self, cuts_allowed: bool) -> None:
        """One turn: acknowledgements, lanes, rules, cuts, and the watch for foreign writes.

        Args:
            cuts_allowed: no batch is between source and sink, so that positions and publications agree.
        """
        now = self._clock()
        now_us = self._acknowledged_us = self._wall_us()
        for producer in self._producers:
            producer.poll(0)
        self._raise_failure()
        for outlet in self.outlets.values():
            if outlet.has_gap:
                self._repair(outlet)
            self._hand_over(outlet)
        if now - self._due_at >= DUE_INTERVAL_S:
            self._due_at = now
            self._serve_due(now, now_us, cuts_allowed)
        if now - self._checked_at >= CHECK_INTERVAL_S and self.outlets:
            self._checked_at = now
            self._ask_ends()
        elif self._check is not None:
            self._compare_ends()

    def _serve_due(self, now: float, now_us: int, cuts_allowed: bool) -> None:
        for outlet in self.outlets.values():
            if not outlet.gathers and (outlet.ledger.touched or outlet.ledger.items_changed or outlet.network.due(now)):
                outlet.publish(now, now_us)
            outlet.publish_due(now, now_us)
        if cuts_allowed:
            self._cut(now)
        if any(outlet.sweeping for outlet in self.outlets.values()):
            self._sweep(now, now_us)

    def _cut(self, now: float) -> None:
        """Cut what is due, longest ago first; what takes long is left to the next turns, unless answers wait for it."""
        due = [outlet for outlet in self.outlets.values() if outlet.cut_due(now, self._pace.commit_interval_s)]
        until = self._clock() + CUT_S
        for number, outlet in enumerate(sorted(due, key=lambda outlet: outlet.cut_at)):
            if not number or outlet.ledger.answers or self._clock() < until:
                outlet.cut(now)

    def _sweep(self, now: float, now_us: int) -> None:
        """Look at some more keys after rules changed, partition by partition, for as long as events hardly notice."""
        if now < self._said_at + (SWEEP_PAUSE_S if self._is_calm else SWEEP_LONG_PAUSE_S):
            return
        until = now + SWEEP_S
        for partition in sorted(self.outlets, key=lambda at: (at <= self._swept, at)):
            outlet, portions = self.outlets[partition], 0
            before = outlet.sent
            while self.has_room and portions < SWEEP_PORTIONS and outlet.sweep():
                outlet.publish(now, now_us)
                portions += 1
                if self._clock() >= until or outlet.sent != before:
                    break
            if portions:
                self._swept = partition
                if outlet.sent != before:
                    self._said_at = now
                return

    @property
    def has_room(self) -> bool:
        """Whether more input may be read."""
        return sum(map(len, self._producers)) < IN_FLIGHT_MAX

    @property
    def _is_calm(self) -> bool:
        return len(self._outputs) + len(self._networks) < SWEEP_IN_FLIGHT_MAX

    @property
    def waiting(self) -> bool:
        """Whether acknowledgements are expected soon."""
        return any(map(len, self._producers))

    def claim(self, partition: int, generation: int, partitions: int | None = None) -> None:
        """Append a claim for one of so many partitions, which is being taken over."""
        value = encode_claim(Claim(generation, self._writer, partitions))
        self._produce(self._states, self._topics.state, partition, [(CLAIM_KEY, value)], self._claimed)

    def finish(self, partitions: Sequence[int], timeout_s: float) -> None:
        """Bring partitions to a committed end as far as the time allows: publish, cut, wait for acknowledgements."""
        deadline = self._clock() + timeout_s
        outlets = [self.outlets[p] for p in partitions if p in self.outlets]
        now, now_us = self._clock(), self._wall_us()
        for outlet in outlets:
            outlet.publish(now, now_us)
            outlet.release_waiting(now, now_us)
        pending, last_cut = set(outlets), set[Outlet]()
        while pending and self._clock() < deadline:
            for outlet in list(pending):
                if outlet.has_gap:
                    self._repair(outlet)
                    outlet.publish(self._clock(), self._wall_us())
                elif outlet.cutting:
                    self._hand_over(outlet)
                elif outlet.has_more_to_tell:
                    outlet.publish(self._clock(), self._wall_us())
                    outlet.release_waiting(self._clock(), self._wall_us())
                    if outlet.idle and outlet.cut_due(float("inf"), 0.0):
                        outlet.cut(self._clock(), complete=True)
                        last_cut.add(outlet)
                elif outlet in last_cut or not outlet.cut_due(float("inf"), 0.0):
                    pending.discard(outlet)
                elif outlet.idle:
                    outlet.cut(self._clock(), complete=True)
                    last_cut.add(outlet)
            self._acknowledged_us = self._wall_us()
            self._outputs.poll(0.002)
            self._networks.poll(0)
            self._states.poll(0)
            self._raise_failure()

    def close(self) -> None:
        """Let go of what can be delivered within a moment."""
        for producer in self._producers:
            producer.flush(1.0)

    # What outlets call (Wire)

    def availability(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append availability records of one partition, in order, None delists."""
        self._produce_with(headers, self._outputs, self._topics.availability, partition, records, done)

    def network(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append network records of one partition, in order; None delists."""
        self._produce_with(headers, self._networks, self._topics.network, partition, records, done)

    def alert(self, partition: int, sku: str, value: bytes, done: Delivered) -> None:
        """Append one alert."""
        self._produce(self._outputs, self._topics.alerts, partition, [(sku, value)], done)

    def state(self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered) -> None:
        """Append state records of one partition, in order; None deletes."""
        self._produce(self._states, self._topics.state, partition, records, done)

    def verdicts(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append answers to requests of one partition, in order."""
        self._produce_with(headers, self._outputs, self._topics.verdicts, partition, records, done)

    def dead_letter(
        self, partition: int, key: bytes | None, value: bytes | None, headers: list[Header], done: Delivered
    ) -> None:
        """Append one dead letter."""
        self._produce_one(self._outputs, self._topics.dead_letters, partition, key, value, headers, done)

    def failed(self, error: KafkaError, message: Message) -> None:
        """Note the first failed delivery; the next turn ends the process."""
        if self._failure is None:
            self._failure = DeliveryFailed(f"{message.topic()} partition {message.partition()}: {error}")

    # Inside

    def _produce_with(
        self,
        headers: Mapping[int, list[Header]],
        producer: Producer,
        topic: str,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
    ) -> None:
        """Append records in order. Batches cannot carry headers: those that have any go one by one between them."""
        sent = 0
        for at, its_headers in headers.items():
            if at > sent:
                self._produce(producer, topic, partition, records[sent:at], done)
            key, value = records[at]
            self._produce_one(producer, topic, partition, key, value, its_headers, done)
            sent = at + 1
        if sent < len(records):
            self._produce(producer, topic, partition, records[sent:] if sent else records, done)

    def _produce_one(
        self,
        producer: Producer,
        topic: str,
        partition: int,
        key: bytes | str | None,
        value: bytes | None,
        headers: list[Header],
        done: Delivered,
    ) -> None:
        try:
            producer.produce(topic, value=value, key=key, partition=partition, headers=headers, on_delivery=done)
        except (BufferError, KafkaException) as error:
            raise DeliveryFailed(f"cannot append to {topic}: {error}") from error

    def _produce(
        self,
        producer: Producer,
        topic: str,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
    ) -> None:
        try:
            if len(records) == 1:
                key, value = records[0]
                producer.produce(topic, value=value, key=key, partition=partition, on_delivery=done)
                return
            messages = [{"key": key, "value": value} for key, value in records]
            queued = producer.produce_batch(topic, messages, partition=partition, on_delivery=done)
        except (BufferError, KafkaException) as error:
            raise DeliveryFailed(f"cannot append to {topic}: {error}") from error
        if queued != len(records):
            refused = next((m["_error"] for m in messages if "_error" in m), "queue full")
            raise DeliveryFailed(f"cannot append to {topic}: {refused!r}")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _claimed(self, error: KafkaError | None, message: Message) -> None:
        """The restore reads the claim itself, which must be in the log: it would wait for it for ever."""
        if error is not None or message.offset() is None:
            self.failed(error or nowhere(), message)

    def _published(self, partition: int, key: str, value: bytes | None, offset: int, mark: int) -> None:
        self.acknowledged.observe(mark, self._acknowledged_us)
        self._view.delivered(partition, key, value, offset, mark)

    def _network_published(self, partition: int, key: str, value: bytes | None, offset: int) -> None:
        self._network_view.delivered(partition, key, value, offset, 0)

    def _hand_over(self, outlet: Outlet) -> None:
        ready = outlet.cut_ready()
        if ready is not None:
            self._commits.request(outlet.partition, *ready)

    # Foreign writes

    def _ask_ends(self) -> None:
        """Ask for the ends of the outputs of all partitions with nothing in flight."""
        sent: dict[tuple[str, int], int] = {}
        for outlet in self.outlets.values():
            for topic, stream in self._streams(outlet):
                if stream.idle and stream.gap_from is None:
                    sent[topic, outlet.partition] = stream.sent
        if sent:
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            wanted = {TopicPartition(topic, partition): latest for topic, partition in sent}
            self._check = (self._admin.list_offsets(wanted, request_timeout=CHECK_TIMEOUT_S), sent)

    def _compare_ends(self) -> None:
        assert self._check is not None
        futures, sent = self._check
        if not all(future.done() for future in futures.values()):
            return
        self._check = None
        unknown = [future.exception() for future in futures.values() if future.exception() is not None]
        if unknown:
            # After a broker's restart this client may hold on to leaders that are gone: a new one asks anew.
            self._log.warning("output_ends_unknown", partitions=len(unknown), error=str(unknown[0]))
            self._admin = AdminClient(self._client_config)
        for where, future in futures.items():
            if future.exception() is not None:
                continue
            outlet = self.outlets.get(where.partition)
            if outlet is None:
                continue
            for topic, stream in self._streams(outlet):
                unchanged = stream.idle and stream.sent == sent.get((topic, where.partition))
                if topic == where.topic and unchanged and future.result().offset > stream.next_offset:
                    stream.suspect()
                    stream.next_offset = future.result().offset

    def _streams(self, outlet: Outlet) -> list[tuple[str, Any]]:
        return list(zip(self._topics.in_order(), outlet.streams, strict=True))

    def _repair(self, outlet: Outlet) -> None:
        """Where somebody else wrote: read it, and let our newer truth follow.

        Raises:
            NewerClaim: it was a new owner.
        """
        for topic, stream in self._streams(outlet):
            first, end = stream.gap_from, stream.next_offset
            if first is None:
                continue
            self.stats.foreign_writes += 1
            self._log.warning("foreign_write", topic=topic, partition=outlet.partition, first=first, end=end)
            if topic != self._topics.dead_letters:
                records = self._reader.read_range(topic, outlet.partition, first, end)
                keys = [(key or b"").decode(errors="replace") for key, _ in records]
                if topic == self._topics.availability:
                    outlet.show_again(keys)
                elif topic == self._topics.network:
                    outlet.network.show_again(keys)
                else:
                    self._refuse_newer_claim(outlet, records)
                    for key in keys:
                        outlet.ledger.rewrite(key)
            stream.gap_from = None

    def _refuse_newer_claim(self, outlet: Outlet, records: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        for key, value in records:
            if key == CLAIM_KEY.encode() and value is not None:
                try:
                    claim = decode_claim(value)
                except UnknownFormat as error:
                    raise NewerClaim(f"partition {outlet.partition}: {error}") from error
                if claim.generation > outlet.generation:
                    raise NewerClaim(
                        f"partition {outlet.partition} was claimed by {claim.writer} (generation {claim.generation})"
                    )
