"""Latency at a given rate, open loop: event due -> availability read from Kafka, and -> visible in Redis.

Events fall due at fixed times whether or not the program keeps up, and a late one is not forgiven: latency counts from
the time it was due (`generator.py`, a process of its own). What answers an event, and what is not counted, stands in
`watching.py`. The routine interval is 0, so that nothing is held back on purpose. The first seconds are not counted (a
broker just started compiles its code). A run in which the generator itself was late by a tenth of what was measured is
refused. Redis is looked at for about a hundred of the events per second, once a millisecond.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median as middle

from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from benchmarks.floor import TOPIC as FLOOR_TOPIC
from benchmarks.generator import Generator, Load
from benchmarks.peers.programs import PEERS, PeerRun
from benchmarks.rig import (
    CpuClock,
    FloorRun,
    Loader,
    Servers,
    StockflowRun,
    add_place,
    drop_topics,
    empty_redis,
    make_topics,
    servers,
    wait_for_calm,
)
from benchmarks.watching import Answers, Due, RedisWatch, answering, dues
from benchmarks.workload import Options, Workload, make
from schemas.topics import AVAILABILITY

FLOOR, STOCKFLOW = "floor", "stockflow"
QUANTILES = (50.0, 90.0, 99.0, 99.9)
LEAST_SHARE = 0.5  # Of the events must be answered by a record, or the figures mean nothing.
LATE_SHARE = 0.1  # Of the measured 99th percentile the generator's own may be.
SETTLE_S = 1.0  # Before the first event, so that nobody is still starting.
LAST_ANSWER_S = 5.0
REDIS_RATE = 100  # Events per second that are looked for in Redis.
HISTOGRAM_US = (1, 600_000_000, 3)  # From, to, significant digits.


class Refused(Exception):
    """A run says nothing about the program, because the one who measured was too slow; the text has the numbers."""


@dataclass
class Latency:
    """One program's turn. Times are milliseconds by quantile (`p50` to `max`), from the time an event was due.

    `late` is by how much the generator sent too late, `looks` the time between two looks at Redis. `share` of the
    events were answered, `others` of the machine was used by other programs, and `generator_cores` of one core by the
    generator. `timeline` has, per second of due time, events, median and 99th percentile. `events` are due second,
    Kafka and Redis milliseconds of each event.
    """

    program: str
    kafka: dict[str, float]
    redis: dict[str, float]
    late: dict[str, float]
    looks: dict[str, float]
    share: float
    others: float
    cpu_us: float
    servers_cpu_us: float
    resident_mb: float
    timeline: list[dict[str, float]]
    histogram: str
    generator_cores: float
    events: list[tuple[float, float | None, float | None]] = field(repr=False, default_factory=list)

    def plain(self) -> dict[str, object]:
        """Everything but the single events."""
        return {name: value for name, value in asdict(self).items() if name != "events"}


def spread(milliseconds: Sequence[float]) -> tuple[dict[str, float], HdrHistogram]:
    """Quantiles and maximum, by HdrHistogram; empty without values."""
    histogram = HdrHistogram(*HISTOGRAM_US)
    for one in milliseconds:
        histogram.record_value(max(1, round(one * 1e3)))
    if not milliseconds:
        return {}, histogram
    found = {f"p{q:g}": histogram.get_value_at_percentile(q) / 1e3 for q in QUANTILES}
    return {**found, "max": max(milliseconds)}, histogram


def measure(where: Servers, program: str, load: Load, options: argparse.Namespace, turn: str) -> Latency:
    """One turn of one program.

    Raises:
        Refused: the generator was late, or hardly an event was answered.
    """
    due = load.due()
    peer = PEERS.get(program)
    warm_up = options.peer_warm_up if peer is not None and peer.warms_up else 0
    shape = Options(
        len(due), options.balances, options.partitions, skew=options.skew, warm_up=warm_up, hot=load.hot(due)
    )
    now_us = time.time_ns() // 1000
    workload = make(shape, now_us, ordered=True)
    prefix = f"latency-{os.getpid()}-{turn}-{program.replace(' ', '-').replace(',', '')}-"
    make_topics(where, prefix, shape.partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    generator = Generator(where, prefix, load, shape, now_us)
    output = AVAILABILITY.name if program == STOCKFLOW else FLOOR_TOPIC
    try:
        with _running(where, program, prefix, workload, shape, loader, options) as pid:
            found = _watched(where, program, prefix + output, workload, due, generator, pid, options)
    finally:
        generator.close()
        drop_topics(where, prefix)
    if not options.accept_late:
        accept(found)
    return found


def accept(found: Latency) -> None:
    """Nothing, if the figures are the program's.

    Raises:
        Refused: the generator was late, or hardly an event was answered.
    """
    late, measured = found.late["p99"], found.kafka["p99"]
    if found.share < LEAST_SHARE:
        raise Refused(f"{found.program}: only {found.share:.0%} of the events have a record")
    if late > LATE_SHARE * measured:
        raise Refused(f"{found.program}: the generator was {late:.1f} ms late (p99), {measured:.1f} ms were measured")


def _watched(
    where: Servers,
    program: str,
    topic: str,
    workload: Workload,
    times: list[float],
    generator: Generator,
    pid: int,
    options: argparse.Namespace,
) -> Latency:
    answers = Answers(where, topic, options.partitions)
    watch = None
    try:
        time.sleep(SETTLE_S)
        wait_for_calm(options.calm)
        clock = CpuClock(pid, where)
        begin = generator.begin()
        events = dues([value for *_, value in workload.sequence], times, begin)
        counted = [event for event in events if event.at >= begin + options.warm_up]
        if program in (FLOOR, STOCKFLOW):
            every = max(1, int(len(counted) / (times[-1] - options.warm_up) / REDIS_RATE))
            watch = RedisWatch(where, program == STOCKFLOW, counted[::every], answers)
        late, generator_cores = generator.finish()
        deadline = time.monotonic() + LAST_ANSWER_S
        while events[-1].id not in answers.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        clock.stop()
    finally:
        answers.close()
        if watch is not None:
            watch.close()
    by = {event.id: first for event, first in zip(events, answering(events, answers.seen), strict=True) if first}
    shown = {} if watch is None else watch.times({id: answers.versions[first] for id, first in by.items()})
    read = {id: answers.seen[first] for id, first in by.items()}
    return _latency(
        program,
        [(one, read.get(one.id), shown.get(one.id)) for one in counted],
        begin,
        late[len(events) - len(counted) :],
        [] if watch is None else watch.looks,
        clock,
        len(events),
        generator_cores,
    )


def _latency(
    program: str,
    counted: list[tuple[Due, float | None, float | None]],
    begin: float,
    late: Sequence[float],
    looks: Sequence[float],
    clock: CpuClock,
    events: int,
    generator_cores: float,
) -> Latency:
    rows = [
        (
            round(event.at - begin, 6),
            None if read is None else round((read - event.at) * 1e3, 3),
            None if shown is None else round((shown - event.at) * 1e3, 3),
        )
        for event, read, shown in counted
    ]
    kafka, histogram = spread([row[1] for row in rows if row[1] is not None])
    if not kafka:
        raise Refused(f"{program}: no event was answered")
    cpu_us, _, servers_cpu_us = clock.us_per(events)
    return Latency(
        program,
        kafka,
        spread([row[2] for row in rows if row[2] is not None])[0],
        spread([one * 1e3 for one in late])[0],
        spread([one * 1e3 for one in looks])[0],
        sum(row[1] is not None for row in rows) / len(rows),
        clock.others,
        cpu_us,
        servers_cpu_us,
        clock.resident_bytes / 1e6,
        timeline(rows),
        histogram.encode().decode(),
        generator_cores,
        rows,
    )


def timeline(rows: Sequence[tuple[float, float | None, float | None]]) -> list[dict[str, float]]:
    """Per second of due time: events, and median and 99th percentile of what was read from Kafka."""
    seconds: dict[int, list[float]] = {}
    for at, read, _ in rows:
        if read is not None:
            seconds.setdefault(int(at), []).append(read)
    found = []
    for second, taken in sorted(seconds.items()):
        taken.sort()
        found.append(
            {"second": second, "events": len(taken), "p50": middle(taken), "p99": taken[int(0.99 * len(taken))]}
        )
    return found


@contextmanager
def _running(
    where: Servers,
    program: str,
    prefix: str,
    workload: Workload,
    shape: Options,
    loader: Loader,
    options: argparse.Namespace,
) -> Iterator[int]:
    """The program, once it has taken in the openings; its process id."""
    openings = workload.expected.keys + shape.warm_up
    if program in PEERS:
        peer = PeerRun(PEERS[program], where, prefix, shape.partitions, options.linger_ms, options.folder)
        try:
            peer.wait_done(loader.positions, openings)
            yield peer.pid
        finally:
            peer.close()
        return
    if program == FLOOR:
        endless = shape.events + 1  # It is there until the end, so that its memory and CPU can be read.
        floor = FloorRun(where, prefix, shape.partitions, openings, endless, options.linger_ms)
        try:
            floor.heard("ready")
            yield floor.pid
        finally:
            floor.close(wait_s=0)
        return
    settings = {"STOCKFLOW_ROUTINE_INTERVAL_MS": "0", "STOCKFLOW_LINGER_MS": str(options.linger_ms)}
    stockflow = StockflowRun(where, prefix, settings, options.folder)
    try:
        stockflow.start()
        stockflow.wait_committed(loader.positions)
        stockflow.wait_visible()
        yield stockflow.pid
        stockflow.stop()
    finally:
        stockflow.close()


def line(found: Latency) -> str:
    """One turn on one line."""
    kafka, shown = (
        ", ".join(f"{name} {value:.1f}" for name, value in of.items()) or "-" for of in (found.kafka, found.redis)
    )
    return (
        f"{found.program:14} Kafka {kafka}; Redis {shown}; generator late p99 {found.late['p99']:.2f}, "
        f"{found.generator_cores:.0%} of a core; answered {found.share:.1%}; "
        f"CPU us/event {found.cpu_us:.0f} (servers {found.servers_cpu_us:.0f}); {found.resident_mb:.0f} MB; "
        f"others {found.others:.0%}"
    )


def load_of(options: argparse.Namespace) -> Load:
    """The load that the options describe, warm-up included."""
    return Load(
        options.rate,
        options.warm_up + options.seconds,
        options.burst_every,
        options.burst_seconds,
        options.burst_times,
        options.warm_up + options.seconds / 3,
        options.flash_seconds,
        options.flash_times,
    )


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=float, default=1_000, help="events per second")
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--warm-up", type=float, default=15, help="seconds before that, not counted")
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--skew", type=float, default=1.0, help="0: all SKUs sell alike; 1: Zipf")
    options.add_argument("--burst-every", type=float, default=5, help="seconds; 0: no bursts")
    options.add_argument("--burst-seconds", type=float, default=0.2)
    options.add_argument("--burst-times", type=float, default=2)
    options.add_argument("--flash-seconds", type=float, default=0, help="of a flash sale on 10 SKUs after a third")
    options.add_argument("--flash-times", type=float, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--linger-ms", type=int, default=2, help="of all programs' producers")
    options.add_argument("--program", action="append", choices=(FLOOR, STOCKFLOW, *PEERS), help="default: both first")
    options.add_argument("--peer-warm-up", type=int, default=200_000, help="events before, for programs on Java")
    options.add_argument("--accept-late", action="store_true", help="also where the generator was late")
    options.add_argument("--others-max", type=float, default=1.0, help="share of the machine; more: try once more")
    options.add_argument("--tries", type=int, default=1, help="how often at most, for --others-max")
    add_place(options)
    return options


def main() -> int:
    """Measure all in turns, show medians, write them."""
    chosen = parser().parse_args()
    console = Console()
    programs = tuple(chosen.program or (FLOOR, STOCKFLOW))
    load = load_of(chosen)
    results: dict[str, list[Latency]] = {program: [] for program in programs}
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(chosen.rounds):
            for program in programs if number % 2 == 0 else programs[::-1]:
                for attempt in range(chosen.tries):
                    found = measure(where, program, load, chosen, f"{number}-{attempt}")
                    console.print(f"round {number + 1} {line(found)}", soft_wrap=True)
                    if found.others <= chosen.others_max:
                        break
                results[program].append(found)
    table = Table(title=f"Event due -> read from Kafka | Redis, ms, at {chosen.rate:,.0f} events/s, median of rounds")
    names = [*(f"p{q:g}" for q in QUANTILES), "max"]
    for title in ("program", *names, "answered", "machine used by others"):
        table.add_column(title, justify="left" if title == "program" else "right")
    for program, rounds in results.items():
        row = [_both([one.kafka[name] for one in rounds], [one.redis.get(name) for one in rounds]) for name in names]
        shares = [f"{middle(one.share for one in rounds):.1%}", f"{middle(one.others for one in rounds):.0%}"]
        table.add_row(program, *row, *shares)
    console.print(table)
    written = chosen.folder / f"latency-{time.strftime('%Y%m%dT%H%M%S')}.json"
    plain = {program: [one.plain() for one in rounds] for program, rounds in results.items()}
    written.write_text(json.dumps({"load": asdict(load), "linger_ms": chosen.linger_ms, "results": plain}, indent=2))
    console.print(f"written to {written}")
    return 0


def _both(kafka: Sequence[float], shown: Sequence[float | None]) -> str:
    known = [one for one in shown if one is not None]
    return f"{middle(kafka):.1f} | {middle(known):.1f}" if known else f"{middle(kafka):.1f}"


if __name__ == "__main__":
    sys.exit(main())
