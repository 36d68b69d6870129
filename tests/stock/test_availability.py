"""The formula: numbers, statuses with their reasons, the low-stock band, and what is urgent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stock.availability import STATUSES, View, is_urgent, low_flags, view
from stock.balance import HAS_BASELINE, LOW_PICKUP, LOW_SHIP, Balance
from stock.terms import ModeTerms, Terms

OPEN = ModeTerms(off=None, safety_stock=0, enter=3, exit=4, policy=None)


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def mode(**changed: Any) -> ModeTerms:
    """Terms of an open mode with low stock up to 3, and what is changed of them."""
    return ModeTerms(**{**{name: getattr(OPEN, name) for name in OPEN.__struct_fields__}, **changed})


def terms(ship: ModeTerms = OPEN, pickup: ModeTerms | None = None) -> Terms:
    """Terms of both modes; the same for both unless said."""
    other = ship if pickup is None else pickup
    return Terms(ship, other, banded=True, alike=ship == other)


def seen(on_hand: int, committed: int = 0, rules: Terms | None = None, flags: int = HAS_BASELINE, **own: int) -> View:
    """The view of a balance."""
    balance = Balance([-1] * 4, on_hand=on_hand, flags=flags, **own)
    return view(balance, committed, rules or terms())


def statuses(found: View) -> tuple[str, str]:
    """Both statuses as they are published."""
    return STATUSES[found.ship.status], STATUSES[found.pickup.status]


NUMBERS = [
    case("plain", {"on_hand": 7}, 0, 0, 7, 0, 0),
    case("committed is not available", {"on_hand": 7}, 2, 0, 5, 0, 0),
    case("safety stock is withheld", {"on_hand": 7}, 0, 2, 5, 2, 0),
    case("no more is withheld than there is", {"on_hand": 1}, 0, 5, 0, 1, 0),
    case("exactly the safety stock", {"on_hand": 2}, 0, 2, 0, 2, 0),
    case("one above the safety stock", {"on_hand": 3}, 0, 2, 1, 2, 0),
    case("nothing there, nothing withheld", {"on_hand": 0}, 0, 2, 0, 0, 0),
    case("more committed than there is is a shortage", {"on_hand": 5}, 8, 2, 0, 0, 3),
    case("below zero is a shortage", {"on_hand": -4}, 0, 0, 0, 0, 4),
    case("below zero and committed add up", {"on_hand": -4}, 2, 0, 0, 0, 6),
    case("damaged cannot be sold", {"on_hand": 7, "damaged": 3}, 0, 0, 4, 0, 0),
    case("nor what is held back", {"on_hand": 7, "quality_hold": 3}, 0, 0, 4, 0, 0),
    case("nor what is on display", {"on_hand": 7, "display": 3}, 0, 0, 4, 0, 0),
    case("all of them add up", {"on_hand": 7, "damaged": 1, "quality_hold": 2, "display": 1}, 0, 0, 3, 0, 0),
    case("a counter below zero adds nothing", {"on_hand": 7, "damaged": -2, "display": 3}, 0, 0, 4, 0, 0),
    case("more unavailable than there is is a shortage", {"on_hand": 2, "damaged": 5}, 0, 0, 0, 0, 3),
]


@pytest.mark.parametrize(("balance", "committed", "safety_stock", "available", "withheld", "shortage"), NUMBERS)
def test_numbers_follow_the_formula(
    balance: dict[str, int], committed: int, safety_stock: int, available: int, withheld: int, shortage: int
) -> None:
    """On hand less unavailable less committed; of what is left safety stock is withheld, of what lacks a shortage."""
    found = seen(committed=committed, rules=terms(mode(safety_stock=safety_stock)), **balance)
    assert (found.ship.available, found.ship.withheld, found.shortage) == (available, withheld, shortage)
    assert found.on_hand == balance["on_hand"]
    assert found.committed == committed
    assert found.ship.safety_stock == safety_stock


NO_BASELINE = 0
STATUS = [
    case("location off comes first", "location_off", 0, NO_BASELINE, 9, ("OUT_OF_STOCK", "location_off", 0, 0)),
    case("excluded comes first too", "excluded", 2, HAS_BASELINE, 9, ("OUT_OF_STOCK", "excluded", 0, 0)),
    case("an off mode withholds nothing", "location_off", 5, HAS_BASELINE, 3, ("OUT_OF_STOCK", "location_off", 0, 0)),
    case("never counted is unknown, not zero", None, 0, NO_BASELINE, 9, ("UNKNOWN", "no_baseline", None, 0)),
    case("unknown withholds nothing", None, 5, NO_BASELINE, 3, ("UNKNOWN", "no_baseline", None, 0)),
    case("more than low", None, 0, HAS_BASELINE, 4, ("IN_STOCK", None, 4, 0)),
    case("low", None, 0, HAS_BASELINE, 3, ("LOW_STOCK", None, 3, 0)),
    case("the last one is low", None, 0, HAS_BASELINE, 1, ("LOW_STOCK", None, 1, 0)),
    case("none left", None, 0, HAS_BASELINE, 0, ("OUT_OF_STOCK", "sold_out", 0, 0)),
    case("less than none", None, 2, HAS_BASELINE, -3, ("OUT_OF_STOCK", "sold_out", 0, 0)),
    case("all withheld", None, 2, HAS_BASELINE, 2, ("OUT_OF_STOCK", "withheld_by_safety_stock", 0, 2)),
    case("less than is to be withheld", None, 5, HAS_BASELINE, 2, ("OUT_OF_STOCK", "withheld_by_safety_stock", 0, 2)),
    case("low above the safety stock", None, 2, HAS_BASELINE, 4, ("LOW_STOCK", None, 2, 2)),
]


@pytest.mark.parametrize(("off", "safety_stock", "flags", "on_hand", "expected"), STATUS)
def test_status_is_the_first_row_that_fits(
    off: str | None, safety_stock: int, flags: int, on_hand: int, expected: tuple[str, str | None, int | None, int]
) -> None:
    """Status, reason, available and withheld of one mode."""
    found = seen(on_hand, rules=terms(mode(off=off, safety_stock=safety_stock)), flags=flags).ship
    assert (STATUSES[found.status], found.reason, found.available, found.withheld) == expected


SHARES = [
    case("nothing there", 0, 50, 0, 0, 0),
    case("rounded up", 9, 10, 0, 0, 1),
    case("even", 10, 10, 0, 0, 1),
    case("all of it", 10, 100, 0, 0, 10),
    case("less than the safety stock", 10, 10, 3, 0, 3),
    case("more than the safety stock", 10, 50, 3, 0, 5),
    case("buffers come on top of either", 10, 50, 3, 2, 7),
    case("below zero", -10, 50, 3, 2, 5),
]


@pytest.mark.parametrize(("on_hand", "percent", "safety_stock", "on_top", "kept"), SHARES)
def test_a_share_of_what_is_there_may_be_kept_back(
    on_hand: int, percent: int, safety_stock: int, on_top: int, kept: int
) -> None:
    """Of the physical stock, whatever is committed; the larger of share and safety stock, then the buffers."""
    held_back = mode(safety_stock=safety_stock + on_top, percent=percent, on_top=on_top)
    for committed in (0, 4):
        assert seen(on_hand, committed, terms(held_back)).ship.safety_stock == kept


def test_a_share_is_of_what_can_be_sold() -> None:
    """Damaged units are no stock."""
    assert seen(20, rules=terms(mode(percent=50)), damaged=10).ship.safety_stock == 5


BACKORDERS: list[Any] = [
    case("stock goes first", "active", 5, 3, ("IN_STOCK", None, 5), 3),
    case("then backorders", "active", 0, 3, ("BACKORDERABLE", None, 0), 3),
    case("less what is owed", "active", -2, 3, ("BACKORDERABLE", None, 0), 1),
    case("up to the limit", "active", -3, 3, ("OUT_OF_STOCK", "sold_out", 0), 0),
    case("and no further", "active", -9, 3, ("OUT_OF_STOCK", "sold_out", 0), 0),
    case("a preorder", "preorder", 0, 3, ("PREORDERABLE", None, 0), 3),
    case("a preorder sells no stock", "preorder", 5, 3, ("PREORDERABLE", None, 0), 3),
    case("a full preorder", "preorder", -3, 3, ("OUT_OF_STOCK", None, 0), 0),
    case("what is discontinued is not ordered", "discontinued", 0, 3, ("DISCONTINUED", None, 0), 3),
]


@pytest.mark.parametrize(("lifecycle", "on_hand", "limit", "wanted", "left"), BACKORDERS)
def test_more_may_be_sold_than_there_is(
    lifecycle: Any, on_hand: int, limit: int, wanted: tuple[Any, ...], left: int
) -> None:
    """As far as the limit and the shortage allow."""
    held = msgspec.structs.replace(terms(), backorder_limit=limit)
    found = view(Balance([-1] * 4, on_hand=on_hand, flags=HAS_BASELINE), 0, held, lifecycle=lifecycle)
    assert (STATUSES[found.ship.status], found.ship.reason, found.ship.available) == wanted
    assert found.backorder_left == left


def test_where_nothing_sells_nothing_is_ordered() -> None:
    """With both modes off nothing is left of the limit; one mode that is on keeps it."""
    off = mode(off="location_off")
    closed = msgspec.structs.replace(terms(off), backorder_limit=3)
    half = msgspec.structs.replace(terms(off, OPEN), backorder_limit=3)
    assert (seen(0, rules=closed).backorder_left, statuses(seen(0, rules=closed))) == (0, ("OUT_OF_STOCK",) * 2)
    assert (seen(0, rules=half).backorder_left, statuses(seen(0, rules=half))) == (3, ("OUT_OF_STOCK", "BACKORDERABLE"))


STALE: list[Any] = [
    case("stock of a silent feed", HAS_BASELINE, "active", ("UNKNOWN", "stale_source", None)),
    case("nothing was ever known", NO_BASELINE, "active", ("UNKNOWN", "no_baseline", None)),
    case("a preorder needs no stock", HAS_BASELINE, "preorder", ("OUT_OF_STOCK", None, 0)),
]


@pytest.mark.parametrize(("flags", "lifecycle", "wanted"), STALE)
def test_what_a_silent_feed_said_is_not_known(flags: int, lifecycle: Any, wanted: tuple[Any, ...]) -> None:
    """Unless a policy says what to keep back then, which is part of the safety stock."""
    found = view(Balance([-1] * 4, on_hand=9, flags=flags), 0, terms(mode(stale=True)), lifecycle=lifecycle).ship
    assert (STATUSES[found.status], found.reason, found.available) == wanted
    assert found.withheld == 0


def test_unknown_still_tells_what_is_known() -> None:
    """Without a baseline only available and withheld change; the other numbers are what they are."""
    found = seen(-2, committed=1, flags=NO_BASELINE)
    assert (found.on_hand, found.committed, found.shortage) == (-2, 1, 3)


BETTER = [
    case("both the same: ship", mode(policy="s"), mode(policy="p"), 9, "s"),
    case("pickup is better", mode(off="excluded", policy="s"), mode(policy="p"), 9, "p"),
    case("ship is better", mode(policy="s"), mode(off="excluded", policy="p"), 9, "s"),
    case("in stock beats low", mode(enter=9, exit=10, policy="s"), mode(policy="p"), 9, "p"),
    case("low beats out", mode(safety_stock=9, policy="s"), mode(enter=9, exit=10, policy="p"), 9, "p"),
    case("both out: ship, whatever the reason", mode(off="excluded", policy="s"), mode(policy="p"), 0, "s"),
]


@pytest.mark.parametrize(("ship", "pickup", "on_hand", "policy"), BETTER)
def test_record_speaks_for_the_better_mode(ship: ModeTerms, pickup: ModeTerms, on_hand: int, policy: str) -> None:
    """The mode whose status comes first decides status, reason and policy; ship if both are equal."""
    assert seen(on_hand, rules=terms(ship, pickup)).better.policy == policy


def test_unknown_beats_out_of_stock() -> None:
    """Where one mode is off and the other not known, the record is unknown."""
    found = seen(5, rules=terms(mode(off="location_off"), mode()), flags=NO_BASELINE)
    assert (STATUSES[found.better.status], found.better.reason) == ("UNKNOWN", "no_baseline")


BAND = mode(enter=3, exit=6)
PATHS = [
    case("falling, low from the entry on", [9, 5, 4, 3], "IN IN IN LOW"),
    case("rising, low until the exit", [3, 4, 5, 6], "LOW LOW LOW IN"),
    case("back into the band from above stays in stock", [3, 6, 5, 4], "LOW IN IN IN"),
    case("from out into the band is in stock", [3, 0, 4], "LOW OUT IN"),
    case("from out to the entry is low", [0, 3, 4], "OUT LOW LOW"),
    case("back and forth inside the band changes nothing", [3, 5, 4, 5, 4], "LOW LOW LOW LOW LOW"),
    case("around the entry", [4, 3, 4, 3, 4], "IN LOW LOW LOW LOW"),
]


@pytest.mark.parametrize(("stock", "expected"), PATHS)
def test_low_stock_depends_on_the_way_there(stock: list[int], expected: str) -> None:
    """Low at the entry threshold, and until the exit threshold once it was low."""
    short = {"IN_STOCK": "IN", "LOW_STOCK": "LOW", "OUT_OF_STOCK": "OUT"}
    balance, way = Balance([-1] * 4, flags=HAS_BASELINE), []
    for on_hand in stock:
        balance.on_hand = on_hand
        found = view(balance, 0, terms(BAND))
        balance.flags = low_flags(found, balance.flags)
        way.append(short[STATUSES[found.ship.status]])
    assert " ".join(way) == expected


def test_from_unknown_into_the_band_is_in_stock() -> None:
    """What was not known was not low."""
    balance = Balance([-1] * 4, on_hand=5)
    balance.flags = low_flags(view(balance, 0, terms(BAND)), balance.flags) | HAS_BASELINE
    assert statuses(view(balance, 0, terms(BAND))) == ("IN_STOCK", "IN_STOCK")


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("neither was low", 0, ("IN_STOCK", "IN_STOCK")),
        ("ship was low", LOW_SHIP, ("LOW_STOCK", "IN_STOCK")),
        ("pickup was low", LOW_PICKUP, ("IN_STOCK", "LOW_STOCK")),
        ("both were low", LOW_SHIP | LOW_PICKUP, ("LOW_STOCK", "LOW_STOCK")),
    ],
)
def test_each_mode_has_its_own_way(text: str, flags: int, expected: tuple[str, str]) -> None:
    """The band is judged per mode, also where both have the same terms."""
    assert statuses(seen(5, rules=terms(BAND), flags=HAS_BASELINE | flags)) == expected, text


def test_other_flags_are_left_alone() -> None:
    """Only the low bits follow the view."""
    others = 0xFF & ~(LOW_SHIP | LOW_PICKUP)
    assert low_flags(seen(3), 0xFF) == 0xFF
    assert low_flags(seen(9), 0xFF) == others


def packed(ship: str, pickup: str) -> int:
    """Statuses as a state record keeps them."""
    found = seen(0)
    found.ship.status = STATUSES.index(ship)
    both = View(found.ship, mode_view(STATUSES.index(pickup)), 0, 0, 0, 0)
    return both.statuses()


def mode_view(status: int) -> Any:
    """A mode's answer of which only the status matters."""
    found = seen(0).ship
    found.status = status
    return found


URGENCY = [
    case("the first record", None, ("IN_STOCK", "IN_STOCK"), True),
    case("nothing changed", ("IN_STOCK", "IN_STOCK"), ("IN_STOCK", "IN_STOCK"), False),
    case("in stock to low", ("IN_STOCK", "IN_STOCK"), ("LOW_STOCK", "LOW_STOCK"), False),
    case("low to in stock", ("LOW_STOCK", "IN_STOCK"), ("IN_STOCK", "IN_STOCK"), False),
    case("low to out", ("LOW_STOCK", "LOW_STOCK"), ("OUT_OF_STOCK", "OUT_OF_STOCK"), True),
    case("out to in stock", ("OUT_OF_STOCK", "OUT_OF_STOCK"), ("IN_STOCK", "IN_STOCK"), True),
    case("only ship goes out", ("LOW_STOCK", "LOW_STOCK"), ("OUT_OF_STOCK", "LOW_STOCK"), True),
    case("only pickup comes back", ("LOW_STOCK", "OUT_OF_STOCK"), ("LOW_STOCK", "LOW_STOCK"), True),
    case("unknown to low", ("UNKNOWN", "UNKNOWN"), ("LOW_STOCK", "LOW_STOCK"), True),
    case("unknown to out", ("UNKNOWN", "UNKNOWN"), ("OUT_OF_STOCK", "OUT_OF_STOCK"), True),
    case("out to unknown", ("OUT_OF_STOCK", "UNKNOWN"), ("UNKNOWN", "UNKNOWN"), True),
]


@pytest.mark.parametrize(("before", "after", "urgent"), URGENCY)
def test_urgent_is_every_change_but_between_in_stock_and_low(
    before: tuple[str, str] | None, after: tuple[str, str], urgent: bool
) -> None:
    """Numbers that go to or from zero or unknown show as a change of status, so statuses decide."""
    assert is_urgent(0 if before is None else packed(*before), packed(*after)) is urgent


def test_packed_statuses_are_distinct_and_never_zero() -> None:
    """Zero stays free for what was never published."""
    every = {packed(ship, pickup) for ship in STATUSES for pickup in STATUSES}
    assert len(every) == len(STATUSES) ** 2
    assert 0 not in every
