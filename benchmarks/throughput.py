"""Throughput of `stockflow run` against the floor, in turns on the same servers, events and machine.

What is timed: both programs are up, have taken in the openings and wait. The events lie in the log, inside a
transaction; committing it makes all of them readable at once, and that moment is the start. The floor is done when
the last record has been acknowledged and written to Redis. stockflow is done when its group has committed every
event (so balances are durable, and records acknowledged) and nothing waits for Redis any more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median as middle

from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table

from benchmarks.floor import TOPIC as FLOOR_TOPIC
from benchmarks.rig import (
    CpuClock,
    FloorRun,
    Loader,
    Servers,
    StockflowRun,
    add_place,
    add_shape,
    check_redis,
    check_topic,
    drop_topics,
    empty_redis,
    make_topics,
    records_on,
    servers,
    wait_for_calm,
)
from benchmarks.workload import Options, Workload, make
from schemas.topics import AVAILABILITY, STOCK_STATE
from stockflow.embedded.process import LOOPBACK, free_port

BAR = 0.60  # The share of the floor's throughput that all guarantees together may leave.
FLOOR, CONFLATING, STOCKFLOW = PROGRAMS = ("floor", "conflating floor", "stockflow")
PROFILER_START_S = 1.0
MIDDLE = (0.10, 0.90)  # Between these shares of the events a rate is called sustained.


@dataclass(frozen=True)
class Result:
    """One program's turn. `sustained` leaves out how a run begins and how it ends.

    CPU is microseconds per event: of all threads, of the first one alone, which runs the loop, and of broker and
    Redis; `others` is the share of the machine that anything else took meanwhile. `records` are on the availability
    topic, `state_records` on the state topic, both without those of the openings; `resident_mb` is at the turn's end.
    """

    program: str
    events: int
    seconds: float
    per_second: float
    sustained: float
    cpu_us: float
    loop_cpu_us: float
    servers_cpu_us: float
    others: float
    records: int
    record_bytes: int
    state_records: int = 0
    resident_mb: float = 0.0


def run_floor(
    where: Servers, prefix: str, workload: Workload, shape: Options, linger_ms: int, calm_s: float, conflates: bool
) -> Result:
    """One turn of the floor on the events that wait behind a prefix."""
    empty_redis(where)
    openings = workload.expected.keys + shape.warm_up
    loader = _loaded(where, prefix, workload)
    program = FloorRun(where, prefix, shape.partitions, openings, shape.events, linger_ms, conflates)
    try:
        program.heard("ready")
        wait_for_calm(calm_s)
        before = records_on(AdminClient({"bootstrap.servers": where.bootstrap}), prefix + FLOOR_TOPIC, shape.partitions)
        clock = CpuClock(program.pid, where)
        begin = loader.release()
        seconds = program.heard("done")["done"] - begin
        clock.stop()
    finally:
        program.close()
    records, size = check_topic(where, prefix + FLOOR_TOPIC, workload.expected)
    check_redis(where, workload.expected, hashes=False)
    rate = shape.events / seconds
    name = CONFLATING if conflates else FLOOR
    cpu = clock.us_per(shape.events)
    memory = clock.resident_bytes / 1e6
    return Result(
        name, shape.events, seconds, rate, rate, *cpu, clock.others, records - before, size, resident_mb=memory
    )


def run_stockflow(
    where: Servers,
    prefix: str,
    workload: Workload,
    shape: Options,
    settings: dict[str, str],
    folder: Path,
    calm_s: float,
    py_spy: str | None = None,
    view: bool = True,
) -> Result:
    """One turn of `stockflow run` on the events that wait behind a prefix; with `py_spy` (its command) profiled.

    Without `view` it finds no Redis at its address.
    """
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    seen_by_it = where if view else replace(where, redis_url=f"redis://{LOOPBACK}:{free_port()}/0")
    program = StockflowRun(seen_by_it, prefix, settings, folder)
    try:
        program.start()
        program.wait_committed(dict(loader.positions))
        if view:
            program.wait_visible()
        before = dict(loader.positions)
        loader.hold_back(workload.events)
        already = sum(before.values())
        wait_for_calm(calm_s)
        sent_before = program.records_sent()
        clock = CpuClock(program.pid, where)
        seen: list[tuple[float, int]] = []
        profiler = None if py_spy is None else _profiler(py_spy, program.pid, folder)
        begin = loader.release()
        committed_at = program.wait_committed(loader.positions, lambda at, count: seen.append((at, count - already)))
        visible_at = program.wait_visible() if view else committed_at
        clock.stop()
        sent = program.records_sent()
        if profiler is not None:
            profiler.send_signal(signal.SIGINT)  # It writes what it has seen.
            profiler.wait(60)
        program.stop()
    finally:
        program.close()
    _, size = check_topic(where, prefix + AVAILABILITY.name, workload.expected)
    if view:
        check_redis(where, workload.expected, hashes=True)
    seconds = max(committed_at, visible_at) - begin
    return Result(
        STOCKFLOW,
        shape.events,
        seconds,
        shape.events / seconds,
        _sustained(seen, shape.events),
        *clock.us_per(shape.events),
        clock.others,
        sent[AVAILABILITY.name] - sent_before[AVAILABILITY.name],
        size,
        sent[STOCK_STATE.name] - sent_before[STOCK_STATE.name],
        clock.resident_bytes / 1e6,
    )


def _profiler(py_spy: str, pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Samples the stacks of all threads that hold the interpreter, in py-spy's raw format."""
    written = folder / f"profile-{pid}.txt"
    command = [py_spy, "record", "--pid", str(pid), "--format", "raw", "--rate", "200", "--output", str(written)]
    process = subprocess.Popen([*command, "--threads", "--gil"], stdin=subprocess.DEVNULL)
    time.sleep(PROFILER_START_S)
    return process


def _loaded(where: Servers, prefix: str, workload: Workload) -> Loader:
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    loader.hold_back(workload.events)
    return loader


def _sustained(seen: list[tuple[float, int]], events: int) -> float:
    """Committed events per second between the first look past 10 % and the last one before 90 %."""
    inside = [(at, count) for at, count in seen if MIDDLE[0] * events <= count <= MIDDLE[1] * events]
    if len(inside) < 2 or inside[-1][1] == inside[0][1]:
        return 0.0
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def measure(options: argparse.Namespace, console: Console) -> dict[str, object]:
    """All rounds; the report as plain values."""
    shape = Options(options.events, options.balances, options.partitions, options.seed, options.skew)
    settings = {
        "STOCKFLOW_LINGER_MS": str(options.linger_ms),
        "STOCKFLOW_ROUTINE_INTERVAL_MS": str(options.routine_interval_ms),
        **dict(pair.split("=", 1) for pair in options.set),
    }
    results: list[Result] = []
    with servers(options.folder, options.bootstrap, options.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(options.rounds):
            workload = make(shape, time.time_ns() // 1000)
            for program in PROGRAMS if number % 2 == 0 else PROGRAMS[::-1]:
                if options.only not in (None, program):
                    continue
                for attempt in range(options.tries):
                    prefix = f"bench-{os.getpid()}-{number}-{attempt}-{program.replace(' ', '-')}-"
                    make_topics(where, prefix, shape.partitions)
                    if program == STOCKFLOW:
                        result = run_stockflow(
                            where, prefix, workload, shape, settings, options.folder, options.calm, options.py_spy
                        )
                    else:
                        conflates = program == CONFLATING
                        result = run_floor(where, prefix, workload, shape, options.linger_ms, options.calm, conflates)
                    drop_topics(where, prefix)
                    console.print(f"round {number + 1} {_line(result)}", soft_wrap=True)
                    if result.others <= options.others_max:
                        break
                results.append(result)
        description = where.description
    return {
        "servers": description,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "event_bytes": workload.event_bytes,
        "shape": asdict(shape),
        "settings": settings,
        "results": [asdict(result) for result in results],
    }


def _line(result: Result) -> str:
    return (
        f"{result.program:16} {result.per_second:9,.0f} events/s (sustained {result.sustained:9,.0f}), "
        f"CPU us/event {result.cpu_us:.1f} (loop {result.loop_cpu_us:.1f}, servers {result.servers_cpu_us:.1f}), "
        f"{result.records:,} records of {result.record_bytes} B, {result.state_records:,} of state; "
        f"others used {result.others:.0%} of the machine"
    )


def show(results: list[Result], console: Console) -> float | None:
    """Print medians; the ratio of stockflow to the floor, None if one of them did not run."""
    table = Table(title="Throughput, median of rounds (lowest - highest)")
    for title in (
        "program",
        "events/s",
        "sustained events/s",
        "CPU us/event (loop)",
        "records/event",
        "state records/event",
        "others",
    ):
        table.add_column(title, justify="left" if title == "program" else "right")
    medians: dict[str, float] = {}
    for program in PROGRAMS:
        mine = [result for result in results if result.program == program]
        if not mine:
            continue
        rates = sorted(r.per_second for r in mine)
        medians[program] = middle(rates)
        table.add_row(
            program,
            f"{medians[program]:,.0f} ({rates[0]:,.0f} - {rates[-1]:,.0f})",
            f"{middle(r.sustained for r in mine):,.0f}",
            f"{middle(r.cpu_us for r in mine):.1f} ({middle(r.loop_cpu_us for r in mine):.1f}, "
            f"{middle(r.servers_cpu_us for r in mine):.1f})",
            f"{middle(r.records / r.events for r in mine):.2f}",
            f"{middle(r.state_records / r.events for r in mine):.2f}",
            f"{middle(r.others for r in mine):.0%}",
        )
    console.print(table)
    if STOCKFLOW not in medians or FLOOR not in medians:
        return None
    ratio = medians[STOCKFLOW] / medians[FLOOR]
    console.print(f"stockflow does {ratio:.0%} of the floor; the bar is {BAR:.0%}")
    if CONFLATING in medians:
        console.print(f"... and {medians[STOCKFLOW] / medians[CONFLATING]:.0%} of a floor that conflates as it does")
    return ratio


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(options, events=400_000, rounds=3)
    options.add_argument("--skew", type=float, default=0.0, help="0: all SKUs sell alike; 1: Zipf")
    options.add_argument("--linger-ms", type=int, default=5, help="of both programs' producers")
    options.add_argument("--routine-interval-ms", type=int, default=250)
    options.add_argument("--others-max", type=float, default=1.0, help="share of the machine; more: try once more")
    options.add_argument("--tries", type=int, default=1, help="how often at most, for --others-max")
    options.add_argument("--set", action="append", default=[], metavar="STOCKFLOW_NAME=VALUE")
    options.add_argument("--only", choices=PROGRAMS)
    options.add_argument("--py-spy", metavar="COMMAND", help="sample stockflow's stacks with this py-spy")
    add_place(options)
    return options


def main() -> int:
    """Measure, show, write; 1 if the bar is missed."""
    options = parser().parse_args()
    console = Console()
    report = measure(options, console)
    results = [Result(**result) for result in report["results"]]  # type: ignore[attr-defined]
    ratio = show(results, console)
    report["ratio"] = ratio
    written = options.folder / f"throughput-{time.strftime('%Y%m%dT%H%M%S')}.json"
    written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 1 if ratio is not None and ratio < BAR else 0


if __name__ == "__main__":
    sys.exit(main())
