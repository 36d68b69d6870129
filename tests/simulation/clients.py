"""Kafka clients over the simulated broker: as much of confluent-kafka as the pipeline uses, and its bad moments.

Every call is a place where the process may die. A call that waits lets virtual time pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_CREATE_TIME,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from schemas.state import CLAIM_KEY
from tests.simulation.kafka import Broker, Header, PartitionLog, Place, Timeline

WAIT_STEP_S = 0.05
LEASE_S = 4.0
SLOW_TOPIC_S = 3.0
_EARLIEST = type(OffsetSpec.earliest())  # type: ignore[no-untyped-call]


class Crash(BaseException):
    """kill -9: nothing that the process could do or catch."""


@dataclass(frozen=True)
class Troubles:
    """How often things go wrong on the way to the broker and back; all in percent of requests."""

    slow: float = 3
    lost_answer: float = 2
    failed: float = 0.05
    nowhere: float = 0.02
    commit_failed: float = 2
    question_failed: float = 1


class Host:
    """Where one process runs: alive or not, stopped, cut off from the network, with a clock that may be wrong."""

    def __init__(self, name: str, timeline: Timeline, broker: Broker, troubles: Troubles) -> None:
        self.name, self.timeline, self.broker, self.troubles = name, timeline, broker, troubles
        self.is_alive = True
        self.is_stopped = False
        self.is_cut_off = False
        self.skew_s = 0.0
        self.crash_in: int | None = None
        self.slow_topic: str | None = None  # what it sends there takes long
        self.producers: list[SimProducer] = []
        self.turn_began = 0.0
        self.proven_at: float | None = None  # when the last commit was sent that is known to be acknowledged
        self.misdeeds: list[str] = []
        self.was_told_nowhere = False  # of a record that it was acknowledged and does not exist
        self.on_commit: Callable[[dict[Place, int]], None] = lambda _: None
        self.open_partitions: Callable[[], set[int]] = set
        self.given_up: set[int] = set()  # partitions that were open here and were taken away

    @property
    def reachable(self) -> bool:
        """Whether it and the broker hear each other."""
        return self.is_alive and not self.is_stopped and not self.is_cut_off and not self.broker.is_down

    def call(self, what: str) -> None:
        """Something is about to be asked of the outside: the moment to die, if it has come."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.timeline.tell(f"{self.name}: killed before {what}")
                self.kill()
        if not self.is_alive:
            raise Crash(what)

    def produces(self, topic: str, partition: int, key: bytes | str | None) -> None:
        """A record is handed to a producer: nobody may who has lost the partition, or the proof that it owns it."""
        if partition in self.given_up:
            self.misdeeds.append(f"{self.name} writes to {topic}/{partition}, which was taken from it")
        if self.proven_at is None or _text(key) == CLAIM_KEY or self.turn_began <= self.proven_at + LEASE_S:
            return
        age_s = self.turn_began - self.proven_at
        self.misdeeds.append(f"{self.name} writes to {topic}, {age_s:.3f} s after it sent its last acknowledged commit")

    def kill(self) -> None:
        """End at once. What is on the wire may still arrive."""
        self.is_alive = False
        self.crash_in = None
        for producer in self.producers:
            producer.die()

    def wait(self, seconds: float) -> None:
        """Block: time passes without this process doing anything."""
        self.timeline.advance(seconds)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Block until something holds; False if it did not in time."""
        deadline = self.timeline.now + timeout_s
        while not condition():
            if self.timeline.now >= deadline:
                return False
            self.wait(WAIT_STEP_S)
        return True

    def round_trip_s(self) -> float:
        """How long a request takes."""
        chance = self.timeline.chance
        if self.timeline.percent(self.troubles.slow):
            return chance.uniform(0.05, 1.0)
        return chance.uniform(0.001, 0.01)


@dataclass
class _Pending:
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    done: Callable[[KafkaError | None, Message], None]
    expires: float


class SimProducer:
    """An idempotent producer: in order per partition, retried until a timeout, acknowledged in `poll`."""

    def __init__(self, host: Host, config: Mapping[str, Any]) -> None:
        self._host = host
        self._linger_s = float(config["linger.ms"]) / 1000
        self._timeout_s = float(config["message.timeout.ms"]) / 1000
        self._queues: dict[Place, deque[_Pending]] = {}
        self._busy: set[Place] = set()
        self._ready: deque[tuple[_Pending, KafkaError | None, Message]] = deque()
        self._late = False
        host.producers.append(self)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values()) + len(self._ready)

    def produce(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | str | None,
        partition: int,
        on_delivery: Callable[[KafkaError | None, Message], None],
        headers: Iterable[Header] = (),
    ) -> None:
        self._host.call(f"produce {topic}/{partition} {_text(key)}")
        self._host.produces(topic, partition, key)
        self._enqueue(topic, partition, key, value, tuple(headers), on_delivery)

    def produce_batch(
        self,
        topic: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        partition: int,
        on_delivery: Callable[[KafkaError | None, Message], None],
    ) -> int:
        self._host.call(f"produce {len(messages)} to {topic}/{partition}")
        self._host.produces(topic, partition, None)
        for message in messages:
            self._enqueue(topic, partition, message["key"], message["value"], (), on_delivery)
        return len(messages)

    def poll(self, timeout: float) -> int:
        self._host.call("producer poll")
        if not self._ready and timeout > 0:
            self._host.wait(timeout)
        count = len(self._ready)
        for _ in range(count):
            pending, error, message = self._ready.popleft()
            pending.done(error, message)
        return count

    def flush(self, timeout: float) -> int:
        deadline = self._host.timeline.now + timeout
        while len(self) and self._host.timeline.now < deadline:
            self.poll(WAIT_STEP_S)
        return len(self)

    def die(self) -> None:
        """Some requests are on the wire already: they arrive, sooner or later, unheard."""
        timeline = self._host.timeline
        for place, queue in self._queues.items():
            if not queue or place in self._busy or timeline.percent(60):
                continue
            on_the_wire = [queue.popleft() for _ in range(timeline.chance.randint(1, len(queue)))]
            timeline.later(
                timeline.chance.choice((0.0, 0.01, 0.5, 3.0)), lambda p=place, w=on_the_wire: self._land(p, w)
            )  # type: ignore[misc]
        self._queues = {}
        self._ready.clear()

    def woken(self) -> None:
        """The process goes on after a stop: what waited may be sent before anybody looks at its age."""
        self._late = self._host.timeline.percent(70)

    def _enqueue(
        self, topic: str, partition: int, key: Any, value: bytes | None, headers: tuple[Header, ...], done: Any
    ) -> None:
        raw = key.encode() if isinstance(key, str) else key
        place = (topic, partition)
        expires = self._host.timeline.now + self._timeout_s
        self._queues.setdefault(place, deque()).append(_Pending(raw, value, headers, done, expires))
        self._pump_later(place, self._linger_s)

    def _pump_later(self, place: Place, at_least_s: float) -> None:
        if place not in self._busy:
            self._busy.add(place)
            wait_s = at_least_s + self._host.round_trip_s() + SLOW_TOPIC_S * (place[0] == self._host.slow_topic)
            self._host.timeline.later(wait_s, lambda: self._pump(place))

    def _pump(self, place: Place) -> None:
        """One request of one partition, or waiting for a way to send it."""
        host, timeline = self._host, self._host.timeline
        self._busy.discard(place)
        queue = self._queues.get(place)
        if not host.is_alive or not queue:
            return
        if host.is_stopped:
            self._pump_later(place, 0.05)
            return
        if timeline.now > queue[0].expires and not self._late:
            self._fail(place, queue.popleft())
        elif not host.reachable:
            self._pump_later(place, 0.1)
            return
        elif timeline.percent(host.troubles.failed):
            self._fail(place, queue.popleft())
        elif timeline.percent(host.troubles.nowhere):
            timeline.tell(f"{host.name}: {place[0]}/{place[1]} acknowledges a record that it does not have")
            host.was_told_nowhere = True
            self._answer([(queue.popleft(), None)], place)
        else:
            whole = timeline.percent(60)
            count = len(queue) if whole else timeline.chance.randint(1, len(queue))
            sent = [queue[i] for i in range(count)]
            offsets = self._land(place, sent)
            self._busy.add(place)
            delay_s = timeline.chance.uniform(0.3, 2.0) if timeline.percent(host.troubles.lost_answer) else 0.0
            timeline.later(delay_s + host.round_trip_s(), lambda: self._acknowledge(place, count, offsets))
            return
        if queue:
            self._pump_later(place, 0.0)

    def _land(self, place: Place, records: list[_Pending]) -> list[int]:
        return [
            self._host.broker.append(*place, one.key, one.value, one.headers, self._host.name).offset for one in records
        ]

    def _acknowledge(self, place: Place, count: int, offsets: list[int]) -> None:
        queue = self._queues.get(place)
        self._busy.discard(place)
        if not self._host.is_alive or queue is None:
            return
        if not self._host.reachable:  # the answer waits for the connection
            self._busy.add(place)
            self._host.timeline.later(0.1, lambda: self._acknowledge(place, count, offsets))
            return
        self._late = False
        self._answer([(queue.popleft(), offset) for offset in offsets], place)
        if queue:
            self._pump_later(place, 0.0)

    def _answer(self, answers: list[tuple[_Pending, int | None]], place: Place) -> None:
        topic, partition = place
        for one, offset in answers:
            where: dict[str, Any] = {} if offset is None else {"offset": offset}
            message = Message(topic=topic, partition=partition, key=one.key, value=one.value, **where)
            self._ready.append((one, None, message))

    def _fail(self, place: Place, one: _Pending) -> None:
        """A delivery that failed, as far as the client knows."""
        landed = self._host.reachable and self._host.timeline.percent(50)
        if landed:
            self._land(place, [one])
        self._host.timeline.tell(f"{self._host.name}: delivery to {place[0]}/{place[1]} failed, in the log: {landed}")
        error = KafkaError(KafkaError._MSG_TIMED_OUT)
        self._ready.append((one, error, Message(topic=place[0], partition=place[1], key=one.key, value=one.value)))


@dataclass
class _Fetch:
    position: int
    paused: bool = False
    begun: bool = False
    given_up: bool = False
    end_told: int = -1


_Answer = tuple["KafkaError | None", "list[TopicPartition]", float]  # and when the commit was sent


class SimConsumer:
    """A consumer of the group, or one that is assigned by hand."""

    def __init__(self, host: Host, config: Mapping[str, Any]) -> None:
        self.name = host.name
        self._host = host
        self._tells_ends = bool(config.get("enable.partition.eof"))
        self._reset = config["auto.offset.reset"]
        self._incremental = config.get("group.protocol") == "consumer"
        self._on_commit = config.get("on_commit")
        self._fetches: dict[Place, _Fetch] = {}
        self._answers: deque[_Answer] = deque()
        self._callbacks: tuple[Any, Any, Any] | None = None
        self._in_callback = False
        self._commits_under_way = 0
        self._owned_since = 0.0
        self._hears_at: float | None = None

    @property
    def reachable(self) -> bool:
        """Whether its heartbeats arrive; they come from a thread of their own, so also while it works."""
        return self._host.reachable

    # The group

    def subscribe(self, topics: Sequence[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._host.call("subscribe")
        self._callbacks = (on_assign, on_revoke, on_lost)
        self._host.broker.group.join(self)

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._ask("committed", timeout)
        if self._host.timeline.percent(self._host.troubles.question_failed):
            self._host.wait(timeout)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return committed_in(self._host.broker, partitions)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        self._host.call("commit " + ", ".join(f"{tp.topic}/{tp.partition}@{tp.offset}" for tp in offsets))
        asked, now = list(offsets), self._host.timeline.now
        self._host.on_commit({(tp.topic, tp.partition): tp.offset for tp in asked})
        self._commits_under_way += 1
        if asynchronous:
            self._host.timeline.later(self._host.round_trip_s(), lambda: self._arrive(asked, now, self._answers, 20))
            return None
        answers: deque[_Answer] = deque()
        self._arrive(asked, now, answers, 20)
        self._host.wait_until(lambda: bool(answers), 10.0)
        error = answers[0][0] if answers else KafkaError(KafkaError._TIMED_OUT)
        if error is not None:
            raise KafkaException(error)
        return asked

    def _arrive(self, offsets: list[TopicPartition], sent_at: float, answers: deque[_Answer], tries: int) -> None:
        """A commit reaches the coordinator, or waits for a way to it."""
        host, timeline, group = self._host, self._host.timeline, self._host.broker.group
        if not host.is_alive and timeline.percent(50):
            return
        self._commits_under_way -= 1
        error = None
        if host.is_alive and not host.reachable:
            if tries:
                self._commits_under_way += 1
                timeline.later(0.3, lambda: self._arrive(offsets, sent_at, answers, tries - 1))
                return
            error = KafkaError(KafkaError._TIMED_OUT)
        elif not group.knows(self.name):
            error = KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
        elif timeline.percent(host.troubles.commit_failed):
            error = KafkaError(KafkaError.REQUEST_TIMED_OUT)
        if error is None or (error.code() == KafkaError.REQUEST_TIMED_OUT and timeline.percent(50)):
            for tp in offsets:
                group.positions[tp.topic, tp.partition] = (tp.offset, tp.metadata or "")
            timeline.tell(f"group: {self.name} commits {_spread(offsets)}")
        answers.append((error, offsets, sent_at))

    def _serve(self) -> None:
        """Callbacks: answers to commits, and what the coordinator wants."""
        while self._answers:
            error, offsets, sent_at = self._answers.popleft()
            if error is None and sent_at > self._owned_since:
                self._host.proven_at = sent_at
            self._on_commit(error, offsets)  # type: ignore[misc]
        if self._callbacks is None or self._in_callback or not self._host.reachable:
            return
        on_assign, on_revoke, on_lost = self._callbacks
        group = self._host.broker.group
        if not group.knows(self.name):
            # It hears so with an answer to one of its heartbeats; until then it goes on reading, as brokers let it.
            if self._hears_at is None:
                self._hears_at = self._host.timeline.now + self._host.timeline.chance.choice((0.0, 0.3, 1.5, 5.0))
            if self._host.timeline.now >= self._hears_at:
                self._hears_at = None
                self._call(on_lost, list(self._fetches))
                group.join(self)
            return
        revoked = sorted(group.to_revoke(self.name))
        if revoked:
            self._call(on_revoke, revoked)
            if group.knows(self.name):
                group.owned(self.name).difference_update(revoked)
            return
        assigned = sorted(group.to_assign(self.name))
        if assigned:
            if self._incremental and self._host.timeline.percent(10):  # partitions may come topic by topic
                topic = assigned[0][0]
                assigned = [place for place in assigned if place[0] == topic]
            group.owned(self.name).update(assigned)
            self._call(on_assign, assigned)

    def _call(self, callback: Any, places: list[Place]) -> None:
        host, partitions = self._host, {partition for _, partition in places}
        was_open = host.open_partitions()
        self._in_callback = True
        callback(self, [TopicPartition(topic, partition) for topic, partition in places])
        self._in_callback = False
        held = {partition for _, partition in self._fetches}
        host.given_up = (host.given_up | (partitions & was_open)) - held
        self._owned_since, self._host.proven_at = self._host.timeline.now, None  # the next commit proves it

    # The assignment

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._host.call("assign")
        self._fetches = {}
        self.incremental_assign(partitions)

    def unassign(self) -> None:
        self._fetches = {}

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._host.call("incremental assign")
        for tp in partitions:
            self._fetches[tp.topic, tp.partition] = _Fetch(tp.offset)

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._fetches.pop((tp.topic, tp.partition), None)

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for topic, partition in self._fetches]

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._fetches[tp.topic, tp.partition].paused = True

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._fetches[tp.topic, tp.partition].paused = False

    def seek(self, partition: TopicPartition) -> None:
        self._host.call("seek")
        fetch = self._fetches[partition.topic, partition.partition]
        if fetch.given_up or (not fetch.begun and self._host.timeline.percent(30)):
            raise KafkaException(KafkaError(KafkaError._STATE))
        fetch.position = partition.offset

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(tp.topic, tp.partition, self._position(tp)) for tp in partitions]

    def _position(self, tp: TopicPartition) -> int:
        fetch = self._fetches.get((tp.topic, tp.partition))
        return -1001 if fetch is None or fetch.position < 0 else fetch.position

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 10.0, cached: bool = False
    ) -> tuple[int, int]:
        if not cached:
            self._ask("watermarks", timeout)
        log = self._host.broker.logs[partition.topic, partition.partition]
        return log.first, log.end

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._ask("topics", timeout)
        return SimpleNamespace(
            topics={topic: SimpleNamespace(partitions=dict.fromkeys(range(self._host.broker.partitions)))}
        )

    def _ask(self, what: str, timeout_s: float) -> None:
        self._host.call(what)
        self._host.wait(self._host.round_trip_s())
        if not self._host.wait_until(lambda: self._host.reachable, timeout_s):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def unread(self) -> int:
        """How many records there are that it has not been given."""
        logs = self._host.broker.logs
        return sum(logs[place].end - max(0, fetch.position) for place, fetch in self._fetches.items())

    # Reading

    def poll(self, timeout: float = 0) -> Message | None:
        self._host.call("poll")
        self._serve()
        for message in self._messages(1):
            return message
        if timeout > 0:
            self._host.wait(timeout)
            self._serve()
            for message in self._messages(1):
                return message
        return None

    def consume(self, num_messages: int, timeout: float = 0) -> list[Message]:
        self._host.call("consume")
        if self._host.timeline.percent(20):
            self._serve()
        chance = self._host.timeline.chance
        most = num_messages if chance.random() < 0.7 else min(num_messages, chance.randint(1, 5))
        found = list(self._messages(most))
        if not found and timeout > 0:
            self._host.wait(timeout)
            found = list(self._messages(most))
        return found

    def close(self) -> None:
        if self._callbacks is not None:
            if self._fetches:
                self._call(self._callbacks[1], list(self._fetches))
            # As librdkafka does: what was sent before is on the same connection.
            self._host.wait_until(lambda: not self._commits_under_way, 5.0)
            self._host.broker.group.leave(self.name)
        self._fetches = {}

    def _messages(self, most: int) -> Iterator[Message]:
        """Up to so many messages, partition by partition in any order, each in the order of its log."""
        if not self._host.reachable:
            return
        places = [place for place, fetch in self._fetches.items() if not fetch.paused]
        if len(places) > 1:
            self._host.timeline.chance.shuffle(places)
        left = most
        for place in places:
            fetch = self._fetches.get(place)
            log = self._host.broker.logs[place]
            while fetch is not None and left > 0:
                message = self._next(log, fetch)
                if message is None:
                    break
                left -= 1
                yield message
            if left <= 0:
                return

    def _next(self, log: PartitionLog, fetch: _Fetch) -> Message | None:
        fetch.begun = True
        if fetch.position == OFFSET_BEGINNING:
            fetch.position = log.first
        if not log.first <= fetch.position <= log.end:
            if self._reset == "error":
                fetch.paused = fetch.given_up = True
                return self._event(log, fetch, KafkaError._AUTO_OFFSET_RESET)
            fetch.position = log.first
        record = log.at(fetch.position)
        if record is None:
            fetch.position = log.end
            if not self._tells_ends or fetch.end_told == log.end:
                return None
            fetch.end_told = log.end
            return self._event(log, fetch, KafkaError._PARTITION_EOF)
        fetch.position = record.offset + 1
        return Message(
            topic=log.topic,
            partition=log.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=list(record.headers) or None,
            timestamp=(TIMESTAMP_CREATE_TIME, record.timestamp_ms),
        )

    def _event(self, log: PartitionLog, fetch: _Fetch, code: int) -> Message:
        return Message(topic=log.topic, partition=log.partition, offset=fetch.position, error=KafkaError(code))


class SimAdmin:
    """Answers where logs begin and end, after a while or not at all."""

    def __init__(self, host: Host, config: Mapping[str, Any]) -> None:
        self._host = host

    def list_offsets(self, wanted: Mapping[TopicPartition, Any], request_timeout: float) -> dict[TopicPartition, Any]:
        self._host.call("list offsets")
        host = self._host
        futures: dict[TopicPartition, Future[Any]] = {place: Future() for place in wanted}
        deadline = host.timeline.now + request_timeout

        def answer() -> None:
            if not host.is_alive:
                return
            if not host.reachable and host.timeline.now < deadline:
                host.timeline.later(0.2, answer)
                return
            failed = not host.reachable or host.timeline.percent(host.troubles.question_failed)
            for place, future in futures.items():
                log = host.broker.logs[place.topic, place.partition]
                if failed:
                    future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
                else:
                    offset = log.first if isinstance(wanted[place], _EARLIEST) else log.end
                    future.set_result(SimpleNamespace(offset=offset))

        host.timeline.later(host.round_trip_s(), answer)
        return dict(futures)

    def list_consumer_group_offsets(
        self, asked: Sequence[ConsumerGroupTopicPartitions], request_timeout: float
    ) -> dict[str, Future[Any]]:
        """Answers at once, or in vain."""
        host = self._host
        host.call("list group offsets")
        host.wait(host.round_trip_s())
        future: Future[Any] = Future()
        if not host.reachable or host.timeline.percent(host.troubles.question_failed):
            future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
        else:
            partitions = asked[0].topic_partitions or []
            found = committed_in(host.broker, partitions)
            future.set_result(ConsumerGroupTopicPartitions(asked[0].group_id, found))
        return {asked[0].group_id: future}


def committed_in(broker: Broker, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """What the group has committed of partitions."""
    found = []
    for tp in partitions:
        offset, metadata = broker.group.positions.get((tp.topic, tp.partition), (-1001, ""))
        place = (tp.topic, tp.partition, offset)
        found.append(TopicPartition(*place, metadata) if metadata else TopicPartition(*place))
    return found


def _text(key: bytes | str | None) -> str:
    return key if isinstance(key, str) else (key or b"").decode(errors="replace")


def _spread(offsets: list[TopicPartition]) -> str:
    by_partition: dict[int, list[int]] = {}
    for tp in offsets:
        by_partition.setdefault(tp.partition, []).append(tp.offset)
    return ", ".join(f"p{partition}@{positions}" for partition, positions in by_partition.items())
