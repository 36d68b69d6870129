"""What is on its way: transfers, expected inbound, ETAs, what comes back; and taking it all back from state."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from stock import commitments
from stock.events import StockFact
from stock.ledger import Ledger, LimitReached
from stock.policies import Policies
from stock.supply import CLOSED_HORIZON_US, inbound_key, is_supply_key, transfer_key
from tests.stock.facts import Desk, at, fact, told, us

A, B, C = "SKU|A", "SKU|B", "SKU|C"


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def shipped(seconds: float, units: int, eta: float | None = None, **own: Any) -> StockFact:
    """Transfer T leaves A for B."""
    return fact("transfer.shipped", seconds, units, eta=None if eta is None else at(eta), **own)


def received(seconds: float, units: int, **own: Any) -> StockFact:
    """Units of transfer T arrive at B."""
    return fact("transfer.received", seconds, units, **{"location": "B", **own})


def cancelled(seconds: float, units: int, **own: Any) -> StockFact:
    """Transfer T is called off."""
    return fact("transfer.cancelled", seconds, units, **own)


def expected(seconds: float, units: int, eta: float, **own: Any) -> StockFact:
    """Inbound I is announced for A."""
    return fact("inbound.expected", seconds, units, eta=at(eta), **own)


RECEIPT = fact("wms.receipt", 0, 10)

# What is told, then on_hand at A, in transit to B, on_hand at B.
TRANSFERS = [
    case("shipped", [shipped(1, 4)], (6, 4, 0)),
    case("received whole", [shipped(1, 4), received(2, 4)], (6, 0, 4)),
    case("received in parts", [shipped(1, 4), received(2, 1), received(3, 2)], (6, 1, 3)),
    case("received short, and more may come", [shipped(1, 4), received(2, 3)], (6, 1, 3)),
    case("received short for good", [shipped(1, 4), received(2, 3, final=True)], (6, 0, 3)),
    case("received over: all units count", [shipped(1, 4), received(2, 6)], (6, 0, 6)),
    case("received before it was shipped, as clocks have it", [received(1, 3), shipped(2, 4)], (6, 1, 3)),
    case("never shipped, as far as we know", [received(1, 3)], (10, 0, 3)),
    case("shipped twice", [shipped(1, 4), shipped(2, 2), received(3, 5)], (4, 1, 5)),
    case("cancelled whole", [shipped(1, 4), cancelled(2, 4)], (10, 0, 0)),
    case("cancelled in part", [shipped(1, 4), cancelled(2, 1)], (7, 3, 0)),
    case("at most the rest is cancelled", [shipped(1, 4), received(2, 3), cancelled(3, 4)], (7, 0, 3)),
    case("cancelled by somebody else", [shipped(1, 4), cancelled(2, 4, location="X")], (10, 0, 0)),
    case("cancelled before it is shipped: nothing", [cancelled(1, 4), shipped(2, 4)], (6, 4, 0)),
    case("a count at the origin includes what came back before it",
         [shipped(1, 4), cancelled(2, 4), fact("wms.count", 3, 8)], (8, 0, 0)),
    case("what comes back after a count is on top of it",
         [shipped(1, 4), fact("wms.count", 2, 6), cancelled(3, 4)], (10, 0, 0)),
    case("received elsewhere", [shipped(1, 4), received(2, 4, location="C")], (6, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "numbers"), TRANSFERS)
def test_a_transfer_is_the_fold_of_its_facts(facts: list[StockFact], numbers: tuple[int, int, int]) -> None:
    """In whatever order they arrive."""
    for order in permutations(facts):
        desk = told(RECEIPT, *order)
        b = desk.record(B) if B in desk.ledger else None
        assert (desk.record(A).on_hand, b.in_transit if b else 0, b.on_hand if b else 0) == numbers


def test_own_shipments_arrive_first() -> None:
    """One transfer to two destinations: who receives lowers what is on its way to them, then the others'."""
    desk = told(RECEIPT, shipped(1, 2, to_location="C"), shipped(1, 2), received(2, 3))
    assert (desk.record(B).in_transit, desk.record(C).in_transit) == (0, 1)


def test_what_is_on_its_way_is_told_where_nothing_is_known() -> None:
    """The destination has a record, unknown until something arrives."""
    desk = told(shipped(1, 4, eta=60))
    record = desk.record(B)
    assert (record.status, record.available_to_ship, record.in_transit, record.on_hand) == ("UNKNOWN", None, 4, 0)
    desk.tell(received(2, 4))
    assert (desk.record(B).status, desk.record(B).available_to_ship) == ("IN_STOCK", 4)


def test_a_destination_is_told_even_if_all_has_arrived_elsewhere() -> None:
    """Which of the two facts comes first decides nothing."""
    early, sent = received(1, 4, location="C"), shipped(2, 4)
    assert B in told(early, sent).ledger
    assert B in told(sent, early).ledger


def test_states_travel_with_the_units() -> None:
    """Damaged units leave and come back as damaged."""
    desk = told(RECEIPT, fact("wms.receipt", 0, 3, state="damaged"), shipped(1, 2, state="damaged"))
    assert (desk.record(A).on_hand, desk.record(A).unavailable) == (11, 1)
    desk.tell(cancelled(2, 2))
    assert (desk.record(A).on_hand, desk.record(A).unavailable) == (13, 3)


def test_what_is_shipped_consumes_and_what_arrives_binds() -> None:
    """A transfer for an order line takes its allocation along."""
    desk = told(RECEIPT, fact("order.allocated", 1, 2), shipped(2, 2, order_line="L"))
    assert desk.record(A).committed == 0
    desk.tell(received(3, 2, order_line="L"))
    assert (desk.record(B).on_hand, desk.record(B).committed) == (2, 2)


# What is told, then on_hand and inbound at A.
INBOUNDS = [
    case("expected", [expected(1, 5, 60)], (0, 5)),
    case("received whole", [expected(1, 5, 60), fact("wms.receipt", 2, 5, inbound="I")], (5, 0)),
    case("received in parts", [expected(1, 5, 60), fact("wms.receipt", 2, 2, inbound="I")], (2, 3)),
    case("received short for good", [expected(1, 5, 60), fact("wms.receipt", 2, 2, inbound="I", final=True)], (2, 0)),
    case("received over", [expected(1, 5, 60), fact("wms.receipt", 2, 7, inbound="I")], (7, 0)),
    case("another receipt", [expected(1, 5, 60), fact("wms.receipt", 2, 2)], (2, 5)),
    case("cancelled in part", [expected(1, 5, 60), fact("inbound.cancelled", 2, 2)], (0, 3)),
    case("cancelled whole", [expected(1, 5, 60), fact("inbound.cancelled", 2, 9)], (0, 0)),
    case("stated anew: the newer holds", [expected(1, 5, 60), expected(2, 8, 90)], (0, 8)),
    case("at another location", [expected(1, 5, 60, location="B"), fact("wms.receipt", 2, 2, inbound="I")], (2, 0)),
]


@pytest.mark.parametrize(("facts", "numbers"), INBOUNDS)
def test_inbound_is_the_fold_of_its_facts(facts: list[StockFact], numbers: tuple[int, int]) -> None:
    """Never on hand before it is received, in whatever order the facts arrive."""
    for order in permutations(facts):
        desk = told(fact("pos.return", 0, 1), fact("pos.sale", 0, 1), *order)
        assert (desk.record(A).on_hand, desk.record(A).inbound) == numbers


def test_next_inbound_is_the_earliest_to_come() -> None:
    """Of transfers and inbound; what should have come is no longer next, but still on its way."""
    desk = told(
        expected(1, 5, 60), expected(1, 2, 90, inbound="J"), shipped(1, 3, eta=75, location="B", to_location="A")
    )
    assert desk.record(A, 2).next_inbound_at == at(60)
    assert desk.ledger.next_timer_us() == us(60)
    desk.ledger.touched.clear()
    record = desk.record(A, 60)
    assert (record.next_inbound_at, record.inbound, record.in_transit) == (at(75), 7, 3)
    assert (A in desk.ledger.touched, record.cause.type) == (True, "eta.passed")
    assert desk.record(A, 80).next_inbound_at == at(90)
    assert desk.record(A, 90).next_inbound_at is None
    desk.tell(fact("transfer.rescheduled", 91, eta=at(200), location="B"))
    assert desk.record(A, 91).next_inbound_at == at(200)


def test_a_delivery_that_is_put_off_again_and_again_has_one_timer() -> None:
    """And says once that it is late, at the time told last."""
    desk = told(RECEIPT, shipped(1, 3, eta=60))
    for second in range(2, 300):
        desk.tell(fact("transfer.rescheduled", second, eta=at(1_000 - second), location="B"))
        desk.tell(expected(second, 4, 2_000 - second, location="B"))
    supply = desk.ledger.supply
    assert (len(supply._etas), len(supply._etas._heap) < 100) == (2, True)
    assert list(supply.advance(us(700))) == []
    assert list(supply.advance(us(5_000))) == [(B, us(701)), (B, us(1_701))]


def test_a_transfer_to_two_places_is_late_at_each() -> None:
    """At its own time."""
    desk = told(RECEIPT, shipped(1, 2, eta=60), shipped(1, 2, eta=90, to_location="C"))
    assert list(desk.ledger.supply.advance(us(100))) == [(B, us(60)), ("SKU|C", us(90))]


def restarted(desk: Desk, left_out: str = "") -> Desk:
    """Another process with what the first one has flushed, without one of its keys."""
    records = {key: packed for key, packed in desk.ledger.flush() if packed is not None and key != left_out}
    again = Desk(Ledger(Policies()))
    again.ledger.restore(records, [], us(0))
    return again


def test_all_of_it_survives_a_restart() -> None:
    """With what came back, what is to come, and its timers."""
    desk = told(RECEIPT, shipped(1, 4, eta=60), cancelled(2, 1), expected(3, 5, 90))
    before = [desk.record(key, 4) for key in (A, B)]
    again = restarted(desk)
    assert [again.record(key, 4) for key in (A, B)] == before
    assert again.ledger.next_timer_us() == us(60)


def test_a_destination_survives_without_its_balance() -> None:
    """A crash may keep the transfer and lose the empty balance that it made: it is there all the same."""
    again = restarted(told(RECEIPT, shipped(1, 4)), left_out=B)
    assert again.record(B).in_transit == 4


def test_an_eta_passes_although_the_balance_was_lost() -> None:
    """A crash may keep the inbound and lose the balance beside it."""
    again = restarted(told(expected(1, 5, 60)), left_out=A)
    assert again.record(A, 60).inbound == 5


def test_a_replayed_fact_changes_nothing_twice() -> None:
    """Each transfer knows up to which offset it has heard."""
    desk = told(RECEIPT, shipped(1, 4), cancelled(2, 1))
    again = restarted(desk, left_out="|outcomes")
    assert again.tell(RECEIPT, *(shipped(1, 4), cancelled(2, 1))) == ["applied"] * 3
    assert (again.record(A).on_hand, again.record(B).in_transit) == (7, 3)


def test_what_closed_is_forgotten_and_what_came_back_stays_until_it_is_counted() -> None:
    """A cancelled transfer stands for units at its origin as long as no count includes them."""
    day = CLOSED_HORIZON_US / 1e6
    desk = told(RECEIPT, shipped(1, 4), received(2, 4), shipped(1, 4, transfer="U"), cancelled(2, 4, transfer="U"))
    desk.ledger.advance(us(3 * day))
    assert (len(desk.ledger.supply), desk.record(A, 3 * day).on_hand) == (1, 6)
    desk.tell(fact("wms.count", 3 * day, 6))
    desk.ledger.advance(us(5 * day))
    assert (len(desk.ledger.supply), desk.record(A, 5 * day).on_hand) == (0, 6)
    assert desk.ledger.next_timer_us() is None


def test_what_came_back_damaged_stays_damaged() -> None:
    """A count says what is there, and nothing of the state that it is in."""
    day = CLOSED_HORIZON_US / 1e6
    desk = told(RECEIPT, fact("wms.receipt", 0, 3, state="damaged"), shipped(1, 3, state="damaged"), cancelled(2, 3))
    desk.tell(fact("wms.count", 3, 13))
    assert (desk.record(A, 4).unavailable, desk.record(A, 3 * day).unavailable) == (3, 3)


def test_open_transfers_are_never_forgotten() -> None:
    """However late they are."""
    desk = told(RECEIPT, shipped(1, 4))
    desk.ledger.advance(us(100 * CLOSED_HORIZON_US / 1e6))
    assert desk.record(B).in_transit == 4


@pytest.mark.parametrize("one_more", [shipped(9, 1, transfer="U"), expected(9, 1, 60, inbound="J")])
def test_transfers_and_inbounds_per_sku_are_bounded(one_more: StockFact, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused, and changes nothing; those known go on."""
    monkeypatch.setattr("stock.ledger.ORDERS_PER_SKU_MAX", 2)
    desk = told(RECEIPT, shipped(1, 4), expected(1, 1, 60))
    before = desk.record(A)
    with pytest.raises(LimitReached):
        desk.tell(one_more)
    assert desk.record(A) == before
    desk.next[1] += 1
    assert desk.tell(shipped(2, 1)) == ["applied"]
    assert commitments.ORDERS_PER_SKU_MAX > 2


def test_state_keys_tell_what_they_are() -> None:
    """No balance's key, whatever the names are."""
    assert all(map(is_supply_key, (transfer_key("S", "a|b"), inbound_key("S", "L", "i|j"))))
    assert not is_supply_key("S|transfer")
