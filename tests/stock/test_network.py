"""What a SKU's locations add up to: sums, the status table, promises by date, and sums that are kept or built anew."""

from __future__ import annotations

from typing import Any

import pytest

from stock.availability import STATUSES
from stock.events import LocationSet, PolicySet, StockFact
from stock.ledger import Ledger
from stock.network import NETWORK_PREFIX, NetworkView, Supply, available_to_promise, check_network
from stock.policies import Policies
from tests.stock.facts import Desk, at, fact, hold, location, policy, rules, us


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def desk_of(facts: list[StockFact], settings: list[PolicySet | LocationSet]) -> Desk:
    desk = Desk(Ledger(rules(*settings)))
    desk.tell(*facts)
    return desk


def network(desk: Desk, was: int = 0, keep: bool = False) -> NetworkView:
    seen = desk.ledger.network.view("SKU", "*", was, keep)
    assert seen is not None
    return seen


def count(units: int, at: str) -> StockFact:
    return fact("wms.count", 0, units, location=at)


def sold(units: int, at: str) -> StockFact:
    return fact("pos.sale", 1, units, location=at)


SS = policy("ss", {"location": "A"}, safety_stock=1), policy("ss2", {"location": "B"}, safety_stock=2)

STATUS_TABLE = [
    case("sums of what each may sell", [count(5, "A"), count(6, "B")], [], ("IN_STOCK", 11), ("IN_STOCK", 11)),
    case("each keeps its own: 5-1 and 6-2", [count(5, "A"), count(6, "B")], [*SS], ("IN_STOCK", 8), None),
    case("a shortage stays where it is", [count(5, "A"), count(0, "B"), sold(9, "B")], [], ("IN_STOCK", 5), None),
    case("few over all", [count(1, "A"), count(2, "B")], [], ("LOW_STOCK", 3), ("LOW_STOCK", 3)),
    case("low at each, not over all", [count(3, "A"), count(3, "B")], [], ("IN_STOCK", 6), None),
    case("nothing anywhere", [count(0, "A"), count(0, "B")], [], ("OUT_OF_STOCK", 0), ("OUT_OF_STOCK", 0)),
    case("nobody knows", [sold(1, "A"), sold(1, "B")], [], ("UNKNOWN", None), ("UNKNOWN", None)),
    case("what is unknown adds nothing", [count(5, "A"), sold(1, "B")], [], ("IN_STOCK", 5), None),
    case("unknown beside sold out is sold out", [count(0, "A"), sold(1, "B")], [], ("OUT_OF_STOCK", 0), None),
    case(
        "a mode that is off adds nothing",
        [count(5, "A"), count(6, "B")],
        [location("A", ship=False)],
        ("IN_STOCK", 6),
        ("IN_STOCK", 11),
    ),
    case(
        "off everywhere",
        [count(5, "A")],
        [policy("no", {"mode": "ship"}, enabled=False)],
        ("OUT_OF_STOCK", 0),
        ("IN_STOCK", 5),
    ),
    case(
        "unknown where it is on, known where it is off",
        [count(5, "A"), sold(1, "B")],
        [location("A", ship=False)],
        ("UNKNOWN", None),
        ("IN_STOCK", 5),
    ),
    case(
        "low by a rule that names no location",
        [count(5, "A"), count(6, "B")],
        [policy("low", low_stock_enter=11), policy("here", {"location": "A"}, low_stock_enter=50)],
        ("LOW_STOCK", 11),
        ("LOW_STOCK", 11),
    ),
]


@pytest.mark.parametrize(("facts", "settings", "ship", "pickup"), STATUS_TABLE)
def test_the_network_adds_up_what_each_location_says(
    facts: list[StockFact], settings: list[PolicySet | LocationSet], ship: tuple[str, int | None], pickup: Any
) -> None:
    """Clamped values of locations whose mode is on and whose stock is known, by the status table of a location."""
    seen = network(desk_of(facts, settings))
    assert (STATUSES[seen.ship], seen.available_to_ship) == ship
    if pickup is not None:
        assert (STATUSES[seen.pickup], seen.available_in_store) == pickup
    assert STATUSES[seen.status] == min(ship[0], (pickup or ship)[0], key=STATUSES.index)


def test_the_other_numbers_are_sums_over_all_locations() -> None:
    """On hand, committed and shortage, also of what is unknown; locations are counted once."""
    desk = desk_of([count(5, "A"), count(0, "B"), hold(1, 2, location="A"), sold(3, "B"), sold(1, "C")], [])
    seen = network(desk)
    assert (seen.on_hand, seen.committed, seen.shortage) == (5 - 3 - 1, 2, 3 + 1)
    assert (seen.locations_in_stock, seen.locations_unknown) == (1, 1)


def test_the_low_stock_band_holds_for_the_network_too() -> None:
    """What was LOW_STOCK stays so below the exit level; what was not is IN_STOCK."""
    desk = desk_of([count(5, "A")], [policy("band", low_stock_enter=2, low_stock_exit=8)])
    fresh = network(desk)
    assert STATUSES[fresh.ship] == "IN_STOCK"
    desk.tell(sold(4, "A"))
    low = network(desk)
    assert STATUSES[network(desk, low.statuses()).ship] == "LOW_STOCK"
    desk.tell(fact("wms.receipt", 2, 4, location="A"))
    assert STATUSES[network(desk, low.statuses()).ship] == "LOW_STOCK"


@pytest.mark.parametrize("sums", ["in use", "packed", "packed while something was heard", "looked at anew"])
def test_kept_sums_are_what_a_new_sum_says(sums: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A location that says something else, a new location, and room made for others change nothing in the result."""
    monkeypatch.setattr("stock.network.PACKED_FROM", 2)
    coming = fact("inbound.expected", 3, 6, location="B", eta=at(9_000))
    desk = desk_of([count(5, "A"), count(6, "B"), coming], [])
    ledger = desk.ledger
    for told in (sold(2, "A"), count(7, "C"), sold(6, "B")):
        if sums != "looked at anew":
            network(desk, keep=True)
        if sums == "packed":
            ledger.network._rest()
        desk.tell(told)
        if told.location != "C":  # that there is a new location is enough
            key = f"SKU|{told.location}"
            ledger.network.note("SKU", key, ledger.view(key))
        if sums == "packed while something was heard":
            ledger.network._rest()
    assert network(desk) == network(desk_of([count(3, "A"), count(0, "B"), count(7, "C"), coming], []))
    assert network(desk).next_inbound_at_us == us(9_000)


def test_sums_of_many_locations_rest_packed_and_those_of_few_not_at_all() -> None:
    """What rests takes about 20 bytes a location, whatever it says; a SKU with few locations is summed up anew."""
    many = {f"L{n:03d}": 1000 + n for n in range(200)}
    desk = desk_of([count(units, location) for location, units in many.items()], [])
    desk.tell(fact("wms.count", 0, 9, sku="OTHER"))
    found, of = network(desk, keep=True), desk.ledger.network
    of.view("OTHER", "*", 0)
    of._rest()
    assert of._packed.keys() == {"SKU"}
    assert len(of._packed["SKU"]) < 25 * len(many)
    assert network(desk) == found
    assert found.on_hand == sum(many.values())
    assert of._sums.keys() == {"SKU"}
    assert of._summed == len(many)


PROMISES: list[Any] = [
    case("nothing comes", 5, (), ()),
    case("each arrival adds", 5, ((10, 2), (20, 3)), ((10, 7), (20, 10))),
    case("in any order", 5, ((20, 3), (10, 2)), ((10, 7), (20, 10))),
    case("arrivals at one moment are one", 5, ((10, 2), (10, 3)), ((10, 10),)),
    case("what is short is filled first", -4, ((10, 3), (20, 3)), ((10, 0), (20, 2))),
    case("a later outflow binds what comes before", 5, ((10, 4), (20, -6)), ((10, 3), (20, 3))),
]


@pytest.mark.parametrize(("available", "supply", "promised"), PROMISES)
def test_available_to_promise_is_the_least_from_a_date_on(
    available: int, supply: tuple[Supply, ...], promised: tuple[Supply, ...]
) -> None:
    """The minimum of the projection to the horizon, never below 0."""
    assert available_to_promise(available, supply) == promised


def test_promises_count_what_is_on_its_way_to_any_location() -> None:
    """Transfers and expected inbound with a date to come; a shortage is filled first, what is late promises nothing."""
    desk = desk_of(
        [
            count(5, "A"),
            fact("pos.sale", 1, 2, location="B"),
            fact("transfer.shipped", 2, 3, transfer="T", to_location="B", eta=at(100)),
            fact("inbound.expected", 2, 10, inbound="I", location="C", eta=at(50)),
            fact("inbound.expected", 2, 99, inbound="J", location="C", eta=at(20)),
            fact("transfer.shipped", 2, 7, transfer="U", location="C", to_location="B"),
        ],
        [],
    )
    desk.ledger.advance(us(30))
    seen = network(desk)
    assert (seen.available_to_ship, seen.shortage, seen.in_transit, seen.inbound) == (2, 9, 10, 109)
    assert seen.atp == ((us(50), 3), (us(100), 6))
    desk.ledger.advance(us(60))
    assert network(desk).atp == ((us(100), 0),)


def test_a_digest_in_doubt_is_durable_as_none() -> None:
    """While a record is under way, and until its acknowledgement is written, a restart must publish again."""
    desk = desk_of([count(5, "A")], [])
    of = desk.ledger.network

    def written(in_doubt: set[str], complete: bool = True) -> tuple[int, int] | None:
        records = dict(desk.ledger.flush((), complete, in_doubt))
        packed = records.get(f"{NETWORK_PREFIX}SKU|*")
        if packed is None:
            return None
        check_network(packed)
        other = Ledger(Policies())
        other.network.restore(f"{NETWORK_PREFIX}SKU|*", packed)
        return other.network.published("SKU|*")

    of.publishing("SKU|*")
    assert written({"SKU|*"}) == (0, 0)
    of.acknowledge("SKU|*", 77, 64)
    assert written(set(), complete=False) is None
    of.publishing("SKU|*")
    assert written({"SKU|*"}) is None, "the state says so already"
    assert written(set()) == (77, 64)
    assert not of.dirty
    assert not of.unsaved


def test_state_that_is_none_is_refused() -> None:
    """As every state record: whoever does not understand it may not overwrite it."""
    with pytest.raises(ValueError, match=r"."):
        check_network(b"\x01")
