"""What every measurement on real servers needs: servers, topics, loading, the two programs, and the check of results.

A program's time counts only after `check_topic` and `check_redis` have found its result right.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import redis
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from benchmarks.floor import TOPIC as FLOOR_TOPIC
from benchmarks.workload import Batches, Expected
from operations.topics import ensure
from schemas.topics import AVAILABILITY
from stockflow.demo.observe import fetch
from stockflow.demo.pipeline import Pipeline
from stockflow.embedded import KafkaBroker, RedisServer
from stockflow.embedded.process import free_port, wait_until

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path.home() / ".cache" / "stockflow"
HEAP_MB = 1_024
READY_S = 90.0
FINISH_S = 300.0
METADATA_S = 10.0
LOOK_INTERVAL_S = 0.05
NO_LEADER_YET = (KafkaError._NOENT, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)
GROUP = "stockflow"
CALM_S, CALM_SHARE = 2.0, 0.15  # For so long at most this share of the machine in use.
_RECORDS_SENT = re.compile(r'stockflow_records_published_total\{.*topic="([^"]*)".*\} (\S+)$')


class WrongResult(Exception):
    """A program's time does not count, because what it published or wrote is not what the events say."""


@dataclass(frozen=True)
class Servers:
    """Addresses of the broker and Redis that both programs use."""

    bootstrap: str
    redis_url: str
    description: str
    pids: tuple[int, ...] = ()
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # Of a broker of our own.

    def cpu_s(self) -> float:
        """CPU seconds that those of our own have used so far."""
        return sum(cpu_of(pid) for pid in self.pids)


@contextmanager
def servers(folder: Path, bootstrap: str | None = None, redis_url: str | None = None) -> Iterator[Servers]:
    """Servers of our own, unless addresses are given; stopped afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = None if bootstrap else KafkaBroker(CACHE, heap_mb=HEAP_MB, session_ms=10_000).__enter__()
    try:
        store = None if redis_url else RedisServer().__enter__()
        try:
            yield Servers(
                bootstrap or broker.bootstrap,  # type: ignore[union-attr]
                redis_url or store.url,  # type: ignore[union-attr]
                f"{broker.description if broker else bootstrap}, {store.description if store else redis_url}",
                tuple(server.pid for server in (broker, store) if server is not None and server.pid is not None),
                {} if broker is None else {**broker._properties, "heap": f"{HEAP_MB} MB, serial collector"},
            )
        finally:
            if store is not None:
                store.close()
    finally:
        if broker is not None:
            broker.close()


def add_place(options: argparse.ArgumentParser) -> None:
    """The options that say where a measurement runs, and when."""
    options.add_argument("--calm", type=float, default=0, help="seconds to wait, if need be, for an idle machine")
    options.add_argument("--bootstrap", help="a broker to use instead of our own")
    options.add_argument("--redis-url", help="a Redis to use instead of our own; its database is EMPTIED")
    options.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="for logs and results")


def add_shape(options: argparse.ArgumentParser, events: int, rounds: int) -> None:
    """The options that say what is measured: so many events, over so many balances, so many times."""
    options.add_argument("--events", type=int, default=events)
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--seed", type=int, default=3)


def make_topics(where: Servers, prefix: str, partitions: int) -> None:
    """A fresh topic set under a prefix, and the floor's output topic beside it."""
    config: dict[str, Any] = {"bootstrap.servers": where.bootstrap}
    ensure(config, lambda name: prefix + name, partitions, -1)
    topic = NewTopic(prefix + FLOOR_TOPIC, partitions, -1, config=AVAILABILITY.config())
    admin = AdminClient(config)  # Its futures end with it.
    for future in admin.create_topics([topic], operation_timeout=30).values():
        future.result()


def drop_topics(where: Servers, prefix: str) -> None:
    """Remove every topic of a prefix (a peer's changelog has it inside), so that rounds do not add up on the disk."""
    admin = AdminClient({"bootstrap.servers": where.bootstrap})
    names = [name for name in admin.list_topics(timeout=10).topics if prefix in name]
    for future in admin.delete_topics(names).values():
        future.result()


class Loader:
    """Puts events into the input topics; the last ones become visible all at once, at `release`."""

    def __init__(self, where: Servers, prefix: str) -> None:
        self._prefix = prefix
        common: dict[str, Any] = {
            "bootstrap.servers": where.bootstrap,
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 2_000_000,
        }
        self._plain = Producer(common)
        self._held = Producer({**common, "transactional.id": f"{prefix}loader", "transaction.timeout.ms": 600_000})
        self.positions: dict[tuple[str, int], int] = {}
        self._failed: KafkaError | None = None

    def load(self, batches: Batches) -> None:
        """Append and wait for the acknowledgement; visible at once."""
        self._append(self._plain, batches)

    def hold_back(self, batches: Batches) -> None:
        """Append in a transaction that is not committed: in the log, but no reader may see it yet."""
        self._held.init_transactions(60)
        self._held.begin_transaction()
        self._append(self._held, batches)

    def release(self) -> float:
        """Commit the transaction; the monotonic time right before."""
        at = time.monotonic()
        self._held.commit_transaction(60)
        return at

    def _append(self, producer: Producer, batches: Batches) -> None:
        for (topic, partition), messages in batches.items():
            queued = producer.produce_batch(
                self._prefix + topic, messages, partition=partition, on_delivery=self._delivered
            )
            if queued != len(messages):
                raise RuntimeError(f"{topic}: {len(messages) - queued} events were not taken")
            producer.poll(0)
        left = producer.flush(120)
        if left or self._failed:
            raise RuntimeError(f"{left} events were not acknowledged: {self._failed}")

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed = error
        else:
            self.positions[message.topic(), message.partition()] = message.offset() + 1


class StockflowRun:
    """`stockflow run` as a user starts it, and its committed positions seen from outside."""

    def __init__(
        self,
        where: Servers,
        prefix: str,
        settings: Mapping[str, str],
        folder: Path,
        program: Sequence[str] = (sys.executable, "-m", "stockflow"),
    ) -> None:
        self._where = where
        port = free_port()
        self.log_file = folder / f"{prefix}stockflow.log"
        self._pipeline = Pipeline(
            {
                "STOCKFLOW_BOOTSTRAP_SERVERS": where.bootstrap,
                "STOCKFLOW_REDIS_URL": where.redis_url,
                "STOCKFLOW_TOPIC_PREFIX": prefix,
                "STOCKFLOW_GROUP_ID": prefix + GROUP,
                "STOCKFLOW_METRICS_HOST": "127.0.0.1",
                "STOCKFLOW_METRICS_PORT": str(port),
                # Events that are held back count as lag: the process is ready without them.
                "STOCKFLOW_READY_LAG_MAX": "1000000000",
                **settings,
            },
            port,
            self.log_file,
            program,
        )
        self._group = prefix + GROUP
        self._admin = AdminClient({"bootstrap.servers": where.bootstrap})

    @property
    def pid(self) -> int:
        """Its process id."""
        process = self._pipeline._process
        assert process is not None
        return process.pid

    def start(self) -> None:
        """Start it and wait until it owns and has restored all partitions."""
        self.launch()
        self._pipeline.wait_ready()

    def launch(self) -> None:
        """Start it without waiting for anything."""
        self._pipeline.start()

    @property
    def is_ready(self) -> bool:
        """Whether it owns partitions, has restored them and keeps up."""
        self._pipeline.check()
        return self._pipeline.is_ready

    @property
    def live_partitions(self) -> int:
        """How many partitions it works on by now."""
        return int(self.gauge('stockflow_partitions{state="live"}'))

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._pipeline.kill()

    def committed(self, positions: Mapping[tuple[str, int], int]) -> int:
        """How many of the events below these positions the group has committed."""
        return committed_events(self._admin, self._group, positions)

    def wait_committed(
        self, positions: Mapping[tuple[str, int], int], seen: Callable[[float, int], None] | None = None
    ) -> float:
        """Block until all positions are committed; the monotonic time of the look that found it.

        `seen` is told of each look: monotonic time and committed events.
        """
        total, deadline = sum(positions.values()), time.monotonic() + FINISH_S
        while True:
            count = self.committed(positions)
            now = time.monotonic()
            if seen is not None:
                seen(now, count)
            if count >= total:
                return now
            self._pipeline.check()
            if now > deadline:
                raise TimeoutError(f"{count} of {total} events committed after {FINISH_S:.0f} s")
            time.sleep(LOOK_INTERVAL_S)

    def wait_visible(self) -> float:
        """Block until nothing waits for Redis; the monotonic time of the look that found it."""
        deadline = time.monotonic() + FINISH_S
        while time.monotonic() < deadline:
            text = fetch(self._pipeline.metrics_url)
            if text is not None and "\nstockflow_redis_backlog_keys 0.0\n" in text:
                return time.monotonic()
            time.sleep(LOOK_INTERVAL_S)
        raise TimeoutError("Redis was not brought up to date")

    def records_sent(self) -> dict[str, int]:
        """Records sent so far by topic, all lanes."""
        sent: dict[str, int] = {}
        for line in (fetch(self._pipeline.metrics_url) or "").splitlines():
            found = _RECORDS_SENT.match(line)
            if found is not None:
                sent[found[1]] = sent.get(found[1], 0) + int(float(found[2]))
        return sent

    def gauge(self, name: str) -> float:
        """The value of a metric without labels; 0.0 if it has none."""
        for line in (fetch(self._pipeline.metrics_url) or "").splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def stop(self) -> None:
        """End it in good order."""
        self._pipeline.stop()

    def close(self) -> None:
        """End it, however it is."""
        self._pipeline.close()


class FloorRun:
    """The floor as a process of its own."""

    def __init__(
        self,
        where: Servers,
        prefix: str,
        partitions: int,
        openings: int,
        events: int,
        linger_ms: int,
        conflates: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.floor", "--bootstrap", where.bootstrap),
                *("--redis-url", where.redis_url, "--prefix", prefix, "--partitions", str(partitions)),
                *("--openings", str(openings), "--events", str(events), "--linger-ms", str(linger_ms)),
                *(("--conflates",) if conflates else ()),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def heard(self, word: str) -> dict[str, float]:
        """Block until it says a word; what it says with it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line or word not in (words := json.loads(line)):
            raise RuntimeError(f"the floor ended or said something else: {line!r}")
        return dict(words)

    def close(self, wait_s: float = 10) -> None:
        """End it, however it is; it may end by itself for so long."""
        if self._process.poll() is None:
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def committed_events(admin: AdminClient, group: str, positions: Mapping[tuple[str, int], int]) -> int:
    """How many of the events below these positions a group has committed."""
    wanted = [TopicPartition(topic, partition) for topic, partition in positions]
    request = ConsumerGroupTopicPartitions(group, wanted)
    answer = admin.list_consumer_group_offsets([request])[group].result()
    return sum(min(max(0, tp.offset), positions[tp.topic, tp.partition]) for tp in answer.topic_partitions)


def records_on(admin: AdminClient, topic: str, partitions: int) -> int:
    """How many records were written to a topic so far, by its end offsets; waits for a topic that was just made."""
    latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(partitions)}
    deadline = time.monotonic() + METADATA_S
    while True:
        try:
            return sum(future.result().offset for future in admin.list_offsets(latest).values())
        except KafkaException as error:
            if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_INTERVAL_S)


def resident_of(pid: int) -> int:
    """Bytes of a process in memory now, from the proc file system; 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def cpu_of(pid: int, main_thread: bool = False) -> float:
    """CPU seconds of a process, or of its first thread, from the proc file system; 0.0 where there is none."""
    try:
        path = Path(f"/proc/{pid}/task/{pid}/stat" if main_thread else f"/proc/{pid}/stat")
        fields = path.read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


class CpuClock:
    """CPU used from now on: by a program, by the servers, and by everything else; the program's memory at the end."""

    def __init__(self, pid: int, where: Servers) -> None:
        self.resident_bytes = 0
        self._pid, self._where = pid, where
        self._begin = self._now()

    def stop(self) -> None:
        """End the measurement; the process must still be there."""
        end = self._now()
        self.resident_bytes = resident_of(self._pid)
        self._all, self._loop, self._servers, self._mine, self._machine, self._seconds = (
            after - before for after, before in zip(end, self._begin, strict=True)
        )

    def us_per(self, events: int) -> tuple[float, float, float]:
        """Microseconds per event: all threads, first thread, servers."""
        return self._all / events * 1e6, self._loop / events * 1e6, self._servers / events * 1e6

    @property
    def others(self) -> float:
        """The share of the machine that neither program, servers nor this process used, but somebody did."""
        used = self._machine - self._all - self._servers - self._mine
        return max(0.0, used) / (self._seconds * (os.cpu_count() or 1))

    def _now(self) -> tuple[float, ...]:
        return (
            cpu_of(self._pid),
            cpu_of(self._pid, main_thread=True),
            self._where.cpu_s(),
            time.process_time(),
            machine_cpu_s(),
            time.monotonic(),
        )


def machine_cpu_s() -> float:
    """CPU seconds that everything on this machine has used so far; 0.0 without a proc file system."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, *rest = (int(field) for field in fields[:8])
    return (user + nice + system + sum(rest)) / 100


def wait_for_calm(limit_s: float) -> bool:
    """Block until the machine has been nearly idle for a moment, or the time is up; whether it is."""
    deadline = time.monotonic() + limit_s
    while True:
        busy, since = machine_cpu_s(), time.monotonic()
        time.sleep(CALM_S)
        share = (machine_cpu_s() - busy) / ((time.monotonic() - since) * (os.cpu_count() or 1))
        if share <= CALM_SHARE:
            return True
        if time.monotonic() >= deadline:
            return False


def check_topic(where: Servers, topic: str, expected: Expected) -> tuple[int, int]:
    """Read an availability topic to its end and compare its newest records with the events' sums.

    Returns:
        Records on the topic, and their mean size in bytes.

    Raises:
        WrongResult: a key is missing or a sum differs.
    """
    newest: dict[bytes, tuple[int, int, int]] = {}
    decoder = msgspec.json.Decoder(_Numbers)
    count = size = 0
    for key, value in read_all(where, topic):
        record = decoder.decode(value)
        count += 1
        size += len(value)
        if key not in newest or newest[key][0] < record.version:
            newest[key] = (record.version, record.on_hand, record.committed)
    found = Expected(len(newest), sum(n[1] for n in newest.values()), sum(n[2] for n in newest.values()))
    if found != expected:
        raise WrongResult(f"{topic}: {found}, expected {expected}")
    return count, size // max(1, count)


class _Numbers(msgspec.Struct):
    version: int
    on_hand: int
    committed: int


def read_all(where: Servers, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every record of a topic, up to the ends found on the way."""
    consumer = Consumer(
        {"bootstrap.servers": where.bootstrap, "group.id": "benchmark-reader", "enable.partition.eof": True}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        left = set(partitions)
        while left:
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is None:
                    yield message.key(), message.value()  # type: ignore[misc]
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def check_redis(where: Servers, expected: Expected, hashes: bool) -> None:
    """Compare what Redis holds with the events' sums: hashes by SKU, or plain keys by SKU and location.

    Raises:
        WrongResult: a key is missing or a sum differs.
    """
    decoder = msgspec.json.Decoder(_Numbers)
    found = Expected()
    with redis.Redis.from_url(where.redis_url) as client:
        names = list(client.scan_iter(match="availability:*" if hashes else "SKU-*", count=5_000))
        for start in range(0, len(names), 1_000):
            part = names[start : start + 1_000]
            if hashes:
                with client.pipeline(transaction=False) as pipe:
                    for name in part:
                        pipe.hvals(name)
                    values = [value for one in pipe.execute() for value in one]
            else:
                values = client.mget(part)
            for value in values:
                record = decoder.decode(value)
                found.keys += 1
                found.on_hand += record.on_hand
                found.committed += record.committed
    if found != expected:
        raise WrongResult(f"Redis: {found}, expected {expected}")


def empty_redis(where: Servers) -> None:
    """Remove everything from it; only ever called on the benchmark's own database."""
    with redis.Redis.from_url(where.redis_url) as client:
        client.flushdb()


def take_in(where: Servers, prefix: str, positions: Mapping[tuple[str, int], int], folder: Path) -> None:
    """Run stockflow until all below these positions is committed and shown in Redis, and stop it."""
    program = StockflowRun(where, prefix, {}, folder)
    try:
        program.start()
        program.wait_committed(positions)
        program.wait_visible()
        program.stop()
    finally:
        program.close()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = FINISH_S) -> None:
    """Block until a condition holds.

    Raises:
        TimeoutError: it does not in time.
    """
    if not wait_until(condition, timeout_s):
        raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")


__all__ = [
    "CpuClock",
    "FloorRun",
    "Loader",
    "Servers",
    "StockflowRun",
    "WrongResult",
    "check_redis",
    "check_topic",
    "committed_events",
    "drop_topics",
    "empty_redis",
    "make_topics",
    "records_on",
    "resident_of",
    "servers",
    "take_in",
    "wait_for",
    "wait_for_calm",
]
