"""Reading a partition of the availability topic again, on a real Kafka."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.topics import AVAILABILITY
from sinks import view_sync
from sinks.view_sync import KafkaTopicReader, TopicReadFailed
from stockflow.embedded.process import free_port
from tests import services

PARTITION = 1
RECORDS: list[tuple[str, bytes | None]] = [
    (f"SKU-{i % 700}|STORE-1", None if i % 10 == 9 else b'{"version":%d}' % i) for i in range(2_500)
]


@pytest.fixture
def topic(kafka: services.Kafka, fresh_topics: Callable[..., str]) -> str:
    """The availability topic with records in one of its partitions."""
    name = fresh_topics() + AVAILABILITY.name
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for key, value in RECORDS:
        producer.produce(name, value, key, PARTITION)
    assert producer.flush(30) == 0
    return name


@pytest.mark.parametrize(
    ("text", "partition", "offset", "first"),
    [
        ("no offset: from the log's start", PARTITION, None, 0),
        ("inside", PARTITION, 1_234, 1_234),
        ("the last record", PARTITION, 2_499, 2_499),
        ("at the end: nothing", PARTITION, 2_500, 2_500),
        ("beyond the end: from the log's start", PARTITION, 9_999, 0),
        ("an empty partition", 0, None, 2_500),
        ("an empty partition, beyond its end", 0, 5, 2_500),
    ],
)
def test_partition_is_read_from_an_offset_to_its_end(
    text: str, partition: int, offset: int | None, first: int, topic: str, kafka: services.Kafka
) -> None:
    """Keys, values, removals and offsets arrive in order; the reading ends by itself."""
    reader = KafkaTopicReader({"bootstrap.servers": kafka.bootstrap}, topic)
    found = [record for batch in reader.read(partition, offset) for record in batch]
    assert found == [(key, value, i) for i, (key, value) in enumerate(RECORDS)][first:], text


def test_reading_may_be_given_up(topic: str, kafka: services.Kafka) -> None:
    """A reader that is closed half-way leaves nothing behind, and another one starts afresh."""
    reader = KafkaTopicReader({"bootstrap.servers": kafka.bootstrap}, topic)
    batches = reader.read(PARTITION, None)
    while not next(batches):
        pass
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert sum(len(batch) for batch in reader.read(PARTITION, 2_000)) == 500


def test_absent_broker_is_reported_in_time() -> None:
    """Without Kafka the reading ends with an error that the view can wait out."""
    config = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": "0"}
    reader = KafkaTopicReader(config, "nowhere", timeout_s=0.5)
    with pytest.raises(TopicReadFailed, match=r"_TRANSPORT|_ALL_BROKERS_DOWN"):
        list(reader.read(PARTITION, None))


def test_a_reading_fetches_little_ahead_of_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading's prefetch stays with the process: it is a few megabytes, and a full queue is soon asked again."""
    asked: list[dict[str, Any]] = []

    def consumer(config: dict[str, Any]) -> None:
        asked.append(config)
        raise KafkaException(KafkaError(KafkaError._FAIL))

    monkeypatch.setattr(view_sync, "Consumer", consumer)
    with pytest.raises(TopicReadFailed):
        list(KafkaTopicReader({}, "nowhere").read(PARTITION, None))
    assert [(config["queued.max.messages.kbytes"], config["fetch.queue.backoff.ms"]) for config in asked] == [
        (4_096, 5)
    ]
