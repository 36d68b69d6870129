"""Topics are made and checked, never harmed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from operations.topics import (
    Change,
    Difference,
    KafkaUnreachable,
    StartCheck,
    TopicsRefused,
    _Admin,
    diff,
    ensure,
    start_problems,
)
from schemas import topics as registry
from schemas.topics import HOUR_MS, TOPICS, Topic
from stockflow.embedded import TansuBroker
from stockflow.embedded.process import free_port, wait_until
from tests.services import Kafka

DAY_MS = 24 * HOUR_MS


def config(kafka: Kafka) -> dict[str, str]:
    return {"bootstrap.servers": kafka.bootstrap}


def named(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def make(kafka: Kafka, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> None:
    """A topic made by someone else, as soon as the broker shows it."""
    admin = AdminClient(config(kafka))
    admin.create_topics([NewTopic(name, partitions, 1, config=dict(settings or {}))])[name].result(timeout=10)
    assert wait_until(lambda: name in admin.list_topics(timeout=10).topics, timeout_s=10)


def alter(kafka: Kafka, name: str, key: str, value: str) -> None:
    """A setting moved by someone else, as soon as the broker shows it."""
    admin = AdminClient(config(kafka))
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(timeout=10)
    assert wait_until(lambda: settings_of(kafka, name)[key] == value, timeout_s=10)


def settings_of(kafka: Kafka, name: str) -> dict[str, str]:
    admin = AdminClient(config(kafka))
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    return {key: entry.value for key, entry in future.result(timeout=10).items()}


def partitions_of(kafka: Kafka, name: str) -> int:
    return len(AdminClient(config(kafka)).list_topics(timeout=10).topics[name].partitions)


@pytest.fixture
def with_one(kafka: Kafka, topic_prefix: str) -> Callable[..., str]:
    """A function that makes one topic by hand, the rest by `ensure`, and returns the prefix."""

    def build(topic: Topic, settings: Mapping[str, str], partitions: int = 2) -> str:
        make(kafka, topic_prefix + topic.name, partitions, settings)
        ensure(config(kafka), named(topic_prefix), 2, 1)
        return topic_prefix

    return build


def test_second_ensure_finds_nothing_to_do(kafka: Kafka, topic_prefix: str) -> None:
    """The first run makes every topic of the registry, the second nothing, and then nothing differs."""
    first = ensure(config(kafka), named(topic_prefix), 3, -1)
    assert first == [Change(topic_prefix + topic.name, f"made with 3 partitions, {topic.cleanup}") for topic in TOPICS]
    assert ensure(config(kafka), named(topic_prefix), 3, -1) == []
    assert diff(config(kafka), named(topic_prefix), 3) == []
    assert start_problems(config(kafka), named(topic_prefix)) == StartCheck(partitions=3)


def test_made_topics_have_the_settings_of_the_registry(kafka: Kafka, fresh_topics: Callable[..., str]) -> None:
    """Every setting that the registry names stands on the broker with that value."""
    prefix = fresh_topics()
    for topic in TOPICS:
        found = settings_of(kafka, prefix + topic.name)
        assert {key: found[key] for key in topic.config()} == topic.config(), topic.name


def test_diff_names_every_missing_topic_and_changes_nothing(kafka: Kafka, topic_prefix: str) -> None:
    """Looking twice gives the same answer: nothing was made in between."""
    expected = [
        Difference(topic_prefix + topic.name, "missing", "does not exist", "run `stockflow topics ensure`")
        for topic in TOPICS
    ]
    assert diff(config(kafka), named(topic_prefix), 3) == expected
    assert diff(config(kafka), named(topic_prefix), 3) == expected


def test_diff_names_a_wrong_partition_count(kafka: Kafka, with_one: Callable[..., str]) -> None:
    """The text has both counts and says that partitions must not be added."""
    prefix = with_one(registry.POS_SALES, registry.POS_SALES.config(), partitions=1)
    (found,) = diff(config(kafka), named(prefix), 2)
    assert (found.topic, found.kind, found.what) == (
        f"{prefix}pos-sales.v1",
        "partitions",
        "has 1 partitions, not 2",
    )
    assert "STOCKFLOW_PARTITIONS=1" in found.what_to_do
    assert partitions_of(kafka, f"{prefix}pos-sales.v1") == 1


def test_settings_topic_may_have_any_partition_count(kafka: Kafka, with_one: Callable[..., str]) -> None:
    """Every process reads all of its partitions, so their number does not matter."""
    prefix = with_one(registry.STOCK_SETTINGS, registry.STOCK_SETTINGS.config(), partitions=5)
    assert diff(config(kafka), named(prefix), 2) == []
    assert start_problems(config(kafka), named(prefix)) == StartCheck(partitions=2)


@pytest.mark.parametrize(
    ("case", "topic", "policy", "harm"),
    [
        ("facts would be compacted away", registry.POS_SALES, "compact", "all but the newest record"),
        ("quiet keys would expire", registry.AVAILABILITY, "delete", "keys that did not change"),
        ("both at once expires them too", registry.STOCK_STATE, "compact,delete", "keys that did not change"),
    ],
)
def test_wrong_cleanup_policy_is_named_and_left_alone(
    case: str, topic: Topic, policy: str, harm: str, kafka: Kafka, with_one: Callable[..., str]
) -> None:
    """Another policy may remove records at once, so a person has to decide; until then no process starts."""
    prefix = with_one(topic, {**topic.config(), "cleanup.policy": policy})
    (found,) = diff(config(kafka), named(prefix), 2)
    assert (found.topic, found.kind) == (prefix + topic.name, "cleanup"), case
    assert found.what.startswith(f"cleanup.policy is {policy}, not {topic.cleanup} ({harm}"), case
    assert settings_of(kafka, prefix + topic.name)["cleanup.policy"] == policy, case
    check = start_problems(config(kafka), named(prefix))
    assert check == StartCheck(None, problems=[str(found)]), case


@pytest.mark.parametrize(
    ("case", "topic", "key", "found", "left"),
    [
        ("facts kept too short", registry.POS_SALES, "retention.ms", HOUR_MS, 7 * DAY_MS),
        ("facts kept longer", registry.POS_SALES, "retention.ms", 30 * DAY_MS, 30 * DAY_MS),
        ("facts kept for ever", registry.POS_SALES, "retention.ms", -1, -1),
        ("deletes gone too soon", registry.AVAILABILITY, "delete.retention.ms", HOUR_MS, 7 * DAY_MS),
        ("segments rolled too late", registry.AVAILABILITY, "segment.ms", DAY_MS, HOUR_MS),
        ("segments rolled sooner", registry.AVAILABILITY, "segment.ms", HOUR_MS // 2, HOUR_MS // 2),
        ("state compacted at once", registry.STOCK_STATE, "min.compaction.lag.ms", 0, HOUR_MS),
        ("dead letters too small", registry.DEAD_LETTERS, "max.message.bytes", 1000, registry.DEAD_LETTER_BYTES_MAX),
    ],
)
def test_ensure_moves_a_setting_only_towards_its_bound(
    case: str, topic: Topic, key: str, found: int, left: int, kafka: Kafka, topic_prefix: str
) -> None:
    """Too little is raised and told; more than needed is the operator's choice. Other settings stay."""
    name = topic_prefix + topic.name
    make(kafka, name, 2, {**topic.config(), key: str(found), "flush.messages": "12345"})
    before = [difference for difference in diff(config(kafka), named(topic_prefix), 2) if difference.topic == name]
    changes = [change for change in ensure(config(kafka), named(topic_prefix), 2, 1) if change.topic == name]
    if found == left:
        assert (before, changes) == ([], []), case
    else:
        assert [difference.kind for difference in before] == ["setting"], case
        assert changes == [Change(name, f"set {key} {found} -> {left}")], case
    after = settings_of(kafka, name)
    assert (after[key], after["flush.messages"]) == (str(left), "12345"), case
    assert diff(config(kafka), named(topic_prefix), 2) == [], case


def test_ensure_keeps_what_is_in_a_topic(kafka: Kafka, fresh_topics: Callable[..., str]) -> None:
    """Records and partition counts are the same after an ensure that asks for more partitions."""
    prefix = fresh_topics(partitions=1)
    topic = prefix + registry.AVAILABILITY.name
    producer = Producer(config(kafka))
    producer.produce(topic, key="SKU-1|DC-1", value="kept")
    assert producer.flush(20) == 0
    assert ensure(config(kafka), named(prefix), 4, -1) == []
    assert {partitions_of(kafka, prefix + name.name) for name in TOPICS} == {1}
    consumer = Consumer({**config(kafka), "group.id": prefix})
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline = time.monotonic() + 20
    message = None
    while message is None and time.monotonic() < deadline:
        message = consumer.poll(0.2)
    consumer.close()
    assert message is not None
    assert message.value() == b"kept"


def test_start_is_refused_without_topics(kafka: Kafka, topic_prefix: str) -> None:
    """Every missing topic is named with the command that makes it."""
    check = start_problems(config(kafka), named(topic_prefix))
    assert check == StartCheck(
        None, [f"{topic_prefix}{topic.name}: missing; run `stockflow topics ensure`" for topic in TOPICS]
    )


def test_start_is_refused_if_partition_counts_differ(kafka: Kafka, with_one: Callable[..., str]) -> None:
    """One text tells which topics have which count."""
    prefix = with_one(registry.STOCK_ALERTS, registry.STOCK_ALERTS.config(), partitions=3)
    check = start_problems(config(kafka), named(prefix))
    assert check.partitions is None
    (problem,) = check.problems
    assert problem.startswith(f"partition counts differ (2: {prefix}pos-sales.v1, ")
    assert f"; 3: {prefix}stock-alerts.v1)" in problem


def test_start_is_refused_if_state_may_be_compacted_at_once(kafka: Kafka, fresh_topics: Callable[..., str]) -> None:
    """The state topic must keep overwritten records for an hour; other settings do not keep a process away."""
    prefix = fresh_topics()
    alter(kafka, prefix + registry.STOCK_STATE.name, "min.compaction.lag.ms", "60000")
    alter(kafka, prefix + registry.AVAILABILITY.name, "segment.ms", str(DAY_MS))
    check = start_problems(config(kafka), named(prefix))
    (problem,) = check.problems
    assert problem.startswith(f"{prefix}stock-state.v1: min.compaction.lag.ms is 60000, below 3600000: ")
    assert problem.endswith("run `stockflow topics ensure`")


def test_refusal_of_the_broker_is_told_in_its_words(kafka: Kafka, topic_prefix: str) -> None:
    """More replicas than brokers: the error names each topic and the broker's reason."""
    with pytest.raises(TopicsRefused, match=rf"{topic_prefix}pos-sales\.v1: not made: .*replication factor"):
        ensure(config(kafka), named(topic_prefix), 2, 7)


def test_unreachable_kafka_is_told_with_the_servers_tried() -> None:
    """Within the limit of time the error says where it looked, what went wrong and what to check."""
    servers = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(KafkaUnreachable) as caught:
        diff({"bootstrap.servers": servers}, named(""), 12, timeout_s=1)
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert text.startswith(f"Kafka does not answer at {servers} (")
    assert "Connection refused" in text
    assert "Check STOCKFLOW_BOOTSTRAP_SERVERS" in text


def test_what_was_wrong_with_a_broker_is_told_and_not_that_all_are_down() -> None:
    """The client reports both, in either order."""
    why, consequence = (
        KafkaError(KafkaError._SSL, "certificate verify failed"),
        KafkaError(KafkaError._ALL_BROKERS_DOWN),
    )
    for told in ((why, consequence), (consequence, why)):
        admin = _Admin({"bootstrap.servers": f"127.0.0.1:{free_port()}"}, 1)
        for error in told:
            admin._remember(error)
        assert admin._last_error == "certificate verify failed", told


def test_topics_are_made_and_checked_on_the_substitute_broker() -> None:
    """The demo without Java makes its topics with the same code, and finds them right."""
    with TansuBroker() as broker:
        servers = {"bootstrap.servers": broker.bootstrap}
        assert len(ensure(servers, named("demo-"), 4, -1)) == len(TOPICS)
        assert ensure(servers, named("demo-"), 4, -1) == []
        assert start_problems(servers, named("demo-")) == StartCheck(partitions=4)
