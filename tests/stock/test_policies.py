"""Which values hold where: resolution per value, precedence, locations, and what a change forgets."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from stock import policies as module
from stock.events import PolicySet, Scope
from stock.items import Item
from stock.policies import Policies
from stock.terms import LOW_STOCK_ENTER_DEFAULT, ModeTerms, Terms
from tests.stock.facts import location, policy, rules


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def test_without_settings_everything_sells() -> None:
    """A location never described is a store with both modes on, and low stock begins at 3."""
    terms = Policies().terms("SKU", "A")
    assert terms.ship == ModeTerms(off=None, safety_stock=0, enter=3, exit=4, policy=None)
    assert (terms.pickup, terms.alike, terms.banded) == (terms.ship, True, False)
    assert LOW_STOCK_ENTER_DEFAULT == 3


# Each policy sets safety_stock to its position, counted from 1; ids are p1, p2, ...
PRECEDENCE = [
    case("the only one", [{}], "ship", "p1"),
    case("any field beats none", [{}, {"mode": "ship"}], "ship", "p2"),
    case("more fields beat a stronger field", [{"sku": "SKU"}, {"location": "A", "mode": "ship"}], "ship", "p2"),
    case(
        "all fields", [{"sku": "SKU", "location": "A"}, {"sku": "SKU", "location": "A", "mode": "ship"}], "ship", "p2"
    ),
    case("sku beats location", [{"location": "A"}, {"sku": "SKU"}], "ship", "p2"),
    case("sku beats mode", [{"mode": "ship"}, {"sku": "SKU"}], "ship", "p2"),
    case("location beats mode", [{"mode": "ship"}, {"location": "A"}], "ship", "p2"),
    case(
        "sku and location beat sku and mode",
        [{"sku": "SKU", "mode": "ship"}, {"sku": "SKU", "location": "A"}],
        "ship",
        "p2",
    ),
    case(
        "sku and mode beat location and mode",
        [{"location": "A", "mode": "ship"}, {"sku": "SKU", "mode": "ship"}],
        "ship",
        "p2",
    ),
    case("equal scopes: the smaller id", [{"sku": "SKU"}, {"sku": "SKU"}], "ship", "p1"),
    case("another SKU's does not count", [{"sku": "OTHER"}, {}], "ship", "p2"),
    case("another location's does not count", [{"location": "B"}, {}], "ship", "p2"),
    case("the other mode's does not count", [{"mode": "pickup"}, {}], "ship", "p2"),
    case("each mode finds its own", [{"mode": "ship"}, {"mode": "pickup"}], "pickup", "p2"),
    case("one field that fits and one that does not", [{"sku": "SKU", "location": "B"}, {}], "ship", "p2"),
    case("nothing fits", [{"sku": "OTHER"}], "ship", None),
]


@pytest.mark.parametrize(("scopes", "mode", "decides"), PRECEDENCE)
def test_the_most_specific_policy_decides(scopes: list[dict[str, Any]], mode: str, decides: str | None) -> None:
    """Most scope fields, then the first that differs in the ranking, then the smaller id; whatever the order told."""
    policies = [policy(f"p{i}", scope, safety_stock=i) for i, scope in enumerate(scopes, 1)]
    for order in (policies, policies[::-1]):
        found: ModeTerms = getattr(rules(*order).terms("SKU", "A"), mode)
        assert found.policy == decides
        assert found.safety_stock == (0 if decides is None else int(decides[1:]))


def test_at_equal_scopes_the_earlier_end_decides() -> None:
    """Before ids are compared; no end comes last."""

    def dated(name: str, until: datetime | None) -> PolicySet:
        return msgspec.structs.replace(policy(name, safety_stock=1), valid_until=until)

    ends = (datetime(2027, 1, 1, tzinfo=timezone.utc), datetime(2026, 12, 1, tzinfo=timezone.utc), None)
    found = rules(*(dated(f"p{i}", end) for i, end in enumerate(ends))).terms("SKU", "A")
    assert found.ship.policy == "p1"


VALUES = [
    case("safety stock", [({}, {"safety_stock": 2})], {"safety_stock": 2, "policy": "p1"}),
    case("buffer comes on top", [({}, {"safety_stock": 2, "buffer": 3})], {"safety_stock": 5, "policy": "p1"}),
    case("a buffer alone names no policy", [({}, {"buffer": 3})], {"safety_stock": 3}),
    case("zero is a value", [({}, {"safety_stock": 2}), ({"sku": "SKU"}, {"safety_stock": 0})], {"policy": "p2"}),
    case(
        "every value is resolved by itself",
        [({}, {"safety_stock": 2, "low_stock_enter": 8}), ({"sku": "SKU"}, {"buffer": 1})],
        {"safety_stock": 3, "enter": 8, "exit": 9, "policy": "p1"},
    ),
    case("low stock from where", [({}, {"low_stock_enter": 5})], {"enter": 5, "exit": 6}),
    case("low stock never", [({}, {"low_stock_enter": 0})], {"enter": 0, "exit": 1}),
    case("low stock until where", [({}, {"low_stock_enter": 5, "low_stock_exit": 8})], {"enter": 5, "exit": 8}),
    case("an exit alone", [({}, {"low_stock_exit": 8})], {"exit": 8}),
    case("an exit below the entry", [({}, {"low_stock_enter": 5, "low_stock_exit": 2})], {"enter": 5, "exit": 6}),
    case("an exit at the entry", [({}, {"low_stock_enter": 5, "low_stock_exit": 5})], {"enter": 5, "exit": 6}),
    case("excluded", [({}, {"enabled": False})], {"off": "excluded"}),
    case("enabled again for one", [({}, {"enabled": False}), ({"sku": "SKU"}, {"enabled": True})], {}),
    case("excluded keeps its numbers", [({}, {"enabled": False, "safety_stock": 2})], {"off": "excluded"}),
]


@pytest.mark.parametrize(("settings", "changed"), VALUES)
def test_values_are_resolved_one_by_one(settings: list[tuple[Any, Any]], changed: dict[str, Any]) -> None:
    """Each value comes from the most specific policy that sets it, not from the most specific policy."""
    policies = [policy(f"p{i}", scope, **values) for i, (scope, values) in enumerate(settings, 1)]
    found = rules(*policies).terms("SKU", "A").ship
    assert {name: getattr(found, name) for name in changed} == changed
    if "off" not in changed:
        assert found.off is None


LOCATIONS = [
    case("both on", True, True, (None, None)),
    case("no shipping", False, True, ("location_off", None)),
    case("no pick-up", True, False, (None, "location_off")),
    case("closed", False, False, ("location_off", "location_off")),
]


@pytest.mark.parametrize(("ship", "pickup", "off"), LOCATIONS)
def test_a_location_says_which_modes_it_serves(ship: bool, pickup: bool, off: tuple[str | None, str | None]) -> None:
    """Only for itself; the newest description holds, and a removed location serves both again."""
    policies = rules(location("A", ship=not ship, pickup=not pickup), location("A", ship=ship, pickup=pickup))
    found = policies.terms("SKU", "A")
    assert (found.ship.off, found.pickup.off) == off
    assert policies.terms("SKU", "B").ship.off is None
    policies.remove_location("A")
    found = policies.terms("SKU", "A")
    assert (found.ship.off, found.pickup.off) == (None, None)


def test_a_closed_location_comes_before_an_exclusion() -> None:
    """The reason is the location's."""
    found = rules(location("A", ship=False), policy("p", enabled=False)).terms("SKU", "A")
    assert (found.ship.off, found.pickup.off) == ("location_off", "excluded")


def test_every_change_is_seen_at_once() -> None:
    """Resolved terms never outlive the settings they came from, with and without policies for the SKU itself."""
    policies = rules(policy("p", safety_stock=1))
    assert policies.terms("SKU", "A").ship.safety_stock == 1
    policies.set_policy(policy("p", safety_stock=2))
    assert policies.terms("SKU", "A").ship.safety_stock == 2
    policies.set_policy(policy("own", {"sku": "SKU"}, safety_stock=3))
    assert policies.terms("SKU", "A").ship.safety_stock == 3
    assert policies.terms("OTHER", "A").ship.safety_stock == 2
    policies.set_policy(policy("own", {"sku": "SKU"}, safety_stock=4))
    assert policies.terms("SKU", "A").ship.safety_stock == 4
    policies.remove_policy("own")
    assert policies.terms("SKU", "A").ship.safety_stock == 2
    policies.remove_policy("p")
    assert policies.terms("SKU", "A").ship.safety_stock == 0


def test_a_replaced_or_removed_policy_tells_where_it_held() -> None:
    """So that those keys are looked at again; None if it was not known."""
    policies = Policies()
    assert policies.set_policy(policy("p", {"sku": "X"}, buffer=1)) is None
    assert policies.set_policy(policy("p", {"location": "B"}, buffer=1)) == Scope(sku="X")
    assert policies.remove_policy("p") == Scope(location="B")
    assert policies.remove_policy("p") is None


def test_revision_counts_changes_only() -> None:
    """Removing what is not there is no change."""
    policies = Policies()
    policies.remove_policy("p")
    policies.remove_location("A")
    assert policies.revision == 0
    policies.set_policy(policy("p"))
    policies.set_location(location("A"))
    policies.remove_policy("p")
    policies.remove_location("A")
    assert policies.revision == 4


BANDED = [
    case("no exit", {"low_stock_enter": 5}, False, False),
    case("an exit above", {"low_stock_enter": 5, "low_stock_exit": 7}, True, True),
    case("an exit that leaves no band", {"low_stock_enter": 5, "low_stock_exit": 6}, True, False),
]


@pytest.mark.parametrize(("values", "anywhere", "here"), BANDED)
def test_a_band_is_known_before_it_matters(values: dict[str, int], anywhere: bool, here: bool) -> None:
    """Policies say if there may be a band anywhere, terms if there is one here."""
    policies = rules(policy("p", **values))
    assert policies.banded is anywhere
    assert policies.terms("SKU", "A").banded is here
    policies.remove_policy("p")
    assert policies.banded is False


def test_terms_are_alike_only_if_they_are() -> None:
    """A difference in anything makes two modes different."""
    assert rules(policy("p", safety_stock=1)).terms("SKU", "A").alike is True
    assert rules(policy("p", {"mode": "ship"}, safety_stock=1)).terms("SKU", "A").alike is False
    assert rules(location("A", ship=False)).terms("SKU", "A").alike is False
    one = policy("p", {"mode": "ship"}, safety_stock=1)
    two = policy("q", {"mode": "pickup"}, safety_stock=1)
    assert rules(one, two).terms("SKU", "A").alike is False, "the deciding policy is published"


def test_terms_of_single_skus_are_cached_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache starts anew when it is full, and goes on telling the truth."""
    monkeypatch.setattr(module, "SKU_TERMS_CACHED_MAX", 2)
    policies = rules(*(policy(f"p{i}", {"sku": f"S{i}"}, safety_stock=i) for i in range(5)))
    for _ in range(2):
        assert [policies.terms(f"S{i}", "A").ship.safety_stock for i in range(5)] == [0, 1, 2, 3, 4]
        assert policies._cached == sum(len(of_sku) for _, of_sku in policies._by_sku.values()) <= 2


class Resolutions(Policies):
    """Policies that tell how often terms had to be resolved, and over how many policies."""

    def __init__(self) -> None:
        super().__init__()
        self.resolved: list[tuple[str | None, str]] = []
        self.candidates = 0

    def _resolve(self, sku: str | None, location: str, item: Item | None, channel: str | None = None) -> Terms:
        self.resolved.append((sku, location))
        return super()._resolve(sku, location, item, channel)

    def _candidates(self, sku: str | None, location: str | None, item: Item | None) -> list[PolicySet]:
        found = super()._candidates(sku, location, item)
        self.candidates += len(found)
        return found


def test_the_change_of_one_skus_policy_forgets_only_that_skus_terms() -> None:
    """A planner who edits one product does not slow down all others."""
    policies = Resolutions()
    for i in range(3):
        policies.set_policy(policy(f"p{i}", {"sku": f"S{i}"}, safety_stock=i + 1))
    keys = [("S0", "A"), ("S1", "A"), ("S1", "B"), ("S2", "A"), ("OTHER", "A")]
    for key in keys:
        policies.terms(*key)
    policies.resolved.clear()
    policies.set_policy(policy("p1", {"sku": "S1"}, safety_stock=9))
    assert [policies.terms(*key).ship.safety_stock for key in keys] == [1, 9, 9, 3, 0]
    assert policies.resolved == [("S1", "A"), ("S1", "B")]


def test_a_policy_that_changes_its_sku_is_forgotten_at_both() -> None:
    """Where it held and where it holds."""
    policies = rules(policy("p", {"sku": "S0"}, safety_stock=1), policy("q", {"sku": "S1"}, safety_stock=2))
    assert [policies.terms(sku, "A").ship.safety_stock for sku in ("S0", "S1")] == [1, 2]
    policies.set_policy(policy("p", {"sku": "S1", "location": "A"}, safety_stock=7))
    assert [policies.terms(sku, "A").ship.safety_stock for sku in ("S0", "S1")] == [0, 7]


def test_the_change_of_one_location_concerns_skus_with_policies_too() -> None:
    """Its own terms and those of each SKU there; other locations keep theirs."""
    policies = Resolutions()
    policies.set_policy(policy("p", {"sku": "SKU"}, safety_stock=1))
    for key in (("SKU", "A"), ("OTHER", "A"), ("OTHER", "B")):
        policies.terms(*key)
    policies.resolved.clear()
    policies.set_location(location("A", ship=False))
    offs = [policies.terms(*key).ship.off for key in (("SKU", "A"), ("OTHER", "A"), ("OTHER", "B"))]
    assert offs == ["location_off", "location_off", None]
    assert policies.resolved == [("SKU", "A"), (None, "A")]


def operations(policies: Policies, count: int) -> int:
    """Lines of the module that run, generators included, while so many SKUs are given a policy."""
    settings = [policy(f"p{i}", {"sku": f"S{i}"}, safety_stock=i, low_stock_exit=9) for i in range(count)]
    steps = 0

    def step(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += frame.f_code.co_filename == module.__file__
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        for setting in settings:
            policies.set_policy(setting)
    finally:
        sys.settrace(before)
    return steps


def test_a_policy_costs_the_same_however_many_there_are() -> None:
    """A safety stock for every SKU is the normal case: twenty thousand are set and resolved in linear work."""
    few, many = operations(Policies(), 100), operations(Policies(), 1_000)
    assert 0 < many <= 11 * few
    policies = Resolutions()
    for i in range(20_000):
        policies.set_policy(policy(f"p{i}", {"sku": f"S{i}"}, safety_stock=i))
        assert policies.terms(f"S{i}", "A").ship.safety_stock == i
    assert len(policies.resolved) == 20_000
    assert policies.candidates == 20_000, "each SKU looks at its own policy and at no other"
    for i in range(0, 20_000, 1_000):
        assert policies.terms(f"S{i}", "A").ship.safety_stock == i
    assert len(policies.resolved) == 20_000, "what was resolved stays"


def test_every_scope_field_has_its_rank() -> None:
    """A field added later cannot be overlooked."""
    assert set(module._RANKED_FIELDS) == set(Scope.__struct_fields__)
