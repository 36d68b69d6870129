"""The pipeline's one source: every owned partition of every keyed input, through one consumer of the group.

Rebalance callbacks run inside `poll`, so inside `next_batch`: they open and close assignments, and every batch that
goes downstream carries the number of its assignment, so that what was read for a lost one is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NoReturn, Protocol

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.state import CommitMetadata, decode_metadata, encode_metadata
from sources.arrivals import Arrival, Batch, CaughtUp, Closed, Opened, SettingsRefused
from sources.bounds import Bounds, LogBounds, committed_positions
from sources.commits import Commits, Committed
from sources.filling import Filling, Fillings, NewLedger
from sources.restore import Restorer
from sources.runs import Run, Runs
from sources.settings_topic import RefusedSetting, SettingsTopic

BATCH_MESSAGES = 2_000  # Per poll: large enough to conflate, small enough that one takes about 30 ms.
# Far behind, throughput is what shortens everybody's wait: a key's changes in one poll are one record and one write of
# its state, and a consumer with a backlog hands out long runs of one partition.
BACKLOG_MESSAGES = 60_000
BACKLOG = 20_000  # Records behind, over all partitions, from which on that holds.
# ... runs of this size instead of 1 MB: the same keys change again, while their balances are still in the processor's
# caches. The client's 64 MB bound what it has fetched of all of them; what a poll has taken of it comes on top.
FETCH_PARTITION_BYTES = 8 * 1024 * 1024
TURN_MESSAGES = 10_000  # Passed on per turn: between turns acknowledgements and the group have their say.
# Also how long the group's coordinator waits for a member that should give partitions up. The client's 300 s would be
# how long partitions stand still if what the coordinator asked for was lost on its way; turns here take milliseconds.
POLL_INTERVAL_MS_MAX = 60_000
POLL_IDLE_S = 0.01  # Blocking here is what keeps an idle process idle.
POLL_BUSY_S = 0.001  # While acknowledgements are expected, they should not wait for the next event.
# Of a turn may go into restoring, so long may an event of a live partition wait for it. Where none was live when it
# began, the partitions to be restored are what everybody waits for.
RESTORE_S = 0.002
RESTORE_ALONE_S = 0.1
SETTINGS_INTERVAL_S = 0.05
LAG_INTERVAL_S = 0.5
BROKER_TIMEOUT_S = 10.0
# The client may sleep through the moment in which its coordinator is known again, until its time is over: so it gets
# little time at once, and is asked again.
BROKER_TRY_S = 1.0
FINISH_TIMEOUT_S = 5.0  # For handing partitions over in order; what does not finish is replayed by the next owner.

Rebalance = Callable[[Consumer, list[TopicPartition]], None]

_LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


class InputLost(Exception):
    """Positions to read from are not in the log any more: facts are missing for good."""


class SourceFailed(Exception):
    """The consumer cannot go on."""


class Outgoing(Protocol):
    """The publisher as the source sees it."""

    @property
    def has_room(self) -> bool:
        """Whether more may be read."""

    @property
    def waiting(self) -> bool:
        """Whether acknowledgements are expected."""

    def serve(self, cuts_allowed: bool) -> None:
        """One turn of work."""

    def rules_changed(self, sku: str | None, location: str | None, cause: Any) -> None:
        """Rules changed."""

    def lose(self, partition: int) -> None:
        """A partition is lost."""

    def finish(self, partitions: list[int], timeout_s: float) -> None:
        """Bring partitions to a committed end."""

    def close(self) -> None:
        """The process ends."""


@dataclass
class _Assignment:
    """One Kafka partition on its way from the group's assignment to its loss."""

    epoch: int
    held: set[str] = field(default_factory=set)
    start: dict[str, int] = field(default_factory=dict)  # committed position by topic, or OFFSET_BEGINNING
    metadata: CommitMetadata | None = None
    resolved: bool = False  # whether `start` has been checked against the log
    to_seek: list[TopicPartition] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)  # topics the client stopped at a position that is no more
    live: bool = False
    behind: dict[str, int] = field(default_factory=dict)  # by topic not caught up yet: its end after the claim


@dataclass
class SourceStats:
    """What the metrics and probes tell of the source; written by the worker's thread, read by anyone."""

    turn_at: float = 0.0
    owned: int = 0
    live: int = 0
    catching_up: int = 0
    restoring: dict[int, int] = field(default_factory=dict)
    lag: dict[tuple[str, int], int] = field(default_factory=dict)
    assignments: int = 0
    revocations: int = 0


@dataclass(frozen=True)
class SourceOptions:
    """What the source needs to know of the settings. Topics are names on the broker, in registered order."""

    client_config: Mapping[str, str]
    topics: tuple[str, ...]
    partitions: int
    group_id: str
    group_protocol: str
    accept_lost_input: bool


class EventsSource(FixedPartitionedSource[tuple[str, Arrival], None]):
    """Bytewax's view: one input partition, whatever number of Kafka partitions the group assigns."""

    def __init__(self, reader: EventsReader) -> None:
        self._reader = reader

    def list_parts(self) -> list[str]:
        """The one input partition."""
        return ["group"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> EventsReader:
        """The reader; there is nothing to resume, positions live in the group."""
        return self._reader


class EventsReader(StatefulSourcePartition[tuple[str, Arrival], None]):
    """Reads, restores, and gives the publisher its turns. Blocks for at most 10 ms at a time.

    Args:
        arrived: how many of the items passed on have reached the sink.
        new_ledger: of a restored partition, see `sources.filling.Fillings`.
        die: ends the process at once, with whatever makes going on unsafe; never returns.
    """

    def __init__(
        self,
        options: SourceOptions,
        settings: SettingsTopic,
        restorer: Restorer,
        outgoing: Outgoing,
        arrived: Callable[[], int],
        new_ledger: NewLedger,
        commits: Commits,
        die: Callable[[BaseException], NoReturn],
        clock: Callable[[], float],
        log: Any,
    ) -> None:
        self.stats = SourceStats()
        self.stop_requested = False
        self._options, self._settings, self._restorer, self._outgoing = options, settings, restorer, outgoing
        self._arrived, self._commits, self._clock, self._log = arrived, commits, clock, log
        self._die = die
        self._assignments: dict[int, _Assignment] = {}
        self._catching_up: set[int] = set()
        self._backlog = 0
        self._held_back = False
        self._runs = Runs()
        self._hurries: bool | None = None  # with what is being restored; None while nothing is
        self._fillings = Fillings(new_ledger, clock)
        self._filled: list[Filling] = []
        self._bounds = LogBounds(options.client_config, options.topics)
        self._epoch = 0
        self._emitted = 0
        self._pending: list[tuple[str, Arrival]] = []
        self._settings_at = self._lag_at = 0.0
        self._failure: Exception | None = None
        self._incremental = options.group_protocol == "consumer"
        self._consumer = Consumer(self._config())
        commits.send = self._send_commit
        self._consumer.subscribe(
            list(options.topics),
            on_assign=self._guarded(self._assigned),
            on_revoke=self._guarded(self._revoked),
            on_lost=self._guarded(self._lost),
        )

    # Bytewax

    def next_batch(self) -> list[tuple[str, Arrival]]:
        """One turn: serve the publisher, then pass on whatever has arrived, one batch per partition."""
        try:
            return self._turn()
        except StopIteration:
            raise
        except BaseException as error:  # noqa: BLE001 - Bytewax would take seconds to unwind while records go out
            self._die(error)

    def _turn(self) -> list[tuple[str, Arrival]]:
        now = self.stats.turn_at = self._clock()
        if self._commits.expired(now):
            raise SourceFailed("the lease is over: no commit was acknowledged in time, another process may own by now")
        drained = self._arrived() == self._emitted
        self._outgoing.serve(drained)
        self._commits.serve(now)
        if now - self._settings_at >= SETTINGS_INTERVAL_S:
            self._settings_at = now
            self._take_settings()
        if self._is_restoring:
            self._restore(now)
        else:
            self._hurries = None
        if self.stop_requested:
            self._consumer.poll(0)
            if drained:
                self._finish_all()
                raise StopIteration
        else:
            self._hold_back(not self._outgoing.has_room)
            self._read()
        if self._failure is not None:
            raise self._failure
        if now - self._lag_at >= LAG_INTERVAL_S and (self._held_back or not self._runs):
            self._lag_at = now
            self._measure_lag()
        items, self._pending = self._pending, []
        self._emitted += len(items)
        return items

    def next_awake(self) -> datetime:
        """At once: waiting happens inside the poll."""
        return _LONG_AGO

    def snapshot(self) -> None:
        """Nothing: Bytewax recovery is not used."""

    def close(self) -> None:
        """Leave the group."""
        self._restorer.close()
        self._settings.close()
        self._consumer.close()

    # Reading

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "max.partition.fetch.bytes": FETCH_PARTITION_BYTES,
            "max.poll.interval.ms": POLL_INTERVAL_MS_MAX,
            **self._options.client_config,
            "group.id": self._options.group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "on_commit": self._commits.answered,
        }
        if self._incremental:
            return {**config, "group.protocol": "consumer", "group.remote.assignor": "range"}
        return {**config, "group.protocol": "classic", "partition.assignment.strategy": "range"}

    def _read(self) -> None:
        if self._fillings.busy or (self._runs and not self._held_back):
            wait_s = 0.0
        else:
            busy = self._outgoing.waiting or self._is_restoring or self._pending
            wait_s = POLL_BUSY_S if busy else POLL_IDLE_S
        first = self._consumer.poll(wait_s)  # also while runs wait: it serves the group and answers commits
        if first is not None:
            size = BACKLOG_MESSAGES if self._backlog >= BACKLOG else BATCH_MESSAGES
            self._take_in([first] if self._runs else [first, *self._consumer.consume(size - 1, 0)])
        if not self._held_back:
            self._pass_on()
        if self._catching_up:
            self._say_caught_up()

    def _hold_back(self, hold: bool) -> None:
        """While too much is unacknowledged no input comes; the group and its commits are served all the same."""
        if hold == self._held_back:
            return
        self._held_back = hold
        live = [
            TopicPartition(topic, partition)
            for partition, assignment in self._assignments.items()
            if assignment.live
            for topic in self._options.topics
        ]
        if hold:
            self._consumer.pause(live)
        else:
            self._consumer.resume(live)

    def _take_in(self, messages: list[Message]) -> None:
        by_partition: dict[int, list[Message]] = {}
        last, run = -1, list[Message]()
        for message in messages:
            if message.error() is not None and not _is_end(message):
                self._take_error(message)
                continue
            partition = message.partition() or 0
            if partition != last:
                last, run = partition, by_partition.setdefault(partition, [])
            run.append(message)
        for partition, its_messages in by_partition.items():
            assignment = self._assignments.get(partition)
            if assignment is not None and assignment.live:
                self._runs.add(Run(partition, assignment.epoch, its_messages))

    def _pass_on(self) -> None:
        for run in self._runs.take(TURN_MESSAGES):
            assignment = self._assignments.get(run.partition)
            if assignment is None or not assignment.live or assignment.epoch != run.epoch:
                continue  # lost meanwhile: whoever has it reads from what was passed on
            self._pending.append((str(run.partition), Batch(run.epoch, run.messages, run.more)))
            if assignment.behind:
                _pass_ends(assignment, run.messages)

    def _say_caught_up(self) -> None:
        for partition, assignment in self._assignments.items():
            if assignment.live and not assignment.behind and partition in self._catching_up:
                self._catching_up.discard(partition)
                self._pending.append((str(partition), CaughtUp(assignment.epoch)))

    def _take_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        partition, topic = message.partition() or 0, str(message.topic())
        assignment = self._assignments.get(partition)
        if error.code() == KafkaError._AUTO_OFFSET_RESET and assignment is not None and not assignment.live:
            # It is not ours to read yet: a fetch went out before the pause. What follows is decided when it opens.
            assignment.given_up.add(topic)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._failure = _lost(topic, partition, str(error))
        elif error.fatal() or error.code() in _HOPELESS:
            self._failure = SourceFailed(f"{topic}: {error}")
        else:
            self._log.warning("kafka_error", topic=topic, partition=partition, error=str(error))

    def _take_settings(self) -> None:
        for change in self._settings.poll():
            self._outgoing.rules_changed(change.sku, change.location, change.cause)
        refused = self._settings.newly_refused()
        for partition, assignment in self._assignments.items():
            if assignment.live and refused:
                self._owe_settings(partition, assignment, refused)

    def _owe_settings(self, partition: int, assignment: _Assignment, refused: list[RefusedSetting]) -> None:
        """Refused settings go to the dead letters through the owner of the partition with their number."""
        mine = tuple(r for r in refused if (r.message.partition() or 0) % self._options.partitions == partition)
        if mine:
            self._pending.append((str(partition), SettingsRefused(assignment.epoch, mine)))

    @property
    def _is_restoring(self) -> bool:
        return bool(self._filled) or self._fillings.busy or self._restorer.busy

    def _restore(self, now: float) -> None:
        """Read and fill a little, and open the partitions that are restored and whose inputs' bounds are known."""
        if self._hurries is None:
            # Who catches up is late anyway; and who is the first of many to be restored does not slow the others down.
            self._hurries = not any(one.live and at not in self._catching_up for at, one in self._assignments.items())
        for restored in self._restorer.step(self._hurries):
            self._fillings.add(restored)
        for filled in self._fillings.step(now + (RESTORE_ALONE_S if self._hurries else RESTORE_S)):
            # Only now: what was told while it was restored, a renewal say, belongs to the replay too.
            self._bounds.ask(filled.restored.partition)
            self._filled.append(filled)
        not_yet = list[Filling]()
        for filled in self._filled:
            restored = filled.restored
            assignment = self._assignments.get(restored.partition)
            if assignment is None or assignment.epoch != restored.epoch:
                filled.ledger.discard()  # lost meanwhile, wholly or in part
                continue
            if not assignment.resolved:
                bounds = self._bounds.answer(restored.partition)
                if bounds is not None:
                    self._resolve_positions(restored.partition, assignment, bounds)
            if assignment.resolved and self._seek(assignment):
                self._open(filled, assignment)
            else:
                not_yet.append(filled)
        self._filled = not_yet

    def _seek(self, assignment: _Assignment) -> bool:
        """Move to positions other than those assigned; False while the client has not begun with a partition."""
        while assignment.to_seek:
            place = assignment.to_seek[-1]
            try:
                if place.topic in assignment.given_up:
                    self._begin_again(place)
                else:
                    self._consumer.seek(place)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._STATE:
                    return False
                raise
            assignment.to_seek.pop()
        return True

    def _begin_again(self, place: TopicPartition) -> None:
        """Move a log that the client has given up: it refuses to seek there for as long as it holds the partition.

        Raises:
            SourceFailed: the classic protocol changes an assignment as a whole only.
        """
        if not self._incremental:
            raise SourceFailed(
                f"{place.topic} partition {place.partition}: the position was read too early: start again"
            )
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._consumer.pause([place])

    def _open(self, filled: Filling, assignment: _Assignment) -> None:
        restored = filled.restored
        partition = restored.partition
        assignment.live = True
        self._catching_up.add(partition)
        self._log.info(
            "partition_restored",
            partition=partition,
            generation=restored.generation,
            records=filled.state_records,
            to_show=len(restored.shown),
        )
        starts = tuple(assignment.start[topic] for topic in self._options.topics)
        self._pending.append((str(partition), Opened(restored, filled.ledger, starts)))
        self._owe_settings(partition, assignment, self._settings.refused)
        self._count_owned()
        self._commits.opened(self._clock())
        if not self._held_back:  # else it is resumed with all others
            self._consumer.resume([TopicPartition(topic, partition) for topic in self._options.topics])

    def _resolve_positions(self, partition: int, assignment: _Assignment, bounds: Bounds) -> None:
        """Turn the log's start into a number, and check that a committed position is inside the log.

        Raises:
            InputLost: it is not, and the settings do not accept that.
        """
        for topic, (low, high) in bounds.items():
            start = assignment.start[topic]
            if start == OFFSET_BEGINNING:
                assignment.start[topic] = low
            elif not low <= start <= high:
                text = f"committed position {start}, but the log holds {low} to {high}"
                if start > high:
                    raise SourceFailed(
                        f"{topic} partition {partition}: {text}. The topic was re-created or truncated, while state "
                        "and positions are of the old one: use a new STOCKFLOW_TOPIC_PREFIX, or delete and "
                        "re-create the state and output topics too and start with a new STOCKFLOW_GROUP_ID"
                    )
                if not self._options.accept_lost_input:
                    raise _lost(topic, partition, text)
                self._log.warning("input_lost_accepted", topic=topic, partition=partition, detail=text)
                assignment.start[topic] = low
                assignment.to_seek.append(TopicPartition(topic, partition, low))
        assignment.behind = {topic: end for topic, (_, end) in bounds.items() if end > assignment.start[topic]}
        assignment.resolved = True

    def _measure_lag(self) -> None:
        lag, in_hand = {}, self._runs.first_offsets()  # which the client has passed
        for partition, assignment in self._assignments.items():
            if not assignment.live:
                continue
            tps = [TopicPartition(topic, partition) for topic in self._options.topics]
            for tp in self._consumer.position(tps):
                _, high = self._consumer.get_watermark_offsets(tp, cached=True) or (0, 0)
                at = tp.offset if tp.offset >= 0 else assignment.start[tp.topic]
                at = in_hand.get((tp.topic, partition), at)
                lag[tp.topic, partition] = max(0, high - max(0, at))
        self.stats.lag = lag
        self._backlog = sum(lag.values())
        self.stats.restoring = self._restorer.records_read()
        self._count_owned()

    def _count_owned(self) -> None:
        complete = [a for a in self._assignments.values() if len(a.held) == len(self._options.topics)]
        self.stats.owned = len(complete)
        self.stats.live = sum(1 for a in complete if a.live)
        self.stats.catching_up = len(self._catching_up)

    # The group

    def _guarded(self, rebalance: Rebalance) -> Rebalance:
        """A rebalance callback whose failure ends the process at once.

        Before Python 3.12 the client raises some failures of a callback from `poll` as a bare KafkaError, which is no
        exception: no `except` sees it, and records would go out while everything unwinds.
        """

        def call(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                rebalance(consumer, partitions)
            except Exception as failure:  # noqa: BLE001 - whatever it is, going on is unsafe
                self._die(failure)

        return call

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        now = self._clock()
        self.stats.assignments += len(partitions)
        held: list[TopicPartition] = []
        in_part = {partition for partition, assignment in self._assignments.items() if assignment.held}
        for tp in self._committed(partitions) if partitions else ():
            tp.offset = tp.offset if tp.offset >= 0 else OFFSET_BEGINNING
            assignment = self._assignments.get(tp.partition)
            if assignment is None:
                self._epoch += 1
                assignment = self._assignments[tp.partition] = _Assignment(self._epoch)
            assignment.held.add(tp.topic)
            assignment.given_up.discard(tp.topic)
            assignment.start[tp.topic] = tp.offset
            # Topics that come later were asked later, and may be committed further: the tails fit the first answer.
            if tp.partition not in in_part:
                assignment.metadata = decode_metadata(tp.metadata) if tp.offset >= 0 else None
            held.append(TopicPartition(tp.topic, tp.partition, tp.offset))
        # Take everything over at its committed position, but read nothing before it is restored.
        if self._incremental:
            consumer.incremental_assign(held)
        else:
            consumer.assign(held)
        consumer.pause(held)
        for partition in {tp.partition for tp in partitions}:
            assignment = self._assignments[partition]
            if len(assignment.held) == len(self._options.topics):
                self._commits.own(partition, self._standing(assignment), now)
                self._restorer.start(partition, assignment.epoch, assignment.metadata)
        self._log.info("assigned", partitions=sorted({tp.partition for tp in partitions}))
        self._count_owned()

    def _committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """What stands committed of these; blocks for at most 10 s.

        Raises:
            KafkaException: the coordinator did not answer in time, or refused.
        """
        deadline = self._clock() + BROKER_TIMEOUT_S
        while True:
            try:
                return self._consumer.committed(partitions, timeout=min(BROKER_TRY_S, BROKER_TIMEOUT_S))
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT or self._clock() >= deadline:
                    raise
            # A member may lose sight of its coordinator for as long as a rebalance callback lasts; others see it.
            options = self._options
            found = committed_positions(options.client_config, options.group_id, partitions, BROKER_TRY_S)
            if found is not None:
                return found

    def _standing(self, assignment: _Assignment) -> Committed | None:
        """What stands committed and is repeated to keep the lease; None if nothing ever was."""
        if assignment.metadata is None or OFFSET_BEGINNING in assignment.start.values():
            return None
        metadata = assignment.metadata
        text = encode_metadata(metadata.generation, metadata.availability, metadata.dead_letters, metadata.network)
        return Committed(tuple(assignment.start[topic] for topic in self._options.topics), text)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted({tp.partition for tp in partitions})
        self._log.info("revoked", partitions=numbers)
        live = [n for n in numbers if n in self._assignments and self._assignments[n].live]
        # What is still between source and sink may hold dead letters that no cut may pass over.
        if live and self._failure is None and self._arrived() == self._emitted:
            self._outgoing.finish(live, FINISH_TIMEOUT_S)
            ready = self._commits.take_ready(live)
            if ready:
                self._consumer.commit(offsets=ready, asynchronous=True)
        self._drop(partitions)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.warning("lost", partitions=sorted({tp.partition for tp in partitions}))
        self._drop(partitions)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _drop(self, partitions: list[TopicPartition]) -> None:
        """Forget partitions at once; one that is kept for other topics starts over when it is whole again."""
        self.stats.revocations += len(partitions)
        for tp in partitions:
            if tp.partition in self._assignments:
                self._assignments[tp.partition].held.discard(tp.topic)
        for partition in {tp.partition for tp in partitions}:
            assignment = self._assignments.get(partition)
            if assignment is None:
                continue
            self._restorer.abandon(partition)
            self._fillings.abandon(partition)
            self._bounds.forget(partition)
            self._catching_up.discard(partition)
            self._commits.disown(partition)
            self._outgoing.lose(partition)
            was_live, assignment.live, assignment.resolved = assignment.live, False, False
            if was_live:
                self._pending.append((str(partition), Closed(assignment.epoch)))
            self._epoch += 1
            assignment.epoch = self._epoch
            if not assignment.held:
                del self._assignments[partition]
            elif was_live:
                self._back_to_committed(partition, assignment)
        self._count_owned()

    def _back_to_committed(self, partition: int, assignment: _Assignment) -> None:
        """What is still held of a broken-up partition waits, at its committed positions."""
        kept = [TopicPartition(topic, partition) for topic in assignment.held]
        self._consumer.pause(kept)
        for tp in self._committed(kept):
            tp.offset = tp.offset if tp.offset >= 0 else OFFSET_BEGINNING
            assignment.start[tp.topic] = tp.offset
            assignment.metadata = decode_metadata(tp.metadata) if tp.offset >= 0 else None
            self._consumer.seek(tp)

    def _send_commit(self, offsets: list[TopicPartition]) -> None:
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._commits.answered(error.args[0], offsets)

    def _finish_all(self) -> None:
        """An orderly end: everything published and committed, then gone."""
        live = [partition for partition, assignment in self._assignments.items() if assignment.live]
        self._outgoing.finish(live, FINISH_TIMEOUT_S)
        ready = self._commits.take_ready(live)
        if ready:
            try:
                self._consumer.commit(offsets=ready, asynchronous=False)
            except KafkaException as error:
                self._log.warning("last_commit_failed", error=str(error))
        self._drop([TopicPartition(topic, p) for p in list(self._assignments) for topic in self._options.topics])
        self._outgoing.close()


_NEVER = 2**63
_HOPELESS = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


def _is_end(message: Message) -> bool:
    """Whether this is no record but the end of a log: passed on too, since a log may end in control records."""
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _pass_ends(assignment: _Assignment, messages: list[Message]) -> None:
    """Note which ends, as of the claim, are reached: where traffic never pauses no other end is ever seen."""
    for message in messages:
        topic = str(message.topic())
        if (message.offset() or 0) + 1 >= assignment.behind.get(topic, _NEVER) or message.error() is not None:
            assignment.behind.pop(topic, None)


def _lost(topic: str, partition: int, text: str) -> InputLost:
    return InputLost(
        f"{topic} partition {partition}: {text}. Facts are missing for good: recount what they concern, then start "
        "once with STOCKFLOW_ACCEPT_LOST_INPUT=true; and give the topic a longer retention"
    )
