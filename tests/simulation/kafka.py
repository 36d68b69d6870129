"""A Kafka in memory: logs that can be compacted, and a group whose members come, go, sleep and are fenced.

Nothing here has a clock or threads of its own. `Timeline` is the one source of time and of chance; whatever takes
time is an event on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol

Header = tuple[str, Any]


DELETIONS_KEPT_S = 30.0  # Longer than any restore here, as a day is for the real ones.


class Timeline:
    """Virtual time, the events that are due on it, and the only random generator of a run."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.history: list[str] = []

    def tell(self, text: str) -> None:
        """Write a line of the run's history."""
        self.history.append(f"{self.now:9.3f}  {text}")

    def later(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self._count += 1
        heappush(self._due, (self.now + delay_s, self._count, event))

    def advance(self, seconds: float) -> None:
        """Let time pass, with everything that falls due."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            at, _, event = heappop(self._due)
            self.now = max(self.now, at)
            event()
        self.now = until

    def percent(self, percent: float) -> bool:
        """True with this probability."""
        return self.chance.random() * 100 < percent


@dataclass(frozen=True)
class Record:
    """A record as it stands in a log; `order` counts all appends of the broker, `writer` is who appended it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    timestamp_ms: int
    order: int
    appended_at: float
    writer: str


@dataclass
class PartitionLog:
    """One partition of one topic."""

    topic: str
    partition: int
    compacted: bool
    records: list[Record] = field(default_factory=list)
    first: int = 0
    end: int = 0
    _deletions: dict[int, float] = field(default_factory=dict)  # when the cleaner first found them to be the last word

    def at(self, offset: int) -> Record | None:
        """The record at an offset, or the next one behind it."""
        if offset >= self.end:
            return None
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            if self.records[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return self.records[low] if low < len(self.records) else None

    def compact(self, appended_before: float, keeps_deletions: bool, now: float) -> int:
        """Drop what a later record of its key replaces, and deletions, as far as both are old; how many went.

        As the broker's cleaner does: a record younger than the compaction lag replaces nothing yet; a deletion goes
        some time after it was first found to be the last of its key, so that no reader who has read what it deletes
        can miss it; and where readers go on from where they were, deletions are kept for longer than a run lasts.
        """
        newest = {record.key: record.offset for record in self.records if record.appended_at < appended_before}
        kept = []
        for record in self.records:
            if record.appended_at < appended_before and record.offset != self.end - 1:
                if newest[record.key] != record.offset:
                    continue
                if record.value is None and not keeps_deletions:
                    found_at = self._deletions.setdefault(record.offset, now)
                    if now >= found_at + DELETIONS_KEPT_S:
                        continue
            kept.append(record)
        gone = len(self.records) - len(kept)
        self.records = kept
        return gone

    def forget(self, appended_before: float) -> None:
        """Delete old records, as retention does."""
        self.records = [record for record in self.records if record.appended_at >= appended_before]
        self.first = self.records[0].offset if self.records else self.end


class Member(Protocol):
    """A consumer of the group as its coordinator sees it."""

    @property
    def name(self) -> str:
        """For the history."""

    @property
    def reachable(self) -> bool:
        """Whether its heartbeats arrive."""


Place = tuple[str, int]


@dataclass
class _Membership:
    member: Member
    number: int
    owned: set[Place] = field(default_factory=set)
    heard_at: float = 0.0


class Group:
    """The coordinator of one consumer group: range assignment, incremental and co-partitioned, sessions, commits."""

    def __init__(
        self,
        timeline: Timeline,
        topics: tuple[str, ...],
        partitions: int,
        session_s: float,
        eager: bool = False,
    ) -> None:
        self._timeline, self._partitions, self._session_s = timeline, partitions, session_s
        self.topics, self._eager = topics, eager
        self._members: dict[str, _Membership] = {}
        self._joined = 0
        self._targets: dict[str, set[Place]] = {}
        self.positions: dict[Place, tuple[int, str]] = {}

    def join(self, member: Member) -> None:
        """A consumer joins, or joins again after it was put out."""
        self._joined += 1
        self._targets.clear()
        self._members[member.name] = _Membership(member, self._joined, heard_at=self._timeline.now)

    def leave(self, name: str) -> None:
        """A member says good-bye; what it owned is free."""
        self._members.pop(name, None)
        self._targets.clear()

    def knows(self, name: str) -> bool:
        """Whether it is a member; one that slept beyond its session is not."""
        return name in self._members

    def tick(self) -> None:
        """Heartbeats of those that can be heard; those silent for a session are put out."""
        now = self._timeline.now
        for name, membership in list(self._members.items()):
            if membership.member.reachable:
                membership.heard_at = now
            elif now - membership.heard_at > self._session_s:
                self._timeline.tell(f"group: {name} is put out")
                self.leave(name)

    def hear_all(self) -> None:
        """The broker was away: sessions begin anew."""
        for membership in self._members.values():
            membership.heard_at = self._timeline.now

    def owned(self, name: str) -> set[Place]:
        """What a member has taken and not given back."""
        return self._members[name].owned

    def to_revoke(self, name: str) -> set[Place]:
        """What a member has to give back; eagerly everything, whenever its share changes."""
        owned, target = self._members[name].owned, self._target(name)
        if self._eager:
            return set(owned) if owned != target else set()
        return owned - target

    def to_assign(self, name: str) -> set[Place]:
        """What a member may take: its share, as far as nobody else still holds it."""
        held = {place for other in self._members.values() for place in other.owned}
        target = self._target(name)
        if self._eager and target & held:
            return set()
        return target - held

    def _target(self, name: str) -> set[Place]:
        if not self._targets:
            members = sorted(self._members.values(), key=lambda membership: membership.number)
            whole, rest = divmod(self._partitions, len(members))
            first = 0
            for position, membership in enumerate(members):
                share = range(first, first + whole + (position < rest))
                first = share.stop
                self._targets[membership.member.name] = {(topic, p) for topic in self.topics for p in share}
        return self._targets[name]


class Broker:
    """All topics, one group, and whether anybody can reach them.

    `appended` has by topic every record that ever was appended, with its partition, also what is gone by now.
    """

    def __init__(
        self, timeline: Timeline, topics: Iterable[tuple[str, bool]], partitions: int, group: Group, start_ms: int
    ) -> None:
        self.timeline, self.group, self.partitions = timeline, group, partitions
        self.logs = {
            (name, partition): PartitionLog(name, partition, compacted)
            for name, compacted in topics
            for partition in range(partitions)
        }
        self.appended: dict[str, list[tuple[int, Record]]] = {name: [] for name, _ in self.logs}
        self.is_down = False
        self._start_ms = start_ms
        self._order = 0

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Iterable[Header], writer: str
    ) -> Record:
        """Append one record now."""
        log = self.logs[topic, partition]
        self._order += 1
        now = self.timeline.now
        timestamp_ms = self._start_ms + int(now * 1000)
        record = Record(log.end, key, value, tuple(headers), timestamp_ms, self._order, now, writer)
        log.records.append(record)
        log.end += 1
        self.appended[topic].append((partition, record))
        return record

    def wall_us(self) -> int:
        """The true time, in microseconds since 1970."""
        return self._start_ms * 1000 + int(self.timeline.now * 1e6)
