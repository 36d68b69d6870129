"""Commits to the consumer group and the lease that hangs on them: when this process may still act as an owner.

A fenced member's commit fails while everything else it asks the broker still answers, so only an acknowledged commit
proves ownership. The lease ends a fixed time after the *sending* of the last acknowledged one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, TopicPartition


@dataclass
class Committed:
    """Next positions of all keyed inputs of one partition, and the text that travels with them."""

    positions: tuple[int, ...]
    metadata: str


@dataclass
class CommitStats:
    """What the metrics tell of commits."""

    commits: int = 0
    failures: int = 0
    last_error: str | None = None


@dataclass
class Commits:
    """Sends at most one asynchronous commit at a time; not thread-safe, all calls from the worker's thread.

    Args:
        topics: keyed input topics on the broker, in registered order.
        lease_s: how long an acknowledged commit is good for, from its sending.
    """

    topics: tuple[str, ...]
    lease_s: float
    stats: CommitStats = field(default_factory=CommitStats)

    def __post_init__(self) -> None:
        self._owned: dict[int, Committed | None] = {}
        self._ready: dict[int, Committed] = {}
        self._in_flight: dict[int, Committed] | None = None
        self._sent_at = 0.0
        self._retry_at = 0.0
        self.lease_ends = float("inf")
        self.send: Callable[[list[TopicPartition]], None] = _not_connected  # set by the consumer's owner

    def own(self, partition: int, committed: Committed | None, now: float) -> None:
        """A partition was assigned: from now on it counts for the lease, and what stands committed is repeated.

        Where nothing ever was committed there is nothing to repeat; it counts from its opening on (`opened`).
        """
        if committed is not None:
            self._start_lease(now)
        self._owned[partition] = committed

    def opened(self, now: float) -> None:
        """A partition was restored: its first commit follows soon."""
        self._start_lease(now)

    def _start_lease(self, now: float) -> None:
        if self.lease_ends == float("inf"):
            self.lease_ends = now + self.lease_s

    def disown(self, partition: int) -> None:
        """A partition that was taken away needs no commits any more."""
        self._owned.pop(partition, None)
        self._ready.pop(partition, None)
        if not self._owned:
            self.lease_ends = float("inf")

    def request(self, partition: int, positions: tuple[int, ...], metadata: str) -> None:
        """Commit these positions with the next turn."""
        if partition in self._owned:
            self._ready[partition] = Committed(positions, metadata)

    def age_s(self, now: float) -> float:
        """Seconds since the last acknowledged commit was sent, 0 while nothing is owned."""
        return 0.0 if self.lease_ends == float("inf") else max(0.0, now - (self.lease_ends - self.lease_s))

    def expired(self, now: float) -> bool:
        """Whether the lease is over: nothing may be produced any more."""
        return now > self.lease_ends

    def serve(self, now: float) -> None:
        """Send what is ready; without news, at least each fifth of the lease, repeat unchanged positions."""
        if self._in_flight is not None:
            if now - self._sent_at < self.lease_s:
                return
            self._in_flight = None  # the answer is lost for good: librdkafka would have called back by now
        if not self._owned or now < self._retry_at:
            return
        if not self._ready:
            if now - self._sent_at < self.lease_s / 5:
                return
            self._ready = {p: c for p, c in self._owned.items() if c is not None}
            if not self._ready:
                return
        self._in_flight, self._ready = self._ready, {}
        self._sent_at = now
        self.send(self.offsets(self._in_flight))

    def offsets(self, commits: dict[int, Committed]) -> list[TopicPartition]:
        """The commit's form for the client: a topic partition each, with the metadata of its cut."""
        return [
            TopicPartition(topic, partition, position, committed.metadata)
            for partition, committed in commits.items()
            for topic, position in zip(self.topics, committed.positions, strict=True)
        ]

    def take_ready(self, partitions: list[int]) -> list[TopicPartition]:
        """What is ready of these partitions, for a last commit outside the usual turn."""
        return self.offsets({p: self._ready.pop(p) for p in partitions if p in self._ready})

    def answered(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """The client's answer to the commit in flight (`on_commit`)."""
        sent = self._in_flight
        if sent is None or _places(partitions) != _places(self.offsets(sent)):
            return  # the answer to a last commit of a partition that was revoked meanwhile
        self._in_flight = None
        failed = error or next((tp.error for tp in partitions if tp.error is not None), None)
        if failed is not None:
            self.stats.failures += 1
            self.stats.last_error = str(failed)
            self._retry_at = self._sent_at + min(1.0, self.lease_s / 20)
            for partition, committed in sent.items():
                if partition in self._owned:
                    self._ready.setdefault(partition, committed)
            return
        self.stats.commits += 1
        self.lease_ends = self._sent_at + self.lease_s if self._owned else float("inf")
        for partition, committed in sent.items():
            if partition in self._owned:
                self._owned[partition] = committed


def _places(offsets: list[TopicPartition]) -> set[tuple[str, int, int]]:
    return {(tp.topic, tp.partition, tp.offset) for tp in offsets}


def _not_connected(_: list[TopicPartition]) -> None:
    raise AssertionError("no consumer has taken over the commits")
