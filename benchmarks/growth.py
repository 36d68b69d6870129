"""Whether a process grows, or gets slower, as events go by: ten million of them, over days of a clock of our own.

The worker's real code with Kafka as a list (`hot_path`), in this process alone. What may be remembered is bounded by 24
hours, so memory grows for the first day and must stand still from then on, and an event must go on costing the same.
Both are told per million events; compared are the first whole million after two days and the last one.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from benchmarks.hot_path import STAGES, Loop
from benchmarks.rig import resident_of
from benchmarks.workload import Options, make

PORTION = 100_000  # Made at a time; those of one portion came within its part of the clock's time.
PER_LINE = 1_000_000
DAY_S = 86_400
GROWTH_MAX = 1.05  # Of memory, from one million to another; allocators are not exact.
COST_MAX = 1.15


def main() -> int:
    """Measure and show; 1 if memory or cost have grown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=10_000_000)
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rate", type=float, default=15.0, help="events per second of the clock that is played")
    chosen = options.parse_args()
    console = Console()
    shape = Options(PORTION, chosen.balances, chosen.partitions)
    loop = Loop(shape, routine_interval_s=0.25)
    loop.run(make(replace(shape, events=0), loop.wall_us()).openings, 50_000, 1)
    lines: list[tuple[int, float, float]] = []  # events, MB, microseconds per event
    told, spent, start_s = 0, sum(loop.spent.values()), loop.now
    first_line = 1
    for number in track(range(chosen.events // PORTION), "events", console=console, transient=True):
        portion = replace(shape, seed=number, first=number * PORTION)
        told += loop.run(make(portion, loop.wall_us()).events, chosen.rate, 1)
        if told % PER_LINE:
            continue
        gc.collect()
        now = sum(loop.spent[stage] for stage in STAGES)
        lines.append((told, resident_of(os.getpid()) / 1e6, (now - spent) / PER_LINE * 1e6))
        spent, days = now, (loop.now - start_s) / DAY_S
        if days < 2:
            first_line = len(lines) + 1
        console.print(f"{told:12,} events, day {days:5.1f}: {lines[-1][1]:7.1f} MB, {lines[-1][2]:5.1f} us/event")
    if first_line >= len(lines) - 1:
        console.print("[red]too few events: they must go on for millions after the second day[/red]")
        return 2
    (_, early_mb, early_us), (_, late_mb, late_us) = lines[first_line], lines[-1]
    growth, cost = late_mb / early_mb, late_us / early_us
    console.print(
        f"memory {growth:.3f} times (at most {GROWTH_MAX}), CPU per event {cost:.2f} times (at most {COST_MAX})"
    )
    return 0 if growth <= GROWTH_MAX and cost <= COST_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
