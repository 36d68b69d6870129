"""The Redis view: one suite over a fake and a real server, then what only a real server can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Protocol

import pytest
import redis

from sinks.redis_view import RedisView
from sinks.view_store import Change, Marker, RedisStore, StoreUnavailable, ViewStore, open_client
from sinks.view_sync import Batch
from stockflow.embedded import RedisServer, ServerUnavailable
from stockflow.embedded.process import wait_until
from tests import services
from tests.sinks.fake_redis_store import FakeRedisStore

DEADLINE_S = 15.0
GENERATION = 7
PARTITION = 3


def value(version: int, text: str = "") -> bytes:
    return b'{"version":%d,"status":"IN_STOCK","text":"%s"}' % (version, text.encode())


def changes(*records: tuple[str, bytes | None]) -> list[Change]:
    return [(key, record, GENERATION) for key, record in records]


def eventually(condition: Callable[[], bool], what: object = "") -> None:
    assert wait_until(condition, DEADLINE_S), what


class Topic:
    """`availability.v1` in a list, as the topic's only writer knows it; remembers who read it from where."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, int]] = []
        self.reads: list[int | None] = []
        self.failures = 0
        self.hidden = 0  # How many of the newest records a reading does not get to see.
        self.between: Callable[[], None] = lambda: None

    def read(self, partition: int, offset: int | None) -> Iterator[Batch]:
        assert partition == PARTITION
        self.reads.append(offset)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no broker")
        end = len(self.records) - self.hidden
        for record in self.records[offset or 0 : end]:
            yield [record]
            self.between()

    def truth(self) -> dict[str, bytes]:
        newest = {key: record for key, record, _ in self.records}
        return {key: record for key, record in newest.items() if record is not None}


class Place(Protocol):
    """Where a view is kept, fake or real, seen from outside."""

    def store(self) -> ViewStore: ...
    def values(self) -> dict[str, bytes]: ...
    def marker(self) -> Marker | None: ...
    def set_marker(self, marker: Marker | None) -> None: ...
    def wipe(self) -> None: ...


class FakePlace:
    def __init__(self) -> None:
        self.fake = FakeRedisStore()

    def store(self) -> ViewStore:
        return self.fake

    def values(self) -> dict[str, bytes]:
        return dict(self.fake.values)

    def marker(self) -> Marker | None:
        return self.fake.markers.get(PARTITION)

    def set_marker(self, marker: Marker | None) -> None:
        self.fake.markers.pop(PARTITION, None)
        if marker is not None:
            self.fake.markers[PARTITION] = marker

    def wipe(self) -> None:
        self.fake.values.clear()
        self.fake.markers.clear()


class RealPlace:
    def __init__(self, client: Any, url: str) -> None:
        self.client = client
        self.url = url

    def store(self) -> ViewStore:
        return RedisStore(self.url)

    def values(self) -> dict[str, bytes]:
        return {
            f"{key.decode().removeprefix('availability:')}|{location.decode()}": record
            for key in self.client.scan_iter("availability:*")
            for location, record in self.client.hgetall(key).items()
        }

    def marker(self) -> Marker | None:
        text = self.client.get(f"stockflow:view:{PARTITION}")
        if text is None:
            return None
        generation, _, offset = text.removeprefix(b'{"generation":').removesuffix(b"}").partition(b',"offset":')
        return Marker(int(generation), int(offset))

    def set_marker(self, marker: Marker | None) -> None:
        key = f"stockflow:view:{PARTITION}"
        if marker is None:
            self.client.delete(key)
        else:
            self.client.set(key, b'{"generation":%d,"offset":%d}' % (marker.generation, marker.offset))

    def wipe(self) -> None:
        self.client.flushall()


@pytest.fixture
def real(private_redis: Callable[..., RedisServer]) -> Iterator[tuple[RealPlace, RedisServer]]:
    server = private_redis()
    with redis.Redis.from_url(server.url, socket_timeout=5) as client:
        yield RealPlace(client, server.url), server


@pytest.fixture(params=["fake", "real"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "fake":
        return FakePlace()
    found: RealPlace = request.getfixturevalue("real")[0]
    return found


class Pipeline:
    """Stands for the publisher: writes the topic and hands the acknowledgement to the view."""

    def __init__(self, view: RedisView, topic: Topic) -> None:
        self.view = view
        self.topic = topic

    def publish(self, key: str, record: bytes | None, input_timestamp_ms: int = 0) -> None:
        offset = len(self.topic.records)
        self.topic.records.append((key, record, offset))
        self.view.delivered(PARTITION, key, record, offset, input_timestamp_ms)


@contextmanager
def running(place: Place, topic: Topic, *, start: bool = True, own: bool = True, **options: Any) -> Iterator[Pipeline]:
    view = RedisView(place.store(), topic, **options)
    if own:
        view.own(PARTITION, GENERATION)
    if start:
        view.start()
    try:
        yield Pipeline(view, topic)
    finally:
        if view._thread.is_alive():
            view.stop(DEADLINE_S)
            assert not view._thread.is_alive()


def caught_up(place: Place, topic: Topic) -> bool:
    """The view is the topic, and its marker says so; not yet, while a server that is promoted drops its clients."""
    try:
        return place.values() == topic.truth() and place.marker() == Marker(GENERATION, len(topic.records))
    except redis.ConnectionError:
        return False


# The store


@pytest.mark.parametrize(
    ("text", "first", "second", "left", "refused"),
    [
        ("newer replaces", value(5), value(6), value(6), 0),
        ("older is refused", value(6), value(5), value(6), 1),
        ("equal is accepted", value(5), value(5), value(5), 0),
        ("more digits are a higher number", value(9), value(10), value(10), 0),
        ("beyond 32 bits every unit counts", value(7 << 32 | 2), value(7 << 32 | 1), value(7 << 32 | 2), 1),
        ("null removes", value(GENERATION << 32 | 5), None, None, 0),
        ("null leaves a newer owner's", value(GENERATION + 1 << 32), None, value(GENERATION + 1 << 32), 1),
    ],
)
def test_stored_value_gives_way_only_to_its_successors(
    text: str, first: bytes, second: bytes | None, left: bytes | None, refused: int, place: Place
) -> None:
    """The version decides, whatever the order of arrival."""
    store = place.store()
    store.connect()
    assert store.write(changes(("A|x", first), ("A|y", value(1)))) == 0
    assert store.write(changes(("A|x", second))) == refused, text
    assert place.values().get("A|x") == left
    assert place.values()["A|y"] == value(1)
    store.close()


def test_many_keys_of_one_write_all_arrive(place: Place) -> None:
    """A write larger than one script call is whole, also with removals in between and text beyond ASCII."""
    store = place.store()
    store.connect()
    records = {f"S-{i % 300}|Läden-{i // 300}": value(i, "ü") for i in range(900)}
    assert store.write(changes(*records.items())) == 0
    assert place.values() == records
    assert store.write(changes(("S-5|Läden-1", None), ("S-6|Läden-1", value(2000)), ("none|none", None))) == 0
    del records["S-5|Läden-1"]
    assert place.values() == {**records, "S-6|Läden-1": value(2000)}
    store.close()


def test_marker_moves_only_from_what_was_seen(place: Place) -> None:
    """A marker that was wiped or set by another in the meantime is left as it is."""
    store = place.store()
    store.connect()
    assert store.read_markers([PARTITION]) == {PARTITION: None}
    assert store.move_markers({PARTITION: Marker(1, 10)}) == set()
    assert store.move_markers({PARTITION: Marker(1, 20)}) == set()
    place.set_marker(Marker(2, 15))
    assert store.move_markers({PARTITION: Marker(1, 30)}) == {PARTITION}
    assert place.marker() == Marker(2, 15)
    place.wipe()
    assert store.move_markers({PARTITION: Marker(1, 30)}) == {PARTITION}
    assert place.marker() is None
    assert store.read_markers([PARTITION]) == {PARTITION: None}
    assert store.move_markers({PARTITION: Marker(1, 30)}) == set()
    assert place.marker() == Marker(1, 30)
    store.close()


# The view


def test_acknowledged_values_appear_and_the_marker_follows(place: Place) -> None:
    """Values, removals and newer values of acknowledged records are in the view, and the marker claims them."""
    topic = Topic()
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        pipeline.publish("B|x", value(2))
        eventually(lambda: caught_up(place, topic))
        pipeline.publish("A|x", None)
        pipeline.publish("B|x", value(4))
        eventually(lambda: caught_up(place, topic))
        assert place.values() == {"B|x": value(4)}
        assert pipeline.view.stats.connected
        assert pipeline.view.stats.errors == 0


def test_waiting_changes_of_one_key_become_one_write(place: Place) -> None:
    """Only the newest pending value of a key is written."""
    topic = Topic()
    with running(place, topic, start=False) as pipeline:
        for version in range(100):
            pipeline.publish("A|x", value(version))
        assert pipeline.view.stats.backlog == 1
        topic.hidden = 100
        pipeline.view.start()
        eventually(lambda: place.values() == {"A|x": value(99)})
        assert pipeline.view.stats.writes == 1


def test_markers_are_moved_when_the_view_stops(place: Place) -> None:
    """What is pending at the stop is written and claimed."""
    topic = Topic()
    with running(place, topic) as pipeline:
        eventually(lambda: place.marker() == Marker(GENERATION, 0) and pipeline.view.stats.resyncs == 1)
        for i in range(500):
            pipeline.publish(f"S-{i}|x", value(i))
        pipeline.view.stop(DEADLINE_S)
        assert caught_up(place, topic)


@pytest.mark.parametrize(
    ("text", "found", "read_from"),
    [
        ("no marker: from the start", None, None),
        ("an earlier owner's: from there", Marker(GENERATION - 1, 2), 2),
        ("our own of an earlier life: from there", Marker(GENERATION, 3), 3),
    ],
)
def test_takeover_reads_the_topic_from_the_marker(
    text: str, found: Marker | None, read_from: int | None, place: Place
) -> None:
    """A new owner writes what the marker does not claim, and no more."""
    topic = Topic()
    topic.records = [(f"S-{i}|x", value(i), i) for i in range(4)]
    place.set_marker(found)
    with running(place, topic) as pipeline:
        eventually(lambda: place.marker() == Marker(GENERATION, 4))
        assert topic.reads == [read_from], text
        assert place.values() == {key: record for key, record, _ in topic.records[read_from or 0 :]}
        assert pipeline.view.stats.resyncs == 1


def test_newer_owner_is_left_alone_until_its_marker_is_gone(place: Place) -> None:
    """Under a marker of a higher generation nothing is written; without it the view is taken up again."""
    topic = Topic()
    newer = Marker(GENERATION + 1, 0)
    place.set_marker(newer)
    with running(place, topic) as pipeline:
        eventually(lambda: pipeline.view.stats.errors == 1)
        pipeline.publish("A|x", value(1))
        assert pipeline.view.stats.backlog == 0
        assert "generation 8 wrote the view" in str(pipeline.view.stats.last_error)
        assert place.values() == {}
        assert place.marker() == newer
        place.wipe()
        eventually(lambda: caught_up(place, topic))
        assert place.values() == {"A|x": value(1)}


def test_wiped_view_is_read_again_within_seconds(place: Place) -> None:
    """A view that is emptied between two writes is complete again without any new record."""
    topic = Topic()
    with running(place, topic) as pipeline:
        for i in range(50):
            pipeline.publish(f"S-{i}|x", value(i))
        eventually(lambda: caught_up(place, topic))
        place.wipe()
        began = time.monotonic()
        eventually(lambda: caught_up(place, topic))
        assert time.monotonic() - began < 2.5
        assert topic.reads == [None, None]
        assert len(place.values()) == 50


@pytest.mark.parametrize("reading", [1, 2], ids=["of the takeover", "after an earlier wipe"])
def test_view_wiped_while_it_is_read_again_is_read_once_more(reading: int, place: Place) -> None:
    """A wipe in the middle of a reading does not leave the first half missing."""
    topic = Topic()
    topic.records = [(f"S-{i}|x", value(i), i) for i in range(10)]
    wipes: list[int] = []

    def wipe_once() -> None:
        if not wipes and len(topic.reads) == reading and len(place.values()) == 5:
            place.wipe()
            wipes.append(reading)

    topic.between = wipe_once
    with running(place, topic):
        if reading == 2:
            eventually(lambda: caught_up(place, topic))
            place.wipe()
        eventually(lambda: wipes == [reading] and caught_up(place, topic))


def test_marker_that_went_back_is_read_from(place: Place) -> None:
    """After a failover to an older replica, the records since its marker are written again."""
    topic = Topic()
    with running(place, topic) as pipeline:
        for i in range(10):
            pipeline.publish(f"S-{i}|x", value(i))
        eventually(lambda: caught_up(place, topic))
        place.wipe()
        place.set_marker(Marker(GENERATION, 6))
        eventually(lambda: caught_up_from(place, topic, 6))
        assert topic.reads == [None, 6]


def caught_up_from(place: Place, topic: Topic, offset: int) -> bool:
    written = {key: record for key, record, _ in topic.records[offset:]}
    return place.values() == written and place.marker() == Marker(GENERATION, len(topic.records))


def test_revoked_partition_is_not_written_any_more(place: Place) -> None:
    """Pending records of a revoked partition are dropped, later ones are ignored, and its marker stays."""
    topic = Topic()
    with running(place, topic, start=False) as pipeline:
        pipeline.publish("A|x", value(1))
        pipeline.view.disown(PARTITION)
        pipeline.publish("B|x", value(2))
        assert pipeline.view.stats.backlog == 0
        pipeline.view.own(PARTITION + 1, GENERATION)
        pipeline.view.delivered(PARTITION + 1, "C|x", value(3), 0, 0)
        pipeline.view.start()
        eventually(lambda: place.values() == {"C|x": value(3)})
        assert place.marker() is None
        pipeline.view.disown(PARTITION + 1)


def test_older_record_of_a_reading_does_not_undo_a_newer_delivery(place: Place) -> None:
    """What was delivered and written during a reading wins over what the reading finds before it."""
    topic = Topic()
    topic.records = [("A|x", value(1), 0), ("B|x", value(1), 1), ("A|x", value(2), 2), ("B|x", None, 3)]
    pipelines: list[Pipeline] = []

    def deliver_once() -> None:
        if len(topic.records) == 4:  # After the first batch: A is delisted, B is listed again.
            pipelines[0].publish("A|x", None)
            pipelines[0].publish("B|x", value(9))

    topic.between = deliver_once
    with running(place, topic, start=False) as pipeline:
        pipelines.append(pipeline)
        pipeline.view.start()
        eventually(lambda: caught_up(place, topic))
        assert place.values() == {"B|x": value(9)}


def test_failed_reading_is_tried_again(place: Place) -> None:
    """Kafka being away for a moment delays the reading, not the delivered records."""
    topic = Topic()
    topic.records = [("A|x", value(1), 0)]
    topic.failures = 1
    with running(place, topic) as pipeline:
        pipeline.publish("B|x", value(2))
        eventually(lambda: place.values() == {"B|x": value(2)})
        assert pipeline.view.stats.last_error == "ConnectionError: no broker"
        eventually(lambda: caught_up(place, topic))
        assert pipeline.view.stats.resyncs == 2


def test_reading_that_ends_before_an_acknowledged_record_is_not_believed(place: Place) -> None:
    """A reading must reach what was already acknowledged; otherwise the marker would claim what is missing."""
    topic = Topic()
    with running(place, topic) as pipeline:
        for i in range(4):
            pipeline.publish(f"S-{i}|x", value(i))
        eventually(lambda: caught_up(place, topic))
        topic.hidden = 2
        place.wipe()
        eventually(lambda: pipeline.view.stats.errors == 1)
        assert pipeline.view.stats.last_error == "read to offset 2, but 3 was acknowledged"
        topic.hidden = 0
        eventually(lambda: caught_up(place, topic))


def test_visibility_is_observed_per_written_record(place: Place) -> None:
    """Each written record reports its input's time and the time it became visible."""
    topic = Topic()
    seen: list[tuple[int, int]] = []
    with running(place, topic, observe=lambda *times: seen.append(times), wall=lambda: 12.5) as pipeline:
        pipeline.publish("A|x", value(1), 12_100)
        pipeline.publish("B|x", value(2), 12_200)
        eventually(lambda: len(seen) == 2)
        assert sorted(seen) == [(12_100, 12_500), (12_200, 12_500)]


def test_backlog_is_bounded_and_read_again(place: Place) -> None:
    """A backlog beyond the limit is let go, and what it held comes from the topic."""
    topic = Topic()
    with running(place, topic, start=False, pending_max=10) as pipeline:
        for i in range(100):
            pipeline.publish(f"S-{i}|x", value(i))
        assert pipeline.view.stats.backlog == 0
        assert pipeline.view.stats.dropped == 11
        pipeline.view.start()
        eventually(lambda: caught_up(place, topic))
        assert len(place.values()) == 100


# The view, with faults that only the fake can time


def test_writes_that_no_marker_claims_are_repeated_on_a_new_connection() -> None:
    """A failover may lose writes while the marker looks as it should: they are kept until a marker claims them."""
    place, topic = FakePlace(), Topic()
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: caught_up(place, topic))
        replica = dict(place.fake.values)

        def fail_over() -> None:
            if "B|x" in place.fake.values:
                place.fake.values = replica
                place.fake.before_move = lambda: None
                raise StoreUnavailable("Fake: failed over")

        place.fake.before_move = fail_over
        pipeline.publish("B|x", value(2))
        eventually(lambda: caught_up(place, topic))
        assert pipeline.view.stats.last_error == "Fake: failed over"
        assert topic.reads == [None]


def turn_by_turn(place: FakePlace, topic: Topic) -> Pipeline:
    """A view without its thread, caught up: each `work` is one turn, at whose end the marker moves."""
    seconds = count(1.0, 2.0)
    view = RedisView(place.store(), topic, clock=lambda: next(seconds))
    view.own(PARTITION, GENERATION)
    for _ in range(3):
        assert view.work()
    return Pipeline(view, topic)


def test_marker_claims_nothing_that_came_after_the_write() -> None:
    """What is acknowledged between a write and the marker after it is claimed by the next marker only."""
    place, topic = FakePlace(), Topic()
    pipeline = turn_by_turn(place, topic)
    write = place.fake.write

    def and_meanwhile(changes: Sequence[Change]) -> int:
        if len(topic.records) == 1:
            pipeline.publish("B|x", value(2))
        return write(changes)

    place.fake.write = and_meanwhile  # type: ignore[method-assign]
    pipeline.publish("A|x", value(1))
    assert pipeline.view.work()
    assert place.values() == {"A|x": value(1)}
    assert place.marker() == Marker(GENERATION, 1)
    assert pipeline.view.work()
    assert caught_up(place, topic)


def test_first_record_of_a_takeover_waits_for_its_marker() -> None:
    """A partition that comes while the markers of others are judged is not written before its own is there."""
    store = FakeRedisStore()
    view = RedisView(store, lambda *_: iter(()))
    view.own(PARTITION, GENERATION)
    judge = store.read_markers
    unmarked: list[str] = []

    def take_over_another(partitions: Sequence[int]) -> dict[int, Marker | None]:
        found = judge(partitions)
        if 1 not in store.markers and list(partitions) == [PARTITION]:
            view.own(1, GENERATION)
            view.delivered(1, "B|x", value(1), 0, 0)
        return found

    def note_unmarked(changes: Sequence[Change]) -> int:
        unmarked.extend(key for key, _, _ in changes if 1 not in store.markers)
        return 0

    store.read_markers = take_over_another  # type: ignore[method-assign]
    store.write = note_unmarked  # type: ignore[method-assign]
    for _ in range(3):
        assert view.work()
    assert 1 in store.markers
    assert unmarked == []


def test_backlog_during_an_outage_is_bounded_for_every_key() -> None:
    """While the store is down memory stays bounded, the newest wins, and the first marker claim comes after all."""
    place, topic = FakePlace(), Topic()
    with running(place, topic, pending_max=50) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: caught_up(place, topic))
        place.fake.down = True
        for i in range(2, 1000):
            pipeline.publish(f"S-{i % 200}|x", value(i))
            assert pipeline.view.stats.backlog <= 100
        assert pipeline.view.stats.dropped >= 50
        place.fake.down = False
        eventually(lambda: caught_up(place, topic))


def test_fault_in_a_metric_neither_ends_the_view_nor_loses_a_record() -> None:
    """A bug in the thread makes it read everything again; it goes on."""
    place, topic = FakePlace(), Topic()
    faults = [ZeroDivisionError("metric")]

    def observe(_input: int, _now: int) -> None:
        if faults:
            raise faults.pop()

    with running(place, topic, observe=observe) as pipeline:
        pipeline.publish("A|x", value(1))
        pipeline.publish("B|x", value(2))
        eventually(lambda: caught_up(place, topic))
        assert pipeline.view.stats.last_error == "ZeroDivisionError: metric"


def test_stop_does_not_wait_for_a_store_that_is_down() -> None:
    """A process must be able to leave while Redis is away; its successor reads on from the marker."""
    place, topic = FakePlace(), Topic()
    place.fake.down = True
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: pipeline.view.stats.errors > 0)
        began = time.monotonic()
        pipeline.view.stop(DEADLINE_S)
        assert time.monotonic() - began < 3.0
        assert pipeline.view.stats.last_error == "Fake: down"


def test_outage_is_logged_once_and_its_end_once() -> None:
    """Every attempt fails in the same way, so only the change is worth a line."""
    place, topic = FakePlace(), Topic()
    place.fake.down = True
    lines: list[str] = []

    class Log:
        def __getattr__(self, level: str) -> Callable[..., None]:
            return lambda event, **_facts: lines.append(f"{level}: {event}")

    with running(place, topic, log=Log()) as pipeline:
        eventually(lambda: pipeline.view.stats.errors >= 4)
        place.fake.down = False
        pipeline.publish("A|x", value(1))
        eventually(lambda: caught_up(place, topic))
    assert lines == [
        "warning: redis view cannot write, keeps trying",
        "info: redis view is back",
        "info: redis view caught up",
    ]


# The view, with faults that only a real server has


def test_server_that_is_away_at_the_start_is_awaited(real: tuple[RealPlace, RedisServer]) -> None:
    """The view starts without Redis and catches up when it comes."""
    place, server = real
    server.stop()
    topic = Topic()
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: pipeline.view.stats.errors >= 2)
        assert not pipeline.view.stats.connected
        assert pipeline.view.stats.backlog == 1
        server.start()
        eventually(lambda: caught_up(place, topic))
        assert pipeline.view.stats.connected


def test_server_that_returns_empty_is_filled_again(real: tuple[RealPlace, RedisServer]) -> None:
    """A killed server without persistence is complete again, with what changed meanwhile."""
    place, server = real
    topic = Topic()
    with running(place, topic) as pipeline:
        for i in range(200):
            pipeline.publish(f"S-{i}|x", value(i))
        eventually(lambda: caught_up(place, topic))
        server.kill()
        eventually(lambda: not pipeline.view.stats.connected)
        for i in range(100, 300):
            pipeline.publish(f"S-{i}|x", value(1000 + i))
        server.start()
        eventually(lambda: caught_up(place, topic))
        assert len(place.values()) == 300


def test_silent_server_does_not_hold_up_deliveries(real: tuple[RealPlace, RedisServer]) -> None:
    """While the server is frozen each delivery still takes microseconds; afterwards the view is complete."""
    place, server = real
    topic = Topic()
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: caught_up(place, topic))
        server.pause()
        slowest = 0.0
        frozen_until = time.monotonic() + 2.5
        version = 1
        while time.monotonic() < frozen_until:
            version += 1
            began = time.perf_counter()
            pipeline.publish(f"S-{version % 50}|x", value(version))
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.001)
        assert not pipeline.view.stats.connected
        assert slowest < 0.5
        server.resume()
        eventually(lambda: caught_up(place, topic))


def test_forgotten_scripts_are_sent_again(real: tuple[RealPlace, RedisServer]) -> None:
    """SCRIPT FLUSH costs one more round trip, nothing else."""
    place, _ = real
    topic = Topic()
    with running(place, topic) as pipeline:
        for version in range(1, 4):
            pipeline.publish("A|x", value(version))
            eventually(lambda: caught_up(place, topic))
            place.client.script_flush()
        assert pipeline.view.stats.errors == 0


def test_full_server_is_retried_until_it_has_room(real: tuple[RealPlace, RedisServer]) -> None:
    """An out-of-memory refusal is shown and survived."""
    place, _ = real
    topic = Topic()
    with running(place, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        eventually(lambda: caught_up(place, topic))
        place.client.config_set("maxmemory", "1")
        pipeline.publish("A|x", value(2))
        pipeline.publish("B|x", value(3))
        eventually(lambda: pipeline.view.stats.errors >= 2)
        assert "memory" in str(pipeline.view.stats.last_error)
        assert place.values() == {"A|x": value(1)}
        place.client.config_set("maxmemory", "0")
        eventually(lambda: caught_up(place, topic))


def test_lost_connection_is_never_replaced_silently(real: tuple[RealPlace, RedisServer]) -> None:
    """The server behind a new connection may have forgotten what the old one acknowledged: it must be noticed."""
    place, _ = real
    store = place.store()
    with pytest.raises(StoreUnavailable, match="not connected"):
        store.write(changes(("A|x", value(1))))
    store.connect()
    assert store.write(changes(("A|x", value(1)))) == 0
    place.client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailable, match="ConnectionError"):
        store.write(changes(("A|x", value(2))))
    with pytest.raises(StoreUnavailable, match="not connected"):
        store.write(changes(("A|x", value(2))))
    store.connect()
    assert store.write(changes(("A|x", value(2)))) == 0
    store.close()


def test_key_of_another_type_is_replaced(real: tuple[RealPlace, RedisServer]) -> None:
    """A stranger under one of the view's names does not stop the view."""
    place, _ = real
    place.client.set("availability:A", "not a hash")
    place.client.hset("availability:B", "x", "not a record")
    store = place.store()
    store.connect()
    assert store.write(changes(("A|x", value(1)), ("B|x", value(2)), ("C|x", value(3)))) == 0
    assert place.values() == {"A|x": value(1), "B|x": value(2), "C|x": value(3)}
    place.client.set("availability:D", "not a hash")
    assert store.write(changes(("D|x", None), ("B|x", None))) == 0
    assert place.values() == {"A|x": value(1), "C|x": value(3)}
    store.close()


def test_few_rights_are_enough(real: tuple[RealPlace, RedisServer]) -> None:
    """An ACL user that may run scripts on the view's own keys can keep the view."""
    place, _ = real
    commands = "-@all +ping +eval +evalsha +get +set +hget +hset +hdel +del"
    rights = f"on >p@ss ~availability:* ~stockflow:view:* {commands}"
    place.client.execute_command("ACL", "SETUSER", "view", *rights.split())
    topic = Topic()
    guarded = RealPlace(place.client, place.url.replace("redis://", "redis://view:p%40ss@"))
    with running(guarded, topic) as pipeline:
        pipeline.publish("A|x", value(1))
        pipeline.publish("B|x", value(2))
        eventually(lambda: caught_up(place, topic))
        pipeline.publish("A|x", None)
        eventually(lambda: caught_up(place, topic))
        assert pipeline.view.stats.errors == 0


def test_unreadable_marker_counts_as_missing(real: tuple[RealPlace, RedisServer]) -> None:
    """A marker that nobody can read is replaced, after the topic has been read from its start."""
    place, _ = real
    place.client.set(f"stockflow:view:{PARTITION}", "nonsense")
    topic = Topic()
    topic.records = [("A|x", value(1), 0)]
    with running(place, topic):
        eventually(lambda: place.client.get(f"stockflow:view:{PARTITION}") == b'{"generation":7,"offset":1}')
        assert topic.reads == [None]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1234/2", {"host": "h", "port": 1234, "db": 2}),
        ("redis://me:p%40ss@h", {"host": "h", "username": "me", "password": "p@ss"}),
        ("rediss://h?ssl_cert_reqs=none", {"host": "h", "ssl_cert_reqs": "none"}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
        ("redis://h?socket_timeout=9", {"host": "h", "socket_timeout": 9.0}),
        (
            "redis+sentinel://me:word@one:1,[::1]/shop/4?sentinel_password=guard",
            {"username": "me", "password": "word", "db": 4},
        ),
        ("redis+sentinel://one/shop?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
    ],
)
def test_url_reaches_the_client_whole(url: str, expected: dict[str, object]) -> None:
    """User, password, database, TLS and other options of every kind of URL are redis-py's own."""
    with open_client(url) as client:
        found = client.connection_pool.connection_kwargs
        assert {name: found.get(name) for name in expected} == expected
        assert found["socket_connect_timeout"] == 1.5
        tls = "SSL" in client.connection_pool.connection_class.__name__
        assert tls == ("ssl" in url)


def test_sentinels_have_their_own_password() -> None:
    """The data nodes' user is not sent to the sentinels, and theirs not to the data nodes."""
    with open_client("redis+sentinel://me:word@one:1,[::1]/shop/4?sentinel_password=guard") as client:
        pool = client.connection_pool
        found = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(kwargs["host"], kwargs["port"]) for kwargs in found] == [("one", 1), ("::1", 26379)]
    assert {(kwargs.get("username"), kwargs.get("password"), kwargs.get("db")) for kwargs in found} == {
        (None, "guard", 0)
    }


def test_sentinel_url_without_a_service_is_refused() -> None:
    """The message shows what a right URL looks like."""
    with pytest.raises(ValueError, match="names the service"):
        open_client("redis+sentinel://one:26379")


# Sentinel and Cluster


class SentinelServer(RedisServer):
    """A sentinel that watches one primary, called `shop`."""

    def __init__(self, watches: int) -> None:
        super().__init__()
        self._watches = watches

    def _command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        config.write_text(f"port {self.port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {self._watches} 1\n")
        return [self._program, str(config), "--sentinel"]


@pytest.fixture
def servers() -> Iterator[Callable[..., RedisServer]]:
    with ExitStack() as stack:

        def start(*arguments: str, watches: int | None = None) -> RedisServer:
            try:
                server = RedisServer(arguments=arguments) if watches is None else SentinelServer(watches)
            except ServerUnavailable as error:
                services.missing(error)
            stack.callback(server.close)
            return server.start()

        yield start


@pytest.mark.redis
def test_view_follows_a_cluster_and_finds_one_emptied_node(servers: Callable[..., RedisServer]) -> None:
    """Each key is on its own node; a primary that loses its data is noticed although the others have theirs."""
    nodes = [servers("--cluster-enabled", "yes", "--cluster-node-timeout", "2000") for _ in range(2)]
    clients: list[Any] = [redis.Redis.from_url(node.url) for node in nodes]
    for client, slots in zip(clients, [(0, 8000), (8001, 16383)], strict=True):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", str(nodes[1].port))
    url = f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"
    eventually(lambda: _serves_whole_cluster(url))
    with open_client(url) as client:
        place, topic = RealPlace(client, url), Topic()
        with running(place, topic) as pipeline:
            for i in range(300):
                pipeline.publish(f"S-{i % 100}|{i // 100}", value(i))
            pipeline.publish("S-5|0", None)
            eventually(lambda: caught_up(place, topic))
            clients[1].flushall()
            assert len(place.values()) < 299
            eventually(lambda: caught_up(place, topic))
            assert len(place.values()) == 299
    for client in clients:
        client.close()


def _serves_whole_cluster(url: str) -> bool:
    try:
        store = RedisStore(url)
        store.connect()
    except StoreUnavailable:
        return False
    store.close()
    return True


@pytest.mark.redis
def test_view_follows_a_failover_behind_sentinel(servers: Callable[..., RedisServer]) -> None:
    """After a promotion the new primary is found, and has everything."""
    first = servers()
    second = servers("--replicaof", "127.0.0.1", str(first.port))
    guard = servers(watches=first.port)
    url = f"redis+sentinel://127.0.0.1:{guard.port}/shop/0"
    with open_client(guard.url) as sentinel, open_client(url) as client:
        eventually(lambda: len(sentinel.execute_command("SENTINEL", "REPLICAS", "shop")) == 1)
        place, topic = RealPlace(client, url), Topic()
        with running(place, topic) as pipeline:
            for i in range(100):
                pipeline.publish(f"S-{i}|x", value(i))
            eventually(lambda: caught_up(place, topic))
            eventually(lambda: _fails_over(sentinel))
            first.kill()
            pipeline.publish("S-5|x", value(1000))
            with redis.Redis.from_url(second.url) as promoted:
                eventually(lambda: caught_up(RealPlace(promoted, second.url), topic))


def _fails_over(sentinel: Any) -> bool:
    try:
        return bool(sentinel.execute_command("SENTINEL", "FAILOVER", "shop"))
    except redis.ResponseError:
        return False
