"""What the network records must say, added up anew from what the oracle expects of each location; slow and plain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from stock.events import ItemSet, StockFact
from tests.oracle import (
    BEST_FIRST,
    LOW_STOCK_ENTER_UNSET,
    Delisted,
    Expected,
    Fact,
    InForce,
    Place,
    Promises,
    Setting,
    as_published,
    committed_for,
    deciding_policy,
    expected,
    first_facts,
    kept_promises,
    lifecycle_of,
    newest_items,
    settings_in_force,
    shelf_statuses,
)

NetworkKey = tuple[str, str]  # SKU, channel
MODES = ("ship", "pickup")
SUMMED = ("on_hand", "committed", "in_transit", "inbound", "shortage", "backorder_left")


def expected_networks(
    history: Iterable[Fact], settings: Iterable[Setting], now: datetime, promises: Promises | None = None
) -> dict[NetworkKey, dict[str, Any]]:
    """By SKU and channel, the fields of the record that must be published; statuses are sets of legal ones."""
    settings, history = list(settings), list(history)
    items, in_force = newest_items(history), settings_in_force(settings)
    facts: dict[str, list[StockFact]] = defaultdict(list)
    for fact in kept_promises(first_facts(history), promises):
        facts[fact.sku].append(fact)
    goods = {sku: Goods(sku, items.get(sku), facts[sku], in_force, now) for sku in facts}
    found = {}
    named = {policy.scope.channel for policy in in_force.policies.values()}
    for channel in {None, *named}:
        by_sku: dict[str, list[Expected]] = defaultdict(list)
        for (sku, _), one in expected(history, settings, now, promises, channel).items():
            by_sku[sku].append(one)
        for sku, places in by_sku.items():
            if channel is None or channel in goods[sku].channels():
                found[sku, channel or "*"] = network(goods[sku], channel, places)
    return found


@dataclass(frozen=True)
class Goods:
    """A SKU and what holds for it, wherever it is."""

    sku: str
    item: ItemSet | Delisted | None
    facts: list[StockFact]
    in_force: InForce
    now: datetime

    def named(self) -> dict[str, str]:
        """What a policy may name of it."""
        named = {"sku": self.sku}
        if isinstance(self.item, ItemSet):
            named |= {"brand": self.item.brand, "category": self.item.category}
        return named

    def channels(self) -> set[str]:
        """Every channel that a policy names which holds now and could concern this SKU somewhere."""
        return {
            policy.scope.channel
            for policy in self.in_force.policies.values()
            if policy.scope.channel is not None
            and (policy.valid_from is None or policy.valid_from <= self.now)
            and (policy.valid_until is None or self.now < policy.valid_until)
            and all(
                getattr(policy.scope, name) == self.named().get(name)
                for name in ("sku", "brand", "category")
                if getattr(policy.scope, name) is not None
            )
        }

    def value(self, name: str, mode: str, channel: str | None) -> int | None:
        """A value that holds over all locations: from the policies that name no place."""
        here = self.named() | {"mode": mode} | ({} if channel is None else {"channel": channel})
        policy = deciding_policy(name, here, self.in_force, self.now)
        return None if policy is None else getattr(policy.values, name)

    def reserved(self, mode: str, channel: str | None) -> int:
        """What a channel must leave to the others; nobody in particular leaves nothing."""
        if channel is None:
            return 0
        kept = 0
        for other in self.channels() - {channel}:
            quota = self.value("quota", mode, other) or 0
            kept += max(0, quota - committed_for(other, self.facts, self.now))
        return kept


def network(goods: Goods, channel: str | None, places: list[Expected]) -> dict[str, Any]:
    """One record: what every location says, added up."""
    answers = {mode: mode_of_network(mode, goods, channel, places) for mode in MODES}
    inbound_at = [place.next_inbound_at for place in places if place.next_inbound_at is not None]
    return {
        "status_ship": answers["ship"].statuses,
        "status_pickup": answers["pickup"].statuses,
        "available_to_ship": answers["ship"].available,
        "available_in_store": answers["pickup"].available,
        "locations_in_stock": sum(1 for p in places if p.available_to_ship or p.available_in_store),
        "locations_unknown": sum(1 for p in places if "UNKNOWN" in p.status_ship | p.status_pickup),
        "atp": promises(
            max(answers["ship"].promised_from, answers["pickup"].promised_from),
            [part for place in places for part in place.dated],
        ),
        "next_inbound_at": min(inbound_at, default=None),
        **{name: sum(getattr(place, name) for place in places) for name in SUMMED},
    }


def promises(now_units: int, dated: list[tuple[datetime, int]]) -> list[dict[str, Any]]:
    """From each date on, the least that the projection has there or later, never below 0."""
    dates = sorted({at for at, _ in dated})
    projected = {date: now_units + sum(units for at, units in dated if at <= date) for date in dates}
    return [
        {"at": as_published(date), "units": max(0, min(projected[later] for later in dates if later >= date))}
        for date in dates
    ]


class OfMode(NamedTuple):
    """Legal statuses and units of one mode, and from what its promises by date start."""

    statuses: set[str]
    available: int | None
    promised_from: int


def mode_of_network(mode: str, goods: Goods, channel: str | None, places: list[Expected]) -> OfMode:
    """One mode, by the status table of a location, over those whose mode is on."""

    def is_on(place: Expected) -> bool:
        at = Place(goods.sku, place.location, goods.item, 0, 0, True, goods.in_force, goods.now, channel)
        return at.why_off(mode) is None

    short = sum(place.shortage for place in places)
    on = [place for place in places if is_on(place)]
    known = [place for place in on if available_in(mode, place) is not None]
    if not known:
        return OfMode({"UNKNOWN"}, None, -short) if on else OfMode({"OUT_OF_STOCK"}, 0, -short)
    lifecycle = lifecycle_of(goods.item)
    reserved = goods.reserved(mode, channel)
    own = goods.value("network_safety_stock", mode, channel)
    if own is None:
        total = sum(available_in(mode, place) or 0 for place in known) - reserved
        promised_from = total - short
    else:
        raw = [place.on_hand - place.unavailable - place.committed for place in known]
        there = sum(min(0, units) if lifecycle == "preorder" else units for units in raw)
        total = promised_from = there - own - reserved
    if total > 0:
        enter = goods.value("low_stock_enter", mode, channel)
        enter = LOW_STOCK_ENTER_UNSET if enter is None else enter
        leave = max(enter + 1, goods.value("low_stock_exit", mode, channel) or 0)
        return OfMode(set(shelf_statuses(total, enter, leave)), total, promised_from)
    without_stock = any(place.backorder_left for place in known)
    if lifecycle == "preorder":
        status = "PREORDERABLE" if without_stock else "OUT_OF_STOCK"
    elif lifecycle == "discontinued":
        status = "DISCONTINUED"
    else:
        status = "BACKORDERABLE" if without_stock else "OUT_OF_STOCK"
    return OfMode({status}, 0, promised_from)


def available_in(mode: str, place: Expected) -> int | None:
    """Units of a mode at a location."""
    return place.available_to_ship if mode == "ship" else place.available_in_store


def network_disagreements(
    wanted: Mapping[NetworkKey, Mapping[str, Any]], actual: Mapping[NetworkKey, Mapping[str, Any] | None]
) -> list[str]:
    """Readable differences between what must be published and what is; empty when all is well."""
    problems = []
    for key in sorted(wanted.keys() | actual.keys()):
        name = "|".join(key)
        want, have = wanted.get(key), actual.get(key)
        if want is None or have is None:
            if want is not have:
                problems.append(f"network {name}: is {have!r}, expected {want!r}")
            continue
        for field, value in want.items():
            legal = list(value) if isinstance(value, set) else [as_published(value)]
            if not any(type(have[field]) is type(one) and have[field] == one for one in legal):
                problems.append(f"network {name}: {field} is {have[field]!r}, expected {value!r}")
        if have["status"] != min(have["status_ship"], have["status_pickup"], key=BEST_FIRST.index):
            problems.append(f"network {name}: status {have['status']} is not the better one")
    return problems
