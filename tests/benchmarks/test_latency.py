"""Due times, what answers an event, and a short run of each program that is measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import latency
from benchmarks.generator import Load
from benchmarks.rig import Servers, wait_for
from benchmarks.watching import Due, RedisWatch, answering, dues
from benchmarks.workload import HOT_SKUS, Options, make
from stockflow.embedded import RedisServer
from tests import services


@pytest.mark.parametrize(
    ("text", "load", "counts"),
    [
        ("steady", Load(100, 2), [100, 100]),
        ("a burst at the start of every second", Load(100, 2, every_s=1, burst_s=0.5, times=3), [200, 200]),
        ("a flash", Load(10, 3, flash_at_s=1, flash_s=1, flash_times=20), [10, 200, 10]),
    ],
)
def test_events_are_due_as_the_load_says(text: str, load: Load, counts: list[int]) -> None:
    """Per second as many as asked for, about, in order."""
    due = load.due()
    assert due == sorted(due)
    assert due[0] == 0.0
    for second, count in enumerate(counts):
        found = sum(second <= at < second + 1 for at in due)
        assert abs(found - count) <= max(2, count // 10), text  # A step at the old rate goes before the new one.


def test_a_flash_is_of_few_skus_and_the_rest_is_as_without() -> None:
    """Events of the flash fall on the hot SKUs alone."""
    load = Load(10, 3, flash_at_s=1, flash_s=1, flash_times=20)
    due = load.due()
    first, last = load.hot(due)
    assert 9 <= first <= 11
    assert last - first > 170
    shape = Options(len(due), 1_000, 3, warm_up=50, hot=(first, last))
    sequence = make(shape, 1_790_000_000_000_000, ordered=True).sequence
    assert len(sequence) == len(due)
    hot = {f"SKU-{n:08d}".encode() for n in range(HOT_SKUS)}
    assert {key for _, _, key, _ in sequence[first:last]} == hot
    assert not {key for _, _, key, _ in (*sequence[:first], *sequence[last:])} <= hot


def look_through(watch: RedisWatch) -> None:
    """Return once a look that began after the call has ended: one may be under way."""
    before = len(watch.looks)
    wait_for(lambda: len(watch.looks) >= before + 3, "look at Redis", 30)


def _due(id: str, at: float, type: str = "pos.sale", location: str = "A") -> Due:
    return Due(id, type, "S", location, at)


@pytest.mark.parametrize(
    ("text", "events", "seen", "expected"),
    [
        ("its own record", [_due("1", 0)], {"1": 5.0}, ["1"]),
        ("none", [_due("1", 0)], {}, [None]),
        ("a newer one of the same kind stands for it", [_due("1", 0), _due("2", 1)], {"2": 6.0}, ["2", "2"]),
        ("an older one does not", [_due("1", 0), _due("2", 1)], {"1": 6.0}, ["1", None]),
        ("its own came first", [_due("1", 0), _due("2", 1)], {"1": 5.0, "2": 6.0}, ["1", "2"]),
        ("another kind says nothing", [_due("1", 0), _due("2", 1, "wms.receipt")], {"2": 6.0}, [None, "2"]),
        ("another location says nothing", [_due("1", 0), _due("2", 1, location="B")], {"2": 6.0}, [None, "2"]),
        (
            "a newer one of another kind came before the newer one of the same kind",
            [_due("1", 0), _due("2", 1, "wms.receipt"), _due("3", 9)],
            {"2": 6.0, "3": 12.0},
            [None, "2", "3"],
        ),
        (
            "an older one of another kind came late, perhaps with it",
            [_due("1", 0, "wms.receipt"), _due("2", 1), _due("3", 9)],
            {"1": 6.0, "3": 12.0},
            ["1", None, "3"],
        ),
        (
            "one of another kind came before it was due, or after",
            [_due("1", 0, "wms.receipt"), _due("2", 7), _due("3", 9), _due("4", 9, "wms.receipt")],
            {"1": 6.0, "3": 12.0, "4": 13.0},
            ["1", "3", "3", "4"],
        ),
    ],
)
def test_a_record_answers_its_cause_and_what_it_replaced(
    text: str, events: list[Due], seen: dict[str, float], expected: list[str | None]
) -> None:
    """A conflated event counts with the record in which its effect could first be read, if that is known."""
    assert answering(events, seen) == expected, text


def test_the_view_is_timed_by_the_version_that_holds_the_event(private_redis: Callable[..., RedisServer]) -> None:
    """A key that shows an older version does not show the event; one that shows a newer version does."""
    import time

    import redis

    where = Servers("", private_redis().url, "")
    value = '{{"version":{},"cause":{{"id":"x"}}}}'.format
    with redis.Redis.from_url(where.redis_url) as client:
        now = time.monotonic()
        client.set("S|A", value(4))
        client.set("S|B", value(1))
        events = [_due("old", now), _due("other", now, location="B")]
        answers = SimpleNamespace(versions={"old": 5, "other": 2})
        watch = RedisWatch(where, False, events, answers)  # type: ignore[arg-type]
        try:
            look_through(watch)
            changed = time.monotonic()
            client.set("S|A", value(7))
            look_through(watch)
        finally:
            watch.close()
    times = watch.times({"old": 5, "other": 2})
    assert list(times) == ["old"]
    assert changed <= times["old"] < changed + 1


def test_quantiles_are_of_the_histogram() -> None:
    """Three significant digits, the maximum exact, nothing without values."""
    found, histogram = latency.spread([float(n) for n in range(1, 1001)])
    assert found["p50"] == pytest.approx(500, rel=0.002)
    assert found["p99"] == pytest.approx(990, rel=0.002)
    assert found["max"] == 1000.0
    assert histogram.get_total_count() == 1_000
    assert latency.spread([])[0] == {}


def _options(kafka: services.Kafka, url: str, folder: Path, *more: str) -> tuple[Servers, argparse.Namespace]:
    arguments = ["--rate", "200", "--seconds", "1.5", "--warm-up", "0.5", "--balances", "200", "--partitions", "3"]
    arguments += ["--folder", str(folder), "--peer-warm-up", "0", *more]
    return Servers(kafka.bootstrap, url, "test"), latency.parser().parse_args(arguments)


@pytest.mark.parametrize("program", [latency.FLOOR, latency.STOCKFLOW])
def test_a_short_run_times_every_event_in_kafka_and_some_in_redis(
    program: str, kafka: services.Kafka, private_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """No event is earlier than its due time, hardly one is unanswered, and the timeline adds up."""
    where, options = _options(kafka, private_redis().url, tmp_path, "--accept-late")
    found = latency.measure(where, program, latency.load_of(options), options, "t")
    assert found.share > 0.9
    assert 0 < found.kafka["p50"] <= found.kafka["p99"] <= found.kafka["max"]
    assert 0 < found.redis["p50"] <= found.redis["max"]
    assert sum(second["events"] for second in found.timeline) == sum(one[1] is not None for one in found.events)
    assert all(at >= options.warm_up for at, _, _ in found.events)


def test_a_run_is_refused_if_the_generator_was_late() -> None:
    """Ten per cent of the measured 99th percentile at most; figures of a late generator are not the program's."""
    for late, refused in ((0.9, False), (1.1, True)):
        found = latency.Latency("floor", {"p99": 10.0}, {}, {"p99": late}, {}, 1.0, 0.0, 1.0, 1.0, 1.0, [], "", 0.1)
        if refused:
            with pytest.raises(latency.Refused, match=r"1\.1 ms late"):
                latency.accept(found)
        else:
            latency.accept(found)


def test_values_become_due_events() -> None:
    """Ids and keys are read from the events themselves."""
    sequence = make(Options(3, 10, 1), 1_790_000_000_000_000, ordered=True).sequence
    found = dues([value for *_, value in sequence], [0.0, 0.5, 1.0], 100.0)
    assert [one.at for one in found] == [100.0, 100.5, 101.0]
    assert all(one.sku == "SKU-00000000" and one.id for one in found)
