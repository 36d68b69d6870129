"""The rights the chart asks for, on a real Kafka (TLS with SCRAM, mutual TLS) and a real Redis that grant no more.

What a process used is in the authorizer's own log, so a right too many shows as well as one too few.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from tests.certificates import Authority, Certificate
from tests.e2e.harness import Pipeline
from tests.k8s.tools import K8S, by_name, helm, run
from tests.k8s.watched import FOREIGN, exported, watched

PARTITIONS = 3
WAIT_S = 30
PASSWORD = "change-me"  # of every user, as in redis-users.acl
WRONG = "not-the-password"
SKU, LOCATION = "SKU-1", "STORE-1"
GONE = "SKU-2"  # delisted in the end
USERS = ("admin", "stockflow", "stockflow-audit", "stockflow-scaler")
SCRAM, TLS = "scram-sha-512", "tls"  # As Strimzi calls them.
# What is wrong with a client, and what its log has to say of it.
FOUND = {
    "trusts another authority": "certificate verify failed",
    "wrong password": "invalid credentials",
    "shows no certificate": "alert bad certificate",
    "signed by another authority": "alert bad certificate",
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
    """A broker with TLS that lets in by password or certificate, allows what is granted, and logs each decision."""

    def __init__(self, folder: Path, authentication: str) -> None:
        self.authentication = authentication
        self.authority = Authority(folder / "authority")
        self._clients = {user: self.authority.sign(user) for user in USERS} if authentication == TLS else {}
        own = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.authority.sign("broker").in_one_file()),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{name}" for name in (self.principal("admin"), "CN=broker", "ANONYMOUS")),
        }
        login = f'{_JAAS} username="admin" password="{PASSWORD}";'
        by_password = {
            "listener.security.protocol.map": "PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.plaintext.scram-sha-512.sasl.jaas.config": login,
        }
        by_certificate = {
            "listener.security.protocol.map": "PLAINTEXT:SSL,CONTROLLER:PLAINTEXT",
            "ssl.client.auth": "required",
        }
        scram = [f"SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in USERS]
        super().__init__(
            services.CACHE,
            heartbeat_ms=500,
            session_ms=3_000,
            format_arguments=[word for one in scram for word in ("--add-scram", one)],
            properties={**own, **(by_certificate if authentication == TLS else by_password)},
        )
        self.start_timeout_s = services.BROKER_START_TIMEOUT_S

    def principal(self, user: str) -> str:
        """What the broker, and Strimzi's ACLs, call a user."""
        return f"CN={user}" if self.authentication == TLS else user

    def client(self, user: str) -> dict[str, str]:
        """How a client of this user reaches the broker."""
        reached = {"bootstrap.servers": self.bootstrap, "ssl.ca.location": str(self.authority.certificate)}
        if self.authentication == TLS:
            return {**reached, **shown(self._clients[user])}
        by_password = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}
        return {**reached, **by_password, "sasl.username": user, "sasl.password": PASSWORD}

    def private_keys(self) -> list[str]:
        """The last line of each client's key."""
        return [one.key.read_text().splitlines()[-2] for one in self._clients.values()]

    def _command(self) -> list[str]:
        java, *rest = super()._command()
        return [java, "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=trace", *rest]

    def decisions(self, user: str, verdict: str) -> set[Right]:
        """What was allowed or denied to a user so far."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return {
            (found["kind"].upper(), found["name"], found["operation"])
            for found in _DECISION.finditer(text)
            if (found["user"], found["verdict"]) == (self.principal(user), verdict)
        }


def shown(certificate: Certificate) -> dict[str, str]:
    """Properties of a client that shows a certificate."""
    return {
        "security.protocol": "SSL",
        "ssl.certificate.location": str(certificate.certificate),
        "ssl.key.location": str(certificate.key),
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


@pytest.fixture(scope="module", params=[SCRAM, TLS])
def guarded(
    request: pytest.FixtureRequest, granted: Mapping[str, set[Right]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedKafka]:
    """A broker with all topics and exactly these rights."""
    try:
        broker = GuardedKafka(tmp_path_factory.mktemp("guarded"), request.param)
        broker.start()
    except ServerUnavailable as error:
        services.missing(error)
    with broker:
        admin_config = broker.client("admin")
        topics.ensure(admin_config, str, PARTITIONS, 1)
        rights = [
            AclBinding(
                ResourceType[kind], name, ResourcePatternType.LITERAL, f"User:{broker.principal(user)}", "*",
                AclOperation[operation], AclPermissionType.ALLOW,
            )
            for user, of_user in granted.items()
            for kind, name, operation in of_user
        ]  # fmt: skip
        admin = AdminClient(admin_config)  # must outlive its answers
        for future in admin.create_acls(rights).values():
            future.result(10)
        yield broker


def environment(properties: Mapping[str, str], redis_url: str) -> dict[str, str]:
    """Settings as the chart makes them for a client with these properties."""
    return {
        "STOCKFLOW_BOOTSTRAP_SERVERS": properties["bootstrap.servers"],
        "STOCKFLOW_REDIS_URL": redis_url,
        "STOCKFLOW_METRICS_HOST": "127.0.0.1",
        **{
            "STOCKFLOW_KAFKA__" + name.upper().replace(".", "_"): value
            for name, value in properties.items()
            if name != "bootstrap.servers"
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


class Sender:
    """Whoever tells facts, as the admin of the test."""

    def __init__(self, broker: GuardedKafka) -> None:
        self._producer = Producer({**broker.client("admin"), "partitioner": "murmur2_random"})
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


@dataclass(frozen=True)
class Played:
    """What was seen of a pipeline and an audit that had these rights only."""

    kafka_allowed: Mapping[str, set[Right]]
    kafka_denied: Mapping[str, set[Right]]
    redis_refused: list[object]
    redis_used: set[str]
    audit: subprocess.CompletedProcess[str]
    metrics: str
    logs: str
    refused: Mapping[str, str]


@pytest.fixture(scope="module")
def played(
    guarded: GuardedKafka, granted: Mapping[str, set[Right]], tmp_path_factory: pytest.TempPathFactory
) -> Played:
    """Every topic is used, a key delisted, a partition taken over, a foreign record repaired, and all of it audited."""
    folder = tmp_path_factory.mktemp("played")
    server = GuardedRedis(folder / "redis")
    try:
        server.start()
    except ServerUnavailable as error:
        services.missing(error)
    with server, redis.Redis.from_url(server.url_of("admin")) as admin:
        admin.set(f"availability:{GONE}", "a stranger under our name")
        admin.config_resetstat()
        sender = Sender(guarded)
        variables = environment(guarded.client("stockflow"), server.url_of("stockflow"))
        with Pipeline(folder / "first", variables):
            tell_of_everything(sender, admin)
        with Pipeline(folder / "second", variables) as heir:
            auditor = environment(guarded.client("stockflow-audit"), server.url_of("stockflow-audit"))
            words = [f"{name}={value}" for name, value in auditor.items()]
            audit = run("/usr/bin/env", *words, sys.executable, "-m", "stockflow", "audit")
            sender.put(AVAILABILITY, f"{SKU}|{LOCATION}", b'{"version":1}')  # as a fenced process would
            wait_until(lambda: heir.metric("stockflow_foreign_writes_total") == 1, WAIT_S)
            wait_until(lambda: granted["stockflow"] <= guarded.decisions("stockflow", "Allowed"), WAIT_S)
            page = heir.get("/metrics")[1]
        refused = {
            wrong: Pipeline(folder / wrong.replace(" ", "-"), environment(properties, server.url_of("stockflow")))
            for wrong, properties in strangers(guarded, folder).items()
        }
        for stranger in refused.values():
            stranger.may_end = True
            stranger.launch()
        assert wait_until(lambda: all(one.exit_code == 1 for one in refused.values()), WAIT_S)
        told = {wrong: stranger.log_file.read_text() for wrong, stranger in refused.items()}
        for stranger in refused.values():
            stranger.close()
        logs = [(folder / name / "pipeline.log").read_text() for name in ("first", "second")] + list(told.values())
        return Played(
            {user: guarded.decisions(user, "Allowed") for user in USERS},
            {user: guarded.decisions(user, "Denied") for user in USERS},
            list(admin.acl_log()),
            {name.removeprefix("cmdstat_") for name in admin.info("commandstats")},
            audit,
            page,
            "\n".join(logs),
            told,
        )


def strangers(broker: GuardedKafka, folder: Path) -> dict[str, dict[str, str]]:
    """Clients that must not get in, by what is wrong with them."""
    own = broker.client("stockflow")
    other = Authority(folder / "other-authority", "another authority")
    found = {"trusts another authority": {**own, "ssl.ca.location": str(other.certificate)}}
    if broker.authentication == TLS:
        nobody = {name: own[name] for name in ("bootstrap.servers", "ssl.ca.location")}
        found["shows no certificate"] = {**nobody, "security.protocol": "SSL"}
        found["signed by another authority"] = {**nobody, **shown(other.sign("stockflow"))}
    else:
        found["wrong password"] = {**own, "sasl.password": WRONG}
    return found


def tell_of_everything(sender: Sender, admin: redis.Redis) -> None:
    """An event on each input, what each output is for, and a key that comes and goes in Redis."""
    sender.tell(STOCK_SETTINGS, "policy.set", "policy:all", policy="all", scope={}, values={"safety_stock": 1})
    for sku in (SKU, GONE):
        sender.tell(WMS_MOVEMENTS, "wms.count", sku, **units(sku))
    sender.tell(POS_SALES, "pos.sale", **units())
    sender.tell(POS_SALES, "pos.sale", **units())  # a shortage, so an alert
    sender.tell(ORDER_RESERVATIONS, "reservation.requested", **units(), reservation="R-1", mode="ship")
    sender.tell(STOCK_ITEMS, "item.set", GONE, sku=GONE, brand="b", category="c", lifecycle="active")
    sender.put(POS_SALES, SKU, b"nonsense")
    shown = [f"availability:{GONE}", f"network:{SKU}"]
    assert wait_until(lambda: [admin.type(key) for key in shown] == [b"hash", b"hash"], WAIT_S)
    sender.tell(STOCK_ITEMS, "item.set", GONE, sku=GONE, brand="b", category="c", lifecycle="delisted")
    assert wait_until(lambda: admin.exists(shown[0]) == 0, WAIT_S)


pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.mark.parametrize("user", ["stockflow", "stockflow-audit"])
def test_kafka_user_has_the_rights_it_uses_and_no_others(
    user: str, played: Played, granted: Mapping[str, set[Right]]
) -> None:
    """Nothing was refused that mattered, and the authorizer has seen each right in use."""
    assert played.kafka_denied[user] - ASKED_IN_VAIN == set()
    assert granted[user] - played.kafka_allowed[user] == set()


def test_redis_users_have_the_rights_they_use_and_no_others(played: Played) -> None:
    """The server refused nothing, and has run each command of the pipeline and of the audit."""
    assert played.redis_refused == []
    assert redis_commands("stockflow", "stockflow-audit") - played.redis_used == set()


def test_audit_runs_with_its_own_users(played: Played) -> None:
    """It can read all that it compares."""
    assert played.audit.returncode == 0, played.audit.stdout + played.audit.stderr
    assert "EQUAL" in played.audit.stdout


def test_who_is_refused_is_told_why(played: Played) -> None:
    """Each ended with exit code 1, and says what the broker or the client found and what to look at."""
    for wrong, text in played.refused.items():
        (error,) = (line["error"] for line in map(json.loads, text.splitlines()) if line["event"] == "cannot_start")
        assert FOUND[wrong] in error
        assert "STOCKFLOW_KAFKA__SECURITY_PROTOCOL and what belongs to it" in error


def test_no_secret_is_in_logs_metrics_or_help(played: Played, guarded: GuardedKafka) -> None:
    """Neither the right password nor one that the broker refuses, which ends the process with an error; nor a key."""
    helped = run(sys.executable, "-m", "stockflow", "run", "--help")
    for text in (played.logs, played.metrics, played.audit.stdout, played.audit.stderr, helped.stdout):
        for secret in (PASSWORD, WRONG, *guarded.private_keys()):
            assert secret not in text


def test_metrics_page_has_what_is_watched_and_nothing_unwatched(played: Played) -> None:
    """Rules and dashboards name what a process in use exports, and leave nothing of it out."""
    assert exported(played.metrics) == watched() - FOREIGN


def test_reader_of_the_view_can_read_and_not_write(tmp_path: Path) -> None:
    """The user for shops has the hashes, and nothing else."""
    server = GuardedRedis(tmp_path / "redis")
    try:
        server.start()
    except ServerUnavailable as error:
        services.missing(error)
    with server, redis.Redis.from_url(server.url_of("storefront")) as shop:
        assert shop.hgetall("availability:SKU-1") == {}
        assert shop.hget("network:SKU-1", "*") is None
        for refused in (
            lambda: shop.hset("availability:SKU-1", "STORE-1", "{}"),
            lambda: shop.get("stockflow:view:0"),
            lambda: shop.keys("*"),
            lambda: shop.flushall(),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                refused()


def redis_commands(*users: str) -> set[str]:
    """Commands that these users may call."""
    lines = (K8S / "redis-users.acl").read_text().splitlines()
    return {
        word.removeprefix("+") for line in lines if line.split()[1] in users for word in line.split() if word[0] == "+"
    }
