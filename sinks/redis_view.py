"""Keeps the Redis view equal to `availability.v1`, from a thread of its own; never delays or stops the pipeline.

The view is fed with acknowledged records only, so it never shows what the topic does not have. What it may have
missed (Redis down, wiped, failed over to an older replica, a backlog that grew too large, a takeover) it reads again
from the topic, beginning at the marker that Redis itself holds: `stockflow:view:<partition>` says that all records of
the partition below its offset have been written. A marker moves only after the writes that it claims, on the same
connection, and only from the text that was seen there last.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import structlog

from sinks.view_store import Change, Marker, StoreUnavailable, ViewStore
from sinks.view_sync import Batch, TopicReader

MARK_INTERVAL_S = 1.0  # How much is read again after a failover, and how soon a wipe is noticed.
GATHER_S = 0.001  # Where much comes, a burst of changes to one key becomes one write.
GATHER_ABOVE = 1  # ... which is where more than so many records were written at once; else each is written as it comes.
RECORDS_PER_TRIP = 1_600  # One pipelined round trip: about 1 MB, so that even a slow server answers in time.
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 2.0


class _State(Enum):
    UNKNOWN = "its marker must be read"
    BEHIND = "waits to be read again"
    READING = "is being read again"
    CAUGHT_UP = "has been read again, but no marker says so yet"
    CURRENT = "its marker is ours and moves on"
    OUTRANKED = "its marker is from a newer owner"


@dataclass(eq=False)
class _Share:
    """One owned partition. `accepting`, `lost` and `high` belong to the lock, all else to the thread."""

    number: int  # Each ownership has its own, also of the same partition.
    partition: int
    generation: int
    accepting: bool = True
    lost: bool = False  # Some of its pending records were dropped.
    high: int = -1  # The highest offset delivered.
    state: _State = _State.UNKNOWN
    must_read: bool = False  # Even a marker that is ours does not cover what was written since.
    marker: Marker | None = None  # As last confirmed by Redis.
    asked: Marker | None = None  # As last asked for; Redis may have it without our knowing.
    written: int = -1  # All deliveries up to this offset have been written since the connection was opened.
    position: int | None = None  # All records below this have been written, says the reading.
    reading: Iterator[Batch] | None = None
    read_from: int | None = None
    must_reach: int = -1  # The reading is incomplete unless it passes this offset.
    retry_at: float = 0.0
    records: int = 0
    failing: bool = False  # The last reading failed, which has been said.
    live: dict[str, int] = field(default_factory=dict)  # Keys delivered and written while reading, with offset.


# Key -> number of the share, value, offset, input timestamp. Only atoms, so that the garbage collector lets go of
# the tuples: with 100,000 of them pending, looking at them again and again costs more than everything else here.
_Pending = dict[str, tuple[int, bytes | None, int, int]]


class ViewStats:
    """What the view did and how it is; written by its thread, read by anyone."""

    def __init__(self, backlog: Callable[[], int]) -> None:
        self._backlog = backlog
        self.connected = False
        self.writes = 0
        self.refused_older = 0
        self.resyncs = 0
        self.dropped = 0
        self.errors = 0
        self.last_error: str | None = None

    @property
    def backlog(self) -> int:
        """Keys whose newest acknowledged value is not written yet."""
        return self._backlog()


class RedisView:
    """The view of one process: `own`, `disown` and `delivered` from the main thread, all else from its own thread.

    None of the three blocks on Redis or Kafka or raises. Redis being down, slow, wiped or failed over is never an
    error of the caller: it shows in `stats` and in the log, once per change. Replaying deliveries changes nothing.
    """

    def __init__(
        self,
        store: ViewStore,
        read_topic: TopicReader,
        *,
        pending_max: int = 100_000,
        gather_s: float = GATHER_S,
        gather_above: int = GATHER_ABOVE,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[int, int], None] | None = None,
        log: Any = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.stats = ViewStats(lambda: len(self._pending) + self._in_flight)
        self._read_topic = read_topic
        self._pending_max, self._gather_s, self._gather_above = pending_max, gather_s, gather_above
        self._flushed = 0  # records in the last turn
        self._clock = clock
        self._wall = wall
        self._observe = observe
        self._log = structlog.get_logger("redis_view") if log is None else log
        self._store = store
        self._lock = threading.Lock()
        self._shares: dict[int, _Share] = {}  # By partition.
        self._numbered: dict[int, _Share] = {}
        self._next_number = 0
        self._pending: _Pending = {}
        self._unmarked: _Pending = {}  # Written, but no marker covers it yet: written again on a new connection.
        self._in_flight = 0
        self._mark_at = 0.0
        self._trouble: str | None = None
        self._random = random.Random()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-view", daemon=True)

    def start(self) -> None:
        """Start the thread; Redis need not be there yet."""
        self._thread.start()

    def stop(self, flush_timeout_s: float) -> None:
        """Write what is pending and move the markers, within a time; give up at once if Redis does not answer.

        Nothing is lost by giving up: the next owner reads on from the markers.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return
        self._thread.join(flush_timeout_s)
        if self._thread.is_alive():
            self._log.warning("redis view stopped before all was written", backlog=self.stats.backlog)

    def own(self, partition: int, generation: int) -> None:
        """The partition was taken over: read it again from its marker, then keep it current."""
        with self._lock:
            self._forget(partition)
            self._next_number += 1
            share = _Share(self._next_number, partition, generation)
            self._shares[partition] = self._numbered[share.number] = share
        self._wake.set()

    def disown(self, partition: int) -> None:
        """The partition was revoked: nothing more of it is written, but for a call that is on the wire."""
        with self._lock:
            self._forget(partition)

    def delivered(self, partition: int, key: str, value: bytes | None, offset: int, mark: int) -> None:
        """A record was acknowledged on `availability.v1`; offsets of one partition come in order.

        Costs a lock and a dict write. Records of a partition that is not owned are ignored.
        """
        with self._lock:
            share = self._shares.get(partition)
            if share is None:
                return
            share.high = offset
            if not share.accepting:
                return
            pending = self._pending
            pending[key] = (share.number, value, offset, mark)
            size = len(pending)
            if size == 1:
                self._wake.set()
            elif size > self._pending_max:
                self._drop_backlog()

    def _forget(self, partition: int) -> None:
        """Give up a partition and what is pending of it. The lock is held."""
        share = self._shares.pop(partition, None)
        if share is not None:
            del self._numbered[share.number]
            self._drop_pending(share)

    def _drop_pending(self, share: _Share) -> None:
        self._pending = {key: entry for key, entry in self._pending.items() if entry[0] != share.number}

    def _drop_backlog(self) -> None:
        """Let go of all pending records and remember which partitions must be read again. The lock is held."""
        for number in {entry[0] for entry in self._pending.values()}:
            share = self._numbered.get(number)
            if share is not None:
                share.lost = True
                share.accepting = False
        self.stats.dropped += len(self._pending)
        self._pending = {}
        self._wake.set()

    # From here on: the thread.

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            if self.work():
                failures = 0
                self._rest()
            else:
                failures += 1
                self._stopping.wait(self._backoff_s(failures))
        self.work(last=True)
        for share in self._owned():
            self._end_reading(share)
        self.stats.connected = False
        self._store.close()

    def work(self, last: bool = False) -> bool:
        """One round of the thread's work, as far as Redis lets it; False if Redis did not. Never raises.

        Args:
            last: write and mark what there is, and begin nothing new.
        """
        try:
            self._turn(last)
        except StoreUnavailable as error:
            self._suspend(str(error))
            return False
        except Exception as error:  # noqa: BLE001 -- a bug here may neither stop the pipeline nor end the view
            self._log.exception("redis view failed, reads all again")
            for share in self._owned():
                share.must_read = True
            self._suspend(f"{type(error).__name__}: {error}")
            return False
        return True

    def _turn(self, last: bool) -> None:
        """One round: connect, decide what must be read again, write what is pending, read on, mark."""
        if not self.stats.connected:
            self._store.connect()
            self.stats.connected = True
        self._judge_unknown()
        self._flush()
        if not last:
            self._read_on()
        if last or self._clock() >= self._mark_at or len(self._unmarked) > self._pending_max:
            self._mark()
        if self._trouble is not None:
            self._log.info("redis view is back", backlog=self.stats.backlog)
            self._trouble = None

    def _rest(self) -> None:
        """Wait for work; where much comes a moment longer, so that a burst is written as one."""
        now = self._clock()
        if not self._pending:
            states = [share for share in self._owned() if share.state is not _State.CURRENT]
            if any(share.state is _State.READING or share.retry_at <= now for share in states if _reads(share)):
                return
            self._wake.wait(max(0.0, min([self._mark_at, *(s.retry_at for s in states if _reads(s))]) - now))
        self._wake.clear()
        if self._flushed > self._gather_above:
            self._stopping.wait(self._gather_s)

    def _backoff_s(self, failures: int) -> float:
        """Doubles up to a cap; the jitter keeps many processes from returning at the same moment."""
        wait_s: float = BACKOFF_S_MIN * 2 ** min(failures - 1, 10)
        return min(BACKOFF_S_MAX, wait_s) * self._random.uniform(0.5, 1.0)

    def _owned(self) -> list[_Share]:
        with self._lock:
            return list(self._shares.values())

    def _owner(self, number: int) -> _Share | None:
        """The share of a pending record, unless it was given up or may not write."""
        share = self._numbered.get(number)
        return None if share is None or share.state is _State.OUTRANKED else share

    def _suspend(self, error: str) -> None:
        """The connection is gone, and with it the certainty of everything that no marker covers."""
        self.stats.connected = False
        self.stats.errors += 1
        self.stats.last_error = error
        kind = error.partition(" ")[0]
        if kind != self._trouble:
            self._trouble = kind
            self._log.warning("redis view cannot write, keeps trying", error=error)
        self._store.close()
        self._in_flight = 0
        unmarked, self._unmarked = self._unmarked, {}
        self._put_back(unmarked)
        for share in self._owned():
            self._end_reading(share)
            if share.state is not _State.OUTRANKED:
                share.must_read = share.must_read or share.state not in (_State.CURRENT, _State.UNKNOWN)
                share.state = _State.UNKNOWN
            share.written = -1

    def _put_back(self, entries: _Pending) -> None:
        """Make written or half-written records pending again, unless newer ones of their keys are."""
        merged = {key: entry for key, entry in entries.items() if self._owner(entry[0])}
        with self._lock:
            merged.update(self._pending)
            self._pending = merged
            if len(merged) > self._pending_max:
                self._drop_backlog()

    def _judge_unknown(self) -> None:
        """Read the markers of partitions that need it, and decide for each whether it must be read again."""
        with self._lock:
            for share in self._shares.values():
                if share.lost:
                    share.lost = False
                    share.accepting = True
                    share.must_read = True
                    share.state = _State.UNKNOWN
        unknown = [share for share in self._owned() if share.state is _State.UNKNOWN]
        if not unknown:
            return
        markers = self._store.read_markers([share.partition for share in unknown])
        for share in unknown:
            self._end_reading(share)
            self._judge(share, markers[share.partition])
        # A missing marker could not tell a wipe during the reading: it must stand before the first record is written.
        self._move({share: share.read_from or 0 for share in unknown if share.state is _State.BEHIND})

    def _judge(self, share: _Share, found: Marker | None) -> None:
        if found is not None and found.generation > share.generation:
            self._stand_aside(share, found)
            return
        ours = found is not None and found in (share.marker, share.asked)
        if ours and not share.must_read:
            share.marker = found
            share.state = _State.CURRENT
            return
        if found is not None and share.marker is not None:
            share.read_from = min(found.offset, share.marker.offset)
        else:
            share.read_from = None if found is None else found.offset
        if share.marker is not None and not ours:
            self._log.warning(
                "redis view lost records, reads them again", partition=share.partition, offset=share.read_from
            )
        share.must_read = False
        share.marker = None if found is None else Marker(found.generation, share.read_from or 0)
        share.position = None
        share.state = _State.BEHIND
        share.retry_at = 0.0

    def _stand_aside(self, share: _Share, found: Marker) -> None:
        """Write nothing while a newer owner's marker stands; if that is stale, removing it is enough."""
        share.state = _State.OUTRANKED
        with self._lock:
            share.accepting = False
            self._drop_pending(share)
        self.stats.errors += 1
        self.stats.last_error = (
            f"partition {share.partition}: generation {found.generation} wrote the view, ours is {share.generation}"
        )
        self._log.error(
            "redis view has a newer owner; if this is wrong (Kafka was set up anew), flush the old view from Redis",
            partition=share.partition,
            generation=share.generation,
            found=found.generation,
        )

    def _flush(self) -> None:
        """Write the newest pending value of each key."""
        with self._lock:
            batch = self._pending
            self._flushed = len(batch)
            if not batch:
                return
            if any(share.state is _State.UNKNOWN for share in self._shares.values()):
                return  # Just taken over: its marker must be ours before its first record is written.
            self._pending = {}
            self._in_flight = len(batch)
            highs = [(share, share.high) for share in self._shares.values() if share.accepting]
        keys = list(batch)
        for start in range(0, len(keys), RECORDS_PER_TRIP):
            trip: _Pending = {}
            changes: list[Change] = []
            generations: dict[int, int | None] = {}  # by the number of the share, None if it may not write
            for key in keys[start : start + RECORDS_PER_TRIP]:
                entry = batch[key]
                number = entry[0]
                if number not in generations:
                    owner = self._owner(number)
                    generations[number] = None if owner is None else owner.generation
                generation = generations[number]
                if generation is not None:
                    trip[key] = entry
                    changes.append((key, entry[1], generation))
            try:
                self._write(changes)
            except StoreUnavailable:
                self._put_back({key: batch[key] for key in keys[start:]})
                raise
            self._in_flight -= len(keys[start : start + RECORDS_PER_TRIP])
            self._unmarked.update(trip)
            now_ms = int(self._wall() * 1000)
            reading = {share.number: share for share in self._owned() if share.reading is not None}
            if reading:
                for key, (number, _, offset, _) in trip.items():
                    if number in reading:
                        reading[number].live[key] = offset
            if self._observe is not None:
                for _, _, _, mark in trip.values():
                    self._observe(mark, now_ms)
        self._in_flight = 0
        for share, high in highs:
            share.written = high

    def _write(self, changes: list[Change]) -> None:
        if changes:
            refused = self._store.write(changes)
            self.stats.writes += len(changes) - refused
            self.stats.refused_older += refused

    def _read_on(self) -> None:
        """Write the next batch of the partition that is being read again, or begin with the next one."""
        now = self._clock()
        waiting = [share for share in self._owned() if _reads(share)]
        share = min(waiting, key=lambda s: (s.state is not _State.READING, s.retry_at, s.partition), default=None)
        if share is None or (share.reading is None and share.retry_at > now):
            return
        try:
            batch = self._next_batch(share)
        except Exception as error:  # noqa: BLE001 -- the reader is a stranger's code; the view tries it again later.
            self._reading_failed(share, f"{type(error).__name__}: {error}")
            return
        if batch is None:
            self._reading_ended(share)
            return
        newest = {key: (value, offset) for key, value, offset in batch}
        live = share.live
        changes = [(k, value, share.generation) for k, (value, at) in newest.items() if live.get(k, -1) < at]
        for start in range(0, len(changes), RECORDS_PER_TRIP):
            if self._owner(share.number) is None:
                self._end_reading(share)
                return
            self._write(changes[start : start + RECORDS_PER_TRIP])
        if batch:
            share.records += len(batch)
            share.position = batch[-1][2] + 1
        if len(share.live) > self._pending_max:
            share.must_read = True
            share.state = _State.UNKNOWN

    def _next_batch(self, share: _Share) -> Batch | None:
        if share.reading is None:
            with self._lock:
                share.must_reach = share.high
            self.stats.resyncs += 1
            share.records = 0
            share.live = {}
            share.state = _State.READING
            share.reading = iter(self._read_topic.read(share.partition, share.read_from))
        return next(share.reading, None)

    def _reading_failed(self, share: _Share, error: str) -> None:
        """Begin again after a while; said once until a reading succeeds."""
        self._end_reading(share)
        share.state = _State.BEHIND
        share.retry_at = self._clock() + BACKOFF_S_MAX
        self.stats.errors += 1
        self.stats.last_error = error
        if share.position is not None:
            share.read_from = share.position
        if not share.failing:
            share.failing = True
            self._log.warning("redis view cannot read the topic, keeps trying", partition=share.partition, error=error)

    def _reading_ended(self, share: _Share) -> None:
        self._end_reading(share)
        if share.position is None:
            share.position = share.read_from or 0
        if share.position <= share.must_reach:
            self._reading_failed(share, f"read to offset {share.position}, but {share.must_reach} was acknowledged")
            return
        share.state = _State.CAUGHT_UP
        share.failing = False
        self._mark_at = 0.0
        self._log.info(
            "redis view caught up",
            partition=share.partition,
            offset_from=share.read_from,
            offset_to=share.position,
            records=share.records,
        )

    def _end_reading(self, share: _Share) -> None:
        reading, share.reading = share.reading, None
        share.live = {}
        close = getattr(reading, "close", None)
        if close is not None:
            close()

    def _mark(self) -> None:
        """Move the markers to what has been written, which also finds those that are not as we left them."""
        self._mark_at = self._clock() + MARK_INTERVAL_S
        offsets = {}
        for share in self._owned():
            if share.state is _State.OUTRANKED:
                self._look_again(share)
            elif share.state is _State.READING and share.position is not None:
                offsets[share] = share.position
            elif share.state in (_State.CURRENT, _State.CAUGHT_UP):
                marked = share.marker.offset if share.marker else 0
                offsets[share] = max(share.position or 0, share.written + 1, marked)
        self._move(offsets)
        self._unmarked = {}

    def _move(self, offsets: dict[_Share, int]) -> None:
        """Move markers; a partition whose marker is no longer as we left it must be read again from there."""
        if not offsets:
            return
        for share, offset in offsets.items():
            share.asked = Marker(share.generation, offset)
        others = self._store.move_markers(
            {share.partition: share.asked for share in offsets if share.asked is not None}
        )
        for share in offsets:
            if share.partition in others:
                share.must_read = True
                share.state = _State.UNKNOWN
                self._wake.set()
                continue
            share.marker = share.asked
            if share.state is _State.CAUGHT_UP:
                share.state = _State.CURRENT

    def _look_again(self, share: _Share) -> None:
        """An outranked partition is taken up once the newer owner's marker is gone."""
        found = self._store.read_markers([share.partition])[share.partition]
        if found is not None and found.generation > share.generation:
            return
        with self._lock:
            share.accepting = True
        share.must_read = True
        share.state = _State.UNKNOWN
        self._wake.set()


def _reads(share: _Share) -> bool:
    return share.state in (_State.BEHIND, _State.READING)
