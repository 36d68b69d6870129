"""Make and check the topics of the registry on a broker.

It must never destroy: no topic deleted, no partition count changed, no setting moved so that facts go sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, yet not marked as exported
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from schemas.topics import STATE_COMPACTION_LAG_MS_MIN, STOCK_STATE, TOPICS, Topic

TIMEOUT_S = 10.0
POLL_INTERVAL_S = 0.05

# A setting of the registry is a bound, not a value: an operator who keeps more, or cleans sooner where only
# overwritten values go, is left alone. `ensure` moves a setting only towards its bound.
AT_LEAST = frozenset({"retention.ms", "delete.retention.ms", "max.message.bytes", "min.compaction.lag.ms"})
AT_MOST = frozenset({"segment.ms", "max.compaction.lag.ms", "min.cleanable.dirty.ratio"})
CLEANUP_POLICY = "cleanup.policy"
MIN_COMPACTION_LAG = "min.compaction.lag.ms"

TopicName = Callable[[str], str]
Kind = Literal["missing", "partitions", "cleanup", "setting", "unchecked"]


class KafkaUnreachable(ConnectionError):
    """No broker answered in time; the text names the servers tried and what to check."""


class TopicsRefused(RuntimeError):
    """The broker answered and refused to make or change topics; the text says which and why."""


@dataclass(frozen=True)
class Change:
    """One thing that `ensure` did: a topic made, or a setting moved."""

    topic: str
    what: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the registry wants it, and what to do about it.

    `kind` is `unchecked` where the broker would not tell: a warning, not a finding.
    """

    topic: str
    kind: Kind
    what: str
    what_to_do: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}; {self.what_to_do}"


@dataclass(frozen=True)
class StartCheck:
    """What a process needs to know of the topics before it starts.

    `partitions` is the count that all keyed topics share, None if they do not or if one is missing.
    """

    partitions: int | None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """Topics as they are on the broker, by name: partition counts, settings, settings that cannot be read."""

    partitions: Mapping[str, int]
    settings: Mapping[str, Mapping[str, str]]
    unreadable: Mapping[str, str]


def ensure(
    admin_config: Mapping[str, Any],
    topic_name: TopicName,
    partitions: int,
    replication: int,
    timeout_s: float = TIMEOUT_S,
) -> list[Change]:
    """Make what is missing and move settings that are short of the registry; what was done, or nothing.

    Partition counts and cleanup policies of existing topics are left as they are: `diff` names those.

    Args:
        admin_config: librdkafka properties, with `bootstrap.servers`.
        topic_name: the name on the broker for a name of the registry.
        partitions: partitions of every topic made.
        replication: replicas of every topic made; -1 is the broker's default.
        timeout_s: how long to wait for an answer to each request.

    Raises:
        KafkaUnreachable: no answer in time.
        TopicsRefused: the broker said no to a part; the other parts are done.
    """
    admin = _Admin(admin_config, timeout_s)
    before = admin.find(topic_name(topic.name) for topic in TOPICS)
    changes: list[Change] = []
    refusals: list[str] = []

    missing = [topic for topic in TOPICS if topic_name(topic.name) not in before.partitions]
    for topic, error in admin.create(missing, topic_name, partitions, replication):
        name = topic_name(topic.name)
        if error is None:
            changes.append(Change(name, f"made with {partitions} partitions, {topic.cleanup}"))
        elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # someone else was faster: as good
            refusals.append(f"{name}: not made: {error.str()}")

    short = {topic_name(topic.name): _short(topic, before.settings.get(topic_name(topic.name), {})) for topic in TOPICS}
    for name, error in admin.alter({name: wanted for name, wanted in short.items() if wanted}):
        moved = ", ".join(f"{key} {before.settings[name].get(key)} -> {value}" for key, value in short[name].items())
        if error is None:
            changes.append(Change(name, f"set {moved}"))
        else:
            refusals.append(f"{name}: not set: {moved}: {error.str()}")
    if refusals:
        raise TopicsRefused("the broker refused: " + "; ".join(refusals))
    return changes


def diff(
    admin_config: Mapping[str, Any], topic_name: TopicName, partitions: int, timeout_s: float = TIMEOUT_S
) -> list[Difference]:
    """What is missing or different from the registry with this partition count; changes nothing.

    Raises:
        KafkaUnreachable: no answer in time.
    """
    found = _Admin(admin_config, timeout_s).find(topic_name(topic.name) for topic in TOPICS)
    return [
        difference for topic in TOPICS for difference in _differences(topic, topic_name(topic.name), partitions, found)
    ]


def start_problems(admin_config: Mapping[str, Any], topic_name: TopicName, timeout_s: float = TIMEOUT_S) -> StartCheck:
    """Whether a process may start: topics there, one partition count, right cleanup, state kept long enough.

    Only what its guarantees rest on is a problem; other settings that differ are for `diff` to tell.

    Raises:
        KafkaUnreachable: no answer in time.
    """
    found = _Admin(admin_config, timeout_s).find(topic_name(topic.name) for topic in TOPICS)
    partitions, problems = _shared_partitions(topic_name, found)
    warnings: list[str] = []
    for topic in TOPICS:
        name = topic_name(topic.name)
        if name not in found.partitions:
            problems.append(f"{name}: missing; run `stockflow topics ensure`")
        elif name in found.unreadable:
            warnings.append(str(_unchecked(name, found.unreadable[name])))
        else:
            wrong = _wrong_cleanup(topic, name, found.settings[name])
            problems += [str(wrong)] if wrong is not None else []
    state = topic_name(STOCK_STATE.name)
    lag = found.settings.get(state, {}).get(MIN_COMPACTION_LAG)
    if lag is not None and _number(lag) < STATE_COMPACTION_LAG_MS_MIN:
        problems.append(
            f"{state}: {MIN_COMPACTION_LAG} is {lag}, below {STATE_COMPACTION_LAG_MS_MIN}: compaction could "
            "remove what a new owner must still see; run `stockflow topics ensure`"
        )
    return StartCheck(None if problems else partitions, problems, warnings)


def _shared_partitions(topic_name: TopicName, found: _Found) -> tuple[int | None, list[str]]:
    """The partition count of the keyed topics, and a text if they differ."""
    counts: dict[int, list[str]] = {}
    for topic in TOPICS:
        name = topic_name(topic.name)
        if topic.role != "settings" and name in found.partitions:
            counts.setdefault(found.partitions[name], []).append(name)
    if len(counts) <= 1:
        return next(iter(counts), None), []
    groups = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(counts.items()))
    return None, [
        f"partition counts differ ({groups}): a SKU must have the same partition number in all of them; "
        "make the topics anew with one count, or use new ones: set STOCKFLOW_TOPIC_PREFIX and run "
        "`stockflow topics ensure`"
    ]


def _differences(topic: Topic, name: str, partitions: int, found: _Found) -> Iterable[Difference]:
    if name not in found.partitions:
        yield Difference(name, "missing", "does not exist", "run `stockflow topics ensure`")
        return
    count = found.partitions[name]
    if topic.role != "settings" and count != partitions:
        yield Difference(
            name,
            "partitions",
            f"has {count} partitions, not {partitions}",
            f"set STOCKFLOW_PARTITIONS={count} if all topics have that many, else make the topic anew: added "
            "partitions would tear SKUs from their history",
        )
    if name in found.unreadable:
        yield _unchecked(name, found.unreadable[name])
        return
    wrong = _wrong_cleanup(topic, name, found.settings[name])
    if wrong is not None:
        yield wrong
    for key, value in _short(topic, found.settings[name]).items():
        bound = "at least" if key in AT_LEAST else "at most"
        yield Difference(
            name,
            "setting",
            f"{key} is {found.settings[name].get(key)}, wanted {bound} {value}",
            "run `stockflow topics ensure`",
        )


def _wrong_cleanup(topic: Topic, name: str, settings: Mapping[str, str]) -> Difference | None:
    policy = settings.get(CLEANUP_POLICY)
    if policy is None or policy == topic.cleanup:
        return None
    why = (
        "keys that did not change for a while would vanish"
        if topic.cleanup == "compact"
        else "all but the newest record of a key would vanish"
    )
    return Difference(
        name,
        "cleanup",
        f"{CLEANUP_POLICY} is {policy}, not {topic.cleanup} ({why})",
        f"set {CLEANUP_POLICY}={topic.cleanup} on the topic, once sure that nothing needed is lost by that",
    )


def _unchecked(name: str, error: str) -> Difference:
    return Difference(
        name,
        "unchecked",
        f"settings could not be read ({error})",
        f"compare {CLEANUP_POLICY} and the other settings by hand",
    )


def _short(topic: Topic, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings of the registry that an existing topic is short of; without readable settings nothing."""
    return {
        key: wanted
        for key, wanted in topic.settings.items()
        if key in settings and not _meets(key, settings[key], wanted)
    }


def _meets(key: str, found: str, wanted: str) -> bool:
    if key in AT_LEAST:
        return _number(found) >= _number(wanted)
    if key in AT_MOST:
        return _number(found) <= _number(wanted)
    return found == wanted


def _number(value: str) -> float:
    """A setting's value; Kafka writes "without end" as -1."""
    number = float(value)
    return math.inf if number == -1 else number


class _Admin:
    """An admin client that answers in plain values and says plainly when no broker does."""

    def __init__(self, config: Mapping[str, Any], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._servers = config.get("bootstrap.servers", "")
        self._last_error = ""
        # What goes wrong is in the exceptions; librdkafka's own lines on stderr would only repeat it.
        properties: dict[str, Any] = {"log_level": 0, **config, "error_cb": self._remember}
        self._client = AdminClient(properties)

    def find(self, names: Iterable[str]) -> _Found:
        """Partition counts and settings of those topics that exist."""
        counts = self._partition_counts()
        present = [name for name in names if name in counts]
        settings: dict[str, dict[str, str]] = {}
        unreadable: dict[str, str] = {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in present]
        futures = self._client.describe_configs(resources, request_timeout=self._timeout_s) if resources else {}
        for resource, future in futures.items():
            entries, error = self._outcome(future)
            if error is None:
                settings[resource.name] = {key: entry.value for key, entry in entries.items()}
            else:
                unreadable[resource.name] = error.str()
        return _Found({name: counts[name] for name in present}, settings, unreadable)

    def create(
        self, topics: list[Topic], topic_name: TopicName, partitions: int, replication: int
    ) -> list[tuple[Topic, KafkaError | None]]:
        """Make topics and wait until the broker shows a leader for each of their partitions."""
        if not topics:
            return []
        new = [
            NewTopic(
                topic_name(topic.name),
                num_partitions=partitions,
                replication_factor=replication,
                config=topic.config(),
            )
            for topic in topics
        ]
        futures = self._client.create_topics(new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s)
        outcomes = [(topic, self._outcome(futures[topic_name(topic.name)])[1]) for topic in topics]
        made = {topic_name(topic.name) for topic, error in outcomes if error is None}
        self._wait_until(lambda: made <= self._with_leaders(), "topics were made, but have no leaders yet")
        return outcomes

    def alter(self, settings: Mapping[str, Mapping[str, str]]) -> list[tuple[str, KafkaError | None]]:
        """Set some settings of topics, leaving all others as they are, and wait until the broker shows them."""
        if not settings:
            return []
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                    for key, value in wanted.items()
                ],
            )
            for name, wanted in settings.items()
        ]
        futures = self._client.incremental_alter_configs(resources, request_timeout=self._timeout_s)
        outcomes = [(resource.name, self._outcome(future)[1]) for resource, future in futures.items()]
        accepted = {name: settings[name] for name, error in outcomes if error is None}

        def shown() -> bool:
            now = self.find(accepted).settings
            return all(wanted.items() <= now.get(name, wanted).items() for name, wanted in accepted.items())

        self._wait_until(shown, "settings were accepted, but are not in force yet")
        return outcomes

    def _wait_until(self, done: Callable[[], bool], else_: str) -> None:
        """The controller answers before the brokers have followed; what runs next must find the new state."""
        deadline = time.monotonic() + self._timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise self._unreachable(else_)
            time.sleep(POLL_INTERVAL_S)

    def _partition_counts(self) -> dict[str, int]:
        return {name: len(topic.partitions) for name, topic in self._topics().items()}

    def _with_leaders(self) -> set[str]:
        """Topics that can be written and read now: each of their partitions has a leader."""
        return {
            name
            for name, topic in self._topics().items()
            if topic.partitions and all(partition.leader >= 0 for partition in topic.partitions.values())
        }

    def _topics(self) -> dict[str, TopicMetadata]:
        try:
            return self._client.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            raise self._unreachable(error.args[0].str()) from None

    def _outcome(self, future: Future[Any]) -> tuple[Any, KafkaError | None]:
        """The value, or the broker's refusal; no answer at all is raised."""
        try:
            return future.result(timeout=2 * self._timeout_s), None
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN):
                raise self._unreachable(reason.str()) from None
            return None, reason

    def _remember(self, error: KafkaError) -> None:
        """Keep the newest reason; that all brokers are down only follows from what was said of each."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._last_error:
            self._last_error = error.str()

    def _unreachable(self, reason: str) -> KafkaUnreachable:
        self._client.poll(0)
        detail = f"{reason}; {self._last_error}" if self._last_error else reason
        return KafkaUnreachable(
            f"Kafka does not answer at {self._servers} ({detail}). Check STOCKFLOW_BOOTSTRAP_SERVERS, that the "
            "broker runs, that the addresses in its advertised.listeners can be reached from here, and, for a "
            "secured broker, STOCKFLOW_KAFKA__SECURITY_PROTOCOL and what belongs to it."
        )
