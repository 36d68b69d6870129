"""Requested reservations: how one is decided, and what was promised; never how a hold is kept.

A decision is made once, by the owner of the SKU, from what it knows when the request is read, and is a state key of
its own that becomes durable before the hold that follows from it. A repeat of the request gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from math import asin, cos, inf, radians, sin, sqrt
from typing import Literal

import msgspec
import xxhash
from msgspec import Struct, structs

from stock.availability import View
from stock.events import Coordinates, Lifecycle, LocationSet, Mode, ReservationRequested
from stock.terms import NetworkTerms
from stock.times import HOUR_US, micros

ANSWERED_HORIZON_US = 24 * HOUR_US  # How long a decision is kept, and longer while its hold is open.
ALTERNATIVES_MAX = 5
_EARTH_KM = 6_371.0

_VERDICT = "|\x1fverdict\x1f"  # Stored.
_encoder = msgspec.msgpack.Encoder()

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
) -> Offer:
    """What a location can offer in a mode.

    Args:
        seen: its view.
        own: units held there already for this very line, less what is promised to others and not yet held.
        km: how far it is from where it is wanted; infinite if not known.
        described: what the settings say of the location.
        coming: units on their way there, with their ETA.
        lifecycle: of the item; only an active one can be backordered, and one to come only that.
    """
    this, other = (seen.ship, seen.pickup) if mode == "ship" else (seen.pickup, seen.ship)
    raw = seen.on_hand - seen.unavailable - seen.committed
    off = "delisted" if lifecycle == "delisted" else this.reason if this.reason in _OFF else None
    if off is not None or lifecycle == "preorder":
        free: int | None = 0
    elif this.available is None:
        free = None
    else:
        free = max(0, raw + own - this.safety_stock)
    dated = sorted((at, units) for units, at in coming if at is not None)
    backorder = 0 if off is not None or lifecycle == "discontinued" else seen.backorder_left
    there = 0 if lifecycle == "delisted" else other.available or 0
    to_sell = off is None and lifecycle != "preorder" and free is not None
    return Offer(
        location, free, backorder, off or this.reason, km, described, there, raw + own if to_sell else 0, tuple(dated)
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


def decide(request: ReservationRequested, offset: int, now_us: int, offers: list[Offer]) -> Decision:
    """The answer to a request.

    A named location is taken or refused. For `*` the order is: who can promise the whole line from stock, then the
    whole line with a backorder, then who has most; among equals the nearest, then warehouses before stores for
    shipping and stores before warehouses for pick-up, then by id. Safety stock is kept everywhere.

    Args:
        request: what is wanted.
        offset: where it stands in its topic.
        now_us: the timestamp of its record.
        offers: of every location of the SKU.
    """
    wanted = request.units
    anywhere = request.location == "*"
    candidates = [offer for offer in offers if anywhere or offer.location == request.location]
    chosen = min(candidates, key=lambda offer: _preference(offer, wanted, request.mode), default=None)
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


def _preference(offer: Offer, wanted: int, mode: Mode) -> tuple[bool, bool, int, float, bool, str]:
    kind = "warehouse" if offer.described is None else offer.described.kind
    is_store = offer.described is None or kind == "store"
    whole = (offer.free or 0) >= wanted
    either = offer.most >= wanted
    most = 0 if whole or either else -offer.most
    return not whole, not either, most, offer.km, is_store == (mode == "ship"), offer.location


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
    anywhere = request.location == "*"
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


_decoder = msgspec.msgpack.Decoder(Decision)


def check_decision(packed: bytes) -> None:
    """Nothing, if these are the packed bytes of a decision.

    Raises:
        ValueError: they are not.
    """
    _decoder.decode(packed)


class Verdicts:
    """What was promised in one partition; not thread-safe.

    `promised` units are those of decisions whose hold is not there yet: a crash may keep the one and lose the other.
    """

    def __init__(self, is_open: Callable[[str, Decision], bool]) -> None:
        self._is_open = is_open  # asked with the state key: whether the hold of this decision still binds units
        self._known: dict[str, Decision] = {}
        self._promised: dict[str, dict[str, int]] = {}  # by `sku|location`, then by state key
        self._timers: list[tuple[int, str]] = []
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        """Number of decisions remembered."""
        return len(self._known)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def get(self, key: str) -> Decision | None:
        """The decision of a request, by its state key."""
        return self._known.get(key)

    def keep(self, key: str, decision: Decision) -> None:
        """Remember a decision, to answer repeats of its request with it."""
        self._known[key] = decision
        self._dirty[key] = None
        heappush(self._timers, (decision.decided_us + ANSWERED_HORIZON_US, key))

    def promised(self, at: str) -> int:
        """Units at `sku|location` that were promised and are not held yet."""
        return sum(self._promised.get(at, {}).values())

    def held(self, key: str, decision: Decision) -> None:
        """The hold of a decision is there."""
        at = f"{key.partition('|')[0]}|{decision.location}"
        promised = self._promised.get(at)
        if promised is not None:
            promised.pop(key, None)
            if not promised:
                del self._promised[at]

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        return self._timers[0][0] if self._timers else None

    def advance(self, now_us: int) -> None:
        """Forget what was answered long ago and binds nothing any more."""
        while self._timers and self._timers[0][0] <= now_us:
            _, key = heappop(self._timers)
            decision = self._known.get(key)
            if decision is None:
                continue
            if self._is_open(key, decision) or decision.decided_us + ANSWERED_HORIZON_US > now_us:
                heappush(self._timers, (max(decision.decided_us, now_us) + ANSWERED_HORIZON_US, key))
                continue
            del self._known[key]
            self.held(key, decision)
            self._dirty[key] = None

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for key in self._dirty:
            decision = self._known.get(key)
            yield key, None if decision is None else _encoder.encode(decision)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes, heard: Callable[[Decision], int], durable: int) -> None:
        """Take back one decision.

        Args:
            key, packed: of its state record.
            heard: tells up to which offset its hold has heard.
            durable: below this offset every hold is as durable as its decision.
        """
        decision = self._known[key] = _decoder.decode(packed)
        heappush(self._timers, (decision.decided_us + ANSWERED_HORIZON_US, key))
        if decision.units and decision.offset >= durable and decision.offset > heard(decision):
            at = f"{key.partition('|')[0]}|{decision.location}"
            self._promised.setdefault(at, {})[key] = decision.units

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key] = None
