"""A committed position that retention took, on a real Kafka: whatever the client made of it, the log is read on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import KEYED_INPUTS, POS_SALES
from sources import kafka as module
from sources.arrivals import Batch
from sources.bounds import Bounds, LogBounds
from sources.commits import Commits
from sources.kafka import EventsReader, SourceFailed, SourceOptions
from tests.services import Kafka
from tests.sources.test_kafka_reader import FakeOutgoing, FakeRestorer, FakeSettings, new_ledger

TIMEOUT_S = 30.0


class LateConsumer(Consumer):
    """Its fetches go out before it is told to pause, as the client's threads may have it."""

    gave_up = False

    def pause(self, partitions: list[TopicPartition]) -> None:
        if type(self).gave_up:
            super().pause(partitions)

    def poll(self, timeout: float = -1) -> Message | None:
        message = super().poll(timeout)
        error = message.error() if message is not None else None
        if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
            type(self).gave_up = True
            self.pause(self.assignment())
        return message

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        return super().consume(num_messages, timeout) if type(self).gave_up else []


class LateBounds(LogBounds):
    """Answers only after the client has given up."""

    def answer(self, partition: int) -> Bounds | None:
        return super().answer(partition) if LateConsumer.gave_up else None


def lost_input(kafka: Kafka, prefix: str) -> tuple[dict[str, str], str]:
    """Ten sales, five of them read and committed by the group, all of them deleted."""
    config, topic, group = {"bootstrap.servers": kafka.bootstrap}, prefix + POS_SALES.name, prefix + "group"
    producer = Producer(config)
    for number in range(10):
        producer.produce(topic, str(number))
    assert producer.flush(TIMEOUT_S) == 0
    member = Consumer({**config, "group.id": group})
    committed = [TopicPartition(prefix + each.name, 0, 5 if each is POS_SALES else 0) for each in KEYED_INPUTS]
    member.commit(offsets=committed, asynchronous=False)
    member.close()
    admin = AdminClient(config)  # has to outlive its answers
    for future in admin.delete_records([TopicPartition(topic, 0, 10)]).values():
        future.result(TIMEOUT_S)
    return config, group


def opened_reader(config: dict[str, str], prefix: str, group: str, protocol: str) -> EventsReader:
    def die(error: BaseException) -> None:
        raise error

    names = tuple(prefix + topic.name for topic in KEYED_INPUTS)
    return EventsReader(
        SourceOptions(config, names, 1, group, protocol, accept_lost_input=True),
        FakeSettings(),  # type: ignore[arg-type]
        FakeRestorer(),  # type: ignore[arg-type]
        FakeOutgoing(),  # type: ignore[arg-type]
        lambda: 0,
        new_ledger,
        Commits(names, lease_s=3_600),
        die,  # type: ignore[arg-type]
        time.monotonic,
        structlog.get_logger(),
    )


def values_read(reader: EventsReader) -> list[bytes]:
    """Whatever the next turn passes on."""
    batches: list[Any] = [arrival for _, arrival in reader.next_batch() if isinstance(arrival, Batch)]
    return [message.value() for batch in batches for message in batch.messages if message.error() is None]


def serve(reader: EventsReader, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reader.next_batch()


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Consumer", LateConsumer)
    monkeypatch.setattr(module, "LogBounds", LateBounds)
    monkeypatch.setattr(LateConsumer, "gave_up", False)


def test_a_log_the_client_has_given_up_is_read_on_from_where_it_now_begins(
    kafka: Kafka, fresh_topics: Callable[..., str]
) -> None:
    """The client refuses to seek there for ever; it is given the partition anew."""
    prefix = fresh_topics(partitions=1)
    config, group = lost_input(kafka, prefix)
    reader = opened_reader(config, prefix, group, "consumer")
    deadline = time.monotonic() + TIMEOUT_S
    found: list[bytes] = []
    while reader.stats.live < 1:
        assert time.monotonic() < deadline, "it was never opened"
        found += values_read(reader)
    producer = Producer(config)
    producer.produce(prefix + POS_SALES.name, b"after")
    assert producer.flush(TIMEOUT_S) == 0
    while not found:
        assert time.monotonic() < deadline, "what followed was never read"
        found += values_read(reader)
    reader.close()
    assert LateConsumer.gave_up
    assert found == [b"after"]


def test_the_classic_protocol_ends_the_process_for_a_new_start(kafka: Kafka, fresh_topics: Callable[..., str]) -> None:
    """It changes an assignment as a whole only; waiting for a seek that is refused for ever would help nobody."""
    prefix = fresh_topics(partitions=1)
    config, group = lost_input(kafka, prefix)
    reader = opened_reader(config, prefix, group, "classic")
    with pytest.raises(SourceFailed, match="start again"):
        serve(reader, TIMEOUT_S)
    reader.close()
