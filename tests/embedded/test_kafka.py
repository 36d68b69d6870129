"""The broker that the demo and the tests bring along."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stockflow.embedded import KafkaBroker, ServerUnavailable, TansuBroker, best_broker
from stockflow.embedded.kafka import ensure_jars
from tests import services

QUIET = {"log_level": 0}
FAKE_MAVEN = """#!/bin/sh
for word; do case "$word" in -DoutputDirectory=*) folder="${word#*=}";; esac; done
mkdir -p "$folder" && sleep 0.2 && echo jar > "$folder/kafka_2.13-fake.jar"
"""


def make_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(timeout=10)


def write(bootstrap: str, topic: str, value: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, **QUIET})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def read(bootstrap: str, topic: str, count: int) -> list[str]:
    """The first `count` values of a topic, or what came within 20 seconds."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", **QUIET})
    consumer.assign([TopicPartition(topic, 0, 0)])  # no group: joining one takes seconds
    values: list[str] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        values += [message.value().decode() for message in consumer.consume(count, 0.2) if not message.error()]
    consumer.close()
    return values


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, **programs: str) -> None:
    """Make these scripts, and what every script needs, all that can be found on PATH."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin" if programs else str(folder))


def test_broker_keeps_port_and_records_when_it_is_stopped_or_killed(
    private_kafka: Callable[..., KafkaBroker],
) -> None:
    """After a stop, a restart and a kill the same address serves what was written before."""
    broker = private_kafka()
    bootstrap, folder = broker.bootstrap, broker.folder
    make_topic(bootstrap, "facts")
    write(bootstrap, "facts", "first")
    broker.restart()
    write(bootstrap, "facts", "second")
    broker.kill()
    assert broker.pid is None
    broker.start()
    write(bootstrap, "facts", "third")
    assert broker.bootstrap == bootstrap
    assert read(bootstrap, "facts", 3) == ["first", "second", "third"]
    broker.close()
    assert not folder.exists()


@pytest.mark.kafka
def test_broker_that_cannot_start_says_why() -> None:
    """A broker with a wrong property ends at once, and the error shows its own words."""
    try:
        broker = KafkaBroker(services.CACHE, properties={"num.io.threads": "none"})
    except ServerUnavailable as error:
        services.missing(error)
    with pytest.raises(ServerUnavailable, match=r"Invalid value none for configuration num\.io\.threads"):
        broker.start()
    broker.close()


def test_two_processes_may_download_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get the same whole folder, and nothing half done stays behind."""
    put_on_path(monkeypatch, tmp_path / "bin", mvn=FAKE_MAVEN)
    cache = tmp_path / "cache"
    found: list[Path] = []
    told: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_jars(cache, told.append))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 3
    assert list(cache.iterdir()) == [found[0]]
    assert [path.name for path in found[0].iterdir()] == ["kafka_2.13-fake.jar"]
    assert told == ["downloading Apache Kafka 4.1.1 with Maven (about 50 MB, only this once)"] * 3
    put_on_path(monkeypatch, tmp_path / "empty")
    assert ensure_jars(cache) == found[0]


def test_failed_download_shows_what_maven_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with Maven's own lines, and the cache holds nothing that looks complete."""
    put_on_path(monkeypatch, tmp_path / "bin", mvn="#!/bin/sh\necho no route to repository\nexit 1\n")
    with pytest.raises(ServerUnavailable, match="no route to repository"):
        ensure_jars(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("case", "programs", "reason"),
    [
        ("nothing installed", {}, "`java` is missing"),
        ("a placeholder that only fails", {"java": "#!/bin/sh\nexit 1\n"}, "`java` is missing"),
        ("too old", {"java": "#!/bin/sh\necho 'openjdk version \"11.0.2\"'\n"}, "`java` is version 11"),
        ("no Maven", {"java": "#!/bin/sh\necho 'openjdk version \"21\"'\n"}, "`mvn` is missing"),
    ],
)
def test_machine_without_java_or_maven_gets_the_substitute_and_the_reason(
    case: str, programs: dict[str, str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling back is told with its reason and with what to install."""
    put_on_path(monkeypatch, tmp_path / "bin", **programs)
    if programs:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    told: list[str] = []
    broker = best_broker(tmp_path / "cache", told.append)
    assert isinstance(broker, TansuBroker), case
    assert len(told) == 1
    assert reason in told[0]
    assert "install Java 17 or newer" in told[0]
    assert broker.description in told[0]


def test_substitute_takes_and_gives_records() -> None:
    """What is written to Tansu can be read from it, until it stops: then it is empty."""
    with TansuBroker() as broker:
        make_topic(broker.bootstrap, "facts")
        write(broker.bootstrap, "facts", "first")
        assert read(broker.bootstrap, "facts", 1) == ["first"]
        bootstrap = broker.bootstrap
        broker.restart()
        assert broker.bootstrap == bootstrap
        admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
        assert "facts" not in admin.list_topics(timeout=10).topics
