"""A broker with quick groups for the scenarios, and what failed processes have logged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stockflow.embedded import KafkaBroker, RedisServer, ServerUnavailable
from tests import services
from tests.e2e.harness import Stage
from tests.e2e.load import Sending

# A dead member's partitions are free after a session. Short enough for many deaths in one test, long enough
# for a process that a busy machine lets wait.
HEARTBEAT_MS = 500
SESSION_MS = 3_000
PARTITIONS = 3

_stages = pytest.StashKey[list[Stage]]()
_broker = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def quick_kafka(request: pytest.FixtureRequest) -> Iterator[KafkaBroker]:
    """The broker of these scenarios: never stop it, and use topics of your own."""
    try:
        broker = services.own_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=SESSION_MS)
    except ServerUnavailable as error:
        services.missing(error)
    request.config.stash[_broker] = broker.description
    yield broker
    broker.close()


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    fresh_topics: Callable[..., str],
    private_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> Iterator[Callable[..., Stage]]:
    """A function that sets a stage: topics, a Redis unless a URL is given, and settings for all its processes."""
    stages = request.node.stash.setdefault(_stages, [])
    with ExitStack() as stack:

        def set_stage(
            partitions: int = PARTITIONS,
            bootstrap: str | None = None,
            redis_url: str | None = None,
            **variables: str,
        ) -> Stage:
            servers = bootstrap or request.getfixturevalue("quick_kafka").bootstrap
            made = Stage(
                servers,
                fresh_topics(partitions, servers),
                partitions,
                redis_url or private_redis().url,
                tmp_path / f"stage-{len(stages) + 1}",
                {f"STOCKFLOW_{name}": value for name, value in variables.items()},
            )
            stages.append(made)
            stack.callback(made.close)
            return made

        yield set_stage


@pytest.fixture
def sending() -> Iterator[Callable[[Stage], Sending]]:
    """A function that makes the sender for a stage."""
    with ExitStack() as stack:

        def make(stage: Stage) -> Sending:
            made = Sending(stage.bootstrap, stage.prefix)
            stack.callback(made.close)
            return made

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failed scenario logged."""
    report = yield
    if report.when == "call" and report.failed:
        for one in item.stash.get(_stages, []):
            report.sections.extend(one.logs())
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the broker of the scenarios."""
    if _broker in config.stash:
        terminalreporter.write_line(f"end-to-end broker: {config.stash[_broker]}")
