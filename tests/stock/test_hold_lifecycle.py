"""The life of a granted hold: renewed, released, ended, taken for an order or at the till, here or elsewhere."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from stock import commitments
from stock.events import StockFact
from stock.ledger import Ledger, LimitReached
from tests.stock.facts import Desk, at, fact, policy, renewed, rules, us

A, B = "SKU|A", "SKU|B"
YEAR_S = 365 * 86_400


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def granted(units: int = 3, ends: float | None = None, there: int = 9, **own: Any) -> Desk:
    """Units lie at A, and at B; some are promised to R at A."""
    desk = Desk()
    desk.tell(fact("wms.receipt", 0, there), fact("wms.receipt", 0, 9, location="B"))
    expires = {} if ends is None else {"expires_at": at(ends)}
    desk.tell(fact("reservation.requested", 1, units, **expires, **own))
    return desk


def sale(seconds: float, units: int, **own: Any) -> StockFact:
    """Somebody carries units of R out of A."""
    return fact("pos.sale", seconds, units, reservation="R", **own)


# What happens to a hold of 3 of 9 at A that ends at 60, then on_hand and committed at A, and at B, at 50 seconds.
LIVES: list[Any] = [
    case("nothing", [], (9, 3), (9, 0)),
    case("renewed", [renewed(2, 90)], (9, 3), (9, 0)),
    case("ended", [renewed(2, 40)], (9, 0), (9, 0)),
    case("released in part", [fact("reservation.released", 2, 1)], (9, 2), (9, 0)),
    case("released", [fact("reservation.released", 2)], (9, 0), (9, 0)),
    case("released by more than there is", [fact("reservation.released", 2, 8)], (9, 0), (9, 0)),
    case("released twice", [fact("reservation.released", 2, 2), fact("reservation.released", 3, 2)], (9, 0), (9, 0)),
    case("released under a name that nobody knows", [fact("reservation.released", 2, reservation="X")], (9, 3), (9, 0)),
    case("renewed under a name that nobody knows", [renewed(2, 90, reservation="X")], (9, 3), (9, 0)),
    case("becomes an allocation", [fact("order.allocated", 2, 3, reservation="R")], (9, 3), (9, 0)),
    case("becomes one in part", [fact("order.allocated", 2, 1, reservation="R")], (9, 3), (9, 0)),
    case("becomes one, which is given up", [fact("order.allocated", 2, 3, reservation="R"),
         fact("order.deallocated", 3, 3)], (9, 0), (9, 0)),
    case("becomes one, which is fulfilled", [fact("order.allocated", 2, 3, reservation="R"),
         fact("order.fulfilled", 3, 3)], (6, 0), (9, 0)),
    case("fulfilled without an allocation", [fact("order.fulfilled", 2, 3, reservation="R")], (6, 0), (9, 0)),
    case("allocated at another node", [fact("order.allocated", 2, 3, reservation="R", location="B")], (9, 0), (9, 3)),
    case("fulfilled from another node", [fact("order.allocated", 2, 3, reservation="R", location="B"),
         fact("wms.shipment", 3, 3, order_line="L", location="B")], (9, 0), (6, 0)),
    case("shipped from another node at once", [fact("wms.shipment", 2, 3, reservation="R", location="B")],
         (9, 0), (6, 0)),
    case("picked up at the till", [sale(2, 3)], (6, 0), (9, 0)),
    case("picked up in part", [sale(2, 1)], (8, 2), (9, 0)),
    case("more is picked up than was held", [sale(2, 5)], (4, 0), (9, 0)),
    case("picked up by a name that nobody knows", [fact("pos.sale", 2, 3, reservation="X")], (6, 3), (9, 0)),
    case("picked up at another store", [sale(2, 3, location="B")], (9, 0), (6, 0)),
    case("picked up in two steps", [sale(2, 1), sale(3, 2)], (6, 0), (9, 0)),
    case("the pick-up is voided: its hold does not come back", [sale(2, 3), fact("pos.void", 3, 3, voids="s",
         voided_type="pos.sale", voided_at=at(2))], (9, 0), (9, 0)),
    case("part allocated, part released", [fact("order.allocated", 2, 2, reservation="R"),
         fact("reservation.released", 3)], (9, 2), (9, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "here", "there"), LIVES)
def test_a_hold_lives_as_its_facts_say(facts: list[StockFact], here: tuple[int, int], there: tuple[int, int]) -> None:
    """In whatever order they arrive."""
    for order in permutations(facts):
        desk = granted(ends=60)
        desk.tell(*order)
        records = [desk.record(key, 50) for key in (A, B)]
        assert [(one.on_hand, one.committed) for one in records] == [here, there]


@pytest.mark.parametrize(
    "facts",
    [
        case("picked up", [sale(2, 3)]),
        case("fulfilled", [fact("order.fulfilled", 2, 3, reservation="R")]),
        case("allocated and shipped", [fact("order.allocated", 2, 3, reservation="R"), fact("wms.shipment", 3, 3,
             order_line="L")]),
    ],
)  # fmt: skip
def test_a_hold_never_blocks_its_own_consumption(facts: list[StockFact]) -> None:
    """All that is there is held: whoever it is held for takes it, and at no step is anything missing."""
    desk = granted(3, there=3)
    assert desk.record(A, 1).available_to_ship == 0
    for one in facts:
        desk.tell(one)
        assert (desk.record(A, 4).shortage, desk.record(A, 4).available_to_ship) == (0, 0)
    assert (desk.record(A, 4).on_hand, desk.record(A, 4).committed) == (0, 0)


@pytest.mark.parametrize(
    ("who", "mode"), [case("wholesale", "wholesale", "ship"), case("to be paid at the bank", "web", "pickup")]
)
def test_a_hold_without_an_end_stays_until_it_is_taken_or_released(who: str, mode: str) -> None:
    """However long that takes, and its promise as long."""
    desk = granted(3, channel=who, mode=mode)
    for years in range(1, 4):
        assert desk.record(A, years * YEAR_S).committed == 3
    again = fact("reservation.requested", 3 * YEAR_S, 3, channel=who, mode=mode)
    desk.ledger.answers.clear()
    desk.tell(again)
    assert [answer.repeats for _, answer in desk.ledger.answers] == [True]
    desk.tell(fact("reservation.released", 3 * YEAR_S + 1))
    assert desk.record(A, 3 * YEAR_S + 2).committed == 0


def test_wholesale_leaves_shops_what_they_keep_for_their_own() -> None:
    """A policy of the channel keeps a safety stock from it that others may sell."""
    desk = Desk(Ledger(rules(policy("retail-first", {"channel": "wholesale"}, safety_stock=6))))
    desk.tell(fact("wms.receipt", 0, 10))
    wholesale = {"channel": "wholesale", "reservation": "W"}
    desk.tell(fact("reservation.requested", 1, 5, **wholesale), fact("reservation.requested", 2, 4, **wholesale))
    desk.tell(fact("reservation.requested", 3, 6, channel="web"), fact("reservation.requested", 4, 1, reservation="Q"))
    told = [(answer.verdict, answer.available) for _, answer in desk.ledger.answers]
    assert told == [("rejected", 4), ("accepted", 4), ("accepted", 6), ("rejected", 0)]
    assert desk.record(A, 5).shortage == 0


def test_a_sku_has_only_so_many_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for one more is refused; one for a line that is known is answered, and other SKUs are free."""
    monkeypatch.setattr(commitments, "ORDERS_PER_SKU_MAX", 1)
    desk = granted(3)
    with pytest.raises(LimitReached):
        desk.tell(fact("reservation.requested", 2, 1, reservation="Q"))
    desk.next[2] += 1
    assert desk.tell(fact("reservation.requested", 2, 3)) == ["applied"]
    desk.tell(fact("wms.receipt", 0, 9, sku="OTHER"))
    assert desk.tell(fact("reservation.requested", 3, 1, sku="OTHER")) == ["applied"]


def test_an_end_frees_the_units_at_its_very_moment() -> None:
    """For everybody; not a microsecond early."""
    desk = granted(3, ends=60, there=3)
    desk.ledger.advance(us(60) - 1)
    assert desk.ledger.view(A).ship.available == 0
    desk.ledger.advance(us(60))
    assert desk.ledger.view(A).ship.available == 3
