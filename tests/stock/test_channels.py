"""Channels: what each sees of a network, what it must leave to others, and for which of them units are bound."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from stock.availability import STATUSES
from stock.events import ItemSet, LocationSet, PolicySet, StockFact
from stock.ledger import Ledger
from stock.network import LOCATIONS_SUMMED_MAX, NETWORK_PREFIX, Network, NetworkView
from stock.verdicts import Decision
from tests.stock.facts import START, Desk, fact, hold, location, policy, rules, us

ABOVE_ALL = policy("all", network_safety_stock=3)
QUOTA = policy("quota", {"channel": "web"}, quota=6)
APP = policy("app", {"channel": "app"}, quota=0)


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def desk_of(facts: list[StockFact], settings: list[Any]) -> Desk:
    """A ledger under these rules after these facts; an item counts as one."""
    desk = Desk(Ledger(rules(*settings)))
    desk.tell(*facts)
    return desk


def count(units: int, at: str) -> StockFact:
    """So much lies there."""
    return fact("wms.count", 0, units, location=at)


def sold(units: int, at: str) -> StockFact:
    """So much has left."""
    return fact("pos.sale", 1, units, location=at)


def network(desk: Desk, channel: str = "*", was: int = 0, keep: bool = False) -> NetworkView | None:
    """What a channel sees of SKU."""
    return desk.ledger.network.view("SKU", channel, was, keep)


def seen(desk: Desk, channel: str) -> tuple[str, int | None, int | None] | None:
    """Status, and what can be shipped and picked up."""
    found = network(desk, channel)
    return None if found is None else (STATUSES[found.status], found.available_to_ship, found.available_in_store)


FIVE_AND_SIX = [count(5, "A"), count(6, "B")]
OWN = policy("a", {"location": "A"}, safety_stock=1), policy("b", {"location": "B"}, safety_stock=2)

SEEN = [
    case("each location keeps its own: 5-1 and 6-2", FIVE_AND_SIX, [*OWN], {"*": ("IN_STOCK", 8, 8)}),
    case(
        "the network keeps one instead: 11-5",
        FIVE_AND_SIX,
        [*OWN, policy("n", network_safety_stock=5)],
        {"*": ("IN_STOCK", 6, 6)},
    ),
    case("one of 0 is one", FIVE_AND_SIX, [*OWN, policy("n", network_safety_stock=0)], {"*": ("IN_STOCK", 11, 11)}),
    case(
        "in one mode",
        FIVE_AND_SIX,
        [*OWN, policy("n", {"mode": "ship"}, network_safety_stock=5)],
        {"*": ("IN_STOCK", 6, 8)},
    ),
    case(
        "in one channel",
        FIVE_AND_SIX,
        [*OWN, policy("n", {"channel": "web"}, network_safety_stock=5)],
        {"*": ("IN_STOCK", 8, 8), "web": ("IN_STOCK", 6, 6)},
    ),
    case(
        "then a shortage is filled from elsewhere",
        [count(9, "A"), count(0, "B"), sold(4, "B")],
        [ABOVE_ALL],
        {"*": ("LOW_STOCK", 2, 2)},
    ),
    case("never below 0", [count(2, "A")], [ABOVE_ALL], {"*": ("OUT_OF_STOCK", 0, 0)}),
    case(
        "what is off or unknown is no part of it",
        [count(9, "A"), count(9, "B"), sold(7, "C")],
        [ABOVE_ALL, location("A", ship=False)],
        {"*": ("IN_STOCK", 6, 15)},
    ),
    case(
        "nothing left but a promise",
        [count(2, "A")],
        [ABOVE_ALL, policy("back", backorder_limit=4)],
        {"*": ("BACKORDERABLE", 0, 0)},
    ),
    case(
        "a channel's own safety stock", [count(9, "A")], [policy("p", {"channel": "wholesale"}, safety_stock=7)],
        {"*": ("IN_STOCK", 9, 9), "wholesale": ("LOW_STOCK", 2, 2), "web": None},
    ),
    case(
        "excluded in a channel", [count(9, "A")],
        [policy("p", {"channel": "wholesale", "mode": "ship"}, enabled=False)],
        {"*": ("IN_STOCK", 9, 9), "wholesale": ("IN_STOCK", 0, 9)},
    ),
    case(
        "a channel's own low stock", [count(9, "A")], [policy("p", {"channel": "wholesale"}, low_stock_enter=9)],
        {"*": ("IN_STOCK", 9, 9), "wholesale": ("LOW_STOCK", 9, 9)},
    ),
    case(
        "at one location only", FIVE_AND_SIX, [policy("p", {"channel": "web", "location": "A"}, safety_stock=5)],
        {"*": ("IN_STOCK", 11, 11), "web": ("IN_STOCK", 6, 6)},
    ),
    case(
        "others leave a quota alone", FIVE_AND_SIX, [QUOTA, APP],
        {"*": ("IN_STOCK", 11, 11), "web": ("IN_STOCK", 11, 11), "app": ("IN_STOCK", 5, 5)},
    ),
    case(
        "less what is bound for it already",
        [*FIVE_AND_SIX, hold(1, 2, channel="web"), fact("order.allocated", 2, 1, location="B", channel="web")],
        [QUOTA, APP],
        {"*": ("IN_STOCK", 8, 8), "web": ("IN_STOCK", 8, 8), "app": ("IN_STOCK", 5, 5)},
    ),
    case(
        "more bound than the quota is no claim of others",
        [count(11, "A"), hold(1, 8, channel="web")],
        [QUOTA, APP],
        {"web": ("LOW_STOCK", 3, 3), "app": ("LOW_STOCK", 3, 3)},
    ),
    case(
        "bound for nobody in particular",
        [*FIVE_AND_SIX, hold(1, 4)],
        [QUOTA, APP],
        {"*": ("IN_STOCK", 7, 7), "web": ("IN_STOCK", 7, 7), "app": ("LOW_STOCK", 1, 1)},
    ),
    case(
        "quotas of one mode", FIVE_AND_SIX, [policy("q", {"channel": "web", "mode": "pickup"}, quota=6), APP],
        {"app": ("IN_STOCK", 11, 5)},
    ),
    case(
        "each leaves the others' alone", FIVE_AND_SIX, [QUOTA, policy("q", {"channel": "app"}, quota=4)],
        {"*": ("IN_STOCK", 11, 11), "web": ("IN_STOCK", 7, 7), "app": ("IN_STOCK", 5, 5)},
    ),
    case(
        "more ring-fenced than there is", [count(4, "A")], [QUOTA, APP],
        {"web": ("IN_STOCK", 4, 4), "app": ("OUT_OF_STOCK", 0, 0)},
    ),
    case(
        "a quota on top of the network's safety stock", FIVE_AND_SIX, [ABOVE_ALL, QUOTA, APP],
        {"*": ("IN_STOCK", 8, 8), "web": ("IN_STOCK", 8, 8), "app": ("LOW_STOCK", 2, 2)},
    ),
    case("a quota of another SKU", FIVE_AND_SIX, [policy("q", {"channel": "web", "sku": "X"}, quota=6), APP],
         {"web": None, "app": ("IN_STOCK", 11, 11)}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "settings", "wanted"), SEEN)
def test_each_channel_sees_its_own_network(
    facts: list[StockFact], settings: list[PolicySet | LocationSet], wanted: dict[str, Any]
) -> None:
    """Both formulas, policies of the channel, quotas of the others; kept sums say the same as new ones."""
    desk = desk_of(facts, settings)
    assert {channel: seen(desk, channel) for channel in wanted} == wanted
    for channel in desk.ledger.network.channels("SKU"):
        assert network(desk, channel, keep=True) == network(desk_of(facts, settings), channel)


LIFECYCLES = [
    case("sells out", "discontinued", 9, ("IN_STOCK", 6)),
    case("has sold out, but for what the network keeps", "discontinued", 3, ("DISCONTINUED", 0)),
    case("is still to come", "preorder", 9, ("PREORDERABLE", 0)),
]


@pytest.mark.parametrize(("lifecycle", "units", "wanted"), LIFECYCLES)
def test_the_status_table_holds_with_a_safety_stock_of_the_network(
    lifecycle: str, units: int, wanted: tuple[str, int]
) -> None:
    """Although its locations have some left, each for itself."""
    desk = desk_of([count(units, "A")], [ABOVE_ALL, policy("back", backorder_limit=4)])
    said: dict[str, Any] = {"id": "i", "source": "master", "occurred_at": START, "brand": "b", "category": "c"}
    desk.ledger.apply_item("SKU", ItemSet(**said, sku="SKU", lifecycle=lifecycle), 0)
    found = network(desk)
    assert found is not None
    assert (STATUSES[found.ship], found.available_to_ship) == wanted


def test_promises_by_date_leave_the_same_to_others() -> None:
    """What comes is promised on top of what is left, not of what is ring-fenced; shortages are filled first."""
    coming = fact("inbound.expected", 1, 10, location="A", eta=START.replace(year=2027))
    desk = desk_of([count(4, "A"), coming], [QUOTA, APP, policy("n", {"channel": "kiosk"}, network_safety_stock=6)])
    promised = {}
    for channel in ("*", "web", "app", "kiosk"):
        found = network(desk, channel)
        assert found is not None
        promised[channel] = [units for _, units in found.atp]
    assert promised == {"*": [14], "web": [14], "app": [8], "kiosk": [2]}


def test_kept_sums_of_a_channel_hear_every_change() -> None:
    """A location that says something else, a new one, and room made for others change nothing in the result."""
    settings = [policy("p", {"channel": "web"}, safety_stock=1)]
    desk = desk_of(FIVE_AND_SIX, settings)
    of = desk.ledger.network
    found = network(desk, "web", keep=True)
    assert found is not None
    assert found.available_to_ship == 9
    for told in (sold(2, "A"), count(7, "C"), sold(3, "B")):
        desk.tell(told)
        if told.location != "C":  # that there is a new location is enough
            key = f"SKU|{told.location}"
            of.note("SKU", key, desk.ledger.view(key))
        fresh = network(desk, "web")
        assert network(desk, "web", keep=True) == fresh
    assert fresh is not None
    assert fresh.available_to_ship == 2 + 2 + 6
    assert of._summed == of._sums["SKU"].size == 3 * 2
    of.look_anew("SKU")
    assert of._summed == of._sums["SKU"].size == 3
    assert network(desk, "web") == fresh


def test_sums_kept_in_channels_have_their_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of others are forgotten for them, and nothing is counted twice."""
    assert LOCATIONS_SUMMED_MAX >= 1_000
    monkeypatch.setattr("stock.network.LOCATIONS_SUMMED_MAX", 3)
    desk = desk_of([*FIVE_AND_SIX, fact("wms.count", 0, 9, sku="OTHER")], [APP])
    of = desk.ledger.network
    of.view("OTHER", "*", 0)
    of.view("SKU", "*", 0)
    assert of._sums.keys() == {"OTHER", "SKU"}
    assert seen(desk, "app") == ("IN_STOCK", 11, 11)
    assert of._sums.keys() == {"SKU"}
    assert of._summed == of._sums["SKU"].size == 4


# Facts told in any order, and what is bound for web and app in the end.
BOUND = [
    case("a hold", [hold(1, 3, channel="web")], 3, 0),
    case("two of them", [hold(1, 3, channel="web"), hold(1, 2, channel="web", reservation="Q")], 5, 0),
    case("a newer statement is for another", [hold(1, 3, channel="web"), hold(2, 2, channel="app")], 0, 2),
    case("or for nobody", [hold(1, 3, channel="web"), hold(2, 2)], 0, 0),
    case(
        "what is left of it",
        [hold(1, 5, channel="web"), fact("reservation.released", 2, 2), fact("pos.sale", 3, 1, reservation="R")],
        2,
        0,
    ),
    case("a renewal tells no channel", [hold(1, 3, 50, channel="web"),
         fact("reservation.renewed", 2, expires_at=START.replace(year=2027), channel="app")], 3, 0),
    case("what ended binds nothing", [hold(1, 3, 50, channel="web")], 0, 0),
    case("it moves, for the same", [hold(1, 3, channel="web"), hold(2, 3, channel="web", location="B")], 3, 0),
    case("an allocation", [fact("order.allocated", 1, 4, channel="app")], 0, 4),
    case(
        "each location's own",
        [fact("order.allocated", 1, 4, channel="app"), fact("order.allocated", 2, 3, channel="web", location="B")],
        3,
        4,
    ),
    case(
        "stated anew for another",
        [fact("order.allocated", 1, 4, channel="app"), fact("order.allocated", 2, 3, channel="web")],
        3,
        0,
    ),
    case(
        "shipped, and the shipment voided",
        [
            fact("order.allocated", 1, 4, channel="app"),
            fact("wms.shipment", 2, 3, order_line="L"),
            fact("wms.shipment_voided", 3, 1, order_line="L"),
        ],
        0,
        2,
    ),
    case(
        "a hold becomes an allocation of the same channel",
        [hold(1, 3, channel="web"), fact("order.allocated", 2, 3, reservation="R", channel="web")],
        3,
        0,
    ),
    case(
        "one that tells no channel is for none, whatever it consumes",
        [hold(1, 3, channel="web"), fact("order.allocated", 2, 2, reservation="R")],
        1,
        0,
    ),
    case(
        "what arrives for an order line is for its channel",
        [fact("order.allocated", 1, 4, channel="app"), fact("transfer.received", 2, 2, order_line="L")],
        0,
        6,
    ),
    case("a name too long for any policy", [hold(1, 3, channel="w" * 129)], 0, 0),
]  # fmt: skip


def bound(ledger: Ledger) -> tuple[int, int]:
    """For web and for app."""
    return ledger.commitments.for_channel("SKU", "web"), ledger.commitments.for_channel("SKU", "app")


@pytest.mark.parametrize(("facts", "web", "app"), BOUND)
def test_units_are_bound_for_the_channel_of_the_statement_that_holds(
    facts: list[StockFact], web: int, app: int
) -> None:
    """In whatever order the facts come, and after a restart."""
    for order in permutations(facts):
        desk = Desk()
        desk.tell(*order)
        desk.ledger.advance(us(100))
        assert bound(desk.ledger) == (web, app)
        state = {key: packed for key, packed in desk.ledger.flush() if packed is not None}
        after = Ledger(rules())
        after.restore(state, (), us(100))
        assert bound(after) == (web, app)
        assert bound_by_looking(after) == {"web": web, "app": app}


def bound_by_looking(ledger: Ledger) -> dict[str, int]:
    """The same from the holds and order lines themselves."""
    found = {"web": 0, "app": 0}
    for _, order in ledger.commitments.of_sku("SKU"):
        told = [(order.channel, order.open_units(us(100)))] if hasattr(order, "channel") else [
            ((order.channels or {}).get(at), units) for at, units in order.left().items()
        ]  # fmt: skip
        for channel, units in told:
            if channel in found:
                found[channel] += units
    return found


def test_state_without_channels_is_written_as_before_there_were_any() -> None:
    """An older program reads it, and an idle hold costs no more."""
    desk = Desk()
    desk.tell(hold(1, 3), hold(1, 3, reservation="Q", channel="web"), fact("order.allocated", 1, 4))
    fields = {
        key.partition("\x1f")[2]: len(msgspec.msgpack.decode(packed or b""))
        for key, packed in desk.ledger.flush()
        if "\x1fhold\x1f" in key or "\x1forder\x1f" in key
    }
    assert fields == {"hold\x1f1\x1fR": 6, "hold\x1f1\x1fQ": 10, "order\x1fL": 4}


# Requests


def answers(desk: Desk) -> list[tuple[str, int]]:
    """Verdicts and units of what was asked, once."""
    found: list[tuple[str, Decision]]
    found, desk.ledger.answers = desk.ledger.answers, []
    return [(decision.verdict, decision.units) for _, decision in found]


def wanted(units: int, channel: str | None = None, where: str = "A", **own: Any) -> StockFact:
    """Somebody wants some, to be shipped."""
    return fact("reservation.requested", 9, units, location=where, channel=channel, **own)


RETAIL = policy("retail", {"channel": "wholesale"}, safety_stock=7)

ASKED = [
    case("of its own quota", FIVE_AND_SIX, [QUOTA], wanted(6, "web", "B"), ("accepted", 6)),
    case("of what others may have", FIVE_AND_SIX, [QUOTA, APP], wanted(5, "app"), ("accepted", 5)),
    case("of what is ring-fenced", [count(5, "A"), count(4, "B")], [QUOTA, APP], wanted(4, "app"), ("rejected", 0)),
    case("a part of it", FIVE_AND_SIX, [QUOTA], wanted(6, "app", "B", partial=True), ("partial", 5)),
    case("by a channel that no policy names", [count(9, "A")], [QUOTA], wanted(4, "kiosk"), ("rejected", 0)),
    case("by nobody in particular", [count(9, "A")], [QUOTA], wanted(4), ("rejected", 0)),
    case("anywhere", [count(9, "A"), count(5, "B")], [QUOTA], wanted(9, where="*"), ("rejected", 0)),
    case("anywhere, and there is enough", [count(9, "A"), count(5, "B")], [QUOTA], wanted(8, where="*"),
         ("accepted", 8)),
    case("for another mode's quota", [count(9, "A")], [policy("q", {"channel": "web", "mode": "pickup"}, quota=6)],
         wanted(9, "app"), ("accepted", 9)),
    case("after the quota was used", [count(9, "A"), hold(1, 6, channel="web")], [QUOTA],
         wanted(3, "app", reservation="Q"), ("accepted", 3)),
    case("instead of its own hold", [count(9, "A"), hold(1, 2, channel="app")], [QUOTA], wanted(3, "app"),
         ("accepted", 3)),
    case("instead of a hold of the quota, which is free again then", [count(9, "A"), hold(1, 6, channel="web")],
         [QUOTA], wanted(4, "app"), ("rejected", 0)),
    case("of retail's safety stock", [count(9, "A")], [RETAIL], wanted(3, "wholesale"), ("rejected", 0)),
    case("of what retail leaves", [count(9, "A")], [RETAIL], wanted(2, "wholesale"), ("accepted", 2)),
    case("by retail itself", [count(9, "A")], [RETAIL], wanted(9, "web"), ("accepted", 9)),
    case("of the network's safety stock", FIVE_AND_SIX, [policy("n", network_safety_stock=7)], wanted(5),
         ("rejected", 0)),
    case("of what the network's safety stock leaves", FIVE_AND_SIX, [policy("n", network_safety_stock=7)], wanted(4),
         ("accepted", 4)),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "settings", "asked", "decided"), ASKED)
def test_a_request_leaves_alone_what_is_not_its_channels(
    facts: list[StockFact], settings: list[PolicySet], asked: StockFact, decided: tuple[str, int]
) -> None:
    """Quotas of others and a safety stock of the network in all, its own channel's safety stock at each location."""
    desk = desk_of(facts, settings)
    desk.tell(asked)
    assert answers(desk) == [decided]


def test_what_was_granted_is_bound_for_the_channel() -> None:
    """So its quota shrinks with what it takes, and others never see less."""
    desk = desk_of([count(10, "A")], [QUOTA, APP])
    desk.tell(wanted(4, "web"), wanted(4, "app", reservation="Q"), wanted(1, "app", reservation="P"))
    assert answers(desk) == [("accepted", 4), ("accepted", 4), ("rejected", 0)]
    assert bound(desk.ledger) == (4, 4)
    assert seen(desk, "app") == ("OUT_OF_STOCK", 0, 0)
    assert seen(desk, "web") == ("LOW_STOCK", 2, 2)


# What was published


def test_a_channel_that_is_gone_leaves_no_state() -> None:
    """Once the topic has its null: until then its record is known, also after a restart."""
    desk = desk_of([count(5, "A")], [APP])
    of, key = desk.ledger.network, "SKU|app"
    of.publishing(key)
    of.acknowledge(key, 77, 64)
    assert of.drop(key) is False, "a policy names it"
    desk.ledger.policies.remove_policy("app")
    assert of.channels("SKU") == ("*", "app")
    assert network(desk, "app") is None
    state = dict(desk.ledger.flush())
    after = Ledger(rules())
    after.restore({name: packed for name, packed in state.items() if packed is not None}, (), us(0))
    for one in (of, after.network):
        assert one.channels("SKU") == ("*", "app")
        assert one.published(key) == (77, 64)
        assert one.drop(key) is True
        assert one.channels("SKU") == ("*",)
        assert dict(one.flush((), complete=True)) == {f"{NETWORK_PREFIX}{key}": None}
    assert of.drop("SKU|*") is False


def test_state_of_a_channel_that_nobody_knows_is_removed() -> None:
    """A fenced process wrote it; that of all channels is written anew instead."""
    of: Network = desk_of([count(5, "A")], []).ledger.network
    of.rewrite("SKU|app")
    of.rewrite("SKU|*")
    written = dict(of.flush((), complete=False))
    assert written.pop(f"{NETWORK_PREFIX}SKU|app") is None
    assert written.keys() == {f"{NETWORK_PREFIX}SKU|*"}
