"""Heartbeats for feeds that send none: what a feed tells says that it is alive. Never a group, never a balance.

Run it beside feeds that can be expected to say something within a known time, such as a warehouse around the clock.
Shops that close need promises of their own that know the opening hours, or a policy with a `stale_buffer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from confluent_kafka import (
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from schemas.events import Refusal, check_names, decode, setting_key
from schemas.records import moment
from schemas.topics import KEYED_INPUTS, POS_SALES, STOCK_SETTINGS, WMS_MOVEMENTS
from stock.events import SourceAlive

Feed = Literal["pos", "wms"]

FEEDS: dict[str, Feed] = {POS_SALES.name: "pos", WMS_MOVEMENTS.name: "wms"}
BATCH_RECORDS = 1_000
POLL_S = 0.2
CALL_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 10.0


class HeartbeatsFailed(Exception):
    """Kafka cannot be read, or a heartbeat was not delivered."""


class Heartbeats:
    """Decides from a feed's activity which promises are due. Not thread-safe; knows no client and no clock.

    A feed counts as stale between `silence_s` and `silence_s + every_s` after it was last heard.

    Args:
        silence_s: how long a feed may be silent and still be taken for complete.
        every_s: a feed that talks all the time makes a promise at most so often.
    """

    def __init__(self, silence_s: float, every_s: float) -> None:
        self._silence_us, self._every_us = int(silence_s * 1e6), int(every_s * 1e6)
        self._promised: dict[tuple[str, Feed], int] = {}

    def heard(self, location: str, feed: Feed, at_us: int) -> SourceAlive | None:
        """The promise to send because a feed of a location was heard at a time, or None if it is not due."""
        until_us = at_us + self._silence_us + self._every_us
        promised_us = self._promised.get((location, feed))
        if promised_us is not None and until_us < promised_us + self._every_us:
            return None
        self._promised[location, feed] = until_us
        at, until = moment(at_us), moment(until_us)
        assert at is not None
        assert until is not None
        return SourceAlive(
            id=f"{location}:{feed}:{at_us}",
            source="stockflow/heartbeats",
            occurred_at=at,
            location=location,
            feed=feed,
            until=until,
        )


def watch(
    client_config: Mapping[str, str],
    topic_name: Callable[[str], str],
    heartbeats: Heartbeats,
    wall_us: Callable[[], int],
    has_to_stop: Callable[[], bool],
) -> int:
    """Follow the inputs from now on and send the promises that are due, until told to stop; how many were sent.

    Several watchers of one cluster do no harm: the newest promise of a feed holds.

    Args:
        client_config: librdkafka properties of the cluster.
        topic_name: the broker's name of a registered topic.
        heartbeats: decides what is due.
        wall_us: microseconds since 1970.
        has_to_stop: asked a few times a second.

    Raises:
        HeartbeatsFailed: Kafka cannot be read, or a heartbeat was not delivered.
    """
    failures: list[str] = []
    names = {topic_name(name): name for name in FEEDS}
    # The same partitioner as everyone who writes settings: of one key, only one partition knows what is newest.
    producer = Producer({**client_config, "enable.idempotence": True, "partitioner": "murmur2_random"})
    consumer = Consumer({**client_config, "group.id": "stockflow-heartbeats", "enable.auto.commit": False})
    sent = 0
    try:
        consumer.assign(_ends(consumer, names))
        while not has_to_stop() and not failures:
            for message in consumer.consume(BATCH_RECORDS, POLL_S):
                due = _due(heartbeats, names, message, wall_us())
                if due is not None:
                    sent += 1
                    producer.produce(
                        topic_name(STOCK_SETTINGS.name),
                        key=setting_key(due),
                        value=msgspec.json.encode(due),
                        on_delivery=lambda error, _: None if error is None else failures.append(str(error)),
                    )
            producer.poll(0)
        if producer.flush(FLUSH_TIMEOUT_S):
            failures.append("the last heartbeats were not delivered in time")
    except KafkaException as error:
        raise HeartbeatsFailed(str(error)) from error
    finally:
        consumer.close()
    if failures:
        raise HeartbeatsFailed(failures[0])
    return sent


def _ends(consumer: Consumer, names: Mapping[str, str]) -> list[TopicPartition]:
    """The ends of all partitions of these topics."""
    places = []
    for name in names:
        metadata = consumer.list_topics(name, timeout=CALL_TIMEOUT_S).topics[name]
        if metadata.error is not None:
            raise HeartbeatsFailed(f"topic {name} is not there: create it with `stockflow topics ensure`")
        places += [TopicPartition(name, partition, OFFSET_END) for partition in metadata.partitions]
    return places


def _due(heartbeats: Heartbeats, names: Mapping[str, str], message: Message, now_us: int) -> SourceAlive | None:
    """The promise that a record makes due; one that is no valid fact says nothing of its feed."""
    error = message.error()
    if error is not None:
        if error.fatal():
            raise HeartbeatsFailed(str(error))
        return None  # the client goes on by itself
    registered = names[str(message.topic())]
    kind, timestamp_ms = message.timestamp()
    at_us = now_us if kind == TIMESTAMP_NOT_AVAILABLE or timestamp_ms < 0 else min(timestamp_ms * 1_000, now_us)
    fact = decode(_POSITIONS[registered], message.value(), at_us)
    if isinstance(fact, Refusal) or check_names(fact.sku, fact.location) is not None:
        return None
    return heartbeats.heard(fact.location, FEEDS[registered], at_us)


_POSITIONS = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
