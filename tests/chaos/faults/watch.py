"""What those who read the output notice of a fault: how long nothing new comes, and how old Redis is meanwhile.

It looks from outside all the time, around every fault: at the availability topic, at what is committed, and at Redis
as its readers see it. It must never go through a proxy that fails.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # public, not marked as exported

from schemas.topics import AVAILABILITY, KEYED_INPUTS
from sinks.view_store import AVAILABILITY_PREFIX
from stockflow.embedded.process import wait_until
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

# Under this load a partition has something new several times a second: a second of nothing is the fault's doing.
PER_PARTITION_AND_SECOND = 30
NOTICED_S = 1.0
BEHIND_S = 2.0  # Commits come in cuts: so many seconds of load may be uncommitted when nothing is wrong.
WELL_FOR_S = 1.5
USED_TO_TIMEOUT_S = 15.0
WELL_TIMEOUT_S = 150.0
LOOK_INTERVAL_S = 0.05
ANSWER_TIMEOUT_S = 2.0
REDIS_TIMEOUT_S = 1.0
ARRIVALS_KEPT = 2_000  # Per key: more than come in the longest outage here.


@dataclass
class Health:
    """One thing that readers rely on: how bad it was since `reset`, and when it was last not well."""

    limit: float
    worst: float = 0.0
    unwell_at: float = 0.0

    def note(self, value: float) -> None:
        """As it is now."""
        self.worst = max(self.worst, value)
        if value > self.limit:
            self.unwell_at = time.monotonic()

    def reset(self) -> None:
        """A fault begins."""
        self.worst = self.unwell_at = 0.0

    def well_after(self, moment: float) -> float:
        """How many seconds after a moment it was well for good; 0 if it was before."""
        return max(0.0, self.unwell_at - moment)


@dataclass
class Fault:
    """One fault while it lasts, and then what was seen of it. Times are seconds."""

    name: str
    begun_at: float
    healed_at: float | None = None
    lasted: float = 0.0
    noticed_from: float = 0.0
    silence: float = 0.0
    flows_after: float = 0.0
    caught_up_after: float = 0.0
    view_age: float = 0.0
    view_after: float = 0.0

    def healed(self) -> None:
        """The cause is gone; without this call it is gone at the end of the block."""
        self.healed_at = time.monotonic()


@dataclass
class Watch:
    """Watches one stage under its own continuous load; every fault goes into `report`."""

    stage: Stage
    load: Sending
    seed: int
    report: list[Fault]
    per_second: int = 0
    problems: list[str] = field(default_factory=list)
    view_may_fall: bool = False  # Redis itself has lost data: a reader sees older values until they are made good.

    def __post_init__(self) -> None:
        self.per_second = self.per_second or PER_PARTITION_AND_SECOND * self.stage.partitions
        self._topic, self._view, self._lag = Health(NOTICED_S), Health(NOTICED_S), Health(BEHIND_S * self.per_second)
        self._arrived_at = dict.fromkeys(range(self.stage.partitions), time.monotonic())
        self._newest: dict[str, int] = {}
        self._arrivals: dict[str, deque[tuple[int, float]]] = {}  # version and when it came, by key
        self._shown: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._seen_in_redis: set[tuple[str, int]] = set()
        self._ending = threading.Event()
        looks = (self._watch_topic, self._watch_view, self._watch_lag)
        self._threads = [threading.Thread(target=look, name=look.__name__, daemon=True) for look in looks]

    def start(self) -> Watch:
        """Begin to send and to watch, once a pipeline is there; comes back when all is well."""
        self._tell_stories()
        for thread in self._threads:
            thread.start()
        self._get_used_to_the_machine()
        return self

    def _tell_stories(self) -> None:
        """Without items: a SKU that is delisted has nothing new to say, which looks like a fault from outside."""
        told = stories(seed=self.seed, partitions=self.stage.partitions, items_percent=0)
        self.load.start(told, self.per_second)

    @contextmanager
    def fault(self, name: str) -> Iterator[Fault]:
        """Everything inside is one fault. Waits until all is well again, and notes what was seen."""
        for health in self._healths().values():
            health.reset()
        fault = Fault(name, time.monotonic())
        yield fault
        if fault.healed_at is None:
            fault.healed()
        assert fault.healed_at is not None
        self._wait_until_well(f"after: {name}")
        fault.lasted = fault.healed_at - fault.begun_at
        fault.noticed_from = max(self._topic.limit, self._view.limit)
        fault.silence, fault.view_age = self._topic.worst, self._view.worst
        fault.flows_after = self._topic.well_after(fault.healed_at)
        fault.caught_up_after = self._lag.well_after(fault.healed_at)
        fault.view_after = self._view.well_after(fault.healed_at)
        self.report.append(fault)

    def rest(self, *, late_records: bool = False, skew: timedelta = timedelta(0)) -> None:
        """Let everything come to rest, and the whole verdict; `go_on` sends again."""
        settle(self.stage, self.load, late_records=late_records, skew=skew)

    def go_on(self) -> None:
        """Send again, other stories, and wait until all is well."""
        self.seed += 1
        self._tell_stories()
        self._wait_until_well("after a rest")

    def judge(self, *, late_records: bool = False) -> None:
        """The whole verdict, and that Redis has never shown anything that the topic does not have."""
        self.close()
        self.rest(late_records=late_records)
        told = {
            ((record.key or b"").decode(), _version(record.value))
            for record in self.stage.read(AVAILABILITY)
            if record.value is not None
        }
        unknown = sorted(self._seen_in_redis - told)
        problems = [*self.problems, *(f"Redis had {key} version {version}" for key, version in unknown)]
        assert not problems, f"{len(problems)} things that no reader may see:\n" + "\n".join(problems[:20])

    def close(self) -> None:
        """Stop watching."""
        self._ending.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def wait(self, seconds: float) -> None:
        """Let a fault last so long; processes that are supervised are started again meanwhile."""
        until = time.monotonic() + seconds
        self.stage.eventually(lambda: time.monotonic() >= until, "the fault lasts", seconds + WELL_TIMEOUT_S)

    # Each in a thread of its own: one that waits for an answer must not hide what the others see.

    def _watch_topic(self) -> None:
        quick = {"fetch.wait.max.ms": 50, "reconnect.backoff.max.ms": 200, "retry.backoff.max.ms": 200}
        quick |= {"topic.metadata.refresh.interval.ms": 1_000, "socket.timeout.ms": 10_000}
        consumer = Consumer({**self.stage.client_config, "group.id": "watch", "log_level": 0, **quick})
        name = self.stage.topic(AVAILABILITY.name)
        consumer.assign([TopicPartition(name, partition, 0) for partition in range(self.stage.partitions)])
        try:
            while not self._ending.is_set():
                for message in consumer.consume(500, LOOK_INTERVAL_S):
                    key, value, partition = message.key(), message.value(), message.partition()
                    if message.error() is None and key is not None and value is not None and partition is not None:
                        self._arrived_at[partition] = time.monotonic()
                        self._take(key.decode(), _version(value))
                self._topic.note(time.monotonic() - min(self._arrived_at.values()))
        finally:
            consumer.close()

    def _take(self, key: str, version: int) -> None:
        if version > self._newest.get(key, -1):
            self._newest[key] = version
            self._arrivals.setdefault(key, deque(maxlen=ARRIVALS_KEPT)).append((version, time.monotonic()))

    def _watch_view(self) -> None:
        while not self._ending.wait(LOOK_INTERVAL_S):
            known = sorted({key.partition("|")[0] for key in list(self._newest)})
            self._look_at_view(known)
            now = time.monotonic()
            self._view.note(max((self._age(key, now) for key in list(self._newest)), default=0.0))

    def _look_at_view(self, skus: list[str]) -> None:
        assert self.stage.redis_url is not None
        try:
            with redis.Redis.from_url(self.stage.redis_url, socket_timeout=REDIS_TIMEOUT_S) as client:
                pipeline = client.pipeline(transaction=False)
                for sku in skus:
                    pipeline.hgetall(AVAILABILITY_PREFIX + sku)
                found = pipeline.execute()
        except redis.RedisError:
            return  # What nobody can read gets older.
        there = {}
        for sku, fields in zip(skus, found, strict=True):
            for location, value in fields.items():
                there[f"{sku}|{location.decode()}"] = _version(value)
        for key, version in there.items():
            if version < self._shown.get(key, -1) and not self.view_may_fall:
                self.problems.append(f"Redis went back: {key} from {self._shown[key]} to {version}")
        now = time.monotonic()
        self._missing_since = {key: self._missing_since.get(key, now) for key in self._shown.keys() - there.keys()}
        self._shown |= there
        self._seen_in_redis |= set(there.items())

    def _age(self, key: str, now: float) -> float:
        """How long there has been something newer than what Redis shows; or how long a value has been missing."""
        if key in self._missing_since:
            return now - self._missing_since[key]
        shown = self._shown.get(key, -1)
        newer = (arrived_at for version, arrived_at in list(self._arrivals[key]) if version > shown)
        return now - next(newer, now)

    def _watch_lag(self) -> None:
        ask = _Lag(self.stage)
        while not self._ending.wait(LOOK_INTERVAL_S):
            try:
                self._lag.note(ask.behind())
            except KafkaException:
                self._lag.note(float("inf"))
                ask = _Lag(self.stage)

    def _get_used_to_the_machine(self) -> None:
        """Where undisturbed output already takes longer, a fault must take longer still to be noticed."""
        while not wait_until(lambda: self._well_since(time.monotonic() - WELL_FOR_S), USED_TO_TIMEOUT_S):
            for health in self._healths().values():
                health.limit *= 2
        self._wait_until_well("after the start")

    def _well_since(self, moment: float) -> bool:
        return all(health.worst > 0 and health.unwell_at < moment for health in self._healths().values())

    def _healths(self) -> dict[str, Health]:
        return {"topic": self._topic, "Redis": self._view, "commits": self._lag}

    def _wait_until_well(self, text: str) -> None:
        since = time.monotonic()

        def well() -> bool:
            last = max(since, self._topic.unwell_at, self._view.unwell_at, self._lag.unwell_at)
            return time.monotonic() - last > WELL_FOR_S

        try:
            self.stage.eventually(well, f"all is well {text}", WELL_TIMEOUT_S)
        except AssertionError as error:
            now = time.monotonic()
            state = {name: f"{now - health.unwell_at:.1f} s ago" for name, health in self._healths().items()}
            raise type(error)(f"{error}; last unwell: {state}") from error


class _Lag:
    """Input records that are not committed; with new clients after every error, which know where the leaders are."""

    def __init__(self, stage: Stage) -> None:
        names = [stage.topic(topic.name) for topic in KEYED_INPUTS]
        self._places = [TopicPartition(name, p) for name in names for p in range(stage.partitions)]
        self._admin = AdminClient({**stage.client_config, "log_level": 0})
        self._group = Consumer({**stage.client_config, "group.id": stage.group, "log_level": 0})  # never joins

    def behind(self) -> int:
        """How many, over all partitions."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = dict.fromkeys(self._places, latest)
        answers = self._admin.list_offsets(asked, request_timeout=ANSWER_TIMEOUT_S)
        ends = sum(answer.result().offset for answer in answers.values())
        committed = self._group.committed(self._places, timeout=ANSWER_TIMEOUT_S)
        return ends - sum(max(0, tp.offset) for tp in committed)


def _version(value: bytes) -> int:
    return int(msgspec.json.decode(value)["version"])


def table(report: list[Fault]) -> list[str]:
    """One line per fault, under a heading that says what the figures mean."""
    heading = ("fault", "lasted", "silence", "flows", "lag 0", "Redis age", "Redis current")
    rows = [heading] + [
        (
            fault.name,
            *(f"{seconds:.1f}" for seconds in (fault.lasted, fault.silence, fault.flows_after)),
            *(f"{seconds:.1f}" for seconds in (fault.caught_up_after, fault.view_age, fault.view_after)),
        )
        for fault in report
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = [
        " | ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [
        "Seconds. silence: the longest time without anything new in some partition; Redis age: how old a value there",
        "could be; flows, lag 0, Redis current: how long after healing (0: before it, or never disturbed, which on "
        f"this machine was all below {max(fault.noticed_from for fault in report):.0f} s).",
        *lines,
    ]
