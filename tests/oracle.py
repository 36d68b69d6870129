"""What availability must be, recomputed from the whole history; it never shares code with what it checks.

Nothing here is incremental: every call sorts the complete history and derives each number from scratch, so
that the answer is obviously independent of arrival order, batches, restarts and bounded logs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from schemas.records import Sources
from schemas.topics import (
    ORDER_RESERVATIONS,
    POS_SALES,
    STOCK_ITEMS,
    STOCK_SETTINGS,
    WMS_MOVEMENTS,
    Topic,
)
from stock.events import (
    InboundCancelled,
    InboundExpected,
    ItemSet,
    LocationSet,
    Message,
    OrderAllocated,
    OrderDeallocated,
    OrderFulfilled,
    OrderMessage,
    Physical,
    PolicyRemoved,
    PolicySet,
    PosMessage,
    PosReturn,
    PosSale,
    PosVoid,
    ReservationCreated,
    ReservationReleased,
    ReservationRenewed,
    ReservationRequested,
    SettingsMessage,
    SourceAlive,
    StockFact,
    TransferCancelled,
    TransferReceived,
    TransferRescheduled,
    TransferShipped,
    WmsAdjustment,
    WmsCount,
    WmsMessage,
    WmsReceipt,
    WmsShipment,
    WmsShipmentVoided,
    WmsStatusChanged,
)

Key = tuple[str, str]  # SKU, location
HoldName = tuple[str, "str | None"]  # reservation, line

BEST_FIRST = (
    "IN_STOCK",
    "LOW_STOCK",
    "BACKORDERABLE",
    "PREORDERABLE",
    "UNKNOWN",
    "DISCONTINUED",
    "OUT_OF_STOCK",
)
SCOPE_FIELDS = ("sku", "location", "channel", "mode", "category", "brand", "region", "location_kind")
LOW_STOCK_ENTER_UNSET = 3


class Fact(NamedTuple):
    """One message of the history: the topic it stood on, its place in the order of arrival, and what it says.

    Messages with equal ids stand on one topic, so a topic's own offsets are good enough as `order`. `stamped`: the
    timestamp of its record; when it occurred, if nobody says.
    """

    topic: str
    order: int
    event: Message | Delisted
    stamped: datetime | None = None


class Delisted(Struct, frozen=True):
    """An items record with a null value."""

    sku: str


class Removed(Struct, frozen=True):
    """A settings record with a null value: whatever stood under `key` no longer holds."""

    key: str


Setting = SettingsMessage | Removed


class Decided(NamedTuple):
    """Published fields that hang together when one of the statuses depends on the path taken."""

    status_ship: str
    status_pickup: str
    status: str
    policy: str | None


@dataclass(frozen=True)
class Expected:
    """What one record of `availability.v1` must say.

    The status fields and `policy` are sets: between the low-stock thresholds either status is legal, and with
    it the better mode may change. `together` lists which of them may stand side by side.
    """

    sku: str
    location: str
    status: frozenset[str]
    reason: str | None
    status_ship: frozenset[str]
    status_pickup: frozenset[str]
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
    policy: frozenset[str | None]
    together: frozenset[Decided]
    sources: Sources
    dated: tuple[tuple[datetime, int], ...]
    overdue: int
    backorder_limit: int
    reorder_point: int | None


class Granted(NamedTuple):
    """What was promised to a request: this many units there."""

    location: str
    units: int


# By SKU, reservation, line and id of the request: what was told to requests of that name, each answer once, in order.
# An answer names no source; requests of several sources under one id are answered in the order of their log.
Promises = Mapping[tuple[str, str, "str | None", str], Sequence["Granted | None"]]


def promises(verdicts: Iterable[Mapping[str, Any]]) -> Promises:
    """What was promised, from the published answers in the order of their log; None where nothing was."""
    found: dict[tuple[str, str, str | None, str], list[Mapping[str, Any]]] = defaultdict(list)
    for verdict in verdicts:
        told = found[verdict["sku"], verdict["reservation"], verdict["line"], verdict["request_id"]]
        if verdict not in told:
            told.append(verdict)
    return {
        name: [Granted(one["location"], one["units"]) if one["units"] else None for one in told]
        for name, told in found.items()
    }


def expected(
    history: Iterable[Fact],
    settings: Iterable[Setting],
    now: datetime,
    promises: Promises | None = None,
    channel: str | None = None,
) -> dict[Key, Expected]:
    """The record that every published (sku, location) must have at `now`.

    Args:
        history: everything that stood on the input topics; what the pipeline refuses is left out here too.
        settings: the settings topic in log order.
        now: the moment that decides which holds and dated policies have ended.
        promises: how requests were answered, which depends on what was known then and is taken as it is; None if
            nothing was granted.
        channel: whose policies count, too; no such record is published, but networks are made of them.
    """
    in_force = settings_in_force(settings)
    history = list(history)
    items = newest_items(history)
    facts_of_sku: dict[str, list[StockFact]] = defaultdict(list)
    for fact in kept_promises(first_facts(history), promises):
        facts_of_sku[fact.sku].append(fact)
    result = {}
    for sku, facts in facts_of_sku.items():
        if lifecycle_of(items.get(sku)) == "delisted":
            continue
        committed = committed_by_location(facts, now)
        under_way = transfers(facts)
        facts_at: dict[str, list[StockFact]] = defaultdict(list)
        for fact in facts:
            facts_at[fact.location].append(fact)
            if isinstance(fact, TransferShipped):
                facts_at[fact.to_location]  # a destination is told of even if nothing else is known there
        for location, facts_here in facts_at.items():
            committed_here = committed.get(location, 0)
            coming = coming_to(location, facts_here, under_way)
            returned = [back for transfer in under_way for back in transfer.returned if back.location == location]
            then = partial(allocated_at, location, facts)
            result[sku, location] = record(
                sku,
                location,
                facts_here,
                committed_here,
                coming,
                returned,
                in_force,
                now,
                items.get(sku),
                then,
                channel,
            )
    return result


# What counts at all


class Promised(ReservationCreated, frozen=True, kw_only=True, tag="promised"):
    """The hold that follows from a request that was granted.

    `taken_after`: what was taken up to then was of an earlier hold of the same name; None if there was none.
    """

    taken_after: datetime | None = None


@dataclass
class Promise:
    """What a reservation and line was promised, and what its topic has said of it since."""

    made: Promised
    since: list[StockFact] = field(default_factory=list)

    def units_left(self, at: datetime) -> int:
        """How much of it is neither over, nor released, nor replaced by a statement of others."""

        def place(fact: StockFact) -> tuple[datetime, bool, str, str]:
            return fact.occurred_at, not isinstance(fact, ReservationCreated), fact.source, fact.id

        told = sorted([self.made, *self.since], key=place)
        left = 0
        end: datetime | None = None
        for fact in told[told.index(self.made) :]:
            if isinstance(fact, ReservationCreated):
                left, end = (self.made.units if fact is self.made else 0), fact.expires_at
            elif isinstance(fact, ReservationReleased):
                left = 0 if fact.units is None else max(0, left - fact.units)
            elif isinstance(fact, ReservationRenewed) and (end is None or fact.occurred_at < end):
                end = fact.expires_at
        return left if end is None or at < end else 0


def broken_promises(history: Iterable[Fact], given: Promises) -> list[str]:
    """Answers that do not tell of what stood promised to the same reservation and line."""
    wrong: list[str] = []
    kept_promises(first_facts(history), given, wrong)
    return wrong


def kept_promises(facts: Iterable[Fact], given: Promises | None, wrong: list[str] | None = None) -> list[StockFact]:
    """What the facts say, with a hold in the place of each request that was granted one, and without the requests.

    A request for what stands promised already was told of that promise, and has no hold of its own. Where it was told
    anything else, `wrong` says so.
    """
    kept: list[StockFact] = []
    asked: Counter[tuple[str, str, str | None, str]] = Counter()
    open_promises: dict[tuple[str, HoldName], Promise] = {}
    stated: set[tuple[str, HoldName]] = set()
    for fact in facts:
        event = fact.event
        assert isinstance(event, StockFact)
        if not isinstance(event, ReservationRequested):
            kept.append(event)
            name = hold_named_by(event)
            if name is not None and (event.sku, name) in open_promises:
                open_promises[event.sku, name].since.append(event)
            if name is not None and isinstance(event, ReservationCreated):
                stated.add((event.sku, name))
            continue
        request = event.sku, event.reservation, event.line, event.id
        asked[request] += 1
        told = [None] if given is None else given[request]
        granted = told[min(asked[request], len(told)) - 1]
        place = event.sku, (event.reservation, event.line)
        promise = open_promises.get(place)
        left = 0 if promise is None else promise.units_left(fact.stamped or event.occurred_at)
        if promise is not None and left:
            if wrong is not None and granted != Granted(promise.made.location, left):
                wrong.append(f"{place} {event.id} was told {granted}, {left} stood promised by {promise.made.id}")
            continue
        if granted is None:
            continue
        made = Promised(
            id=event.id,
            source=event.source,
            occurred_at=event.occurred_at,
            sku=event.sku,
            location=granted.location,
            reservation=event.reservation,
            line=event.line,
            units=granted.units,
            mode=event.mode,
            expires_at=event.expires_at,
            channel=event.channel,
            taken_after=(fact.stamped or event.occurred_at) if place in stated else None,
        )
        open_promises[place] = Promise(made)
        stated.add(place)
        kept.append(made)
    if wrong is not None and given is not None:
        wrong += [
            f"{name} was answered twice, and not alike" for name in given if len(given[name]) > max(1, asked[name])
        ]
    return kept


def topic_of(message: Message | Removed | Delisted) -> Topic:
    """The topic a message belongs on."""
    if isinstance(message, PosMessage):
        return POS_SALES
    if isinstance(message, WmsMessage):
        return WMS_MOVEMENTS
    if isinstance(message, OrderMessage):
        return ORDER_RESERVATIONS
    if isinstance(message, ItemSet | Delisted):
        return STOCK_ITEMS
    assert isinstance(message, Setting), message
    return STOCK_SETTINGS


def is_refused(fact: Fact) -> bool:
    """Whether a message is dead-lettered: not understood yet, on a foreign topic, or saying nothing."""
    event = fact.event
    if not fact.topic.endswith(topic_of(event).name):  # A prefix may stand in front.
        return True
    if isinstance(event, WmsCount):
        return event.state != "sellable"
    if isinstance(event, WmsAdjustment):
        return event.units == 0
    understood = (
        ItemSet
        | Delisted
        | PosMessage
        | WmsReceipt
        | WmsShipment
        | WmsShipmentVoided
        | WmsStatusChanged
        | ReservationCreated
        | ReservationRenewed
        | ReservationReleased
        | ReservationRequested
        | OrderAllocated
        | OrderDeallocated
        | OrderFulfilled
        | TransferShipped
        | TransferReceived
        | TransferRescheduled
        | TransferCancelled
        | InboundExpected
        | InboundCancelled
    )
    return not isinstance(event, understood)


def first_tellings(history: Iterable[Fact]) -> list[StockFact]:
    """The accepted facts without repeats: of one (sku, source, id) only the first to arrive counts."""
    return [fact.event for fact in first_facts(history) if isinstance(fact.event, StockFact)]


def first_facts(history: Iterable[Fact]) -> list[Fact]:
    """The same with their place."""
    first: dict[tuple[str, str, str], Fact] = {}
    for fact in sorted(history, key=lambda fact: fact.order):
        event = fact.event
        if isinstance(event, StockFact) and not is_refused(fact):
            first.setdefault((event.sku, event.source, event.id), fact)
    return list(first.values())


def newest_items(history: Iterable[Fact]) -> dict[str, ItemSet | Delisted]:
    """By SKU, the record that stands last on the items topic; neither ids nor times count there."""
    newest: dict[str, ItemSet | Delisted] = {}
    for fact in sorted(history, key=lambda fact: fact.order):
        if isinstance(fact.event, ItemSet | Delisted) and not is_refused(fact):
            newest[fact.event.sku] = fact.event
    return newest


def lifecycle_of(item: ItemSet | Delisted | None) -> str:
    """What may be done with a SKU; one that was never described is active."""
    if item is None:
        return "active"
    return "delisted" if isinstance(item, Delisted) else item.lifecycle


def effective_at(event: StockFact) -> datetime:
    """When a fact takes effect: a void works at the time of what it voids."""
    return event.voided_at if isinstance(event, PosVoid) else event.occurred_at


# What lies there


def on_hand_delta(event: StockFact) -> int:
    """By how many units a fact moves on_hand (a count is not a movement: 0)."""
    if isinstance(event, PosSale | WmsShipment | OrderFulfilled | TransferShipped):
        return -event.units
    if isinstance(event, PosReturn | WmsReceipt | WmsShipmentVoided | WmsAdjustment | TransferReceived):
        return event.units
    if isinstance(event, PosVoid):
        return event.units if event.voided_type == "pos.sale" else -event.units
    return 0


def echo_named_by(fact: StockFact) -> str | None:
    """The name under which other topics may tell of the same units; None: only this fact tells of them."""
    if isinstance(fact, PosSale | WmsShipment | WmsShipmentVoided | OrderFulfilled) or (
        isinstance(fact, PosVoid) and fact.voided_type == "pos.sale"
    ):
        return fact.order_line if fact.echo is None else fact.echo
    return None


def by_echo(facts: Iterable[StockFact]) -> dict[tuple[str, str], list[StockFact]]:
    """The facts that several topics may tell, by location and echo."""
    groups: dict[tuple[str, str], list[StockFact]] = defaultdict(list)
    for fact in facts:
        echo = echo_named_by(fact)
        if echo is not None:
            groups[fact.location, echo].append(fact)
    return groups


def left_by(told: Iterable[StockFact]) -> int:
    """Units that left according to the topic that tells the most; 0 if nobody tells anything."""
    by_topic: Counter[str] = Counter()
    for fact in told:
        by_topic[topic_of(fact).name] -= on_hand_delta(fact)
    return max(by_topic.values(), default=0)


def movements(facts_here: list[StockFact]) -> list[tuple[datetime, int]]:
    """Every change of on_hand and its time; what several topics tell of the same units changes it once."""
    moved = [(effective_at(fact), on_hand_delta(fact)) for fact in facts_here if echo_named_by(fact) is None]
    for group in by_echo(facts_here).values():
        before = 0
        for at in sorted({effective_at(fact) for fact in group}):
            left = left_by(fact for fact in group if effective_at(fact) <= at)
            moved.append((at, before - left))
            before = left
    return moved


def on_hand(facts_here: list[StockFact], returned: list[Returned], allocated_before: Callable[[datetime], int]) -> int:
    """The newest count and every movement not older than it; without a count, every movement.

    A net count left out what was unavailable and what was allocated when it was taken.
    """
    moved = movements(facts_here)
    moved += [(back.at, back.units) for back in returned]
    counts = [fact for fact in facts_here if isinstance(fact, WmsCount)]
    if not counts:
        return sum(units for _, units in moved)
    newest = max(counts, key=lambda count: (count.occurred_at, count.source, count.id))
    left_out = 0
    if newest.basis == "net":
        earlier = [fact for fact in facts_here if effective_at(fact) < newest.occurred_at]
        left_out = unavailable(earlier, [back for back in returned if back.at < newest.occurred_at])
        left_out += allocated_before(newest.occurred_at)
    return newest.units + left_out + sum(units for at, units in moved if at >= newest.occurred_at)


def unavailable(facts_here: list[StockFact], returned: list[Returned]) -> int:
    """Units that lie there but cannot be sold; a counter below zero hides nothing elsewhere."""
    counters = {"damaged": 0, "quality_hold": 0, "display": 0, "sellable": 0}
    for back in returned:
        counters[back.state] += back.units
    for group in by_echo(facts_here).values():
        for state in counters:
            touching = [fact for fact in group if isinstance(fact, Physical) and fact.state == state]
            counters[state] -= left_by(touching)
    for fact in facts_here:
        if echo_named_by(fact) is not None:
            continue
        if isinstance(fact, Physical | TransferShipped | TransferReceived):
            counters[fact.state] += on_hand_delta(fact)
        elif isinstance(fact, WmsStatusChanged):
            counters[fact.from_state] -= fact.units
            counters[fact.to_state] += fact.units
    return sum(max(0, counters[state]) for state in ("damaged", "quality_hold", "display"))


def has_baseline(facts_here: list[StockFact]) -> bool:
    """Whether anyone has ever said what lies there; only a count or something received does."""
    return any(isinstance(fact, WmsCount | WmsReceipt | TransferReceived) for fact in facts_here)


# What is on its way


@dataclass
class Leg:
    """What one `transfer.shipped` sent, as far as it has not arrived."""

    shipped: TransferShipped
    left: int
    eta: datetime | None


class Returned(NamedTuple):
    """What a cancellation gave back to where it was shipped from."""

    at: datetime
    location: str
    state: str
    units: int


@dataclass
class Transfer:
    """A transfer after all facts that name it."""

    legs: list[Leg] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)


TransferEvent = TransferShipped | TransferReceived | TransferRescheduled | TransferCancelled


def transfers(facts: list[StockFact]) -> list[Transfer]:
    """Every transfer of one SKU, from its facts in order of time; what was shipped comes first among equal times."""
    mentions: dict[str, list[TransferEvent]] = defaultdict(list)
    for fact in facts:
        if isinstance(fact, TransferEvent):
            mentions[fact.transfer].append(fact)
    return [transfer_told_by(naming) for naming in mentions.values()]


def transfer_told_by(mentions: list[TransferEvent]) -> Transfer:
    """One transfer. What arrives before anything was sent is taken off what is sent later."""

    def place(fact: TransferEvent) -> tuple[datetime, bool, str, str]:
        return fact.occurred_at, not isinstance(fact, TransferShipped), fact.source, fact.id

    transfer, too_early = Transfer(), 0
    for fact in sorted(mentions, key=place):
        if isinstance(fact, TransferShipped):
            left = max(0, fact.units - too_early)
            too_early = max(0, too_early - fact.units)
            transfer.legs.append(Leg(fact, left, fact.eta))
        elif isinstance(fact, TransferRescheduled):
            for leg in transfer.legs:
                leg.eta = fact.eta
        elif isinstance(fact, TransferReceived):
            if not transfer.legs:
                too_early += fact.units
            open_units = fact.units
            here = [leg for leg in transfer.legs if leg.shipped.to_location == fact.location]
            elsewhere = [leg for leg in transfer.legs if leg.shipped.to_location != fact.location]
            for leg in here + sorted(elsewhere, key=lambda leg: leg.shipped.to_location):
                arrived = min(open_units, leg.left)
                leg.left -= arrived
                open_units -= arrived
            if fact.final:
                for leg in transfer.legs:
                    leg.left = 0
        else:
            open_units = fact.units
            own = [leg for leg in transfer.legs if leg.shipped.location == fact.location]
            others = [leg for leg in transfer.legs if leg.shipped.location != fact.location]
            for leg in own + sorted(others, key=lambda leg: leg.shipped.location):
                back = min(open_units, leg.left)
                leg.left -= back
                open_units -= back
                if back:
                    transfer.returned.append(Returned(fact.occurred_at, leg.shipped.location, leg.shipped.state, back))
    return transfer


class Coming(NamedTuple):
    """What is on its way to one location: units by kind, and when which of them are expected."""

    in_transit: int
    inbound: int
    etas: list[datetime]
    dated: list[tuple[datetime, int]]
    transfers_dated: list[tuple[datetime, int]]


def coming_to(location: str, facts_here: list[StockFact], under_way: list[Transfer]) -> Coming:
    """Open transfers to a location, and its inbounds less what was received or cancelled."""
    legs = [leg for transfer in under_way for leg in transfer.legs if leg.shipped.to_location == location and leg.left]
    transfers_dated = [(leg.eta, leg.left) for leg in legs if leg.eta is not None]
    dated = transfers_dated.copy()
    mentions: dict[str, list[StockFact]] = defaultdict(list)
    for fact in facts_here:
        if isinstance(fact, InboundExpected | InboundCancelled | WmsReceipt) and fact.inbound is not None:
            mentions[fact.inbound].append(fact)
    inbound = 0
    for naming in mentions.values():
        left, eta = 0, None
        for fact in sorted(naming, key=lambda f: (f.occurred_at, not isinstance(f, InboundExpected), f.source, f.id)):
            assert isinstance(fact, InboundExpected | InboundCancelled | WmsReceipt)
            if isinstance(fact, InboundExpected):
                left, eta = fact.units, fact.eta
            elif isinstance(fact, WmsReceipt) and fact.final:
                left = 0
            else:
                left = max(0, left - fact.units)
        inbound += left
        if left and eta is not None:
            dated.append((eta, left))
    return Coming(sum(leg.left for leg in legs), inbound, [eta for eta, _ in dated], dated, transfers_dated)


# What is promised


def committed_by_location(facts: list[StockFact], now: datetime) -> dict[str, int]:
    """Units of one SKU bound at each location by open holds and allocations."""
    committed: dict[str, int] = defaultdict(int)
    for hold in holds(facts):
        if hold.left > 0 and (hold.expires_at is None or now < hold.expires_at):
            committed[hold.location] += hold.left
    for cells in order_lines(facts).values():
        for location, cell in cells.items():
            committed[location] += cell.left
    return dict(committed)


def committed_for(channel: str, facts: list[StockFact], now: datetime) -> int:
    """The same over all locations, of what was created or allocated for one channel."""
    open_holds = [hold for hold in holds(facts) if hold.expires_at is None or now < hold.expires_at]
    cells = [cell for line in order_lines(facts).values() for cell in line.values()]
    return sum(one.left for one in [*open_holds, *cells] if one.channel == channel)


def allocated_at(location: str, facts: list[StockFact], before: datetime) -> int:
    """Units of one SKU that were allocated at a location just before a time, by all that is known of it today."""
    earlier = order_lines([fact for fact in facts if effective_at(fact) < before])
    return sum(cells[location].left for cells in earlier.values() if location in cells)


@dataclass
class Hold:
    """A reservation as far as its history has been read."""

    location: str
    left: int
    expires_at: datetime | None
    channel: str | None


def holds(facts: list[StockFact]) -> list[Hold]:
    """Every hold of one SKU, after all facts that name it."""
    mentions: dict[HoldName, list[StockFact]] = defaultdict(list)
    for fact in facts:
        name = hold_named_by(fact)
        if name is not None:
            mentions[name].append(fact)
    folded = []
    for naming in mentions.values():
        kept = without_what_was_known(naming)
        folded.append(fold_hold(kept, [fact for fact in naming if fact not in kept]))
    return [hold for hold in folded if hold is not None]


def without_what_was_known(mentions: list[StockFact]) -> list[StockFact]:
    """What can change a promise: nothing that was said of its hold before, nor what was taken of an earlier one."""
    promised = [at for at, fact in enumerate(mentions) if isinstance(fact, Promised)]
    if not promised:
        return mentions
    ends = [made.taken_after for made in mentions if isinstance(made, Promised) and made.taken_after is not None]
    kept = []
    for at, fact in enumerate(mentions):
        if isinstance(fact, ReservationCreated | ReservationRenewed | ReservationReleased):
            counts = at >= promised[-1]
        else:
            counts = all(effective_at(fact) > end for end in ends)
        if counts:
            kept.append(fact)
    return kept


def hold_named_by(fact: StockFact) -> HoldName | None:
    """The hold that a fact states, changes or consumes; a fact that brings units back changes none."""
    if isinstance(fact, ReservationCreated | ReservationRenewed | ReservationReleased):
        return fact.reservation, fact.line
    consumes = on_hand_delta(fact) < 0 or isinstance(fact, OrderAllocated)
    names_one = isinstance(fact, Physical | OrderAllocated | TransferShipped)
    if consumes and names_one and fact.reservation is not None:
        return fact.reservation, fact.line
    return None


def fold_hold(mentions: list[StockFact], over: list[StockFact]) -> Hold | None:
    """One hold, from its facts in order of time; its statement comes first among those of one moment.

    What is `over` has no part in it, but who tells of the same units again must not take them from it.
    """

    def place(fact: StockFact) -> tuple[datetime, int, str, str]:
        rank = 0 if isinstance(fact, ReservationCreated) else 1
        return effective_at(fact), rank, fact.source, fact.id

    hold: Hold | None = None
    in_order = sorted(mentions, key=place)
    for turn, fact in enumerate(in_order):
        if isinstance(fact, ReservationCreated):
            hold = Hold(fact.location, fact.units, fact.expires_at, fact.channel)
        elif hold is None:
            continue
        elif isinstance(fact, ReservationRenewed):
            if hold.expires_at is None or fact.occurred_at < hold.expires_at:
                hold.expires_at = fact.expires_at
        else:
            hold.left -= min(hold.left, units_taken_from_hold(fact, hold, over + in_order[:turn]))
    return hold


def units_taken_from_hold(fact: StockFact, hold: Hold, before: list[StockFact]) -> int:
    """How many units a fact asks of a hold."""
    if isinstance(fact, ReservationReleased):
        return hold.left if fact.units is None else fact.units
    return fact.units if isinstance(fact, OrderAllocated) else newly_left(fact, before)


def newly_left(fact: StockFact, before: list[StockFact]) -> int:
    """By how many units more have left (negative: fewer) with this fact than with those before it."""
    echo = echo_named_by(fact)
    if echo is None:
        return -on_hand_delta(fact)
    same = by_echo(before).get((fact.location, echo), [])
    return left_by([*same, fact]) - left_by(same)


@dataclass
class Cell:
    """What an order line binds at one location, and what has been taken out of that."""

    left: int
    taken: int = 0
    channel: str | None = None


def order_lines(facts: list[StockFact]) -> dict[str, dict[str, Cell]]:
    """Every order line of one SKU with its cells by location, after all facts that name it."""
    mentions: dict[str, list[StockFact]] = defaultdict(list)
    for fact in facts:
        if rank_in_order_line(fact) is not None:
            assert isinstance(fact, Physical | OrderAllocated | OrderDeallocated | TransferShipped | TransferReceived)
            if fact.order_line is not None:
                mentions[fact.order_line].append(fact)
    return {order_line: fold_order_line(naming) for order_line, naming in mentions.items()}


def rank_in_order_line(fact: StockFact) -> int | None:
    """A fact's turn among those of one moment: statement 0, take 1, restore 2; None: it has no part."""
    if isinstance(fact, OrderAllocated):
        return 0
    if isinstance(fact, OrderDeallocated | TransferReceived) or on_hand_delta(fact) < 0:
        return 1
    if isinstance(fact, WmsShipmentVoided) or (isinstance(fact, PosVoid) and fact.voided_type == "pos.sale"):
        return 2
    return None


def fold_order_line(mentions: list[StockFact]) -> dict[str, Cell]:
    """The cells of one order line, from its facts in order of time."""

    def place(fact: StockFact) -> tuple[datetime, int, str, str]:
        rank = rank_in_order_line(fact)
        assert rank is not None
        return effective_at(fact), rank, fact.source, fact.id

    cells: dict[str, Cell] = {}
    in_order = sorted(mentions, key=place)
    for turn, fact in enumerate(in_order):
        if isinstance(fact, OrderAllocated):
            cells[fact.location] = Cell(left=fact.units, channel=fact.channel)
            continue
        if isinstance(fact, TransferReceived):  # what arrives for an order line is bound on arrival
            cells.setdefault(fact.location, Cell(left=0)).left += fact.units
            continue
        own_first = sorted(cells, key=lambda location: (location != fact.location, location))
        left = fact.units if isinstance(fact, OrderDeallocated) else newly_left(fact, in_order[:turn])
        open_units = abs(left)
        for location in own_first:
            cell = cells[location]
            if left < 0:
                moved = min(open_units, cell.taken)
                cell.left += moved
                cell.taken -= moved
            else:
                moved = min(open_units, cell.left)
                cell.left -= moved
                if not isinstance(fact, OrderDeallocated):
                    cell.taken += moved
            open_units -= moved
    return cells


# What the settings say


@dataclass
class InForce:
    """The last word on every policy and location."""

    policies: dict[str, PolicySet] = field(default_factory=dict)
    locations: dict[str, LocationSet] = field(default_factory=dict)
    alive: dict[tuple[str, str], datetime] = field(default_factory=dict)  # until when, by location and feed


def settings_in_force(settings: Iterable[Setting]) -> InForce:
    """Policies, locations and heartbeats after the whole settings log."""
    in_force = InForce()
    for setting in settings:
        if isinstance(setting, PolicySet):
            in_force.policies[setting.policy] = setting
        elif isinstance(setting, PolicyRemoved):
            in_force.policies.pop(setting.policy, None)
        elif isinstance(setting, SourceAlive):
            in_force.alive[setting.location, setting.feed] = setting.until
        elif isinstance(setting, LocationSet):
            in_force.locations[setting.location] = setting
        elif isinstance(setting, Removed):
            kind, _, name = setting.key.partition(":")
            if kind == "policy":
                in_force.policies.pop(name, None)
            elif kind == "location":
                in_force.locations.pop(name, None)
            elif kind == "alive":
                place, _, feed = name.rpartition(":")
                in_force.alive.pop((place, feed), None)
    return in_force


def set_fields(struct: Struct) -> set[str]:
    """The names of the fields that say something."""
    return {name for name in struct.__struct_fields__ if getattr(struct, name) is not None}


def deciding_policy(value: str, here: Mapping[str, str], in_force: InForce, now: datetime) -> PolicySet | None:
    """The policy that supplies one value for one mode of one balance, or None where no valid one sets it.

    Args:
        value: the name of the value.
        here: what scopes may name, by field; a policy that names another field, such as a channel, does not apply.
    """

    def applies(policy: PolicySet) -> bool:
        return (
            getattr(policy.values, value) is not None
            and all(getattr(policy.scope, name) == here.get(name) for name in set_fields(policy.scope))
            and (policy.valid_from is None or policy.valid_from <= now)
            and (policy.valid_until is None or now < policy.valid_until)
        )

    def strongest_first(policy: PolicySet) -> tuple[Any, ...]:
        scope = set_fields(policy.scope)
        field_is_missing = tuple(name not in scope for name in SCOPE_FIELDS)
        ends = (policy.valid_until is None, policy.valid_until or now)
        return -len(scope), field_is_missing, ends, policy.policy

    return min(filter(applies, in_force.policies.values()), key=strongest_first, default=None)


# What is published


@dataclass(frozen=True)
class ModeAnswer:
    """One mode's part of the record."""

    statuses: frozenset[str]
    reason: str | None
    available: int | None
    withheld: int
    safety_stock: int
    policy: str | None


@dataclass(frozen=True)
class Place:
    """Everything about one balance that its record is made from, apart from the mode."""

    sku: str
    location: str
    item: ItemSet | Delisted | None
    physical: int
    committed: int
    baseline: bool
    in_force: InForce
    now: datetime
    channel: str | None = None

    @property
    def raw(self) -> int:
        """What is there and promised to nobody; negative if more is promised than there is."""
        return self.physical - self.committed

    def policy_for(self, value: str, mode: str | None) -> PolicySet | None:
        """The policy that supplies a value; without a mode, only policies that name none, nor a channel, count."""
        here = {"sku": self.sku, "location": self.location, "location_kind": "store"}
        if mode is not None:
            here["mode"] = mode
            if self.channel is not None:
                here["channel"] = self.channel
        if isinstance(self.item, ItemSet):
            here |= {"brand": self.item.brand, "category": self.item.category}
        described = self.in_force.locations.get(self.location)
        if described is not None:
            here["location_kind"] = described.kind
            if described.region is not None:
                here["region"] = described.region
        return deciding_policy(value, here, self.in_force, self.now)

    def resolved(self, value: str, mode: str | None) -> Any:
        """What holds of one value, or None."""
        policy = self.policy_for(value, mode)
        return None if policy is None else getattr(policy.values, value)

    def why_off(self, mode: str) -> str | None:
        """Why a mode does not sell at all, or None if it does."""
        described = self.in_force.locations.get(self.location)
        if described is not None and not (described.ship_enabled if mode == "ship" else described.pickup_enabled):
            return "location_off"
        return "excluded" if self.resolved("enabled", mode) is False else None

    def is_stale(self) -> bool:
        """Whether a feed of the location has not been heard as long as it promised."""
        return any(at == self.location and until <= self.now for (at, _), until in self.in_force.alive.items())

    def backorder_left(self) -> int:
        """How much may still be sold without stock, in both modes together."""
        if self.why_off("ship") and self.why_off("pickup"):
            return 0
        return max(0, (self.resolved("backorder_limit", None) or 0) - max(0, -self.raw))


def mode_answer(mode: str, place: Place) -> ModeAnswer:
    """What one mode may sell, and what its status may be: the first row of the status table that fits."""

    def value(name: str) -> int:
        found = place.resolved(name, mode)
        return 0 if found is None else found

    safety_stock_policy = place.policy_for("safety_stock", mode)
    policy = None if safety_stock_policy is None else safety_stock_policy.policy
    percent = math.ceil(Fraction(max(0, place.physical) * value("safety_percent"), 100))
    ss = max(value("safety_stock"), percent) + value("buffer")
    stale = place.is_stale()
    if stale:
        ss += value("stale_buffer")

    def answer(statuses: set[str], reason: str | None, available: int | None, withheld: int) -> ModeAnswer:
        return ModeAnswer(frozenset(statuses), reason, available, withheld, ss, policy)

    off = place.why_off(mode)
    if off is not None:
        return answer({"OUT_OF_STOCK"}, off, 0, 0)
    available = max(0, place.raw - ss)
    withheld = min(max(place.raw, 0), ss)
    backorder = place.backorder_left() > 0
    lifecycle = lifecycle_of(place.item)
    if lifecycle == "preorder":
        return answer({"PREORDERABLE" if backorder else "OUT_OF_STOCK"}, None, 0, withheld)
    if not place.baseline:
        return answer({"UNKNOWN"}, "no_baseline", None, 0)
    if stale and place.resolved("stale_buffer", mode) is None:
        return answer({"UNKNOWN"}, "stale_source", None, 0)
    if available > 0:
        enter = place.resolved("low_stock_enter", mode)
        enter = LOW_STOCK_ENTER_UNSET if enter is None else enter
        exit_ = max(value("low_stock_exit"), enter + 1)
        return answer(shelf_statuses(available, enter, exit_), None, available, withheld)
    if lifecycle == "discontinued":
        return answer({"DISCONTINUED"}, None, 0, withheld)
    if backorder:
        return answer({"BACKORDERABLE"}, None, 0, withheld)
    return answer({"OUT_OF_STOCK"}, "withheld_by_safety_stock" if place.raw > 0 else "sold_out", 0, withheld)


def shelf_statuses(available: int, enter: int, exit_: int) -> set[str]:
    """The legal statuses of something that can be sold; between the thresholds the path decides."""
    if available <= enter:
        return {"LOW_STOCK"}
    if available < exit_:
        return {"LOW_STOCK", "IN_STOCK"}
    return {"IN_STOCK"}


def record(
    sku: str,
    location: str,
    facts_here: list[StockFact],
    committed: int,
    coming: Coming,
    returned: list[Returned],
    in_force: InForce,
    now: datetime,
    item: ItemSet | Delisted | None = None,
    allocated_before: Callable[[datetime], int] = lambda _: 0,
    channel: str | None = None,
) -> Expected:
    """The record of one balance, from its own facts, what is committed there, and what comes or came back to it."""
    units_on_hand = on_hand(facts_here, returned, allocated_before)
    units_unavailable = unavailable(facts_here, returned)
    physical = units_on_hand - units_unavailable
    place = Place(sku, location, item, physical, committed, has_baseline(facts_here), in_force, now, channel)
    ship = mode_answer("ship", place)
    pickup = mode_answer("pickup", place)

    together = set()
    reasons = set()
    for status_ship in ship.statuses:
        for status_pickup in pickup.statuses:
            ship_is_better = BEST_FIRST.index(status_ship) <= BEST_FIRST.index(status_pickup)
            better, status = (ship, status_ship) if ship_is_better else (pickup, status_pickup)
            together.add(Decided(status_ship, status_pickup, status, better.policy))
            reasons.add(better.reason)
    (reason,) = reasons  # Where the path decides, units can be sold, and that has no reason.

    return Expected(
        sku=sku,
        location=location,
        status=frozenset(decided.status for decided in together),
        reason=reason,
        status_ship=ship.statuses,
        status_pickup=pickup.statuses,
        available_to_ship=ship.available,
        available_in_store=pickup.available,
        on_hand=units_on_hand,
        unavailable=units_unavailable,
        committed=committed,
        in_transit=coming.in_transit,
        inbound=coming.inbound,
        next_inbound_at=min((eta for eta in coming.etas if eta > now), default=None),
        safety_stock_ship=ship.safety_stock,
        safety_stock_pickup=pickup.safety_stock,
        withheld_ship=ship.withheld,
        withheld_pickup=pickup.withheld,
        shortage=max(0, -place.raw),
        backorder_left=place.backorder_left(),
        policy=frozenset(decided.policy for decided in together),
        together=frozenset(together),
        sources=sources(facts_here),
        dated=tuple(sorted((eta, units) for eta, units in coming.dated if eta > now)),
        overdue=sum(units for eta, units in coming.transfers_dated if eta <= now),
        backorder_limit=place.resolved("backorder_limit", None) or 0,
        reorder_point=place.resolved("reorder_point", None),
    )


def sources(facts_here: list[StockFact]) -> Sources:
    """The newest `occurred_at` that each kind of source has told about one balance."""

    def newest(topic: Topic) -> datetime | None:
        return max((fact.occurred_at for fact in facts_here if topic_of(fact) is topic), default=None)

    return Sources(pos=newest(POS_SALES), wms=newest(WMS_MOVEMENTS), orders=newest(ORDER_RESERVATIONS))


# What differs

_FIELDS_OF_SETS = ("status", "status_ship", "status_pickup", "policy")
_FIELDS_NOT_COMPARED = ("together", "sources", "dated", "overdue", "backorder_limit", "reorder_point")


def disagreements(expected: Mapping[Key, Expected], actual: Mapping[Key, Mapping[str, Any] | None]) -> list[str]:
    """Readable differences between what must be published and what is, by key; empty when all is well.

    Args:
        expected: as returned by `expected`.
        actual: published records as plain mappings, keyed by (sku, location); None stands for a null value.
    """
    found = []
    for key in sorted(expected.keys() | actual.keys()):
        name = "|".join(key)
        if key not in expected:
            if actual[key] is None:
                continue  # delisted, and nothing else should be told of it
            found.append(f"{name}: is published, but no fact speaks of it")
        elif key not in actual:
            found.append(f"{name}: is not published")
        else:
            published = actual[key]
            if published is None:
                found.append(f"{name}: is published as delisted")
            else:
                found += [f"{name}: {text}" for text in record_differences(expected[key], published)]
    return found


def record_differences(wanted: Expected, published: Mapping[str, Any]) -> list[str]:
    """What is wrong with one published record, field by field."""
    found = []
    for name in (one.name for one in fields(Expected) if one.name not in _FIELDS_NOT_COMPARED):
        want = as_published(getattr(wanted, name))
        if name not in published:
            found.append(f"{name} is missing, expected {shown(want)}")
            continue
        have = published[name]
        legal = want if name in _FIELDS_OF_SETS else {want}
        # A true or a 1.0 on the wire equals 1 in Python, and is wrong all the same.
        if not any(type(have) is type(one) and have == one for one in legal):
            found.append(f"{name} is {have!r}, expected {shown(want)}")
    if not found:
        decided = Decided(*(published[name] for name in Decided._fields))
        if decided not in wanted.together:
            legal_text = " or ".join(shown_together(one) for one in sorted(wanted.together, key=repr))
            found.append(f"{shown_together(decided)} do not go together, expected {legal_text}")
    return found


def as_published(want: Any) -> Any:
    """A value as JSON has it: a time is text, in UTC."""
    return msgspec.to_builtins(want.astimezone(timezone.utc)) if isinstance(want, datetime) else want


def shown(want: object) -> str:
    """An expected value as text; a set as its legal values."""
    return " or ".join(sorted(map(repr, want))) if isinstance(want, frozenset) else repr(want)


def shown_together(decided: Decided) -> str:
    """Fields that depend on each other as text."""
    return ", ".join(f"{name} {value!r}" for name, value in decided._asdict().items())
