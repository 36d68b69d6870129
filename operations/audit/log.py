"""The topics as the audit reads them: whole partitions between two offsets; never a group, never a commit.

Nothing is written to Kafka and no consumer group is joined, so an audit can run beside a live pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

BATCH_RECORDS = 10_000
CALL_TIMEOUT_S = 10.0  # For one metadata or watermark request.
SILENCE_S_MAX = 30.0  # A reachable broker answers a fetch far sooner, even while it restarts.
RETRY_S = 0.1
FETCH_WAIT_MS = 20
POLL_S = 0.5  # Bounds how late silence is noticed; a record ends the wait.

Progress = Callable[[str, int, int], None]
"""Called with a label, the records done and the records to do."""


class AuditImpossible(RuntimeError):
    """The log cannot be read completely; the text says what to check."""


class LogRecord(NamedTuple):
    """One Kafka record; `topic` is the registered name without any prefix."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Extent(NamedTuple):
    """The offsets of one partition: the first that the log still has, and one past the last."""

    start: int
    end: int


Extents = dict[str, dict[int, Extent]]  # registered topic name -> partition -> extent


class Log:
    """A reader of whole topics. Every call blocks; none changes anything on the broker.

    `exact_ends` says that the broker answers truly when asked for the end of a partition. The demo's memory-only
    broker names the start of the last batch instead, so there the ends are looked for by reading on from there.
    """

    def __init__(
        self, client_config: Mapping[str, str], topic_name: Callable[[str], str], exact_ends: bool = True
    ) -> None:
        self._topic_name = topic_name
        self._exact_ends = exact_ends
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": "stockflow-audit",  # librdkafka wants one; it is never joined.
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                # A fetch at the end of one topic must not keep the next topic waiting.
                "fetch.wait.max.ms": FETCH_WAIT_MS,
            }
        )

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def extents(self, topics: Sequence[str]) -> Extents:
        """Where the log of each topic starts and ends right now, by partition.

        Raises:
            AuditImpossible: the broker does not answer, or a topic does not exist.
        """
        try:
            found = {topic: self._extents_of(topic) for topic in topics}
        except KafkaException as error:
            raise AuditImpossible(f"cannot ask the broker for offsets: {_text(error)}") from error
        return found if self._exact_ends else {topic: self._to_real_ends(topic, found[topic]) for topic in found}

    def _to_real_ends(self, topic: str, extents: Mapping[int, Extent]) -> dict[int, Extent]:
        """The same extents with the ends at which the broker has nothing more to give."""
        name = self._topic_name(topic)
        self._consumer.assign([TopicPartition(name, part, extent.end) for part, extent in extents.items()])
        ends: dict[int, int] = {}
        until = time.monotonic() + SILENCE_S_MAX
        while len(ends) < len(extents):
            message = self._consumer.poll(POLL_S)
            if time.monotonic() > until:
                raise AuditImpossible(f"{name}: no end found within {SILENCE_S_MAX:.0f} s")
            if message is None:
                continue
            error, partition, offset = message.error(), message.partition(), message.offset()
            if partition is None or offset is None:
                continue
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                ends[partition] = offset
        self._consumer.unassign()
        return {partition: Extent(extent.start, ends[partition]) for partition, extent in extents.items()}

    def _extents_of(self, topic: str) -> dict[int, Extent]:
        name = self._topic_name(topic)
        metadata = self._consumer.list_topics(name, timeout=CALL_TIMEOUT_S).topics[name]
        if metadata.error is not None or not metadata.partitions:
            raise AuditImpossible(f"topic {name} is not there: create it with `stockflow topics ensure`")
        found = {}
        for partition in sorted(metadata.partitions):
            found[partition] = self._extent_of(TopicPartition(name, partition))
        return found

    def _extent_of(self, place: TopicPartition) -> Extent:
        """One partition's offsets; asks again while its leader is being elected or moved."""
        until = time.monotonic() + CALL_TIMEOUT_S
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(place, timeout=CALL_TIMEOUT_S, cached=False)
            except KafkaException as error:
                if not _passing(error.args[0]) or time.monotonic() > until:
                    raise
                time.sleep(RETRY_S)
            else:
                return Extent(low, high)

    def read(
        self,
        topic: str,
        extents: Mapping[int, Extent],
        progress: Progress | None = None,
        headers: bool = False,
    ) -> Iterator[list[LogRecord]]:
        """Every record of a topic between its extents, in batches; in order within a partition.

        Raises:
            AuditImpossible: the broker reports an error, or nothing arrives for `SILENCE_S_MAX`.
        """
        name = self._topic_name(topic)
        missing = {partition: extent.end for partition, extent in extents.items() if extent.end > extent.start}
        total = sum(extents[partition].end - extents[partition].start for partition in missing)
        if not missing:
            return
        self._consumer.assign([TopicPartition(name, part, extents[part].start) for part in missing])
        done = 0
        heard_at = time.monotonic()
        while missing:
            first = self._consumer.poll(POLL_S)
            # A batch with a timeout would wait for its last record; this takes what is there.
            messages = [] if first is None else [first, *self._consumer.consume(BATCH_RECORDS, 0)]
            batch = [record for message in messages if (record := _take(topic, message, missing, headers)) is not None]
            if batch:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > SILENCE_S_MAX:
                raise AuditImpossible(
                    f"{name}: nothing arrived for {SILENCE_S_MAX:.0f} s; "
                    f"partitions {sorted(missing)} are not read to their end"
                )
            if batch:
                done += len(batch)
                yield batch
                if progress is not None:
                    progress(topic, done, total)
        self._consumer.unassign()


def _take(topic: str, message: Message, missing: dict[int, int], headers: bool) -> LogRecord | None:
    """The record of a message if it is still wanted; strikes its partition off once its end is reached."""
    error, partition, offset = message.error(), message.partition(), message.offset()
    if error is not None and _passing(error):
        return None
    if partition is None or offset is None:
        raise AuditImpossible(f"cannot read {topic}: {'a record without offset' if error is None else error.str()}")
    end = missing.get(partition)
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise AuditImpossible(f"cannot read {message.topic()}[{partition}]: {error.str()}")
        # Compaction may have removed the very last offsets before the end that was asked for.
        if end is not None and offset >= end:
            del missing[partition]
        return None
    if end is None or offset >= end:
        return None
    if offset + 1 >= end:
        del missing[partition]
    return LogRecord(
        topic,
        partition,
        offset,
        message.timestamp()[1],
        _bytes(message.key()),
        _bytes(message.value()),
        tuple((name, _bytes(text)) for name, text in _headers(message)) if headers else (),
    )


def _passing(error: KafkaError) -> bool:
    """Whether the client gets over an error by itself; silence is what ends the waiting then."""
    return error.retriable() or error.code() in _PASSING


_PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)


def _headers(message: Message) -> Iterable[tuple[str, str | bytes | None]]:
    headers = message.headers() or ()
    return headers.items() if isinstance(headers, dict) else headers


def _bytes(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def _text(error: KafkaException) -> str:
    return error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error)
