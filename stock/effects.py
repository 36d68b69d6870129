"""What one fact means, as plain numbers: the table from event types to effects; it knows no balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, structs

from stock import events as e
from stock.balance import Count
from stock.echoes import echo_of
from stock.orders import Fact, FactKind, fact
from stock.supply import TransferFact, TransferKind, transfer_fact
from stock.times import micros
from stock.verdicts import Decision


class Effect(Struct, frozen=True, gc=False):
    """The effect of one fact.

    `units` moves on_hand (signed) as of `time_us`, unless a newer count includes it; `states` moves the counters of
    unavailable states, always. `count` states on_hand outright as `counted`, or with `net` what of it was neither
    unavailable nor allocated. `hold` and `line` are told to the hold
    (reservation, line) and the order line that the fact names, `transfer` and `inbound` to what is on its way.
    `baseline`: from now on the stock is known. `echo`: other topics may tell of the same units under it, and only the
    most that one of them tells moves on_hand and states. `promised_us`: the hold was granted to a request of this
    timestamp.
    `channel`: for which a hold or allocation is made.
    """

    time_us: int
    units: int = 0
    states: tuple[tuple[str, int], ...] = ()
    count: Count | None = None
    counted: int = 0
    net: bool = False
    baseline: bool = False
    hold: Fact | None = None
    line: Fact | None = None
    transfer: TransferFact | None = None
    inbound: Fact | None = None
    echo: str | None = None
    promised_us: int | None = None
    channel: str | None = None


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
BASELINES = frozenset({e.WmsReceipt, e.WmsCount, e.TransferReceived})  # From these on the stock is known.


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
    states = _states(event, units)
    return Effect(time_us, units, states, baseline=baseline, hold=hold, line=line, echo=echo_of(event))


def _received(event: e.WmsReceipt) -> Effect:
    effect = _moved(event)
    if event.inbound is None:
        return effect
    units = None if event.final else event.units
    return structs.replace(effect, inbound=_told(event, "taken", units, effect.time_us))


def _expected(event: e.InboundExpected) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, inbound=_told(event, "stated", event.units, time_us, micros(event.eta)))


def _not_expected(event: e.InboundCancelled) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, inbound=_told(event, "taken", event.units, time_us))


def _on_transfer(event: Any, kind: TransferKind, **more: Any) -> TransferFact:
    return transfer_fact(kind, micros(event.occurred_at), event.source, event.id, event.location, **more)


def _shipped(event: e.TransferShipped) -> Effect:
    effect = _physical(event, -event.units, micros(event.occurred_at), gives_back=False)
    eta_us = None if event.eta is None else micros(event.eta)
    more = {"units": event.units, "eta_us": eta_us, "to": event.to_location, "state": event.state}
    return structs.replace(effect, transfer=_on_transfer(event, "shipped", **more))


def _transfer_received(event: e.TransferReceived) -> Effect:
    time_us = micros(event.occurred_at)
    line = None if event.order_line is None else _told(event, "arrived", event.units, time_us)
    told = _on_transfer(event, "received", units=event.units, final=event.final)
    return Effect(time_us, event.units, _states(event, event.units), baseline=True, line=line, transfer=told)


def _rescheduled(event: e.TransferRescheduled) -> Effect:
    told = _on_transfer(event, "rescheduled", eta_us=micros(event.eta))
    return Effect(micros(event.occurred_at), transfer=told)


def _cancelled(event: e.TransferCancelled) -> Effect:
    return Effect(micros(event.occurred_at), transfer=_on_transfer(event, "cancelled", units=event.units))


def _states(event: Any, units: int) -> tuple[tuple[str, int], ...]:
    return () if event.state == "sellable" else ((event.state, units),)


def _told(event: Any, kind: FactKind, units: int | None, time_us: int, end_us: int | None = None) -> Fact:
    echo = echo_of(event) if kind in _TAKING else None
    return fact(kind, time_us, event.source, event.id, event.location, units, end_us, echo, e.TOPIC_OF[type(event)])


_TAKING = ("taken", "given_back")


def _void(event: e.PosVoid) -> Effect:
    sale = event.voided_type == "pos.sale"
    units = event.units if sale else -event.units
    return _physical(event, units, micros(event.voided_at), gives_back=sale)


def _counted(event: e.WmsCount) -> Effect:
    time_us = micros(event.occurred_at)
    count = (time_us, event.source, event.id)
    return Effect(time_us, count=count, counted=event.units, net=event.basis == "net", baseline=True)


def _status_changed(event: e.WmsStatusChanged) -> Effect:
    states = ((event.from_state, -event.units), (event.to_state, event.units))
    return Effect(micros(event.occurred_at), states=states)


def _created(event: e.ReservationCreated) -> Effect:
    time_us = micros(event.occurred_at)
    end_us = None if event.expires_at is None else micros(event.expires_at)
    return Effect(time_us, hold=_told(event, "stated", event.units, time_us, end_us), channel=channel_of(event))


def _renewed(event: e.ReservationRenewed) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, hold=_told(event, "renewed", None, time_us, micros(event.expires_at)))


def _released(event: e.ReservationReleased) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, hold=_told(event, "returned", event.units, time_us))


def _allocated(event: e.OrderAllocated) -> Effect:
    time_us = micros(event.occurred_at)
    hold = None if event.reservation is None else _told(event, "taken", event.units, time_us)
    line = _told(event, "stated", event.units, time_us)
    return Effect(time_us, hold=hold, line=line, channel=channel_of(event))


def _deallocated(event: e.OrderDeallocated) -> Effect:
    time_us = micros(event.occurred_at)
    return Effect(time_us, line=_told(event, "returned", event.units, time_us))


def channel_of(event: e.StockFact) -> str | None:
    """The channel that a fact binds units for; None if it names none that a policy can name."""
    channel = event.channel
    return channel if channel and len(channel) <= e.CHANNEL_LENGTH_MAX else None


def promise_of(decision: Decision, channel: str | None) -> Effect:
    """The effect of a request that was granted, in whole or in part: a hold for the request's channel."""
    time_us, end_us = decision.occurred_us, decision.expires_at_us
    told = fact("stated", time_us, decision.source, decision.id, decision.location, decision.units, end_us)
    return Effect(time_us, hold=told, promised_us=decision.decided_us, channel=channel)


_EFFECTS: dict[type, Callable[[Any], Effect]] = {
    **dict.fromkeys(DIRECTIONS, _moved),
    e.PosVoid: _void,
    e.WmsReceipt: _received,
    e.TransferShipped: _shipped,
    e.TransferReceived: _transfer_received,
    e.TransferRescheduled: _rescheduled,
    e.TransferCancelled: _cancelled,
    e.InboundExpected: _expected,
    e.InboundCancelled: _not_expected,
    e.WmsCount: _counted,
    e.WmsStatusChanged: _status_changed,
    e.ReservationCreated: _created,
    e.ReservationRenewed: _renewed,
    e.ReservationReleased: _released,
    e.OrderAllocated: _allocated,
    e.OrderDeallocated: _deallocated,
}

SUPPORTED = frozenset({*_EFFECTS, e.ReservationRequested})
