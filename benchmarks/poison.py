"""Throughput of `stockflow run` with one record in a hundred spoiled, against the same events clean, in turns.

Timed and checked like in `benchmarks.throughput`: every good event counts, and every spoiled one must stand in the
dead letters. The rates are of all records, spoiled ones included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.rig import Servers, WrongResult, add_place, add_shape, drop_topics, make_topics, read_all, servers
from benchmarks.throughput import Result, run_stockflow
from benchmarks.workload import Batches, Options, Workload, make
from schemas.topics import DEAD_LETTERS

BAR = 0.90  # The share of the clean throughput that must be left.
EACH = 100  # One record in so many is spoiled.
CLEAN, SPOILED = PROGRAMS = ("clean", "1 % spoiled")

_SALE = (
    b'{"type":"pos.sale","id":"p","source":"pos/1","occurred_at":"2026-11-22T10:15:00.123Z",'
    b'"sku":"SKU-1","location":"S",'
)
POISON: tuple[tuple[str, bytes], ...] = (
    ("not_json", _SALE + b'"units":'),
    ("not_json", b"\xff\xfe\x00 this is no text"),
    ("empty", b""),
    ("missing_field", _SALE + b'"channel":"web"}'),
    ("bad_field", _SALE + b'"units":"two"}'),
    ("bad_field", _SALE + b'"units":0}'),
    ("unknown_type", _SALE.replace(b"pos.sale", b"pos.gift") + b'"units":1}'),
    ("wrong_topic", _SALE.replace(b"pos.sale", b"item.set") + b'"units":1}'),
    ("in_future", _SALE.replace(b"2026", b"2826") + b'"units":1}'),
    ("bad_field", _SALE.replace(b"SKU-1", b"SKU|1") + b'"units":1}'),
    ("limit", b'{"type":"pos.sale","references":' + b"[" * 3_000 + b"]" * 3_000 + b"}"),
    ("too_large", _SALE + b'"units":1,"reason":"' + b"x" * 66_000 + b'"}'),
)
LARGE_EACH = 10  # Of the last two kinds every so many only: nobody sends a giant each hundred records.


def spoiled(batches: Batches) -> tuple[Batches, int]:
    """The same events with spoiled ones in between, and how many these are."""
    found: Batches = {}
    count = 0
    for place, messages in batches.items():
        mixed = found[place] = []
        for number, message in enumerate(messages, 1):
            mixed.append(message)
            if number % (EACH - 1) == 0:
                kinds = len(POISON) if count % LARGE_EACH == 0 else len(POISON) - 2
                mixed.append({"key": message["key"], "value": POISON[(count * 7) % kinds][1]})
                count += 1
    return found, count


def check_letters(where: Servers, prefix: str, expected: int) -> None:
    """Every spoiled record is a dead letter.

    Raises:
        WrongResult: one is missing or there more than once.
    """
    found = sum(1 for _ in read_all(where, prefix + DEAD_LETTERS.name))
    if found != expected:
        raise WrongResult(f"{found} dead letters, expected {expected}")


def measure(options: argparse.Namespace, console: Console) -> dict[str, list[Result]]:
    """All rounds, by program."""
    shape = Options(options.events, options.balances, options.partitions, options.seed)
    results: dict[str, list[Result]] = {program: [] for program in PROGRAMS}
    with servers(options.folder, options.bootstrap, options.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(options.rounds):
            workload = make(shape, time.time_ns() // 1000)
            for program in PROGRAMS if number % 2 == 0 else PROGRAMS[::-1]:
                count, given = 0, workload
                if program == SPOILED:
                    events, count = spoiled(workload.events)
                    given = Workload(workload.openings, events, workload.expected, workload.event_bytes)
                prefix = f"poison-{os.getpid()}-{number}-{PROGRAMS.index(program)}-"
                make_topics(where, prefix, shape.partitions)
                whole = replace(shape, events=shape.events + count)
                result = replace(
                    run_stockflow(where, prefix, given, whole, {}, options.folder, options.calm), program=program
                )
                check_letters(where, prefix, count)
                drop_topics(where, prefix)
                results[program].append(result)
                console.print(
                    f"round {number + 1} {program:12} {result.per_second:9,.0f} records/s, CPU us/record "
                    f"{result.cpu_us:.1f} (loop {result.loop_cpu_us:.1f}); others used {result.others:.0%}",
                    soft_wrap=True,
                )
    return results


def show(results: dict[str, list[Result]], console: Console) -> float:
    """Print medians; the share of the clean throughput that is left."""
    table = Table(title="Throughput with spoiled records, median of rounds (lowest - highest)")
    for title in ("records", "records/s", "CPU us/record (loop)", "others"):
        table.add_column(title, justify="left" if title == "records" else "right")
    for program, mine in results.items():
        rates = sorted(result.per_second for result in mine)
        table.add_row(
            program,
            f"{median(rates):,.0f} ({rates[0]:,.0f} - {rates[-1]:,.0f})",
            f"{median(r.cpu_us for r in mine):.2f} ({median(r.loop_cpu_us for r in mine):.2f})",
            f"{median(r.others for r in mine):.0%}",
        )
    console.print(table)
    pairs = zip(results[CLEAN], results[SPOILED], strict=True)
    by_round = median(other.per_second / one.per_second for one, other in pairs)
    by_cpu = median(r.cpu_us for r in results[CLEAN]) / median(r.cpu_us for r in results[SPOILED])
    ratio = median(r.per_second for r in results[SPOILED]) / median(r.per_second for r in results[CLEAN])
    console.print(
        f"with 1 % spoiled {ratio:.1%} of the clean throughput are left (bar {BAR:.0%}); median over rounds "
        f"{by_round:.1%}, by CPU {by_cpu:.1%}"
    )
    return ratio


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(options, events=300_000, rounds=5)
    add_place(options)
    return options


def main() -> int:
    """Measure, show, write; 1 if the bar is missed."""
    options = parser().parse_args()
    console = Console()
    results = measure(options, console)
    ratio = show(results, console)
    written = options.folder / f"poison-{time.strftime('%Y%m%dT%H%M%S')}.json"
    report = {"ratio": ratio, "results": [asdict(result) for mine in results.values() for result in mine]}
    written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 1 if ratio < BAR else 0


if __name__ == "__main__":
    sys.exit(main())
