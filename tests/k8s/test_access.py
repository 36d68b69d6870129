"""The rights that the chart asks for, on a real Kafka and a real Redis that grant nothing else.

What a process used is in the authorizer's own log, so a right too many shows as well as one too few.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, not marked as exported
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from operations import topics
from schemas.topics import (
    AVAILABILITY,
    ORDER_RESERVATIONS,
    POS_SALES,
    STOCK_ITEMS,
    STOCK_SETTINGS,
    WMS_MOVEMENTS,
    Topic,
    partition_of,
)
from stockflow.embedded import KafkaBroker, RedisServer, ServerUnavailable
from stockflow.embedded.process import wait_until
from tests import services
from tests.e2e.harness import Pipeline
from tests.k8s.tools import K8S, by_name, helm

PARTITIONS = 3
PASSWORD = "change-me"  # of every user, as in redis-users.acl
SKU, LOCATION = "SKU-1", "STORE-1"
GONE = "SKU-2"  # delisted in the end
USERS = ("admin", "stockflow", "stockflow-audit", "stockflow-scaler")
SECURED = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.password": PASSWORD,
}
_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required"
_DECISION = re.compile(
    r"Principal = User:(?P<user>\S+) is (?P<verdict>Allowed|Denied) operation = (?P<operation>\w+) from host = \S+ "
    r"on resource = (?P<kind>\w+):LITERAL:(?P<name>\S+) for request = (?P<request>\w+)"
)
Right = tuple[str, str, str]  # TOPIC, name, READ
# An idempotent producer is let in by its right to write to any topic. The broker looks at the older cluster-wide right
# first, and asks about a topic of this name as a part of the answer. A list of all topics leaves out the broker's own.
ASKED_IN_VAIN = {
    ("CLUSTER", "kafka-cluster", "IDEMPOTENT_WRITE"),
    ("TOPIC", "hardcode", "WRITE"),
    ("TOPIC", "__consumer_offsets", "DESCRIBE"),
}


class GuardedKafka(KafkaBroker):
    """A broker that lets in by password, allows what is granted only, and logs each decision."""

    def __init__(self) -> None:
        scram = [f"SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in USERS]
        super().__init__(
            services.CACHE,
            heartbeat_ms=500,
            session_ms=3_000,
            format_arguments=[word for one in scram for word in ("--add-scram", one)],
            properties={
                "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
                "sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
                "listener.name.plaintext.scram-sha-512.sasl.jaas.config": (
                    f'{_JAAS} username="admin" password="{PASSWORD}";'
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:admin;User:ANONYMOUS",
            },
        )
        self.start_timeout_s = services.BROKER_START_TIMEOUT_S

    def _command(self) -> list[str]:
        java, *rest = super()._command()
        return [java, "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=trace", *rest]

    def decisions(self, user: str, verdict: str) -> set[Right]:
        """What was allowed or denied to a user so far."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return {
            (found["kind"].upper(), found["name"], found["operation"])
            for found in _DECISION.finditer(text)
            if (found["user"], found["verdict"]) == (user, verdict)
        }


@pytest.fixture(scope="module")
def granted() -> Mapping[str, set[Right]]:
    """What the KafkaUsers of the chart ask for."""
    rendered = by_name(helm("--set", "strimzi.enabled=true,audit.enabled=true,autoscaling.kind=keda"))
    return {
        one["metadata"]["name"]: {
            (acl["resource"]["type"].upper(), acl["resource"]["name"], _operation(one_operation))
            for acl in one["spec"]["authorization"]["acls"]
            for one_operation in acl["operations"]
        }
        for one in rendered.values()
        if one["kind"] == "KafkaUser"
    }


def _operation(camel: str) -> str:
    """`DescribeConfigs` of Strimzi is `DESCRIBE_CONFIGS` for Kafka."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", camel).upper()


@pytest.fixture(scope="module")
def guarded(granted: Mapping[str, set[Right]]) -> Iterator[GuardedKafka]:
    """A broker with all topics and exactly these rights."""
    try:
        broker = GuardedKafka()
        broker.start()
    except ServerUnavailable as error:
        services.missing(error)
    with broker:
        admin_config = client(broker, "admin")
        topics.ensure(admin_config, str, PARTITIONS, 1)
        rights = [
            AclBinding(
                ResourceType[kind], name, ResourcePatternType.LITERAL, f"User:{user}", "*",
                AclOperation[operation], AclPermissionType.ALLOW,
            )
            for user, of_user in granted.items()
            for kind, name, operation in of_user
        ]  # fmt: skip
        admin = AdminClient(admin_config)  # must outlive its answers
        for future in admin.create_acls(rights).values():
            future.result(10)
        yield broker


def client(broker: KafkaBroker, user: str) -> dict[str, str]:
    """How a client of this user reaches the broker."""
    return {"bootstrap.servers": broker.bootstrap, "sasl.username": user, **SECURED}


def environment(broker: KafkaBroker, user: str, redis_url: str) -> dict[str, str]:
    """Settings as the chart makes them for a user, but without TLS."""
    return {
        "STOCKFLOW_BOOTSTRAP_SERVERS": broker.bootstrap,
        "STOCKFLOW_REDIS_URL": redis_url,
        "STOCKFLOW_METRICS_HOST": "127.0.0.1",
        **{
            "STOCKFLOW_KAFKA__" + name.upper().replace(".", "_"): value
            for name, value in {**SECURED, "sasl.username": user}.items()
        },
    }


class GuardedRedis(RedisServer):
    """A Redis that knows the users of redis-users.acl, and one for the test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        users = folder / "users.acl"
        users.write_text((K8S / "redis-users.acl").read_text() + f"user admin on >{PASSWORD} ~* &* +@all\n")
        super().__init__(folder=folder, arguments=["--aclfile", str(users)])

    def url_of(self, user: str) -> str:
        """Address for clients of this user."""
        return f"redis://{user}:{PASSWORD}@127.0.0.1:{self.port}/0"


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[GuardedRedis]:
    """A Redis that refuses what it has not granted."""
    try:
        server = GuardedRedis(tmp_path / "redis")
        server.start()
    except ServerUnavailable as error:
        services.missing(error)
    with server:
        yield server


class Sender:
    """Whoever tells facts, as the admin of the test."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._producer = Producer({**client(broker, "admin"), "partitioner": "murmur2_random"})
        self._told = 0

    def tell(self, topic: Topic, type: str, key: str = SKU, **fields: object) -> None:
        """One event; `fields` are added to what all events have."""
        self._told += 1
        event = {
            "type": type,
            "id": f"e{self._told}",
            "source": "test",
            "occurred_at": "2026-01-01T00:00:00Z",
            **fields,
        }
        self._producer.produce(topic.name, json.dumps(event), key)
        assert self._producer.flush(10) == 0

    def put(self, topic: Topic, key: str, value: bytes) -> None:
        """Any bytes into the partition of the SKU."""
        self._producer.produce(topic.name, value, key, partition_of(SKU, PARTITIONS))
        assert self._producer.flush(10) == 0


def units(sku: str = SKU, **fields: object) -> dict[str, object]:
    """Fields of an event about stock."""
    return {"sku": sku, "location": LOCATION, "units": 5, **fields}


@pytest.mark.kafka
@pytest.mark.redis
def test_rights_are_enough_and_none_is_too_many(
    guarded: GuardedKafka, granted: Mapping[str, set[Right]], guarded_redis: GuardedRedis, tmp_path: Path
) -> None:
    """Every topic is used, a partition is taken over, a foreign record repaired: all that was granted has been used."""
    admin = redis.Redis.from_url(guarded_redis.url_of("admin"))
    admin.set(f"availability:{GONE}", "a stranger under our name")
    admin.config_resetstat()
    sender = Sender(guarded)
    sender.tell(STOCK_SETTINGS, "policy.set", "policy:all", policy="all", scope={}, values={"safety_stock": 1})
    variables = environment(guarded, "stockflow", guarded_redis.url_of("stockflow"))
    with Pipeline(tmp_path / "first", variables):
        for sku in (SKU, GONE):
            sender.tell(WMS_MOVEMENTS, "wms.count", sku, **units(sku))
        sender.tell(POS_SALES, "pos.sale", **units())
        sender.tell(POS_SALES, "pos.sale", **units())  # a shortage, so an alert
        sender.tell(ORDER_RESERVATIONS, "reservation.requested", **units(), reservation="R-1", mode="ship")
        sender.tell(STOCK_ITEMS, "item.set", GONE, sku=GONE, brand="b", category="c", lifecycle="active")
        sender.put(POS_SALES, SKU, b"nonsense")
        assert wait_until(lambda: admin.type(f"availability:{GONE}") == b"hash" and admin.exists(f"network:{SKU}"), 30)
        sender.tell(STOCK_ITEMS, "item.set", GONE, sku=GONE, brand="b", category="c", lifecycle="delisted")
        assert wait_until(lambda: admin.exists(f"availability:{GONE}") == 0, 30)
    # What is granted for reading covers looking it up; the authorizer asks for that by its own name.
    wanted = {name: rights - {right for right in rights if right[2] == "DESCRIBE"} for name, rights in granted.items()}
    with Pipeline(tmp_path / "second", variables) as heir:
        audit = ["/usr/bin/env", *(
            f"{name}={value}"
            for name, value in environment(
                guarded, "stockflow-audit", guarded_redis.url_of("stockflow-audit")
            ).items()
        ), sys.executable, "-m", "stockflow", "audit"]  # fmt: skip
        done = subprocess.run(audit, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        sender.put(AVAILABILITY, f"{SKU}|{LOCATION}", b'{"version":1}')  # as a fenced process would
        assert wait_until(lambda: heir.metric("stockflow_foreign_writes_total") == 1, 30)
        assert wait_until(lambda: wanted["stockflow"] <= guarded.decisions("stockflow", "Allowed"), 30), wanted[
            "stockflow"
        ] - guarded.decisions("stockflow", "Allowed")
    assert wanted["stockflow-audit"] - guarded.decisions("stockflow-audit", "Allowed") == set()
    for user in ("stockflow", "stockflow-audit"):
        described = {right for right in granted[user] if right[2] == "DESCRIBE"}
        assert described - guarded.decisions(user, "Allowed") == set()
        assert guarded.decisions(user, "Denied") - ASKED_IN_VAIN == set()
    assert admin.acl_log() == []
    assert redis_commands("stockflow", "stockflow-audit") - used_in(admin) == set()


def redis_commands(*users: str) -> set[str]:
    """Commands that these users may call."""
    lines = (K8S / "redis-users.acl").read_text().splitlines()
    return {
        word.removeprefix("+") for line in lines if line.split()[1] in users for word in line.split() if word[0] == "+"
    }


def used_in(admin: redis.Redis) -> set[str]:
    """Commands that were called since the server started, from scripts too."""
    statistics = admin.info("commandstats")
    return {name.removeprefix("cmdstat_") for name in statistics}
