"""Failures inside the client's rebalance callbacks end the process from the very turn in which they happen."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from confluent_kafka import KafkaException, Producer

import sources.kafka
from sources.commits import Commits
from sources.kafka import EventsReader, SourceOptions
from stockflow.logs import get
from tests.sources.test_kafka_reader import new_ledger

TOPICS = ("a", "b")
TIMEOUT_S = 60.0


class Died(Exception):
    """What `die` was called with."""


def die(error: BaseException) -> NoReturn:
    """End the turn as the real one ends the process, which it does only once."""
    if isinstance(error, Died):
        raise error
    raise Died from error


def outgoing() -> Any:
    """Whoever publishes: with room, and nothing to do."""
    idle = dict.fromkeys(("serve", "rules_changed", "lose", "finish", "close"), lambda *_, **__: None)
    return SimpleNamespace(has_room=True, waiting=False, **idle)


def test_committed_positions_that_cannot_be_read_end_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group's answer comes too late while partitions are taken over: `die` is called, nothing else sees it."""
    monkeypatch.setattr(sources.kafka, "BROKER_TIMEOUT_S", 0.0)
    # Any answer takes longer than no time at all, however busy the machine is.
    mock = Producer({"test.mock.num.brokers": 1, "test.mock.broker.rtt": 50, "log_level": 0})
    for topic in TOPICS:
        mock.produce(topic, b"makes the topic")
    assert mock.flush(TIMEOUT_S) == 0
    [broker] = mock.list_topics(timeout=TIMEOUT_S).brokers.values()
    client = {"bootstrap.servers": f"{broker.host}:{broker.port}", "log_level": "0"}
    reader = EventsReader(
        SourceOptions(client, TOPICS, 4, "group", "classic", False),
        SimpleNamespace(poll=list, refused=[], newly_refused=list, close=lambda: None),
        SimpleNamespace(busy=False, step=lambda **_: [], records_read=dict, abandon=lambda _: None, close=lambda: None),
        outgoing(),
        lambda: 0,
        new_ledger,
        Commits(TOPICS, 30.0),
        die,
        time.monotonic,
        get("test"),
    )

    deadline = time.monotonic() + TIMEOUT_S

    def turn_until_deadline() -> None:
        while time.monotonic() < deadline:
            reader.next_batch()

    with pytest.raises(Died) as died:
        turn_until_deadline()
    assert isinstance(died.value.__cause__, KafkaException)
    reader.close()
