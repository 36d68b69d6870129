"""One day of one shelf (a SKU at a store): real sale lines, and the stock keeping invented around them.

The shelf is a small simulation in seconds after the start: what happens may plan what happens later. It must
stay a pure function of its lines and its random numbers, and never send anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, Topic
from stock.events import (
    Message,
    OrderAllocated,
    OrderDeallocated,
    OrderFulfilled,
    PosReturn,
    PosSale,
    PosVoid,
    ReservationCreated,
    ReservationReleased,
    ReservationRenewed,
    WmsAdjustment,
    WmsCount,
    WmsReceipt,
    WmsShipment,
    WmsShipmentVoided,
    WmsStatusChanged,
)
from stockflow.demo.planned import Planned

LEAD_S = 1.0  # Sales start this long after the first opening counts.
HOLD_S = (5.0, 40.0)  # A hold lives this long, in real seconds: expiries are seen while the demo runs.
GRACE_S = 12.0  # No hold outlives the end of the sending by more: the demo waits for the last expiry.
TILLS = 5

# Chances per sale line.
PICKED_UP = 0.07  # The customer had reserved on the web and collects at the till.
RESERVED = 0.10  # Somebody else reserves on the web around that time.
ORDERED = 0.04  # An order takes units without a reservation.
RETURNED = 0.015
VOIDED = 0.008
SENT_LATE = 0.01  # The till was offline for some seconds.
SOLD_UNCOUNTED = 0.1  # The books say 0, yet the customer holds one in the hand.
# Chances per shelf.
UNDERSTOCKED = 0.2
REPLENISHED = 0.5  # An understocked shelf gets a delivery.
DELIVERED = 0.08  # Any other shelf gets one.
ADJUSTED = 0.04
DAMAGED = 0.04
CYCLE_COUNTED = 0.06
# Chance per event.
REPEATED = 0.005


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a real receipt: seconds after the start, units, basket."""

    at: float
    units: int
    basket: int


class Shelf:
    """A SKU at a store for one day; `live()` gives every record that it causes."""

    def __init__(
        self, product: int, store: int, lines: list[Line], random: Random, *, end_s: float, quiet_s: float, pickup: bool
    ) -> None:
        """Lines are in order of time; all of `end_s` (the sending's) and `quiet_s` (counts before trade) in seconds."""
        self._id = f"{product}-{store}"
        self._sku = f"SKU-{product}"
        self._location = f"STORE-{store}"
        self._wms = f"wms/STORE-{store}"
        self._lines = lines
        self._random = random
        self._end_s = end_s
        self._quiet_s = quiet_s
        self._pickup = pickup
        self._on_hand = 0
        self._ids = 0
        self._steps = 0
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._planned: list[Planned] = []

    def live(self) -> list[Planned]:
        """All records of the day, in the order in which they happened."""
        first = self._lines[0].at
        opening_at = self._random.uniform(0.0, max(0.0, min(first, self._quiet_s) - 0.01))
        self._open(opening_at)
        for line in self._lines:
            self._customer_comes(line, opening_at)
        self._back_office(opening_at)
        while self._agenda:
            at, _, step = heapq.heappop(self._agenda)
            step(at)
        return self._planned

    # What a day brings

    def _open(self, at: float) -> None:
        demand = sum(line.units for line in self._lines)
        if self._chance(UNDERSTOCKED):
            self._on_hand = int(demand * self._random.uniform(0.3, 0.8))
            deliveries = REPLENISHED
        else:
            self._on_hand = demand + self._random.randint(3, 20)
            deliveries = DELIVERED
        self._tell(at, WMS_MOVEMENTS, WmsCount, "open", self._wms, units=self._on_hand, reason="opening")
        if self._chance(deliveries):
            self._at(self._random.uniform(at + 1, self._end_s), partial(self._receive, units=demand + 4))

    def _customer_comes(self, line: Line, opening_at: float) -> None:
        source = f"pos/{self._location}/till-{line.basket % TILLS + 1}"
        if self._pickup and self._chance(PICKED_UP):
            reserved_at = max(line.at - self._random.uniform(1, 20), opening_at + (line.at - opening_at) / 2)
            reservation, expires_at = self._new("R"), line.at + self._random.uniform(2, 15)
            self._at(reserved_at, partial(self._reserve_for, line, reservation, expires_at))
            self._at(line.at, partial(self._sell, line, source, reservation=reservation))
        else:
            self._at(line.at, partial(self._sell, line, source))
        if self._chance(RESERVED):
            self._at(line.at + self._random.uniform(0.1, 10), self._reserve)
        if self._chance(ORDERED):
            self._at(line.at + self._random.uniform(0.1, 10), partial(self._allocate, units=1))

    def _back_office(self, opening_at: float) -> None:
        def sometime() -> float:
            return self._random.uniform(opening_at + 0.5, self._end_s)

        if self._chance(ADJUSTED):
            self._at(sometime(), self._adjust)
        if self._chance(DAMAGED):
            self._at(sometime(), self._damage)
        if self._chance(CYCLE_COUNTED):
            self._at(sometime(), self._count)

    # At the till

    def _sell(self, line: Line, source: str, at: float, reservation: str | None = None) -> None:
        if self._on_hand < line.units and not self._chance(SOLD_UNCOUNTED):
            return  # The shelf is empty, the customer leaves (a reservation then runs out).
        self._on_hand -= line.units
        claim: dict[str, Any] = {} if reservation is None else {"reservation": reservation, "line": "1"}
        sale = self._tell(
            at,
            POS_SALES,
            PosSale,
            str(line.basket),
            source,
            late_s=self._random.uniform(1, 8) if self._chance(SENT_LATE) else 0.0,
            units=line.units,
            channel="store",
            references={"basket": str(line.basket)},
            **claim,
        )
        later = at + self._random.uniform(0.5, 10)
        if self._chance(VOIDED):
            self._at(later, partial(self._void, line.units, str(sale.fields["id"]), source, at))
        elif self._chance(RETURNED):
            self._at(later, partial(self._return, line.units, source))

    def _void(self, units: int, sale: str, source: str, sold_at: float, at: float) -> None:
        self._on_hand += units
        self._tell(
            at,
            POS_SALES,
            PosVoid,
            "void",
            source,
            {"voided_at": sold_at},
            units=units,
            voids=sale,
            voided_type="pos.sale",
        )

    def _return(self, units: int, source: str, at: float) -> None:
        back = self._random.randint(1, units)
        state = self._random.choices(["sellable", "damaged", "quality_hold"], [6, 3, 1])[0]
        self._on_hand += back
        self._tell(at, POS_SALES, PosReturn, "return", source, units=back, state=state, reason="returned")

    # On the web

    def _reserve_for(self, line: Line, reservation: str, expires_at: float, at: float) -> None:
        self._hold(at, reservation, line.units, "pickup", min(expires_at, self._end_s + GRACE_S))

    def _reserve(self, at: float) -> None:
        reservation, units = self._new("R"), self._random.choice([1, 1, 1, 2])
        expires_at = min(at + self._random.uniform(*HOLD_S), self._end_s + GRACE_S)
        fate = self._random.choices(["expires", "released", "renewed", "ordered"], [35, 20, 15, 30])[0]
        mode = "ship" if fate == "ordered" or not self._pickup else self._random.choice(["ship", "pickup"])
        self._hold(at, reservation, units, mode, expires_at)
        soon = self._random.uniform(at + 0.5, expires_at - 0.5) if expires_at - at > 2 else expires_at
        if fate == "released":
            self._at(soon, partial(self._release, reservation, units))
        elif fate == "renewed":
            self._at(soon, partial(self._renew, reservation, expires_at))
        elif fate == "ordered":
            self._at(soon, partial(self._allocate, units=units, reservation=reservation))

    def _hold(self, at: float, reservation: str, units: int, mode: str, expires_at: float) -> None:
        self._tell(
            at,
            ORDER_RESERVATIONS,
            ReservationCreated,
            "created",
            "oms",
            {"expires_at": expires_at},
            reservation=reservation,
            line="1",
            units=units,
            mode=mode,
            channel="web",
        )

    def _release(self, reservation: str, units: int, at: float) -> None:
        part: dict[str, Any] = {"units": 1} if units > 1 and self._chance(0.5) else {}
        self._tell(
            at, ORDER_RESERVATIONS, ReservationReleased, "released", "oms", reservation=reservation, line="1", **part
        )

    def _renew(self, reservation: str, expires_at: float, at: float) -> None:
        """One renewal in ten is told only after the old end: it happened in time, so it has to count."""
        late_s = expires_at - at + 1 if self._chance(0.1) else 0.0
        renewed_to = min(expires_at + self._random.uniform(*HOLD_S), self._end_s + GRACE_S)
        self._tell(
            at,
            ORDER_RESERVATIONS,
            ReservationRenewed,
            "renewed",
            "oms",
            {"expires_at": renewed_to},
            late_s=late_s,
            reservation=reservation,
            line="1",
        )

    def _allocate(self, at: float, units: int, reservation: str | None = None) -> None:
        order_line = self._new("O")
        claim: dict[str, Any] = {} if reservation is None else {"reservation": reservation, "line": "1"}
        self._tell(
            at, ORDER_RESERVATIONS, OrderAllocated, "allocated", "oms", order_line=order_line, units=units, **claim
        )
        fate = self._random.choices(["fulfilled", "shipped", "mispicked", "deallocated", "open"], [55, 15, 8, 15, 7])[0]
        later = at + self._random.uniform(1, 10)
        if fate == "fulfilled":
            self._at(later, partial(self._fulfil, order_line, units))
        elif fate in ("shipped", "mispicked"):
            self._at(later, partial(self._ship, order_line, units, fate == "mispicked"))
        elif fate == "deallocated":
            self._at(later, partial(self._deallocate, order_line, units))

    def _fulfil(self, order_line: str, units: int, at: float) -> None:
        self._on_hand -= units
        self._tell(at, ORDER_RESERVATIONS, OrderFulfilled, "fulfilled", "oms", order_line=order_line, units=units)

    def _deallocate(self, order_line: str, units: int, at: float) -> None:
        self._tell(at, ORDER_RESERVATIONS, OrderDeallocated, "deallocated", "oms", order_line=order_line, units=units)

    # In the back room

    def _ship(self, order_line: str, units: int, mispicked: bool, at: float) -> None:
        self._on_hand -= units
        self._tell(at, WMS_MOVEMENTS, WmsShipment, "shipped", self._wms, order_line=order_line, units=units)
        if mispicked:
            self._at(at + self._random.uniform(0.5, 4), partial(self._void_shipment, order_line, units))

    def _void_shipment(self, order_line: str, units: int, at: float) -> None:
        self._on_hand += units
        self._tell(at, WMS_MOVEMENTS, WmsShipmentVoided, "unshipped", self._wms, order_line=order_line, units=units)
        self._at(at + self._random.uniform(0.5, 4), partial(self._ship, order_line, units, False))

    def _receive(self, at: float, units: int) -> None:
        self._on_hand += units
        self._tell(at, WMS_MOVEMENTS, WmsReceipt, "received", self._wms, units=units)

    def _adjust(self, at: float) -> None:
        units = self._random.choice([-2, -1, -1, 1])
        self._on_hand += units
        self._tell(at, WMS_MOVEMENTS, WmsAdjustment, "adjusted", self._wms, units=units, reason="shrinkage")

    def _damage(self, at: float) -> None:
        """Units leave the sellable ones; later they come back or are written off."""
        state = self._random.choice(["damaged", "quality_hold", "display"])
        units = self._random.randint(1, 2)
        self._change_state(units, "sellable", state, at)
        later = at + self._random.uniform(1, 15)
        if state == "damaged":
            self._at(later, partial(self._write_off, units))
        elif self._chance(0.7):
            self._at(later, partial(self._change_state, units, state, "sellable"))

    def _change_state(self, units: int, from_state: str, to_state: str, at: float) -> None:
        self._tell(
            at,
            WMS_MOVEMENTS,
            WmsStatusChanged,
            "state",
            self._wms,
            units=units,
            from_state=from_state,
            to_state=to_state,
        )

    def _write_off(self, units: int, at: float) -> None:
        self._on_hand -= units
        self._tell(
            at, WMS_MOVEMENTS, WmsAdjustment, "written-off", self._wms, units=-units, state="damaged", reason="damaged"
        )

    def _count(self, at: float) -> None:
        """Counted now, keyed in seconds later: what happened in between counts on top of it."""
        self._on_hand = max(0, self._on_hand + self._random.choice([-1, 0, 0, 1]))
        late_s = self._random.uniform(0.5, 6)
        self._tell(
            at, WMS_MOVEMENTS, WmsCount, "counted", self._wms, late_s=late_s, units=self._on_hand, reason="cycle count"
        )

    # How it is written down

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _new(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}-{self._id}-{self._ids}"

    def _at(self, at: float, step: Callable[[float], None]) -> None:
        """Let `step` happen at a time of its own; what would be after closing time does not happen."""
        if at <= self._end_s:
            self._steps += 1
            heapq.heappush(self._agenda, (at, self._steps, step))

    def _tell(
        self,
        at: float,
        topic: Topic,
        kind: type[Message],
        prefix: str,
        source: str,
        moments: dict[str, float] | None = None,
        *,
        late_s: float = 0.0,
        **fields: object,
    ) -> Planned:
        """Write down a fact, told `late_s` after it happened; now and then it is told twice."""
        happened_at = round(at, 3)
        planned = Planned(
            send_at=max(happened_at, round(min(at + late_s, self._end_s), 3)),
            happened_at=happened_at,
            topic=topic,
            key=self._sku,
            kind=kind,
            fields={"id": self._new(prefix), "source": source, "sku": self._sku, "location": self._location, **fields},
            moments={name: round(after, 3) for name, after in (moments or {}).items()},
        )
        self._planned.append(planned)
        if self._chance(REPEATED):
            again_at = round(min(planned.send_at + self._random.uniform(0.05, 5), self._end_s), 3)
            self._planned.append(
                Planned(
                    max(planned.send_at, again_at),
                    happened_at,
                    topic,
                    self._sku,
                    kind,
                    planned.fields,
                    planned.moments,
                )
            )
        return planned
