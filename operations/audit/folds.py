"""What is open of every hold and order line, folded fact by fact; never on_hand, never arrival order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import polars as pl

from operations.audit.echoes import left_once

_CREATED = "reservation.created"
_RENEWED = "reservation.renewed"
_RELEASED = "reservation.released"
_ALLOCATED = "order.allocated"
_DEALLOCATED = "order.deallocated"
_ARRIVED = "transfer.received"

DAY_US = 24 * 3_600 * 1_000_000  # So long after its last fact something that is closed is forgotten.
FACTS_MAX = 128  # Of so many facts about one thing the oldest may have been put together.

_ORDER = ("effective_us", "rank", "source", "id")


class OpenHold(NamedTuple):
    """Units held at one location until a time, or for good."""

    sku: str
    location: str
    units: int
    expires_us: int | None
    channel: str | None


class Allocated(NamedTuple):
    """Units bound by one order line at one location."""

    sku: str
    location: str
    units: int
    channel: str | None


@dataclass
class _Cell:
    """One order line at one location: what it still binds, and what was taken from it (and may come back)."""

    left: int = 0
    taken: int = 0
    channel: str | None = None


@dataclass
class Life:
    """The times of what several facts name, and what was asked of it in vain since it was stated last.

    `is_torn`: it may have been forgotten in between, or its oldest facts may have been put together.
    """

    facts: int = 0
    first_us: int = 0
    last_us: int = 0
    heard_us: int = 0
    stated_us: int | None = None
    in_vain: int = 0
    in_vain_us: int = 0
    is_torn: bool = False

    def hear(self, row: dict[str, object]) -> int:
        """One more fact, in order of time; its time."""
        at_us, told_us = _int(row["effective_us"]), _int(row["timestamp_ms"]) * 1_000
        if self.facts == 0:
            self.first_us = at_us
        elif self.facts >= FACTS_MAX or max(at_us, told_us) > self.last_us + DAY_US:
            self.is_torn = True
        self.facts, self.last_us, self.heard_us = self.facts + 1, at_us, max(self.heard_us, told_us)
        return at_us

    def state(self, at_us: int, settles: bool = True) -> None:
        """A statement, which settles what was before it."""
        self.stated_us = at_us
        if settles:
            self.in_vain = 0

    def miss(self, at_us: int, units: int) -> None:
        """So many units were asked for and were not there."""
        if units > 0:
            self.in_vain_us = self.in_vain_us if self.in_vain else at_us
            self.in_vain += units


@dataclass
class FoldedHold:
    """A hold while its facts are folded, and after that."""

    location: str | None = None
    left: int = 0
    expires_us: int | None = None
    channel: str | None = None
    life: Life = field(default_factory=Life)

    def fold(self, row: dict[str, object]) -> None:
        """One more fact that names this hold, in order of time."""
        kind, units, expires_us = row["type"], row["take"], row["expires_us"]
        at_us = self.life.hear(row)
        if kind == _CREATED:
            self.location, self.left, self.expires_us = str(row["location"]), _int(units), _time(expires_us)
            self.channel = _text(row["channel"])
            self.life.state(at_us)
        elif kind == _RENEWED:
            if self.expires_us is None or _int(row["effective_us"]) < self.expires_us:
                self.expires_us = _time(expires_us)
        else:
            asked = self.left if units is None else _int(units)
            self.life.miss(at_us, asked - self.left)
            self.left = max(0, self.left - asked)


@dataclass
class FoldedLine:
    """An order line while its facts are folded, and after that."""

    cells: dict[str, _Cell] = field(default_factory=dict)
    life: Life = field(default_factory=Life)

    def fold(self, row: dict[str, object]) -> None:
        """One more fact that names this order line, in order of time."""
        kind, own, units = row["type"], str(row["location"]), _int(row["take"])
        at_us = self.life.hear(row)
        if kind == _ALLOCATED:
            self.cells[own] = _Cell(left=units, channel=_text(row["channel"]))
            self.life.state(at_us)
        elif kind == _ARRIVED:
            self.cells.setdefault(own, _Cell()).left += units
            self.life.state(at_us, settles=False)
        elif row["restores"]:
            for cell in self._own_first(own):
                given = min(units, cell.taken)
                cell.taken -= given
                cell.left += given
                units -= given
            self.life.in_vain = max(0, self.life.in_vain - units)
        else:
            for cell in self._own_first(own):
                took = min(units, cell.left)
                cell.left -= took
                cell.taken += 0 if kind == _DEALLOCATED else took
                units -= took
            self.life.miss(at_us, units)

    def _own_first(self, own: str) -> Iterator[_Cell]:
        for location in sorted(self.cells, key=lambda name: (name != own, name)):
            yield self.cells[location]


def open_holds(facts: pl.DataFrame) -> list[OpenHold]:
    """Holds with units left, whether or not their time has passed, from the facts of `promises.settle`."""
    return [
        OpenHold(str(sku), hold.location, hold.left, hold.expires_us, hold.channel)
        for (sku, _, _), hold in folded_holds(facts)
        if hold.location is not None and hold.left > 0
    ]


def folded_holds(facts: pl.DataFrame) -> Iterator[tuple[tuple[object, ...], FoldedHold]]:
    """Every hold that any fact names, by SKU, reservation and line, from the facts of `promises.settle`."""
    kind = pl.col("type")
    named = facts.filter(
        pl.col("reservation").is_not_null()
        & (kind.is_in([_CREATED, _RENEWED, _RELEASED, _ALLOCATED]) | (pl.col("delta") < 0))
    ).with_columns(rank=pl.when(kind == _CREATED).then(0).otherwise(1), counts=~pl.col("superseded"))
    for name, rows in _groups(named, ("sku", "reservation", "line")):
        hold = FoldedHold()
        for row in rows:
            hold.fold(row)
        yield name, hold


def allocations(facts: pl.DataFrame) -> list[Allocated]:
    """Units that order lines still bind, by location, from deduplicated facts."""
    return [
        Allocated(str(sku), location, cell.left, cell.channel)
        for (sku, _), line in folded_lines(facts)
        for location, cell in line.cells.items()
        if cell.left > 0
    ]


def folded_lines(facts: pl.DataFrame) -> Iterator[tuple[tuple[object, ...], FoldedLine]]:
    """Every order line that any fact names, by SKU and name, from deduplicated facts."""
    kind = pl.col("type")
    named = facts.filter(
        pl.col("order_line").is_not_null()
        & (kind.is_in([_ALLOCATED, _DEALLOCATED, _ARRIVED]) | (pl.col("delta") < 0) | pl.col("restores"))
    ).with_columns(
        rank=pl.when(kind == _ALLOCATED).then(0).when(pl.col("restores")).then(2).otherwise(1), counts=pl.lit(True)
    )
    for name, rows in _groups(named, ("sku", "order_line")):
        order_line = FoldedLine()
        for row in rows:
            order_line.fold(row)
        yield name, order_line


def _groups(
    facts: pl.DataFrame, identity: tuple[str, ...]
) -> Iterator[tuple[tuple[object, ...], Iterator[dict[str, object]]]]:
    """Facts by identity, in the one order in which they are folded; `take` is what each takes or `restores`.

    Those that do not count are left out, but units that they told of are not taken again when others tell of them.
    """
    # An adjustment lowers on_hand by signed units, so its size is what counts.
    alone = facts.filter(pl.col("echo").is_null()).with_columns(
        take=pl.when(pl.col("delta") < 0).then(-pl.col("delta")).otherwise(pl.col("units"))
    )
    order = ["counts", *_ORDER]
    told = left_once(facts.filter(pl.col("echo").is_not_null()), [*identity, "location", "echo"], order)
    once = told.with_columns(take=pl.col("once").abs(), restores=pl.col("once") < 0)
    columns = [*identity, *_ORDER, "location", "type", "take", "restores", "expires_us", "channel", "timestamp_ms"]
    both = pl.concat([frame.filter("counts").select(columns) for frame in (alone, once)])
    rows = both.sort([*identity, *_ORDER]).iter_rows(named=True)
    return groupby(rows, key=lambda row: tuple(row[name] for name in identity))


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _time(value: object) -> int | None:
    return None if value is None else _int(value)
