"""Histories to test with: all that shops may say, repeated, late, out of order; never what must follow from it.

One storyteller makes them all. It asks a `Choice` for every decision, so the same stories come from
Hypothesis (which shrinks them) and from a seeded generator (which is fast and as long as wanted).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from hypothesis import strategies as st

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, partition_of
from stock.events import (
    InboundCancelled,
    InboundExpected,
    ItemSet,
    Lifecycle,
    LocationSet,
    Message,
    Mode,
    OrderAllocated,
    OrderDeallocated,
    OrderFulfilled,
    PolicyRemoved,
    PolicySet,
    PolicyValues,
    PosReturn,
    PosSale,
    PosVoid,
    ReservationCreated,
    ReservationReleased,
    ReservationRenewed,
    ReservationRequested,
    Scope,
    SourceAlive,
    State,
    StockFact,
    TransferCancelled,
    TransferReceived,
    TransferRescheduled,
    TransferShipped,
    WmsAdjustment,
    WmsCount,
    WmsReceipt,
    WmsShipment,
    WmsShipmentVoided,
    WmsStatusChanged,
)
from tests.oracle import Delisted, Fact, Removed, Setting, topic_of

START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
SKUS = ("SKU-1", "SKU-2")
LOCATIONS = ("STORE-A", "STORE-B", "DC-1")
RECENT = 40  # Repeats, voids and late facts refer to the last so many; old ones would leave the dedup horizon.
HELD_BACK_MAX = 5  # Bounds how late the latest fact can be.

Item = ItemSet | Delisted
Entry = StockFact | Item | Setting
T = TypeVar("T")
VoidedType = Literal["pos.sale", "pos.return"]


def to_wire(message: Message | Removed | Delisted) -> tuple[str, str, bytes | None]:
    """Topic name (without prefix), key and value of a message; the value of what is removed is None."""
    topic = topic_of(message).name
    if isinstance(message, Delisted):
        return topic, message.sku, None
    if isinstance(message, Removed):
        return topic, message.key, None
    return topic, wire_key(message), msgspec.json.encode(message)


def wire_key(message: Message) -> str:
    """The key of a message: the SKU of a fact or item, the id of a setting."""
    if isinstance(message, PolicySet | PolicyRemoved):
        return f"policy:{message.policy}"
    if isinstance(message, LocationSet):
        return f"location:{message.location}"
    if isinstance(message, SourceAlive):
        return f"alive:{message.location}:{message.feed}"
    sku: str = getattr(message, "sku")  # noqa: B009  # Every other message has one; mypy cannot know.
    return sku


def skus_of_partition(partition: int, partitions: int, count: int) -> tuple[str, ...]:
    """The first `count` SKUs of the form SKU-<n> that belong to one partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if partition_of(f"SKU-{number}", partitions) == partition:
            found.append(f"SKU-{number}")
    return tuple(found)


@dataclass(frozen=True)
class Told:
    """One message and the moment it reached its topic."""

    at: datetime
    message: Entry


@dataclass(frozen=True)
class History:
    """Messages in order of arrival, and a moment after the last of them."""

    told: tuple[Told, ...]
    now: datetime

    @property
    def facts(self) -> list[Fact]:
        """The facts among the messages, as the oracle reads them."""
        return [
            Fact(topic_of(told.message).name, order, told.message, told.at)
            for order, told in enumerate(self.told)
            if isinstance(told.message, StockFact | Item)
        ]

    @property
    def settings(self) -> list[Setting]:
        """The settings among the messages, in log order."""
        return [told.message for told in self.told if not isinstance(told.message, StockFact | Item)]

    def until(self, length: int) -> History:
        """The first `length` messages, seen at the moment the last of them arrived."""
        told = self.told[:length]
        return History(told, told[-1].at if told else self.now)


class Choice(Protocol):
    """Who decides how a story goes on. The first option and the low end are the plain ones."""

    def integer(self, low: int, high: int) -> int:
        """A whole number between two ends, both included."""

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options."""


class SeededChoice:
    """Decides by a seeded random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """A whole number between two ends, both included."""
        return self._random.randint(low, high)

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self._random.choice(options)


class DrawnChoice:
    """Lets Hypothesis decide, through the `draw` of a composite strategy or of `st.data()`."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """A whole number between two ends, both included."""
        number: int = self._draw(st.integers(low, high))
        return number

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options."""
        option: T = self._draw(st.sampled_from(options))
        return option


@dataclass(frozen=True)
class World:
    """What a story is about, and how wild it gets.

    Attributes:
        skus: the SKUs that facts speak of.
        locations: the locations that facts speak of.
        start: when the story begins.
        ticks_ms: possible pauses between two messages; zero gives equal times.
        settings_percent: how many messages are policies and locations.
        items_percent: how many messages are items.
        repeats_percent: how many messages tell an id again.
        held_back_percent: how many facts arrive after younger ones.
        null_settings: whether settings are also removed by null values.
    """

    skus: tuple[str, ...] = SKUS
    locations: tuple[str, ...] = LOCATIONS
    start: datetime = START
    ticks_ms: tuple[int, ...] = (5_000, 0, 0, 1, 5_000, 30_000)
    settings_percent: int = 8
    items_percent: int = 4
    repeats_percent: int = 8
    held_back_percent: int = 15
    null_settings: bool = False


def random_history(seed: int, length: int, world: World | None = None) -> History:
    """A history of `length` messages; the same seed, length and world make the same history."""
    return tell(SeededChoice(seed), length, world or World())


@st.composite
def histories(draw: st.DrawFn, *, length_max: int = 40, world: World | None = None) -> History:
    """Histories of up to `length_max` messages that Hypothesis can shrink."""
    length = draw(st.integers(1, length_max))
    return tell(DrawnChoice(draw), length, world or World())


def tell(choice: Choice, length: int, world: World) -> History:
    """A history of `length` messages, seen at its end or some time after it."""
    storyteller = Storyteller(choice, world)
    told = tuple(storyteller.next() for _ in range(length))
    return History(told, storyteller.clock + timedelta(seconds=choice.one_of((0, 0, 30, 120, 600))))


class Storyteller:
    """Tells one message after the other, for state machines that draw one at a time and for whole histories.

    What a fact refers to (a void's sale, a hold, an order line) is chosen from all that was made up, told or
    not, so claims and voids also come before what they name, or without it.
    """

    def __init__(self, choice: Choice, world: World | None = None) -> None:
        self.world = world or World()
        self.clock = self.world.start
        self._choice = choice
        self._made_up: list[StockFact] = []
        self._told: list[StockFact] = []
        self._held_back: list[StockFact] = []
        self._newest_number: Counter[str] = Counter()
        self._last_id: Counter[tuple[str, str]] = Counter()

    def next(self) -> Told:
        """The next message, and when it arrives (never before the last one)."""
        self.clock += timedelta(milliseconds=self._choice.one_of(self.world.ticks_ms))
        if self._chance(self.world.settings_percent):
            return Told(self.clock, self._setting())
        if self._chance(self.world.items_percent):
            return Told(self.clock, self._item())
        fact = self._next_fact()
        self._told = [*self._told[1 - RECENT :], fact]
        return Told(self.clock, fact)

    def _next_fact(self) -> StockFact:
        if self._told and self._chance(self.world.repeats_percent):
            return self._repeat()
        if self._held_back and (len(self._held_back) == HELD_BACK_MAX or self._chance(30)):
            return self._held_back.pop(self._choice.integer(0, len(self._held_back) - 1))
        while len(self._held_back) < HELD_BACK_MAX and self._chance(self.world.held_back_percent):
            self._held_back.append(self._new_fact())
        return self._new_fact()

    def _new_fact(self) -> StockFact:
        maker = self._choice.one_of(_ALL_MAKERS)
        fact = maker(self, self._choice.one_of(self.world.skus))
        self._made_up = [*self._made_up[1 - RECENT :], fact]
        return fact

    def _repeat(self) -> StockFact:
        told = self._choice.one_of(self._told)
        if self._chance(50):
            return told
        other = self._choice.one_of(_MAKERS[topic_of(told).name])(self, told.sku)
        return msgspec.structs.replace(other, source=told.source, id=told.id)

    # Decisions that many facts share

    def _chance(self, percent: int) -> bool:
        return self._choice.integer(0, 99) >= 100 - percent

    def _named(self, prefix: str) -> str:
        """A name in use lately or the next new one: each is named several times, also before it is made."""
        newest = self._newest_number[prefix]
        number = self._choice.integer(max(1, newest - 3), newest + 1)
        self._newest_number[prefix] = max(newest, number)
        return f"{prefix}-{number}"

    def _units(self, high: int = 5) -> int:
        return self._choice.integer(1, high)

    def _time(self) -> datetime:
        """Now, a while ago, or a little ahead (clocks differ), in one of two zones."""
        seconds_ago = self._choice.one_of((0, 0, 0, 5, 5, 30, 60, 300, -5))
        moment = self.clock - timedelta(seconds=seconds_ago)
        return moment.astimezone(timezone(timedelta(hours=1))) if self._chance(10) else moment

    def _saying(self, sku: str, source: str) -> dict[str, Any]:
        """What every fact says. An id is new for its SKU and source, and in use for others."""
        location = self._choice.one_of(self.world.locations)
        source = source.format(location=location, till=self._choice.integer(1, 2))
        self._last_id[sku, source] += 1
        return {
            "id": f"e-{self._last_id[sku, source]}",
            "source": source,
            "occurred_at": self._time(),
            "sku": sku,
            "location": location,
        }

    def _touching(self) -> dict[str, Any]:
        """The state a physical fact touches, seldom another than sellable."""
        state = self._choice.one_of(("sellable",) * 7 + ("damaged", "quality_hold", "display"))
        return {"state": state}

    def _hold(self) -> dict[str, Any]:
        return {"reservation": self._named("R"), "line": self._choice.one_of((None, None, "1"))}

    def _consuming(self) -> dict[str, Any]:
        """What a fact consumes or restores: nothing, a hold, an order line, or both."""
        claims = self._choice.one_of(("", "", "", "hold", "hold", "order line", "order line", "hold, order line"))
        named = self._hold() if "hold" in claims else {}
        if self._chance(15):  # two systems may tell of the same units
            named["echo"] = self._named("E")
        return {**named, "order_line": self._named("L")} if "order line" in claims else named

    def _lately(self, kind: type[T], sku: str) -> T | None:
        """A fact of a kind that was made up lately, or None."""
        candidates = [fact for fact in self._made_up if isinstance(fact, kind) and fact.sku == sku]
        return self._choice.one_of(candidates) if candidates else None

    # pos-sales.v1

    def _pos_sale(self, sku: str) -> StockFact:
        saying = self._saying(sku, "pos/{location}/till-{till}")
        return PosSale(**saying, **self._touching(), **self._consuming(), units=self._units())

    def _pos_return(self, sku: str) -> StockFact:
        saying = self._saying(sku, "pos/{location}/till-{till}")
        return PosReturn(**saying, **self._touching(), units=self._units())

    def _pos_void(self, sku: str) -> StockFact:
        saying = self._saying(sku, "pos/{location}/till-{till}")
        voided_type: VoidedType = self._choice.one_of(("pos.sale", "pos.sale", "pos.return"))
        voided: PosSale | PosReturn | None = (
            self._lately(PosSale, sku) if voided_type == "pos.sale" else self._lately(PosReturn, sku)
        )
        if voided is None or self._chance(10):
            void = {**self._touching(), **self._consuming(), "units": self._units(), "voids": "unheard-of"}
            return PosVoid(**saying, **void, voided_type=voided_type, voided_at=self._time())
        return PosVoid(
            **{**saying, "location": voided.location},
            state=voided.state,
            reservation=voided.reservation,
            line=voided.line,
            order_line=voided.order_line,
            echo=voided.echo,
            units=voided.units,
            voids=voided.id,
            voided_type=voided_type,
            voided_at=voided.occurred_at,
        )

    # wms-movements.v1

    def _wms_receipt(self, sku: str) -> StockFact:
        inbound = self._inbound() if self._chance(30) else None
        saying = self._saying(sku, "wms/{location}")
        final = inbound is not None and self._chance(20)
        return WmsReceipt(**saying, **self._touching(), units=self._units(30), inbound=inbound, final=final)

    def _wms_shipment(self, sku: str) -> StockFact:
        saying = self._saying(sku, "wms/{location}")
        return WmsShipment(**saying, **self._touching(), **self._consuming(), units=self._units())

    def _wms_shipment_voided(self, sku: str) -> StockFact:
        saying = self._saying(sku, "wms/{location}")
        shipment = self._lately(WmsShipment, sku)
        if shipment is None or self._chance(30):
            return WmsShipmentVoided(**saying, **self._touching(), **self._consuming(), units=self._units())
        return WmsShipmentVoided(
            **{**saying, "location": shipment.location},
            state=shipment.state,
            order_line=shipment.order_line,
            echo=shipment.echo,
            units=shipment.units,
        )

    def _wms_adjustment(self, sku: str) -> StockFact:
        units = self._units() * self._choice.one_of((-1, 1))
        consuming = self._consuming() if units < 0 else {}
        saying = self._saying(sku, "wms/{location}")
        return WmsAdjustment(**saying, **self._touching(), **consuming, units=units, reason="found or lost")

    def _wms_count(self, sku: str) -> StockFact:
        basis: Literal["gross", "net"] = "net" if self._chance(35) else "gross"
        return WmsCount(**self._saying(sku, "wms/{location}"), units=self._choice.integer(0, 30), basis=basis)

    def _wms_status_changed(self, sku: str) -> StockFact:
        states: list[State] = ["sellable", "damaged", "quality_hold", "display"]
        from_state = self._choice.one_of(states)
        states.remove(from_state)
        return WmsStatusChanged(
            **self._saying(sku, "wms/{location}"),
            units=self._units(),
            from_state=from_state,
            to_state=self._choice.one_of(states),
        )

    def _inbound(self) -> str:
        return self._named("I")

    def _eta(self, occurred_at: datetime) -> datetime:
        return occurred_at + timedelta(seconds=self._choice.one_of((60, 600, 86_400, 5, 0, -60)))

    def _inbound_expected(self, sku: str) -> StockFact:
        saying = self._saying(sku, "erp")
        return InboundExpected(
            **saying, inbound=self._inbound(), units=self._units(30), eta=self._eta(saying["occurred_at"])
        )

    def _inbound_cancelled(self, sku: str) -> StockFact:
        return InboundCancelled(**self._saying(sku, "erp"), inbound=self._inbound(), units=self._units(30))

    def _transfer_shipped(self, sku: str) -> StockFact:
        saying = self._saying(sku, "wms/{location}")
        eta = self._eta(saying["occurred_at"]) if self._chance(70) else None
        to_location = self._choice.one_of(self.world.locations)
        consuming = self._consuming() if self._chance(30) else {}
        consuming.pop("echo", None)  # only one system tells of it
        return TransferShipped(
            **saying, **self._touching(), **consuming, transfer=self._named("T"), units=self._units(9),
            to_location=to_location, eta=eta,
        )  # fmt: skip

    def _transfer_received(self, sku: str) -> StockFact:
        order_line = self._named("L") if self._chance(20) else None
        saying = self._saying(sku, "wms/{location}")
        return TransferReceived(
            **saying, **self._touching(), transfer=self._named("T"), units=self._units(9), final=self._chance(40),
            order_line=order_line,
        )  # fmt: skip

    def _transfer_rescheduled(self, sku: str) -> StockFact:
        saying = self._saying(sku, "wms/{location}")
        return TransferRescheduled(**saying, transfer=self._named("T"), eta=self._eta(saying["occurred_at"]))

    def _transfer_cancelled(self, sku: str) -> StockFact:
        return TransferCancelled(**self._saying(sku, "wms/{location}"), transfer=self._named("T"), units=self._units(9))

    # order-reservations.v1

    def _channel(self) -> str | None:
        """For whom units are bound: seldom somebody of whom no policy speaks."""
        return self._choice.one_of((None, None, None, "web", "web", "marketplace", "wholesale"))

    def _expires_at(self, occurred_at: datetime) -> datetime:
        return occurred_at + timedelta(seconds=self._choice.one_of((60, 300, 900, 5, 86_400)))

    def _reservation_created(self, sku: str) -> StockFact:
        saying = self._saying(sku, "oms")
        saying["channel"] = self._channel()
        expires_at = None if self._chance(20) else self._expires_at(saying["occurred_at"])
        mode: Mode = self._choice.one_of(("ship", "pickup"))
        return ReservationCreated(**saying, **self._hold(), units=self._units(), mode=mode, expires_at=expires_at)

    def _reservation_requested(self, sku: str) -> StockFact:
        saying = self._saying(sku, "shop") | {"channel": self._channel()}
        before = self._lately(ReservationRequested, sku)
        if before is not None and self._chance(30):  # it tries again, under a new id
            return msgspec.structs.replace(before, id=saying["id"], occurred_at=saying["occurred_at"])
        if self._chance(30):
            saying["location"] = "*"
        expires_at = None if self._chance(20) else self._expires_at(saying["occurred_at"])
        mode: Mode = self._choice.one_of(("ship", "pickup"))
        return ReservationRequested(
            **saying, **self._hold(), units=self._units(9), mode=mode, expires_at=expires_at, partial=self._chance(30)
        )

    def _reservation_renewed(self, sku: str) -> StockFact:
        saying = self._saying(sku, "oms")
        return ReservationRenewed(**saying, **self._hold(), expires_at=self._expires_at(saying["occurred_at"]))

    def _reservation_released(self, sku: str) -> StockFact:
        units = self._choice.one_of((None, 1, 2, 3))
        return ReservationReleased(**self._saying(sku, "oms"), **self._hold(), units=units)

    def _order_allocated(self, sku: str) -> StockFact:
        consuming = self._hold() if self._chance(40) else {}
        saying = self._saying(sku, "oms") | {"channel": self._channel()}
        return OrderAllocated(**saying, **consuming, order_line=self._named("L"), units=self._units())

    def _order_deallocated(self, sku: str) -> StockFact:
        return OrderDeallocated(**self._saying(sku, "oms"), order_line=self._named("L"), units=self._units(3))

    def _order_fulfilled(self, sku: str) -> StockFact:
        named = {**self._consuming(), "order_line": self._named("L")}
        return OrderFulfilled(**self._saying(sku, "oms"), **self._touching(), **named, units=self._units())

    # stock-items.v1

    def _item(self) -> Item:
        sku = self._choice.one_of(self.world.skus)
        lifecycle: Lifecycle = self._choice.one_of(("active", "active", "preorder", "discontinued", "delisted"))
        if self._chance(15):
            return Delisted(sku)
        self._last_id[sku, "master"] += 1
        return ItemSet(
            id=f"i-{self._last_id[sku, 'master']}",
            source="master",
            occurred_at=self._time(),
            sku=sku,
            brand=self._choice.one_of(("own", "other")),
            category=self._choice.one_of(("bakery", "shoes")),
            lifecycle=lifecycle,
        )

    # stock-settings.v1

    def _setting(self) -> Setting:
        makers = [
            self._policy_set,
            self._policy_set,
            self._policy_set,
            self._location_set,
            self._policy_removed,
            self._source_alive,
        ]
        if self.world.null_settings:
            makers.append(self._removed)
        return self._choice.one_of(makers)()

    def _from_planning(self) -> dict[str, Any]:
        self._last_id["", "planning"] += 1
        return {
            "id": f"s-{self._last_id['', 'planning']}",
            "source": "planning",
            "occurred_at": self._time(),
        }

    def _policy_name(self) -> str:
        return self._choice.one_of(("p-1", "p-2", "p-3", "p-4", "p-5"))

    def _maybe(self, percent: int, options: Sequence[T]) -> T | None:
        return self._choice.one_of(options) if self._chance(percent) else None

    def _policy_set(self) -> Setting:
        channel = self._maybe(25, ("web", "marketplace"))
        scope = Scope(
            sku=self._maybe(40, self.world.skus),
            location=self._maybe(40, self.world.locations),
            mode=self._maybe(40, ("ship", "pickup")),
            channel=channel,
            category=self._maybe(15, ("bakery", "shoes")),
            brand=self._maybe(15, ("own", "other")),
            region=self._maybe(10, ("north", "south")),
            location_kind=self._maybe(10, ("store", "warehouse")),
        )
        values = PolicyValues(
            safety_stock=self._maybe(60, (0, 1, 2, 5)),
            buffer=self._maybe(30, (0, 1, 2)),
            low_stock_enter=self._maybe(40, (0, 2, 5, 8)),
            low_stock_exit=self._maybe(40, (0, 4, 8, 12)),
            enabled=self._maybe(20, (True, False)),
            safety_percent=self._maybe(20, (0, 10, 33, 100)),
            backorder_limit=self._maybe(30, (0, 3, 20)),
            reorder_point=self._maybe(10, (0, 5)),
            stale_buffer=self._maybe(30, (0, 1, 4)),
            quota=self._maybe(5 if channel is None else 50, (0, 3, 10)),
            network_safety_stock=self._maybe(15, (0, 2, 5)),
        )
        return PolicySet(
            **self._from_planning(),
            policy=self._policy_name(),
            scope=scope,
            values=values,
            valid_from=self._valid(20),
            valid_until=self._valid(30),
        )

    def _valid(self, percent: int) -> datetime | None:
        seconds = self._maybe(percent, (5, 20, 60, 600, 0, -60, 86_400))
        return None if seconds is None else self.clock + timedelta(seconds=seconds)

    def _policy_removed(self) -> Setting:
        return PolicyRemoved(**self._from_planning(), policy=self._policy_name())

    def _location_set(self) -> Setting:
        return LocationSet(
            **self._from_planning(),
            location=self._choice.one_of(self.world.locations),
            kind=self._choice.one_of(("store", "warehouse")),
            region=self._maybe(50, ("north", "south")),
            ship_enabled=not self._chance(25),
            pickup_enabled=not self._chance(25),
        )

    def _source_alive(self) -> Setting:
        seconds = self._choice.one_of((86_400, 86_400, 86_400, 600, 600, 600, 20, 5, 0, -60))
        return SourceAlive(
            **self._from_planning(),
            location=self._choice.one_of(self.world.locations),
            feed=self._choice.one_of(("pos", "wms")),
            until=self.clock + timedelta(seconds=seconds),
        )

    def _removed(self) -> Setting:
        location = self._choice.one_of(self.world.locations)
        feed = self._choice.one_of(("pos", "wms"))
        keys = (f"policy:{self._policy_name()}", f"location:{location}", f"alive:{location}:{feed}")
        return Removed(self._choice.one_of(keys))


# One maker may stand several times: what happens often in a shop is told often.
_MAKERS: dict[str, tuple[Callable[[Storyteller, str], StockFact], ...]] = {
    POS_SALES.name: (
        *[Storyteller._pos_sale] * 5,
        *[Storyteller._pos_return] * 2,
        *[Storyteller._pos_void] * 3,
    ),
    WMS_MOVEMENTS.name: (
        *[Storyteller._wms_receipt] * 7,
        *[Storyteller._wms_shipment] * 2,
        *[Storyteller._wms_shipment_voided] * 2,
        *[Storyteller._wms_adjustment] * 2,
        *[Storyteller._wms_count] * 2,
        *[Storyteller._wms_status_changed] * 2,
        *[Storyteller._transfer_shipped] * 3,
        *[Storyteller._transfer_received] * 2,
        Storyteller._transfer_rescheduled,
        Storyteller._transfer_cancelled,
        *[Storyteller._inbound_expected] * 2,
        Storyteller._inbound_cancelled,
    ),
    ORDER_RESERVATIONS.name: (
        *[Storyteller._reservation_created] * 3,
        *[Storyteller._reservation_requested] * 3,
        *[Storyteller._reservation_renewed] * 2,
        *[Storyteller._reservation_released] * 2,
        *[Storyteller._order_allocated] * 4,
        Storyteller._order_deallocated,
        *[Storyteller._order_fulfilled] * 2,
    ),
}
_ALL_MAKERS = tuple(maker for makers in _MAKERS.values() for maker in makers)
