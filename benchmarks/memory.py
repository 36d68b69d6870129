"""Resident memory of balances, and what one event costs the ledger alone: no Kafka, no Redis, no framework.

Memory is the growth of a fresh process's resident set, each case in a process of its own:

- idle: ledgers, one per partition, restored from so many packed balances;
- active: the same after one fact for each of them and a flush, which is the most that a busy process holds;
- fact: what remembering adds per fact (its id against repeats, its movement for late counts), over few balances;
- hold: what a hold adds, open or closed, with the fact that made it; an order line takes about as much.

The cost of an event is CPU time of decoding it, of letting it have its effect, and of both with a flush of the state
every so many events.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.workload import LOCATIONS, Options, Workload, make
from schemas.events import decode
from schemas.topics import KEYED_INPUTS, partition_of
from stock.balance import HAS_BASELINE, Balance, pack
from stock.events import StockFact
from stock.ledger import Ledger
from stock.policies import Policies

BAR_BYTES = 350  # Resident per idle balance at 1 M.
CASES = ("idle", "active", "fact", "hold")
FLUSH_EVENTS = 800  # About what one of 12 partitions takes in between two cuts at 50,000 events per second.
NOW_US = 1_790_000_000_000_000
ROOT = Path(__file__).resolve().parents[1]


def resident() -> int:
    """Bytes of this process in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status: this measurement needs Linux")


def packed_balance(n: int, sku: str, place: str) -> bytes:
    """A balance as it rests after a receipt, some sales and a publication, ids and causes of usual length."""
    return pack(
        Balance(
            [n * 3 % 900_000, n % 90_000, n % 45_000, -1],
            on_hand=n * 7 % 400,
            flags=HAS_BASELINE,
            moved_us=NOW_US - n,
            pos_us=NOW_US - n,
            wms_us=NOW_US - 7 * n,
            orders_us=NOW_US - 5 * n if n % 3 == 0 else None,
            cause=("pos.sale", f"{place}-20261122-{n:07d}", f"pos/{place}/till-{n % 9}", NOW_US - n),
            digest=(n * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF,
            published=64,
        )
    )


def restored(balances: int, partitions: int) -> list[Ledger]:
    """Ledgers of all partitions over so many balances, as after a restart."""
    records: list[dict[str, bytes]] = [{} for _ in range(partitions)]
    for n in range(balances // LOCATIONS):
        sku = f"SKU-{n:08d}"
        mine = records[partition_of(sku, partitions)]
        for m in range(LOCATIONS):
            place = f"STORE-{(n + m * 41) % 410:03d}"
            mine[f"{sku}|{place}"] = packed_balance(n * LOCATIONS + m, sku, place)
    ledgers = []
    while records:
        ledger = Ledger(Policies())
        ledger.restore(records.pop(), (), NOW_US)
        ledgers.append(ledger)
    return ledgers


def sale(key: str, n: int, at_us: int) -> StockFact:
    """A sale at a key, decoded from its wire form."""
    sku, _, place = key.partition("|")
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_us // 1_000_000)) + f".{at_us // 1000 % 1000:03d}Z"
    event = decode(
        0,
        f'{{"type":"pos.sale","id":"{place}-20261123-{n:07d}","source":"pos/{place}/till-3","occurred_at":"{at}",'
        f'"sku":"{sku}","location":"{place}","units":1}}'.encode(),
        at_us,
    )
    assert isinstance(event, StockFact), event
    return event


def hold(key: str, n: int) -> StockFact:
    """A hold of one unit at a key, decoded from its wire form; it ends after a minute."""
    sku, _, place = key.partition("|")
    at, until = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW_US // 1_000_000 + s)) for s in (0, 60))
    event = decode(
        2,
        f'{{"type":"reservation.created","id":"h-{n}","source":"oms","occurred_at":"{at}","sku":"{sku}",'
        f'"location":"{place}","reservation":"R-h-{n}","units":1,"mode":"pickup","expires_at":"{until}"}}'.encode(),
        NOW_US,
    )
    assert isinstance(event, StockFact), event
    return event


def grow(case: str, balances: int, facts: int, partitions: int) -> dict[str, float]:
    """What one case adds to the resident set of this process, per balance or per fact."""
    gc.collect()
    before = resident()
    ledgers = restored(balances, partitions)
    gc.collect()
    idle = resident() - before
    if case == "idle":
        return {"bytes": idle / balances, "total": idle}
    between, told = resident(), 0
    offsets = [1_000_000] * len(ledgers)
    rounds = 1 if case == "active" else facts // balances
    for number in range(rounds):
        for index, ledger in enumerate(ledgers):
            for done, key in enumerate(ledger.keys(), 1):
                if case == "hold":
                    ledger.apply(hold(key, told), 2, offsets[index], NOW_US)
                else:
                    ledger.apply(sale(key, told, NOW_US + number * 1_000_000), 0, offsets[index], NOW_US)
                offsets[index] += 1
                told += 1
                if done % FLUSH_EVENTS == 0:
                    ledger.touched.clear()
                    ledger.flush()
            ledger.touched.clear()
            ledger.flush()
    gc.collect()
    grown = resident() - between
    if case == "active":
        return {"bytes": (idle + grown) / balances, "total": idle + grown}
    return {"bytes": grown / told, "total": grown}


def cost(shape: Options) -> dict[str, float]:
    """CPU seconds per event of decoding, of applying, and of both with flushes."""
    workload = make(shape, NOW_US, ordered=True)
    topics = {topic.name: number for number, topic in enumerate(KEYED_INPUTS)}
    wire = [(topics[topic], partition, value) for topic, partition, _, value in workload.sequence]
    ledgers = _opened(workload, shape.partitions, topics)
    flushing = _opened(workload, shape.partitions, topics)

    start = time.process_time()
    events = [(topic, partition, decode(topic, value, NOW_US)) for topic, partition, value in wire]
    decoded = time.process_time() - start

    gc.collect()
    start = time.process_time()
    for offset, (topic, partition, event) in enumerate(events, shape.balances):
        ledgers[partition].apply(event, topic, offset, NOW_US)  # type: ignore[arg-type]
    applied = time.process_time() - start
    del events, ledgers

    gc.collect()
    taken = [0] * shape.partitions
    start = time.process_time()
    for offset, (topic, partition, value) in enumerate(wire, shape.balances):
        ledger = flushing[partition]
        ledger.apply(decode(topic, value, NOW_US), topic, offset, NOW_US)  # type: ignore[arg-type]
        taken[partition] += 1
        if taken[partition] % FLUSH_EVENTS == 0:
            ledger.touched.clear()
            ledger.flush()
    both = time.process_time() - start
    return {"decode": decoded / shape.events, "apply": applied / shape.events, "with_flush": both / shape.events}


def _opened(workload: Workload, partitions: int, topics: dict[str, int]) -> list[Ledger]:
    ledgers = [Ledger(Policies()) for _ in range(partitions)]
    offset = 0
    for (topic, partition), messages in workload.openings.items():
        for message in messages:
            event = decode(topics[topic], message["value"], NOW_US)
            ledgers[partition].apply(event, topics[topic], offset, NOW_US)  # type: ignore[arg-type]
            offset += 1
    for ledger in ledgers:
        ledger.touched.clear()
        ledger.flush()
    return ledgers


def in_own_process(case: str, balances: int, facts: int, partitions: int) -> dict[str, float]:
    """One case measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--case", case, "--balances", str(balances)]
    command += ["--facts", str(facts), "--partitions", str(partitions)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> int:
    """Measure everything, show it, write it; 1 if an idle balance takes more than the bar."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--balances", type=int, default=1_000_000)
    options.add_argument("--facts", type=int, default=1_000_000, help="for the cost of remembering")
    options.add_argument("--events", type=int, default=200_000, help="for the cost of an event")
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--case", choices=CASES, help="measure this one in this process and print it as JSON")
    options.add_argument("--output", type=Path, help="write the report here as JSON")
    chosen = options.parse_args()
    if chosen.case:
        sys.stdout.write(json.dumps(grow(chosen.case, chosen.balances, chosen.facts, chosen.partitions)))
        return 0

    few = min(20_000, chosen.balances)
    report = {
        "balances": chosen.balances,
        "memory": {
            case: in_own_process(
                case, few if case in ("fact", "hold") else chosen.balances, chosen.facts, chosen.partitions
            )
            for case in CASES
        },
        "cost_s": cost(Options(events=chosen.events, partitions=chosen.partitions)),
    }
    console = Console()
    table = Table(title=f"Ledger: memory at {chosen.balances:,} balances, CPU per event")
    for title in ("what", "value"):
        table.add_column(title)
    memory, spent = report["memory"], report["cost_s"]
    table.add_row("resident per idle balance", f"{memory['idle']['bytes']:.0f} B (bar {BAR_BYTES} B)")
    table.add_row("resident per balance after a fact for each", f"{memory['active']['bytes']:.0f} B")
    table.add_row("resident per remembered fact", f"{memory['fact']['bytes']:.0f} B")
    table.add_row("resident per hold, with its fact", f"{memory['hold']['bytes']:.0f} B")
    for name, text in (("decode", "decode"), ("apply", "apply"), ("with_flush", "decode, apply, state flushed")):
        each = spent[name]
        table.add_row(text, f"{each * 1e6:.2f} us, {1 / each:,.0f} events/s")
    console.print(table)
    if chosen.output is not None:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if memory["idle"]["bytes"] > BAR_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
