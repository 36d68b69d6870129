"""Throughput with every kind of event against the plain mix of sales, receipts and holds, in turns on the same servers.

The full mix has what a day in the trade has: returns, corrections, counts, damaged units, holds that are released or
allocated, requests with a verdict, fulfilments that two systems tell, transfers. Bar: 85 % of the plain mix.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from statistics import median as middle

import orjson
from rich.console import Console

from benchmarks.rig import add_place, add_shape, drop_topics, make_topics, servers
from benchmarks.throughput import Result, run_stockflow
from benchmarks.workload import HOLD_S, LOCATIONS, SPREAD_S, Batches, Expected, Options, Workload, make, stamps
from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, partition_of

BAR = 0.85
PLAIN, FULL = MIXES = ("plain mix", "full mix")
# Of a hundred events; what is not listed here is a sale.
SHARES = {
    "receipt": 8,
    "return": 3,
    "adjustment": 1,
    "count": 1,
    "status": 1,
    "hold": 5,
    "release": 2,
    "request": 2,
    "allocate": 5,
    "fulfil": 4,
    "echo": 4,
    "ship": 1,
    "receive": 1,
}
_KINDS = [kind for kind, percent in SHARES.items() for _ in range(percent)]
_KINDS += ["sale"] * (100 - len(_KINDS))


class _Trade:
    """Tells events one after the other and keeps the books beside them."""

    def __init__(self, options: Options, now_us: int) -> None:
        self.rng = random.Random(options.seed)
        self.names = [f"SKU-{n:08d}" for n in range(max(1, options.balances // LOCATIONS))]
        self.home = {name: partition_of(name, options.partitions) for name in self.names}
        self.places = [f"STORE-{n:03d}" for n in range(LOCATIONS)]
        self.on_hand: dict[tuple[str, str], int] = {}
        self.holds: list[tuple[str, str, str, int]] = []
        self.lines: list[tuple[str, str, str, int]] = []
        self.unechoed: list[tuple[str, str, str, int]] = []
        self.under_way: list[tuple[str, str, str, int]] = []
        self.committed = 0
        self.until = stamps(now_us + HOLD_S * 1_000_000)(0)

    def open(self, sku: str, place: str) -> dict[str, object]:
        """The receipt that a balance begins with: enough that no request is turned down."""
        self.on_hand[sku, place] = units = self.rng.randint(2_000, 9_000)
        return {"type": "wms.receipt", "sku": sku, "location": place, "units": units}

    def next(self, number: int) -> dict[str, object]:
        """One event without its common fields; one that has nothing to refer to yet is a sale."""
        kind = self.rng.choice(_KINDS)
        sku, place = self.rng.choice(self.names), self.places[self.rng.randrange(LOCATIONS)]
        here, units = {"sku": sku, "location": place}, self.rng.randint(1, 3)
        if kind == "receipt":
            units *= 10
            self.on_hand[sku, place] += units
            return {"type": "wms.receipt", **here, "units": units}
        if kind in ("return", "adjustment"):
            self.on_hand[sku, place] += units
            own = {"state": "sellable"} if kind == "return" else {"reason": "found"}
            return {"type": "pos.return" if kind == "return" else "wms.adjustment", **here, "units": units, **own}
        if kind == "count":
            return {"type": "wms.count", **here, "units": self.on_hand[sku, place]}
        if kind == "status":
            return {"type": "wms.status_changed", **here, "units": 1, "from": "sellable", "to": "damaged"}
        if kind in ("hold", "request"):
            name = f"R-{number}"
            self.committed += units
            self.holds.append((sku, place, name, units))
            what = "reservation.created" if kind == "hold" else "reservation.requested"
            own = {"reservation": name, "mode": "pickup", "expires_at": self.until}
            return {"type": what, **here, "units": units, **own}
        return self._follow_up(kind, number) or self._sale(here, units)

    def _follow_up(self, kind: str, number: int) -> dict[str, object] | None:
        if kind == "release" and self.holds:
            sku, place, name, units = self._any(self.holds)
            self.committed -= units
            return {"type": "reservation.released", "sku": sku, "location": place, "reservation": name}
        if kind == "allocate" and self.holds:
            sku, place, name, units = self._any(self.holds)
            line = f"L-{number}"
            self.lines.append((sku, place, line, units))
            own = {"reservation": name, "order_line": line}
            return {"type": "order.allocated", "sku": sku, "location": place, "units": units, **own}
        if kind == "fulfil" and self.lines:
            sku, place, line, units = told = self._any(self.lines)
            self.committed -= units
            self.on_hand[sku, place] -= units
            self.unechoed.append(told)
            return {"type": "order.fulfilled", "sku": sku, "location": place, "units": units, "order_line": line}
        if kind == "echo" and self.unechoed:
            sku, place, line, units = self._any(self.unechoed)
            return {"type": "wms.shipment", "sku": sku, "location": place, "units": units, "order_line": line}
        if kind == "ship":
            sku, (origin, to) = self.rng.choice(self.names), self.rng.sample(self.places, 2)
            self.on_hand[sku, origin] -= 5
            self.under_way.append((sku, to, f"T-{number}", 5))
            own = {"transfer": f"T-{number}", "to_location": to}
            return {"type": "transfer.shipped", "sku": sku, "location": origin, "units": 5, **own}
        if kind == "receive" and self.under_way:
            sku, place, transfer, units = self._any(self.under_way)
            self.on_hand[sku, place] += units
            own = {"transfer": transfer, "final": True}
            return {"type": "transfer.received", "sku": sku, "location": place, "units": units, **own}
        return None

    def _sale(self, here: dict[str, str], units: int) -> dict[str, object]:
        self.on_hand[here["sku"], here["location"]] -= units
        return {"type": "pos.sale", **here, "units": units}

    def _any(self, some: list[tuple[str, str, str, int]]) -> tuple[str, str, str, int]:
        at = self.rng.randrange(len(some))
        some[at], some[-1] = some[-1], some[at]
        return some.pop()


def make_full(options: Options, now_us: int) -> Workload:
    """The full mix as of a time, in the form and the size of the plain one."""
    trade = _Trade(options, now_us)
    openings: Batches = defaultdict(list)
    events: Batches = defaultdict(list)
    start_us, size = now_us - 2 * SPREAD_S * 1_000_000, 0
    stamp = stamps(start_us)

    def put(batches: Batches, event: dict[str, object], id: str, at: str) -> int:
        sku, place, kind = str(event["sku"]), event["location"], str(event["type"])
        family = kind.split(".", 1)[0]
        topic = {"pos": POS_SALES, "wms": WMS_MOVEMENTS, "transfer": WMS_MOVEMENTS}.get(family, ORDER_RESERVATIONS)
        value = orjson.dumps({**event, "id": id, "source": f"{family}/{place}", "occurred_at": at})
        batches[topic.name, trade.home[sku]].append({"key": sku.encode(), "value": value})
        return len(value)

    for n, sku in enumerate(trade.names):
        for place in trade.places:
            put(openings, trade.open(sku, place), f"open-{n}-{place}", stamp(0))
    stamp = stamps(start_us + SPREAD_S * 1_000_000, exact=True)
    step_us = SPREAD_S * 1_000_000 / max(1, options.events)
    for i in range(options.events):
        size += put(events, trade.next(i), f"e-{i}", stamp(int(i * step_us)))
    expected = Expected(len(trade.on_hand), sum(trade.on_hand.values()), trade.committed)
    return Workload(openings, events, expected, size // max(1, options.events))


def main() -> int:
    """Run both mixes in turns, show the ratio, write the results; 1 if the bar is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(options, events=400_000, rounds=3)
    add_place(options)
    chosen = options.parse_args()
    console = Console()
    shape = Options(chosen.events, chosen.balances, chosen.partitions, chosen.seed)
    results: dict[str, list[Result]] = {mix: [] for mix in MIXES}
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(chosen.rounds):
            for mix in MIXES if number % 2 == 0 else MIXES[::-1]:
                now_us = time.time_ns() // 1000
                workload = make(shape, now_us) if mix == PLAIN else make_full(shape, now_us)
                prefix = f"mix-{os.getpid()}-{number}-{mix.replace(' ', '-')}-"
                make_topics(where, prefix, shape.partitions)
                result = run_stockflow(where, prefix, workload, shape, {}, chosen.folder, chosen.calm)
                drop_topics(where, prefix)
                results[mix].append(result)
                console.print(
                    f"round {number + 1} {mix:9} {result.per_second:9,.0f} events/s, CPU us/event {result.cpu_us:.1f} "
                    f"(loop {result.loop_cpu_us:.1f}), {result.records:,} records, {result.state_records:,} of state; "
                    f"others used {result.others:.0%} of the machine",
                    soft_wrap=True,
                )
    rates = {mix: middle(result.per_second for result in rounds) for mix, rounds in results.items()}
    cpu = {mix: middle(result.cpu_us for result in rounds) for mix, rounds in results.items()}
    ratio = rates[FULL] / rates[PLAIN]
    console.print(
        f"full mix: {ratio:.0%} of the plain one (bar {BAR:.0%}), "
        f"{rates[FULL]:,.0f} against {rates[PLAIN]:,.0f} events/s, "
        f"CPU per event {cpu[FULL] / cpu[PLAIN]:.2f} times",
        soft_wrap=True,
    )
    written = chosen.folder / f"full-mix-{time.strftime('%Y%m%dT%H%M%S')}.json"
    report = {"ratio": ratio, "results": {mix: [asdict(one) for one in rounds] for mix, rounds in results.items()}}
    written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
