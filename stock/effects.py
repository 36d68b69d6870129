"""What one fact means, as plain numbers: the table from event types to effects; it knows no balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from stock import events as e
from stock.balance import Count
from stock.orders import Fact, FactKind, fact
from stock.times import micros


class Effect(Struct, frozen=True, gc=False):
    """The effect of one fact.

    `units` moves on_hand (signed) as of `time_us`, unless a newer count includes it; `states` moves the counters of
    unavailable states, always. `count` states on_hand outright as `counted`. `hold` and `line` are told to the hold
    (reservation, line) and the order line that the fact names. `baseline`: from now on the stock is known.
    """

    time_us: int
    units: int = 0
    states: tuple[tuple[str, int], ...] = ()
    count: Count | None = None
    counted: int = 0
    baseline: bool = False
    hold: Fact | None = None
    line: Fact | None = None


def effect_of(event: e.StockFact) -> Effect:
    """The effect of a supported fact.

    Raises:
        KeyError: the type has no effect yet (see `SUPPORTED`).
    """
    return _EFFECTS[type(event)](event)


# Facts that move units in or out, by what one told unit does to on_hand.
DIRECTIONS: dict[type, int] = {
    e.PosSale: -1,
    e.PosReturn: 1,
    e.WmsReceipt: 1,
    e.WmsShipment: -1,
    e.WmsShipmentVoided: 1,
    e.WmsAdjustment: 1,
    e.OrderFulfilled: -1,
}
BASELINES = frozenset({e.WmsReceipt, e.WmsCount})  # From these on the stock is known.


def _moved(event: Any) -> Effect:
    kind = type(event)
    units = DIRECTIONS[kind] * event.units
    return _physical(event, units, micros(event.occurred_at), kind is e.WmsShipmentVoided, kind in BASELINES)


def _physical(event: Any, units: int, time_us: int, gives_back: bool, baseline: bool = False) -> Effect:
    hold = line = None
    if units < 0:
        if event.reservation is not None:
            hold = _told(event, "taken", -units, time_us)
        if event.order_line is not None:
            line = _told(event, "taken", -units, time_us)
    elif gives_back and event.order_line is not None:
        line = _told(event, "given_back", units, time_us)
    states = () if event.state == "sellable" else ((event.state, units),)
    return Effect(time_us, units, states, None, 0, baseline, hold, line)


def _told(event: Any, kind: FactKind, units: int | None, time_us: int, end_us: int | None = None) -> Fact:
    return fact(kind, time_us, event.source, event.id, event.location, units, end_us)


def _void(event: e.PosVoid) -> Effect:
    sale = event.voided_type == "pos.sale"
    units = event.units if sale else -event.units
    return _physical(event, units, micros(event.voided_at), gives_back=sale)


def _counted(event: e.WmsCount) -> Effect:
    time_us = micros(event.occurred_at)
    count = (time_us, event.source, event.id)
    return Effect(time_us, count=count, counted=event.units, baseline=True)


def _status_changed(event: e.WmsStatusChanged) -> Effect:
    states = ((event.from_state, -event.units), (event.to_state, event.units))
    return Effect(micros(event.occurred_at), states=states)


def _created(event: e.ReservationCreated) -> Effect:
    time_us = micros(event.occurred_at)
    end_us = None if event.expires_at is None else micros(event.expires_at)
    return Effect(time_us, hold=_told(event, "stated", event.units, time_us, end_us))


def _renewed(event: e.ReservationRenewed) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, hold=_told(event, "renewed", None, time_us, micros(event.expires_at)))


def _released(event: e.ReservationReleased) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, hold=_told(event, "returned", event.units, time_us))


def _allocated(event: e.OrderAllocated) -> Effect:
    time_us = micros(event.occurred_at)
    hold = None if event.reservation is None else _told(event, "taken", event.units, time_us)
    return Effect(time_us, hold=hold, line=_told(event, "stated", event.units, time_us))


def _deallocated(event: e.OrderDeallocated) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, line=_told(event, "returned", event.units, time_us))


_EFFECTS: dict[type, Callable[[Any], Effect]] = {
    **dict.fromkeys(DIRECTIONS, _moved),
    e.PosVoid: _void,
    e.WmsCount: _counted,
    e.WmsStatusChanged: _status_changed,
    e.ReservationCreated: _created,
    e.ReservationRenewed: _renewed,
    e.ReservationReleased: _released,
    e.OrderAllocated: _allocated,
    e.OrderDeallocated: _deallocated,
}

SUPPORTED = frozenset(_EFFECTS)
