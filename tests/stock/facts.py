"""Facts to test with, named by their wire type, and a ledger that is told them one after the other."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any, get_args

from schemas.records import Availability, availability_key, micros, moment
from schemas.topics import KEYED_INPUTS
from sinks.outlet import record_of
from stock.events import (
    LocationSet,
    Message,
    OrderMessage,
    PolicySet,
    PolicyValues,
    PosMessage,
    Scope,
    StockFact,
    WmsMessage,
)
from stock.ledger import OUTCOMES, Ledger
from stock.policies import Policies
from tests.oracle import topic_of

START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
KEY = availability_key("SKU", "A")
KINDS: dict[str, type[Message]] = {
    kind.__struct_config__.tag: kind for kind in get_args(PosMessage | WmsMessage | OrderMessage)
}
TOPICS = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}

_OWN: dict[str, dict[str, Any]] = {
    "pos.return": {"state": "sellable"},
    "wms.adjustment": {"reason": "found or lost"},
    "reservation.created": {"reservation": "R", "mode": "ship"},
    "reservation.renewed": {"reservation": "R"},
    "reservation.released": {"reservation": "R"},
    "reservation.requested": {"reservation": "R", "mode": "ship"},
    "order.allocated": {"order_line": "L"},
    "order.deallocated": {"order_line": "L"},
    "order.fulfilled": {"order_line": "L"},
    "transfer.shipped": {"transfer": "T", "to_location": "B"},
    "transfer.received": {"transfer": "T"},
    "transfer.rescheduled": {"transfer": "T"},
    "transfer.cancelled": {"transfer": "T"},
    "inbound.expected": {"inbound": "I"},
    "inbound.cancelled": {"inbound": "I"},
}
_ids = count(1)


def at(seconds: float) -> datetime:
    """So many seconds into the story."""
    return START + timedelta(seconds=seconds)


def us(seconds: float) -> int:
    """The same in microseconds since 1970."""
    return micros(at(seconds))


def fact(kind: str, seconds: float, units: int | None = None, **own: Any) -> StockFact:
    """A fact about SKU at A of a wire type, with a new id; holds are called R and order lines L unless said."""
    said = {"id": f"id-{next(_ids):06d}", "source": "someone", "occurred_at": at(seconds), "sku": "SKU"}
    amount = {} if units is None else {"units": units}
    made = KINDS[kind](**{**said, "location": "A", **_OWN.get(kind, {}), **amount, **own})
    assert isinstance(made, StockFact)
    return made


def void(of: str, seconds: float, units: int, voided: float, **own: Any) -> StockFact:
    """A void, said at a time, of a `pos.sale` or `pos.return` of another time."""
    return fact("pos.void", seconds, units, voids="whatever", voided_type=of, voided_at=at(voided), **own)


def hold(seconds: float, units: int, expires: float | None = None, **own: Any) -> StockFact:
    """The hold R."""
    return fact("reservation.created", seconds, units, expires_at=None if expires is None else at(expires), **own)


def renewed(seconds: float, expires: float, **own: Any) -> StockFact:
    """A renewal of R."""
    return fact("reservation.renewed", seconds, expires_at=at(expires), **own)


def policy(name: str, scope: dict[str, Any] | None = None, **values: Any) -> PolicySet:
    """A policy."""
    said: dict[str, Any] = {"id": f"id-{next(_ids)}", "source": "planning", "occurred_at": START}
    return PolicySet(**said, policy=name, scope=Scope(**(scope or {})), values=PolicyValues(**values))


def location(name: str, *, ship: bool = True, pickup: bool = True, **own: Any) -> LocationSet:
    """A described location, a store unless said."""
    said: dict[str, Any] = {"id": f"id-{next(_ids)}", "source": "master", "occurred_at": START, "kind": "store"}
    return LocationSet(**{**said, **own}, location=name, ship_enabled=ship, pickup_enabled=pickup)


def rules(*settings: PolicySet | LocationSet) -> Policies:
    """Policies with these in force."""
    policies = Policies()
    for setting in settings:
        if isinstance(setting, PolicySet):
            policies.set_policy(setting)
        else:
            policies.set_location(setting)
    return policies


class Desk:
    """A ledger that is told facts, each at the next offset of its topic."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger(Policies()) if ledger is None else ledger  # an empty one is false
        self.next = [0] * len(KEYED_INPUTS)

    def tell(self, *facts: StockFact, timestamp_us: int | None = None) -> list[str | None]:
        """Apply facts and return the outcome of each; a record's timestamp is its fact's time unless given."""
        outcomes = []
        for told in facts:
            topic = TOPICS[topic_of(told).name]
            stamp = micros(told.occurred_at) if timestamp_us is None else timestamp_us
            outcome = self.ledger.apply(told, topic, self.next[topic], stamp)
            self.next[topic] += 1
            outcomes.append(None if outcome is None else OUTCOMES[outcome])
        return outcomes

    def record(self, key: str = KEY, seconds: float = 0) -> Availability:
        """What would be published of a key at a time."""
        self.ledger.advance(us(seconds))
        seen, balance = self.ledger.settle(key)
        now = moment(us(seconds))
        assert now is not None
        return record_of(key, seen, balance, balance.cause, 1, "urgent", now)


def told(*facts: StockFact) -> Desk:
    """A desk after some facts."""
    desk = Desk()
    desk.tell(*facts)
    return desk
