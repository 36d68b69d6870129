"""Real servers for the tests that need them: started at their first use, named in the summary."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka.admin import AdminClient

from operations import topics
from stockflow.embedded import KafkaBroker, RedisServer, ServerUnavailable
from tests import services

DEFAULT_PARTITIONS = 3
_KAFKA_FIXTURES = frozenset({"kafka", "private_kafka", "fresh_topics"})
_REDIS_FIXTURES = frozenset({"redis_server", "private_redis"})
_used = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_used] = {"broker": "none used", "redis": "none used"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a server carries the marker of that server."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _KAFKA_FIXTURES:
            item.add_marker(pytest.mark.kafka)
        if fixtures & _REDIS_FIXTURES:
            item.add_marker(pytest.mark.redis)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, description in config.stash[_used].items():
        terminalreporter.write_line(f"{name}: {description}")


def _note(request: pytest.FixtureRequest, name: str, description: str) -> None:
    used = request.config.stash[_used]
    if used[name] == "none used":
        used[name] = description
    elif description not in used[name].split(", "):
        used[name] += f", {description}"


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[services.Kafka]:
    """The Kafka all tests share: never stop it, and use topics of your own (`fresh_topics`)."""
    try:
        found = services.open_kafka()
    except ServerUnavailable as error:
        services.missing(error)
    _note(request, "broker", found.description)
    yield found
    found.close()


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[services.Redis]:
    """The Redis all tests share: never stop it; a test that needs it empty takes `private_redis`."""
    try:
        found = services.open_redis()
    except ServerUnavailable as error:
        services.missing(error)
    _note(request, "redis", found.description)
    yield found
    found.close()


@pytest.fixture
def private_kafka(request: pytest.FixtureRequest) -> Iterator[Callable[..., KafkaBroker]]:
    """A function that starts a broker for this test alone, which may stop, kill and restart it."""
    with ExitStack() as stack:

        def start(**options: object) -> KafkaBroker:
            try:
                broker = services.own_kafka(**options)  # type: ignore[arg-type]
            except ServerUnavailable as error:
                services.missing(error)
            stack.callback(broker.close)
            _note(request, "broker", broker.description)
            return broker

        yield start


@pytest.fixture
def private_redis(request: pytest.FixtureRequest) -> Iterator[Callable[..., RedisServer]]:
    """A function that starts a Redis for this test alone, which may stop, kill, pause and empty it."""
    with ExitStack() as stack:

        def start(durable: bool = False) -> RedisServer:
            try:
                server = services.own_redis(durable)
            except ServerUnavailable as error:
                services.missing(error)
            stack.callback(server.close)
            _note(request, "redis", server.description)
            return server

        yield start


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix for topics, groups and keys that no other test has; its topics on the shared broker go afterwards."""
    prefix = _new_prefix()
    yield prefix
    if "kafka" in request.fixturenames:
        _delete_topics(request.getfixturevalue("kafka").bootstrap, (prefix,))


@pytest.fixture
def fresh_topics(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """A function that makes all topics of the registry under a prefix of their own and returns the prefix.

    `partitions` is the number for all of them; `bootstrap` names another broker than the shared one, for a
    test with a private one. Topics on the shared broker are deleted after the test.
    """
    made: list[str] = []

    def make(partitions: int = DEFAULT_PARTITIONS, bootstrap: str | None = None) -> str:
        prefix = _new_prefix()
        servers = bootstrap or request.getfixturevalue("kafka").bootstrap
        topics.ensure({"bootstrap.servers": servers}, lambda name: prefix + name, partitions, replication=-1)
        if bootstrap is None:
            made.append(prefix)
        return prefix

    yield make
    if made:
        _delete_topics(request.getfixturevalue("kafka").bootstrap, tuple(made))


def _new_prefix() -> str:
    return f"test-{uuid.uuid4().hex[:10]}-"


def _delete_topics(bootstrap: str, prefixes: tuple[str, ...]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefixes)]
    for deleted in admin.delete_topics(names, operation_timeout=10).values() if names else ():
        deleted.result()
