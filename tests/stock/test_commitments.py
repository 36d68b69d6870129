"""What binds stock: sums per key, ends on time, forgetting, limits, and taking back from state."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from stock import commitments as module
from stock.commitments import (
    CLOSED_HORIZON_US,
    Commitments,
    hold_key,
    is_order_key,
    line_key,
    reservation_in,
)
from stock.orders import FACTS_MAX, Fact, FactKind, fact
from stock.times import HOUR_US

_offsets = count()
R, L = hold_key("SKU", "R", None), line_key("SKU", "L")


@pytest.fixture
def bound() -> Commitments:
    """Nothing bound yet."""
    return Commitments(4)


def said(kind: FactKind, at: int, units: int | None = None, end: int | None = None, location: str = "A") -> Fact:
    """A fact with a new id."""
    return fact(kind, at, "s", f"{next(_offsets):06d}", location, units, end)


def hold(bound: Commitments, told: Fact, key: str = R, offset: int | None = None) -> dict[str, int]:
    """Tell a hold something; what changed, by key."""
    return dict(bound.tell_hold("SKU", key, told, 2, next(_offsets) if offset is None else offset))


def line(bound: Commitments, told: Fact, key: str = L, offset: int | None = None) -> dict[str, int]:
    """Tell an order line something; what changed, by key."""
    return dict(bound.tell_line("SKU", key, told, 2, next(_offsets) if offset is None else offset))


KEYS = [
    ("a hold", hold_key("SKU", "R", None), "R"),
    ("a line of it", hold_key("SKU", "R", "1"), "R"),
    ("bars and colons", hold_key("SKU", "R|a:b", "c|d"), "R|a:b"),
    ("digits", hold_key("SKU", "12", "3"), "12"),
    ("other alphabets", hold_key("SKU", "Ünïcödé-订单", "x"), "Ünïcödé-订单"),
]


@pytest.mark.parametrize(("text", "key", "reservation"), KEYS)
def test_a_hold_key_tells_its_reservation(text: str, key: str, reservation: str) -> None:
    """Whatever the name contains."""
    assert reservation_in(key) == reservation, text
    assert is_order_key(key)


def test_state_keys_are_distinct() -> None:
    """Reservation and line never run into each other, and no balance looks like an order."""
    keys = [
        hold_key("SKU", "R1", "1"),
        hold_key("SKU", "R", "11"),
        hold_key("SKU", "R11", None),
        hold_key("SKU2", "R1", "1"),
        line_key("SKU", "R1"),
        line_key("SKU2", "R1"),
        "SKU|R1",
    ]
    assert len(set(keys)) == len(keys)
    assert [is_order_key(key) for key in keys] == [True] * 6 + [False]


def test_holds_and_lines_add_up_per_key(bound: Commitments) -> None:
    """Every change says which key binds how much more."""
    assert hold(bound, said("stated", 1, 3)) == {"SKU|A": 3}
    assert hold(bound, said("stated", 1, 2), hold_key("SKU", "Q", None)) == {"SKU|A": 2}
    assert line(bound, said("stated", 1, 4)) == {"SKU|A": 4}
    assert bound.units("SKU|A") == 9
    assert hold(bound, said("taken", 2, 9)) == {"SKU|A": -3}
    assert line(bound, said("taken", 2, 1)) == {"SKU|A": -1}
    assert (bound.units("SKU|A"), bound.units("SKU|B"), len(bound)) == (5, 0, 3)


def test_a_hold_that_moves_frees_one_key_and_binds_another(bound: Commitments) -> None:
    """Both keys are told."""
    hold(bound, said("stated", 1, 3))
    assert hold(bound, said("stated", 2, 4, location="B")) == {"SKU|A": -3, "SKU|B": 4}
    assert hold(bound, said("stated", 1, 9)) == {}, "an older statement"
    assert (bound.units("SKU|A"), bound.units("SKU|B")) == (0, 4)


def test_an_order_line_changes_every_location_it_reaches(bound: Commitments) -> None:
    """A fact at one location may free units at others."""
    line(bound, said("stated", 1, 3))
    line(bound, said("stated", 1, 3, location="B"))
    assert line(bound, said("taken", 2, 5, location="B")) == {"SKU|A": -2, "SKU|B": -3}


def test_a_claim_waits_for_its_creation(bound: Commitments) -> None:
    """It binds nothing, and the creation starts reduced."""
    assert hold(bound, said("taken", 5, 2)) == {}
    assert hold(bound, said("stated", 1, 3)) == {"SKU|A": 1}


def test_a_replayed_fact_is_known_by_its_offset(bound: Commitments) -> None:
    """Also when the fact itself has been folded away."""
    first_hold, first_line = said("stated", 0, 500), said("stated", 0, 500)
    hold(bound, first_hold, offset=10)
    line(bound, first_line, offset=10)
    taken = [said("taken", at, 1) for at in range(1, FACTS_MAX + 10)]
    for at, one in enumerate(taken, 11):
        hold(bound, one, offset=at)
        line(bound, one, offset=at)
    left = bound.units("SKU|A")
    assert left == 2 * (500 - len(taken))
    for at, one in enumerate([first_hold, *taken], 10):
        assert hold(bound, one, offset=at) == {}
        assert line(bound, one, offset=at) == {}
    assert bound.units("SKU|A") == left


def test_a_hold_ends_exactly_at_its_time(bound: Commitments) -> None:
    """Not a microsecond early; then its units are free, and who ended and when is said."""
    hold(bound, said("stated", 1, 3, end=100))
    assert bound.next_timer_us() == 100
    assert list(bound.advance(99)) == []
    assert bound.units("SKU|A") == 3
    assert list(bound.advance(100)) == [("SKU|A", "R", 100)]
    assert bound.units("SKU|A") == 0
    assert list(bound.advance(200)) == []


def test_holds_of_one_end_all_end(bound: Commitments) -> None:
    """Nobody is left behind because another ended at the same moment."""
    names = [f"R{i}" for i in range(5)]
    for name in names:
        hold(bound, said("stated", 1, 1, end=100), hold_key("SKU", name, None))
    assert sorted(name for _, name, _ in bound.advance(150)) == names
    assert bound.units("SKU|A") == 0


@pytest.mark.parametrize(
    ("text", "facts", "silent"),
    [
        ("renewed in time", [("renewed", 90, None, 300)], True),
        ("renewed too late", [("renewed", 100, None, 300)], False),
        ("used up", [("taken", 50, 3, None)], True),
        ("used in part", [("taken", 50, 2, None)], False),
        ("released", [("returned", 50, None, None)], True),
    ],
)
def test_only_what_is_left_ends(text: str, facts: list[tuple[Any, ...]], silent: bool) -> None:
    """A renewal moves the end; a hold with nothing left ends without a word."""
    bound = Commitments(4)
    hold(bound, said("stated", 1, 3, end=100))
    for one in facts:
        hold(bound, said(*one))
    assert (list(bound.advance(200)) == []) is silent, text


def test_a_late_valid_renewal_opens_an_ended_hold_again(bound: Commitments) -> None:
    """What counts is when it happened, not when it arrived; it then ends at the new time, once."""
    hold(bound, said("stated", 1, 3, end=100))
    assert len(list(bound.advance(150))) == 1
    assert hold(bound, said("renewed", 90, end=300)) == {"SKU|A": 3}
    assert list(bound.advance(299)) == []
    assert list(bound.advance(300)) == [("SKU|A", "R", 300)]


def test_an_end_that_went_and_came_back_is_reported_once(bound: Commitments) -> None:
    """Two timers for one end make one end."""
    hold(bound, said("stated", 1, 3, end=100))
    hold(bound, said("renewed", 2, end=200))
    hold(bound, said("renewed", 3, end=100))
    assert list(bound.advance(250)) == [("SKU|A", "R", 100)]


def test_a_hold_created_after_its_end_binds_nothing(bound: Commitments) -> None:
    """It arrived too late to matter."""
    list(bound.advance(100))
    assert hold(bound, said("stated", 1, 3, end=100)) == {}
    assert list(bound.advance(500)) == []


def test_a_clock_set_back_changes_nothing(bound: Commitments) -> None:
    """What ended stays ended."""
    hold(bound, said("stated", 1, 3, end=100))
    list(bound.advance(150))
    assert list(bound.advance(50)) == []
    assert (bound.clock_us, bound.units("SKU|A")) == (150, 0)


def test_what_is_closed_is_forgotten_after_a_day(bound: Commitments) -> None:
    """Not a moment earlier, since late facts may still come; its state record is deleted."""
    hold(bound, said("stated", 1, 3))
    hold(bound, said("taken", 10, 3))
    line(bound, said("stated", 1, 3))
    line(bound, said("returned", 10, 3))
    assert sorted(key for key, packed in bound.flush() if packed is not None) == sorted((R, L))
    list(bound.advance(10 + CLOSED_HORIZON_US - 1))
    assert (len(bound), bound.dirty) == (2, False)
    list(bound.advance(10 + CLOSED_HORIZON_US + HOUR_US))
    assert (len(bound), bound.dirty) == (0, True)
    assert dict(bound.flush()) == {R: None, L: None}
    assert bound.dirty is False


def test_what_is_open_is_never_forgotten(bound: Commitments) -> None:
    """However long ago it was told."""
    hold(bound, said("stated", 1, 3))
    line(bound, said("stated", 1, 4))
    for days in range(1, 5):
        list(bound.advance(days * CLOSED_HORIZON_US))
    assert (len(bound), bound.units("SKU|A")) == (2, 7)


def test_a_hold_that_ended_is_forgotten_a_day_after_its_end(bound: Commitments) -> None:
    """A renewal may be that late."""
    hold(bound, said("stated", 1, 3, end=10 * HOUR_US))
    list(bound.advance(10 * HOUR_US + CLOSED_HORIZON_US - 1))
    assert len(bound) == 1
    list(bound.advance(12 * HOUR_US + CLOSED_HORIZON_US))
    assert len(bound) == 0


def test_a_sku_has_a_limit_of_orders(monkeypatch: pytest.MonkeyPatch, bound: Commitments) -> None:
    """Known ones still take facts, other SKUs are free, and forgetting makes room."""
    monkeypatch.setattr(module, "ORDERS_PER_SKU_MAX", 2)
    hold(bound, said("stated", 1, 3))
    line(bound, said("stated", 1, 3))
    assert bound.is_full("SKU", hold_key("SKU", "Q", None)) is True
    assert (bound.is_full("SKU", R), bound.is_full("OTHER", "any")) == (False, False)
    line(bound, said("taken", 2, 3))
    list(bound.advance(2 * CLOSED_HORIZON_US))
    assert bound.is_full("SKU", hold_key("SKU", "Q", None)) is False


def test_commitments_survive_their_state(bound: Commitments) -> None:
    """Units, ends, offsets and forgetting go on as if nothing had happened."""
    hold(bound, said("stated", 1, 3, end=1_000), offset=1_000_000)
    hold(bound, said("stated", 1, 2, end=50), hold_key("SKU", "Q", "1"))
    line(bound, said("stated", 1, 4))
    line(bound, said("stated", 1, 5, location="B"))
    list(bound.advance(100))
    again = Commitments(4)
    again.clock_us = bound.clock_us
    for key, packed in bound.flush():
        assert packed is not None
        again.restore(key, packed)
    assert (again.units("SKU|A"), again.units("SKU|B"), len(again)) == (7, 5, 3)
    assert hold(again, said("taken", 5, 1), offset=1_000_000) == {}, "known by its offset"
    assert again.next_timer_us() == 1_000
    assert list(again.advance(2_000)) == [("SKU|A", "R", 1_000)]
    assert again.is_full("SKU", "any") is False


def test_a_promise_survives_its_state(bound: Commitments) -> None:
    """What it may not lose to, what was released of it, and whose it is, however many facts came since."""
    hold(bound, said("stated", 1, 9), offset=1_000_000)
    promise = said("stated", 10, 5)
    bound.tell_hold("SKU", R, promise, 2, 1_000_001, promised_us=12)
    hold(bound, said("returned", 13, 2), offset=1_000_002)
    for at in range(FACTS_MAX):
        hold(bound, said("renewed", 20 + at, end=10_000), offset=1_000_003 + at)
    again = Commitments(4)
    for key, packed in bound.flush():
        assert packed is not None
        again.restore(key, packed)
    for each in (bound, again):
        assert each.promised(R, promise.source, promise.id, 5, 100) == 3
        assert each.promised(R, promise.source, "another", 5, 100) == 0
        assert each.promised(R, promise.source, promise.id, 5, 10_000) == 0
        assert hold(each, said("taken", 12, 1), offset=2_000_000) == {}, "it was of the hold before"
        assert hold(each, said("taken", 13, 1), offset=2_000_001) == {"SKU|A": -1}


def test_what_is_bound_is_known_ahead_of_the_clock(bound: Commitments) -> None:
    """Nothing ends by asking; what changes meanwhile counts, and the clock goes on as if nobody had asked."""
    hold(bound, said("stated", 1, 3, end=100))
    hold(bound, said("stated", 1, 4, end=200), hold_key("SKU", "Q", None))
    asked = [bound.units_at("SKU|A", at) for at in (50, 100, 199, 200, 150, 50)]
    assert asked == [7, 4, 4, 0, 4, 7]
    assert (bound.units("SKU|A"), bound.next_timer_us()) == (7, 100)
    hold(bound, said("renewed", 90, end=300))
    hold(bound, said("taken", 20, 1), hold_key("SKU", "Q", None))
    assert [bound.units_at("SKU|A", at) for at in (150, 200, 300)] == [6, 3, 0]
    assert [(name, at) for _, name, at in bound.advance(250)] == [("Q", 200)]
    assert (bound.units("SKU|A"), bound.units_at("SKU|A", 299), bound.units_at("SKU|A", 300)) == (3, 3, 0)


def test_a_key_that_somebody_overwrote_is_written_again(bound: Commitments) -> None:
    """Its truth, or its deletion if there is none."""
    hold(bound, said("stated", 1, 3))
    [(_, packed)] = bound.flush()
    bound.rewrite(R)
    bound.rewrite(L)
    assert dict(bound.flush()) == {R: packed, L: None}


def test_a_hold_without_a_near_end_is_forgotten_a_day_after_its_late_release() -> None:
    """An end in the year 9999 must not keep what was released long before it."""
    commitments, key = Commitments(4), hold_key("SKU", "R", None)
    commitments.tell_hold("SKU", key, fact("stated", 5, "s", "1", "A", 2, 10**18), 2, 0)
    assert list(commitments.advance(2 * CLOSED_HORIZON_US)) == []
    commitments.tell_hold("SKU", key, fact("returned", 2 * CLOSED_HORIZON_US, "s", "2", "A"), 2, 1)
    assert list(commitments.advance(4 * CLOSED_HORIZON_US)) == []
    assert len(commitments) == 0
