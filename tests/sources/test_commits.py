"""Commits to the group: one at a time, repeated to keep the lease, and what their answers mean."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from confluent_kafka import KafkaError, TopicPartition

from sources.commits import Commits, Committed

TOPICS = ("a", "b")
LEASE_S = 30.0
FAILED = KafkaError(KafkaError._TIMED_OUT)


class Answered(NamedTuple):
    """A partition in an answer; the client's own lets nobody else set its error."""

    topic: str
    partition: int
    offset: int
    error: KafkaError | None


class Group:
    """Commits that are sent to nobody; the test answers."""

    def __init__(self, *owned: int) -> None:
        self.commits = Commits(TOPICS, LEASE_S)
        self.sent: list[list[TopicPartition]] = []
        self.commits.send = self.sent.append
        for partition in owned:
            self.commits.own(partition, None, 0.0)
        if owned:
            self.commits.opened(0.0)

    def request(self, partition: int, *positions: int, metadata: str = "m") -> None:
        self.commits.request(partition, positions, metadata)

    def serve(self, now: float) -> list[tuple[str, int, int]]:
        """One turn; what was sent in it."""
        before = len(self.sent)
        self.commits.serve(now)
        return [place(tp) for offsets in self.sent[before:] for tp in offsets]

    def answer(self, error: KafkaError | None = None) -> None:
        """The group's answer to the last commit."""
        self.commits.answered(error, self.sent[-1])


def place(tp: TopicPartition) -> tuple[str, int, int]:
    """Topic, partition and offset."""
    return tp.topic, tp.partition, tp.offset


def test_a_commit_names_every_topic_with_its_position_and_metadata() -> None:
    """In registered order."""
    group = Group(3)
    group.request(3, 10, 20, metadata="tails")
    assert group.serve(1) == [("a", 3, 10), ("b", 3, 20)]
    assert [tp.metadata for tp in group.sent[0]] == ["tails", "tails"]


def test_partitions_share_a_commit() -> None:
    """Whatever is ready goes together, the newest of each partition."""
    group = Group(1, 2)
    group.request(1, 10, 20)
    group.request(2, 30, 40)
    group.request(1, 11, 21)
    assert group.serve(1) == [("a", 1, 11), ("b", 1, 21), ("a", 2, 30), ("b", 2, 40)]


def test_one_commit_is_under_way_at_a_time() -> None:
    """The next follows its answer."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(1)
    group.request(1, 11, 21)
    assert group.serve(2) == []
    group.answer()
    assert group.serve(2) == [("a", 1, 11), ("b", 1, 21)]


def test_nothing_is_sent_for_partitions_of_others() -> None:
    """A request for one that was taken away is dropped, before and after."""
    group = Group(1, 2)
    group.request(9, 1, 1)
    group.request(1, 10, 20)
    group.commits.disown(1)
    assert group.serve(1) == []


# The lease


def test_the_lease_begins_with_the_assignment() -> None:
    """If something is committed that can be repeated; and it is over a moment after its end."""
    group = Group()
    assert (group.commits.expired(1e9), group.commits.age_s(1e9)) == (False, 0.0)
    group.commits.own(1, Committed((10, 20), "m"), 100.0)
    assert (group.commits.expired(130.0), group.commits.expired(130.001)) == (False, True)
    assert group.commits.age_s(112.0) == 12.0


def test_another_assignment_does_not_prolong_the_lease() -> None:
    """Only an acknowledged commit proves that what was owned is owned."""
    group = Group()
    group.commits.own(1, Committed((10, 20), "m"), 100.0)
    group.commits.own(2, Committed((30, 40), "m"), 120.0)
    group.commits.opened(125.0)
    assert group.commits.lease_ends == 130.0


def test_where_nothing_was_committed_the_lease_begins_when_the_partition_opens() -> None:
    """However long a first restore takes, there is no claim to lose and nothing to repeat."""
    group = Group()
    group.commits.own(1, None, 100.0)
    assert (group.serve(1_000.0), group.commits.expired(1_000.0), group.commits.age_s(1_000.0)) == ([], False, 0.0)
    group.commits.opened(1_000.0)
    assert (group.commits.expired(1_030.0), group.commits.expired(1_030.001)) == (False, True)


def test_a_partition_with_commits_begins_the_lease_beside_one_without() -> None:
    """One that can be lost is enough."""
    group = Group()
    group.commits.own(1, None, 100.0)
    group.commits.own(2, Committed((30, 40), "m"), 110.0)
    assert group.commits.lease_ends == 140.0


def test_the_lease_counts_from_the_sending() -> None:
    """However late the answer comes."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    assert group.commits.lease_ends == 30.0
    group.answer()
    assert group.commits.lease_ends == 35.0
    assert group.commits.age_s(25.0) == 20.0


def test_a_failed_commit_does_not_prolong_the_lease() -> None:
    """A fenced member fails for ever, and must stop in time."""
    group = Group(1)
    group.request(1, 10, 20)
    for now in range(5, 40, 5):
        group.serve(now)
        group.answer(FAILED)
    assert group.commits.lease_ends == 30.0
    assert group.commits.expired(30.5) is True


def test_an_error_of_one_partition_is_a_failure() -> None:
    """The answer as a whole may look fine."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    fine, bad = group.sent[-1]
    answered = [fine, Answered(bad.topic, bad.partition, bad.offset, FAILED)]
    group.commits.answered(None, answered)  # type: ignore[arg-type]
    assert (group.commits.stats.commits, group.commits.stats.failures) == (0, 1)
    assert group.commits.lease_ends == 30.0


def test_without_partitions_there_is_no_lease() -> None:
    """Nothing is produced, so nothing can be wrong."""
    group = Group(1, 2)
    group.commits.disown(1)
    assert group.commits.expired(31.0) is True
    group.commits.disown(2)
    assert group.commits.expired(31.0) is False


def test_an_answer_after_the_last_partition_went_changes_nothing() -> None:
    """There is no lease to prolong."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    group.commits.disown(1)
    group.answer()
    assert group.commits.lease_ends == float("inf")


# Repeating


def test_unchanged_positions_are_repeated_each_fifth_of_the_lease() -> None:
    """With the metadata they were committed with; an idle owner keeps its lease."""
    group = Group()
    group.commits.own(1, Committed((10, 20), "standing"), 0.0)
    assert group.serve(5.9) == []
    assert group.serve(6.0) == [("a", 1, 10), ("b", 1, 20)]
    assert group.sent[-1][0].metadata == "standing"
    group.answer()
    assert (group.serve(11.9), group.commits.lease_ends) == ([], 36.0)
    assert len(group.serve(12.0)) == 2


def test_what_was_acknowledged_is_what_is_repeated() -> None:
    """Not what stood there at the assignment."""
    group = Group()
    group.commits.own(1, Committed((10, 20), "old"), 0.0)
    group.request(1, 11, 21, metadata="new")
    group.serve(1)
    group.answer()
    assert group.serve(7) == [("a", 1, 11), ("b", 1, 21)]
    assert group.sent[-1][0].metadata == "new"


def test_news_is_not_kept_waiting_by_the_repetition() -> None:
    """It goes at once."""
    group = Group()
    group.commits.own(1, Committed((10, 20), "m"), 0.0)
    group.serve(6)
    group.answer()
    group.request(1, 11, 21)
    assert group.serve(6.1) == [("a", 1, 11), ("b", 1, 21)]


def test_nothing_is_repeated_that_was_never_committed() -> None:
    """An invented position could pass over facts."""
    group = Group(1)
    assert group.serve(29) == []


# Failures


def test_a_failed_commit_is_retried_after_a_moment() -> None:
    """The same positions, not at once and not much later."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    group.answer(FAILED)
    assert group.serve(5.9) == []
    assert group.serve(6.0) == [("a", 1, 10), ("b", 1, 20)]
    group.answer()
    assert (group.commits.stats.commits, group.commits.stats.failures) == (1, 1)
    assert group.commits.stats.last_error == str(FAILED)


def test_newer_positions_replace_failed_ones() -> None:
    """Going back is never right."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    group.request(1, 11, 21)
    group.answer(FAILED)
    assert group.serve(6) == [("a", 1, 11), ("b", 1, 21)]


def test_a_failed_commit_of_a_lost_partition_is_not_retried() -> None:
    """It is another's now."""
    group = Group(1, 2)
    group.request(1, 10, 20)
    group.serve(5)
    group.commits.disown(1)
    group.answer(FAILED)
    assert group.serve(6) == []


def test_an_answer_that_never_comes_is_given_up() -> None:
    """After a lease, which has ended the process by then unless nothing is owned."""
    group = Group(1)
    group.request(1, 10, 20)
    group.serve(5)
    group.request(1, 11, 21)
    assert group.serve(34.9) == []
    assert group.serve(35) == [("a", 1, 11), ("b", 1, 21)]


@pytest.mark.parametrize("error", [None, FAILED])
def test_an_answer_to_another_commit_is_ignored(error: KafkaError | None) -> None:
    """A last commit of revoked partitions is answered through the same callback."""
    group = Group(1, 2)
    group.request(2, 30, 40)
    last = group.commits.take_ready([2])
    group.request(1, 10, 20)
    group.serve(5)
    group.commits.answered(error, last)
    assert (group.commits.stats.commits, group.commits.stats.failures, group.serve(5)) == (0, 0, [])
    group.answer()
    assert (group.commits.stats.commits, group.commits.lease_ends) == (1, 35.0)


def test_an_answer_without_a_commit_is_ignored() -> None:
    """Nothing was asked."""
    group = Group(1)
    group.commits.answered(None, [TopicPartition("a", 1, 10)])
    assert group.commits.stats.commits == 0


def test_what_is_ready_can_be_taken_for_a_last_commit() -> None:
    """Only of the partitions that leave, and then it is gone."""
    group = Group(1, 2)
    group.request(1, 10, 20)
    group.request(2, 30, 40)
    assert [place(tp) for tp in group.commits.take_ready([2, 3])] == [("a", 2, 30), ("b", 2, 40)]
    assert group.commits.take_ready([2]) == []
    assert group.serve(1) == [("a", 1, 10), ("b", 1, 20)]


def test_commits_need_a_consumer() -> None:
    """Forgetting to connect one is a bug, not a silence."""
    commits = Commits(TOPICS, LEASE_S)
    commits.own(1, None, 0.0)
    commits.request(1, (1, 2), "m")
    with pytest.raises(AssertionError, match="no consumer"):
        commits.serve(1)
