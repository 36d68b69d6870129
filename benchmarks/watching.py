"""When an event's effect could be read: from the availability topic, and from Redis. It only reads.

A record answers the event that it names as its cause, and with it the earlier events of the same kind and key: they
lie before it in the same partition of the same topic. So an event whose record was never published, because a newer one
took its place, counts with the time of that newer one. If a record of another kind came before that, which may or may
not hold the event, nothing is known; those few events are not counted, and the share that is counted is reported.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import redis
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from benchmarks.rig import Servers, wait_for

LOOK_S = 0.001  # Between two looks at Redis.
REST = 5  # Times as long as a look took: who looks must not slow down what is looked at.
GIVE_UP_S = 3.0  # So long after it was due an event is looked for: one without a record of its own shows in no look.


class _Event(msgspec.Struct):
    type: str
    id: str
    sku: str
    location: str


class _Caused(msgspec.Struct):
    id: str


class _Record(msgspec.Struct):
    version: int
    cause: _Caused


@dataclass(frozen=True)
class Due:
    """An event and the monotonic time at which it was due."""

    id: str
    type: str
    sku: str
    location: str
    at: float


def dues(values: Sequence[bytes], times: Sequence[float], begin: float) -> list[Due]:
    """The events with their due times, in order."""
    decode = msgspec.json.Decoder(_Event).decode
    events = map(decode, values)
    return [Due(one.id, one.type, one.sku, one.location, begin + at) for one, at in zip(events, times, strict=True)]


def answering(events: Sequence[Due], seen: Mapping[str, float]) -> list[str | None]:
    """For each event the event whose record was the first to hold it; None if there was none, or if it is not known.

    Args:
        events: in the order in which they were due.
        seen: when a record was first seen that names this event as its cause.
    """
    shown: dict[tuple[str, str], list[tuple[float, str]]] = {}  # By key: when, and of which kind.
    for event in events:
        if event.id in seen:
            shown.setdefault((event.sku, event.location), []).append((seen[event.id], event.type))
    found: list[str | None] = [None] * len(events)
    newer: dict[tuple[str, str, str], str] = {}
    for number in range(len(events) - 1, -1, -1):
        event = events[number]
        place = event.sku, event.location
        same = newer.get((*place, event.type))
        if event.id in seen:
            first = event.id if same is None or seen[event.id] <= seen[same] else same
        elif same is None or any(event.at < at < seen[same] and kind != event.type for at, kind in shown[place]):
            continue
        else:
            first = same
        found[number] = newer[(*place, event.type)] = first
    return found


class Answers:
    """Reads an availability topic from now on and notes when each cause was first seen, and in which version."""

    def __init__(self, where: Servers, topic: str, partitions: int) -> None:
        self.seen: dict[str, float] = {}
        self.versions: dict[str, int] = {}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": where.bootstrap, "group.id": "benchmark-reader", "fetch.wait.max.ms": 100}
        )
        ends = [TopicPartition(topic, partition, OFFSET_END) for partition in range(partitions)]
        self._consumer.assign(ends)
        wait_for(lambda: self._at_end(ends), "reader of availability", 30)
        self._thread = threading.Thread(target=self._read, name="answers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _at_end(self, ends: list[TopicPartition]) -> bool:
        """Whether all partitions have a position, so that nothing from now on is missed."""
        self._consumer.poll(0.1)
        return all(
            (self._consumer.get_watermark_offsets(end, cached=True) or (0, -1))[1] >= 0
            for end in self._consumer.assignment()
        )

    def _read(self) -> None:
        decode = msgspec.json.Decoder(_Record).decode
        while not self._stop.is_set():
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            for message in (first, *self._consumer.consume(1_000, 0)):
                if message.error() is None:
                    record = decode(message.value())  # type: ignore[arg-type]
                    if record.cause.id not in self.seen:
                        self.seen[record.cause.id] = time.monotonic()
                        self.versions[record.cause.id] = record.version


class RedisWatch:
    """Looks, about every millisecond, at the keys of some of the events from when they are due until they show."""

    def __init__(self, where: Servers, hashes: bool, events: Sequence[Due], answers: Answers) -> None:
        """Start looking.

        Args:
            where: the servers.
            hashes: whether the program writes a hash by SKU, or a plain key by SKU and location.
            events: those to look for, in the order in which they are due.
            answers: who knows the version in which an event was published.
        """
        self.looks: list[float] = []  # Seconds between two of them.
        self._found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self._hashes, self._events, self._answers = hashes, events, answers
        self._redis = redis.Redis.from_url(where.redis_url)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="redis-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()
        self._redis.close()

    def times(self, versions: Mapping[str, float]) -> dict[str, float]:
        """For the events that showed, by id: when the key first had the version that holds it, or a newer one."""
        times = {}
        for event in self._events:
            found, version = self._found.get((event.sku, event.location)), versions.get(event.id)
            if found and version is not None:
                index = bisect_left(found, (version, 0.0))
                if index < len(found):
                    times[event.id] = found[index][1]
        return times

    def _look(self) -> None:
        decode, versions = msgspec.json.Decoder(_Record).decode, self._answers.versions
        waiting: list[Due] = []
        following = 0
        last = now = time.monotonic()
        while not self._stop.is_set():
            time.sleep(max(LOOK_S, REST * (time.monotonic() - now)))
            now = time.monotonic()
            while following < len(self._events) and self._events[following].at <= now:
                waiting.append(self._events[following])
                following += 1
            if waiting:
                values = self._values(waiting)
                seen, left = time.monotonic(), []
                self.looks.append(seen - last)
                for event, value in zip(waiting, values, strict=True):
                    if value is not None:
                        record = decode(value)
                        found = self._found.setdefault((event.sku, event.location), [])
                        if not found or found[-1][0] < record.version:
                            found.append((record.version, seen))
                        if record.version >= versions.get(event.id, 1 << 62):
                            continue
                    if seen < event.at + GIVE_UP_S:
                        left.append(event)
                waiting = left
                last = seen
            else:
                last = now

    def _values(self, waiting: list[Due]) -> list[bytes | None]:
        with self._redis.pipeline(transaction=False) as pipe:
            for event in waiting:
                if self._hashes:
                    pipe.hget(f"availability:{event.sku}", event.location)
                else:
                    pipe.get(f"{event.sku}|{event.location}")
            return list(pipe.execute())
