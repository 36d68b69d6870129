"""Holds and order lines: what of each is still open, as the fold of every fact that names it.

A fold sorts the facts by (time, rank, source, id), so the order in which topics deliver them has no influence.
Statements (`created`, `allocated`) rank first at equal times, then what takes, then what gives back: a void at the
very moment of the sale must find the sale. Nothing here moves stock on hand.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

from stock.echoes import paired

FACTS_MAX = 128  # Facts kept per hold or order line; the oldest half is then folded into a base for good.

FactKind = Literal["stated", "arrived", "renewed", "taken", "returned", "given_back"]
_RANK = {"stated": 0, "arrived": 1, "renewed": 1, "taken": 1, "returned": 1, "given_back": 2}


class Fact(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One fact about a hold or order line. `units` is None for all that is left; times are microseconds.

    What is told under one `echo` at one location, by several topics, is told of the same units. `topic` is the position
    of the one on which it stood.
    """

    time_us: int
    rank: int
    source: str
    id: str
    kind: FactKind
    location: str
    units: int | None
    expires_at_us: int | None
    echo: str | None = None
    topic: int = 0


def fact(
    kind: FactKind,
    time_us: int,
    source: str,
    id: str,
    location: str,
    units: int | None = None,
    expires_at_us: int | None = None,
    echo: str | None = None,
    topic: int = 0,
) -> Fact:
    """A fact, ranked by its kind.

    `stated` says what is open; `arrived` adds to it; `taken` and `returned` lower it (only what was taken can be given
    back, not what was returned by a deallocation or release); `given_back` restores; `renewed` moves the end.
    """
    return Fact(time_us, _RANK[kind], source, id, kind, location, units, expires_at_us, echo, topic)


_ALL = 1 << 40  # More than any hold has.

# By location and echo, the units that each topic has told of what was taken.
Sums = dict[str, dict[int, int]]


def _paired(facts: Iterable[Fact], sums: Sums) -> Iterator[tuple[FactKind, int | None, Fact]]:
    """What facts do in the order of time, each with its kind and units, where one told again does nothing."""
    for f in facts:
        if f.echo is None or f.units is None:
            yield f.kind, f.units, f
            continue
        more = _newly_told(f, sums)
        if more:
            yield "taken" if more > 0 else "given_back", abs(more), f


def _newly_told(f: Fact, sums: Sums) -> int:
    """By how much more was taken with this fact; it is noted in the sums."""
    of_echo = sums.setdefault(f"{f.location}|{f.echo}", {})
    units = f.units or 0
    return paired(of_echo, f.topic, units if f.kind == "taken" else -units)


class Missing(Struct, gc=False):
    """Units that facts asked for and did not find, since the newest statement; `since_us`: the first such fact."""

    units: int = 0
    since_us: int = 0

    def ask(self, time_us: int, units: int) -> None:
        """A fact asked for so many more than there were."""
        if not self.units:
            self.since_us = time_us
        self.units += units

    def give(self, units: int) -> None:
        """So many came back that were never there."""
        self.units = max(0, self.units - units)


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

    `applied` holds per keyed input the highest offset whose fact is in here. `channel`: for which the statement that
    holds was made, None if it did not tell.
    """

    applied: list[int]
    facts: list[Fact]
    location: str | None = None  # None until it is stated somewhere
    left: int = 0
    expires_at_us: int | None = None
    base: tuple[str | None, int, int | None] = _NOTHING
    # Only of a hold that was ever granted to a request.
    base_since: Since | None = None
    taken_after_us: int | None = None  # what was taken up to then was of an earlier hold of this name
    sums: Sums = {}  # of the base, and of what was over before the newest promise
    channel: str | None = None

    def add(self, new: Fact, channel: str | None = None, promised_us: int | None = None) -> bool:
        """Take a fact in and fold anew; False if it was in already, or has no part in this hold.

        Args:
            new: the fact.
            channel: for which it was told.
            promised_us: it states what was promised to a request whose record has this timestamp. That was decided
                knowing all statements, renewals and releases that stood before it: none of them changes the promise
                any more, whatever times they name. What was taken up to that timestamp was taken from an earlier hold,
                if there was one; else it may be a claim that came before what it claims.
        """
        if promised_us is not None:
            if self.location is not None:
                self.taken_after_us = max(self.taken_after_us or promised_us, promised_us)
            known, self.facts = self.facts, []
            for one in known:
                if one.kind == "taken" and not self._is_over(one):
                    self.facts.append(one)
                else:
                    self._pass(one)
            self.base, self.base_since = _NOTHING, _UNKNOWN
        elif new.kind == "taken" and self._is_over(new):
            if new.echo is None:
                return False
            self._pass(new)  # it may be told again by somebody else, who means the same units
            self.location, self.left, self.expires_at_us = self._folded(self.facts, _copied(self.sums))
            return False
        if not insert(self.facts, new):
            return False
        if new.kind == "stated" and (channel or self.channel) and new is _newest_statement(self.facts):
            self.channel = channel
        if len(self.facts) > FACTS_MAX:
            oldest = self.facts[: FACTS_MAX // 2]
            if self.base_since is not None:
                self.base_since = self._since(oldest)
            self.base = self._folded(oldest, self.sums)
            del self.facts[: FACTS_MAX // 2]
        self.location, self.left, self.expires_at_us = self._folded(self.facts, _copied(self.sums))
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

    def last_us(self) -> int:
        """The newest time that matters to this hold: its last fact, or its end while it binds units."""
        newest = self.facts[-1].time_us if self.facts else 0
        return max(newest, self.expires_at_us or 0) if self.left else newest

    def missing(self) -> Missing:
        """What was asked of this hold beyond what it had."""
        missing = Missing()
        self._folded(self.facts, _copied(self.sums), missing)
        return missing

    def _pass(self, over: Fact) -> None:
        """A fact has no part in what is held now; only who tells of its units again must not count them."""
        if over.echo is not None:
            _newly_told(over, self.sums)

    def _is_over(self, taking: Fact) -> bool:
        return self.taken_after_us is not None and taking.time_us <= self.taken_after_us

    def _folded(
        self, facts: list[Fact], sums: Sums, missing: Missing | None = None
    ) -> tuple[str | None, int, int | None]:
        location, left, end = self.base
        for kind, units, f in _paired(facts, sums):
            if kind == "stated":
                location, left, end = f.location, units or 0, f.expires_at_us
                if missing is not None:
                    missing.units = 0
            elif kind == "renewed":
                if location is not None and (end is None or f.time_us < end):
                    end = f.expires_at_us
            elif kind != "given_back":  # what comes back is not held again
                asked = left if units is None else units
                if missing is not None and asked > left:
                    missing.ask(f.time_us, asked - left)
                left -= min(asked, left)
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
    """The allocations of one order line, per location `[left, taken]` in units.

    `channels`: by location, for which the allocation was made; None where none told. Arrivals tell of none.
    `missed` is not stored: what `missing` says, where the facts were folded since they were taken back.
    """

    applied: list[int]
    facts: list[Fact]
    cells: dict[str, list[int]]
    base: dict[str, list[int]]
    sums: Sums = {}  # of the base
    channels: dict[str, str] | None = None
    missed: Missing | None = None

    def add(self, new: Fact, channel: str | None = None) -> bool:
        """Take a fact, told for a channel, in and fold anew; False if this very fact was in already."""
        if not insert(self.facts, new):
            return False
        if new.kind == "stated" and (channel or self.channels) and new is _newest_statement(self.facts, new.location):
            told = {**(self.channels or {}), new.location: channel}
            self.channels = {at: name for at, name in told.items() if name} or None
        if len(self.facts) > FACTS_MAX:
            self.base = self._folded(self.facts[: FACTS_MAX // 2], self.sums)
            del self.facts[: FACTS_MAX // 2]
        self.missed = Missing()
        self.cells = self._folded(self.facts, _copied(self.sums), self.missed)
        return True

    def left(self) -> dict[str, int]:
        """Units still allocated per location, without the locations that have none."""
        return {location: cell[0] for location, cell in self.cells.items() if cell[0]}

    def left_before(self, time_us: int) -> dict[str, int]:
        """Units that were allocated per location just before a time, as far back as facts are kept one by one."""
        if self.last_us() < time_us:
            return self.left()
        cells = self._folded([f for f in self.facts if f.time_us < time_us], _copied(self.sums))
        return {location: cell[0] for location, cell in cells.items()}

    def last_us(self) -> int:
        """The time of the newest fact."""
        return self.facts[-1].time_us if self.facts else 0

    def missing(self) -> Missing:
        """What was asked of this line beyond what it had."""
        if self.missed is None:
            self.missed = Missing()
            self._folded(self.facts, _copied(self.sums), self.missed)
        return self.missed

    def _folded(self, facts: list[Fact], sums: Sums, missing: Missing | None = None) -> dict[str, list[int]]:
        cells = {location: cell.copy() for location, cell in self.base.items()}
        for kind, told, f in _paired(facts, sums):
            units = told or 0
            if kind == "stated":
                cells[f.location] = [units, 0]
                if missing is not None:
                    missing.units = 0
                continue
            if kind == "arrived":
                cells.setdefault(f.location, [0, 0])[0] += units
                continue
            for location in _own_first(f.location, cells):
                cell = cells[location]
                if kind == "given_back":
                    moved = min(units, cell[1])
                    cell[0] += moved
                    cell[1] -= moved
                else:
                    moved = min(units, cell[0])
                    cell[0] -= moved
                    cell[1] += moved if kind == "taken" else 0
                units -= moved
            if missing is not None and units:
                missing.give(units) if kind == "given_back" else missing.ask(f.time_us, units)
        return cells


def _copied(sums: Sums) -> Sums:
    return {echo: of_echo.copy() for echo, of_echo in sums.items()}


def _newest_statement(facts: list[Fact], location: str | None = None) -> Fact | None:
    """The statement that holds, of all or at one location."""
    return next((f for f in reversed(facts) if f.kind == "stated" and location in (None, f.location)), None)


def _own_first(own: str, cells: dict[str, list[int]]) -> list[str]:
    """The locations of a line in the order in which a fact told at `own` reaches them."""
    if len(cells) == 1:
        return list(cells)
    return sorted(cells, key=lambda location: (location != own, location))


def insert(facts: list[F], new: F) -> bool:
    """Put a fact in its place by time; False if this very fact was in already."""
    for known in facts:
        if known.id == new.id and known.source == new.source:
            return False
    insort(facts, new)  # type: ignore[call-overload]  # its Struct has an order
    return True
