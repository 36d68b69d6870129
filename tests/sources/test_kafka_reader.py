"""The reader's turns, with a client that only notes what it is told: how much one turn may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.state import decode_metadata, encode_metadata
from schemas.topics import KEYED_INPUTS
from sources import kafka as module
from sources.arrivals import Arrival, Batch, CaughtUp, Opened
from sources.commits import Commits
from sources.kafka import EventsReader, SourceOptions
from sources.restore import Restored
from stock.ledger import Ledger
from stock.policies import Policies

TOPICS = tuple(topic.name for topic in KEYED_INPUTS)
PARTITIONS = 3


PORTIONS = 2  # In which every ledger is filled.


def new_ledger(restored: Restored) -> tuple[Ledger, Iterator[None]]:
    """That nothing is left to fill is found out by asking for one more portion."""
    return Ledger(Policies()), iter([None] * (PORTIONS - 1))


class FakeRecord(NamedTuple):
    """A record of the first topic, as far as the reader looks at it; or, with an error, the end of its log."""

    at: int
    number: int
    failure: KafkaError | None = None

    def topic(self) -> str:
        return TOPICS[0]

    def partition(self) -> int:
        return self.at

    def offset(self) -> int:
        return self.number

    def error(self) -> KafkaError | None:
        return self.failure


class FakeConsumer:
    """A member of a group that is given partitions and records when the test says so."""

    made: list[FakeConsumer]

    def __init__(self, config: dict[str, Any]) -> None:
        self.assign_callback: Callable[..., None] = lambda *_: None
        self.lost_callback: Callable[..., None] = lambda *_: None
        self.resumed: list[int] = []
        self.paused: set[int] = set()
        self.timeouts_left = 0
        self.metadata = ""
        self.polls = 0
        self.records: list[FakeRecord] = []
        FakeConsumer.made.append(self)

    def subscribe(
        self, topics: list[str], *, on_assign: Callable[..., None], on_lost: Callable[..., None], **_: Any
    ) -> None:
        self.assign_callback, self.lost_callback = on_assign, on_lost

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.timeouts_left:
            self.timeouts_left -= 1
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(tp.topic, tp.partition, 0, metadata=self.metadata) for tp in partitions]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None: ...

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None: ...

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {tp.partition for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.resumed += sorted({tp.partition for tp in partitions})
        self.paused -= {tp.partition for tp in partitions}

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(tp.topic, tp.partition, 0) for tp in partitions]

    def get_watermark_offsets(self, place: TopicPartition, cached: bool) -> tuple[int, int]:
        return 0, 0

    def poll(self, timeout: float) -> FakeRecord | None:
        self.polls += 1
        return self.records.pop(0) if self.records else None

    def consume(self, count: int, timeout: float) -> list[FakeRecord]:
        taken, self.records = self.records[:count], self.records[count:]
        return taken


class FakeRestorer:
    """Has everything restored at once, with the first step."""

    busy = True

    def __init__(self) -> None:
        self._started: list[Restored] = []
        self.committed: dict[int, object] = {}

    def start(self, partition: int, epoch: int, committed: object) -> None:
        self.committed[partition] = committed
        self._started.append(Restored(partition, epoch))

    def step(self, hurry: bool = False) -> list[Restored]:
        started, self._started = self._started, []
        return started

    def records_read(self) -> dict[int, int]:
        return {}

    def abandon(self, partition: int) -> None: ...

    def close(self) -> None: ...


class FakeBounds:
    """Every log is empty."""

    def ask(self, partition: int) -> None: ...

    def answer(self, partition: int) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(TOPICS, (0, 0))

    def forget(self, partition: int) -> None: ...


class FakeOutgoing:
    """Has room as long as the test says so."""

    has_room, waiting = True, False

    def serve(self, cuts_allowed: bool) -> None: ...

    def finish(self, partitions: list[int], timeout_s: float) -> None: ...

    def lose(self, partition: int) -> None: ...


class FakeSettings:
    """Nothing is set."""

    refused: tuple[()] = ()

    def poll(self) -> list[object]:
        return []

    def newly_refused(self) -> list[object]:
        return []

    def close(self) -> None: ...


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> EventsReader:
    """A reader to which all partitions have been assigned."""
    FakeConsumer.made = []
    monkeypatch.setattr(module, "Consumer", FakeConsumer)
    monkeypatch.setattr(module, "LogBounds", lambda *_: FakeBounds())

    def die(error: BaseException) -> None:
        raise error

    made = EventsReader(
        SourceOptions({}, TOPICS, PARTITIONS, "group", "consumer", False),
        FakeSettings(),  # type: ignore[arg-type]
        FakeRestorer(),  # type: ignore[arg-type]
        FakeOutgoing(),  # type: ignore[arg-type]
        lambda: 0,
        new_ledger,
        Commits(TOPICS, lease_s=30),
        die,  # type: ignore[arg-type]
        lambda: 0.0,
        structlog.get_logger(),
    )
    consumer = FakeConsumer.made[0]
    consumer.assign_callback(consumer, [TopicPartition(t, p) for t in TOPICS for p in range(PARTITIONS)])
    return made


def open_all(reader: EventsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns until every partition is live and nothing is left to restore."""
    monkeypatch.setattr(FakeRestorer, "busy", True)
    for _ in range(PORTIONS * PARTITIONS):
        reader.next_batch()
    assert reader.stats.live == PARTITIONS
    monkeypatch.setattr(FakeRestorer, "busy", False)


def let_time_pass(reader: EventsReader, monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """Each look at the clock takes so long."""
    times = [0.0]

    def clock() -> float:
        times[0] += step_s
        return times[0]

    monkeypatch.setattr(reader, "_clock", clock)
    monkeypatch.setattr(reader._fillings, "_clock", clock)


def opened_by(reader: EventsReader) -> list[str]:
    """The partitions that a turn opens."""
    return [partition for partition, arrival in reader.next_batch() if isinstance(arrival, Opened)]


def test_ledgers_are_filled_little_by_little(reader: EventsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling one may take seconds: in between the group is polled, so commits are answered and events served."""
    monkeypatch.setattr("sources.filling.FILL_PORTIONS", 1)
    consumer = FakeConsumer.made[0]
    opened = []
    for turn in range(1, PORTIONS * PARTITIONS + 1):
        opened.append(opened_by(reader))
        assert consumer.polls == turn
    assert opened == [[], ["0"], [], ["1"], [], ["2"]]
    assert consumer.resumed == [0, 1, 2]
    assert reader.stats.owned == PARTITIONS


def test_a_partition_lost_while_its_ledger_is_filled_is_not_opened(
    reader: EventsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left when it comes back: it is read and filled from the start."""
    monkeypatch.setattr("sources.filling.FILL_PORTIONS", 1)
    consumer = FakeConsumer.made[0]
    places = [TopicPartition(topic, 0) for topic in TOPICS]
    assert opened_by(reader) == []
    consumer.lost_callback(consumer, places)
    assert [opened_by(reader) for _ in range(5)] == [[], ["1"], [], ["2"], []]
    consumer.assign_callback(consumer, places)
    assert [opened_by(reader) for _ in range(PORTIONS)] == [[], ["0"]]


def test_time_for_filling_is_short_while_others_are_live(reader: EventsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a turn may take of the time of live partitions is little; alone, a ledger is filled in one go."""
    let_time_pass(reader, monkeypatch, 0.01)
    assert opened_by(reader) == ["0", "1", "2"]
    monkeypatch.setattr(FakeRestorer, "busy", False)
    reader.next_batch()
    monkeypatch.setattr(FakeRestorer, "busy", True)
    consumer = FakeConsumer.made[0]
    for partition in (0, 1):
        consumer.lost_callback(consumer, [TopicPartition(topic, partition) for topic in TOPICS])
        consumer.assign_callback(consumer, [TopicPartition(topic, partition) for topic in TOPICS])
    assert [opened_by(reader) for _ in range(2 * PORTIONS)] == [[], ["0"], [], ["1"]]


def test_the_first_of_many_to_be_live_does_not_slow_down_the_others(
    reader: EventsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a start all partitions wait: what is left is restored as fast as the first of them."""
    let_time_pass(reader, monkeypatch, 0.06)
    assert [opened_by(reader) for _ in range(PARTITIONS)] == [["0"], ["1"], ["2"]]


def test_a_partition_that_opens_while_input_is_held_back_waits_with_the_others(
    reader: EventsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of them go on together once there is room again: none is forgotten (found by the simulator)."""
    monkeypatch.setattr("sources.filling.FILL_PORTIONS", PORTIONS)
    consumer = FakeConsumer.made[0]
    reader.next_batch()
    assert consumer.paused == {1, 2}
    monkeypatch.setattr(FakeOutgoing, "has_room", False)
    reader.next_batch()
    reader.next_batch()
    assert consumer.paused == {0, 1, 2}
    monkeypatch.setattr(FakeOutgoing, "has_room", True)
    reader.next_batch()
    assert consumer.paused == set()


@pytest.mark.parametrize(("others_see_it", "tries_left"), [(False, 0), (True, 1)])
def test_a_coordinator_out_of_sight_is_asked_again_and_by_others(
    others_see_it: bool, tries_left: int, reader: EventsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member may not see it as long as a rebalance lasts: that is no reason to end a process."""

    def by_another(_config: object, group: str, partitions: list[TopicPartition], _timeout_s: float) -> Any:
        assert group == "group"
        return [TopicPartition(tp.topic, tp.partition, 0) for tp in partitions] if others_see_it else None

    monkeypatch.setattr(module, "committed_positions", by_another)
    consumer = FakeConsumer.made[0]
    consumer.timeouts_left = 2
    consumer.assign_callback(consumer, [TopicPartition(topic, PARTITIONS) for topic in TOPICS])
    assert consumer.timeouts_left == tries_left
    reader.next_batch()
    assert reader.stats.owned == PARTITIONS + 1


def test_tails_begin_where_the_earliest_positions_fit(reader: EventsReader) -> None:
    """Topics of a partition that come one after the other may be committed further: what came first decides."""
    consumer, whole = FakeConsumer.made[0], PARTITIONS
    for end, topic in enumerate(TOPICS):
        consumer.metadata = encode_metadata(1, 10 + end, 20 + end)
        consumer.assign_callback(consumer, [TopicPartition(topic, whole)])
    assert reader._restorer.committed[whole] == decode_metadata(encode_metadata(1, 10, 20))  # type: ignore[attr-defined]


def passed_on(items: list[tuple[str, Arrival]]) -> list[tuple[str, list[int], bool]]:
    """Of each batch its partition, the offsets in it, and whether more follow."""
    return [
        (partition, [message.offset() for message in arrival.messages], arrival.more)  # type: ignore[misc]
        for partition, arrival in items
        if isinstance(arrival, Batch)
    ]


@pytest.fixture
def portions_of_two(reader: EventsReader, monkeypatch: pytest.MonkeyPatch) -> FakeConsumer:
    """All partitions are open, and a turn passes on two records of what was read at once."""
    monkeypatch.setattr(module, "TURN_MESSAGES", 2)
    open_all(reader, monkeypatch)
    return FakeConsumer.made[0]


def test_what_is_read_at_once_is_passed_on_over_turns(reader: EventsReader, portions_of_two: FakeConsumer) -> None:
    """All that a partition's run changed can be told with its end. The group is served meanwhile, which may read on."""
    consumer = portions_of_two
    consumer.records = [FakeRecord(0, 0), FakeRecord(1, 0), FakeRecord(0, 1), FakeRecord(0, 2)]
    polls = consumer.polls
    assert passed_on(reader.next_batch()) == [("0", [0, 1], True)]
    consumer.records = [FakeRecord(1, 1), FakeRecord(0, 3)]
    assert passed_on(reader.next_batch()) == [("0", [2], False), ("1", [0], True)]
    assert passed_on(reader.next_batch()) == [("1", [1], False), ("0", [3], False)]
    assert consumer.polls == polls + 3


@pytest.mark.parametrize(("behind", "read"), [(3, 4), (4, 6)])
def test_more_is_read_at_once_far_behind(
    behind: int, read: int, reader: EventsReader, portions_of_two: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more than that, the first one included."""
    for name, value in (("BATCH_MESSAGES", 4), ("BACKLOG_MESSAGES", 6), ("BACKLOG", 4), ("TURN_MESSAGES", 100)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(reader, "_backlog", behind)
    portions_of_two.records = [FakeRecord(0, number) for number in range(8)]
    assert passed_on(reader.next_batch()) == [("0", list(range(read)), False)]


def test_records_of_a_lost_partition_are_not_passed_on(
    reader: EventsReader, portions_of_two: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it is ours again by then: its next owner reads from what was passed on."""
    consumer = portions_of_two
    consumer.records = [FakeRecord(at, number) for at in (0, 1) for number in range(3)]
    assert passed_on(reader.next_batch()) == [("0", [0, 1], True)]
    places = [TopicPartition(topic, 0) for topic in TOPICS]
    consumer.lost_callback(consumer, places)
    consumer.assign_callback(consumer, places)
    monkeypatch.setattr(FakeOutgoing, "has_room", False)
    open_all(reader, monkeypatch)
    monkeypatch.setattr(FakeOutgoing, "has_room", True)
    items = [item for _ in range(3) for item in reader.next_batch()]
    assert passed_on(items) == [("1", [0], True), ("1", [1, 2], False)]


def test_records_wait_while_too_much_is_unacknowledged(
    reader: EventsReader, portions_of_two: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: the group is served all the same."""
    consumer = portions_of_two
    consumer.records = [FakeRecord(0, number) for number in range(4)]
    assert passed_on(reader.next_batch()) == [("0", [0, 1], True)]
    monkeypatch.setattr(FakeOutgoing, "has_room", False)
    polls = consumer.polls
    assert passed_on([item for _ in range(5) for item in reader.next_batch()]) == []
    assert consumer.polls == polls + 5
    monkeypatch.setattr(FakeOutgoing, "has_room", True)
    assert passed_on(reader.next_batch()) == [("0", [2, 3], False)]


@pytest.mark.parametrize("says_its_end", [False, True])
def test_nobody_has_caught_up_before_all_is_passed_on(
    says_its_end: bool, reader: EventsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holds would end, and keys be told, by a state that is not all there."""
    monkeypatch.setattr(module, "TURN_MESSAGES", 2)
    ends = {TOPICS[0]: (0, 4), **dict.fromkeys(TOPICS[1:], (0, 0))}
    monkeypatch.setattr(FakeBounds, "answer", lambda _, partition: ends)
    open_all(reader, monkeypatch)
    end = KafkaError(KafkaError._PARTITION_EOF)
    last = [FakeRecord(0, 3, end)] if says_its_end else [FakeRecord(0, 3)]
    FakeConsumer.made[0].records = [*(FakeRecord(0, number) for number in range(3)), *last]
    turns = [reader.next_batch() for _ in range(3)]
    assert [[type(arrival) for _, arrival in items] for items in turns] == [[Batch], [Batch, CaughtUp], []]


def test_lag_counts_what_waits_to_be_passed_on(
    reader: EventsReader, portions_of_two: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's positions are past it, for however long there is no room for what it would lead to."""
    now, place = [1.0], (TOPICS[0], 0)

    def read_at_once(places: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, 4 if (p.topic, p.partition) == place else 0) for p in places]

    monkeypatch.setattr(reader, "_clock", lambda: now[0])
    monkeypatch.setattr(portions_of_two, "get_watermark_offsets", lambda place, cached: (0, 4))
    monkeypatch.setattr(portions_of_two, "position", read_at_once)
    portions_of_two.records = [FakeRecord(0, number) for number in range(4)]
    reader.next_batch()
    assert reader.stats.lag == {}
    monkeypatch.setattr(FakeOutgoing, "has_room", False)
    for _ in range(3):
        now[0] += 1.0
        reader.next_batch()
        assert reader.stats.lag[place] == 2
    monkeypatch.setattr(FakeOutgoing, "has_room", True)
    reader.next_batch()
    assert reader.stats.lag[place] == 2
    now[0] += 1.0
    reader.next_batch()
    assert reader.stats.lag == {(t, p): 0 if (t, p) == place else 4 for t in TOPICS for p in range(PARTITIONS)}
