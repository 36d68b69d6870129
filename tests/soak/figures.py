"""What the samples of a long run say about leaks and drift: slopes with intervals, quarters compared; never I/O.

Only calm time counts: without faults, their healing and a few seconds after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import median
from typing import Any

import polars as pl

from stockflow.demo.observe import Buckets
from tests.soak.answers import SLOT_S
from tests.soak.faults import Fault

MB = 1_000_000
MINUTE_S = 60.0
AFTER_FAULT_S = 10.0  # Caches and queues come to rest.
# Resident bytes that are meant to be kept; `python -m benchmarks.memory` measures them.
FACT_BYTES, BALANCE_BYTES, ORDER_BYTES = 184, 306, 890
LEAK_MB_PER_H_MAX = 30.0  # If the whole interval of what is left unexplained lies above, that is a leak.
FDS_GROWN_MAX = 3  # Probes and scrapes come and go; a leak of one per fault would show as more.
POINT_S = 15.0  # Of calm time make one point of the slope within stretches.
POINTS_MIN = 10
NORMAL_95 = 1.959964
MINUTES_MIN = 5  # With fewer calm minutes no slope is judged.
SLOTS_MIN = 2  # Calm slots that make a minute's latency.

Window = tuple[float, float]


@dataclass(frozen=True)
class Slope:
    """Change per hour by least squares over the points, with a 95 % interval."""

    per_h: float
    low: float
    high: float
    points: int

    def __str__(self) -> str:
        return f"{self.per_h:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class Memory:
    """The survivor's resident memory in calm time, in MB and MB per hour; None: too short to tell.

    `total` is the slope of the second half across its faults, after each of which the allocator keeps more or less.
    `unexplained` is what usually grows between them, within calm stretches that have a level of their own each,
    without what facts, balances and orders take. `stretches_mb` are those levels over the whole run.
    """

    total: Slope | None
    explained: dict[str, float]
    unexplained: Slope | None
    stretches_mb: list[float]
    first_mb: float
    last_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Steps:
    """A number in calm time: least, most, change per hour, medians of the first and last quarter of the run."""

    least: float
    most: float
    slope: Slope | None
    first_quarter: float
    last_quarter: float

    @property
    def grown(self) -> float:
        """From the first to the last quarter."""
        return self.last_quarter - self.first_quarter


def fault_windows(faults: Iterable[Fault]) -> list[Window]:
    """The times that do not count."""
    return [(fault.began_s - 1, fault.healed_s + AFTER_FAULT_S) for fault in faults]


def is_calm(windows: Sequence[Window], first_s: float, last_s: float) -> bool:
    """Whether no fault touches the time from one moment to another."""
    return all(last_s < begin or first_s > end for begin, end in windows)


def calm_rows(rows: Sequence[Mapping[str, Any]], process: str, windows: Sequence[Window]) -> pl.DataFrame:
    """A process's rows in calm time during which it held its usual share of the partitions."""
    mine = [
        row
        for row in rows
        if row["process"] == process
        and row.get("balances") is not None
        and row["at_s"] >= 0
        and is_calm(windows, row["at_s"], row["at_s"])
    ]
    frame = pl.DataFrame(mine, infer_schema_length=None)
    if frame.is_empty():
        return frame
    return frame.filter(pl.col("live") == pl.col("live").mode().min())


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope | None:
    """The slope of a line through the points and its interval; None with too few of them."""
    if len(at_s) < MINUTES_MIN:
        return None
    points = pl.DataFrame({"x": [at / 3_600 for at in at_s], "y": values}, schema={"x": pl.Float64, "y": pl.Float64})
    x, y = points["x"] - points["x"].mean(), points["y"] - points["y"].mean()
    spread = float((x * x).sum())
    per_h = float((x * y).sum()) / spread
    freedom = len(points) - 2
    error = sqrt(max(0.0, float(((y - per_h * x) ** 2).sum())) / freedom / spread)
    reach = error * student_95(freedom)
    return Slope(per_h, per_h - reach, per_h + reach, len(points))


def usual_slope(at_s: Sequence[float], values: Sequence[float], levels: Sequence[int]) -> Slope | None:
    """The median slope between any two points of one level (Theil and Sen), with Kendall's interval.

    Unlike least squares it does not care about a few steps, as when the allocator gives memory back.
    """
    each = sorted(
        (values[j] - values[i]) / (at_s[j] - at_s[i]) * 3_600
        for i in range(len(at_s))
        for j in range(i + 1, len(at_s))
        if levels[i] == levels[j] and at_s[j] > at_s[i]
    )
    if len(at_s) < POINTS_MIN or not each:
        return None
    sizes = [levels.count(level) for level in set(levels)]
    reach = NORMAL_95 * sqrt(sum(n * (n - 1) * (2 * n + 5) for n in sizes) / 18)
    low, high = max(0, int((len(each) - reach) / 2)), min(len(each) - 1, int((len(each) + reach) / 2) + 1)
    return Slope(float(median(each)), each[low], each[high], len(at_s))


def student_95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t by the expansion of Cornish and Fisher; within 2 % from 3 on."""
    z = NORMAL_95
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


def memory(rows: Sequence[Mapping[str, Any]], process: str, windows: Sequence[Window], length_s: float) -> Memory:
    """The slope of resident memory, and what of it remembered facts, new balances and orders explain."""
    calm = calm_rows(rows, process, windows)
    peak = max((row["rss"] for row in rows if row["process"] == process and row.get("rss")), default=0) / MB
    if calm.is_empty():
        return Memory(None, {}, None, [], 0.0, 0.0, peak)
    kept = ("facts", "balances", "orders")
    sized = calm.with_columns(
        pl.col("rss") / MB,
        facts=pl.col("facts") * FACT_BYTES / MB,
        balances=pl.col("balances") * BALANCE_BYTES / MB,
        orders=pl.col("orders") * ORDER_BYTES / MB,
        stretch=pl.sum_horizontal(pl.lit(0), *(pl.col("at_s") > end for _, end in windows)),
    )
    later = _medians(sized.filter(pl.col("at_s") >= length_s / 2), MINUTE_S)
    at = later["at_s"].to_list()
    parts = {name: found.per_h for name in kept if (found := slope(at, later[name].to_list())) is not None}
    fine = _medians(sized, POINT_S)
    rest = fine.select(pl.col("rss") - pl.sum_horizontal(*kept)).to_series().to_list()
    ends = sized.sort("at_s")["rss"].to_list()
    return Memory(
        slope(at, later["rss"].to_list()),
        parts,
        usual_slope(fine["at_s"].to_list(), rest, fine["stretch"].to_list()),
        sized.group_by("stretch").agg(pl.col("rss").median()).sort("stretch")["rss"].to_list(),
        ends[0],
        ends[-1],
        peak,
    )


def _medians(sized: pl.DataFrame, every_s: float) -> pl.DataFrame:
    """One row per so many seconds of each calm stretch."""
    return (
        sized.group_by("stretch", (pl.col("at_s") // every_s).alias("slot"))
        .agg(pl.col("at_s", "rss", "facts", "balances", "orders").median())
        .sort("at_s")
    )


def steps(calm: pl.DataFrame, column: str, length_s: float) -> Steps:
    """How a whole number behaved in calm time."""
    minutes = (
        calm.with_columns(minute=pl.col("at_s") // MINUTE_S)
        .group_by("minute")
        .agg(pl.col("at_s", column).median())
        .sort("minute")
    )
    first = calm.filter(pl.col("at_s") <= length_s / 4)[column]
    last = calm.filter(pl.col("at_s") >= length_s * 3 / 4)[column]
    return Steps(
        float(calm[column].min() or 0),  # type: ignore[arg-type]
        float(calm[column].max() or 0),  # type: ignore[arg-type]
        slope(minutes["at_s"].to_list(), minutes[column].to_list()),
        _median(first if len(first) else calm[column]),
        _median(last if len(last) else calm[column]),
    )


def calm_minutes(
    percentiles: Callable[[Sequence[int]], dict[str, float]], windows: Sequence[Window], length_s: float
) -> list[dict[str, float]]:
    """The latency of each minute, out of its calm slots alone; a minute with hardly any is left out."""
    each, per_minute = [], round(MINUTE_S / SLOT_S)
    for minute in range(int(length_s // MINUTE_S) + 1):
        slots = [
            number
            for number in range(minute * per_minute, (minute + 1) * per_minute)
            if (number + 1) * SLOT_S <= length_s and is_calm(windows, number * SLOT_S, (number + 1) * SLOT_S)
        ]
        found = percentiles(slots) if len(slots) >= SLOTS_MIN else {}
        if found:
            each.append({"minute": minute, "slots": len(slots), **found})
    return each


def add_load(minutes: Iterable[dict[str, float]], machine: Sequence[Mapping[str, Any]]) -> None:
    """Note beside each minute how much wanted to run on this machine: the mean of its load average."""
    for one in minutes:
        seen = [row["load"] for row in machine if row["at_s"] // MINUTE_S == one["minute"]]
        if seen:
            one["load"] = sum(seen) / len(seen)


def drift(minutes: Sequence[Mapping[str, float]], name: str, length_s: float) -> tuple[float, float] | None:
    """Medians over the calm minutes of the first and of the last quarter; None if one has no such minute."""
    first = [one[name] for one in minutes if name in one and one["minute"] * MINUTE_S < length_s / 4]
    last = [one[name] for one in minutes if name in one and (one["minute"] + 1) * MINUTE_S > length_s * 3 / 4]
    return (_median(pl.Series(first)), _median(pl.Series(last))) if first and last else None


def visible_drift(
    looks: Sequence[tuple[float, str, Buckets]], stage: str, windows: Sequence[Window], length_s: float
) -> dict[str, tuple[float, float]]:
    """The same from the program's own histogram of one stage: milliseconds by quantile, first and last quarter."""
    quarters: tuple[dict[float, float], dict[float, float]] = ({}, {})
    mine = [(at, buckets) for at, name, buckets in looks if name == stage]
    for (before_s, before), (at_s, after) in pairwise(mine):
        quarter = 0 if at_s <= length_s / 4 else 1 if before_s >= length_s * 3 / 4 else None
        if quarter is not None and is_calm(windows, before_s, at_s):
            for bound, count in after.since(before).counts.items():
                quarters[quarter][bound] = quarters[quarter].get(bound, 0.0) + count
    found = {}
    for quantile in (0.5, 0.99):
        ends = [Buckets(counts).quantile(quantile) for counts in quarters]
        if ends[0] is not None and ends[1] is not None:
            found[f"p{quantile * 100:g}_ms"] = (ends[0] * 1e3, ends[1] * 1e3)
    return found


def _median(series: pl.Series) -> float:
    return float(series.median() or 0.0)  # type: ignore[arg-type]
