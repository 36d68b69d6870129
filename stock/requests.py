"""Requests for reservations in one partition: what each is offered and how it was decided.

It reads what the ledger knows and changes no balance and no hold: what follows from a decision is the ledger's.

A request is decided as of the timestamp of its record: holds that have ended by then bind nothing, even while the
ledger's clock waits for what else stands in the log. A renewal that comes behind the request in the log comes too
late for it, as it would had the request been decided at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stock.availability import View
from stock.commitments import Commitments, hold_key
from stock.events import Coordinates, LocationSet, ReservationRequested
from stock.items import ACTIVE, Items
from stock.network import Fence
from stock.policies import Policies
from stock.promises import Verdicts
from stock.supply import Supply
from stock.terms import Terms
from stock.verdicts import Decision, Offer, decide, distance_km, fenced, offer_of, repeat_of, verdict_key


class Requests:
    """Decides the requests of one partition; not thread-safe.

    Args:
        policies, items, commitments, supply: of the partition; read only.
        orders: position of the topic of requests in the keyed inputs.
        keys_of: every key of a SKU.
        look: what can be sold at a key under some terms, with so many units committed.
        fence: what a channel must leave to others over all locations of a SKU, as `Network.fence`.
        order: criteria by which a location is chosen where any will do.
    """

    def __init__(
        self,
        policies: Policies,
        items: Items,
        commitments: Commitments,
        supply: Supply,
        orders: int,
        keys_of: Callable[[str], list[str]],
        look: Callable[[str, Terms, int], View],
        fence: Callable[[str, str | None, tuple[str | None, int]], Fence],
        order: Sequence[str],
    ) -> None:
        self.verdicts = Verdicts(lambda hold: commitments.open_at(hold)[1] > 0)
        self._policies, self._items = policies, items
        self._commitments, self._supply = commitments, supply
        self._orders, self._keys_of, self._look, self._order = orders, keys_of, look, order
        self._fence = fence

    def decide(
        self, event: ReservationRequested, offset: int, stamped_us: int, now_us: int, read_to: int = 0
    ) -> Decision:
        """Decide a request and remember that; what stands promised of its reservation and line is its answer.

        Args:
            event: the request.
            offset: where it stands in its topic.
            stamped_us: the timestamp of its record.
            now_us: the same, but never in the future.
            read_to: as in `Verdicts.keep`.
        """
        decision = self._repeat(event, offset, stamped_us) or self._decide(event, offset, stamped_us, now_us)
        self.verdicts.keep(verdict_key(event.sku, event.source, event.id), decision, read_to)
        return decision

    def confirm(self, event: ReservationRequested, known: Decision, stamped_us: int, now_us: int) -> Decision:
        """The decision of a replayed request that was not answered; made anew where those before it came out otherwise.

        A decision that survived a crash may repeat one that did not, or the other way round.
        """
        if self._commitments.heard(_hold(event), self._orders) >= known.offset:
            return known
        repeat = self._repeat(event, known.offset, stamped_us)
        if repeat == known or (repeat is None and not known.repeats):
            return known
        return self.decide(event, known.offset, stamped_us, now_us)

    def restore(self, key: str, packed: bytes, durable: int) -> None:
        """Take back a decision; holds must have been restored before. `durable`: as in `Verdicts`."""
        self.verdicts.restore(key, packed, self._heard, durable)

    def _repeat(self, event: ReservationRequested, offset: int, stamped_us: int) -> Decision | None:
        """The answer by what stands promised to the reservation and line of a request already, if anything does."""
        hold = _hold(event)
        granted = self.verdicts.that_granted(hold)
        if granted is None or granted.offset >= offset:
            return None
        units = self._commitments.promised(hold, granted.source, granted.id, granted.units, stamped_us)
        return repeat_of(granted, units, event, offset, stamped_us) if units else None

    def _decide(self, event: ReservationRequested, offset: int, stamped_us: int, now_us: int) -> Decision:
        """The answer by what there is; of other locations than the one that is named only where that matters."""
        held = self._commitments.channel_at(_hold(event), now_us)
        terms, reserved = self._fence(event.sku, event.channel, held)
        keys, named = self._keys_of(event.sku), f"{event.sku}|{event.location}"
        is_free = not any(reserved) and terms.ship.safety_stock is None and terms.pickup.safety_stock is None
        if is_free and named in keys:
            decision = decide(event, offset, stamped_us, self._offers(event, now_us, [named]), self._order)
            if decision.verdict == "accepted":
                return decision
        offers = fenced(self._offers(event, now_us, keys), event.mode, terms, reserved)
        return decide(event, offset, stamped_us, offers, self._order)

    def _offers(self, event: ReservationRequested, now_us: int, keys: Iterable[str]) -> list[Offer]:
        """What locations of the SKU have for a request, under the policies of its channel."""
        sku, item = event.sku, self._items.by_sku.get(event.sku)
        lifecycle = ACTIVE if item is None else item.lifecycle
        at, own = self._commitments.open_at(_hold(event), now_us)
        near = event.near or _point(self._policies.location(event.location))
        offers = []
        for key in keys:
            location = key.partition("|")[2]
            terms = self._policies.channel_terms(sku, location, event.channel, item)
            seen = self._look(key, terms, self._commitments.units_at(key, now_us))
            described = self._policies.location(location)
            own_here = (own if location == at else 0) - self.verdicts.promised(key)
            km, coming = distance_km(near, described), self._supply.dated(key)
            limit = terms.backorder_limit
            offers.append(
                offer_of(seen, location, event.mode, own_here, km, described, coming, lifecycle, limit, now_us)
            )
        return offers

    def _heard(self, hold: str) -> int:
        return self._commitments.heard(hold, self._orders)


def _hold(event: ReservationRequested) -> str:
    return hold_key(event.sku, event.reservation, event.line)


def _point(described: LocationSet | None) -> Coordinates | None:
    if described is None or described.latitude is None or described.longitude is None:
        return None
    return Coordinates(described.latitude, described.longitude)
