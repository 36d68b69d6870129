"""Balances computed again from all facts at once, as columns; never step by step as the pipeline does it.

The rules are those of the contract: the first of several facts with one identity counts, the greatest count
is the barrier for on_hand, counters of unavailable units always move, arrival across topics changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from operations.audit.answers import Identity
from operations.audit.echoes import left_once
from operations.audit.folds import OpenHold, allocations, open_holds
from operations.audit.promises import settle
from operations.audit.supply import Back, Coming, Key, coming_by_key, legal_next

KEY = ["sku", "location"]
_IDENTITY = ["sku", "source", "id"]


@dataclass(frozen=True)
class Moment:
    """When the outputs were read, in microseconds: a hold that ends in between may be seen open or ended."""

    earliest_us: int
    latest_us: int


@dataclass(frozen=True)
class Recomputed:
    """What should be published.

    Attributes:
        balances: one row per key and legal `committed` and `next_inbound_at`: sku, location, alternative (0 = the
            first), on_hand, unavailable, committed, baseline, in_transit, inbound, next_inbound_at.
        duplicates: facts without a second effect, by partition.
        applied: facts with an effect or absorbed by a count, by partition.
        bound: units that open holds and allocations bind for a channel, by SKU and channel.
        requests: sku, source and id of the requests that nobody granted and that repeat nothing.
        in_flux: keys of which a hold ended or an ETA passed while the outputs were read.
        problems: answers to requests that contradict what was promised before.
        first: the facts without their repeats.
    """

    balances: pl.DataFrame
    duplicates: dict[int, int]
    applied: dict[int, int]
    in_flux: frozenset[tuple[str, str]]
    requests: frozenset[Identity]
    problems: list[str]
    bound: dict[tuple[str, str], int]
    first: pl.DataFrame


def recompute(facts: pl.DataFrame, moment: Moment) -> Recomputed:
    """Every balance from the accepted facts, in the columns of `facts.FACT_SCHEMA`."""
    distinct = without_duplicates(facts)
    settled = settle(distinct)
    # What is left of requests was rejected, or told of a hold that was there: it left nothing.
    first = settled.facts.filter(pl.col("type") != "reservation.requested")
    committed, bound, in_flux = _committed(first, moment)
    coming, back, destinations = coming_by_key(first)
    supply, due = _supply(coming, moment)
    moved, changed = _moved(first, back)
    balances = (
        _keys(first, destinations)
        .join(_on_hand(first, moved, changed), on=KEY, how="left")
        .join(_unavailable(first, changed), on=KEY, how="left")
        .with_columns(pl.col("on_hand", "unavailable").fill_null(0))
        .join(committed, on=KEY, how="left")
        .join(supply, on=KEY, how="left")
        .with_columns(pl.col("committed", "in_transit", "inbound").fill_null(0))
        .with_columns(alternative=pl.int_range(pl.len()).over(KEY))
    )
    applied = _by_partition(distinct)
    total = _by_partition(facts)
    duplicates = {partition: total[partition] - applied.get(partition, 0) for partition in total}
    rejected = distinct.filter(pl.col("type") == "reservation.requested").select(_IDENTITY)
    return Recomputed(
        balances,
        duplicates,
        applied,
        in_flux | due,
        frozenset(rejected.iter_rows()),
        settled.problems,
        bound,
        first,
    )


def without_duplicates(facts: pl.DataFrame) -> pl.DataFrame:
    """The first fact of each (sku, source, id).

    Offsets decide within a topic; Kafka timestamps, then the order of topics, between topics.
    """
    return (
        facts.sort("topic", "partition", "offset")
        .unique([*_IDENTITY, "topic"], keep="first", maintain_order=True)
        .sort("timestamp_ms", "topic", maintain_order=True)
        .unique(_IDENTITY, keep="first", maintain_order=True)
    )


def _keys(first: pl.DataFrame, destinations: Iterable[Key]) -> pl.DataFrame:
    """Every key that must be published, and whether its stock was ever stated."""
    baselines = ["wms.count", "wms.receipt", "transfer.received"]
    told = first.select(*KEY, baseline=pl.col("type").is_in(baselines))
    shipped_to = pl.DataFrame([(*key, False) for key in destinations], schema=told.schema, orient="row")
    return pl.concat([told, shipped_to]).group_by(KEY).agg(pl.col("baseline").any())


def _moved(first: pl.DataFrame, back: list[Back]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every movement of on_hand and every one of a state's counter, both: key, effective_us, state, delta.

    They differ where topics tell of the same units in different states.
    """
    columns = (*KEY, "effective_us", "state", "delta")
    moving = first.filter(pl.col("delta").is_not_null())
    alone = moving.filter(pl.col("echo").is_null()).select(*columns)
    returned = pl.DataFrame(back, schema=alone.schema, orient="row")
    told = moving.filter(pl.col("echo").is_not_null())
    both = []
    for group in ([*KEY, "echo"], [*KEY, "echo", "state"]):
        once = left_once(told, group, ["effective_us"]).with_columns(delta=-pl.col("once")).select(*columns)
        both.append(pl.concat([alone, once, returned]))
    return both[0], both[1]


def _supply(coming: dict[Key, list[Coming]], moment: Moment) -> tuple[pl.DataFrame, frozenset[Key]]:
    """Per key what is in transit and inbound, with each legal `next_inbound_at`; and keys with more than one."""
    rows = []
    due = set()
    for key, parts in coming.items():
        legal = legal_next(parts, moment.earliest_us, moment.latest_us)
        if len(legal) > 1:
            due.add(key)
        in_transit = sum(part.units for part in parts if part.in_transit)
        inbound = sum(part.units for part in parts if not part.in_transit)
        rows += [(*key, in_transit, inbound, next_us) for next_us in legal]
    schema = {
        "sku": pl.String(),
        "location": pl.String(),
        "in_transit": pl.Int64(),
        "inbound": pl.Int64(),
        "next_inbound_at": pl.Int64(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row"), frozenset(due)


def _on_hand(first: pl.DataFrame, moves: pl.DataFrame, changed: pl.DataFrame) -> pl.DataFrame:
    """The newest count and every movement at or after it; all movements where nothing was counted."""
    barrier = (
        first.filter(pl.col("type") == "wms.count")
        .sort("occurred_us", "source", "id")
        .group_by(KEY)
        .agg(counted=pl.col("units").last(), counted_us=pl.col("occurred_us").last(), net=pl.col("net").last())
    )
    left_out = _left_out(first, changed, barrier.filter("net").select(*KEY, "counted_us"))
    barrier = barrier.join(left_out, on=KEY, how="left").with_columns(
        counted=pl.col("counted") + pl.col("left_out").fill_null(0)
    )
    moved = (
        moves.join(barrier, on=KEY, how="left")
        .filter(pl.col("counted_us").is_null() | (pl.col("effective_us") >= pl.col("counted_us")))
        .group_by(KEY)
        .agg(moved=pl.col("delta").sum())
    )
    return (
        barrier.join(moved, on=KEY, how="full", coalesce=True)
        .with_columns(on_hand=pl.col("counted").fill_null(0) + pl.col("moved").fill_null(0))
        .select(*KEY, "on_hand")
    )


def _left_out(first: pl.DataFrame, changed: pl.DataFrame, net: pl.DataFrame) -> pl.DataFrame:
    """What each net count did not count: units unavailable or allocated at its key just before it."""
    before = pl.col("effective_us") < pl.col("counted_us")
    then = first.join(net, on=KEY).filter(before)
    unavailable = _unavailable(then, changed.join(net, on=KEY).filter(before)).select(*KEY, left_out="unavailable")
    # The facts of an order line at other locations matter too: the SKU of each counted key is folded for itself.
    lines = (
        first.filter(pl.col("order_line").is_not_null())
        .join(net.rename({"location": "counted_at"}), on="sku")
        .filter(before)
        .with_columns(sku=pl.col("sku") + "|" + pl.col("counted_at"))
    )
    allocated = [
        (*one.sku.rsplit("|", 1), one.units) for one in allocations(lines) if one.location == one.sku.rpartition("|")[2]
    ]
    frame = pl.DataFrame(allocated, schema=unavailable.schema, orient="row")
    return pl.concat([unavailable, frame]).group_by(KEY).agg(pl.col("left_out").sum())


def _unavailable(first: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Units that stand in the building but not for sale: each counter, if positive."""
    changed = first.filter(pl.col("type") == "wms.status_changed")
    moves = pl.concat(
        [
            moved.select(*KEY, "state", amount="delta"),
            changed.select(*KEY, state="from_state", amount=-pl.col("units")),
            changed.select(*KEY, state="to_state", amount="units"),
        ]
    )
    return (
        moves.filter(pl.col("state").is_not_null() & (pl.col("state") != "sellable"))
        .group_by([*KEY, "state"])
        .agg(counter=pl.col("amount").sum())
        .group_by(KEY)
        .agg(unavailable=pl.col("counter").clip(lower_bound=0).sum())
    )


def _committed(first: pl.DataFrame, moment: Moment) -> tuple[pl.DataFrame, dict[Key, int], frozenset[Key]]:
    """Every legal sum of open holds and allocations per key, what channels bind, and the keys with more than one."""
    bound: dict[Key, int] = defaultdict(int)
    firm: dict[tuple[str, str], int] = defaultdict(int)
    ending: dict[tuple[str, str], list[OpenHold]] = defaultdict(list)
    for allocated in allocations(first):
        firm[allocated.sku, allocated.location] += allocated.units
        bound[allocated.sku, allocated.channel or ""] += allocated.units
    for hold in open_holds(first):
        if hold.expires_us is None or hold.expires_us > moment.latest_us:
            firm[hold.sku, hold.location] += hold.units
            bound[hold.sku, hold.channel or ""] += hold.units
        elif hold.expires_us > moment.earliest_us:
            ending[hold.sku, hold.location].append(hold)
    rows = [
        (sku, location, alternative, units)
        for sku, location in firm.keys() | ending.keys()
        for alternative, units in enumerate(_legal_sums(firm.get((sku, location), 0), ending.get((sku, location), ())))
    ]
    schema = {
        "sku": pl.String(),
        "location": pl.String(),
        "alternative": pl.Int64(),
        "committed": pl.Int64(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row"), bound, frozenset(ending)


def _legal_sums(firm: int, ending: Iterable[OpenHold]) -> list[int]:
    """Sums from all open to all ended. Holds end in order of time, so nothing else can be seen."""
    sums = [firm]
    for hold in sorted(ending, key=lambda hold: hold.expires_us or 0, reverse=True):
        sums.append(sums[-1] + hold.units)
    return sums[::-1]


def _by_partition(facts: pl.DataFrame) -> dict[int, int]:
    return dict(facts.group_by("partition").len().iter_rows())
