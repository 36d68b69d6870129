"""Requests for reservations in one partition: what each is offered and how it was decided.

It reads what the ledger knows and changes no balance and no hold: what follows from a decision is the ledger's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stock.availability import View
from stock.commitments import Commitments, hold_key
from stock.events import Coordinates, LocationSet, ReservationRequested
from stock.items import ACTIVE, Items
from stock.policies import Policies
from stock.supply import Supply
from stock.terms import Terms
from stock.verdicts import Decision, Offer, Verdicts, decide, distance_km, offer_of, verdict_key


class Requests:
    """Decides the requests of one partition; not thread-safe.

    Args:
        policies, items, commitments, supply: of the partition; read only.
        orders: position of the topic of requests in the keyed inputs.
        look: what can be sold at a known key under some terms; None for a key without a balance.
        locations: every location of any balance.
    """

    def __init__(
        self,
        policies: Policies,
        items: Items,
        commitments: Commitments,
        supply: Supply,
        orders: int,
        look: Callable[[str, Terms], View | None],
        locations: dict[str, None],
    ) -> None:
        self.verdicts = Verdicts(self._is_held)
        self._policies, self._items = policies, items
        self._commitments, self._supply = commitments, supply
        self._orders, self._look, self._locations = orders, look, locations

    def decide(self, event: ReservationRequested, offset: int, timestamp_us: int) -> Decision:
        """Decide a request for the first time, and remember it."""
        decision = decide(event, offset, timestamp_us, self._offers(event))
        self.verdicts.keep(verdict_key(event.sku, event.source, event.id), decision)
        return decision

    def restore(self, decisions: dict[str, bytes], durable: int) -> None:
        """Take back decisions by state key; holds must have been restored before. `durable`: as in `Verdicts`."""
        for key, packed in decisions.items():
            self.verdicts.restore(key, packed, partial(self._heard, key), durable)

    def _offers(self, event: ReservationRequested) -> list[Offer]:
        """What every location of the SKU has for a request, under the policies of its channel."""
        sku, item = event.sku, self._items.by_sku.get(event.sku)
        lifecycle = ACTIVE if item is None else item.lifecycle
        at, own = self._commitments.open_at(hold_key(sku, event.reservation, event.line))
        near = event.near or _point(self._policies.location(event.location))
        offers = []
        for location in self._locations:
            key = f"{sku}|{location}"
            seen = self._look(key, self._policies.channel_terms(sku, location, event.channel, item))
            if seen is None:
                continue
            described = self._policies.location(location)
            own_here = (own if location == at else 0) - self.verdicts.promised(key)
            km, coming = distance_km(near, described), self._supply.dated(key)
            offers.append(offer_of(seen, location, event.mode, own_here, km, described, coming, lifecycle))
        return offers

    def _is_held(self, key: str, decision: Decision) -> bool:
        """Whether a decision still binds units."""
        return self._commitments.open_at(_hold_of(key, decision))[1] > 0

    def _heard(self, key: str, decision: Decision) -> int:
        return self._commitments.heard(_hold_of(key, decision), self._orders)


def _hold_of(key: str, decision: Decision) -> str:
    return hold_key(key.partition("|")[0], decision.reservation, decision.line)


def _point(described: LocationSet | None) -> Coordinates | None:
    if described is None or described.latitude is None or described.longitude is None:
        return None
    return Coordinates(described.latitude, described.longitude)
