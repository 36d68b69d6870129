"""Where the logs of a partition begin and end, asked on a connection of its own.

A consumer's own connection answers such a question only after the fetch that waits on it, up to half a second each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

TIMEOUT_S = 10.0
ASK_AGAIN_S = 0.2

Bounds = dict[str, tuple[int, int]]  # by topic: first offset in the log, next offset to be written


class LogBounds:
    """Asks for the bounds of one partition over several topics without blocking."""

    def __init__(self, client_config: Mapping[str, Any], topics: tuple[str, ...]) -> None:
        self._config, self._topics = dict(client_config), topics
        self._admin = AdminClient(self._config)
        self._asked: dict[int, tuple[dict[TopicPartition, Future[Any]], dict[TopicPartition, Future[Any]]]] = {}

    def ask(self, partition: int) -> None:
        """Ask; an earlier question about the partition is forgotten."""
        places = [TopicPartition(topic, partition) for topic in self._topics]
        first = {place: OffsetSpec.earliest() for place in places}  # type: ignore[no-untyped-call]
        end = {place: OffsetSpec.latest() for place in places}  # type: ignore[no-untyped-call]
        self._asked[partition] = (
            self._admin.list_offsets(first, request_timeout=TIMEOUT_S),
            self._admin.list_offsets(end, request_timeout=TIMEOUT_S),
        )

    def answer(self, partition: int) -> Bounds | None:
        """The bounds, or None while they are not all known; a failed question is asked again."""
        firsts, ends = self._asked[partition]
        futures = [*firsts.values(), *ends.values()]
        if not all(future.done() for future in futures):
            return None
        if any(future.exception() is not None for future in futures):
            # A client that outlived a broker's restart may hold on to leaders that are gone: a new one asks anew.
            # What the old one still owes to other partitions would never come.
            self._admin = AdminClient(self._config)
            for asked in list(self._asked):
                self.ask(asked)
            return None
        del self._asked[partition]
        by_topic = {place.topic: future.result().offset for place, future in ends.items()}
        return {place.topic: (future.result().offset, by_topic[place.topic]) for place, future in firsts.items()}

    def forget(self, partition: int) -> None:
        """The answer is not wanted any more."""
        self._asked.pop(partition, None)


def committed_positions(
    client_config: Mapping[str, Any], group: str, partitions: Sequence[TopicPartition], timeout_s: float
) -> list[TopicPartition] | None:
    """What a group has committed of partitions, with metadata, asked by a client that is no member; None if in vain.

    Blocks for at most about twice the timeout. A position below 0 means that nothing was committed.
    """
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(tp.topic, tp.partition) for tp in partitions])
    admin = AdminClient(dict(client_config))  # it must outlive the answer
    try:
        futures = admin.list_consumer_group_offsets([asked], request_timeout=timeout_s)
        found: list[TopicPartition] = futures[group].result(2 * timeout_s).topic_partitions
    except (KafkaException, TimeoutError):
        return None
    return None if any(tp.error is not None for tp in found) else found


def extent(
    consumer: Consumer, place: TopicPartition, timeout_s: float, deadline: float, clock: Callable[[], float]
) -> tuple[int, int]:
    """First and next offset of a partition; asked again while a topic made a moment ago has no leader everywhere.

    Blocks, for starts only.

    Raises:
        KafkaException: still no answer at the deadline.
    """
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=timeout_s)
        except KafkaException:
            if clock() > deadline:
                raise
            consumer.poll(ASK_AGAIN_S)
