"""stockflow under other conditions, in turns with itself as it is: what each of them costs, or saves.

The rate of each turn is compared with that of the default in the same round. All turns are checked as in `throughput`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from benchmarks.figures import Report
from benchmarks.poison import check_letters, spoiled
from benchmarks.rig import (
    CpuClock,
    Loader,
    Servers,
    StockflowRun,
    check_redis,
    check_topic,
    drop_topics,
    empty_redis,
    make_topics,
    take_in,
    wait_for_calm,
)
from benchmarks.throughput import Result, run_stockflow
from benchmarks.workload import Options, Workload, make
from schemas.topics import AVAILABILITY

DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One condition that differs from the default. `figure` names it in the results."""

    figure: str
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    balances: int | None = None
    partitions: int | None = None
    view: bool = True
    spoiled: bool = False
    outage: bool = False


VARIANTS = (
    Variant("throughput_interval_0_vs_250", {"STOCKFLOW_ROUTINE_INTERVAL_MS": "0"}),
    Variant("throughput_without_redis_vs_with", view=False),
    Variant("throughput_4_partitions_vs_12", partitions=4),
    Variant("throughput_64_partitions_vs_12", partitions=64),
    Variant("throughput_10k_balances_vs_default", balances=10_000),
    Variant("throughput_1m_balances_vs_default", balances=1_000_000),
    Variant("throughput_1_percent_spoiled_vs_clean", spoiled=True),
    Variant("catch_up_after_outage_vs_throughput", outage=True),
)


def measure(
    where: Servers, shape: Options, rounds: int, folder: Path, calm_s: float, console: Console, report: Report
) -> list[dict[str, float]]:
    """Events per second by figure, and of the default, for each round; single results go to the report."""
    found = []
    for number in range(rounds):
        turns = (Variant(DEFAULT), *VARIANTS)
        rates = {}
        for variant in turns if number % 2 == 0 else turns[::-1]:
            result = turn(where, variant, replace(shape, seed=number + 1), number, folder, calm_s)
            rates[variant.figure] = result.per_second
            report.raw.setdefault("variants", []).append({"round": number, **asdict(result)})
            console.print(
                f"round {number + 1} {variant.figure:40} {result.per_second:9,.0f} events/s, CPU us/event "
                f"{result.cpu_us:.1f}; others used {result.others:.0%}",
                soft_wrap=True,
            )
        found.append(rates)
    return found


def turn(where: Servers, variant: Variant, shape: Options, number: int, folder: Path, calm_s: float) -> Result:
    """One turn under one condition, on fresh topics."""
    shape = replace(
        shape, balances=variant.balances or shape.balances, partitions=variant.partitions or shape.partitions
    )
    workload, letters = make(shape, time.time_ns() // 1000), 0
    if variant.spoiled:
        events, letters = spoiled(workload.events)
        workload = replace(workload, events=events)
        shape = replace(shape, events=shape.events + letters)
    prefix = f"variant-{os.getpid()}-{number}-{variant.figure.replace('_', '-')}-"
    make_topics(where, prefix, shape.partitions)
    try:
        if variant.outage:
            result = catch_up(where, prefix, workload, shape, folder, calm_s)
        else:
            settings = dict(variant.settings)
            result = run_stockflow(where, prefix, workload, shape, settings, folder, calm_s, view=variant.view)
        if letters:
            check_letters(where, prefix, letters)
    finally:
        drop_topics(where, prefix)
    return replace(result, program=variant.figure)


def catch_up(where: Servers, prefix: str, workload: Workload, shape: Options, folder: Path, calm_s: float) -> Result:
    """All events came while stockflow was down; timed from the start of its process until it has caught up.

    Its CPU counts from when it was ready.
    """
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    take_in(where, prefix, loader.positions, folder)
    loader.load(workload.events)
    program = StockflowRun(where, prefix, {}, folder)
    try:
        wait_for_calm(calm_s)
        begin = time.monotonic()
        program.start()
        clock = CpuClock(program.pid, where)
        program.wait_committed(loader.positions)
        seconds = program.wait_visible() - begin
        clock.stop()
        records = program.records_sent()[AVAILABILITY.name]
        program.stop()
    finally:
        program.close()
    _, size = check_topic(where, prefix + AVAILABILITY.name, workload.expected)
    check_redis(where, workload.expected, hashes=True)
    rate = shape.events / seconds
    memory = clock.resident_bytes / 1e6
    cpu = clock.us_per(shape.events)
    return Result(DEFAULT, shape.events, seconds, rate, rate, *cpu, clock.others, records, size, resident_mb=memory)
