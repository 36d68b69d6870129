"""Holds and order lines as folds: the same end in whatever order their facts arrive."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, permutations
from typing import Any

import pytest

from stock.commitments import CLOSED_HORIZON_US, Commitments, hold_key
from stock.orders import FACTS_MAX, Fact, FactKind, Hold, OrderLine, fact
from stock.times import HOUR_US

_ids = count(1)


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def said(kind: FactKind, at: int, units: int | None = None, end: int | None = None, **own: Any) -> Fact:
    """A fact at A with a new id."""
    return fact(
        kind, at, own.get("source", "s"), own.get("id", f"{next(_ids):06d}"), own.get("location", "A"), units, end
    )


def stated(at: int, units: int, end: int | None = None, **own: Any) -> Fact:
    """What is open, from here on."""
    return said("stated", at, units, end, **own)


def taken(at: int, units: int, **own: Any) -> Fact:
    """Units that a sale or shipment took."""
    return said("taken", at, units, **own)


def returned(at: int, units: int | None, **own: Any) -> Fact:
    """Units released or deallocated; None for all."""
    return said("returned", at, units, **own)


def given_back(at: int, units: int, **own: Any) -> Fact:
    """Units that a void brings back."""
    return said("given_back", at, units, **own)


def renewed(at: int, end: int) -> Fact:
    """Another end."""
    return said("renewed", at, end=end)


def hold_of(facts: Iterable[Fact]) -> Hold:
    """The hold after facts in this order."""
    hold = Hold([-1] * 4, [])
    for one in facts:
        hold.add(one)
    return hold


def line_of(facts: Iterable[Fact]) -> OrderLine:
    """The order line after facts in this order."""
    line = OrderLine([-1] * 4, [], {}, {})
    for one in facts:
        line.add(one)
    return line


HOLDS = [
    case("created", [stated(1, 3)], ("A", 3, None)),
    case("taken in part", [stated(1, 3), taken(2, 2)], ("A", 1, None)),
    case("more taken than held", [stated(1, 2), taken(2, 3)], ("A", 0, None)),
    case("released in part", [stated(1, 3), returned(2, 1)], ("A", 2, None)),
    case("released whole", [stated(1, 3), returned(2, None)], ("A", 0, None)),
    case("released twice", [stated(1, 3), returned(2, 2), returned(3, 2)], ("A", 0, None)),
    case("created anew after its release", [stated(1, 3), returned(2, None), stated(3, 5)], ("A", 5, None)),
    case("a newer creation states all of it", [stated(1, 3), taken(2, 1), stated(3, 3)], ("A", 3, None)),
    case("a newer creation elsewhere moves it", [stated(1, 3), stated(2, 2, location="B")], ("B", 2, None)),
    case(
        "at equal times the greater source wins", [stated(1, 3, source="a"), stated(1, 5, source="b")], ("A", 5, None)
    ),
    case("then the greater id", [stated(1, 3, id="a"), stated(1, 5, id="b")], ("A", 5, None)),
    case("taken before it was created", [taken(1, 2), stated(2, 3)], ("A", 3, None)),
    case("taken at the moment of creation", [taken(2, 2), stated(2, 3)], ("A", 1, None)),
    case("taken elsewhere counts too", [stated(1, 3), taken(2, 2, location="B")], ("A", 1, None)),
    case("never created", [taken(1, 2), returned(2, None)], (None, 0, None)),
    case("with an end", [stated(1, 3, 10)], ("A", 3, 10)),
    case("renewed in time", [stated(1, 3, 10), renewed(9, 20)], ("A", 3, 20)),
    case("renewed too late", [stated(1, 3, 10), renewed(11, 20)], ("A", 3, 10)),
    case("renewed at the very end is too late", [stated(1, 3, 10), renewed(10, 20)], ("A", 3, 10)),
    case("renewed twice", [stated(1, 3, 10), renewed(9, 20), renewed(15, 30)], ("A", 3, 30)),
    case("a renewal that hangs on one that failed", [stated(1, 3, 10), renewed(11, 20), renewed(15, 30)], ("A", 3, 10)),
    case("a renewal may shorten", [stated(1, 3, 10), renewed(2, 5)], ("A", 3, 5)),
    case("a shortened hold cannot be renewed later", [stated(1, 3, 10), renewed(2, 5), renewed(6, 20)], ("A", 3, 5)),
    case("an endless hold gets an end", [stated(1, 3), renewed(2, 5)], ("A", 3, 5)),
    case("renewed before it was created", [renewed(1, 20), stated(2, 3, 10)], ("A", 3, 10)),
    case("renewed at the moment of creation", [renewed(2, 20), stated(2, 3, 10)], ("A", 3, 20)),
    case("a creation after the end opens it again", [stated(1, 3, 10), stated(12, 2, 30)], ("A", 2, 30)),
]


@pytest.mark.parametrize(("facts", "expected"), HOLDS)
def test_a_hold_is_the_fold_of_its_facts(facts: list[Fact], expected: tuple[str | None, int, int | None]) -> None:
    """Location, units left and end, in every order of arrival."""
    for order in permutations(facts):
        hold = hold_of(order)
        assert (hold.location, hold.left, hold.expires_at_us) == expected, order


ENDS = [
    case("before its end", 10, 9, 3),
    case("at its end", 10, 10, 0),
    case("after its end", 10, 11, 0),
    case("without an end", None, 10**15, 3),
]


@pytest.mark.parametrize(("end", "clock", "open_units"), ENDS)
def test_a_hold_binds_until_its_end(end: int | None, clock: int, open_units: int) -> None:
    """At the end itself it binds no more."""
    assert hold_of([stated(1, 3, end)]).open_units(clock) == open_units


LINES = [
    case("allocated", [stated(1, 5)], {"A": 5}),
    case("fulfilled in part", [stated(1, 5), taken(2, 2)], {"A": 3}),
    case("fulfilled", [stated(1, 5), taken(2, 5)], {}),
    case("more fulfilled than allocated", [stated(1, 5), taken(2, 9)], {}),
    case("deallocated in part", [stated(1, 5), returned(2, 2)], {"A": 3}),
    case("a newer allocation states it anew", [stated(1, 5), taken(2, 2), stated(3, 5)], {"A": 5}),
    case("a location each", [stated(1, 5), stated(2, 3, location="B")], {"A": 5, "B": 3}),
    case("its own location first", [stated(1, 5), stated(1, 3, location="B"), taken(2, 4, location="B")], {"A": 4}),
    case(
        "then the others by id",
        [stated(1, 1, location="C"), stated(1, 1, location="B"), taken(2, 1)],
        {"C": 1},
    ),
    case("taken elsewhere only", [stated(1, 5), taken(2, 2, location="B")], {"A": 3}),
    case("a void restores", [stated(1, 5), taken(2, 2), given_back(2, 2)], {"A": 5}),
    case("a void told at the moment of its sale", [stated(1, 5), taken(2, 5), given_back(2, 5)], {"A": 5}),
    case("no more than was taken comes back", [stated(1, 5), taken(2, 2), given_back(3, 9)], {"A": 5}),
    case("what was deallocated does not", [stated(1, 5), returned(2, 2), given_back(3, 2)], {"A": 3}),
    case("nothing taken, nothing back", [stated(1, 5), given_back(2, 2)], {"A": 5}),
    case("a void elsewhere finds it", [stated(1, 5), taken(2, 2), given_back(3, 2, location="B")], {"A": 5}),
    case("taken before it was allocated", [taken(1, 2), stated(2, 5)], {"A": 5}),
    case("taken at the moment of allocation", [taken(2, 2), stated(2, 5)], {"A": 3}),
    case("never allocated", [taken(1, 2), given_back(2, 2)], {}),
    case(
        "a newer allocation forgets what was taken",
        [stated(1, 5), taken(2, 2), stated(3, 5), given_back(4, 2)],
        {"A": 5},
    ),
]


@pytest.mark.parametrize(("facts", "expected"), LINES)
def test_an_order_line_is_the_fold_of_its_facts(facts: list[Fact], expected: dict[str, int]) -> None:
    """Units still allocated per location, in every order of arrival."""
    for order in permutations(facts):
        assert line_of(order).left() == expected, order


def test_a_repeated_fact_changes_nothing() -> None:
    """Known by its source and id, whatever it says the second time."""
    hold, line = hold_of([stated(1, 5, id="x")]), line_of([stated(1, 5, id="x")])
    again = taken(2, 2, id="x")
    assert hold.add(again) is False
    assert line.add(again) is False
    assert (hold.left, line.left()) == (5, {"A": 5})
    assert hold.add(taken(2, 2, id="x", source="other")) is True


def test_the_oldest_facts_are_folded_for_good() -> None:
    """What is kept of a hold or line is bounded, and its numbers stay right."""
    facts = [stated(0, 1_000), *(taken(at, 1) for at in range(1, 400))]
    hold, line = hold_of(facts), line_of(facts)
    assert (hold.left, line.left()) == (601, {"A": 601})
    assert max(len(hold.facts), len(line.facts)) <= FACTS_MAX
    hold.add(taken(400, 2))
    line.add(given_back(400, 2))
    assert (hold.left, line.left()) == (599, {"A": 603})


def test_a_folded_hold_keeps_location_and_end() -> None:
    """Renewals still find it."""
    hold = hold_of([stated(0, 5, 10_000, location="B"), *(renewed(at, 10_000 + at) for at in range(1, 300))])
    assert (hold.location, hold.left, hold.expires_at_us) == ("B", 5, 10_299)


def test_the_newest_time_is_known() -> None:
    """It decides how long a hold or line is remembered: its last fact or, while units are left, a later end."""
    assert hold_of([]).last_us() == 0
    assert hold_of([stated(5, 1), taken(3, 1)]).last_us() == 5
    assert hold_of([stated(5, 2, 90), taken(7, 1)]).last_us() == 90
    assert hold_of([stated(5, 2, 6), taken(7, 1)]).last_us() == 7
    assert line_of([stated(5, 1), taken(3, 1)]).last_us() == 5


@pytest.mark.parametrize("last", [taken(7, 2), returned(7, None), returned(7, 2)])
def test_the_end_of_a_hold_without_units_does_not_matter(last: Fact) -> None:
    """Whoever holds without an end says the year 9999: what is closed must be forgotten nevertheless."""
    assert hold_of([stated(5, 2, 10**18), last]).last_us() == 7


@pytest.mark.parametrize("restarted", [False, True])
def test_a_released_hold_with_a_far_end_is_forgotten_after_a_day(restarted: bool) -> None:
    """Else such holds fill their SKU up to its limit."""
    bound, key = Commitments(4), hold_key("SKU", "R", None)
    bound.tell_hold("SKU", key, stated(5, 2, 10**18), 2, 0)
    bound.tell_hold("SKU", key, returned(7, None), 2, 1)
    if restarted:
        [(key, packed)] = bound.flush()
        assert packed is not None
        bound = Commitments(4)
        bound.restore(key, packed)
    list(bound.advance(7 + CLOSED_HORIZON_US - 1))
    assert len(bound) == 1
    list(bound.advance(7 + CLOSED_HORIZON_US + HOUR_US))
    assert len(bound) == 0
