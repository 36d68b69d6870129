"""The oracle against tables worked out by hand, and the histories against what they promise to contain."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from itertools import count, pairwise
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import VOLATILE_FIELDS, Availability, Sources
from schemas.topics import POS_SALES, WMS_MOVEMENTS, partition_of
from stock.events import (
    InboundCancelled,
    InboundExpected,
    ItemSet,
    LocationSet,
    OrderAllocated,
    OrderDeallocated,
    OrderFulfilled,
    OrderMessage,
    PolicyRemoved,
    PolicySet,
    PolicyValues,
    PosMessage,
    PosReturn,
    PosSale,
    PosVoid,
    ReservationCreated,
    ReservationReleased,
    ReservationRenewed,
    ReservationRequested,
    Scope,
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
from tests.oracle import (
    Decided,
    Delisted,
    Expected,
    Fact,
    Removed,
    disagreements,
    expected,
    first_tellings,
    lifecycle_of,
    newest_items,
    topic_of,
)
from tests.strategies import (
    DrawnChoice,
    Entry,
    History,
    SeededChoice,
    Storyteller,
    World,
    histories,
    random_history,
    skus_of_partition,
    to_wire,
)

START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
T = TypeVar("T")
_ids = count(1)


def at(seconds: float) -> datetime:
    """So many seconds into the story."""
    return START + timedelta(seconds=seconds)


def said(kind: type[T], seconds: float, **own: Any) -> T:
    """A fact about SKU at A with a new id, unless something else is given."""
    common = {"id": f"id-{next(_ids):06d}", "source": "someone", "sku": "SKU", "location": "A"}
    return kind(**{**common, "occurred_at": at(seconds), **own})


def sale(seconds: float, units: int, **own: Any) -> PosSale:
    """A sale."""
    return said(PosSale, seconds, units=units, **own)


def void(of: PosSale | PosReturn, seconds: float, **own: Any) -> PosVoid:
    """A void said at a time, of a fact that need not have been told."""
    kind = "pos.sale" if isinstance(of, PosSale) else "pos.return"
    copied = {"units": of.units, "state": of.state, "voids": of.id, "voided_at": of.occurred_at}
    named = {"reservation": of.reservation, "line": of.line, "order_line": of.order_line}
    return said(PosVoid, seconds, **{**copied, **named, "voided_type": kind, "location": of.location, **own})


def back(seconds: float, units: int, state: str = "sellable", **own: Any) -> PosReturn:
    """A return."""
    return said(PosReturn, seconds, units=units, state=state, **own)


def receipt(seconds: float, units: int, **own: Any) -> WmsReceipt:
    """A receipt."""
    return said(WmsReceipt, seconds, units=units, **own)


def shipment(seconds: float, units: int, **own: Any) -> WmsShipment:
    """A shipment."""
    return said(WmsShipment, seconds, units=units, **own)


def shipment_voided(seconds: float, units: int, **own: Any) -> WmsShipmentVoided:
    """A shipment that did not leave."""
    return said(WmsShipmentVoided, seconds, units=units, **own)


def adjustment(seconds: float, units: int, **own: Any) -> WmsAdjustment:
    """A correction."""
    return said(WmsAdjustment, seconds, units=units, reason="why", **own)


def counted(seconds: float, units: int, **own: Any) -> WmsCount:
    """A stock-take."""
    return said(WmsCount, seconds, units=units, **own)


def moved(seconds: float, units: int, from_state: str, to_state: str) -> WmsStatusChanged:
    """Units that changed their state."""
    return said(WmsStatusChanged, seconds, units=units, from_state=from_state, to_state=to_state)


def hold(seconds: float, units: int, expires: float | None = None, **own: Any) -> ReservationCreated:
    """A hold R for shipping."""
    expires_at = None if expires is None else at(expires)
    return said(
        ReservationCreated,
        seconds,
        units=units,
        **{"reservation": "R", "mode": "ship", "expires_at": expires_at, **own},
    )


def renewed(seconds: float, expires: float, **own: Any) -> ReservationRenewed:
    """A renewal of R."""
    return said(ReservationRenewed, seconds, reservation="R", expires_at=at(expires), **own)


def released(seconds: float, units: int | None = None, **own: Any) -> ReservationReleased:
    """A release of R."""
    return said(ReservationReleased, seconds, **{"reservation": "R", "units": units, **own})


def allocated(seconds: float, units: int, **own: Any) -> OrderAllocated:
    """An allocation to the order line L."""
    return said(OrderAllocated, seconds, units=units, **{"order_line": "L", **own})


def deallocated(seconds: float, units: int, **own: Any) -> OrderDeallocated:
    """Units that L gives back."""
    return said(OrderDeallocated, seconds, units=units, order_line="L", **own)


def fulfilled(seconds: float, units: int, **own: Any) -> OrderFulfilled:
    """Units of L that left."""
    return said(OrderFulfilled, seconds, units=units, order_line="L", **own)


def shipped(seconds: float, units: int, **own: Any) -> WmsShipment:
    """Units of L that left, as the warehouse tells it."""
    return shipment(seconds, units, order_line="L", **own)


def unshipped(seconds: float, units: int, **own: Any) -> WmsShipmentVoided:
    """Units of L that did not leave after all."""
    return shipment_voided(seconds, units, order_line="L", **own)


def policy(name: str, scope: dict[str, Any] | None = None, **own: Any) -> PolicySet:
    """A policy; validity goes to the policy, everything else to its values."""
    dates = {key: own.pop(key) for key in ("valid_from", "valid_until") if key in own}
    return PolicySet(
        id=f"id-{next(_ids)}",
        source="planning",
        occurred_at=START,
        policy=name,
        scope=Scope(**(scope or {})),
        values=PolicyValues(**own),
        **dates,
    )


def removed(name: str) -> PolicyRemoved:
    """The end of a policy."""
    return PolicyRemoved(id=f"id-{next(_ids)}", source="planning", occurred_at=START, policy=name)


def location(name: str, *, ship: bool, pickup: bool) -> LocationSet:
    """A described store."""
    return LocationSet(
        id=f"id-{next(_ids)}",
        source="master",
        occurred_at=START,
        location=name,
        kind="store",
        ship_enabled=ship,
        pickup_enabled=pickup,
    )


def records(entries: Sequence[Entry], now: float = 1000) -> dict[tuple[str, str], Expected]:
    """What the oracle says after these messages, in this order of arrival."""
    facts = [Fact(topic_of(one).name, order, one) for order, one in enumerate(entries) if isinstance(one, StockFact)]
    return expected(facts, [one for one in entries if not isinstance(one, StockFact)], at(now))


def at_a(entries: Sequence[Entry], now: float = 1000) -> Expected:
    """The record of SKU at A after these messages."""
    return records(entries, now)["SKU", "A"]


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


SALE_5 = sale(10, 5)
RETURN_3 = back(10, 3)

ON_HAND = [
    case("nothing but sales goes below zero", [sale(1, 2), sale(2, 1)], -3),
    case("receipts add", [receipt(1, 7), receipt(2, 1)], 8),
    case("sales, shipments and fulfilments take", [receipt(1, 9), sale(2, 1), shipment(3, 2), fulfilled(4, 3)], 3),
    case("returns and voided shipments add", [receipt(1, 1), back(2, 2), shipment_voided(3, 4)], 7),
    case("adjustments are signed", [receipt(1, 5), adjustment(2, -3), adjustment(3, 1)], 3),
    case("a voided sale comes back", [receipt(1, 9), SALE_5, void(SALE_5, 20)], 9),
    case("a voided return goes", [receipt(1, 9), RETURN_3, void(RETURN_3, 20)], 9),
    case("a void of an unknown sale adds", [receipt(1, 1), void(SALE_5, 20)], 6),
    case("a void of an unknown return takes", [receipt(1, 1), void(RETURN_3, 20)], -2),
    case("what only binds moves nothing", [receipt(1, 5), hold(2, 1), allocated(3, 2), deallocated(4, 1)], 5),
    case("what only changes state moves nothing", [receipt(1, 5), moved(2, 3, "sellable", "damaged")], 5),
    case("a count replaces what was before", [receipt(1, 5), counted(2, 3)], 3),
    case("a count of nothing is zero", [receipt(1, 5), counted(2, 0)], 0),
    case("later movements count on top", [counted(2, 3), sale(3, 1)], 2),
    case("an equal time counts as later", [counted(2, 3), sale(2, 1)], 2),
    case("an equal time counts as later, told before", [sale(2, 1), counted(2, 3)], 2),
    case("a late earlier movement is absorbed", [counted(2, 3), sale(1, 1), receipt(1, 9)], 3),
    case("a movement told before an earlier count counts on top", [sale(9, 1), counted(2, 3)], 2),
    case("the newest count wins, told first", [counted(5, 3), counted(2, 8)], 3),
    case("the newest count wins, told last", [counted(2, 8), counted(5, 3)], 3),
    case("between counts nothing counts", [counted(2, 8), sale(3, 1), counted(5, 3)], 3),
    case("equal count times: the greater source wins", [counted(2, 8, source="b"), counted(2, 3, source="a")], 8),
    case("equal count times and sources: the greater id wins", [counted(2, 8, id="9"), counted(2, 3, id="10")], 8),
    case("source comes before id", [counted(2, 8, source="b", id="1"), counted(2, 3, source="a", id="2")], 8),
    case("a void of an absorbed sale is absorbed", [counted(15, 3), SALE_5, void(SALE_5, 20)], 3),
    case("a void of a later sale counts", [counted(10, 3), SALE_5, void(SALE_5, 20)], 3),
    case("a void alone counts by the voided time", [counted(10, 3), void(SALE_5, 20)], 8),
    case("a void of an absorbed unknown return is absorbed", [counted(11, 3), void(RETURN_3, 20)], 3),
    case("a sale of more than its hold counts in full", [receipt(1, 9), hold(2, 2), sale(3, 3, reservation="R")], 6),
    case("another location does not matter", [receipt(1, 9), counted(9, 1, location="B"), sale(8, 1)], 8),
    case("another SKU does not matter", [receipt(1, 9), counted(9, 1, sku="OTHER"), sale(8, 1)], 8),
]


@pytest.mark.parametrize(("entries", "on_hand"), ON_HAND)
def test_on_hand_is_the_newest_count_and_what_came_after(entries: list[Entry], on_hand: int) -> None:
    """Movements add up on top of the newest count, whatever the order of arrival."""
    assert at_a(entries).on_hand == on_hand
    assert at_a(entries[::-1]).on_hand == on_hand


UNAVAILABLE = [
    case("sellable units are available", [receipt(1, 5)], 5, 0),
    case("a damaged return lies there", [back(1, 2, "damaged")], 2, 2),
    case("all three states count", [back(1, 1, "damaged"), back(2, 2, "quality_hold"), back(3, 4, "display")], 7, 7),
    case("writing off damaged units", [back(1, 3, "damaged"), adjustment(2, -3, state="damaged")], 0, 0),
    case("selling from display", [receipt(1, 3, state="display"), sale(2, 1, state="display")], 2, 2),
    case("a fulfilment from quality hold", [receipt(1, 3), fulfilled(2, 1, state="quality_hold")], 2, 0),
    case("moved out of sale", [receipt(1, 5), moved(2, 3, "sellable", "damaged")], 5, 3),
    case("moved back into sale", [moved(1, 3, "sellable", "damaged"), moved(2, 1, "damaged", "sellable")], 0, 2),
    case("moved between states", [moved(1, 3, "sellable", "damaged"), moved(2, 1, "damaged", "display")], 0, 3),
    case("below zero hides nothing", [moved(1, 3, "damaged", "sellable"), moved(2, 2, "sellable", "display")], 0, 2),
    case("below zero is remembered", [moved(1, 3, "damaged", "sellable"), moved(2, 5, "sellable", "damaged")], 0, 2),
    case("a count leaves states alone", [back(1, 2, "damaged"), counted(5, 9)], 9, 2),
    case("an absorbed movement still moves its state", [counted(5, 9), back(1, 2, "damaged")], 9, 2),
    case("voiding a damaged return", [back(1, 2, "damaged"), void(back(1, 2, "damaged"), 3)], 0, 0),
    case("voiding a sale from display", [void(sale(1, 2, state="display"), 3)], 2, 2),
]


@pytest.mark.parametrize(("entries", "on_hand", "unavailable"), UNAVAILABLE)
def test_states_are_counters_inside_on_hand(entries: list[Entry], on_hand: int, unavailable: int) -> None:
    """A physical fact moves the counter of its state with on_hand, and no count touches a counter."""
    record = at_a(entries)
    assert (record.on_hand, record.unavailable) == (on_hand, unavailable)


SALE_OF_R = sale(5, 2, reservation="R")

HOLDS = [
    case("a hold binds", [hold(1, 3)], 3),
    case("two lines are two holds", [hold(1, 3), hold(1, 2, line="1")], 5),
    case("a newer statement replaces", [hold(1, 3), hold(2, 5)], 5),
    case("an older statement told late is ignored", [hold(2, 5), hold(1, 3)], 5),
    case("equal times: the greater id wins", [hold(1, 3, id="b"), hold(1, 4, id="a")], 3),
    case("a newer statement elsewhere moves it", [hold(1, 3), hold(2, 5, location="B")], 0),
    case("an older statement elsewhere does not", [hold(2, 3), hold(1, 5, location="B")], 3),
    case("released in whole", [hold(1, 3), released(2)], 0),
    case("released in part", [hold(1, 3), released(2, 1)], 2),
    case("released more than there is", [hold(1, 3), released(2, 9)], 0),
    case("a release before the statement is without effect", [released(1), hold(2, 3)], 3),
    case("a release at the same time works", [released(1, id="0", source="0"), hold(1, 3)], 0),
    case("a release of another line is without effect", [hold(1, 3), released(2, line="1")], 3),
    case("a release of another SKU is without effect", [hold(1, 3), released(2, sku="OTHER")], 3),
    case("a restatement forgets what was taken before", [hold(1, 3), released(2, 1), hold(3, 3)], 3),
    case("a sale takes", [hold(1, 3), sale(2, 2, reservation="R")], 1),
    case("a sale naming nothing does not", [hold(1, 3), sale(2, 2)], 3),
    case("a sale takes from its line", [hold(1, 1), hold(1, 2, line="1"), sale(2, 2, reservation="R", line="1")], 1),
    case("a sale elsewhere takes too", [hold(1, 3), sale(2, 2, reservation="R", location="B")], 1),
    case("hold 2, sale 3 leaves nothing", [hold(1, 2), sale(2, 3, reservation="R")], 0),
    case("a shipment takes", [hold(1, 3), shipment(2, 2, reservation="R")], 1),
    case("a fulfilment takes", [hold(1, 3), fulfilled(2, 2, reservation="R")], 1),
    case("a negative adjustment takes", [hold(1, 3), adjustment(2, -2, reservation="R")], 1),
    case("a positive adjustment does not", [hold(1, 3), adjustment(2, 2, reservation="R")], 3),
    case("a return does not", [hold(1, 3), back(2, 2, reservation="R")], 3),
    case("voiding a sale restores no hold", [hold(1, 3), SALE_OF_R, void(SALE_OF_R, 6)], 1),
    case("voiding a return takes", [hold(1, 3), void(back(5, 2, reservation="R"), 6)], 1),
    case("voiding a return from before the statement does not", [hold(5, 3), void(back(1, 2, reservation="R"), 6)], 3),
    case("an allocation takes over", [hold(1, 3), allocated(2, 2, reservation="R")], 3),
    case("an allocation of more takes all", [hold(1, 1), allocated(2, 3, reservation="R")], 3),
    case("a count does not touch it", [hold(1, 3), counted(9, 1)], 3),
    case("without an end it stays", [hold(1, 3)], 3),
    case("open until its end", [hold(1, 3, expires=1000.000001)], 3),
    case("over at its end", [hold(1, 3, expires=1000)], 0),
    case("renewed in time", [hold(1, 3, expires=10), renewed(9, 2000)], 3),
    case("renewed at its end is too late", [hold(1, 3, expires=10), renewed(10, 2000)], 0),
    case("renewed twice", [hold(1, 3, expires=10), renewed(9, 20), renewed(19, 2000)], 3),
    case("renewed twice, the first too late", [hold(1, 3, expires=10), renewed(11, 20), renewed(19, 2000)], 0),
    case("a renewal may shorten", [hold(1, 3, expires=2000), renewed(9, 20)], 0),
    case("a renewal gives an end to an endless hold", [hold(1, 3), renewed(9, 20)], 0),
    case("a renewal before the statement is without effect", [hold(5, 3, expires=10), renewed(4, 2000)], 0),
    case("a renewal restores no units", [hold(1, 3, expires=10), released(2, 2), renewed(9, 2000)], 1),
    case("a restatement takes its own end", [hold(1, 3, expires=2000), hold(2, 4, expires=10)], 0),
    case("a restatement reopens what had ended", [hold(1, 3, expires=10), hold(20, 4, expires=2000)], 4),
]


@pytest.mark.parametrize(("entries", "committed"), HOLDS)
def test_a_hold_is_the_fold_of_what_names_it(entries: list[Entry], committed: int) -> None:
    """What a hold binds follows from its facts in order of time, not of arrival."""
    entries = [*entries, receipt(0, 1)]
    assert at_a(entries).committed == committed
    assert at_a(entries[::-1]).committed == committed


SALE_OF_L = sale(5, 2, order_line="L")
A3, B4 = allocated(1, 3), allocated(1, 4, location="B")

ORDER_LINES = [
    case("an allocation binds", [A3], 3, 0),
    case("a newer statement replaces", [A3, allocated(2, 1)], 1, 0),
    case("an older statement told late is ignored", [allocated(2, 1), A3], 1, 0),
    case("another location is another cell", [A3, allocated(2, 4, location="B")], 3, 4),
    case("deallocated", [A3, deallocated(2, 1)], 2, 0),
    case("deallocated more than there is", [A3, deallocated(2, 9)], 0, 0),
    case("deallocated before the statement", [deallocated(1, 1), allocated(2, 3)], 3, 0),
    case("deallocated at the same time", [deallocated(1, 1, id="0"), A3], 2, 0),
    case("fulfilled", [A3, fulfilled(2, 2)], 1, 0),
    case("sold", [A3, SALE_OF_L], 1, 0),
    case("shipped", [A3, shipment(2, 2, order_line="L")], 1, 0),
    case("adjusted down", [A3, adjustment(2, -2, order_line="L")], 1, 0),
    case("adjusted up", [A3, adjustment(2, 2, order_line="L")], 3, 0),
    case("a return gives nothing back", [A3, fulfilled(2, 2), back(3, 2, order_line="L")], 1, 0),
    case("own location first", [A3, B4, fulfilled(2, 3, location="B")], 3, 1),
    case("then the others", [A3, B4, fulfilled(2, 5, location="B")], 2, 0),
    case("a stranger takes by location id", [A3, B4, fulfilled(2, 4, location="C")], 0, 3),
    case("allocated in another order", [allocated(0, 4, location="B"), A3, fulfilled(2, 4, location="C")], 0, 3),
    case(
        "a stranger gives back by location id",
        [A3, B4, shipped(2, 7), deallocated(2, 1), unshipped(3, 4, location="C")],
        3,
        1,
    ),
    case("own location is restored first", [A3, B4, shipped(2, 7), unshipped(3, 5, location="B")], 1, 4),
    case("a voided shipment restores", [A3, shipped(2, 2), unshipped(3, 1)], 2, 0),
    case("at most what was taken", [A3, shipped(2, 2), unshipped(3, 9)], 3, 0),
    case("what was deallocated is not restored", [A3, deallocated(2, 2), unshipped(3, 2)], 1, 0),
    case("nothing is restored before it is taken", [A3, unshipped(2, 2), shipped(3, 2)], 1, 0),
    case("told by two systems", [A3, shipped(2, 2), fulfilled(3, 2)], 1, 0),
    case("told by two systems, more by one", [A3, shipped(2, 1), fulfilled(3, 2)], 1, 0),
    case("told by three systems", [A3, shipped(2, 2), fulfilled(3, 2), SALE_OF_L], 1, 0),
    case("told in parts by both", [A3, shipped(2, 1), fulfilled(3, 2), shipped(4, 1)], 1, 0),
    case("one took it back, the other did not", [A3, shipped(2, 2), fulfilled(3, 2), unshipped(4, 2)], 1, 0),
    case("both echo another name", [A3, shipped(2, 2, echo="E"), fulfilled(3, 2)], 0, 0),
    case("elsewhere it is no echo", [A3, B4, shipped(2, 2), fulfilled(3, 2, location="B")], 1, 2),
    case("restored twice", [A3, shipped(2, 3), unshipped(3, 1), unshipped(4, 1)], 2, 0),
    case("what came back cannot come back again", [A3, shipped(2, 2), unshipped(3, 2), unshipped(4, 2)], 3, 0),
    case("several takes are restored together", [A3, shipped(2, 2), shipped(3, 1), unshipped(4, 3)], 3, 0),
    case("restored and taken again", [A3, shipped(2, 3), unshipped(3, 2), shipped(4, 1)], 1, 0),
    case("a voided sale restores", [A3, SALE_OF_L, void(SALE_OF_L, 9)], 3, 0),
    case("a voided sale restores at the sale's own time", [A3, SALE_OF_L, void(SALE_OF_L, 9), fulfilled(6, 2)], 1, 0),
    case(
        "a void of a sale from before the statement",
        [allocated(7, 3), fulfilled(8, 1), SALE_OF_L, void(SALE_OF_L, 9)],
        2,
        0,
    ),
    case("a voided return takes", [A3, void(back(5, 2, order_line="L"), 9)], 1, 0),
    case("a restatement forgets what was taken", [A3, shipped(2, 3), allocated(3, 3), unshipped(4, 3)], 3, 0),
    case("a restatement here leaves the other cell", [A3, B4, fulfilled(2, 7), allocated(3, 1)], 1, 0),
    case("another order line is another matter", [A3, allocated(1, 2, order_line="M"), fulfilled(2, 3)], 2, 0),
    case("another SKU is another matter", [A3, fulfilled(2, 3, sku="OTHER")], 3, 0),
    case("holds and allocations add up", [A3, hold(1, 2), hold(1, 4, reservation="S", location="B")], 5, 4),
    case("one fact may consume both", [A3, hold(1, 3), fulfilled(2, 2, reservation="R")], 2, 0),
]


@pytest.mark.parametrize(("entries", "committed_at_a", "committed_at_b"), ORDER_LINES)
def test_an_order_line_is_the_fold_of_what_names_it(
    entries: list[Entry], committed_at_a: int, committed_at_b: int
) -> None:
    """What an order line binds, cell by cell, follows from its facts in order of time, not of arrival."""
    entries = [*entries, receipt(0, 1), receipt(0, 1, location="B")]
    for told in (entries, entries[::-1]):
        found = records(told)
        assert (found["SKU", "A"].committed, found["SKU", "B"].committed) == (committed_at_a, committed_at_b)


# raw, ss -> available, withheld, shortage
NUMBERS = [
    case("the worked example", 5 - 8, 2, 0, 0, 3),
    case("plenty", 10, 2, 8, 2, 0),
    case("no safety stock", 10, 0, 10, 0, 0),
    case("one above the safety stock", 3, 2, 1, 2, 0),
    case("just the safety stock", 2, 2, 0, 2, 0),
    case("less than the safety stock", 1, 2, 0, 1, 0),
    case("nothing", 0, 2, 0, 0, 0),
    case("one too few", -1, 0, 0, 0, 1),
]


@pytest.mark.parametrize(("raw", "ss", "available", "withheld", "shortage"), NUMBERS)
def test_the_formula_gives_the_numbers_of_the_table(
    raw: int, ss: int, available: int, withheld: int, shortage: int
) -> None:
    """Available, withheld and shortage follow from raw and the safety stock of each mode."""
    record = at_a([counted(1, 14), back(2, 1, "damaged"), hold(3, 14 - raw), policy("p", safety_stock=ss)])
    assert (record.on_hand, record.unavailable, record.committed) == (15, 1, 14 - raw)
    assert (record.available_to_ship, record.available_in_store) == (available, available)
    assert (record.withheld_ship, record.withheld_pickup) == (withheld, withheld)
    assert (record.safety_stock_ship, record.safety_stock_pickup) == (ss, ss)
    assert record.shortage == shortage


def test_every_field_of_the_worked_example_is_known() -> None:
    """Physical 5 of 6, committed 8 in a hold and an allocation, safety stock 2: nothing to sell, 3 short."""
    entries: list[Entry] = [
        counted(1, 6),
        moved(2, 1, "sellable", "damaged"),
        hold(3, 5),
        allocated(4, 3),
        policy("everywhere", safety_stock=2),
    ]
    assert records(entries) == {
        ("SKU", "A"): Expected(
            sku="SKU",
            location="A",
            status=frozenset({"OUT_OF_STOCK"}),
            reason="sold_out",
            status_ship=frozenset({"OUT_OF_STOCK"}),
            status_pickup=frozenset({"OUT_OF_STOCK"}),
            available_to_ship=0,
            available_in_store=0,
            on_hand=6,
            unavailable=1,
            committed=8,
            in_transit=0,
            inbound=0,
            next_inbound_at=None,
            safety_stock_ship=2,
            safety_stock_pickup=2,
            withheld_ship=0,
            withheld_pickup=0,
            shortage=3,
            backorder_left=0,
            policy=frozenset({"everywhere"}),
            together=frozenset({Decided("OUT_OF_STOCK", "OUT_OF_STOCK", "OUT_OF_STOCK", "everywhere")}),
            sources=Sources(pos=None, wms=at(2), orders=at(4)),
            dated=(),
            overdue=0,
            backorder_limit=0,
            reorder_point=None,
        )
    }


def test_expected_knows_every_field_that_is_compared() -> None:
    """A field added to the record cannot be forgotten here."""
    known = {one.name for one in fields(Expected)} - {
        "together",
        "sources",
        "dated",
        "overdue",
        "backorder_limit",
        "reorder_point",
    }
    assert known == set(Availability.__struct_fields__) - VOLATILE_FIELDS


SHIP_OFF = location("A", ship=False, pickup=True)
PICKUP_OFF = location("A", ship=True, pickup=False)
BOTH_OFF = location("A", ship=False, pickup=False)

# entries -> status and available of ship, of pickup; status and reason of the better
UNKNOWN, OUT = ("UNKNOWN", None), ("OUT_OF_STOCK", 0)
LOW_1, LOW_3, IN_4, IN_9 = ("LOW_STOCK", 1), ("LOW_STOCK", 3), ("IN_STOCK", 4), ("IN_STOCK", 9)

STATUSES = [
    case("no baseline", [back(1, 9)], UNKNOWN, UNKNOWN, "UNKNOWN", "no_baseline"),
    case("a receipt is a baseline", [receipt(1, 9)], IN_9, IN_9, "IN_STOCK", None),
    case("a count is one, even of nothing", [counted(1, 0)], OUT, OUT, "OUT_OF_STOCK", "sold_out"),
    case("an absorbed receipt is still one", [counted(5, 9), receipt(1, 1)], IN_9, IN_9, "IN_STOCK", None),
    case("low", [counted(1, 3)], LOW_3, LOW_3, "LOW_STOCK", None),
    case("not low", [counted(1, 4)], IN_4, IN_4, "IN_STOCK", None),
    case("sold out", [counted(1, 1), sale(2, 1)], OUT, OUT, "OUT_OF_STOCK", "sold_out"),
    case(
        "withheld", [counted(1, 1), policy("p", safety_stock=1)], OUT, OUT, "OUT_OF_STOCK", "withheld_by_safety_stock"
    ),
    case("ship off", [counted(1, 9), SHIP_OFF], OUT, IN_9, "IN_STOCK", None),
    case("pickup off", [counted(1, 3), PICKUP_OFF], LOW_3, OUT, "LOW_STOCK", None),
    case("both off", [counted(1, 9), BOTH_OFF], OUT, OUT, "OUT_OF_STOCK", "location_off"),
    case("off comes before unknown", [sale(1, 9), BOTH_OFF], OUT, OUT, "OUT_OF_STOCK", "location_off"),
    case("unknown is better than off", [sale(1, 9), SHIP_OFF], OUT, UNKNOWN, "UNKNOWN", "no_baseline"),
    case("excluded", [counted(1, 9), policy("p", enabled=False)], OUT, OUT, "OUT_OF_STOCK", "excluded"),
    case(
        "excluded for one mode",
        [counted(1, 9), policy("p", {"mode": "ship"}, enabled=False)],
        OUT,
        IN_9,
        "IN_STOCK",
        None,
    ),
    case(
        "excluded comes before unknown", [sale(1, 9), policy("p", enabled=False)], OUT, OUT, "OUT_OF_STOCK", "excluded"
    ),
    case(
        "location off comes before excluded",
        [counted(1, 9), BOTH_OFF, policy("p", enabled=False)],
        OUT,
        OUT,
        "OUT_OF_STOCK",
        "location_off",
    ),
    case(
        "equally bad: the reason is ship's",
        [counted(1, 9), SHIP_OFF, policy("p", enabled=False)],
        OUT,
        OUT,
        "OUT_OF_STOCK",
        "location_off",
    ),
    case(
        "equally bad: not pickup's",
        [counted(1, 9), PICKUP_OFF, policy("p", enabled=False)],
        OUT,
        OUT,
        "OUT_OF_STOCK",
        "excluded",
    ),
    case(
        "included again nearby",
        [counted(1, 9), policy("p", enabled=False), policy("q", {"location": "A"}, enabled=True)],
        IN_9,
        IN_9,
        "IN_STOCK",
        None,
    ),
    case(
        "the pickup mode may be better",
        [counted(1, 9), policy("p", {"mode": "ship"}, safety_stock=8)],
        LOW_1,
        IN_9,
        "IN_STOCK",
        None,
    ),
    case(
        "a location described anew",
        [counted(1, 9), BOTH_OFF, location("A", ship=True, pickup=True)],
        IN_9,
        IN_9,
        "IN_STOCK",
        None,
    ),
    case("a location removed", [counted(1, 9), BOTH_OFF, Removed("location:A")], IN_9, IN_9, "IN_STOCK", None),
    case(
        "another location's description",
        [counted(1, 9), location("B", ship=False, pickup=False)],
        IN_9,
        IN_9,
        "IN_STOCK",
        None,
    ),
]


@pytest.mark.parametrize(("entries", "ship", "pickup", "status", "reason"), STATUSES)
def test_the_first_row_of_the_status_table_that_fits_decides(
    entries: list[Entry],
    ship: tuple[str, int | None],
    pickup: tuple[str, int | None],
    status: str,
    reason: str | None,
) -> None:
    """Each mode has its status and number; the record's status and reason are those of the better mode."""
    record = at_a(entries)
    assert (record.status_ship, record.available_to_ship) == (frozenset({ship[0]}), ship[1])
    assert (record.status_pickup, record.available_in_store) == (frozenset({pickup[0]}), pickup[1])
    assert (record.status, record.reason) == (frozenset({status}), reason)


def test_unknown_changes_only_what_is_available_and_withheld() -> None:
    """Without a baseline the other numbers are still told."""
    record = at_a([back(1, 9), hold(2, 12), policy("p", safety_stock=2, buffer=1)])
    assert (record.on_hand, record.committed, record.shortage) == (9, 12, 3)
    assert (record.safety_stock_ship, record.withheld_ship, record.available_to_ship) == (3, 0, None)
    assert record.policy == {"p"}


def test_a_mode_that_is_off_still_tells_its_safety_stock() -> None:
    """Off means nothing available and nothing withheld; the safety stock is reported."""
    record = at_a([counted(1, 9), BOTH_OFF, policy("p", safety_stock=2)])
    assert (record.safety_stock_ship, record.withheld_ship, record.available_to_ship) == (2, 0, 0)
    assert (record.safety_stock_pickup, record.withheld_pickup, record.available_in_store) == (2, 0, 0)
    assert record.shortage == 0


# policies -> safety stock of ship, of pickup, deciding policy
SKU, A, SHIP, PICKUP = {"sku": "SKU"}, {"location": "A"}, {"mode": "ship"}, {"mode": "pickup"}

POLICIES = [
    case("none", [], 0, 0, None),
    case("everywhere", [policy("p", safety_stock=2)], 2, 2, "p"),
    case("one mode", [policy("p", PICKUP, safety_stock=2)], 0, 2, None),
    case("both modes apart", [policy("p", SHIP, safety_stock=1), policy("q", PICKUP, safety_stock=2)], 1, 2, "p"),
    case("another SKU", [policy("p", {"sku": "OTHER"}, safety_stock=2)], 0, 0, None),
    case("another location", [policy("p", {"location": "B"}, safety_stock=2)], 0, 0, None),
    case("more scope fields win", [policy("a", SKU, safety_stock=1), policy("z", A | SHIP, safety_stock=2)], 2, 1, "z"),
    case("sku before location", [policy("a", A, safety_stock=1), policy("z", SKU, safety_stock=2)], 2, 2, "z"),
    case("location before mode", [policy("a", SHIP, safety_stock=1), policy("z", A, safety_stock=2)], 2, 2, "z"),
    case(
        "sku and mode before location and mode",
        [policy("a", A | SHIP, safety_stock=1), policy("z", SKU | SHIP, safety_stock=2)],
        2,
        0,
        "z",
    ),
    case(
        "sku and location before sku and mode",
        [policy("a", SKU | SHIP, safety_stock=1), policy("z", SKU | A, safety_stock=2)],
        2,
        2,
        "z",
    ),
    case(
        "the earliest end", [policy("a", safety_stock=1), policy("z", safety_stock=2, valid_until=at(2000))], 2, 2, "z"
    ),
    case(
        "the earlier of two ends",
        [policy("a", safety_stock=1, valid_until=at(3000)), policy("z", safety_stock=2, valid_until=at(2000))],
        2,
        2,
        "z",
    ),
    case(
        "the end counts less than the scope",
        [policy("a", safety_stock=1, valid_until=at(2000)), policy("z", SHIP, safety_stock=2)],
        2,
        1,
        "z",
    ),
    case(
        "the end counts less than the field",
        [policy("a", A, safety_stock=1, valid_until=at(2000)), policy("z", SKU, safety_stock=2)],
        2,
        2,
        "z",
    ),
    case("the smallest id", [policy("b", safety_stock=2), policy("a", safety_stock=1)], 1, 1, "a"),
    case(
        "values are resolved one by one", [policy("p", SKU, buffer=1), policy("q", safety_stock=2, buffer=7)], 3, 3, "q"
    ),
    case("a buffer has no name", [policy("p", buffer=3)], 3, 3, None),
    case(
        "a safety stock of nothing is one", [policy("p", SKU, safety_stock=0), policy("q", safety_stock=2)], 0, 0, "p"
    ),
    case("over at its end", [policy("p", safety_stock=2, valid_until=at(1000))], 0, 0, None),
    case("valid up to its end", [policy("p", safety_stock=2, valid_until=at(1000.5))], 2, 2, "p"),
    case("valid from its start", [policy("p", safety_stock=2, valid_from=at(1000))], 2, 2, "p"),
    case("not before its start", [policy("p", safety_stock=2, valid_from=at(1000.5))], 0, 0, None),
    case("set anew", [policy("p", safety_stock=2, buffer=9), policy("p", safety_stock=1)], 1, 1, "p"),
    case("removed", [policy("p", safety_stock=2), removed("p")], 0, 0, None),
    case("removed by a null value", [policy("p", safety_stock=2), Removed("policy:p")], 0, 0, None),
    case(
        "another one removed",
        [policy("p", safety_stock=2), removed("q"), Removed("policy:q"), Removed("location:p")],
        2,
        2,
        "p",
    ),
    case("removed and set again", [policy("p", safety_stock=2), removed("p"), policy("p", safety_stock=1)], 1, 1, "p"),
    case("another category's", [policy("p", {"category": "bakery"}, safety_stock=2)], 0, 0, None),
    case("a channel's", [policy("p", {"channel": "web"}, safety_stock=2)], 0, 0, None),
    case("never described is a store", [policy("p", {"location_kind": "store"}, safety_stock=2)], 2, 2, "p"),
    case("a share is rounded up", [policy("p", safety_percent=1, buffer=1)], 2, 2, None),
    case("the larger of both", [policy("p", safety_percent=10, safety_stock=2)], 9, 9, "p"),
]


@pytest.mark.parametrize(("policies", "ship", "pickup", "decider"), POLICIES)
def test_policies_are_resolved_value_by_value(
    policies: list[Entry], ship: int, pickup: int, decider: str | None
) -> None:
    """The narrowest valid policy supplies a value; the one that gave the safety stock is named."""
    record = at_a([counted(1, 90), *policies])
    assert (record.safety_stock_ship, record.safety_stock_pickup) == (ship, pickup)
    assert (record.available_to_ship, record.available_in_store) == (90 - ship, 90 - pickup)
    assert record.policy == {decider}


LOW, IN = frozenset({"LOW_STOCK"}), frozenset({"IN_STOCK"})

BANDS = [
    case("at enter", 5, {"low_stock_enter": 5, "low_stock_exit": 8}, LOW),
    case("above enter", 6, {"low_stock_enter": 5, "low_stock_exit": 8}, LOW | IN),
    case("below exit", 7, {"low_stock_enter": 5, "low_stock_exit": 8}, LOW | IN),
    case("at exit", 8, {"low_stock_enter": 5, "low_stock_exit": 8}, IN),
    case("no exit, at enter", 5, {"low_stock_enter": 5}, LOW),
    case("no exit, above enter", 6, {"low_stock_enter": 5}, IN),
    case("an exit below enter counts as none", 6, {"low_stock_enter": 5, "low_stock_exit": 2}, IN),
    case("an exit below enter, at enter", 5, {"low_stock_enter": 5, "low_stock_exit": 2}, LOW),
    case("only an exit: enter is 3", 3, {"low_stock_exit": 6}, LOW),
    case("only an exit: the band begins at 4", 4, {"low_stock_exit": 6}, LOW | IN),
    case("enter at nothing", 1, {"low_stock_enter": 0}, IN),
]


@pytest.mark.parametrize(("units", "values", "statuses"), BANDS)
def test_between_the_thresholds_either_status_is_legal(
    units: int, values: dict[str, Any], statuses: frozenset[str]
) -> None:
    """Low at or under `enter`, not low from `exit` on, and in between it depends on the path."""
    record = at_a([counted(1, units), policy("p", **values)])
    assert record.status_ship == record.status_pickup == record.status == statuses
    assert record.reason is None


def test_the_deciding_policy_depends_on_the_better_mode_inside_the_band() -> None:
    """Where only ship is inside its band, it is the better mode only while it is not low."""
    entries: list[Entry] = [
        counted(1, 9),
        policy("s", {"mode": "ship"}, safety_stock=4, low_stock_exit=6),
        policy("t", {"mode": "pickup"}, safety_stock=1),
    ]
    record = at_a(entries)
    assert record.together == {
        Decided("IN_STOCK", "IN_STOCK", "IN_STOCK", "s"),
        Decided("LOW_STOCK", "IN_STOCK", "IN_STOCK", "t"),
    }
    assert (record.status, record.policy) == (IN, frozenset({"s", "t"}))


KEYS = [
    case("no fact, no record", [policy("p", safety_stock=1), SHIP_OFF], set()),
    case("every fact makes its own location known", [sale(1, 1), hold(1, 1, location="B")], {"A", "B"}),
    case("a fact that only touches a hold elsewhere too", [hold(1, 1), released(2, location="B")], {"A", "B"}),
    case("a fact without any effect too", [renewed(1, 2), deallocated(1, 1, location="B")], {"A", "B"}),
    case("a hold that moved away leaves a record", [hold(1, 1), hold(2, 1, location="B")], {"A", "B"}),
    case("a repeat elsewhere does not", [sale(1, 1, id="x"), sale(1, 1, id="x", location="B")], {"A"}),
]


@pytest.mark.parametrize(("entries", "locations"), KEYS)
def test_every_fact_that_counts_makes_its_location_known(entries: list[Entry], locations: set[str]) -> None:
    """The published keys are those that a first telling names."""
    assert records(entries).keys() == {("SKU", name) for name in locations}


REPEATS = [
    case("told twice", [sale(1, 2, id="x"), sale(1, 2, id="x")], -2),
    case("told with other content", [sale(1, 2, id="x"), sale(9, 5, id="x")], -2),
    case("told as something else", [sale(1, 2, id="x"), back(1, 5, id="x")], -2),
    case("told elsewhere first", [sale(1, 2, id="x", location="B"), sale(1, 2, id="x"), back(1, 1)], 1),
    case("another source", [sale(1, 2, id="x"), sale(1, 2, id="x", source="another")], -4),
    case("another SKU", [sale(1, 2, id="x", sku="OTHER"), sale(1, 2, id="x")], -2),
    case("a repeated count", [counted(1, 2, id="x"), counted(5, 9, id="x")], 2),
]


@pytest.mark.parametrize(("entries", "on_hand"), REPEATS)
def test_a_repeat_changes_nothing(entries: list[Entry], on_hand: int) -> None:
    """Of one SKU, source and id only the first to arrive counts, whatever the others say."""
    assert at_a(entries).on_hand == on_hand


def test_the_first_to_arrive_is_found_by_its_order() -> None:
    """The list may come in any order; `order` says which arrived first."""
    first, second = sale(1, 2, id="x"), sale(1, 5, id="x")
    assert first_tellings([Fact(POS_SALES.name, 7, second), Fact(POS_SALES.name, 3, first)]) == [first]


def sent(seconds: float, units: int, **own: Any) -> TransferShipped:
    """Transfer T leaves A for B."""
    return said(TransferShipped, seconds, units=units, **{"transfer": "T", "to_location": "B", **own})


def arrived(seconds: float, units: int, **own: Any) -> TransferReceived:
    """Units of transfer T arrive at B."""
    return said(TransferReceived, seconds, units=units, **{"transfer": "T", "location": "B", **own})


# What is told after a receipt of 9 at A, then on_hand at A, in transit to B, on_hand at B.
ON_THE_WAY = [
    case("on its way", [sent(1, 4)], (5, 4, 0)),
    case("arrived in part", [sent(1, 4), arrived(2, 3)], (5, 1, 3)),
    case("arrived short for good", [sent(1, 4), arrived(2, 3, final=True)], (5, 0, 3)),
    case("arrived over", [sent(1, 4), arrived(2, 6)], (5, 0, 6)),
    case("called off", [sent(1, 4), said(TransferCancelled, 2, transfer="T", units=9)], (9, 0, 0)),
    case(
        "called off before a count",
        [sent(1, 4), said(TransferCancelled, 2, transfer="T", units=9), counted(3, 7)],
        (7, 0, 0),
    ),
]


@pytest.mark.parametrize(("facts", "numbers"), ON_THE_WAY)
def test_what_is_on_its_way_is_not_on_hand(facts: list[StockFact], numbers: tuple[int, int, int]) -> None:
    """It leaves one place, is in transit, and is on hand where it arrives."""
    there = records([receipt(0, 9), *facts])
    assert (there["SKU", "A"].on_hand, there["SKU", "B"].in_transit, there["SKU", "B"].on_hand) == numbers


def test_inbound_is_what_is_expected_less_what_came() -> None:
    """And the next to come is the earliest that is not overdue."""
    first = said(InboundExpected, 1, inbound="I", units=5, eta=at(8))
    second = said(InboundExpected, 1, inbound="J", units=2, eta=at(60))
    dropped = said(InboundCancelled, 3, inbound="J", units=1)
    [record] = records([first, second, receipt(2, 3, inbound="I"), dropped], 9).values()
    assert (record.inbound, record.next_inbound_at, record.on_hand) == (3, at(60), 3)
    [record] = records([first, receipt(2, 3, inbound="I", final=True)], 2).values()
    assert (record.inbound, record.next_inbound_at) == (0, None)


REFUSED = [
    case("a count of one state", counted(1, 5, state="damaged"), WMS_MOVEMENTS),
    case("an adjustment by nothing", adjustment(1, 0), WMS_MOVEMENTS),
    case("a sale on a foreign topic", sale(1, 1), WMS_MOVEMENTS),
]


@pytest.mark.parametrize(("event", "topic"), REFUSED)
def test_what_is_dead_lettered_has_no_effect(event: StockFact, topic: Any) -> None:
    """A refused message makes no record and does not use up its id."""
    refused = Fact(topic.name, 1, event)
    assert expected([refused], [], at(9)) == {}
    good = sale(1, 2, id=event.id)
    assert expected([refused, Fact(POS_SALES.name, 2, good)], [], at(9))["SKU", "A"].on_hand == -2


def test_a_topic_prefix_does_not_matter() -> None:
    """Facts read from a prefixed topic count all the same."""
    assert expected([Fact("test-" + POS_SALES.name, 1, sale(1, 2))], [], at(9))["SKU", "A"].on_hand == -2


def test_sources_are_the_newest_times_heard_of_each_kind() -> None:
    """Per balance and kind of source, the newest `occurred_at` of what counted."""
    entries = [sale(3, 1, id="x"), sale(2, 1), sale(9, 1, id="x"), hold(5, 1), counted(7, 1, location="B")]
    assert at_a(entries).sources == Sources(pos=at(3), wms=None, orders=at(5))


# Differences


def published(record: Expected, **changed: Any) -> dict[str, Any]:
    """A record as it would be published, on the simplest legal path."""
    decided = min(record.together, key=repr)
    plain = {one.name: getattr(record, one.name) for one in fields(Expected)}
    del plain["together"], plain["sources"]
    return {**plain, **decided._asdict(), "version": 1, "lane": "urgent", **changed}


def test_equal_records_do_not_disagree() -> None:
    """What is published on a legal path is fine, whatever its version and lane."""
    wanted = records([counted(1, 9), sale(2, 1, location="B")])
    assert disagreements(wanted, {key: published(record) for key, record in wanted.items()}) == []


def test_missing_and_extra_keys_are_told() -> None:
    """Keys that stand on one side only are named, and so is a null value."""
    wanted = records([counted(1, 9), counted(1, 9, location="B")])
    extra = published(wanted["SKU", "A"])
    assert disagreements(wanted, {("SKU", "B"): None, ("SKU", "C"): extra}) == [
        "SKU|A: is not published",
        "SKU|B: is published as delisted",
        "SKU|C: is published, but no fact speaks of it",
    ]


def test_wrong_fields_are_told_one_by_one() -> None:
    """Every field that differs or is missing is named with both values, in the order of the record."""
    wanted = records([counted(1, 9)])
    actual = published(wanted["SKU", "A"], status_ship="LOW_STOCK", available_to_ship=4, shortage=False)
    del actual["committed"]
    assert disagreements(wanted, {("SKU", "A"): actual}) == [
        "SKU|A: status_ship is 'LOW_STOCK', expected 'IN_STOCK'",
        "SKU|A: available_to_ship is 4, expected 9",
        "SKU|A: committed is missing, expected 0",
        "SKU|A: shortage is False, expected 0",
    ]


def test_inside_the_band_both_statuses_pass_and_others_do_not() -> None:
    """A path-dependent status may be either, but the fields must fit together."""
    wanted = records([counted(1, 6), policy("p", low_stock_enter=5, low_stock_exit=8)])

    def differences(ship: str, pickup: str, better: str) -> list[str]:
        actual = published(wanted["SKU", "A"], status_ship=ship, status_pickup=pickup, status=better)
        return disagreements(wanted, {("SKU", "A"): actual})

    assert differences("LOW_STOCK", "LOW_STOCK", "LOW_STOCK") == []
    assert differences("IN_STOCK", "LOW_STOCK", "IN_STOCK") == []
    assert differences("UNKNOWN", "LOW_STOCK", "LOW_STOCK") == [
        "SKU|A: status_ship is 'UNKNOWN', expected 'IN_STOCK' or 'LOW_STOCK'"
    ]
    (text,) = differences("IN_STOCK", "LOW_STOCK", "LOW_STOCK")
    assert text.startswith(
        "SKU|A: status_ship 'IN_STOCK', status_pickup 'LOW_STOCK', status 'LOW_STOCK', policy None "
        "do not go together, expected status_ship 'IN_STOCK', status_pickup 'IN_STOCK', "
    )


# The order of arrival


def shuffled(facts: list[Fact], chance: random.Random) -> list[Fact]:
    """The same facts arriving in another order, repeats still after what they repeat."""
    order = list(facts)
    chance.shuffle(order)
    places: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, fact in enumerate(order):
        places[dedup_key(fact)].append(place)
    for same in places.values():
        tellings = sorted((order[place] for place in same), key=lambda fact: fact.order)
        for place, telling in zip(same, tellings, strict=True):
            order[place] = telling
    return [fact._replace(order=place) for place, fact in enumerate(order)]


def dedup_key(fact: Fact) -> tuple[str, str, str]:
    """What makes two tellings the same fact; all items of one SKU stay in the order of their log."""
    if isinstance(fact.event, ItemSet | Delisted):
        return fact.event.sku, "", ""
    assert isinstance(fact.event, StockFact)
    return fact.event.sku, fact.event.source, fact.event.id


@given(history=histories(), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_the_order_of_arrival_does_not_matter(history: History, seed: int) -> None:
    """Any order that keeps the first of the repeats first gives the same records."""
    other = shuffled(history.facts, random.Random(seed))
    assert expected(other, history.settings, history.now) == expected(history.facts, history.settings, history.now)


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_arrival_does_not_matter_in_long_histories(seed: int) -> None:
    """The same for seeded histories of some hundred messages."""
    history = random_history(seed, 300)
    other = shuffled(history.facts, random.Random(seed))
    assert expected(other, history.settings, history.now) == expected(history.facts, history.settings, history.now)


@given(history=histories())
@settings(max_examples=100, deadline=None)
def test_numbers_keep_their_bounds(history: History) -> None:
    """Whatever happened: available, withheld and raw add up, nothing published is negative but on_hand."""
    items = newest_items(history.facts)
    for record in expected(history.facts, history.settings, history.now).values():
        raw = record.on_hand - record.unavailable - record.committed
        assert record.shortage == max(0, -raw)
        assert min(record.unavailable, record.committed) >= 0
        for available, withheld in (
            (record.available_to_ship, record.withheld_ship),
            (record.available_in_store, record.withheld_pickup),
        ):
            if lifecycle_of(items.get(record.sku)) == "preorder":  # what is there is not for sale yet
                assert available in (0, None)
                assert 0 <= withheld <= max(0, raw)
            else:
                assert (available or 0) + withheld in (0, max(0, raw))


# The histories themselves


def test_the_same_seed_tells_the_same_history() -> None:
    """A failure with a seed can be replayed."""
    assert random_history(7, 200) == random_history(7, 200)
    assert random_history(7, 200) != random_history(8, 200)


def test_histories_contain_what_goes_wrong_in_shops() -> None:
    """A long history has every type, repeats, late facts, equal times, voids and claims before their object."""
    history = random_history(1, 3000, World(null_settings=True))
    facts = [fact for fact in history.facts if isinstance(fact.event, StockFact)]
    kinds = {type(told.message) for told in history.told}
    assert kinds == {
        InboundCancelled,
        InboundExpected,
        TransferCancelled,
        TransferReceived,
        TransferRescheduled,
        TransferShipped,
        ReservationRequested,
        PosSale,
        PosReturn,
        PosVoid,
        WmsReceipt,
        WmsShipment,
        WmsShipmentVoided,
        WmsAdjustment,
        WmsCount,
        WmsStatusChanged,
        ReservationCreated,
        ReservationRenewed,
        ReservationReleased,
        OrderAllocated,
        OrderDeallocated,
        OrderFulfilled,
        LocationSet,
        PolicySet,
        PolicyRemoved,
        Removed,
        SourceAlive,
        ItemSet,
        Delisted,
    }

    tellings: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        tellings[dedup_key(fact)].append(fact)
    repeated = [same for same in tellings.values() if len(same) > 1]
    assert any(one.event == same[0].event for same in repeated for one in same[1:])
    assert any(one.event != same[0].event for same in repeated for one in same[1:])
    assert all(one.topic == same[0].topic for same in repeated for one in same)

    times = [fact.event.occurred_at for fact in facts]
    assert any(later < earlier for earlier, later in pairwise(times))
    assert len(set(times)) < len(times)
    assert {time.utcoffset() for time in times} == {timedelta(0), timedelta(hours=1)}

    told_at = {(*dedup_key(fact)[::2], type(fact.event)): fact.order for same in tellings.values() for fact in same[:1]}
    voids = [(fact.order, fact.event) for fact in facts if isinstance(fact.event, PosVoid)]
    sold_at = [
        (order, told_at[void.sku, void.voids, PosSale])
        for order, void in voids
        if (void.sku, void.voids, PosSale) in told_at
    ]
    assert any(order < sold for order, sold in sold_at)
    assert any(order > sold for order, sold in sold_at)

    created: dict[tuple[str, str, str | None], int] = {}
    for fact in reversed(facts):
        if isinstance(fact.event, ReservationCreated):
            created[fact.event.sku, fact.event.reservation, fact.event.line] = fact.order
    claims = [
        (fact.order, created.get((fact.event.sku, fact.event.reservation, fact.event.line)))
        for fact in facts
        if isinstance(fact.event, PosSale) and fact.event.reservation is not None
    ]
    assert any(first is not None and order < first for order, first in claims)
    assert any(first is not None and order > first for order, first in claims)


def test_no_fact_happens_more_than_five_minutes_after_it_arrives() -> None:
    """Histories stay inside what the pipeline accepts, and arrive in order of time."""
    told = random_history(2, 2000).told
    assert all(
        one.message.occurred_at <= one.at + timedelta(minutes=5)
        for one in told
        if not isinstance(one.message, Removed | Delisted)
    )
    assert [one.at for one in told] == sorted(one.at for one in told)


def test_most_of_what_can_be_published_is_reached() -> None:
    """Short histories together reach every status, reason and band."""
    statuses: set[frozenset[str]] = set()
    reasons: set[str | None] = set()
    for seed in range(150):
        history = random_history(seed, 40, World(settings_percent=20, items_percent=8))
        for record in expected(history.facts, history.settings, history.now).values():
            statuses.add(record.status)
            reasons.add(record.reason)
    others = ("BACKORDERABLE", "PREORDERABLE", "UNKNOWN", "DISCONTINUED", "OUT_OF_STOCK")
    assert statuses == {LOW, IN, LOW | IN, *(frozenset({status}) for status in others)}
    assert reasons == {
        None,
        "no_baseline",
        "stale_source",
        "sold_out",
        "withheld_by_safety_stock",
        "excluded",
        "location_off",
    }


def test_a_world_is_kept_to() -> None:
    """SKUs, locations, start and the share of settings are those that were asked for."""
    world = World(("X",), ("Y",), at(9), ticks_ms=(0,), settings_percent=0, items_percent=0, repeats_percent=0)
    history = random_history(3, 100, world)
    assert {(fact.sku, fact.location) for fact in first_tellings(history.facts)} == {("X", "Y"), ("X", "*")}
    assert {one.at for one in history.told} == {at(9)}
    assert len(history.facts) == len({dedup_key(fact) for fact in history.facts}) == 100
    assert history.settings == []


def test_a_history_can_be_cut() -> None:
    """The first messages of a history, seen when the last of them arrived."""
    history = random_history(4, 10)
    cut = history.until(4)
    assert (cut.told, cut.now) == (history.told[:4], history.told[3].at)
    assert history.until(0) == History((), history.now)


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_storyteller_may_be_asked_step_by_step(data: st.DataObject) -> None:
    """Drawn one message at a time, time never runs back."""
    storyteller = Storyteller(DrawnChoice(data.draw), World(skus=("X",)))
    times = [storyteller.next().at for _ in range(10)]
    assert times == sorted(times)
    assert times[-1] == storyteller.clock


def test_skus_of_a_partition_belong_to_it() -> None:
    """The wanted number of different SKUs, all of one partition."""
    found = skus_of_partition(3, 12, 5)
    assert len(set(found)) == 5
    assert {partition_of(sku, 12) for sku in found} == {3}


WIRE = [
    case("a sale", sale(1, 1), "pos-sales.v1", "SKU", PosMessage),
    case("a count", counted(1, 1), "wms-movements.v1", "SKU", WmsMessage),
    case("a hold", hold(1, 1), "order-reservations.v1", "SKU", OrderMessage),
    case("a policy", policy("p", {"sku": "SKU"}, enabled=True), "stock-settings.v1", "policy:p", SettingsMessage),
    case("the end of a policy", removed("p"), "stock-settings.v1", "policy:p", SettingsMessage),
    case("a location", SHIP_OFF, "stock-settings.v1", "location:A", SettingsMessage),
    case(
        "a living feed",
        SourceAlive(id="1", source="s", occurred_at=START, location="A", feed="pos", until=START),
        "stock-settings.v1",
        "alive:A:pos",
        SettingsMessage,
    ),
    case(
        "an item",
        ItemSet(id="1", source="s", occurred_at=START, sku="SKU", brand="b", category="c", lifecycle="active"),
        "stock-items.v1",
        "SKU",
        ItemSet,
    ),
]


@pytest.mark.parametrize(("message", "topic", "key", "kind"), WIRE)
def test_a_message_goes_to_its_topic_under_its_key(message: Any, topic: str, key: str, kind: Any) -> None:
    """Topic, key and a value that decodes to the same message."""
    topic_name, wire_key, value = to_wire(message)
    assert (topic_name, wire_key) == (topic, key)
    assert value is not None
    assert msgspec.json.decode(value, type=kind) == message


def test_a_removed_setting_is_a_null_value() -> None:
    """The key says what is removed."""
    assert to_wire(Removed("location:A")) == ("stock-settings.v1", "location:A", None)


def test_every_told_message_survives_the_wire() -> None:
    """Whatever a storyteller tells decodes to the same message again."""
    storyteller = Storyteller(SeededChoice(5))
    for _ in range(500):
        message = storyteller.next().message
        assert not isinstance(message, Removed)
        if isinstance(message, Delisted):
            continue
        _, _, value = to_wire(message)
        assert value is not None
        kinds = PosMessage | WmsMessage | OrderMessage | SettingsMessage | ItemSet
        assert msgspec.json.decode(value, type=kinds) == message
