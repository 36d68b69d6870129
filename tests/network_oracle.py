"""What the network records must say, added up anew from what the oracle expects of each location; slow and plain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from stock.events import ItemSet
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
    expected,
    newest_items,
    settings_in_force,
    shelf_statuses,
)

NetworkKey = tuple[str, str]  # SKU, channel
MODES = ("ship", "pickup")
SUMMED = ("on_hand", "committed", "in_transit", "inbound", "shortage", "backorder_left")
NOWHERE = ""  # No location has this name: a store that nobody described, as far as rules are concerned.


def expected_networks(
    history: Iterable[Fact], settings: Iterable[Setting], now: datetime, promises: Promises | None = None
) -> dict[NetworkKey, dict[str, Any]]:
    """By SKU and channel, the fields of the record that must be published; statuses are sets of legal ones."""
    settings, history = list(settings), list(history)
    items = newest_items(history)
    in_force = settings_in_force(settings)
    by_sku: dict[str, list[Expected]] = defaultdict(list)
    for (sku, _), one in expected(history, settings, now, promises).items():
        by_sku[sku].append(one)
    return {(sku, "*"): network(sku, places, items.get(sku), in_force, now) for sku, places in by_sku.items()}


def network(
    sku: str, places: list[Expected], item: ItemSet | Delisted | None, in_force: InForce, now: datetime
) -> dict[str, Any]:
    """One record: what every location says, added up."""
    answers = {
        mode: mode_of_network(mode, places, lambda at: Place(sku, at, item, 0, 0, True, in_force, now))
        for mode in MODES
    }
    inbound_at = [place.next_inbound_at for place in places if place.next_inbound_at is not None]
    return {
        "status_ship": answers["ship"][0],
        "status_pickup": answers["pickup"][0],
        "available_to_ship": answers["ship"][1],
        "available_in_store": answers["pickup"][1],
        "locations_in_stock": sum(1 for p in places if p.available_to_ship or p.available_in_store),
        "locations_unknown": sum(1 for p in places if "UNKNOWN" in p.status_ship | p.status_pickup),
        "atp": promises(
            max(answers["ship"][1] or 0, answers["pickup"][1] or 0) - sum(place.shortage for place in places),
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


def mode_of_network(mode: str, places: list[Expected], place_at: Callable[[str], Place]) -> tuple[set[str], int | None]:
    """Legal statuses and units of one mode: the status table of a location, over those whose mode is on."""
    on = [place for place in places if place_at(place.location).why_off(mode) is None]
    if not on:
        return {"OUT_OF_STOCK"}, 0
    said = [(getattr(place, f"status_{mode}"), available_in(mode, place)) for place in on]
    if all(units is None for _, units in said):
        return {"UNKNOWN"}, None
    total = sum(units for _, units in said if units is not None)
    if total > 0:
        nowhere = place_at(NOWHERE)
        enter = nowhere.resolved("low_stock_enter", mode)
        enter = LOW_STOCK_ENTER_UNSET if enter is None else enter
        leave = max(enter + 1, nowhere.resolved("low_stock_exit", mode) or 0)
        return shelf_statuses(total, enter, leave), total
    for status in ("PREORDERABLE", "DISCONTINUED", "BACKORDERABLE"):
        if any(status in statuses for statuses, _ in said):
            return {status}, 0
    return {"OUT_OF_STOCK"}, 0


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
