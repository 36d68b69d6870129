"""Reads a bounded stretch of one partition of an output topic, where somebody else has written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

READ_TIMEOUT_S = 10.0  # A stretch of foreign records is short; longer means the broker does not answer.


class RangeUnreadable(Exception):
    """The stretch could not be read; without it nobody knows whose record stands on the topic."""


class KafkaRanges:
    """Opens a consumer per stretch: foreign writes are rare, and idle consumers cost threads."""

    def __init__(self, client_config: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._config = {
            **client_config,
            "group.id": "stockflow-range-reader",  # never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }

    def read_range(self, topic: str, partition: int, first: int, end: int) -> list[tuple[bytes | None, bytes | None]]:
        """Key and value of every record from `first` up to, not including, `end`; blocks for at most 10 s.

        Raises:
            RangeUnreadable: the broker did not deliver it in time.
        """
        found: list[tuple[bytes | None, bytes | None]] = []
        consumer = Consumer(self._config)
        try:
            consumer.list_topics(topic, timeout=READ_TIMEOUT_S)  # spares the first fetch half a second
            consumer.assign([TopicPartition(topic, partition, first)])
            deadline = self._clock() + READ_TIMEOUT_S
            while self._clock() < deadline:
                for message in consumer.consume(1000, 0.1):
                    error, offset = message.error(), message.offset() or 0
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            return found
                        if error.fatal():
                            raise RangeUnreadable(f"{topic} partition {partition}: {error}")
                        continue
                    if offset >= end:
                        return found
                    found.append((message.key(), message.value()))
                    if offset + 1 >= end:
                        return found
        finally:
            consumer.close()
        raise RangeUnreadable(
            f"{topic} partition {partition}: offsets {first}-{end} not read in {READ_TIMEOUT_S:.0f} s"
        )
