"""Requested reservations: how one is decided, and what was promised; never how a hold is kept.

A decision is made once, by the owner of the SKU, from what it knows when the request is read, and is a state key of
its own that becomes durable before the hold that follows from it. A repeat gets the same answer: the same request, or
another one for a reservation and line of which a promise stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import asin, cos, inf, radians, sin, sqrt
from typing import Any, Literal

import msgspec
import xxhash
from msgspec import Struct, structs

from stock.availability import View
from stock.events import ANYWHERE, Coordinates, Lifecycle, LocationSet, Mode, ReservationRequested
from stock.terms import NetworkTerms
from stock.times import micros

ALTERNATIVES_MAX = 5
_EARTH_KM = 6_371.0

_VERDICT = "|\x1fverdict\x1f"  # Stored.

Verdict = Literal["accepted", "partial", "rejected"]


class Alternative(Struct, frozen=True, gc=False, array_like=True):
    """What could be had instead: units at a location in a mode, now or (`at_us`) at a time."""

    location: str
    mode: Mode
    units: int
    at_us: int | None = None


class Decision(Struct, frozen=True, gc=False, array_like=True):
    """What was answered to a request; units are those promised, of which some may be backordered.

    `offset`: where the request stands in its topic. `available`: what could be had at the location as it was decided.
    `repeats`: it was told what stood promised of its reservation and line, and has no hold of its own.
    """

    offset: int
    source: str
    id: str
    occurred_us: int
    decided_us: int
    reservation: str
    line: str | None
    location: str
    mode: Mode
    verdict: Verdict
    units: int
    backordered: int = 0
    expires_at_us: int | None = None
    available: int | None = None
    expected_at_us: int | None = None
    reason: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    repeats: bool = False


class Offer(Struct, frozen=True, gc=False):
    """What a location has for a request. `free` is None where nothing is known.

    `raw` is what it adds to a network that keeps a safety stock of its own; a shortage is negative.
    """

    location: str
    free: int | None
    backorder_left: int
    reason: str | None
    km: float
    described: LocationSet | None
    other_mode: int = 0
    raw: int = 0
    coming: tuple[tuple[int, int], ...] = ()  # ETA and units, earliest first

    @property
    def is_store(self) -> bool:
        """Whether it is a shop; so is a location that nobody has described."""
        return self.described is None or self.described.kind == "store"

    @property
    def most(self) -> int:
        """Units that may be promised."""
        return (self.free or 0) + self.backorder_left if self.free is not None else 0


def offer_of(
    seen: View,
    location: str,
    mode: Mode,
    own: int,
    km: float,
    described: LocationSet | None,
    coming: Iterable[tuple[int, int | None]] = (),
    lifecycle: Lifecycle = "active",
    backorder_limit: int = 0,
    now_us: int = 0,
) -> Offer:
    """What a location can offer in a mode.

    Args:
        seen: its view.
        own: units held there already for this very line, less what is promised to others and not yet held.
        km: how far it is from where it is wanted; infinite if not known.
        described: what the settings say of the location.
        coming: units on their way there, with their ETA.
        lifecycle: of the item; only an active one can be backordered, and one to come only that.
        backorder_limit: how far beyond its stock it may be sold, with `own` counted like everything else.
        now_us: what should have arrived by now may never.
    """
    this, other = (seen.ship, seen.pickup) if mode == "ship" else (seen.pickup, seen.ship)
    raw = seen.on_hand - seen.unavailable - seen.committed + own
    off = "delisted" if lifecycle == "delisted" else this.reason if this.reason in _OFF else None
    if off is not None or lifecycle == "preorder":
        free: int | None = 0
    elif this.available is None:
        free = None
    else:
        free = max(0, raw - this.safety_stock)
    dated = sorted((at, units) for units, at in coming if at is not None and at > now_us)
    backorder = 0 if off is not None or lifecycle == "discontinued" else max(0, backorder_limit + min(0, raw))
    there = 0 if lifecycle == "delisted" else other.available or 0
    to_sell = off is None and lifecycle != "preorder" and free is not None
    return Offer(
        location, free, backorder, off or this.reason, km, described, there, raw if to_sell else 0, tuple(dated)
    )


def fenced(offers: list[Offer], mode: Mode, terms: NetworkTerms, reserved: tuple[int, int]) -> list[Offer]:
    """Offers of which none is more than may be had over all locations.

    Args:
        offers: of every location.
        mode: of the request.
        terms: whose network safety stock, if there is one, stands for that of the locations in the sum.
        reserved: units that must be left to other channels, for shipping and for pick-up.
    """
    ship = mode == "ship"
    safety_stock = (terms.ship if ship else terms.pickup).safety_stock
    if safety_stock is None and not any(reserved):
        return offers
    here, other = reserved if ship else reserved[::-1]
    if safety_stock is None:
        most = sum(offer.free or 0 for offer in offers) - here
    else:
        most = sum(offer.raw for offer in offers) - safety_stock - here
    most, most_other = max(0, most), max(0, sum(offer.other_mode for offer in offers) - other)
    return [
        structs.replace(
            offer,
            free=None if offer.free is None else min(offer.free, most),
            other_mode=min(offer.other_mode, most_other),
        )
        for offer in offers
    ]


_OFF = frozenset({"location_off", "excluded"})


# By what the node for `*` is chosen: what each says of an offer, the least first, for units wanted in a mode.
CRITERIA: dict[str, Callable[[Offer, int, Mode], Any]] = {
    "whole": lambda offer, wanted, _: ((offer.free or 0) < wanted, offer.most < wanted),
    "most": lambda offer, wanted, _: -min(offer.most, wanted),
    "near": lambda offer, _, __: offer.km,
    "kind": lambda offer, _, mode: offer.is_store == (mode == "ship"),
    "warehouse": lambda offer, _, __: offer.is_store,
    "store": lambda offer, _, __: not offer.is_store,
    "stock": lambda offer, _, __: -(offer.free or 0),
    "id": lambda offer, _, __: offer.location,
}
NODE_ORDER = ("whole", "most", "near", "kind", "id")


def node_order(text: str) -> tuple[str, ...]:
    """The criteria that a comma list names; `id` is always the last one, so that there is only one answer.

    Raises:
        ValueError: it names none, one that does not exist, or one twice; the text says what is allowed.
    """
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names) or not set(names) <= CRITERIA.keys():
        raise ValueError(f"must be a comma list without repetition of: {', '.join(CRITERIA)}")
    return (*(name for name in names if name != "id"), "id")


def decide(
    request: ReservationRequested, offset: int, now_us: int, offers: list[Offer], order: Sequence[str] = NODE_ORDER
) -> Decision:
    """The answer to a request.

    A named location is taken or refused. For `*` the criteria of `order` choose among those that can promise something
    that will do, each among those that are equal by all before it. Unless told otherwise: who can promise the whole
    line from stock, then with a backorder, then who has most of it; the nearest; warehouses before stores for shipping
    and stores before warehouses for pick-up; by id. Safety stock is kept everywhere.

    Args:
        request: what is wanted.
        offset: where it stands in its topic.
        now_us: the timestamp of its record.
        offers: of every location of the SKU.
        order: names of `CRITERIA`.
    """
    wanted = request.units
    anywhere = request.location == ANYWHERE
    candidates = [offer for offer in offers if anywhere or offer.location == request.location]
    able = [offer for offer in candidates if offer.most >= wanted or (request.partial and offer.most > 0)]
    criteria = [CRITERIA[name] for name in order]

    def place(offer: Offer) -> list[Any]:
        return [says(offer, wanted, request.mode) for says in criteria]

    chosen = min(able or candidates, key=place, default=None)
    expires_us = None if request.expires_at is None else micros(request.expires_at)
    most = 0 if chosen is None else chosen.most
    verdict: Verdict = "rejected"
    units, reason = 0, None
    if expires_us is not None and expires_us <= now_us:
        reason = "expired"
    elif most >= wanted:
        verdict, units = "accepted", wanted
    elif most > 0 and request.partial:
        verdict, units = "partial", most
    if chosen is None:
        reason = reason or "no_baseline"
    elif verdict != "accepted":
        reason = reason or (chosen.reason if most == 0 else None) or "not_enough"
    free = None if chosen is None else chosen.free
    backordered = max(0, units - (free or 0))
    return Decision(
        offset,
        request.source,
        request.id,
        micros(request.occurred_at),
        now_us,
        request.reservation,
        request.line,
        chosen.location if chosen is not None and units else request.location,
        request.mode,
        verdict,
        units,
        backordered,
        expires_us,
        free,
        _covered_at(chosen, backordered) if chosen is not None and backordered else None,
        reason,
        () if verdict == "accepted" or reason == "expired" else _alternatives(request, offers, chosen),
    )


def repeat_of(standing: Decision, units: int, request: ReservationRequested, offset: int, now_us: int) -> Decision:
    """The answer to a request for a reservation and line of which a promise stands: what is left of that promise.

    Args:
        standing: the decision that made the promise.
        units: promised by it and not released since.
        request: what is wanted now; who asks for more is told that it is a part.
        offset: where it stands in its topic.
        now_us: the timestamp of its record.
    """
    verdict: Verdict = "accepted" if request.units <= units else "partial"
    same = verdict == standing.verdict
    return structs.replace(
        standing,
        verdict=verdict,
        units=units,
        backordered=max(0, standing.backordered - (standing.units - units)),
        reason=standing.reason if same else "already_promised" if verdict == "partial" else None,
        alternatives=standing.alternatives if same else (),
        offset=offset,
        source=request.source,
        id=request.id,
        occurred_us=micros(request.occurred_at),
        decided_us=now_us,
        repeats=True,
    )


def _covered_at(offer: Offer, missing: int) -> int | None:
    """When what is on its way covers so many units, as far as that is known."""
    for at_us, units in offer.coming:
        missing -= units
        if missing <= 0:
            return at_us
    return None


def _alternatives(request: ReservationRequested, offers: list[Offer], chosen: Offer | None) -> tuple[Alternative, ...]:
    """Other locations in this mode, nearest first; then the other mode at the same place; then what is on its way."""
    there = chosen.location if chosen is not None else request.location
    anywhere = request.location == ANYWHERE
    others = [offer for offer in offers if offer.free and (anywhere or offer.location != there)]
    others.sort(key=lambda offer: (offer.km, -(offer.free or 0), offer.location))
    found = [Alternative(offer.location, request.mode, offer.free or 0) for offer in others[:ALTERNATIVES_MAX]]
    if chosen is not None and chosen.other_mode:
        other: Mode = "pickup" if request.mode == "ship" else "ship"
        found.append(Alternative(there, other, chosen.other_mode))
    if chosen is not None and chosen.coming:
        at_us, units = chosen.coming[0]
        found.append(Alternative(there, request.mode, units, at_us))
    return tuple(found)


def distance_km(here: Coordinates | None, there: LocationSet | None) -> float:
    """Kilometres along the earth's surface; infinite if one of the two points is not known."""
    if here is None or there is None or there.latitude is None or there.longitude is None:
        return inf
    lat1, lat2 = radians(here.latitude), radians(there.latitude)
    half = sin((lat2 - lat1) / 2) ** 2
    half += cos(lat1) * cos(lat2) * sin(radians(there.longitude - here.longitude) / 2) ** 2
    return 2 * _EARTH_KM * asin(min(1.0, sqrt(half)))


def verdict_key(sku: str, source: str, id: str) -> str:
    """The state key of the decision of a request: a hash, since its source and id may contain anything."""
    return f"{sku}{_VERDICT}{xxhash.xxh3_128_hexdigest(f'{len(source)} {source}{id}'.encode())}"


def is_verdict_key(key: str) -> bool:
    """Whether a state key belongs to a decision."""
    return _VERDICT in key


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Decision)


def pack(decision: Decision) -> bytes:
    """The value of a decision's state key."""
    return _encoder.encode(decision)


def unpack(packed: bytes) -> Decision:
    """The decision of packed bytes.

    Raises:
        ValueError: they are none.
    """
    return _decoder.decode(packed)


def check_decision(packed: bytes) -> None:
    """Nothing, if these are the packed bytes of a decision.

    Raises:
        ValueError: they are not.
    """
    _decoder.decode(packed)
