"""Bounds of logs: what was asked is answered at last, also if the client that was asked had to be replaced."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sources import bounds as module
from sources.bounds import LogBounds, committed_positions
from tests.services import Kafka

TOPICS = ("a", "b")
LOST = KafkaException(KafkaError(KafkaError._TIMED_OUT))
Question = dict[TopicPartition, "Future[Any]"]


class FakeAdmin:
    """A client that answers when the test says so. Clients that were made are kept in order."""

    made: list[FakeAdmin]

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.questions: list[Question] = []
        FakeAdmin.made.append(self)

    def list_offsets(self, wanted: Mapping[TopicPartition, Any], request_timeout: float) -> Question:
        assert request_timeout > 0, "a question without an end"
        self.questions.append({place: Future() for place in wanted})
        return self.questions[-1]

    def asked(self) -> list[int]:
        """Partitions in the order of asking; first offsets and ends are two questions."""
        return [next(iter(question)).partition for question in self.questions]

    def answer(self, question: int, *offsets: int) -> None:
        """Answer one question, topic by topic."""
        for future, offset in zip(self.questions[question].values(), offsets, strict=True):
            future.set_result(SimpleNamespace(offset=offset))

    def fail(self, question: int) -> None:
        """Fail one question."""
        for future in self.questions[question].values():
            future.set_exception(LOST)


@pytest.fixture
def admins(monkeypatch: pytest.MonkeyPatch) -> list[FakeAdmin]:
    """Every client that is made, in order."""
    FakeAdmin.made = []
    monkeypatch.setattr(module, "AdminClient", FakeAdmin)
    return FakeAdmin.made


def test_bounds_are_known_when_both_ends_of_every_log_are(admins: list[FakeAdmin]) -> None:
    """First offset and next offset by topic; until then there is no answer."""
    bounds = LogBounds({"bootstrap.servers": "x:1"}, TOPICS)
    bounds.ask(3)
    [admin] = admins
    assert (admin.config, admin.asked()) == ({"bootstrap.servers": "x:1"}, [3, 3])
    admin.answer(0, 10, 20)
    assert bounds.answer(3) is None
    admin.answer(1, 100, 200)
    assert bounds.answer(3) == {"a": (10, 100), "b": (20, 200)}


@pytest.mark.parametrize("failed", [0, 1], ids=["first offsets", "ends"])
def test_one_failed_answer_asks_all_again(admins: list[FakeAdmin], failed: int) -> None:
    """On a new client, and for every partition: what the old client owes to the others would never come."""
    bounds = LogBounds({"bootstrap.servers": "x:1"}, TOPICS)
    bounds.ask(3)
    bounds.ask(4)
    [old] = admins
    old.fail(failed)
    assert bounds.answer(3) is None, "the other half is not known yet"
    old.answer(1 - failed, 0, 0)
    assert bounds.answer(3) is None
    _, new = admins
    assert (new.config, new.asked()) == (old.config, [3, 3, 4, 4])
    assert bounds.answer(4) is None
    for question in range(4):
        new.answer(question, question, question)
    assert bounds.answer(4) == {"a": (2, 3), "b": (2, 3)}
    assert bounds.answer(3) == {"a": (0, 1), "b": (0, 1)}
    assert len(admins) == 2


def test_what_is_not_wanted_any_more_is_not_asked_again(admins: list[FakeAdmin]) -> None:
    """A partition that was answered or taken away."""
    bounds = LogBounds({}, TOPICS)
    for partition in (3, 4, 5):
        bounds.ask(partition)
    old = admins[0]
    bounds.forget(4)
    old.answer(4, 1, 1)
    old.answer(5, 2, 2)
    assert bounds.answer(5) == {"a": (1, 2), "b": (1, 2)}
    old.fail(0)
    old.fail(1)
    assert bounds.answer(3) is None
    assert admins[1].asked() == [3, 3]


def test_committed_positions_are_seen_by_others(kafka: Kafka, topic_prefix: str) -> None:
    """What a member has committed, with its metadata; nothing is told as such, and nobody is waited for in vain."""
    topic, group = f"{topic_prefix}a", f"{topic_prefix}group"
    client = {"bootstrap.servers": kafka.bootstrap}
    admin = AdminClient(client)
    [made] = admin.create_topics([NewTopic(topic, 2, 1)]).values()
    made.result(30)
    member = Consumer({**client, "group.id": group})
    member.commit(offsets=[TopicPartition(topic, 1, 7, metadata="what for")], asynchronous=False)
    member.close()
    places = [TopicPartition(topic, partition) for partition in (0, 1)]
    found = committed_positions(client, group, places, 10)
    assert found is not None
    assert {(tp.partition, tp.offset, tp.metadata or None) for tp in found} == {(0, -1001, None), (1, 7, "what for")}
    assert committed_positions({"bootstrap.servers": "127.0.0.1:1", "log_level": "0"}, group, places, 0.2) is None
