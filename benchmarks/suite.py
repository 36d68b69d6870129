"""Everything that is compared, in one invocation, into one file: `make bench-quick` (3 minutes) and `make bench`.

Programs take turns, round by round, on the same servers and the same events; a figure is a ratio of medians with an
interval over the rounds (`figures.py`). What could not be measured is marked as skipped, with the reason. A program
whose result is wrong has no figure.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks import figures, latency, memory, redis_writes, restore, scaling, workloads
from benchmarks.figures import LATEST, Report
from benchmarks.latency import Latency
from benchmarks.peers import environments
from benchmarks.peers.programs import PEERS, PeerFailed, run_peer
from benchmarks.rig import Servers, WrongResult, add_place, drop_topics, make_topics, servers
from benchmarks.throughput import CONFLATING, FLOOR, STOCKFLOW, Result, run_floor, run_stockflow
from benchmarks.workload import Options, Workload, make
from stockflow.embedded import RedisServer

RESULTS = Path("benchmarks/results")
PARTITIONS = 12
LINGER_MS = 5
STREAMS, ROCKSDB, FLINK, BYTEWAX, QUIX, FAUST = PEERS
SPREAD = "stockflow, a process per core"
VERSUS = {  # Figures of throughput, by the program that stockflow is compared with.
    FLOOR: "throughput_vs_floor",
    CONFLATING: "throughput_vs_conflating_floor",
    STREAMS: "throughput_vs_kafka_streams",
    ROCKSDB: "throughput_vs_kafka_streams_rocksdb",
    FLINK: "throughput_vs_flink",
    BYTEWAX: "throughput_vs_stock_bytewax",
    QUIX: "throughput_vs_quix",
    FAUST: "throughput_vs_faust",
}
COMPARED = {  # Figures of latency: seen where, at which quantile, compared with whom.
    "p50_vs_floor": ("kafka", "p50", FLOOR),
    "p99_vs_floor": ("kafka", "p99", FLOOR),
    "p999_vs_floor": ("kafka", "p99.9", FLOOR),
    "p50_redis_vs_floor": ("redis", "p50", FLOOR),
    "p99_redis_vs_floor": ("redis", "p99", FLOOR),
    "p999_redis_vs_floor": ("redis", "p99.9", FLOOR),
    "p50_vs_kafka_streams": ("kafka", "p50", STREAMS),
    "p99_vs_kafka_streams": ("kafka", "p99", STREAMS),
    "p999_vs_kafka_streams": ("kafka", "p99.9", STREAMS),
}
LATENCIES = tuple(name for name, (_, _, other) in COMPARED.items() if other == FLOOR)
HALF = "_half_of_maximum"
LOADS = {  # What is added to the names of the figures, and the options of `benchmarks.latency`.
    "": ["--rate", "1000"],
    "_5800": ["--rate", "5800"],
    HALF: [],
    "_flash_sale": ["--rate", "290", "--burst-every", "0", "--flash-seconds", "5", "--flash-times", "20"],
}
BESIDE_STREAMS = ("", "_5800")  # Loads at which Kafka Streams takes its turn, too.
SPREAD_FIGURES = {"throughput_all_cores_vs_floor": FLOOR, "throughput_all_cores_vs_one_process": STOCKFLOW}
BOTH = (FLOOR, STOCKFLOW)
RESTORE, TAKEOVER, MEMORY = "restore_vs_bare", "takeover_vs_bare", "bytes_per_balance"
REDIS = "redis_writes_vs_redis_benchmark"


@dataclass(frozen=True)
class Size:
    """How much of everything: events are those of the fast programs, peers get their share of them."""

    name: str
    programs: tuple[str, ...]
    events: int
    balances: int
    warm_up: int
    rounds: int
    loads: tuple[str, ...]
    latency_s: float
    latency_warm_up_s: float
    latency_rounds: int
    restore_balances: int
    restore_rounds: int
    takeover_rounds: int
    redis_rounds: int
    memory_balances: int
    memory_rounds: int
    variant_rounds: int


QUICK = Size(
    name="quick",
    programs=(FLOOR, STOCKFLOW, STREAMS, BYTEWAX, QUIX),
    events=120_000,
    balances=10_000,
    warm_up=60_000,
    rounds=2,
    loads=("",),
    latency_s=6,
    latency_warm_up_s=4,
    latency_rounds=1,
    restore_balances=100_000,
    restore_rounds=1,
    takeover_rounds=0,
    redis_rounds=3,
    memory_balances=200_000,
    memory_rounds=1,
    variant_rounds=0,
)
FULL = Size(
    name="full",
    programs=(FLOOR, CONFLATING, STOCKFLOW, SPREAD, *PEERS),
    events=400_000,
    balances=20_000,
    warm_up=200_000,
    rounds=5,
    loads=tuple(LOADS),
    latency_s=20,
    latency_warm_up_s=15,
    latency_rounds=5,
    restore_balances=1_000_000,
    restore_rounds=5,
    takeover_rounds=5,
    redis_rounds=5,
    memory_balances=1_000_000,
    memory_rounds=5,
    variant_rounds=5,
)


def throughput(where: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """All rounds of all programs, then the figures."""
    rounds: list[dict[str, float]] = []
    programs = list(size.programs)
    for name, figure in VERSUS.items():
        if name not in programs:
            report.skip(f"not part of the {size.name} run", figure)
    if SPREAD not in programs:
        report.skip(f"not part of the {size.name} run", *SPREAD_FIGURES)
    for number in range(size.rounds):
        rates: dict[str, float] = {}
        for name in tuple(programs) if number % 2 == 0 else tuple(reversed(programs)):
            try:
                result = _turn(where, size, name, number, folder, calm_s)
            except (environments.PeerUnavailable, PeerFailed, TimeoutError, WrongResult) as error:
                if name not in PEERS:
                    raise
                programs.remove(name)
                report.skip(f"{type(error).__name__}: {error}", VERSUS[name])
                console.print(f"{name} is left out: {error}", style="yellow", soft_wrap=True)
                continue
            rates[name] = result.per_second
            report.raw.setdefault("throughput", []).append({"round": number, **asdict(result)})
            console.print(
                f"round {number + 1} {name:24} {result.per_second:9,.0f} events/s, CPU us/event {result.cpu_us:.1f}, "
                f"{result.resident_mb:,.0f} MB; others used {result.others:.0%} of the machine",
                soft_wrap=True,
            )
        rounds.append(rates)
    for name, figure in VERSUS.items():
        if name in programs:
            report.figures[figure] = figures.ratio(rounds, STOCKFLOW, name)
    for figure, other in SPREAD_FIGURES.items():
        if SPREAD in programs:
            report.figures[figure] = figures.ratio(rounds, SPREAD, other)


def _turn(where: Servers, size: Size, name: str, number: int, folder: Path, calm_s: float) -> Result:
    """One program's turn on fresh topics with the round's events."""
    shape = Options(size.events, size.balances, PARTITIONS, seed=number + 1)
    peer = PEERS.get(name)
    if peer is not None:
        environments.ensure(peer.environment)
        warm_up = size.warm_up if peer.warms_up else 0
        shape = replace(shape, events=int(size.events * peer.share), warm_up=warm_up)
    workload = make(shape, time.time_ns() // 1000)
    prefix = f"suite-{os.getpid()}-{number}-{len(name)}{name[0]}-"
    settings = {"STOCKFLOW_LINGER_MS": str(LINGER_MS)}
    make_topics(where, prefix, PARTITIONS)
    try:
        if peer is not None:
            return run_peer(peer, where, prefix, workload, shape, LINGER_MS, folder, calm_s)
        if name == SPREAD:
            return _spread(where, prefix, workload, shape, settings, folder, calm_s)
        if name == STOCKFLOW:
            return run_stockflow(where, prefix, workload, shape, settings, folder, calm_s)
        return run_floor(where, prefix, workload, shape, LINGER_MS, calm_s, conflates=name == CONFLATING)
    finally:
        drop_topics(where, prefix)


def _spread(
    where: Servers,
    prefix: str,
    workload: Workload,
    shape: Options,
    settings: dict[str, str],
    folder: Path,
    calm_s: float,
) -> Result:
    """One turn of a group with as many processes as the machine has cores: how stockflow uses all of them."""
    found = scaling.measure(where, os.cpu_count() or 1, workload, shape, None, prefix, folder, calm_s, settings)
    return Result(
        SPREAD,
        found.events,
        found.seconds,
        found.per_second,
        found.per_second,
        found.cpu_us,
        0.0,
        found.servers_cpu_us,
        0.0,
        found.records,
        found.record_bytes,
        found.state_records,
        found.resident_mb,
    )


def latencies(where: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """Rounds of each load: floor, stockflow, and at some Kafka Streams."""
    loads = {name: arguments for name, arguments in LOADS.items() if name in size.loads}
    if HALF in loads:
        rates = [one["per_second"] for one in report.raw.get("throughput", []) if one["program"] == STOCKFLOW]
        if rates:
            loads[HALF] = ["--rate", str(median(rates) / 2), "--burst-every", "0"]  # type: ignore[type-var, operator]
        else:
            del loads[HALF]
            report.skip("the maximum was not measured in this run", *figures_of(HALF))
    for name in LOADS:
        if name not in size.loads:
            report.skip(f"not part of the {size.name} run", *figures_of(name))
    common = ["--seconds", str(size.latency_s), "--balances", str(size.balances), "--peer-warm-up", str(size.warm_up)]
    common += ["--warm-up", str(size.latency_warm_up_s), "--folder", str(folder), "--calm", str(calm_s)]
    turns = [(name, program) for name in loads for program in ((*BOTH, STREAMS) if name in BESIDE_STREAMS else BOTH)]
    rounds: list[dict[tuple[str, str], Latency]] = []
    for number in range(size.latency_rounds):
        one: dict[tuple[str, str], Latency] = {}
        for turn in tuple(turns) if number % 2 == 0 else tuple(reversed(turns)):
            name, program = turn
            options = latency.parser().parse_args([*common, *loads[name]])
            try:
                one[turn] = found = _latency(where, program, options, f"{number}{name}", console)
            except (environments.PeerUnavailable, PeerFailed, TimeoutError, latency.Refused) as error:
                if not isinstance(error, latency.Refused) and program not in PEERS:
                    raise
                report.skip(f"{type(error).__name__}: {error}", *figures_of(name, program))
                console.print(f"latency of {program} is left out: {error}", style="yellow", soft_wrap=True)
                if program in PEERS:
                    turns.remove(turn)
                continue
            report.raw.setdefault("latency", []).append({"round": number, "load": name or "_1000", **found.plain()})
            report.events += [(name or "_1000", number, program, *event) for event in found.events]
            console.print(f"round {number + 1}{name} {latency.line(found)}", soft_wrap=True)
        rounds.append(one)
    for name in loads:
        for figure, (seen, quantile, other) in COMPARED.items():
            ours, theirs = (name, STOCKFLOW), (name, other)
            values = [
                {program: getattr(one[name, program], seen)[quantile] for program in (STOCKFLOW, other)}
                for one in rounds
                if ours in one and theirs in one
            ]
            if values:
                report.figures[figure + name] = figures.ratio(values, STOCKFLOW, other)


def figures_of(load: str, program: str = STOCKFLOW) -> list[str]:
    """The figures of a load that need this program; all of them need stockflow."""
    compared = COMPARED if load in BESIDE_STREAMS else LATENCIES
    return [figure + load for figure in compared if program in (STOCKFLOW, COMPARED[figure][2])]


def variants(where: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """Rounds of stockflow under other conditions, beside itself as it is."""
    if not size.variant_rounds:
        report.skip(f"not part of the {size.name} run", *(one.figure for one in workloads.VARIANTS))
        return
    shape = Options(size.events, size.balances, PARTITIONS)
    rounds = workloads.measure(where, shape, size.variant_rounds, folder, calm_s, console, report)
    for variant in workloads.VARIANTS:
        report.figures[variant.figure] = figures.ratio(rounds, variant.figure, workloads.DEFAULT)


def _latency(where: Servers, program: str, options: argparse.Namespace, turn: str, console: Console) -> Latency:
    """One turn, once more if the first was refused."""
    try:
        return latency.measure(where, program, latency.load_of(options), options, turn)
    except latency.Refused as error:
        console.print(f"again: {error}", style="yellow", soft_wrap=True)
        return latency.measure(where, program, latency.load_of(options), options, f"{turn}-again")


def restores(where: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """Rounds of restarts and of the bare loop, then the same of takeovers."""
    for figure, run, count in (
        (RESTORE, restore.measure, size.restore_rounds),
        (TAKEOVER, restore.measure_takeovers, size.takeover_rounds),
    ):
        if not count:
            report.skip(f"not part of the {size.name} run", figure)
            continue
        rounds = run(where, size.restore_balances, PARTITIONS, count, folder, calm_s, console)
        for number, one in enumerate(rounds):
            for program, found in one.items():
                report.raw.setdefault(figure, []).append({"round": number, "program": program, **found})
        seconds = [{program: found["seconds"] for program, found in one.items()} for one in rounds]
        report.figures[figure] = figures.ratio(seconds, restore.STOCKFLOW, restore.BARE)


def redis_view(_: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """Rounds of the view's writes and of the server's own benchmark program, on a server of their own."""
    try:
        program = redis_writes.reference_program()
        with RedisServer() as server:
            rounds = redis_writes.measure(server, program, redis_writes.RECORDS, size.redis_rounds, calm_s)
    except redis_writes.NothingToCompareWith as error:
        report.skip(str(error), REDIS)
        return
    report.raw["redis_writes"] = list(rounds)
    report.figures[REDIS] = figures.ratio(rounds, redis_writes.VIEW, redis_writes.REFERENCE)
    rates = {name: median(one[name] for one in rounds) for name in (redis_writes.VIEW, redis_writes.REFERENCE)}
    console.print("Redis: " + ", ".join(f"{name} {rate:,.0f} records/s" for name, rate in rates.items()))


def memories(_: Servers, size: Size, report: Report, folder: Path, calm_s: float, console: Console) -> None:
    """Bytes of an idle balance, each time in a fresh process."""
    if not Path("/proc/self/status").exists():
        report.skip("resident memory is read from the proc file system, which only Linux has", MEMORY)
        return
    found = [
        memory.in_own_process("idle", size.memory_balances, 0, PARTITIONS)["bytes"] for _ in range(size.memory_rounds)
    ]
    console.print(f"{median(found):.0f} bytes per idle balance at {size.memory_balances:,}")
    report.raw["memory"] = [{"bytes": bytes_} for bytes_ in found]
    report.figures[MEMORY] = figures.middle(found)


PARTS: dict[str, Callable[[Servers, Size, Report, Path, float, Console], None]] = {
    "throughput": throughput,
    "latency": latencies,
    "restore": restores,
    "redis": redis_view,
    "memory": memories,
    "variants": variants,
}
FIGURES = {
    "throughput": (*VERSUS.values(), *SPREAD_FIGURES),
    "latency": tuple(figure for load in LOADS for figure in figures_of(load)),
    "restore": (RESTORE, TAKEOVER),
    "redis": (REDIS,),
    "memory": (MEMORY,),
    "variants": tuple(one.figure for one in workloads.VARIANTS),
}


def measure(
    size: Size,
    parts: tuple[str, ...],
    folder: Path,
    calm_s: float,
    console: Console,
    results: Path,
    bootstrap: str | None = None,
    redis_url: str | None = None,
) -> Report:
    """Run the parts and write their figures after each; those of other parts are marked as skipped."""
    begin = time.monotonic()
    with servers(folder, bootstrap, redis_url) as where:
        report = Report(
            {
                "size": asdict(size),
                "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "servers": where.description,
                "broker_settings": dict(where.settings),
                "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
                "load_before": os.getloadavg()[0],
            }
        )
        console.print("broker: " + ", ".join(f"{name}={value}" for name, value in where.settings.items()), style="dim")
        console.print(f"{where.description}; {report.about['machine']}; load {os.getloadavg()[0]:.1f}")
        for name in PARTS:
            report.skip("not measured yet" if name in parts else "not asked for", *FIGURES[name])
        for name, run in PARTS.items():
            if name in parts:
                run(where, size, report, folder, calm_s, console)
                report.about["seconds"] = round(time.monotonic() - begin, 1)
                report.write(results)
    return report


def show(report: Report, console: Console) -> None:
    """The figures as a table."""
    table = Table(title="stockflow compared, medians (95 % interval over rounds)")
    for title in ("figure", "value", "interval"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for name, figure in report.figures.items():
        table.add_row(name, f"{figure['value']:,.2f}", f"{figure['low']:,.2f} - {figure['high']:,.2f}")
    for name, reason in report.skipped.items():
        if name in report.figures:
            continue
        table.add_row(name, "skipped", reason.split("\n", 1)[0][:60], style="dim")
    console.print(table)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="3 minutes instead of everything")
    options.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder for latest.json")
    add_place(options)
    return options


def main() -> int:
    """Measure, show, write."""
    options = parser().parse_args()
    console = Console()
    size = QUICK if options.quick else FULL
    parts = tuple(options.only or PARTS)
    place = (options.bootstrap, options.redis_url)
    report = measure(size, parts, options.folder, options.calm, console, options.results, *place)
    show(report, console)
    console.print(f"written to {options.results / LATEST}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
