"""Servers for the kill rounds: a broker whose groups forget a dead member quickly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stockflow.embedded import KafkaBroker, ServerUnavailable
from tests import services
from tests.chaos.rounds import HEARTBEAT_MS, SESSION_MS

_broker = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def short_sessions(request: pytest.FixtureRequest) -> Iterator[KafkaBroker]:
    """A broker with the shortest group sessions there are: never stop it, and use topics of your own."""
    try:
        broker = services.own_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=SESSION_MS)
    except ServerUnavailable as error:
        services.missing(error)
    request.config.stash[_broker] = broker.description
    yield broker
    broker.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the broker of the rounds."""
    if _broker in config.stash:
        terminalreporter.write_line(f"chaos broker: {config.stash[_broker]}")
