"""Holds and order lines: what of each is still open, as the fold of every fact that names it.

A fold sorts the facts by (time, rank, source, id), so the order in which topics deliver them has no influence.
Statements (`created`, `allocated`) rank first at equal times, then what takes, then what gives back: a void at the
very moment of the sale must find the sale. Nothing here moves stock on hand.
"""

from __future__ import annotations

from bisect import insort
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

FACTS_MAX = 128  # Facts kept per hold or order line; the oldest half is then folded into a base for good.

FactKind = Literal["stated", "arrived", "renewed", "taken", "returned", "given_back"]
_RANK = {"stated": 0, "arrived": 1, "renewed": 1, "taken": 1, "returned": 1, "given_back": 2}


class Fact(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One fact about a hold or order line. `units` is None for all that is left; times are microseconds."""

    time_us: int
    rank: int
    source: str
    id: str
    kind: FactKind
    location: str
    units: int | None
    expires_at_us: int | None


def fact(
    kind: FactKind,
    time_us: int,
    source: str,
    id: str,
    location: str,
    units: int | None = None,
    expires_at_us: int | None = None,
) -> Fact:
    """A fact, ranked by its kind.

    `stated` says what is open; `arrived` adds to it; `taken` and `returned` lower it (only what was taken can be given
    back, not what was returned by a deallocation or release); `given_back` restores; `renewed` moves the end.
    """
    return Fact(time_us, _RANK[kind], source, id, kind, location, units, expires_at_us)


_ALL = 1 << 40  # More than any hold has.


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...


F = TypeVar("F", bound=_Named)


Since = tuple[str, str, int]  # source and id of the statement that holds, and units released since
_NOTHING: tuple[None, int, None] = (None, 0, None)
_UNKNOWN: Since = ("", "", 0)


class Hold(Struct, gc=False, array_like=True):
    """A reservation line: soft, at one location, ending by itself at `expires_at_us` (None: never).

    `applied` holds per keyed input the highest offset whose fact is in here.
    """

    applied: list[int]
    facts: list[Fact]
    location: str | None = None  # None until it is stated somewhere
    left: int = 0
    expires_at_us: int | None = None
    base: tuple[str | None, int, int | None] = _NOTHING
    # Only of a hold that was ever granted to a request; left out of its record else.
    base_since: Since | None = None
    taken_after_us: int | None = None  # what was taken up to then was of an earlier hold of this name

    def add(self, new: Fact, promised_us: int | None = None) -> bool:
        """Take a fact in and fold anew; False if it was in already, or has no part in this hold.

        Args:
            new: the fact.
            promised_us: it states what was promised to a request whose record has this timestamp. That was decided
                knowing all statements, renewals and releases that stood before it: none of them changes the promise
                any more, whatever times they name. What was taken up to that timestamp was taken from an earlier hold,
                if there was one; else it may be a claim that came before what it claims.
        """
        if promised_us is not None:
            if self.location is not None:
                self.taken_after_us = max(self.taken_after_us or promised_us, promised_us)
            self.facts = [known for known in self.facts if known.kind == "taken" and not self._is_over(known)]
            self.base, self.base_since = _NOTHING, _UNKNOWN
        elif new.kind == "taken" and self._is_over(new):
            return False
        if not insert(self.facts, new):
            return False
        if len(self.facts) > FACTS_MAX:
            oldest = self.facts[: FACTS_MAX // 2]
            if self.base_since is not None:
                self.base_since = self._since(oldest)
            self.base = self._folded(oldest)
            del self.facts[: FACTS_MAX // 2]
        self.location, self.left, self.expires_at_us = self._folded(self.facts)
        return True

    def open_units(self, clock_us: int) -> int:
        """Units that this hold still binds once all ends up to `clock_us` have passed."""
        if self.expires_at_us is not None and self.expires_at_us <= clock_us:
            return 0
        return self.left

    def promised(self, source: str, id: str, units: int, at_us: int) -> int:
        """How much of what the statement of this source and id promised stands at a time.

        All of it that was not released, until it ends or another statement takes its place. Units that were taken out
        of it, for an order or by a sale, were had: that ends no promise.
        """
        if self.expires_at_us is not None and self.expires_at_us <= at_us:
            return 0
        by_source, by_id, released = self._since(self.facts)
        return max(0, units - released) if (by_source, by_id) in ((source, id), _UNKNOWN[:2]) else 0

    def stored(self) -> Hold | tuple[object, ...]:
        """What its record says: of a hold that was never granted to a request, what it said in the first format."""
        if self.base_since is None and self.taken_after_us is None:
            return self.applied, self.facts, self.location, self.left, self.expires_at_us, self.base
        return self

    def last_us(self) -> int:
        """The newest time that matters to this hold: its last fact, or its end while it binds units."""
        newest = self.facts[-1].time_us if self.facts else 0
        return max(newest, self.expires_at_us or 0) if self.left else newest

    def _is_over(self, taking: Fact) -> bool:
        return self.taken_after_us is not None and taking.time_us <= self.taken_after_us

    def _folded(self, facts: list[Fact]) -> tuple[str | None, int, int | None]:
        location, left, end = self.base
        for f in facts:
            if f.kind == "stated":
                location, left, end = f.location, f.units or 0, f.expires_at_us
            elif f.kind == "renewed":
                if location is not None and (end is None or f.time_us < end):
                    end = f.expires_at_us
            else:
                left -= left if f.units is None else min(f.units, left)
        return location, left, end

    def _since(self, facts: list[Fact]) -> Since:
        since = self.base_since or _UNKNOWN
        for f in facts:
            if f.kind == "stated":
                since = f.source, f.id, 0
            elif f.kind == "returned":
                since = since[0], since[1], since[2] + (_ALL if f.units is None else f.units)
        return since


class OrderLine(Struct, gc=False, array_like=True):
    """The allocations of one order line, per location `[left, taken]` in units."""

    applied: list[int]
    facts: list[Fact]
    cells: dict[str, list[int]]
    base: dict[str, list[int]]

    def add(self, new: Fact) -> bool:
        """Take a fact in and fold anew; False if this very fact was in already."""
        if not insert(self.facts, new):
            return False
        if len(self.facts) > FACTS_MAX:
            self.base = self._folded(self.facts[: FACTS_MAX // 2])
            del self.facts[: FACTS_MAX // 2]
        self.cells = self._folded(self.facts)
        return True

    def left(self) -> dict[str, int]:
        """Units still allocated per location, without the locations that have none."""
        return {location: cell[0] for location, cell in self.cells.items() if cell[0]}

    def last_us(self) -> int:
        """The time of the newest fact."""
        return self.facts[-1].time_us if self.facts else 0

    def _folded(self, facts: list[Fact]) -> dict[str, list[int]]:
        cells = {location: cell.copy() for location, cell in self.base.items()}
        for f in facts:
            units = f.units or 0
            if f.kind == "stated":
                cells[f.location] = [units, 0]
                continue
            if f.kind == "arrived":
                cells.setdefault(f.location, [0, 0])[0] += units
                continue
            for location in _own_first(f.location, cells):
                cell = cells[location]
                if f.kind == "given_back":
                    moved = min(units, cell[1])
                    cell[0] += moved
                    cell[1] -= moved
                else:
                    moved = min(units, cell[0])
                    cell[0] -= moved
                    cell[1] += moved if f.kind == "taken" else 0
                units -= moved
        return cells


def _own_first(own: str, cells: dict[str, list[int]]) -> list[str]:
    """The locations of a line in the order in which a fact told at `own` reaches them."""
    return sorted(cells, key=lambda location: (location != own, location))


def insert(facts: list[F], new: F) -> bool:
    """Put a fact in its place by time; False if this very fact was in already."""
    for known in facts:
        if known.id == new.id and known.source == new.source:
            return False
    insort(facts, new)  # type: ignore[call-overload]  # its Struct has an order
    return True
