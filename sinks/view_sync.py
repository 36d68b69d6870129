"""Reading one partition of `availability.v1` again for a view that lost it; never a group, never a commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

Batch = list[tuple[str, bytes | None, int]]

BATCH_RECORDS_MAX = 1_000
POLL_S = 0.05  # Between two empty batches the view's thread can do its other work.
# Fetched ahead of the view, which waits for Redis. The client's 64 MB would be used whole, by every reading, and stay
# with the process: memory that each reading's threads have had is hardly ever given back.
PREFETCH_KBYTES_MAX = 4_096
PREFETCH_RETRY_MS = 5  # How long a full queue is left alone; the client's second would make each reading crawl.
PROGRESS_TIMEOUT_S = 10.0  # Kafka did not answer for so long: give up, the view tries again later.

LEADER_MOVES = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # Also what a broker says of a topic that was made a moment ago.
    }
)


class TopicReadFailed(Exception):
    """The partition could not be read to its end; nothing may be concluded from what was read."""


class TopicReader(Protocol):
    """Reads one partition of `availability.v1`. Called from the view's thread only; may raise anything."""

    def read(self, partition: int, offset: int | None) -> Iterator[Batch]:
        """Batches of (key, value, offset) from an offset (None: the log's start) to the end seen at the start.

        An empty batch means that nothing came for a moment; the reader may be closed before its end.
        """


class KafkaTopicReader:
    """A `TopicReader` on Kafka with a consumer of its own for each read, assigned to the one partition.

    An offset which the log no longer has, or does not have yet, reads from the log's start.
    """

    def __init__(
        self,
        client_config: Mapping[str, str],
        topic: str,
        *,
        timeout_s: float = PROGRESS_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = {
            **client_config,
            "group.id": "stockflow-view",  # Asked for by the client; without subscribe or commit no group exists.
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,  # The end is known once a fetch returns empty.
            "queued.max.messages.kbytes": PREFETCH_KBYTES_MAX,
            "fetch.queue.backoff.ms": PREFETCH_RETRY_MS,
        }
        self._topic = topic
        self._timeout_s = timeout_s
        self._clock = clock

    def read(self, partition: int, offset: int | None) -> Iterator[Batch]:
        """Batches of (key, value, offset), oldest first, until the end seen at the start.

        Raises:
            TopicReadFailed: Kafka did not answer in time or refused.
        """
        try:
            consumer = Consumer(self._config)
        except KafkaException as error:
            raise TopicReadFailed(str(error)) from error
        try:
            place = TopicPartition(self._topic, partition, OFFSET_BEGINNING if offset is None else offset)
            end = None
            deadline = self._clock() + self._timeout_s
            while end is None:
                end = self._end(consumer, place, deadline - self._clock())
                if end is None:
                    consumer.poll(POLL_S)
                    yield []
            consumer.assign([place])
            yield from self._until(consumer, end)
        except KafkaException as error:
            raise TopicReadFailed(str(error)) from error
        finally:
            consumer.close()

    def _end(self, consumer: Consumer, place: TopicPartition, left_s: float) -> int | None:
        """The partition's end offset; None while its leader is on the move and there is time left."""
        try:
            _, end = consumer.get_watermark_offsets(place, timeout=max(left_s, POLL_S))
        except KafkaException as error:
            if error.args[0].code() in LEADER_MOVES and left_s > 0:
                return None
            raise
        return int(end)

    def _until(self, consumer: Consumer, end: int) -> Iterator[Batch]:
        """Batches until `end` or the event that says that there is no more for now."""
        deadline = self._clock() + self._timeout_s
        while True:
            batch: Batch = []
            ended = False
            first = consumer.poll(POLL_S)  # `consume` alone would wait its whole time for a full batch.
            messages = [] if first is None else [first, *consumer.consume(BATCH_RECORDS_MAX - 1, 0)]
            for message in messages:
                error = message.error()
                if error is None:
                    key, offset = message.key(), message.offset()
                    if key is not None and offset is not None:
                        batch.append((key.decode(), message.value(), offset))
                    ended = ended or (offset is not None and offset >= end - 1)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended = True
                else:
                    raise TopicReadFailed(str(error))
            yield batch
            if ended:
                return
            now = self._clock()
            if batch:
                deadline = now + self._timeout_s
            elif now > deadline:
                raise TopicReadFailed(f"no answer from Kafka for {self._timeout_s:.0f} s")
