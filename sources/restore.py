"""Taking over a partition: read its state, claim it, read up to the claim and the tails of its outputs.

Runs step by step beside live partitions, so a takeover never stops them. One consumer, assigned by hand, serves all
partitions that are being restored; it connects and leaves aside, which takes longer than a step may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from schemas.dead_letters import origin
from schemas.state import CLAIM_KEY, GENERATION_MAX, Claim, CommitMetadata, UnknownFormat, decode_claim, open_envelope
from stock.ledger import check_packed

METADATA_TIMEOUT_S = 20.0  # Of all topics together; an end of the process waits for it.
# Fetched ahead of the slices. The client's 64 MB would be used whole while live partitions take most of the turns.
PREFETCH_KBYTES_MAX = 16_384
PREFETCH_RETRY_MS = 5  # How long a full queue is left alone; the client's second would make a restore crawl.
SLICE_MESSAGES = 500  # Read per turn while events of live partitions wait; about a millisecond of work.
SLICE_MESSAGES_ALONE = 5_000


class RestoreFailed(Exception):
    """A partition cannot be taken over; going on would lose or overwrite something."""


class PartitionsChanged(RestoreFailed):
    """The topics have another number of partitions than when the state was written."""

    def __init__(self, where: str, before: int, now: int | str) -> None:
        super().__init__(
            f"{where}: its state was written while the topics had {before} partitions, now they have {now}, so SKUs "
            "belong to other partitions than their state. Nothing was written. Added partitions cannot be taken back: "
            "make topics with the count you want under a new STOCKFLOW_TOPIC_PREFIX (`stockflow topics ensure`), send "
            "them a count of every balance, and start with a new STOCKFLOW_GROUP_ID"
        )


@dataclass
class Restored:
    """What a new owner knows of a partition before it reads its first input.

    `records`: packed state by key, the newest that counts. `rewrite`: keys whose newest record on the topic does not.
    `shown`: keys that stand in the tail of the availability topic, `letters`: origins of dead letters
    already sent. `tail_starts`: where these two tails begin. `network_shown`, `network_start`: as for networks.
    The `*_next` offsets are where our own writes must continue without a gap.
    """

    partition: int
    epoch: int
    generation: int = 0
    records: dict[str, bytes] = field(default_factory=dict)
    rewrite: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    tail_starts: tuple[int, int] = (0, 0)
    letters: set[tuple[str, int, int]] = field(default_factory=set)
    network_start: int = 0
    network_shown: set[str] = field(default_factory=set)
    network_next: int = 0
    state_next: int = 0
    availability_next: int = 0
    dead_letters_next: int = 0


@dataclass
class _Progress:
    restored: Restored
    tails: dict[str, int]
    newest_claim: int = 0
    partitions: int | None = None  # as the newest claim says
    unreadable: dict[str, str] = field(default_factory=dict)  # why, by key
    newest_seen: int = 0  # the highest generation that anything was written with
    claiming: bool = False
    claimed: int = 0
    state_done: bool = False
    tails_done: set[str] = field(default_factory=set)
    read: int = 0


class Restorer:
    """Restores assigned partitions. Called by the source each turn; never blocks longer than one slice.

    Args:
        client_config: librdkafka properties of every client.
        state_topic, availability_topic, dead_letters_topic, network_topic: names on the broker.
        claim: appends a claim record (partition, generation, count of partitions) to the state topic.
        writer: this process, unique per start.
        partitions: how many the topics have.
        aside: does what would block a step.
    """

    def __init__(
        self,
        client_config: Mapping[str, str],
        state_topic: str,
        availability_topic: str,
        dead_letters_topic: str,
        network_topic: str,
        claim: Callable[[int, int, int], None],
        writer: str,
        partitions: int,
        aside: Executor,
    ) -> None:
        self._state, self._availability, self._letters = state_topic, availability_topic, dead_letters_topic
        self._network = network_topic
        self._claim = claim
        self._writer = writer
        self._partitions = partitions
        self._aside = aside
        self._progress: dict[int, _Progress] = {}
        self._config = {
            **client_config,
            "group.id": "stockflow-state-reader",  # never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,  # several short reads follow each other; none should wait for new records
            "queued.max.messages.kbytes": PREFETCH_KBYTES_MAX,
            "fetch.queue.backoff.ms": PREFETCH_RETRY_MS,
        }
        self._consumer: Consumer | None = None
        self._connecting: Future[Consumer] | None = None
        self._to_assign: list[TopicPartition] = []
        self._to_unassign: list[TopicPartition] = []

    @property
    def busy(self) -> bool:
        """Whether a partition is being restored."""
        return bool(self._progress) or self._consumer is not None or self._connecting is not None

    def records_read(self) -> dict[int, int]:
        """State records read so far per partition that is being restored."""
        return {partition: progress.read for partition, progress in self._progress.items()}

    def start(self, partition: int, epoch: int, committed: CommitMetadata | None) -> None:
        """Begin to restore; the tails start where the commit says, or at the log's start."""
        network_start = None if committed is None else committed.network
        tails = {
            self._availability: OFFSET_BEGINNING if committed is None else committed.availability,
            self._letters: OFFSET_BEGINNING if committed is None else committed.dead_letters,
            self._network: OFFSET_BEGINNING if network_start is None else network_start,
        }
        starts = (0, 0) if committed is None else (committed.availability, committed.dead_letters)
        progress = _Progress(Restored(partition, epoch, tail_starts=starts, network_start=network_start or 0), tails)
        progress.newest_seen = 0 if committed is None else committed.generation
        self._progress[partition] = progress
        self._to_assign.append(TopicPartition(self._state, partition, OFFSET_BEGINNING))

    def abandon(self, partition: int) -> None:
        """The partition was taken away before it was restored, or is complete."""
        if self._progress.pop(partition, None) is not None:
            self._to_assign = [tp for tp in self._to_assign if tp.partition != partition]
            if self._consumer is not None:
                self._to_unassign += [tp for tp in self._consumer.assignment() if tp.partition == partition]

    def step(self, hurry: bool = False) -> list[Restored]:
        """Read one slice, a larger one in a hurry; the partitions that are complete come back.

        Raises:
            RestoreFailed: state cannot be read; of this partition nothing was written by us.
            UnknownFormat: state was written by a newer program.
        """
        for partition in self._progress:
            if partition >= self._partitions:  # added while we run, and nobody may claim it
                raise PartitionsChanged(f"{self._state} partition {partition}", self._partitions, "more")
        self._assign()
        if self._consumer is None:
            return []
        for message in self._consumer.consume(SLICE_MESSAGES_ALONE if hurry else SLICE_MESSAGES, 0):
            progress = self._progress.get(message.partition() or 0)
            if progress is None:
                continue
            if message.error() is not None:
                self._end_or_fail(progress, message)
            elif message.topic() == self._state:
                self._take_state(progress, message)
            else:
                self._take_tail(progress, message)
        done = [p for p in self._progress.values() if p.state_done and len(p.tails_done) == len(p.tails)]
        for progress in done:
            self.abandon(progress.restored.partition)
        return [progress.restored for progress in done]

    def close(self) -> None:
        """Stop reading."""
        self._progress.clear()
        self._rest()
        if self._connecting is not None:
            self._connecting.add_done_callback(_close)

    def _assign(self) -> None:
        """Change the assignment at once for all partitions that are restored: each change costs a round trip."""
        if self._to_assign and self._consumer is None and self._connecting is None:
            self._connecting = self._aside.submit(self._connected)
        if self._connecting is not None and self._connecting.done():
            self._consumer, self._connecting = self._connecting.result(), None
        if self._consumer is None:
            return
        if not self._progress:
            self._rest()
            return
        held = {(tp.topic, tp.partition) for tp in self._consumer.assignment()}
        leaving = {(tp.topic, tp.partition): tp for tp in self._to_unassign if (tp.topic, tp.partition) in held}
        if leaving:
            self._consumer.incremental_unassign(list(leaving.values()))
        if self._to_assign:
            self._consumer.incremental_assign(self._to_assign)
        self._to_assign, self._to_unassign = [], []

    def _connected(self) -> Consumer:
        """A client that knows the topics; one that does not waits half a second before it asks a second time."""
        consumer = Consumer(self._config)
        topics = self._state, self._availability, self._letters, self._network
        for topic in topics:
            consumer.list_topics(topic, timeout=METADATA_TIMEOUT_S / len(topics))
        return consumer

    def _rest(self) -> None:
        self._to_assign, self._to_unassign = [], []
        if self._consumer is not None:
            self._aside.submit(self._consumer.close)
            self._consumer = None

    def _end_or_fail(self, progress: _Progress, message: Message) -> None:
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            topic, offset = message.topic(), message.offset()
            assert topic is not None
            assert offset is not None
            if topic == self._state:
                if not progress.state_done:  # the end behind our own claim comes too
                    self._claim_next(progress)
            else:
                progress.tails_done.add(topic)
                if topic == self._availability:
                    progress.restored.availability_next = offset
                elif topic == self._network:
                    progress.restored.network_next = offset
                else:
                    progress.restored.dead_letters_next = offset
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and message.topic() != self._state:
            # The tail's start was deleted by retention: everything that is left is tail.
            tail = TopicPartition(str(message.topic()), progress.restored.partition, OFFSET_BEGINNING)
            self._to_unassign.append(tail)
            self._to_assign.append(tail)
        elif error.fatal() or not error.retriable():
            raise RestoreFailed(f"partition {progress.restored.partition} of {message.topic()}: {error}")

    def _claim_next(self, progress: _Progress) -> None:
        if progress.claiming:
            return
        self._check_understood(progress)
        progress.claimed = max(progress.newest_claim, progress.newest_seen, progress.claimed) + 1
        if progress.claimed > GENERATION_MAX:
            raise RestoreFailed(
                f"partition {progress.restored.partition} has used up all {GENERATION_MAX} generations; "
                "stop every process, delete and re-create the state topic, and replay the inputs"
            )
        progress.claiming = True
        self._claim(progress.restored.partition, progress.claimed, self._partitions)

    def _check_understood(self, progress: _Progress) -> None:
        """Whoever does not understand all of the state may not even claim it: a claim fences its owner off."""
        partition = progress.restored.partition
        before = progress.partitions
        if before is not None and before != self._partitions:
            raise PartitionsChanged(f"{self._state} partition {partition}", before, self._partitions)
        if progress.unreadable:
            key, why = next(iter(progress.unreadable.items()))
            raise RestoreFailed(
                f"{self._state} partition {partition}: the state record of {key!r} cannot be read ({why}), and "
                f"{len(progress.unreadable) - 1} others. Nothing was written. Put back the record as it was, if you "
                "can; else append a null under its key, which forgets it, and count that stock anew"
            )

    def _take_state(self, progress: _Progress, message: Message) -> None:
        key, value, offset = message.key(), message.value(), message.offset()
        assert offset is not None
        progress.read += 1
        try:
            name = (key or b"").decode()
            if name == CLAIM_KEY:
                if value is not None:
                    self._take_claim(progress, decode_claim(value), offset)
                return
            generation, packed = (0, b"") if value is None else open_envelope(value)
        except (UnknownFormat, UnicodeDecodeError) as error:
            raise UnknownFormat(
                f"{self._state} partition {progress.restored.partition}, key {key!r}: {error}. Nothing was written"
            ) from None
        restored = progress.restored
        if value is None:
            restored.records.pop(name, None)
            restored.rewrite.discard(name)
            progress.unreadable.pop(name, None)
            return
        if generation > progress.newest_seen:
            progress.newest_seen = generation
        if generation < progress.newest_claim:
            restored.rewrite.add(name)  # a fenced writer's late record: not ours to believe
            return
        try:
            check_packed(name, packed)
            progress.unreadable.pop(name, None)
        except ValueError as error:
            progress.unreadable[name] = str(error)
        restored.records[name] = packed
        restored.rewrite.discard(name)

    def _take_claim(self, progress: _Progress, claim: Claim, offset: int) -> None:
        newest_before = progress.newest_claim
        if claim.generation >= newest_before:
            progress.newest_claim, progress.partitions = claim.generation, claim.partitions
        if claim.writer == self._writer and claim.generation == progress.claimed:
            self._reach_claim(progress, newest_before, offset)

    def _reach_claim(self, progress: _Progress, newest_before: int, offset: int) -> None:
        """Our own claim was read: it holds unless someone else's stands before it with as high a generation."""
        restored = progress.restored
        progress.claiming = False
        if newest_before >= progress.claimed:
            self._claim_next(progress)
            return
        if progress.unreadable:
            self._check_understood(progress)  # written between our first look and our claim
        restored.generation = progress.claimed
        restored.state_next = offset + 1
        progress.state_done = True
        self._to_unassign.append(TopicPartition(self._state, restored.partition))
        self._to_assign += [TopicPartition(topic, restored.partition, at) for topic, at in progress.tails.items()]

    def _take_tail(self, progress: _Progress, message: Message) -> None:
        if message.topic() == self._availability:
            progress.restored.shown.add((message.key() or b"").decode(errors="replace"))
            return
        if message.topic() == self._network:
            progress.restored.network_shown.add((message.key() or b"").decode(errors="replace"))
            return
        headers: list[Any] = list(message.headers() or ())
        found = origin(headers)
        if found is not None:
            progress.restored.letters.add(found)


def _close(connecting: Future[Consumer]) -> None:
    """Close a client that nobody needs any more, if it came to be."""
    if connecting.exception() is None:
        connecting.result().close()
