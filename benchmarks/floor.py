"""The floor: the least that turns the events into availability records, with nothing durable and no framework.

One loop: consume, decode into the same typed events, change a dict, produce a record of the same fields and size,
and after its delivery report write it to Redis, many per call. It survives nothing and knows no rules: no repeats, no
late counts, no policies, no expiry, no lanes, no state topic, no commits. Run by `throughput.py` and `latency.py`.

It publishes each event; with `--conflates` only the newest state per key and poll, as stockflow does in a backlog.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from typing import Any

import msgspec
import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition

from schemas.records import Availability, Cause, Sources
from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS
from stock import events

CONSUME_MESSAGES = 1_000
# What pays if a poll's changes to a key become one record: long runs of one partition. As much as stockflow reads at
# once, which a test compares: its modules would count in this process's memory.
CONFLATED_MESSAGES, CONFLATED_FETCH_BYTES = 60_000, 8 * 1024 * 1024
IDLE_S, BUSY_S = 0.01, 0.001  # How long to block for the next event; shorter while acknowledgements are expected.
REDIS_RECORDS = 500  # Per call; more saved nothing, fewer cost more.
NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)
TOPIC = "floor-availability"


class Floor:
    """The loop and its dicts."""

    def __init__(self, consumer: Any, producer: Any, view: Any, prefix: str, conflates: bool) -> None:
        """Work with these clients: a consumer that has its partitions, a producer and a Redis."""
        self._consumer, self._producer, self._redis = consumer, producer, view
        self._topic = prefix + TOPIC
        self._encode = msgspec.json.Encoder().encode
        self._conflates = conflates
        self._at_once = CONFLATED_MESSAGES if conflates else CONSUME_MESSAGES
        self._decoders = {
            prefix + POS_SALES.name: msgspec.json.Decoder(events.PosMessage),
            prefix + WMS_MOVEMENTS.name: msgspec.json.Decoder(events.WmsMessage),
            prefix + ORDER_RESERVATIONS.name: msgspec.json.Decoder(events.OrderMessage),
        }
        self._balances: dict[str, list[int]] = {}
        self._visible: dict[bytes, bytes] = {}
        self._version = 0
        self._sent = self._delivered = 0
        self._read = 0

    def until(self, total: int) -> None:
        """Work until so many events have been read, their records acknowledged and written to Redis."""
        poll, consume, visible = self._producer.poll, self._consumer.consume, self._visible
        while self._read < total or self._delivered < self._sent or visible:
            busy = self._delivered < self._sent
            first = self._consumer.poll(BUSY_S if busy else IDLE_S) if self._read < total else None
            messages = [] if first is None else [first, *consume(self._at_once, 0)]
            if messages:
                self._take(messages)
            poll(0 if self._read < total else BUSY_S)
            if len(visible) >= REDIS_RECORDS or (visible and len(messages) < self._at_once):
                self._redis.mset(visible)
                visible.clear()

    def close(self) -> None:
        """Let go of the clients."""
        self._consumer.close()
        self._redis.close()

    def _take(self, messages: list[Message]) -> None:
        balances, decoders, conflates = self._balances, self._decoders, self._conflates
        out: dict[int, list[dict[str, Any]]] = {}
        newest: dict[str, tuple[int, Any]] = {}
        now = datetime.now(timezone.utc)
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise RuntimeError(str(error))
                continue
            topic, value, partition = message.topic(), message.value(), message.partition()
            event = decoders[topic].decode(value)  # type: ignore[index, arg-type]
            key = f"{event.sku}|{event.location}"
            balance = balances.get(key)
            if balance is None:
                balance = balances[key] = [0, 0]
            kind = type(event)
            if kind is events.PosSale:
                balance[0] -= event.units
            elif kind is events.WmsReceipt:
                balance[0] += event.units
            else:
                balance[1] += event.units
            self._read += 1
            if conflates:
                newest[key] = (partition, event)  # type: ignore[assignment]
            else:
                record = {"key": key, "value": self._record(event, balance, now)}
                out.setdefault(partition, []).append(record)  # type: ignore[arg-type]
        for key, (partition, event) in newest.items():
            out.setdefault(partition, []).append({"key": key, "value": self._record(event, balances[key], now)})
        for partition, records in out.items():
            self._sent += len(records)
            queued = self._producer.produce_batch(
                self._topic, records, partition=partition, on_delivery=self._acknowledged
            )
            if queued != len(records):
                raise RuntimeError(f"{self._topic}: {len(records) - queued} records were not taken")

    def _record(self, event: Any, balance: list[int], now: datetime) -> bytes:
        on_hand, committed = balance
        available = max(0, on_hand - committed)
        status = "IN_STOCK" if available > 3 else "LOW_STOCK" if available else "OUT_OF_STOCK"
        self._version += 1
        occurred_at = event.occurred_at
        return self._encode(
            Availability(
                version=self._version,
                sku=event.sku,
                location=event.location,
                status=status,
                reason=None,
                status_ship=status,
                status_pickup=status,
                available_to_ship=available,
                available_in_store=available,
                on_hand=on_hand,
                unavailable=0,
                committed=committed,
                in_transit=0,
                inbound=0,
                next_inbound_at=None,
                safety_stock_ship=0,
                safety_stock_pickup=0,
                withheld_ship=0,
                withheld_pickup=0,
                shortage=max(0, committed - on_hand),
                backorder_left=0,
                lane="routine",
                policy=None,
                cause=Cause(event.__struct_config__.tag, event.id, event.source, occurred_at),
                sources=Sources(occurred_at, occurred_at, occurred_at),
                changed_at=now,
            )
        )

    def _acknowledged(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise RuntimeError(str(error))
        self._visible[message.key()] = message.value()  # type: ignore[index, assignment]
        self._delivered += 1


def connected(bootstrap: str, redis_url: str, prefix: str, partitions: int, linger_ms: int, conflates: bool) -> Floor:
    """A floor with clients of its own, at the start of its inputs."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{prefix}floor",
            "enable.auto.commit": False,
            **({"max.partition.fetch.bytes": CONFLATED_FETCH_BYTES} if conflates else {}),
        }
    )
    topics = [prefix + topic.name for topic in (POS_SALES, WMS_MOVEMENTS, ORDER_RESERVATIONS)]
    consumer.assign(
        [TopicPartition(topic, partition, OFFSET_BEGINNING) for topic in topics for partition in range(partitions)]
    )
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
        }
    )
    return Floor(consumer, producer, redis.Redis.from_url(redis_url), prefix, conflates)


def main() -> None:
    """Take in the openings, say so, then take in the events and say when that was done; one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--openings", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--linger-ms", type=int, required=True)
    parser.add_argument("--conflates", action="store_true", help="one record per key and poll, not per event")
    options = parser.parse_args()
    floor = connected(
        options.bootstrap,
        options.redis_url,
        options.prefix,
        options.partitions,
        options.linger_ms,
        options.conflates,
    )
    floor.until(options.openings)
    _say({"ready": time.monotonic()})
    floor.until(options.openings + options.events)
    _say({"done": time.monotonic(), "cpu_s": time.process_time()})
    floor.close()


def _say(words: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
