"""Medians and ratios of interleaved rounds with bootstrap intervals, and the file that later runs are compared by.

A figure is {value, low, high}: the median, or the ratio of two medians, and the 95 % interval of it when whole rounds
are drawn again and again. Rounds stay together, because what disturbs the machine disturbs all programs of a round.
It never measures anything.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import polars as pl

EVENT_COLUMNS = {
    "workload": pl.String,
    "round": pl.Int32,
    "program": pl.String,
    "due_s": pl.Float64,
    "kafka_ms": pl.Float64,
    "redis_ms": pl.Float64,
}
LATEST = "latest.json"
DRAWS = 2_000
LOW, HIGH = 0.025, 0.975

Rounds = Sequence[Mapping[str, float]]
"""Per round, a number of each program."""


def ratio(rounds: Rounds, one: str, other: str) -> dict[str, float]:
    """The ratio of the medians of two programs over the rounds that have both."""
    both = [each for each in rounds if one in each and other in each]
    return _figure(both, lambda drawn: median(r[one] for r in drawn) / median(r[other] for r in drawn))


def middle(values: Sequence[float]) -> dict[str, float]:
    """The median of values."""
    return _figure([{"": value} for value in values], lambda drawn: median(r[""] for r in drawn))


def _figure(rounds: Rounds, of: Callable[[Rounds], float]) -> dict[str, float]:
    if not rounds:
        raise ValueError("no round has these programs")
    rng = random.Random(1)
    drawn = sorted(of(rng.choices(rounds, k=len(rounds))) for _ in range(DRAWS))
    low, high = drawn[int(LOW * DRAWS)], drawn[int(HIGH * DRAWS)]
    return {"value": of(rounds), "low": low, "high": high, "rounds": len(rounds)}


@dataclass
class Report:
    """All figures of one invocation, the raw results behind them, and what was left out and why."""

    about: dict[str, object]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    raw: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    events: list[tuple[object, ...]] = field(default_factory=list)  # One row of `EVENT_COLUMNS` each.

    def skip(self, reason: str, *names: str) -> None:
        """These figures are not in this report."""
        for name in names:
            self.skipped[name] = reason

    def write(self, folder: Path) -> Path:
        """`latest.json` in a folder, figures at the top, with the single events' latencies beside it; its path."""
        folder.mkdir(parents=True, exist_ok=True)
        skipped = {name: reason for name, reason in self.skipped.items() if name not in self.figures}
        absent = {
            name: {"value": None, "low": None, "high": None, "skipped": reason} for name, reason in skipped.items()
        }
        whole = {**self.figures, **absent, "skipped": skipped, "about": self.about, "raw": self.raw}
        latest = folder / LATEST
        latest.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        pl.DataFrame(self.events, schema=EVENT_COLUMNS, orient="row").write_parquet(folder / "latency.parquet")
        return latest
