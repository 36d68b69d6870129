"""The facts stockflow understands, one typed message per wire `type`; never how they arrive or what they change.

These are stockflow's own contract, so the wire decodes straight into them. Field names, tags and limits are
a public promise. Times are timezone-aware; units are whole selling units.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

UNITS_MAX = 1_000_000_000  # Above any real stock; keeps every sum far inside 64 bits.
ANYWHERE = "*"  # As the location of a request: one is chosen. So no location has this name.
ID_LENGTH_MAX = 256  # Ids are kept for the dedup horizon, so their size is bounded.
CHANNEL_LENGTH_MAX = 128  # Of a channel that a policy names, as of a SKU: it is part of a key.

Units = Annotated[int, Meta(ge=1, le=UNITS_MAX)]
CountedUnits = Annotated[int, Meta(ge=0, le=UNITS_MAX)]
SignedUnits = Annotated[int, Meta(ge=-UNITS_MAX, le=UNITS_MAX)]
Moment = Annotated[datetime, Meta(tz=True)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Limit = Annotated[int, Meta(ge=0, le=UNITS_MAX)]

State = Literal["sellable", "damaged", "quality_hold", "display"]
Mode = Literal["ship", "pickup"]
LocationKind = Literal["store", "warehouse", "3pl", "dropship"]
Lifecycle = Literal["active", "preorder", "discontinued", "delisted"]


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """What every message carries: who says it (`source`), its idempotency key (`id`) and when it happened."""

    id: str
    source: str
    occurred_at: Moment
    channel: str | None = None
    reason: str | None = None
    references: dict[str, object] | None = None


class StockFact(Message, frozen=True, gc=False, kw_only=True):
    """A fact about one SKU at one location."""

    sku: str
    location: str


class Physical(StockFact, frozen=True, gc=False, kw_only=True):
    """A fact that moves units; it may name the state it touches, and what it consumes or restores."""

    state: State = "sellable"
    reservation: str | None = None
    line: str | None = None
    order_line: str | None = None
    echo: str | None = None


# pos-sales.v1


class PosSale(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="pos.sale"):
    """Units left over the counter; a pick-up names the hold or order line it consumes."""

    units: Units


class PosReturn(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="pos.return"):
    """Units came back, into the state that is named."""

    units: Units
    state: State


class PosVoid(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="pos.void"):
    """The opposite of a sale or return, effective at `voided_at`, even if that fact is not known."""

    units: Units
    voids: str
    voided_type: Literal["pos.sale", "pos.return"]
    voided_at: Moment


# wms-movements.v1


class WmsReceipt(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="wms.receipt"):
    """Units arrived from outside; they may fulfil an expected inbound."""

    units: Units
    inbound: str | None = None
    final: bool = False


class WmsShipment(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="wms.shipment"):
    """Units left the building."""

    units: Units


class WmsShipmentVoided(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="wms.shipment_voided"):
    """A shipment did not leave after all."""

    units: Units


class WmsAdjustment(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="wms.adjustment"):
    """A signed correction with its reason; never zero (checked after decoding)."""

    units: SignedUnits
    reason: str


class WmsCount(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="wms.count"):
    """A stock-take: what was on hand at `occurred_at`."""

    units: CountedUnits
    basis: Literal["gross", "net"] = "gross"
    state: State = "sellable"


class WmsStatusChanged(
    StockFact,
    frozen=True,
    gc=False,
    kw_only=True,
    tag_field="type",
    tag="wms.status_changed",
    rename={"from_state": "from", "to_state": "to"},
):
    """Units changed their state without leaving on_hand."""

    units: Units
    from_state: State
    to_state: State


class TransferShipped(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="transfer.shipped"):
    """Units left `location` for `to_location`."""

    transfer: str
    units: Units
    to_location: str
    eta: Moment | None = None
    state: State = "sellable"
    reservation: str | None = None
    line: str | None = None
    order_line: str | None = None


class TransferReceived(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="transfer.received"):
    """Units of a transfer arrived at `location`."""

    transfer: str
    units: Units
    final: bool = False
    state: State = "sellable"
    order_line: str | None = None


class TransferRescheduled(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="transfer.rescheduled"):
    """A transfer is expected at another time."""

    transfer: str
    eta: Moment


class TransferCancelled(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="transfer.cancelled"):
    """At most the rest of a transfer goes back to its origin."""

    transfer: str
    units: Units


class InboundExpected(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="inbound.expected"):
    """Units are expected from outside; never on hand before they are received."""

    inbound: str
    units: Units
    eta: Moment


class InboundCancelled(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="inbound.cancelled"):
    """Expected units will not come."""

    inbound: str
    units: Units
    eta: Moment | None = None


# order-reservations.v1


class Coordinates(Struct, frozen=True, gc=False):
    """A point on earth in degrees."""

    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]


class ReservationRequested(
    StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="reservation.requested"
):
    """A request that stockflow decides; `location` may be `*`."""

    reservation: str
    line: str | None = None
    units: Units
    mode: Mode
    expires_at: Moment | None = None
    partial: bool = False
    near: Coordinates | None = None


class ReservationCreated(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="reservation.created"):
    """A hold decided elsewhere; always recorded, even if it oversells."""

    reservation: str
    line: str | None = None
    units: Units
    mode: Mode
    expires_at: Moment | None = None


class ReservationRenewed(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="reservation.renewed"):
    """A hold lives longer, if this happened before its old end."""

    reservation: str
    line: str | None = None
    expires_at: Moment


class ReservationReleased(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="reservation.released"):
    """A hold is given back, in part or (without `units`) whole."""

    reservation: str
    line: str | None = None
    units: Units | None = None


class OrderAllocated(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.allocated"):
    """An order line binds units at a location; consumes the hold it names."""

    order_line: str
    units: Units
    reservation: str | None = None
    line: str | None = None


class OrderDeallocated(StockFact, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.deallocated"):
    """An order line gives units back."""

    order_line: str
    units: Units


class OrderFulfilled(Physical, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.fulfilled"):
    """Units of an order line left the building."""

    order_line: str
    units: Units


# stock-items.v1


class ItemSet(Message, frozen=True, gc=False, kw_only=True, tag_field="type", tag="item.set"):
    """Brand, category and lifecycle of a SKU."""

    sku: str
    brand: str
    category: str
    lifecycle: Lifecycle
    name: str | None = None
    unit: str | None = None


# stock-settings.v1


class LocationSet(Message, frozen=True, gc=False, kw_only=True, tag_field="type", tag="location.set"):
    """What a location is, and which modes it serves."""

    location: str
    kind: LocationKind
    brand: str | None = None
    region: str | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    ship_enabled: bool
    pickup_enabled: bool


class Scope(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Where a policy holds; empty means everywhere."""

    sku: str | None = None
    location: str | None = None
    channel: str | None = None
    mode: Mode | None = None
    category: str | None = None
    brand: str | None = None
    region: str | None = None
    location_kind: LocationKind | None = None


class PolicyValues(Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What a policy sets; a value left out is not touched by it."""

    safety_stock: Limit | None = None
    safety_percent: Percent | None = None
    buffer: Limit | None = None
    low_stock_enter: Limit | None = None
    low_stock_exit: Limit | None = None
    backorder_limit: Limit | None = None
    reorder_point: Limit | None = None
    enabled: bool | None = None
    stale_buffer: Limit | None = None
    quota: Limit | None = None
    network_safety_stock: Limit | None = None


class PolicySet(Message, frozen=True, gc=False, kw_only=True, tag_field="type", tag="policy.set"):
    """Values for everything inside a scope."""

    policy: str
    scope: Scope
    values: PolicyValues
    valid_from: Moment | None = None
    valid_until: Moment | None = None


class PolicyRemoved(Message, frozen=True, gc=False, kw_only=True, tag_field="type", tag="policy.removed"):
    """A policy no longer holds."""

    policy: str


class SourceAlive(Message, frozen=True, gc=False, kw_only=True, tag_field="type", tag="source.alive"):
    """A feed of a location promises to be complete until a time."""

    location: str
    feed: Literal["pos", "wms"]
    until: Moment


PosMessage = PosSale | PosReturn | PosVoid
WmsMessage = (
    WmsReceipt
    | WmsShipment
    | WmsShipmentVoided
    | WmsAdjustment
    | WmsCount
    | WmsStatusChanged
    | TransferShipped
    | TransferReceived
    | TransferRescheduled
    | TransferCancelled
    | InboundExpected
    | InboundCancelled
)
OrderMessage = (
    ReservationRequested
    | ReservationCreated
    | ReservationRenewed
    | ReservationReleased
    | OrderAllocated
    | OrderDeallocated
    | OrderFulfilled
)
# By type of a fact, the position of its topic among the keyed inputs.
TOPIC_OF: dict[type, int] = {
    kind: topic for topic, family in enumerate((PosMessage, WmsMessage, OrderMessage)) for kind in get_args(family)
}
SettingsMessage = LocationSet | PolicySet | PolicyRemoved | SourceAlive
