"""A ledger that is discarded goes at once, with all that it remembers: nobody looks for cycles among it."""

from __future__ import annotations

import gc
import weakref

import pytest

from stock.ledger import Ledger
from stock.portions import PORTION
from tests.stock.facts import Desk, at, fact, location, policy, rules, us


def full() -> Ledger:
    """A ledger with something in each of its parts."""
    desk = Desk(Ledger(rules(policy("p", {"channel": "web"}, safety_stock=1), location("A"))))
    desk.tell(
        fact("wms.count", 0, 9),
        fact("reservation.created", 1, 2, reservation="R", expires_at=at(60)),
        fact("order.allocated", 2, 1, order_line="O", reservation="R"),
        fact("transfer.shipped", 3, 2, transfer="T", to_location="B", eta=at(50)),
        fact("pos.sale", 4, 1, echo="E"),
        fact("reservation.requested", 5, 1, reservation="Q", location="*"),
    )
    desk.ledger.network.view("SKU", "web", 0)
    desk.ledger.advance(us(10))
    return desk.ledger


@pytest.fixture
def _no_collector() -> object:
    """Only what nobody refers to is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_nothing_keeps_a_discarded_ledger() -> None:
    """Neither itself nor one of its parts."""
    ledger = full()
    parts = (ledger, ledger.network, ledger.commitments, ledger.supply, ledger.requests, ledger.alerts, ledger.recent)
    left = [weakref.ref(part) for part in parts]
    del parts
    ledger.discard()
    del ledger
    assert [ref() for ref in left] == [None] * len(left)


@pytest.mark.usefixtures("_no_collector")
def test_nothing_keeps_a_ledger_that_is_discarded_half_full() -> None:
    """As one of a partition that is lost while it is filled."""
    records = {key: packed for key, packed in full().flush() if packed is not None}
    records |= {f"S{number}|A": records["SKU|A"] for number in range(2 * PORTION)}
    ledger = Ledger(rules())
    portions = ledger.restoring(records, (), us(10))
    next(portions)
    left = weakref.ref(ledger)
    ledger.discard()
    del ledger, portions
    assert left() is None
