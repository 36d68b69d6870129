"""The events that every measurement uses, and what must be true after them; seeded, and written by no stockflow code.

It must never talk to a server: topics, producers and clocks belong to the programs that use it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, partition_of

SALES_PERCENT, RECEIPTS_PERCENT = 85, 10  # The rest are reservations.
LOCATIONS = 10  # Balances per SKU.
HOT_SKUS = 10  # Share a flash sale.
SPREAD_S = 60  # The events happened within so many seconds before they were produced, in order.
HOLD_S = 6 * 3_600  # Holds outlive every measurement, so that what is committed can be checked at its end.

Batches = dict[tuple[str, int], list[dict[str, bytes]]]
"""By registered topic and partition: messages as `produce_batch` takes them, in order."""


@dataclass(frozen=True)
class Options:
    """How many events over how many balances, and how uneven: weight of the n-th SKU is n to the power of -skew.

    `warm_up` events come before them, with the openings, so that a program which gets faster by running has run.
    The events of the numbers `hot`, from and to, are all of the first few SKUs. The hold of the first event would end
    `hold_s` after the time as of which all is made, that of the last one `hold_spread_s` later.
    Ids count on from `first`.
    """

    events: int = 400_000
    balances: int = 20_000
    partitions: int = 12
    seed: int = 3
    skew: float = 0.0
    warm_up: int = 0
    hot: tuple[int, int] = (0, 0)
    hold_s: float = HOLD_S
    hold_spread_s: float = 0.0
    first: int = 0


@dataclass
class Expected:
    """Sums over all balances that a program must arrive at."""

    keys: int = 0
    on_hand: int = 0
    committed: int = 0


@dataclass
class Workload:
    """Openings (one receipt per balance, then the warm-up) and the events that follow, with the sums after both."""

    openings: Batches
    events: Batches
    expected: Expected
    event_bytes: int
    sequence: list[tuple[str, int, bytes, bytes]] = field(default_factory=list)


def make(options: Options, now_us: int, *, ordered: bool = False) -> Workload:
    """The workload as of a time.

    Args:
        options: its size and shape.
        now_us: microseconds since 1970; events happened in the minute before, openings a minute earlier.
        ordered: give the events as one sequence (topic, partition, key, value) instead of in batches.
    """
    rng = random.Random(options.seed)
    skus = max(1, options.balances // LOCATIONS)
    names = [f"SKU-{n:08d}" for n in range(skus)]
    home = [partition_of(name, options.partitions) for name in names]
    places = [f"STORE-{n:03d}" for n in range(LOCATIONS)]
    expected = Expected(keys=skus * LOCATIONS)
    openings: Batches = defaultdict(list)
    events: Batches = defaultdict(list)
    sequence: list[tuple[str, int, bytes, bytes]] = []
    size = 0

    start_us = now_us - 2 * SPREAD_S * 1_000_000
    stamp = stamps(start_us)
    for n, sku in enumerate(names):
        for place in places:
            units = rng.randint(20, 200)
            expected.on_hand += units
            value = _receipt(f"open-{n}-{place}", stamp(0), sku, place, units)
            openings[WMS_MOVEMENTS.name, home[n]].append({"key": sku.encode(), "value": value})

    until = stamps(now_us + int(options.hold_s * 1e6))
    weights = None if options.skew == 0 else [(n + 1) ** -options.skew for n in range(skus)]
    chosen = rng.choices(range(skus), weights, k=options.warm_up + options.events)
    for i in range(*options.hot):
        chosen[options.warm_up + i] = i * 7 % min(HOT_SKUS, skus)
    stamp = stamps(start_us + SPREAD_S * 1_000_000)
    step_us = SPREAD_S * 1_000_000 / max(1, len(chosen))
    hold_step_us = options.hold_spread_s * 1e6 / max(1, len(chosen))
    for i, n in enumerate(chosen):
        sku, place, at = names[n], places[rng.randrange(LOCATIONS)], stamp(int(i * step_us))
        what, id = rng.randrange(100), f"e-{options.first + i}"
        if what < SALES_PERCENT:
            units = rng.randint(1, 3)
            expected.on_hand -= units
            topic, value = POS_SALES.name, _sale(id, at, sku, place, units)
        elif what < SALES_PERCENT + RECEIPTS_PERCENT:
            units = rng.randint(10, 25)
            expected.on_hand += units
            topic, value = WMS_MOVEMENTS.name, _receipt(id, at, sku, place, units)
        else:
            expected.committed += 1
            topic, value = ORDER_RESERVATIONS.name, _hold(id, at, sku, place, until(int(i * hold_step_us)))
        size += len(value)
        if ordered and i >= options.warm_up:
            sequence.append((topic, home[n], sku.encode(), value))
        else:
            (openings if i < options.warm_up else events)[topic, home[n]].append({"key": sku.encode(), "value": value})
    return Workload(openings, events, expected, size // max(1, len(chosen)), sequence)


def stamps(base_us: int, exact: bool = False) -> Callable[[int], str]:
    """RFC 3339 texts of microseconds after a base; the part up to the second is made once per second.

    Cut to milliseconds unless they must be `exact`: a count must not share its time with what happened before it.
    """
    known: dict[int, str] = {}

    def stamp(offset_us: int) -> str:
        second, micro = divmod(base_us + offset_us, 1_000_000)
        text = known.get(second)
        if text is None:
            text = known[second] = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{text}.{micro:06d}Z" if exact else f"{text}.{micro // 1000:03d}Z"

    return stamp


def _sale(id: str, at: str, sku: str, place: str, units: int) -> bytes:
    return (
        f'{{"type":"pos.sale","id":"{place}-{id}","source":"pos/{place}/till-3","occurred_at":"{at}",'
        f'"sku":"{sku}","location":"{place}","units":{units},"references":{{"receipt":"{id}"}}}}'
    ).encode()


def _receipt(id: str, at: str, sku: str, place: str, units: int) -> bytes:
    return (
        f'{{"type":"wms.receipt","id":"{place}-{id}","source":"wms/{place}","occurred_at":"{at}",'
        f'"sku":"{sku}","location":"{place}","units":{units},"references":{{"delivery":"D-{id}"}}}}'
    ).encode()


def _hold(id: str, at: str, sku: str, place: str, until: str) -> bytes:
    return (
        f'{{"type":"reservation.created","id":"{id}","source":"oms","occurred_at":"{at}","sku":"{sku}",'
        f'"location":"{place}","reservation":"R-{id}","units":1,"mode":"pickup","expires_at":"{until}"}}'
    ).encode()
