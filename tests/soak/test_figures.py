"""Slopes, calm time and verdicts of a long run, from made-up samples of which the truth is known."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stockflow.demo.observe import Buckets
from tests.soak import figures
from tests.soak.faults import Fault
from tests.soak.report import Report
from tests.soak.samples import gauges

LENGTH_S = 1_800.0
MB = figures.MB
NO_TIME = Fault("kill", began_s=600, healed_s=660)


def samples(seed: int = 1, **per_h: float) -> list[dict[str, Any]]:
    """A survivor looked at every 2 s that grows so much per hour, with the noise of an allocator."""
    chance = random.Random(seed)
    rows = []
    for at in range(0, int(LENGTH_S), 2):
        grown = {name: amount * at / 3_600 for name, amount in per_h.items()}
        kept = (
            grown.get("facts", 0) * figures.FACT_BYTES
            + grown.get("balances", 0) * figures.BALANCE_BYTES
            + grown.get("orders", 0) * figures.ORDER_BYTES
        )
        rows.append(
            {
                "process": "survivor",
                "at_s": float(at),
                "rss": int(500 * MB + kept + grown.get("leak_mb", 0) * MB + chance.gauss(0, MB)),
                "fds": 46 + int(grown.get("fds", 0)) + chance.randrange(2),
                "threads": 29,
                "live": 6,
                "facts": 500_000 + grown.get("facts", 0),
                "balances": 500_000 + grown.get("balances", 0),
                "orders": grown.get("orders", 0),
            }
        )
    return rows


def report(rows: list[dict[str, Any]], problems: list[str] | None = None, ended: list[str] | None = None) -> Report:
    """What a run with these samples would report."""
    windows = figures.fault_windows([NO_TIME])
    calm = figures.calm_rows(rows, "survivor", windows)
    return Report(
        [],
        [],
        [NO_TIME],
        figures.memory(rows, "survivor", windows, LENGTH_S),
        {"fds": figures.steps(calm, "fds", LENGTH_S)},
        [],
        {},
        [],
        problems or [],
        [],
        ended or [],
    )


@pytest.mark.parametrize(
    ("text", "grows", "wrong"),
    [
        ("nothing grows", {}, []),
        ("facts, balances and orders alone grow", {"facts": 1e6, "balances": 7_200, "orders": 54_000}, []),
        ("a leak below the bound", {"leak_mb": 10}, []),
        ("a leak", {"leak_mb": 60}, ["no memory leaks"]),
        ("a leak beside growth that is meant", {"facts": 1e6, "leak_mb": 60}, ["no memory leaks"]),
        ("file descriptors", {"fds": 40}, ["no file descriptors leak"]),
    ],
)
def test_growth_is_judged_by_what_is_left_unexplained(text: str, grows: dict[str, float], wrong: list[str]) -> None:
    """Only growth beyond remembered facts, balances and orders is a leak, and a small one is noise."""
    assert [check.name for check in report(samples(**grows)).checks if check.fine is False] == wrong, text


def test_the_truth_and_an_unasked_end_decide_as_well() -> None:
    """A difference or a process that ended makes the run fail, whatever the figures say."""
    rows = samples()
    assert report(rows).fine
    assert not report(rows, problems=["audit: x"]).fine
    assert not report(rows, ended=["survivor ended by itself with 1"]).fine


def test_a_run_that_is_too_short_judges_no_slope() -> None:
    """Without enough calm time there is no slope, and that is no failure."""
    found = report([row for row in samples(leak_mb=600) if row["at_s"] < 40])
    assert found.memory.unexplained is None
    assert found.fine


def test_what_the_allocator_keeps_after_a_fault_is_a_level_and_no_slope() -> None:
    """A step at a fault shows in the levels; what grows between faults is a leak all the same."""
    for leak_mb, fine in ((0.0, True), (60.0, False)):
        rows = samples(leak_mb=leak_mb)
        for row in rows:
            row["rss"] += 200 * MB * (row["at_s"] > NO_TIME.began_s)
        found = report(rows)
        assert found.fine is fine
        before, after = found.memory.stretches_mb
        assert after - before == pytest.approx(200 + leak_mb / 4, abs=5)


def test_memory_given_back_between_faults_hides_no_leak() -> None:
    """One step down in a calm stretch changes the usual slope hardly."""
    rows = samples(leak_mb=90)
    for row in rows:
        row["rss"] -= 150 * MB * (row["at_s"] > 1_200)
    assert [check.fine for check in report(rows).checks if check.name == "no memory leaks"] == [False]


def test_an_interval_that_is_too_wide_shows_nothing() -> None:
    """Neither a leak nor its absence: the check says so."""
    rows, chance = samples(), random.Random(5)
    for row in rows:
        row["rss"] += int(chance.gauss(0, 150 * MB))
    assert [check.fine for check in report(rows).checks if check.name == "no memory leaks"] == [None]


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_slope_holds_the_truth(seed: int) -> None:
    """A known slope of noisy points lies inside a 95 % interval (of these seeds, in every one)."""
    chance = random.Random(seed)
    at = [float(second) for second in range(0, 900, 60)]
    found = figures.slope(at, [500 + 40 * second / 3_600 + chance.gauss(0, 0.5) for second in at])
    assert found is not None
    assert found.low < 40 < found.high
    assert found.low < found.per_h < found.high < found.per_h + 20
    assert found.points == 15


@pytest.mark.parametrize(("freedom", "known"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)])
def test_student_quantiles_are_those_of_the_tables(freedom: int, known: float) -> None:
    """The expansion stays within two percent of the printed values."""
    assert figures.student_95(freedom) == pytest.approx(known, rel=0.02)


def test_calm_time_excludes_faults_their_healing_and_other_shares() -> None:
    """Rows in a fault, shortly after it, before the load or with another share of the partitions do not count."""
    rows = samples()
    for row in rows[:10]:
        row["live"] = 12
    rows[20]["at_s"] = -1.0
    at = figures.calm_rows(rows, "survivor", figures.fault_windows([NO_TIME]))["at_s"]
    assert at.min() == 20.0
    assert not any(599 <= one <= 670 for one in at)
    assert len(at) == len(rows) - 10 - 1 - 36


def test_latencies_of_minutes_leave_out_slots_in_faults() -> None:
    """A minute is made of its calm slots; the minute of the fault has none and is not there."""
    asked: list[list[int]] = []

    def percentiles(slots: Any) -> dict[str, float]:
        asked.append(list(slots))
        return {"p50_ms": 5.0 + len(asked)}

    minutes = figures.calm_minutes(percentiles, figures.fault_windows([NO_TIME]), LENGTH_S)
    assert [one["minute"] for one in minutes] == [m for m in range(30) if m != 10]
    assert minutes[11 - 1] == {"minute": 11, "slots": 4, "p50_ms": 16.0}
    assert [slot for slots in asked for slot in slots if 59 <= slot <= 66] == []
    first, last = figures.drift(minutes, "p50_ms", LENGTH_S) or (0, 0)
    assert first < last


def test_the_load_of_the_machine_stands_beside_each_minute() -> None:
    """The mean of the looks within the minute; a minute without a look has none."""
    minutes: list[dict[str, float]] = [{"minute": 0}, {"minute": 1}]
    figures.add_load(minutes, [{"at_s": 1.0, "load": 2.0}, {"at_s": 59.0, "load": 4.0}, {"at_s": 300.0, "load": 9.0}])
    assert minutes == [{"minute": 0, "load": 3.0}, {"minute": 1}]


def test_the_programs_own_histogram_is_compared_by_quarters() -> None:
    """What is observed between calm looks of a quarter counts, what a fault saw does not."""

    def at(seconds: float, fast: float, slow: float) -> tuple[float, str, Buckets]:
        return seconds, "survivor visible urgent", Buckets({0.01: fast, 1.0: fast + slow, float("inf"): fast + slow})

    looks = [at(0, 0, 0), at(60, 100, 0), at(599, 100, 0), at(640, 100, 900), at(1_500, 200, 900), at(1_790, 300, 900)]
    found = figures.visible_drift(looks, "survivor visible urgent", figures.fault_windows([NO_TIME]), LENGTH_S)
    assert found["p50_ms"] == (pytest.approx(5), pytest.approx(5))
    assert found["p99_ms"] == (pytest.approx(9.9), pytest.approx(9.9))


def test_gauges_add_up_labels_unless_one_is_named() -> None:
    """Lag is the sum over topics and partitions; partitions are taken by their state."""
    page = (
        'stockflow_lag_events{topic="a",partition="0"} 2.0\nstockflow_lag_events{topic="a",partition="1"} 3.0\n'
        'stockflow_partitions{state="owned"} 6.0\nstockflow_partitions{state="live"} 5.0\n# HELP x\n'
        "stockflow_balances 7.0\n"
    )
    found = gauges(page)
    assert (found["lag"], found["owned"], found["live"], found["balances"]) == (5.0, 6.0, 5.0, 7.0)
