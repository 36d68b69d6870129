"""Scopes by item and place, dated policies, channels and the network: what holds where, and since when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from stock.events import LocationSet, PolicySet
from stock.items import Item
from stock.policies import Change, Policies
from stock.terms import NetworkModeTerms
from tests.stock.facts import at, location, policy, rules, us

SHOE = Item(0, "active", "own", "shoes")
ROLL = Item(0, "active", "own", "bakery")


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def dated(made: PolicySet, start: float | None = None, end: float | None = None) -> PolicySet:
    """A policy with dates."""

    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else at(seconds)

    return msgspec.structs.replace(made, valid_from=moment(start), valid_until=moment(end))


def store(name: str, region: str | None = None, kind: str = "store") -> LocationSet:
    """A location with a region and a kind."""
    return msgspec.structs.replace(location(name), region=region, kind=kind)  # type: ignore[arg-type]


# Each policy sets safety_stock to its position, counted from 1. The balance: SKU, a shoe of brand own, at A in north.
SCOPES = [
    case("its category", [{"category": "shoes"}], 1),
    case("another category", [{"category": "bakery"}], 0),
    case("its brand", [{"brand": "own"}], 1),
    case("its region", [{"region": "north"}], 1),
    case("another region", [{"region": "south"}], 0),
    case("its kind of location", [{"location_kind": "warehouse"}], 1),
    case("another kind", [{"location_kind": "store"}], 0),
    case("a channel", [{"channel": "web"}], 0),
    case("sku beats location", [{"location": "A"}, {"sku": "SKU"}], 2),
    case("location beats mode", [{"mode": "ship"}, {"location": "A"}], 2),
    case("mode beats category", [{"category": "shoes"}, {"mode": "ship"}], 2),
    case("category beats brand", [{"brand": "own"}, {"category": "shoes"}], 2),
    case("brand beats region", [{"region": "north"}, {"brand": "own"}], 2),
    case("region beats kind", [{"location_kind": "warehouse"}, {"region": "north"}], 2),
    case("kind beats everywhere", [{}, {"location_kind": "warehouse"}], 2),
    case("two weak fields beat one strong", [{"sku": "SKU"}, {"region": "north", "location_kind": "warehouse"}], 2),
    case(
        "at two fields the first that differs decides",
        [{"location": "A", "category": "shoes"}, {"location": "A", "mode": "ship"}],
        2,
    ),
    case(
        "every field that fits",
        [
            {"sku": "SKU", "location": "A", "mode": "ship", "category": "shoes", "brand": "own", "region": "north"},
            {"sku": "SKU", "location": "A", "category": "shoes", "brand": "own", "region": "north"},
        ],
        1,
    ),
    case("one field of many does not fit", [{"sku": "SKU", "category": "bakery"}, {"category": "shoes"}], 2),
]


@pytest.mark.parametrize(("scopes", "wanted"), SCOPES)
def test_a_scope_may_name_everything_that_a_balance_is_known_by(scopes: list[dict[str, Any]], wanted: int) -> None:
    """Most fields first, then the rank of the first that differs, whatever the order told."""
    policies = [policy(f"p{n}", scope, safety_stock=n) for n, scope in enumerate(scopes, 1)]
    for order in (policies, policies[::-1]):
        found = rules(store("A", "north", "warehouse"), *order).terms("SKU", "A", SHOE).ship
        assert found.safety_stock == wanted


def test_what_was_never_described_fits_no_scope_that_names_it() -> None:
    """A SKU without an item has no brand, a location without a description is a store of no region."""
    policies = rules(
        policy("a", {"category": "shoes"}, safety_stock=1),
        policy("b", {"region": "north"}, safety_stock=2),
        policy("c", {"location_kind": "store"}, safety_stock=3),
    )
    assert policies.terms("SKU", "A").ship.safety_stock == 3
    policies.set_location(store("A", "north"))
    assert policies.terms("SKU", "A").ship.safety_stock == 2
    assert policies.terms("SKU", "A", SHOE).ship.safety_stock == 1


@pytest.mark.parametrize("own", [False, True], ids=["no policy of its own", "a policy of its own"])
def test_terms_follow_the_item(own: bool) -> None:
    """A SKU that changes its category changes its terms at once, whoever asked before."""
    policies = rules(
        policy("a", {"category": "shoes"}, safety_stock=1), policy("b", {"category": "bakery"}, safety_stock=2)
    )
    if own:
        policies.set_policy(policy("own", {"sku": "SKU"}, buffer=0))
    found = [policies.terms("SKU", "A", item).ship.safety_stock for item in (None, SHOE, ROLL, ROLL, None, SHOE)]
    assert found == [0, 1, 2, 2, 0, 1]
    policies.set_policy(policy("b", {"category": "bakery"}, safety_stock=7))
    assert policies.terms("SKU", "A", ROLL).ship.safety_stock == 7
    policies.set_policy(policy("c", {"location": "A", "category": "bakery"}, safety_stock=8))
    assert policies.terms("SKU", "A", ROLL).ship.safety_stock == 8
    policies.remove_policy("c")
    assert policies.terms("SKU", "A", ROLL).ship.safety_stock == 7
    assert (len(policies._by_sku), policies._cached) == ((1, 1) if own else (0, 0))
    assert policies._grouped == sum(map(len, policies._by_group.values()))


def test_terms_by_group_are_cached_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache starts anew when it is full, and goes on telling the truth."""
    monkeypatch.setattr("stock.policies.GROUP_TERMS_CACHED_MAX", 2)
    policies = rules(*(policy(f"p{n}", {"category": f"c{n}"}, safety_stock=n) for n in range(5)))
    items = [Item(0, "active", "b", f"c{n}") for n in range(5)]
    for _ in range(2):
        assert [policies.terms("SKU", "A", item).ship.safety_stock for item in items] == [0, 1, 2, 3, 4]
        assert policies._grouped <= 2


VALUES = [
    case("a share", {"safety_percent": 20}, {"safety_stock": 0, "percent": 20, "on_top": 0}),
    case("a share and a buffer", {"safety_percent": 20, "buffer": 2}, {"safety_stock": 2, "percent": 20, "on_top": 2}),
    case("nobody is stale", {"stale_buffer": 5}, {"safety_stock": 0, "stale": False}),
]


@pytest.mark.parametrize(("values", "wanted"), VALUES)
def test_a_mode_has_its_values(values: dict[str, int], wanted: dict[str, Any]) -> None:
    """As the formula needs them."""
    found = rules(policy("p", **values)).terms("SKU", "A").ship
    assert {name: getattr(found, name) for name in wanted} == wanted


LIMITS = [
    case("everywhere", [({}, 3)], 3),
    case("a mode's does not count", [({"mode": "ship"}, 3)], 0),
    case("nor a channel's", [({"channel": "web"}, 3)], 0),
    case("the nearer", [({}, 3), ({"sku": "SKU"}, 5)], 5),
    case("a mode's does not hide another", [({}, 3), ({"sku": "SKU", "mode": "ship"}, 5)], 3),
]


@pytest.mark.parametrize(("told", "wanted"), LIMITS)
def test_backorder_and_reorder_ignore_modes_and_channels(told: list[tuple[Any, int]], wanted: int) -> None:
    """They are about the stock, not about a way of selling it."""
    policies = rules(*(policy(f"p{n}", s, backorder_limit=v, reorder_point=v) for n, (s, v) in enumerate(told)))
    found = policies.terms("SKU", "A")
    assert (found.backorder_limit, found.reorder_point) == (wanted, wanted or None)


# Dates

DATES = [
    case("from now on", None, None, True),
    case("from its very start", 10, None, True),
    case("not before its start", 11, None, False),
    case("until its end", None, 11, True),
    case("not at its end", None, 10, False),
    case("never", 12, 8, False),
]


@pytest.mark.parametrize(("start", "end", "holds"), DATES)
@pytest.mark.parametrize("told_before", [True, False], ids=["told before", "told then"])
def test_a_policy_holds_between_its_dates(
    start: float | None, end: float | None, holds: bool, told_before: bool
) -> None:
    """By time, also where it is told only then, as after a restart."""
    policies = Policies()
    told = dated(policy("p", safety_stock=2), start, end)
    if told_before:
        policies.advance(us(0))
        policies.set_policy(told)
        assert policies.terms("SKU", "A").ship.safety_stock == (0 if start else 2)
        policies.advance(us(10))
    else:
        policies.advance(us(10))
        policies.set_policy(told)
    assert policies.terms("SKU", "A").ship.safety_stock == (2 if holds else 0)


def test_a_date_is_a_change_of_the_rules() -> None:
    """With the keys that it can concern and its own cause, narrow ones first; a clock set back undoes nothing."""
    policies = Policies()
    policies.advance(us(0))
    policies.set_policy(dated(policy("all", safety_stock=2), 10, 20))
    policies.set_policy(dated(policy("one", {"sku": "SKU"}, safety_stock=3), 10))
    assert (policies.advance(us(9)), policies.next_timer_us()) == ([], us(10))
    assert policies.advance(us(10)) == [
        Change("SKU", None, ("policy.started", "one", "stockflow", us(10))),
        Change(None, None, ("policy.started", "all", "stockflow", us(10))),
    ]
    assert policies.advance(us(5)) == []
    assert policies.terms("OTHER", "A").ship.safety_stock == 2
    assert policies.advance(us(20)) == [Change(None, None, ("policy.ended", "all", "stockflow", us(20)))]
    assert policies.terms("OTHER", "A").ship.safety_stock == 0
    assert policies.next_timer_us() is None


def test_a_replaced_policy_forgets_its_dates() -> None:
    """The timers of the old one change nothing."""
    policies = Policies()
    policies.set_policy(dated(policy("p", safety_stock=2), 10, 20))
    policies.set_policy(policy("p", safety_stock=3))
    assert policies.advance(us(15)) == []
    policies.set_policy(dated(policy("p", safety_stock=4), 17, 30))
    assert policies.terms("SKU", "A").ship.safety_stock == 0
    policies.remove_policy("p")
    assert policies.advance(us(40)) == []


# Channels and the network


def test_a_channels_policies_hold_in_that_channel_only() -> None:
    """Between location and mode in rank."""
    policies = rules(
        policy("a", {"channel": "web"}, safety_stock=1, enabled=True),
        policy("b", {"mode": "ship"}, safety_stock=2),
        policy("c", {"channel": "marketplace", "sku": "SKU"}, enabled=False),
    )
    assert set(policies.channels) == {"web", "marketplace"}
    found = [policies.channel_terms("SKU", "A", channel).ship for channel in (None, "web", "wholesale", "marketplace")]
    assert [terms.safety_stock for terms in found] == [2, 1, 2, 2]
    assert [terms.off for terms in found] == [None, None, None, "excluded"]
    policies.remove_policy("c")
    assert set(policies.channels) == {"web"}


NETWORK: list[Any] = [
    case("nothing set", [], None, (None, None, 0)),
    case("for all", [({}, {"network_safety_stock": 4})], None, (4, "p1", 0)),
    case("for all, in a channel too", [({}, {"network_safety_stock": 4})], "web", (4, "p1", 0)),
    case(
        "a channel's own", [({}, {"network_safety_stock": 4}), ({"channel": "web"}, {"quota": 6})], "web", (4, "p1", 6)
    ),
    case("another channel's", [({"channel": "web"}, {"quota": 6, "network_safety_stock": 1})], None, (None, None, 0)),
    case("a category's", [({"category": "shoes"}, {"network_safety_stock": 4})], None, (4, "p1", 0)),
    case("a place has no say", [({"location": "A"}, {"network_safety_stock": 4})], None, (None, None, 0)),
    case("nor a region", [({"region": "north"}, {"network_safety_stock": 4})], None, (None, None, 0)),
    case("nor a kind of location", [({"location_kind": "store"}, {"network_safety_stock": 4})], None, (None, None, 0)),
    case("zero is a value", [({}, {"network_safety_stock": 0})], None, (0, "p1", 0)),
]


@pytest.mark.parametrize(("told", "channel", "wanted"), NETWORK)
def test_the_network_has_values_of_its_own(told: Any, channel: str | None, wanted: Any) -> None:
    """Per mode and channel, by the same precedence, from policies that name no place."""
    policies = rules(*(policy(f"p{n}", scope, **values) for n, (scope, values) in enumerate(told, 1)))
    found = policies.network_terms("SKU", channel, SHOE)
    assert (found.ship.safety_stock, found.ship.policy, found.ship.quota) == wanted
    assert found.pickup == found.ship


def test_the_network_knows_modes_and_bands() -> None:
    """What a network record needs besides; whether a mode is off, each location says."""
    policies = rules(
        policy("a", {"mode": "ship"}, low_stock_enter=6, enabled=False),
        policy("b", low_stock_enter=5, low_stock_exit=9),
    )
    found = policies.network_terms("SKU")
    assert (found.ship, found.pickup) == (NetworkModeTerms(None, None, 0, 6, 9), NetworkModeTerms(None, None, 0, 5, 9))


GOODS: list[Any] = [
    case("a channel for all goods", [{"channel": "web"}], ("web",)),
    case(
        "several, each once",
        [{"channel": "web"}, {"channel": "app"}, {"channel": "web", "mode": "ship"}],
        ("app", "web"),
    ),
    case("for the SKU", [{"channel": "web", "sku": "SKU"}], ("web",)),
    case("for another SKU", [{"channel": "web", "sku": "OTHER"}], ()),
    case("for its category and brand", [{"channel": "web", "category": "shoes", "brand": "own"}], ("web",)),
    case("for another brand", [{"channel": "web", "category": "shoes", "brand": "other"}], ()),
    case("at one location, wherever the SKU is", [{"channel": "web", "location": "FAR"}], ("web",)),
    case("none", [{"mode": "ship"}], ()),
]


@pytest.mark.parametrize(("scopes", "wanted"), GOODS)
def test_a_sku_has_the_channels_that_policies_name_for_it(scopes: list[Any], wanted: tuple[str, ...]) -> None:
    """While one of them is in force; they come back to none as they came."""
    policies = rules(*(policy(f"p{n}", scope, quota=1) for n, scope in enumerate(scopes)))
    assert policies.channels_of("SKU", SHOE) == wanted
    for n in range(len(scopes)):
        policies.remove_policy(f"p{n}")
    assert policies.channels_of("SKU", SHOE) == ()
    assert policies._channels_of == {}


def test_terms_in_a_channel_and_over_all_locations_are_resolved_once() -> None:
    """As those of a location; a change forgets those that it can concern."""
    policies = rules(policy("a", {"channel": "web"}, safety_stock=1, quota=3))
    here, over_all = policies.channel_terms("SKU", "A", "web", SHOE), policies.network_terms("SKU", "web", SHOE)
    assert policies.channel_terms("OTHER", "A", "web", SHOE) is here
    assert policies.network_terms("OTHER", "web", SHOE) is over_all
    policies.set_location(location("A", ship=False))
    assert policies.channel_terms("SKU", "A", "web", SHOE).ship.off == "location_off"
    assert policies.network_terms("SKU", "web", SHOE) is over_all
    policies.set_policy(policy("b", {"channel": "web", "sku": "SKU"}, quota=7))
    assert policies.network_terms("SKU", "web", SHOE).ship.quota == 7
    assert policies.network_terms("OTHER", "web", SHOE) is over_all
    policies.set_policy(policy("a", {"channel": "web"}, safety_stock=1, quota=4))
    assert policies.network_terms("OTHER", "web", SHOE).ship.quota == 4
    policies.remove_policy("b")
    assert policies.network_terms("SKU", "web", SHOE).ship.quota == 4
