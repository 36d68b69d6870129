"""What a policy that concerns every balance does to the latency of events while all of them are looked at again.

Events fall due at a fixed rate (open loop, as in `latency`). Some seconds in, a policy with an empty scope raises the
safety stock: every balance has a new record to publish. The 99th percentile of the events due from then on until the
last key is done is compared with that of the same time before. Bar: twice.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from statistics import median as middle

import orjson
from confluent_kafka import Producer
from rich.console import Console

from benchmarks.generator import Generator, Load
from benchmarks.latency import SETTLE_S
from benchmarks.rig import (
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
from benchmarks.watching import Answers, dues
from benchmarks.workload import Options, make
from schemas.topics import AVAILABILITY, STOCK_SETTINGS

BAR = 2.0
WARM_UP_S = 10.0
LOOK_S = 0.02


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


def p99(taken: list[float]) -> float:
    """The 99th percentile, in the unit of what is given."""
    return sorted(taken)[int(0.99 * len(taken))]


def measure(where: Servers, options: argparse.Namespace, turn: int) -> dict[str, float]:
    """One round: milliseconds before and during, seconds until the last key was done."""
    load = Load(options.rate, WARM_UP_S + options.before + options.after)
    times, now_us = load.due(), time.time_ns() // 1000
    shape = Options(len(times), options.balances, options.partitions, seed=turn)
    workload = make(shape, now_us, ordered=True)
    prefix = f"policy-{os.getpid()}-{turn}-"
    make_topics(where, prefix, shape.partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    generator = Generator(where, prefix, load, shape, now_us)
    settings = {"STOCKFLOW_ROUTINE_INTERVAL_MS": "0", "STOCKFLOW_LINGER_MS": str(options.linger_ms)}
    program = StockflowRun(where, prefix, settings, options.folder)
    changed: dict[str, float] = {}

    def change() -> None:
        time.sleep(WARM_UP_S + options.before)
        changed["from"] = time.monotonic()
        set_policy(where, prefix, 1)
        while program.gauge("stockflow_rule_changes_pending") == 0 and time.monotonic() < changed["from"] + 5:
            time.sleep(LOOK_S)
        while program.gauge("stockflow_rule_changes_pending"):
            time.sleep(LOOK_S)
        changed["until"] = time.monotonic()

    try:
        program.start()
        program.wait_committed(loader.positions)
        program.wait_visible()
        answers = Answers(where, prefix + AVAILABILITY.name, shape.partitions)
        try:
            time.sleep(SETTLE_S)
            wait_for_calm(options.calm)
            changer = threading.Thread(target=change, daemon=True)
            begin = generator.begin()
            changer.start()
            events = dues([value for *_, value in workload.sequence], times, begin)
            due = {event.id: event.at for event in events if event.at >= begin + WARM_UP_S}
            generator.finish()
            changer.join()
            time.sleep(SETTLE_S)
        finally:
            answers.close()
        program.stop()
    finally:
        generator.close()
        program.close()
    drop_topics(where, prefix)
    start, end = changed["from"], min(changed["until"], max(due.values()))
    taken = [(at, (answers.seen[id] - at) * 1e3) for id, at in due.items() if id in answers.seen]
    before = [ms for at, ms in taken if at < start]
    during = [ms for at, ms in taken if start <= at < end]
    if len(during) < 100:
        raise RuntimeError(f"only {len(during)} events during the change: more balances or a higher rate are needed")
    return {
        "before_p50": middle(before),
        "before_p99": p99(before),
        "during_p50": middle(during),
        "during_p99": p99(during),
        "seconds": changed["until"] - start,
        "share": len(taken) / len(due),
    }


def main() -> int:
    """Measure, show, write; 1 if the bar is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=float, default=1_000, help="events per second")
    options.add_argument("--before", type=float, default=20, help="seconds before the change that are counted")
    options.add_argument("--after", type=float, default=60, help="seconds of events from the change on")
    options.add_argument("--balances", type=int, default=1_000_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--linger-ms", type=int, default=2)
    add_place(options)
    chosen = options.parse_args()
    console = Console()
    results = []
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(chosen.rounds):
            found = measure(where, chosen, number)
            results.append(found)
            text = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            console.print(f"round {number + 1}: {text}", soft_wrap=True)
    ratio = middle(one["during_p99"] / one["before_p99"] for one in results)
    console.print(
        f"p99 while {chosen.balances:,} balances are looked at again: {ratio:.2f} times that before; bar {BAR}"
    )
    written = chosen.folder / f"policy-change-{time.strftime('%Y%m%dT%H%M%S')}.json"
    written.write_text(json.dumps({"ratio": ratio, "rate": chosen.rate, "results": results}, indent=2) + "\n")
    console.print(f"written to {written}")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
