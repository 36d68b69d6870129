"""What the demo sees of the pipeline from outside: its metrics page and the availability topic; never its internals."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from msgspec import MsgspecError

from schemas.records import decode_availability, split_availability_key
from schemas.topics import AVAILABILITY

EVENTS = "stockflow_events_total"
PUBLISHED = "stockflow_records_published_total"
DEAD_LETTERS = "stockflow_dead_letters_total"
LAG = "stockflow_lag_events"
LATENCY = "stockflow_update_latency_seconds_bucket"
STAGES = ("applied", "acknowledged urgent", "acknowledged routine", "visible urgent", "visible routine")

FLIPS_SHOWN = 8
RECORDS_PER_LOOK = 2_000
HTTP_TIMEOUT_S = 2.0
QUIET_S = 1.0

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)(?: \d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Buckets:
    """A cumulative histogram: upper bounds in seconds and the observations at or below each."""

    counts: Mapping[float, float]

    def since(self, earlier: Buckets) -> Buckets:
        """What was observed after `earlier`."""
        return Buckets({bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    def quantile(self, q: float) -> float | None:
        """Seconds below which the share `q` lies, linear inside its bucket; None without observations.

        What lies above the last finite bound is reported as that bound.
        """
        bounds = sorted(self.counts)
        if not bounds or self.counts[bounds[-1]] <= 0:
            return None
        rank = q * self.counts[bounds[-1]]
        low, below = 0.0, 0.0
        for bound in bounds:
            count = self.counts[bound]
            if count >= rank and count > below:
                return low if bound == float("inf") else low + (bound - low) * (rank - below) / (count - below)
            if bound != float("inf"):
                low, below = bound, count
        return low


@dataclass(frozen=True)
class Scrape:
    """One reading of the metrics page."""

    events: Mapping[str, float] = field(default_factory=dict)  # by outcome
    published: Mapping[str, float] = field(default_factory=dict)  # by topic and lane
    dead_letters: Mapping[str, float] = field(default_factory=dict)  # by reason
    lag: float | None = None
    latency: Mapping[str, Buckets] = field(default_factory=dict)  # by stage and lane

    @property
    def processed(self) -> int:
        """Events with an outcome."""
        return int(sum(self.events.values()))

    @property
    def publications(self) -> int:
        """Availability records published."""
        return int(sum(count for name, count in self.published.items() if name.startswith(AVAILABILITY.name)))


def read_metrics(text: str) -> Scrape:
    """The figures of interest on a page in Prometheus' text format; what is absent counts as nothing."""
    events: defaultdict[str, float] = defaultdict(float)
    published: defaultdict[str, float] = defaultdict(float)
    dead_letters: defaultdict[str, float] = defaultdict(float)
    latency: dict[str, dict[float, float]] = {}
    lags: list[float] = []
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None:
            continue
        name, value = sample[1], float(sample[3])
        labels = dict(_LABEL.findall(sample[2] or ""))
        if name == EVENTS:
            events[labels.get("outcome", "?")] += value
        elif name == PUBLISHED:
            published[" ".join(label for label in (labels.get("topic", "?"), labels.get("lane", "")) if label)] += value
        elif name == DEAD_LETTERS:
            dead_letters[labels.get("reason", "?")] += value
        elif name == LAG:
            lags.append(value)
        elif name == LATENCY:
            name_of_stage = f"{labels.get('stage', '?')} {labels.get('lane', '')}".strip()
            stage = latency.setdefault(name_of_stage, {})
            bound = float(labels["le"])
            stage[bound] = stage.get(bound, 0.0) + value
    return Scrape(
        events=dict(events),
        published=dict(published),
        dead_letters=dict(dead_letters),
        lag=sum(lags) if lags else None,
        latency={stage: Buckets(counts) for stage, counts in latency.items()},
    )


def fetch(url: str) -> str | None:
    """The body behind a URL; None if nothing answers there, or not with success."""
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return None


@dataclass(frozen=True)
class Flip:
    """A shelf's status changed."""

    sku: str
    location: str
    before: str
    after: str
    available: int | None
    cause: str


class StatusWatch:
    """Reads the availability topic from its start and remembers the newest status of each key and the last changes.

    `look` never blocks. A record that is not an availability record is counted and passed over.
    """

    def __init__(self, client_config: Mapping[str, str], topic: str, partitions: int) -> None:
        """Joins no group: it must not be seen by the pipeline's."""
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": "stockflow-demo-watch",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        self._status: dict[str, str] = {}
        self.records = 0
        self.unreadable = 0
        self.flips: deque[Flip] = deque(maxlen=FLIPS_SHOWN)
        self.flip_count = 0

    @property
    def statuses(self) -> Counter[str]:
        """How many keys have each status now."""
        return Counter(self._status.values())

    @property
    def keys(self) -> int:
        """Keys seen and not delisted."""
        return len(self._status)

    def look(self) -> None:
        """Take in what has arrived since the last look."""
        self._take_in(self._consumer.consume(RECORDS_PER_LOOK, 0))

    def catch_up(self) -> None:
        """Take in all that is there; returns once nothing has come for a moment."""
        while messages := self._consumer.consume(RECORDS_PER_LOOK, QUIET_S):
            self._take_in(messages)

    def _take_in(self, messages: Sequence[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise KafkaException(error)
                continue  # The client goes on by itself; a broker that stays away is noticed by the sender.
            self.take((message.key() or b"").decode(errors="replace"), message.value())

    def take(self, key: str, value: bytes | None) -> None:
        """Take in one record."""
        self.records += 1
        if value is None:
            self._status.pop(key, None)
            return
        try:
            record = decode_availability(value)
        except MsgspecError:
            self.unreadable += 1
            return
        before = self._status.get(key)
        self._status[key] = record.status
        if before is not None and before != record.status:
            sku, location = split_availability_key(key)
            self.flip_count += 1
            self.flips.appendleft(
                Flip(sku, location, before, record.status, record.available_to_ship, record.cause.type)
            )

    def close(self) -> None:
        """Leave the topic."""
        self._consumer.close()
