"""The whole audit on a real Kafka and a real Redis: a right world is equal, every planted fault is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import urlsplit

import msgspec
import pytest
import redis
from confluent_kafka import Producer
from rich.console import Console

from operations.audit import AuditImpossible, AuditReport, audit, render
from operations.audit.log import Extent, Log
from operations.audit.published import COMPARED_FIELDS
from operations.topics import ensure
from schemas import topics
from schemas.records import (
    VOLATILE_FIELDS,
    Availability,
    Cause,
    NetworkAvailability,
    Sources,
    StockAlert,
    availability_key,
    encode,
    split_availability_key,
)
from stockflow.embedded import ServerUnavailable, TansuBroker
from tests import services

PARTITIONS = 2
HOME = topics.partition_of("SKU-1", PARTITIONS)  # SKU-1 is alone there, so its offsets can be named.
# Long ago, because brokers refuse records from the future; the audit takes the time as an argument.
NOW = datetime(2020, 1, 1, 12, 0, tzinfo=timezone.utc)
MORNING = datetime(2020, 1, 1, 9, 0, tzinfo=timezone.utc)
VIEW_DATABASE = 9  # Other tests use the shared Redis too; the audit reads all of a database.

Place = tuple[str, int, int]


@dataclass
class Input:
    """One record for an input topic, and what the pipeline made of it."""

    topic: topics.Topic
    key: str
    value: bytes | None
    outcome: str
    reason: str = ""

    @property
    def partition(self) -> int:
        return topics.partition_of(self.key, PARTITIONS)


def told(topic: topics.Topic, outcome: str, type_: str, sku: str, **own: object) -> Input:
    """A fact as it arrives."""
    content = {
        "type": type_,
        "source": "test",
        "occurred_at": "2020-01-01T09:00:00Z",
        "sku": sku,
        "location": "S1",
        **own,
    }
    return Input(topic, sku, msgspec.json.encode(content), outcome)


def record(version: int, sku: str, **numbers: object) -> Availability:
    """A record as the pipeline would publish it: 10 on hand, nothing else, unless told otherwise."""
    usual: dict[str, object] = {
        "location": "S1",
        "status": "IN_STOCK",
        "reason": None,
        "status_ship": "IN_STOCK",
        "status_pickup": "IN_STOCK",
        "available_to_ship": 10,
        "available_in_store": 10,
        "on_hand": 10,
        "next_inbound_at": None,
        "lane": "urgent",
        "policy": None,
        "cause": Cause("wms.count", "c", "test", MORNING),
        "sources": Sources(None, MORNING, None),
        "changed_at": NOW,
    }
    zero = dict.fromkeys(Availability.__struct_fields__, 0)
    return Availability(**{**zero, **usual, "version": version, "sku": sku, **numbers})  # type: ignore[arg-type]


def network(sku: str, **numbers: object) -> NetworkAvailability:
    """The network record of a SKU at one location: 8 on hand, nothing else, unless told otherwise."""
    usual: dict[str, object] = {
        "version": 1,
        "channel": "*",
        "status": "IN_STOCK",
        "status_ship": "IN_STOCK",
        "status_pickup": "IN_STOCK",
        "available_to_ship": 8,
        "available_in_store": 8,
        "locations_in_stock": 1,
        "on_hand": 8,
        "next_inbound_at": None,
        "atp": [],
        "cause": Cause("wms.count", "c", "test", MORNING),
        "changed_at": NOW,
    }
    zero = dict.fromkeys(NetworkAvailability.__struct_fields__, 0)
    return NetworkAvailability(**{**zero, **usual, "sku": sku, **numbers})  # type: ignore[arg-type]


def alert(kind: str, sku: str, units: int, **own: object) -> StockAlert:
    """An open alert about a SKU at S1, unless told otherwise."""
    usual: dict[str, object] = {"state": "open", "location": "S1", "references": {}, "closed_at": None}
    name = f"{sku}|{kind}"
    said = {**usual, "alert": name, "kind": kind, "sku": sku, "units": units, "opened_at": MORNING, **own}
    return StockAlert(**said)  # type: ignore[arg-type]


@dataclass
class World:
    """What stands on the topics and in Redis; tests change it before it is written."""

    inputs: list[Input]
    settings: list[tuple[str, bytes]]
    published: list[tuple[str, int, bytes | None]] = field(default_factory=list)
    view: dict[str, bytes] = field(default_factory=dict)
    networks: list[NetworkAvailability] = field(default_factory=list)
    network_view: dict[str, bytes] = field(default_factory=dict)
    alerts: list[StockAlert] = field(default_factory=list)
    letters: dict[Place, tuple[str, bytes, bytes | None]] = field(default_factory=dict)
    totals: dict[int, Counter[str]] = field(default_factory=dict)
    positions: dict[int, list[int]] = field(default_factory=dict)

    def publish(self, availability: Availability, view: bool = True) -> None:
        """One record on the topic, and in the view."""
        key = availability_key(availability.sku, availability.location)
        self.published.append((key, topics.partition_of(availability.sku, PARTITIONS), encode(availability)))
        if view:
            self.view[key] = encode(availability)

    def publish_network(self, record_: NetworkAvailability) -> None:
        """One network record on its topic and in its view."""
        self.networks.append(record_)
        self.network_view[record_.sku] = encode(record_)

    def settle(self) -> None:
        """Letters, totals and positions as they follow from the inputs."""
        self.totals = {partition: Counter() for partition in range(PARTITIONS)}
        self.positions = {partition: [0] * len(topics.KEYED_INPUTS) for partition in range(PARTITIONS)}
        for told_ in self.inputs:
            positions = self.positions[told_.partition]
            index = topics.KEYED_INPUTS.index(told_.topic)
            if told_.outcome == "dead_letter":
                place = (told_.topic.name, told_.partition, positions[index])
                self.letters[place] = (told_.reason, told_.key.encode(), told_.value)
            self.totals[told_.partition][told_.outcome] += 1
            positions[index] += 1


def right_world() -> World:
    """Three balances, a repeat, four refused records, two policies and three alerts, all as they should be."""
    pos, wms, orders = topics.POS_SALES, topics.WMS_MOVEMENTS, topics.ORDER_RESERVATIONS
    policy = {"type": "policy.set", "id": "p", "source": "test", "occurred_at": "2020-01-01T08:00:00Z"}
    buffer = {**policy, "policy": "near", "scope": {"sku": "SKU-3"}, "values": {"safety_stock": 1}}
    later = {**policy, "policy": "later", "scope": {"colour": "x"}, "values": {"safety_stock": 1}}
    world = World(
        inputs=[
            told(wms, "applied", "wms.count", "SKU-1", id="c-1", units=10),
            told(pos, "absorbed", "pos.sale", "SKU-1", id="s-0", units=3, occurred_at="2020-01-01T08:00:00Z"),
            told(pos, "applied", "pos.sale", "SKU-1", id="s-1", units=2),
            told(pos, "duplicate", "pos.sale", "SKU-1", id="s-1", units=2),
            Input(pos, "SKU-1", b"[1]", "dead_letter", "not_json"),
            Input(orders, "SKU-3", None, "dead_letter", "empty"),
            told(wms, "dead_letter", "wms.adjustment", "SKU-3", id="c-2", units=0, reason="none"),
            told(wms, "applied", "wms.receipt", "SKU-3", id="r-1", units=4),
            told(
                orders,
                "applied",
                "reservation.created",
                "SKU-3",
                id="h-1",
                units=1,
                reservation="R-1",
                mode="ship",
                expires_at="2020-01-01T13:00:00Z",
            ),
            told(pos, "applied", "pos.sale", "SKU-5", id="s-3", units=1),
        ],
        settings=[("policy:near", msgspec.json.encode(buffer)), ("policy:later", msgspec.json.encode(later))],
    )
    world.publish(record(1, "SKU-1"))
    world.publish(record(7, "SKU-1", available_to_ship=8, available_in_store=8, on_hand=8))
    world.publish(
        record(
            3,
            "SKU-3",
            status="LOW_STOCK",
            status_ship="LOW_STOCK",
            status_pickup="LOW_STOCK",
            available_to_ship=2,
            available_in_store=2,
            on_hand=4,
            committed=1,
            safety_stock_ship=1,
            safety_stock_pickup=1,
            withheld_ship=1,
            withheld_pickup=1,
            policy="near",
        )
    )
    world.publish(
        record(
            4,
            "SKU-5",
            status="UNKNOWN",
            reason="no_baseline",
            status_ship="UNKNOWN",
            status_pickup="UNKNOWN",
            available_to_ship=None,
            available_in_store=None,
            on_hand=-1,
            shortage=1,
        )
    )
    low = dict.fromkeys(("status", "status_ship", "status_pickup"), "LOW_STOCK")
    unknown = dict.fromkeys(("status", "status_ship", "status_pickup"), "UNKNOWN")
    nothing = {"available_to_ship": None, "available_in_store": None, "locations_in_stock": 0}
    world.publish_network(network("SKU-1"))
    world.publish_network(network("SKU-3", **low, available_to_ship=2, available_in_store=2, on_hand=4, committed=1))
    world.publish_network(network("SKU-5", **unknown, **nothing, locations_unknown=1, on_hand=-1, shortage=1))
    gone = alert("low_stock", "SKU-1", 3, alert="gone")
    closed = msgspec.structs.replace(gone, state="closed", closed_at=NOW)
    world.alerts = [gone, closed, closed, alert("low_stock", "SKU-3", 2), alert("shortage", "SKU-5", 1)]
    world.settle()
    world.letters[topics.STOCK_SETTINGS.name, 0, 1] = (
        "bad_field",
        b"policy:later",
        msgspec.json.encode(later),
    )
    return world


class StoredOutcomes(msgspec.Struct):
    """The totals of a partition in a format of these tests."""

    totals: dict[str, int]
    positions: list[int]


decode_stored = msgspec.json.Decoder(StoredOutcomes).decode


def write(world: World, bootstrap: str, prefix: str) -> None:
    """Everything of a world onto its topics; offsets start at 0, because the topics are new."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})

    def send(
        topic: topics.Topic, partition: int, key: bytes, value: bytes | None, headers: Mapping[str, str] | None = None
    ) -> None:
        named = [(f"dead-letter.{name}", text.encode()) for name, text in (headers or {}).items()]
        producer.produce(prefix + topic.name, value, key, partition, headers=named)

    for told_ in world.inputs:
        send(told_.topic, told_.partition, told_.key.encode(), told_.value)
    for key, value in world.settings:
        send(topics.STOCK_SETTINGS, 0, key.encode(), value)
    for key, partition, published in world.published:
        send(topics.AVAILABILITY, partition, key.encode(), published)
    for one in world.networks:
        key = f"{one.sku}|{one.channel}"
        send(topics.NETWORK_AVAILABILITY, topics.partition_of(one.sku, PARTITIONS), key.encode(), encode(one))
    for told_alert in world.alerts:
        partition = topics.partition_of(told_alert.sku, PARTITIONS)
        send(topics.STOCK_ALERTS, partition, told_alert.sku.encode(), encode(told_alert))
    for (topic, partition, offset), (reason, letter_key, letter) in world.letters.items():
        names = {"topic": prefix + topic, "partition": str(partition), "offset": str(offset), "reason": reason}
        for _ in range(2):  # Letters are delivered at least once, and count once.
            send(topics.DEAD_LETTERS, partition, letter_key, letter, names)
    for partition, totals in world.totals.items():
        stored = StoredOutcomes(dict(totals), world.positions[partition])
        send(topics.STOCK_STATE, partition, b"SKU-1|S1", b"a balance")
        send(topics.STOCK_STATE, partition, b"|outcomes", msgspec.json.encode(StoredOutcomes({}, [])))
        send(topics.STOCK_STATE, partition, b"|outcomes", msgspec.json.encode(stored))
    assert producer.flush(30) == 0


Audited = Callable[[World], AuditReport]


@pytest.fixture
def audited(kafka: services.Kafka, redis_server: services.Redis, fresh_topics: Callable[..., str]) -> Iterator[Audited]:
    """A function that writes a world to new topics and a view of its own, and audits it."""
    url = urlsplit(redis_server.url)._replace(path=f"/{VIEW_DATABASE}").geturl()
    with redis.Redis.from_url(url) as client:
        hashes: set[str] = set()

        def run(world: World) -> AuditReport:
            prefix = fresh_topics(partitions=PARTITIONS)
            write(world, kafka.bootstrap, prefix)
            for key, value in world.view.items():
                sku, location = split_availability_key(key)
                hashes.add(f"availability:{sku}")
                client.hset(f"availability:{sku}", location, value)
            for sku, value in world.network_view.items():
                hashes.add(f"network:{sku}")
                client.hset(f"network:{sku}", "*", value)
            config = {"bootstrap.servers": kafka.bootstrap}
            return audit(config, lambda name: prefix + name, url, NOW, decode_outcomes=decode_stored)

        yield run
        if hashes:
            client.delete(*hashes)


def test_right_world_is_equal(audited: Audited) -> None:
    """Everything agrees, every record is accounted for, refused ones too."""
    report = audited(right_world())
    assert report.differences == []
    assert report.equal
    assert (report.events, report.settings, report.keys, report.redis_keys) == (10, 2, 3, 3)
    assert report.outcomes == {
        "applied": 6,
        "duplicate": 1,
        "dead_letter": 3,
        "reported_applied": 5,
        "reported_absorbed": 1,
        "reported_duplicate": 1,
        "reported_dead_letter": 3,
    }


def wrong_on_hand(world: World) -> None:
    world.publish(record(8, "SKU-1", available_to_ship=8, available_in_store=8, on_hand=9))


def wrong_status(world: World) -> None:
    world.publish(record(8, "SKU-1", available_to_ship=8, available_in_store=8, on_hand=8, status_ship="LOW_STOCK"))


def delisted(world: World) -> None:
    world.published.append(("SKU-1|S1", topics.partition_of("SKU-1", PARTITIONS), None))
    del world.view["SKU-1|S1"]


def strange_key(world: World) -> None:
    world.publish(record(8, "SKU-9"))


def older_version_last(world: World) -> None:
    world.publish(record(6, "SKU-1"), view=False)


def foreign_partition(world: World) -> None:
    key, partition, value = world.published[1]
    world.published.append((key, 1 - partition, value))


def old_view(world: World) -> None:
    world.view["SKU-1|S1"] = encode(record(1, "SKU-1"))


def changed_view(world: World) -> None:
    world.view["SKU-1|S1"] = encode(record(7, "SKU-1"))


def gap_in_view(world: World) -> None:
    del world.view["SKU-3|S1"]


def stray_in_view(world: World) -> None:
    world.view["SKU-3|S7"] = world.view["SKU-3|S1"]


def wrong_network(world: World) -> None:
    world.publish_network(network("SKU-1", version=2, on_hand=9, status_ship="LOW_STOCK"))


def network_missing(world: World) -> None:
    del world.networks[0], world.network_view["SKU-1"]


def old_network_view(world: World) -> None:
    world.network_view["SKU-1"] = encode(network("SKU-1", version=0))


def miscounted(world: World) -> None:
    world.totals[HOME]["applied"] -= 1


def counted_otherwise(world: World) -> None:
    world.totals[HOME] += Counter(applied=1)
    world.totals[HOME] -= Counter(duplicate=1)


def not_counted(world: World) -> None:
    del world.totals[HOME]


def unread_input(world: World) -> None:
    world.positions[HOME][0] -= 1
    world.totals[HOME]["applied"] -= 1


def poison_not_refused(world: World) -> None:
    del world.letters[topics.POS_SALES.name, HOME, 3]
    world.totals[HOME] += Counter(applied=1)
    world.totals[HOME] -= Counter(dead_letter=1)


def valid_fact_refused(world: World) -> None:
    world.inputs.append(told(topics.POS_SALES, "dead_letter", "pos.sale", "SKU-1", id="s-9", units=1))
    world.settle()


def letter_changed(world: World) -> None:
    reason, key, _ = world.letters[topics.POS_SALES.name, HOME, 3]
    world.letters[topics.POS_SALES.name, HOME, 3] = (reason, key, b"[1 ]")


def letter_about_nothing(world: World) -> None:
    world.letters[topics.POS_SALES.name, HOME, 77] = ("not_json", b"SKU-1", b"{")


def setting_not_refused(world: World) -> None:
    del world.letters[topics.STOCK_SETTINGS.name, 0, 1]


def alert_missing(world: World) -> None:
    del world.alerts[-1]


def alert_never_closed(world: World) -> None:
    del world.alerts[1:3]


def alert_opened_twice(world: World) -> None:
    world.alerts.append(alert("shortage", "SKU-5", 1, alert="again"))


def alert_changed(world: World) -> None:
    world.alerts.append(alert("shortage", "SKU-5", 2))


def alert_only_closed(world: World) -> None:
    world.alerts.append(alert("shortage", "SKU-1", 1, state="closed", closed_at=NOW))


def alert_of_a_strange_count(world: World) -> None:
    named = {"count": "c-9", "source": "test", "expected": "4", "counted": "10", "accuracy": "0.0000"}
    world.alerts.append(alert("count_variance", "SKU-1", 6, references=named))


def alert_of_another_count(world: World) -> None:
    named = {"count": "c-1", "source": "test", "expected": "4", "counted": "9", "accuracy": "0.0000"}
    world.alerts.append(alert("count_variance", "SKU-1", 5, references=named))


def alert_of_a_claim(world: World) -> None:
    named = {"order_line": "O-1", "occurred_at": "2020-01-01T08:30:00Z"}
    world.inputs.append(told(topics.POS_SALES, "absorbed", "pos.sale", "SKU-1", id="s-7", units=1, **named))
    world.settle()


_COMPARED = "recomputed and topic: "
_TOPIC = "availability topic: "
_VIEW = "topic and Redis: "
_OUTCOMES = f"outcomes: partition {HOME} "


@pytest.mark.parametrize(
    ("plant", "differences"),
    [
        (wrong_on_hand, [f"{_COMPARED}SKU-1|S1 on_hand is 9, recomputed 8"]),
        (wrong_status, [f"{_COMPARED}SKU-1|S1 status_ship is LOW_STOCK, recomputed IN_STOCK"]),
        (delisted, [f"{_COMPARED}SKU-1|S1 is not published"]),
        (strange_key, [f"{_COMPARED}SKU-9|S1 is published, but no fact names it"]),
        (
            older_version_last,
            [f"{_TOPIC}SKU-1|S1 ends with an older version: availability.v1[0]@2 has version 6 after 7"],
        ),
        (foreign_partition, [f"{_TOPIC}availability.v1[1]@2 is in a foreign partition: SKU-1|S1"]),
        (old_view, [f"{_VIEW}SKU-1|S1 has version 1 in Redis, 7 on the topic"]),
        (changed_view, [f"{_VIEW}SKU-1|S1 has version 7 in Redis, 7 on the topic with other content"]),
        (gap_in_view, [f"{_VIEW}SKU-3|S1 is not in Redis"]),
        (stray_in_view, [f"{_VIEW}SKU-3|S7 is in Redis, but not on the topic"]),
        (
            wrong_network,
            [
                "recomputed and network: SKU-1|* on_hand is 9, recomputed 8; "
                "status_ship is LOW_STOCK, recomputed IN_STOCK"
            ],
        ),
        (network_missing, ["recomputed and network: SKU-1|* is not published"]),
        (old_network_view, [f"{_VIEW}SKU-1|* has version 0 in Redis, 1 on the topic"]),
        (
            miscounted,
            [
                f"{_OUTCOMES}accounts for 4 records, but consumed 5",
                f"{_OUTCOMES}counted 2 records as applied or absorbed, recomputed 3",
            ],
        ),
        (
            counted_otherwise,
            [
                f"{_OUTCOMES}counted 0 records as duplicate, recomputed 1",
                f"{_OUTCOMES}counted 4 records as applied or absorbed, recomputed 3",
            ],
        ),
        (not_counted, [f"{_OUTCOMES}has input, but no outcomes were stored"]),
        (
            unread_input,
            [
                f"{_OUTCOMES}was counted up to pos-sales.v1[0]@3, the log ends at 4",
                f"{_OUTCOMES}counted 2 records as applied or absorbed, recomputed 3",
            ],
        ),
        (
            poison_not_refused,
            [
                "refusals: pos-sales.v1[0]@3 was not refused: not decodable: Expected `object`, got `array`",
                f"{_OUTCOMES}counted 4 records as applied or absorbed, recomputed 3",
            ],
        ),
        (valid_fact_refused, ["refusals: pos-sales.v1[0]@4 was refused as '', but it is valid"]),
        (letter_changed, ["dead letters: the letter about pos-sales.v1[0]@3 changed its key or value"]),
        (letter_about_nothing, ["dead letters: a letter is about pos-sales.v1[0]@77, which is not there"]),
        (alert_missing, ["alerts: shortage SKU-5 S1 holds, but is not open"]),
        (
            alert_never_closed,
            ["alerts: low_stock SKU-1 S1 is open since 2020-01-01 09:00:00+00:00, but does not hold"],
        ),
        (alert_opened_twice, ["alerts: shortage SKU-5 S1 has several open: SKU-5|shortage, again"]),
        (
            alert_changed,
            ["alerts topic: stock-alerts.v1[1]@2: SKU-5|shortage is open twice, with other content"],
        ),
        (alert_only_closed, ["alerts topic: SKU-1|shortage closes, but never opened"]),
        (alert_of_a_strange_count, ["alerts: SKU-1|count_variance is about a count that nobody told"]),
        (
            alert_of_another_count,
            [
                "alerts: SKU-1|count_variance does not follow from its count of 10: 5, {'count': 'c-1', "
                "'source': 'test', 'expected': '4', 'counted': '9', 'accuracy': '0.0000'}"
            ],
        ),
        (alert_of_a_claim, ["alerts: unclaimed SKU-1 order_line=O-1 holds, but is not open"]),
        (
            setting_not_refused,
            [
                "refusals: stock-settings.v1[0]@1 was not refused: "
                "not decodable: Object contains unknown field `colour` - at `$.scope`"
            ],
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "found",
)
def test_planted_fault_is_found(audited: Audited, plant: Callable[[World], None], differences: list[str]) -> None:
    """Each fault is named, once, and nothing else is."""
    world = right_world()
    plant(world)
    report = audited(world)
    assert report.differences == differences
    assert report.differences_total == len(differences)
    assert not report.equal


def test_status_in_the_band_follows_the_record(audited: Audited) -> None:
    """Between entrance and exit the audit accepts what was published, and derives the whole from it."""
    world = right_world()
    policy = {"type": "policy.set", "id": "b", "source": "test", "occurred_at": "2020-01-01T08:00:00Z"}
    band = {
        **policy,
        "policy": "band",
        "scope": {"sku": "SKU-1"},
        "values": {"low_stock_enter": 5, "low_stock_exit": 9},
    }
    world.settings.append(("policy:band", msgspec.json.encode(band)))
    world.publish(record(9, "SKU-1", available_to_ship=8, available_in_store=8, on_hand=8, status_ship="LOW_STOCK"))
    assert audited(world).differences == []


def test_hold_that_just_ended_may_still_be_seen(audited: Audited) -> None:
    """Around the end of a hold both numbers are right, and Redis may be ahead of the topic that was read."""
    world = right_world()
    created = msgspec.json.decode(world.inputs[8].value or b"", type=dict[str, object])
    world.inputs[8].value = msgspec.json.encode({**created, "expires_at": "2020-01-01T11:59:59.5Z"})
    newer = msgspec.json.decode(world.view["SKU-3|S1"], type=Availability)
    world.view["SKU-3|S1"] = encode(msgspec.structs.replace(newer, version=5, committed=0))
    report = audited(world)
    assert report.differences == []
    assert report.notes == ["1 keys had a hold that ended or goods that were due while they were read"]


def test_missing_topics_are_named(kafka: services.Kafka, topic_prefix: str) -> None:
    """Without its topics an audit is impossible, and says what to do."""
    with pytest.raises(AuditImpossible, match=f"topic {topic_prefix}pos-sales.v1 is not there"):
        audit({"bootstrap.servers": kafka.bootstrap}, lambda name: topic_prefix + name, None, NOW)


def test_redis_that_does_not_answer_is_named(kafka: services.Kafka, fresh_topics: Callable[..., str]) -> None:
    """An audit that was asked to compare the view never passes without it."""
    prefix = fresh_topics(partitions=PARTITIONS)
    with pytest.raises(AuditImpossible, match="cannot read the Redis view"):
        audit({"bootstrap.servers": kafka.bootstrap}, lambda name: prefix + name, "redis://127.0.0.1:1/0", NOW)


def test_progress_is_told_to_the_end(kafka: services.Kafka, fresh_topics: Callable[..., str]) -> None:
    """Every topic with records reports its last one; without a Redis only the topic is compared."""
    prefix = fresh_topics(partitions=PARTITIONS)
    world = right_world()
    write(world, kafka.bootstrap, prefix)
    heard: dict[str, tuple[int, int]] = {}
    report = audit(
        {"bootstrap.servers": kafka.bootstrap},
        lambda name: prefix + name,
        None,
        NOW,
        lambda label, done, total: heard.update({label: (done, total)}),
        decode_stored,
    )
    assert report.equal
    assert report.redis_keys is None
    assert heard == {
        "availability.v1": (4, 4),
        "network-availability.v1": (3, 3),
        "stock-alerts.v1": (5, 5),
        "dead-letters.v1": (8, 8),
        "stock-state.v1": (6, 6),
        "stock-settings.v1": (2, 2),
        "wms-movements.v1": (3, 3),
        "pos-sales.v1": (5, 5),
        "order-reservations.v1": (2, 2),
    }


def test_memory_broker_is_read_to_its_real_ends() -> None:
    """The demo's broker tells wrong ends, so they are looked for; nothing is left out."""
    try:
        broker = TansuBroker().start()
    except ServerUnavailable as error:
        services.missing(error)
    try:
        config = {"bootstrap.servers": broker.bootstrap}
        ensure(config, lambda name: f"x-{name}", PARTITIONS, replication=-1)
        write(right_world(), broker.bootstrap, "x-")
        report = audit(config, lambda name: f"x-{name}", None, NOW, decode_outcomes=decode_stored, exact_ends=False)
    finally:
        broker.close()
    assert report.differences == []
    assert (report.events, report.keys) == (10, 3)


def test_looked_for_ends_are_the_real_ones(kafka: services.Kafka, fresh_topics: Callable[..., str]) -> None:
    """On a broker with true answers both ways give the same."""
    prefix = fresh_topics(partitions=PARTITIONS)
    write(right_world(), kafka.bootstrap, prefix)
    config = {"bootstrap.servers": kafka.bootstrap}
    names = [topic.name for topic in topics.TOPICS]
    with Log(config, lambda name: prefix + name) as asking:
        asked = asking.extents(names)
    with Log(config, lambda name: prefix + name, exact_ends=False) as looking:
        looked = looking.extents(names)
    assert looked == asked
    assert asked["pos-sales.v1"] == {0: Extent(0, 4), 1: Extent(0, 1)}


def test_compared_fields_are_all_that_is_not_volatile() -> None:
    """A field added to the record is compared, or named as volatile."""
    assert set(COMPARED_FIELDS) == set(Availability.__struct_fields__) - VOLATILE_FIELDS - {"sku", "location"}


def shown(report: AuditReport) -> str:
    """What a person reads."""
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(render(report))
    return captured.get()


def a_report(differences: list[str], by_kind: Mapping[str, int]) -> AuditReport:
    """A report with these differences."""
    return AuditReport(1_000, 2, 3, {"applied": 900}, 3, differences, dict(by_kind), ["late"])


def test_equal_report_says_so() -> None:
    """The verdict is the last line."""
    lines = shown(a_report([], {})).rstrip().splitlines()
    assert lines[-1] == "EQUAL: recomputation = availability topic = Redis, 3 keys"
    assert lines[-2] == "note: late"


def test_unequal_report_lists_what_differs() -> None:
    """Differences that are not listed are counted."""
    lines = shown(a_report(["x: first", "x: second"], {"x": 12})).rstrip().splitlines()
    assert lines[-1] == "NOT EQUAL: 12 differences"
    assert lines[-5:-2] == ["x: first", "x: second", "... and 10 more"]
