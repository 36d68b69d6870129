"""What the latency of events becomes while something else goes on: ratios of 99th percentiles, with it and without.

Events fall due at a fixed rate (open loop, as in `latency`), no routine change is held back. Five things disturb them:

- `policy`: some seconds in, a policy with an empty scope raises the safety stock, so every balance has a new record.
  Before is compared with while they are looked at. Bar: twice.
- `takeover`: one of two processes ends; the other takes its half of the partitions over. Events of the partitions that
  never move are compared, before with until the last one that moves is live. Bar: twice.
- `cuts`: state is flushed and positions are committed five times a second and partition, or never while it is measured.
- `timers`: of the 5 % that are holds, each ends some seconds later, or none does while it is measured.
- `expiry`: the same, and all holds end in one second.

The last three compare runs, one after the other in turns. Bar: 1.3 times.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median as middle

import orjson
from confluent_kafka import Producer
from rich.console import Console

from benchmarks.generator import Generator, Load
from benchmarks.latency import SETTLE_S, spread
from benchmarks.rig import (
    Loader,
    Servers,
    StockflowRun,
    add_place,
    drop_topics,
    empty_redis,
    make_topics,
    servers,
    wait_for,
    wait_for_calm,
)
from benchmarks.watching import Answers, dues
from benchmarks.workload import Options, make
from schemas.topics import AVAILABILITY, STOCK_SETTINGS

LOOK_S = 0.02
SHARED_S = 60.0  # For two processes to share the partitions out.
NO_CUTS = {"STOCKFLOW_COMMIT_INTERVAL_MS": "60000", "STOCKFLOW_LEASE_MS": "300000"}
TIMER_S = 5.0  # From a hold to its end.
BARS = {"policy": 2.0, "takeover": 2.0, "cuts": 1.3, "timers": 1.3, "expiry": 1.3}

Taken = tuple[float, float, int]  # when it was due, milliseconds until its record was read, partition


@dataclass(frozen=True)
class Window:
    """Monotonic times between which something went on, and the partitions whose events are looked at; None: all."""

    start: float
    end: float
    partitions: frozenset[int] | None = None


def set_policy(where: Servers, prefix: str, safety_stock: int) -> None:
    """Tell a policy for everything, and wait until it stands in the log."""
    value = {
        "type": "policy.set",
        "id": f"p-{safety_stock}",
        "source": "planning",
        "occurred_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "policy": "everywhere",
        "scope": {},
        "values": {"safety_stock": safety_stock},
    }
    producer = Producer({"bootstrap.servers": where.bootstrap})
    producer.produce(prefix + STOCK_SETTINGS.name, key=b"policy:everywhere", value=orjson.dumps(value))
    if producer.flush(10):
        raise RuntimeError("the policy was not acknowledged")


def change_policy(where: Servers, prefix: str, program: StockflowRun) -> Window:
    """Change it, and wait until every key was looked at."""
    start = time.monotonic()
    set_policy(where, prefix, 1)
    pending = "stockflow_rule_changes_pending"
    while program.gauge(pending) == 0 and time.monotonic() < start + 5:
        time.sleep(LOOK_S)
    while program.gauge(pending):
        time.sleep(LOOK_S)
    return Window(start, time.monotonic())


def hand_over(program: StockflowRun, leaver: StockflowRun, partitions: int) -> Window:
    """End one of two processes, and wait until the other one is live for all."""
    kept = frozenset(_owned(program))
    start = time.monotonic()
    leaver.stop()
    wait_for(lambda: program.live_partitions == partitions, "the other process has all partitions", SHARED_S)
    return Window(start, time.monotonic(), kept)


def _owned(program: StockflowRun) -> set[int]:
    """The partitions of a process, by what its log says of assignments."""
    owned: set[int] = set()
    for line in program.log_file.read_text(encoding="utf-8").splitlines():
        told = json.loads(line) if line.startswith("{") else {}
        if told.get("event") == "assigned":
            owned |= set(told["partitions"])
        elif told.get("event") in ("revoked", "lost"):
            owned -= set(told["partitions"])
    return owned


@contextmanager
def _processes(
    where: Servers, prefix: str, loader: Loader, settings: Mapping[str, str], options: argparse.Namespace, number: int
) -> Iterator[list[StockflowRun]]:
    """So many processes, which have taken in what is there and share the partitions."""
    running: list[StockflowRun] = []
    try:
        for at in range(number):
            folder = options.folder / f"{prefix}{at}"
            folder.mkdir(parents=True, exist_ok=True)
            running.append(StockflowRun(where, prefix, settings, folder))
            running[-1].start()
            running[-1].wait_committed(loader.positions)
        for one in running:
            wait_for(lambda one=one: one.live_partitions == options.partitions // number, "a fair share", SHARED_S)
            one.wait_visible()
        yield running
    finally:
        for one in running:
            one.close()


def run(
    where: Servers,
    options: argparse.Namespace,
    turn: str,
    *,
    settings: Mapping[str, str] | None = None,
    holds: Mapping[str, float] | None = None,
    processes: int = 1,
    disturb: Callable[[Servers, str, list[StockflowRun]], Window] | None = None,
) -> tuple[list[Taken], Window | None]:
    """One run of events: what each took, and the window of what was done after the `before` seconds, if anything."""
    load = Load(options.rate, options.warm_up + options.before + (options.after if disturb else 0))
    times = load.due()
    shape = Options(len(times), options.balances, options.partitions, seed=options.seed)
    workload = make(shape, time.time_ns() // 1000, ordered=True)
    prefix = f"disturbed-{os.getpid()}-{turn}-"
    make_topics(where, prefix, shape.partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    all_settings = {"STOCKFLOW_ROUTINE_INTERVAL_MS": "0", "STOCKFLOW_LINGER_MS": str(options.linger_ms)}
    window = None
    try:
        with _processes(where, prefix, loader, all_settings | dict(settings or {}), options, processes) as running:
            # Made only now: holds end by the clock.
            generator = Generator(where, prefix, load, replace(shape, **(holds or {})), time.time_ns() // 1000)
            answers = Answers(where, prefix + AVAILABILITY.name, shape.partitions)
            try:
                time.sleep(SETTLE_S)
                wait_for_calm(options.calm)
                begin = generator.begin()
                events = dues([value for *_, value in workload.sequence], times, begin)
                if disturb is not None:
                    time.sleep(max(0.0, begin + options.warm_up + options.before - time.monotonic()))
                    window = disturb(where, prefix, running)
                generator.finish()
                time.sleep(SETTLE_S)
            finally:
                answers.close()
                generator.close()
    finally:
        drop_topics(where, prefix)
    taken = [
        (event.at, (answers.seen[event.id] - event.at) * 1e3, partition)
        for event, (_, partition, *_) in zip(events, workload.sequence, strict=True)
        if event.at >= begin + options.warm_up and event.id in answers.seen
    ]
    return taken, window


def measure(where: Servers, options: argparse.Namespace, what: str, turn: int) -> dict[str, float]:
    """One round: milliseconds without and with, how many events with, and how long it went on."""
    if what in ("policy", "takeover"):

        def disturb(where: Servers, prefix: str, running: list[StockflowRun]) -> Window:
            if what == "policy":
                return change_policy(where, prefix, running[0])
            return hand_over(running[0], running[1], options.partitions)

        taken, window = run(where, options, f"{what}-{turn}", processes=2 if what == "takeover" else 1, disturb=disturb)
        assert window is not None
        looked_at = [one for one in taken if window.partitions is None or one[2] in window.partitions]
        without = [ms for at, ms, _ in looked_at if at < window.start]
        during = [ms for at, ms, _ in looked_at if window.start <= at < window.end]
        return _compared(without, during, window.end - window.start)
    calm: dict[str, object] = {"settings": NO_CUTS} if what == "cuts" else {}
    all_s = options.warm_up + options.before
    holds = {
        "timers": {"hold_s": TIMER_S, "hold_spread_s": all_s},
        "expiry": {"hold_s": options.warm_up + options.before / 2},
    }
    disturbed: dict[str, object] = {} if what == "cuts" else {"holds": holds[what]}
    found = {}
    for name, more in (("without", calm), ("with", disturbed))[:: 1 if turn % 2 == 0 else -1]:
        found[name] = [ms for _, ms, _ in run(where, options, f"{what}-{turn}-{name}", **more)[0]]  # type: ignore[arg-type]
    return _compared(found["without"], found["with"], options.before)


def _compared(without: list[float], during: list[float], seconds: float) -> dict[str, float]:
    if len(during) < 100:
        raise RuntimeError(f"only {len(during)} events meanwhile: more balances or a higher rate are needed")
    calm, disturbed = spread(without)[0], spread(during)[0]
    return {
        "without_p50": calm["p50"],
        "without_p99": calm["p99"],
        "with_p50": disturbed["p50"],
        "with_p99": disturbed["p99"],
        "events": len(during),
        "seconds": seconds,
    }


def main() -> int:
    """Measure, show, write; 1 if a bar is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--what", choices=BARS, action="append", help="this one; may be given several times")
    options.add_argument("--rate", type=float, default=1_000, help="events per second")
    options.add_argument("--warm-up", type=float, default=10, help="seconds before all, not counted")
    options.add_argument("--before", type=float, default=20, help="seconds that are counted, before what disturbs")
    options.add_argument("--after", type=float, default=60, help="seconds of events from then on")
    options.add_argument("--balances", type=int, default=1_000_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--linger-ms", type=int, default=2)
    options.add_argument("--seed", type=int, default=3)
    add_place(options)
    chosen = options.parse_args()
    console = Console()
    results: dict[str, list[dict[str, float]]] = {what: [] for what in chosen.what or BARS}
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(chosen.rounds):
            for what, rounds in results.items():
                rounds.append(measure(where, chosen, what, number))
                text = ", ".join(f"{name} {value:,.1f}" for name, value in rounds[-1].items())
                console.print(f"round {number + 1} {what:9} {text}", soft_wrap=True)
    ratios = {what: middle(one["with_p99"] / one["without_p99"] for one in rounds) for what, rounds in results.items()}
    for what, ratio in ratios.items():
        console.print(f"{what:9} p99 {ratio:.2f} times that without; bar {BARS[what]}")
    written = chosen.folder / f"disturbances-{time.strftime('%Y%m%dT%H%M%S')}.json"
    about = {"rate": chosen.rate, "balances": chosen.balances, "partitions": chosen.partitions}
    written.write_text(json.dumps({**about, "ratios": ratios, "results": results}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 0 if all(ratio <= BARS[what] for what, ratio in ratios.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
