"""Each peer does the balance job: a short run of it ends with the sums of the workload, or its time does not count."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import restore, suite
from benchmarks.figures import Report
from benchmarks.peers import environments
from benchmarks.peers.programs import PEERS, run_peer
from benchmarks.rig import Servers, WrongResult, drop_topics, make_topics
from benchmarks.workload import Options, make
from stockflow.embedded import RedisServer
from tests import services

SHAPE = Options(events=600, balances=100, partitions=3, warm_up=100)


def _ensured(environment: str) -> None:
    try:
        environments.ensure(environment)
    except environments.PeerUnavailable as error:
        pytest.skip(f"its environment cannot be made here: {error}")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_arrives_at_the_sums_of_the_workload(name: str, kafka: services.Kafka, tmp_path: Path) -> None:
    """Every event has its effect once, and a record."""
    peer = PEERS[name]
    _ensured(peer.environment)
    where, prefix = Servers(kafka.bootstrap, "", "test"), f"peer-{time.monotonic_ns()}-"
    make_topics(where, prefix, SHAPE.partitions)
    try:
        result = run_peer(peer, where, prefix, make(SHAPE, time.time_ns() // 1000), SHAPE, 5, tmp_path, 0)
    finally:
        drop_topics(where, prefix)
    assert result.records == SHAPE.events
    assert result.per_second > 0


def test_a_peer_with_a_wrong_result_has_no_time(
    kafka: services.Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One unit too few, and the turn is void."""
    peer = PEERS["stock bytewax"]
    _ensured(peer.environment)
    where, prefix = Servers(kafka.bootstrap, "", "test"), f"peer-{time.monotonic_ns()}-"
    workload = make(SHAPE, time.time_ns() // 1000)
    workload.expected.on_hand += 1
    make_topics(where, prefix, SHAPE.partitions)
    try:
        with pytest.raises(WrongResult, match="expected"):
            run_peer(peer, where, prefix, workload, SHAPE, 5, tmp_path, 0)
    finally:
        drop_topics(where, prefix)


def test_an_environment_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A jar other than the pinned one, or no compiler, is a reason and not a crash."""
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(environments.PeerUnavailable, match=r"kafka-streams: .*(java|mvn|javac)"):
        environments.ensure(environments.STREAMS)
    assert not (tmp_path / environments.STREAMS / environments.MARK).exists()


def test_the_suite_marks_what_could_not_run_and_goes_on(
    kafka: services.Kafka, private_redis: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer without an environment is skipped with the reason; floor and stockflow are compared all the same."""

    def unavailable(name: str) -> Path:
        raise environments.PeerUnavailable(f"{name}: not here")

    monkeypatch.setattr(environments, "ensure", unavailable)
    size = suite.replace(suite.QUICK, events=2_000, balances=200, warm_up=100, rounds=1)
    report = Report({})
    where = Servers(kafka.bootstrap, private_redis().url, "test")
    suite.throughput(where, size, report, tmp_path, 0, Console(quiet=True))
    assert report.figures["throughput_vs_floor"]["value"] > 0
    assert report.skipped["throughput_vs_quix"] == "PeerUnavailable: quix: not here"
    assert "throughput_vs_kafka_streams" not in report.figures


def test_a_restart_and_a_takeover_have_every_balance(
    kafka: services.Kafka, private_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Both the bare loop and stockflow are only timed with all balances."""
    where = Servers(kafka.bootstrap, private_redis().url, "test")
    rounds = restore.measure(where, 200, 3, 1, tmp_path, 0, Console(quiet=True))
    rounds += restore.measure_takeovers(where, 200, 4, 1, tmp_path, 0, Console(quiet=True))
    restart, takeover = rounds
    assert restart["bare"]["keys"] == 200
    assert 0 < takeover["bare"]["keys"] < 200
    for one in rounds:
        assert one["stockflow"]["keys"] >= one["bare"]["keys"]
        assert one["stockflow"]["seconds"] > 0
