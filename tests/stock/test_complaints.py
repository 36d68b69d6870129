"""What users of other systems complain about, one test for each: what goes wrong there does not go wrong here.

The complaints come from the issue trackers of shop and stock systems. Those about the Redis view, replays and restarts
stand with their parts: a view that is read again never shows a gap (tests/sinks/test_redis_view.py), a replay ends
with what was live (tests/test_ledger_against_oracle.py), a snapshot of state does not lose a hold
(tests/stock/test_ledger_state.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from schemas.events import Refusal, decode
from schemas.records import Availability
from stock.availability import IN_STOCK, is_urgent
from stock.events import ItemSet, StockFact
from stock.ledger import Ledger
from stock.policies import Policies
from tests.stock.facts import KEY, Desk, at, fact, hold, policy, renewed, rules, told, us

RECEIPT = fact("wms.receipt", 0, 10)


def after(*facts: StockFact, seconds: float = 100) -> Availability:
    """The record of SKU at A after some facts."""
    return told(*facts).record(seconds=seconds)


def requested(seconds: float, units: int, reservation: str, **own: Any) -> StockFact:
    """A checkout asks for units."""
    return fact("reservation.requested", seconds, units, reservation=reservation, **own)


def verdicts(desk: Desk) -> list[str]:
    """What was answered."""
    return [decision.verdict for _, decision in desk.ledger.answers]


def test_two_checkouts_do_not_both_take_the_last_unit() -> None:
    """One is accepted, the other told how much is left; nothing is ever short."""
    desk = told(fact("wms.receipt", 0, 1), requested(1, 1, "R-1"), requested(1, 1, "R-2"))
    assert verdicts(desk) == ["accepted", "rejected"]
    assert desk.record(seconds=2).shortage == 0


def test_a_repeated_shipment_does_not_give_units_back_twice() -> None:
    """Neither under the same id nor, beyond what is left of the line, under another."""
    shipped = fact("wms.shipment", 2, 3, order_line="L")
    record = after(RECEIPT, fact("order.allocated", 1, 3), shipped, shipped)
    assert (record.on_hand, record.committed, record.available_to_ship) == (7, 0, 7)
    again = after(RECEIPT, fact("order.allocated", 1, 3), shipped, fact("wms.shipment", 3, 3, order_line="L"))
    assert (again.on_hand, again.committed) == (4, 0)  # the units are gone, and commitments do not go below zero


def test_a_release_without_its_reservation_frees_nothing() -> None:
    """What was never held cannot be given back to sale; the reservation that comes late begins without it."""
    assert after(RECEIPT, fact("reservation.released", 5, 4)).available_to_ship == 10
    assert after(RECEIPT, fact("reservation.released", 5, 4), hold(1, 6)).available_to_ship == 8


def test_cancelling_more_than_once_gives_back_once() -> None:
    """A refund, a cancellation and a correction of one order line add up to what it had."""
    cancels = [fact("order.deallocated", seconds, 3) for seconds in (2, 3, 4)]
    record = after(RECEIPT, fact("order.allocated", 1, 3), *cancels)
    assert (record.committed, record.available_to_ship) == (0, 10)


def test_a_feed_that_knows_the_order_already_is_not_taken_for_empty() -> None:
    """A warehouse that reports 0 left to sell while 10 are allocated has 10 on hand, and they can be shipped."""
    allocated = fact("order.allocated", 1, 10)
    net = fact("wms.count", 5, 0, basis="net")
    record = after(RECEIPT, allocated, net)
    assert (record.on_hand, record.committed, record.available_to_ship) == (10, 10, 0)
    shipped = after(RECEIPT, allocated, net, fact("wms.shipment", 6, 10, order_line="L"))
    assert (shipped.on_hand, shipped.committed, shipped.shortage) == (0, 0, 0)


def test_two_systems_that_tell_the_same_sale_do_not_take_it_off_twice() -> None:
    """The till and the order system both report what was picked up."""
    sale = fact("pos.sale", 2, 2, order_line="L")
    assert after(RECEIPT, sale, fact("order.fulfilled", 3, 2)).on_hand == 8


def test_availability_does_not_jump_up_while_an_order_ships() -> None:
    """The unit leaves and its allocation ends in one change: between them nothing can be sold again."""
    desk = told(RECEIPT)
    seen = []
    for one in (hold(1, 3), fact("order.allocated", 2, 3, reservation="R"), fact("wms.shipment", 3, 3, order_line="L")):
        desk.tell(one)
        seen.append(desk.record(seconds=4).available_to_ship)
    assert seen == [7, 7, 7]


def test_a_sale_of_a_reserved_unit_takes_it_once() -> None:
    """A pick-up at the till consumes its hold in the same change."""
    record = after(RECEIPT, hold(1, 2), fact("pos.sale", 2, 2, reservation="R"))
    assert (record.on_hand, record.committed, record.available_in_store) == (8, 0, 8)


def test_every_kind_of_event_can_bring_a_key_back_in_stock() -> None:
    """Sold out by an allocation, back by its end, by a release, a return, a void, a correction, a count, a transfer."""
    out = [fact("wms.receipt", 0, 5), fact("order.allocated", 1, 5)]
    ends = [
        fact("order.deallocated", 2, 5),
        fact("pos.return", 2, 1, state="sellable"),
        fact("pos.void", 2, 1, voids="x", voided_type="pos.sale", voided_at=at(1)),
        fact("wms.adjustment", 2, 1),
        fact("wms.count", 2, 9),
        fact("transfer.received", 2, 1),
        fact("wms.receipt", 2, 1),
        fact("wms.shipment_voided", 2, 1),
    ]
    for end in ends:
        desk = told(*out)
        before = desk.ledger.view(KEY)
        assert before.ship.status != IN_STOCK
        desk.tell(end)
        now = desk.ledger.view(KEY)
        assert now.ship.available, type(end).__name__
        assert is_urgent(before.statuses(), now.statuses()), type(end).__name__


def test_a_record_stands_for_itself() -> None:
    """A reader needs no other message to know both modes, all quantities, who caused it and how new its sources are."""
    record = after(RECEIPT, fact("pos.sale", 1, 1))
    known = {name: getattr(record, name) for name in record.__struct_fields__}
    assert {"status_ship", "status_pickup", "available_to_ship", "available_in_store", "on_hand"} <= known.keys()
    assert {"committed", "cause", "sources", "version", "shortage", "withheld_ship"} <= known.keys()


def test_commitments_never_go_below_zero() -> None:
    """However much is fulfilled, released or deallocated beyond what there was."""
    too_much = [fact("order.fulfilled", 2, 9), fact("order.deallocated", 3, 9), fact("reservation.released", 4, 9)]
    assert after(RECEIPT, fact("order.allocated", 1, 3), hold(1, 2), *too_much).committed == 0


def test_units_are_whole() -> None:
    """Rounding makes stock vanish; weighed goods are told in grams."""
    said = b'{"type":"pos.sale","id":"1","source":"s","occurred_at":"2026-11-22T10:00:00Z","sku":"S","location":"A"'
    refused = decode(0, said + b',"units":1.5}', us(10))
    assert isinstance(refused, Refusal)
    assert refused.reason == "bad_field"


def test_an_order_can_be_fulfilled_though_everything_is_reserved() -> None:
    """Holds that take all there is do not stand in the way of the order that they are for."""
    facts = [RECEIPT, hold(1, 10), fact("order.allocated", 2, 10, reservation="R"), fact("order.fulfilled", 3, 10)]
    record = after(*facts)
    assert (record.on_hand, record.committed, record.shortage) == (0, 0, 0)


def test_a_shopper_is_not_blocked_by_the_own_hold() -> None:
    """Who asks again for what the own hold binds gets it."""
    desk = told(fact("wms.receipt", 0, 2), requested(1, 2, "R-1"), requested(2, 2, "R-1"))
    assert verdicts(desk) == ["accepted", "accepted"]
    assert desk.record(seconds=3).committed == 2


def test_a_cart_that_is_renewed_too_late_does_not_take_anothers_unit() -> None:
    """A hold that has ended stays ended; a renewal counts if it was made in time, whenever it arrives."""
    desk = told(RECEIPT, hold(1, 10, expires=60))
    assert desk.record(seconds=61).available_to_ship == 10
    desk.tell(renewed(70, 200))
    assert desk.record(seconds=71).available_to_ship == 10
    desk.tell(renewed(50, 200))
    assert desk.record(seconds=72).available_to_ship == 0


def test_abandoned_carts_free_their_stock_by_themselves() -> None:
    """At the moment at which they end, and nothing has to be read for that."""
    desk = told(RECEIPT, hold(1, 4, expires=60))
    assert desk.ledger.next_timer_us() == us(60)
    desk.ledger.touched.clear()
    desk.ledger.advance(us(60))
    assert KEY in desk.ledger.touched
    assert desk.record(seconds=60).available_to_ship == 10


def test_an_order_to_be_paid_later_is_not_cancelled() -> None:
    """A hold without an end, as for cash on delivery or a wholesale order, lasts."""
    assert after(RECEIPT, hold(1, 4), seconds=90 * 86_400).committed == 4


def test_a_correction_is_not_taken_for_a_delivery() -> None:
    """A reader that releases backorders sees by the cause that nothing arrived; a delivery stays the cause."""
    short = told(fact("wms.receipt", 0, 1), fact("pos.sale", 1, 2))
    short.ledger.publishing(KEY)
    short.tell(fact("wms.count", 2, 0))
    assert short.record(seconds=3).cause.type == "wms.count"
    short.tell(fact("wms.receipt", 4, 5), fact("pos.sale", 5, 1))
    assert short.record(seconds=6).cause.type == "wms.receipt"


def test_negative_stock_is_told_and_never_set_to_zero() -> None:
    """on_hand is what the facts say, buyers see 0, and the shortage stands beside it."""
    record = after(fact("wms.receipt", 0, 1), fact("pos.sale", 1, 4))
    assert (record.on_hand, record.available_to_ship, record.shortage) == (-3, 0, 3)
    assert after(fact("wms.receipt", 0, 1), fact("pos.sale", 1, 4), fact("wms.receipt", 2, 5)).on_hand == 2


def test_a_backdated_entry_changes_what_it_should_and_nothing_else() -> None:
    """A movement from before the count is in it already; one from after it counts, however late it arrives."""
    count = fact("wms.count", 50, 10)
    assert after(RECEIPT, count, fact("pos.sale", 40, 2)).on_hand == 10
    assert after(RECEIPT, count, fact("pos.sale", 60, 1), fact("pos.sale", 55, 2)).on_hand == 7


def test_a_number_at_the_edge_does_not_flip_the_status_each_time() -> None:
    """Between its two levels low stock stays what it was."""
    desk = Desk(Ledger(rules(policy("p", low_stock_enter=3, low_stock_exit=6))))
    desk.tell(RECEIPT, fact("pos.sale", 1, 7))
    statuses = []
    for seconds, units in enumerate((2, -1, 1, -2, 3), start=2):
        desk.tell(fact("wms.adjustment", seconds, units))
        statuses.append(desk.record(seconds=10).status_ship)
    assert statuses == ["LOW_STOCK", "LOW_STOCK", "LOW_STOCK", "LOW_STOCK", "IN_STOCK"]


def test_what_can_only_be_backordered_is_not_called_back_in_stock() -> None:
    """A backorder limit makes nothing available."""
    desk = Desk(Ledger(rules(policy("p", backorder_limit=5))))
    desk.tell(fact("wms.receipt", 0, 1), fact("pos.sale", 1, 2))
    record = desk.record(seconds=2)
    assert (record.status, record.available_to_ship, record.backorder_left) == ("BACKORDERABLE", 0, 4)


@pytest.mark.parametrize("late_first", [True, False])
def test_an_update_that_arrives_before_the_creation_is_kept(late_first: bool) -> None:
    """A fulfilment told before its allocation, a release before its hold: they wait for what they name."""
    facts = [fact("order.allocated", 1, 3), hold(1, 4)]
    claims = [fact("order.fulfilled", 5, 2), fact("reservation.released", 6, 1)]
    order = [*claims, *facts] if late_first else [*facts, *claims]
    record = after(RECEIPT, *order)
    assert (record.on_hand, record.committed) == (8, 4)


def test_a_webhook_that_comes_twice_counts_once() -> None:
    """By source and id, on whichever topic record it arrives."""
    sale = fact("pos.sale", 1, 2)
    assert after(RECEIPT, sale, sale).on_hand == 8


def test_a_key_with_many_reservations_costs_no_more_to_read() -> None:
    """What is committed is a running sum: a view looks at no single hold."""
    desk = told(RECEIPT, *[hold(1, 1, reservation=f"R-{n}") for n in range(500)])
    looked_at = desk.ledger.commitments._orders
    desk.ledger.commitments._orders = {}
    assert desk.ledger.view(KEY).committed == 500
    desk.ledger.commitments._orders = looked_at


def test_what_is_delisted_comes_back_with_its_numbers() -> None:
    """Nothing has to be counted again after an item was taken off the list by mistake."""
    said: dict[str, Any] = {
        "id": "i",
        "source": "pim",
        "occurred_at": at(0),
        "sku": "SKU",
        "brand": "b",
        "category": "c",
    }
    desk = Desk(Ledger(Policies()))
    desk.tell(RECEIPT)
    desk.ledger.apply_item("SKU", ItemSet(**said, lifecycle="delisted"), 0)
    desk.tell(fact("pos.sale", 1, 2))
    desk.ledger.apply_item("SKU", ItemSet(**said, lifecycle="active"), 1)
    assert desk.record(seconds=2).available_to_ship == 8
