"""Stages whose broker and network can be hurt, and the table of what was seen, at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from stockflow.embedded import RedisServer, ServerUnavailable
from tests import services
from tests.chaos.faults.brokers import Cluster, LinkedBroker
from tests.chaos.faults.network import Proxy
from tests.chaos.faults.watch import Fault, Watch, table
from tests.e2e.conftest import pytest_runtest_makereport, sending, stage
from tests.e2e.harness import Stage
from tests.e2e.load import Sending

__all__ = ["pytest_runtest_makereport", "sending", "stage"]

# A member that says nothing for a session loses its partitions; a lease with a heartbeat fits into it.
HEARTBEAT_MS = 500
SESSION_MS = 6_000
LEASE = {"LEASE_MS": "4000"}
# Where the broker itself fails, members need sessions and leases that outlast it, also on a busy machine.
LONG_SESSION_MS = 300_000
LONG_SESSIONS: dict[str, Any] = {
    "heartbeat_ms": HEARTBEAT_MS,
    "session_ms": LONG_SESSION_MS,
    "properties": {"group.consumer.max.session.timeout.ms": str(LONG_SESSION_MS)},
}
LONG_LEASE = {"LEASE_MS": "240000"}
LINKS = 2

_report = pytest.StashKey[list[Fault]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_report] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was seen of each fault."""
    if config.stash[_report]:
        terminalreporter.section("what readers saw of each fault")
        for line in table(config.stash[_report]):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def quick_kafka() -> Iterator[LinkedBroker]:
    """The broker of these scenarios, behind proxies for those who ask for them: never stop it."""
    with ExitStack() as stack:
        try:
            broker = LinkedBroker(services.CACHE, LINKS, heartbeat_ms=HEARTBEAT_MS, session_ms=SESSION_MS)
            stack.callback(broker.close)
            broker.start()
        except ServerUnavailable as error:
            services.missing(error)
        yield broker
        broker.kill()  # Nobody needs it any more; an orderly end would wait for its clients.


@pytest.fixture
def linked_kafka(quick_kafka: LinkedBroker) -> Iterator[LinkedBroker]:
    """The same broker, for a test that hurts its links; they are whole again afterwards."""
    yield quick_kafka
    for link in quick_kafka.links:
        link.heal()
        link.reset()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three brokers, for this test alone."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Cluster(services.CACHE, **LONG_SESSIONS))
        except ServerUnavailable as error:
            services.missing(error)
        yield made


@pytest.fixture
def linked_redis(private_redis: Callable[..., RedisServer]) -> Iterator[tuple[RedisServer, Proxy, str]]:
    """A Redis, a proxy in front of it, and the URL of the proxy."""
    server = private_redis()
    with Proxy(server.port) as proxy:
        yield server, proxy, f"redis://127.0.0.1:{proxy.port}/0"


@pytest.fixture
def watch(request: pytest.FixtureRequest, sending: Callable[[Stage], Sending]) -> Iterator[Callable[..., Watch]]:
    """A function that makes the watch over a stage; its load is seeded."""
    with ExitStack() as stack:

        def make(stage: Stage, seed: int, per_second: int = 0) -> Watch:
            made = Watch(stage, sending(stage), seed, request.config.stash[_report], per_second)
            stack.callback(made.close)
            return made

        yield make
