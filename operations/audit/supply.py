"""What is on its way, folded fact by fact from deduplicated facts; never on_hand, never arrival order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import polars as pl

from operations.audit.folds import Life

Key = tuple[str, str]

_SHIPPED, _RECEIVED = "transfer.shipped", "transfer.received"
_RESCHEDULED, _CANCELLED = "transfer.rescheduled", "transfer.cancelled"
_EXPECTED = "inbound.expected"


class Coming(NamedTuple):
    """Units on their way to a key, in transit or not, and when they are expected."""

    in_transit: bool
    units: int
    eta_us: int | None


class Back(NamedTuple):
    """Units that a cancelled transfer gave back to where it was shipped from."""

    sku: str
    location: str
    effective_us: int
    state: str
    delta: int


class _Part:
    """What one shipment sent."""

    def __init__(self, row: dict[str, object], left: int) -> None:
        self.origin, self.to, self.state = str(row["location"]), str(row["to_location"]), str(row["state"])
        self.left, self.eta = left, row["eta_us"]


def coming_by_key(facts: pl.DataFrame) -> tuple[dict[Key, list[Coming]], list[Back], set[Key]]:
    """What is on its way to each key, what came back, and the destinations that were ever named."""
    coming: dict[Key, list[Coming]] = defaultdict(list)
    back: list[Back] = []
    named: set[Key] = set()
    for (sku, _), rows in _transfers(facts):
        parts, _ = _transfer(str(sku), rows, back)
        named |= {(str(sku), part.to) for part in parts}
        for part in parts:
            if part.left:
                coming[str(sku), part.to].append(Coming(True, part.left, _time(part.eta)))
    announced = facts.filter(pl.col("inbound").is_not_null())
    for (sku, location, _), told in _groups(announced, ("sku", "location", "inbound"), _EXPECTED):
        left, eta = 0, None
        for row in told:
            if row["type"] == _EXPECTED:
                left, eta = _int(row["units"]), _time(row["eta_us"])
            else:
                left = 0 if row["final"] else max(0, left - _int(row["units"]))
        if left:
            coming[str(sku), str(location)].append(Coming(False, left, eta))
    return coming, back, named


class DoubtfulTransfer(NamedTuple):
    """A transfer that nobody shipped, or of which a final receipt left units over, or of which not all is known."""

    sku: str
    transfer: str
    is_shipped: bool
    life: Life


def doubtful_transfers(facts: pl.DataFrame) -> list[DoubtfulTransfer]:
    """Every transfer of which `life.in_vain` units are missing, that was never shipped, or that is torn."""
    found = []
    for (sku, transfer), rows in _transfers(facts):
        parts, life = _transfer(str(sku), rows, [])
        if life.in_vain or life.is_torn or not parts:
            found.append(DoubtfulTransfer(str(sku), str(transfer), bool(parts), life))
    return found


def _transfers(facts: pl.DataFrame) -> Iterator[tuple[tuple[object, ...], list[dict[str, object]]]]:
    kinds = [_SHIPPED, _RECEIVED, _RESCHEDULED, _CANCELLED]
    of_transfers = facts.filter(pl.col("type").is_in(kinds))
    for name, rows in _groups(of_transfers, ("sku", "transfer"), _SHIPPED):
        yield name, list(rows)


def _transfer(sku: str, rows: list[dict[str, object]], back: list[Back]) -> tuple[list[_Part], Life]:
    """The parts of one transfer after all that was said of it; what came back is added to `back`."""
    parts: list[_Part] = []
    early = 0
    life = Life()
    for row in rows:
        kind, units, own = row["type"], _int(row["units"] or 0), str(row["location"])
        at_us = life.hear(row)
        if kind == _SHIPPED:
            parts.append(_Part(row, max(0, units - early)))
            early = max(0, early - units)
        elif kind == _RESCHEDULED:
            for part in parts:
                part.eta = row["eta_us"]
        elif kind == _RECEIVED:
            early += 0 if parts else units
            for part in sorted(parts, key=lambda part: (part.to != own, part.to)):
                arrived = min(part.left, units)
                part.left -= arrived
                units -= arrived
            life.in_vain -= min(life.in_vain, units)
            if row["final"]:
                life.miss(at_us, sum(part.left for part in parts))
                for part in parts:
                    part.left = 0
        else:
            for part in sorted(parts, key=lambda part: (part.origin != own, part.origin)):
                given = min(part.left, units)
                part.left -= given
                units -= given
                if given:
                    back.append(Back(sku, part.origin, at_us, part.state, given))
            life.in_vain -= min(life.in_vain, units)
    return parts, life


def _groups(
    facts: pl.DataFrame, identity: tuple[str, ...], first: str
) -> Iterator[tuple[tuple[object, ...], Iterator[dict[str, object]]]]:
    """Facts by identity, in the order of time; among equal times the one type comes first."""
    order = [*identity, "effective_us", "rank", "source", "id"]
    rows = facts.with_columns(rank=(pl.col("type") != first).cast(pl.Int8)).sort(order).iter_rows(named=True)
    return groupby(rows, key=lambda row: tuple(row[name] for name in identity))


def legal_next(coming: list[Coming], earliest_us: int, latest_us: int) -> list[int | None]:
    """Each ETA that may be the next to come at some moment between two."""
    etas = sorted({one.eta_us for one in coming if one.eta_us is not None})
    moments = [earliest_us, *(eta for eta in etas if earliest_us < eta <= latest_us)]
    return [min((eta for eta in etas if eta > moment), default=None) for moment in moments]


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _time(value: object) -> int | None:
    return None if value is None else _int(value)
