"""A feed's own activity becomes heartbeats: what is due by a table, and the way over a real Kafka."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from operations.heartbeats import Heartbeats, HeartbeatsFailed, watch
from operations.topics import ensure
from schemas.events import decode_setting
from schemas.records import micros
from schemas.topics import POS_SALES, STOCK_SETTINGS, WMS_MOVEMENTS
from stock.events import SourceAlive
from tests.services import Kafka
from tests.stock.facts import at, fact, us

# silence 60 s, at most one promise each 10 s: heard (location, feed, second), and until when was promised
HEARD: list[Any] = [
    ("once", [("A", "pos", 0)], [70]),
    ("again too soon", [("A", "pos", 0), ("A", "pos", 9)], [70, None]),
    ("again", [("A", "pos", 0), ("A", "pos", 10)], [70, 80]),
    ("each feed by itself", [("A", "pos", 0), ("A", "wms", 1)], [70, 71]),
    ("each location by itself", [("A", "pos", 0), ("B", "pos", 1)], [70, 71]),
    ("late news are no news", [("A", "pos", 30), ("A", "pos", 5)], [100, None]),
    ("after a silence", [("A", "pos", 0), ("A", "pos", 500)], [70, 570]),
]


@pytest.mark.parametrize(("heard", "untils"), [row[1:] for row in HEARD], ids=[row[0] for row in HEARD])
def test_a_promise_lasts_as_long_as_silence_is_patient(heard: list[Any], untils: list[int | None]) -> None:
    """After the last word, whichever of those in between were not told on."""
    heartbeats = Heartbeats(silence_s=60, every_s=10)
    found = [heartbeats.heard(location, feed, us(seconds)) for location, feed, seconds in heard]
    assert [None if one is None else one.until for one in found] == [
        None if until is None else at(until) for until in untils
    ]


@pytest.mark.kafka
def test_what_a_feed_tells_keeps_it_alive(kafka: Kafka, topic_prefix: str) -> None:
    """Valid facts of both feeds make settings that the pipeline accepts, under their keys; nonsense makes none."""
    config = {"bootstrap.servers": kafka.bootstrap}

    def named(name: str) -> str:
        return topic_prefix + name

    ensure(config, named, 2, 1)
    stop, problems = threading.Event(), list[Exception]()

    def follow() -> None:
        try:
            watch(config, named, Heartbeats(60, 10), lambda: int(time.time() * 1e6), stop.is_set)
        except HeartbeatsFailed as error:
            problems.append(error)

    watcher = threading.Thread(target=follow)
    watcher.start()
    producer = Producer(config)
    consumer = Consumer({**config, "group.id": "test", "enable.auto.commit": False})
    found: dict[str, SourceAlive] = {}
    try:
        consumer.assign([TopicPartition(named(STOCK_SETTINGS.name), p, OFFSET_BEGINNING) for p in range(2)])
        deadline = time.monotonic() + 30
        while len(found) < 2 and time.monotonic() < deadline and not problems:
            # Told again and again: the watcher follows from the moment on at which it has found the ends.
            producer.produce(named(POS_SALES.name), key=b"SKU", value=msgspec.json.encode(fact("pos.sale", 0, 1)))
            producer.produce(named(WMS_MOVEMENTS.name), key=b"SKU", value=msgspec.json.encode(fact("wms.count", 0, 1)))
            producer.produce(named(WMS_MOVEMENTS.name), key=b"SKU", value=b'{"location":"B"}')
            producer.flush(10)
            for message in consumer.consume(10, 0.5):
                value, key = message.value(), message.key()
                assert message.error() is None
                assert value is not None
                assert key is not None
                setting = decode_setting(key, value, message.timestamp()[1] * 1_000)
                assert isinstance(setting, SourceAlive)
                found[key.decode()] = setting
    finally:
        stop.set()
        watcher.join(30)
        consumer.close()
    assert problems == []
    assert found.keys() == {"alive:A:pos", "alive:A:wms"}
    for setting in found.values():
        assert micros(setting.until) - micros(setting.occurred_at) == 70_000_000
