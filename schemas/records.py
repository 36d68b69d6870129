"""What stockflow publishes, field by field in wire order, and its bytes; never how a number is computed."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from schemas.topics import AVAILABILITY
from stock.times import EPOCH, micros, moment

__all__ = [
    "EPOCH",
    "Availability",
    "Cause",
    "NetworkAvailability",
    "Promise",
    "Sources",
    "StockAlert",
    "availability_key",
    "cloudevents_headers",
    "decode_availability",
    "decode_network",
    "encode",
    "micros",
    "moment",
    "split_availability_key",
]


class Cause(Struct, frozen=True, gc=False):
    """The event that changed the numbers."""

    type: str
    id: str
    source: str
    occurred_at: datetime


class Sources(Struct, frozen=True, gc=False):
    """The newest `occurred_at` heard from each kind of source; null where none has spoken."""

    pos: datetime | None
    wms: datetime | None
    orders: datetime | None


class Availability(Struct, frozen=True, gc=False):
    """One record of `availability.v1`: what can be sold of one SKU at one location.

    Units are whole selling units. `available_*` is None while the truth is not known: missing is not zero.
    `version` comes first on the wire, so that a view can compare it without parsing the rest.
    """

    version: int
    sku: str
    location: str
    status: str
    reason: str | None
    status_ship: str
    status_pickup: str
    available_to_ship: int | None
    available_in_store: int | None
    on_hand: int
    unavailable: int
    committed: int
    in_transit: int
    inbound: int
    next_inbound_at: datetime | None
    safety_stock_ship: int
    safety_stock_pickup: int
    withheld_ship: int
    withheld_pickup: int
    shortage: int
    backorder_left: int
    lane: str
    policy: str | None
    cause: Cause
    sources: Sources
    changed_at: datetime


class Alternative(Struct, frozen=True, gc=False):
    """What could be had instead of what was requested: units at a location in a mode, now or (`at`) at a time."""

    location: str
    mode: str
    units: int
    at: datetime | None


class ReservationVerdict(Struct, frozen=True, gc=False):
    """One record of `reservation-verdicts.v1`: the answer to a `reservation.requested`, which is kept.

    `units` are those that are held now, of which `backordered` are not in stock and expected at `expected_at`, as far
    as that is known. `available`: what could be had there as it was decided, None if that was not known.
    """

    reservation: str
    line: str | None
    request_id: str
    sku: str
    location: str
    mode: str
    verdict: str
    units: int
    backordered: int
    expires_at: datetime | None
    available: int | None
    expected_at: datetime | None
    reason: str | None
    alternatives: list[Alternative]


class Promise(Struct, frozen=True, gc=False):
    """Units that can be promised from a moment on, with what is dated to arrive until then."""

    at: datetime
    units: int


class NetworkAvailability(Struct, frozen=True, gc=False):
    """One record of `network-availability.v1`: what a channel (`*`: any) can sell of a SKU over all locations."""

    version: int
    sku: str
    channel: str
    status: str
    status_ship: str
    status_pickup: str
    available_to_ship: int | None
    available_in_store: int | None
    locations_in_stock: int
    locations_unknown: int
    on_hand: int
    committed: int
    in_transit: int
    inbound: int
    next_inbound_at: datetime | None
    atp: list[Promise]
    shortage: int
    backorder_left: int
    cause: Cause
    changed_at: datetime


class StockAlert(Struct, frozen=True, gc=False):
    """One record of `stock-alerts.v1`: an alert opens or closes; readers go by `alert` and `state`."""

    alert: str
    kind: str
    state: str
    sku: str
    location: str
    units: int
    references: dict[str, str]
    opened_at: datetime
    closed_at: datetime | None


# Left out when two records are compared: they never make a record by themselves.
VOLATILE_FIELDS = frozenset({"version", "lane", "cause", "sources", "changed_at"})

_encoder = msgspec.json.Encoder()
_availability_decoder = msgspec.json.Decoder(Availability)
_network_decoder = msgspec.json.Decoder(NetworkAvailability)


def encode(record: Struct) -> bytes:
    """A record as compact JSON, fields in declared order."""
    return _encoder.encode(record)


def decode_availability(value: bytes) -> Availability:
    """The typed record of one `availability.v1` value.

    Raises:
        msgspec.ValidationError: the value is not such a record.
    """
    return _availability_decoder.decode(value)


_verdict_decoder = msgspec.json.Decoder(ReservationVerdict)


def decode_verdict(value: bytes) -> ReservationVerdict:
    """The typed record of one `reservation-verdicts.v1` value.

    Raises:
        msgspec.ValidationError: the value is not such a record.
    """
    return _verdict_decoder.decode(value)


def decode_network(value: bytes) -> NetworkAvailability:
    """The typed record of one `network-availability.v1` value.

    Raises:
        msgspec.ValidationError: the value is not such a record.
    """
    return _network_decoder.decode(value)


def cloudevents_headers(key: str, record: Availability) -> list[tuple[str, bytes]]:
    """The headers of CloudEvents' Kafka binary mode for a record."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{key}@{record.version}".encode()),
        ("ce_type", f"stockflow.{AVAILABILITY.name}".encode()),
        ("ce_source", b"stockflow"),
        ("ce_time", record.changed_at.isoformat().encode()),
        ("ce_subject", key.encode()),
        ("content-type", b"application/json"),
    ]


def availability_key(sku: str, location: str) -> str:
    """The one text form of a balance's key: SKU and location joined by a bar (neither may contain one)."""
    return f"{sku}|{location}"


def split_availability_key(key: str) -> tuple[str, str]:
    """SKU and location of a balance's key."""
    sku, _, location = key.partition("|")
    return sku, location
