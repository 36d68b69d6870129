"""Net counts: what they left out is on hand, by all that is known of the moment at which they were taken."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from stock import commitments
from stock.events import StockFact
from stock.ledger import Ledger
from stock.policies import Policies
from tests.stock.facts import Desk, fact, hold, told, us, void


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def net(seconds: float, units: int, **own: Any) -> StockFact:
    """What a feed has left to sell."""
    return fact("wms.count", seconds, units, basis="net", **own)


def changed(seconds: float, units: int, before: str, after: str) -> StockFact:
    """Units changed their state."""
    return fact("wms.status_changed", seconds, units, from_state=before, to_state=after)


ALLOCATED = fact("order.allocated", 1, 3)
DAMAGED = changed(2, 2, "sellable", "damaged")

# What is told, then on_hand, unavailable, committed, available to ship.
STORIES = [
    case("nothing was left out", [net(9, 10)], (10, 0, 0, 10)),
    case("an allocation was", [ALLOCATED, net(9, 10)], (13, 0, 3, 10)),
    case("damaged units were", [DAMAGED, net(9, 10)], (12, 2, 0, 10)),
    case("both were", [ALLOCATED, DAMAGED, net(9, 10)], (15, 2, 3, 10)),
    case("a hold was not", [hold(1, 3), net(9, 10)], (10, 0, 3, 7)),
    case("an allocation after it", [net(9, 10), fact("order.allocated", 10, 3)], (10, 0, 3, 7)),
    case("an allocation at its very time is later", [net(9, 10), fact("order.allocated", 9, 3)], (10, 0, 3, 7)),
    case("damaged after it", [net(9, 10), changed(10, 2, "sellable", "damaged")], (10, 2, 0, 8)),
    case("fulfilled before it", [ALLOCATED, fact("order.fulfilled", 5, 2), net(9, 10)], (11, 0, 1, 10)),
    case("fulfilled after it", [ALLOCATED, net(9, 10), fact("order.fulfilled", 12, 2)], (11, 0, 1, 10)),
    case("deallocated after it", [ALLOCATED, net(9, 10), fact("order.deallocated", 12, 3)], (13, 0, 0, 13)),
    case("sold after it", [ALLOCATED, net(9, 10), fact("pos.sale", 12, 4)], (9, 0, 3, 6)),
    case("repaired after it", [DAMAGED, net(9, 10), changed(12, 2, "damaged", "sellable")], (12, 0, 0, 12)),
    case("repaired before it", [DAMAGED, net(9, 10), changed(5, 1, "damaged", "sellable")], (11, 1, 0, 10)),
    case("a counter below zero left out nothing", [changed(2, 2, "damaged", "sellable"), net(9, 10)], (10, 0, 0, 10)),
    case("a newer gross count", [ALLOCATED, net(9, 10), fact("wms.count", 12, 8)], (8, 0, 3, 5)),
    case("an older gross count", [ALLOCATED, net(9, 10), fact("wms.count", 7, 8)], (13, 0, 3, 10)),
    case("a newer net count", [ALLOCATED, net(9, 10), net(12, 6), DAMAGED], (11, 2, 3, 6)),
    case("an allocation elsewhere", [fact("order.allocated", 1, 3, location="B"), net(9, 10)], (10, 0, 0, 10)),
    case(
        "taken from elsewhere",
        [ALLOCATED, fact("wms.shipment", 4, 2, order_line="L", location="B"), net(9, 10)],
        (11, 0, 1, 10),
    ),
    case("a damaged return before it", [net(9, 10), fact("pos.return", 3, 2, state="damaged")], (12, 2, 0, 10)),
    case("a damaged return after it", [net(9, 10), fact("pos.return", 12, 2, state="damaged")], (12, 2, 0, 10)),
    case(
        "a voided sale restores what it left out",
        [ALLOCATED, fact("pos.sale", 3, 2, order_line="L"), net(9, 10), void("pos.sale", 12, 2, 3, order_line="L")],
        (13, 0, 3, 10),
    ),
    case(
        "told twice by two systems",
        [ALLOCATED, fact("wms.shipment", 4, 2, order_line="L"), net(9, 10), fact("order.fulfilled", 11, 2)],
        (11, 0, 1, 10),
    ),
    case(
        "from display, told by two systems",
        [
            fact("wms.receipt", 1, 5, state="display"),
            fact("pos.sale", 3, 2, state="display", echo="E"),
            net(9, 10),
            fact("wms.shipment", 4, 2, state="display", echo="E"),
        ],
        (13, 3, 0, 10),
    ),
]


@pytest.mark.parametrize(("facts", "numbers"), STORIES)
def test_a_net_count_leaves_out_what_is_bound(facts: list[StockFact], numbers: tuple[int, int, int, int]) -> None:
    """The numbers of SKU at A, whatever the order of arrival."""
    for order in permutations(facts):
        record = told(*order).record(seconds=100)
        assert (record.on_hand, record.unavailable, record.committed, record.available_to_ship) == numbers, order


@pytest.mark.parametrize(("facts", "numbers"), STORIES)
def test_a_restart_remembers_what_was_left_out(facts: list[StockFact], numbers: tuple[int, int, int, int]) -> None:
    """Whatever prefix of the state is durable."""
    for seen in range(len(facts) + 1):
        records = told(*facts[:seen]).ledger.flush()
        for kept in range(len(records) + 1):
            durable = {key: packed for key, packed in records[:kept] if packed is not None}
            again = Desk(Ledger(Policies()))
            again.ledger.restore(durable, (), us(50))
            again.tell(*facts)
            record = again.record(seconds=100)
            found = record.on_hand, record.unavailable, record.committed, record.available_to_ship
            assert found == numbers, (seen, kept)


def test_an_order_line_that_a_count_left_out_is_not_forgotten() -> None:
    """It is closed long ago, but the newest count stands on it; the next count lets it go."""
    desk = told(ALLOCATED, net(9, 10), fact("order.fulfilled", 12, 3))
    long_after = 12 + 3 * commitments.CLOSED_HORIZON_US / 1e6
    desk.ledger.advance(us(long_after))
    assert len(desk.ledger.commitments) == 1
    assert desk.record(seconds=long_after).on_hand == 10
    desk.tell(net(long_after, 10))
    desk.ledger.advance(us(long_after) + 2 * commitments.CLOSED_HORIZON_US)
    assert len(desk.ledger.commitments) == 0


def test_a_count_from_before_what_is_known_is_not_applied() -> None:
    """The moves of states are forgotten like those of stock, so it cannot be told what was unavailable then."""
    desk = told(DAMAGED)
    desk.ledger.totals.forgotten_us = us(5)
    assert desk.tell(net(1, 10)) == ["absorbed"]
    assert desk.ledger.counts_too_old == 1
