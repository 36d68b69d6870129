"""What one partition's ledger does with facts: outcomes, records, causes, ends of holds, the low-stock band."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.records import Cause, Sources, micros
from stock import commitments
from stock.events import StockFact
from stock.ledger import APPLIED, DUPLICATE, Ledger, LimitReached
from tests.stock.facts import KEY, Desk, at, fact, hold, location, policy, renewed, rules, told, us, void


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


RECEIPT = fact("wms.receipt", 0, 9)
SALE = fact("pos.sale", 5, 2)

OUTCOMES = [
    case("a fact", [SALE], ["applied"]),
    case("told twice", [SALE, SALE], ["applied", "duplicate"]),
    case("the same id, other content", [SALE, fact("pos.sale", 6, 7, id=SALE.id)], ["applied", "duplicate"]),
    case("elsewhere", [SALE, fact("pos.sale", 5, 2, id=SALE.id, location="B")], ["applied", "duplicate"]),
    case("another type", [SALE, fact("pos.return", 6, 2, id=SALE.id)], ["applied", "duplicate"]),
    case("another source", [SALE, fact("pos.sale", 5, 2, id=SALE.id, source="other")], ["applied", "applied"]),
    case("another SKU", [SALE, fact("pos.sale", 5, 2, id=SALE.id, sku="OTHER")], ["applied", "applied"]),
    case("before the count", [fact("wms.count", 9, 3), SALE], ["applied", "absorbed"]),
    case("at the count", [fact("wms.count", 5, 3), SALE], ["applied", "applied"]),
    case("an older count", [fact("wms.count", 9, 3), fact("wms.count", 8, 3)], ["applied", "absorbed"]),
    case("a repeat of what was absorbed", [fact("wms.count", 9, 3), SALE, SALE], ["applied", "absorbed", "duplicate"]),
    case("a hold before the count", [fact("wms.count", 9, 3), hold(1, 2)], ["applied", "applied"]),
]


@pytest.mark.parametrize(("facts", "outcomes"), OUTCOMES)
def test_every_fact_has_one_outcome(facts: list[StockFact], outcomes: list[str]) -> None:
    """And the totals are their sum."""
    desk = Desk()
    assert desk.tell(*facts) == outcomes
    assert sum(desk.ledger.totals.by_outcome) == len(facts)
    assert desk.ledger.totals.positions == desk.next


def test_another_fact_at_a_place_read_before_is_not_taken_for_done() -> None:
    """A broker with a full disk gives one offset to two records: the second counts, be it new or a repeat."""
    desk = Desk()
    desk.tell(RECEIPT, SALE)
    other = fact("pos.sale", 6, 1)
    for event, outcome in ((SALE, DUPLICATE), (other, APPLIED), (other, DUPLICATE)):
        assert desk.ledger.apply(event, 0, 0, us(6)) == outcome
    assert desk.ledger.balance(KEY).on_hand == 6


# What is told, then on_hand, unavailable, committed, available to ship.
STORIES = [
    case("a sale of more than it held", [RECEIPT, hold(1, 2), fact("pos.sale", 2, 3, reservation="R")], (6, 0, 0, 6)),
    case("a sale of less than it held", [RECEIPT, hold(1, 3), fact("pos.sale", 2, 2, reservation="R")], (7, 0, 1, 6)),
    case(
        "a hold sold elsewhere",
        [RECEIPT, hold(1, 3), fact("pos.sale", 2, 3, reservation="R", location="B")],
        (9, 0, 0, 9),
    ),
    case("a hold that oversells", [RECEIPT, hold(1, 12)], (9, 0, 12, 0)),
    case("a hold of another line", [RECEIPT, hold(1, 2, line="1"), hold(1, 3, line="2")], (9, 0, 5, 4)),
    case("a hold moves away", [RECEIPT, hold(1, 2), hold(2, 2, location="B")], (9, 0, 0, 9)),
    case(
        "a void restores no hold",
        [RECEIPT, hold(1, 2), fact("pos.sale", 2, 2, reservation="R"), void("pos.sale", 3, 2, 2, reservation="R")],
        (9, 0, 0, 9),
    ),
    case(
        "a void restores an allocation",
        [
            RECEIPT,
            fact("order.allocated", 1, 2),
            fact("pos.sale", 2, 2, order_line="L"),
            void("pos.sale", 3, 2, 2, order_line="L"),
        ],
        (9, 0, 2, 7),
    ),
    case("a void of an unknown sale", [RECEIPT, void("pos.sale", 3, 2, 2)], (11, 0, 0, 11)),
    case(
        "a void of a sale that the count includes", [fact("wms.count", 9, 5), void("pos.sale", 10, 2, 2)], (5, 0, 0, 5)
    ),
    case(
        "an allocation uses its hold",
        [RECEIPT, hold(1, 3), fact("order.allocated", 2, 3, reservation="R")],
        (9, 0, 3, 6),
    ),
    case(
        "an allocation elsewhere uses its hold",
        [RECEIPT, hold(1, 3), fact("order.allocated", 2, 3, reservation="R", location="B")],
        (9, 0, 0, 9),
    ),
    case("fulfilled", [RECEIPT, fact("order.allocated", 1, 3), fact("order.fulfilled", 2, 3)], (6, 0, 0, 6)),
    case(
        "fulfilled elsewhere",
        [RECEIPT, fact("order.allocated", 1, 3), fact("order.fulfilled", 2, 3, location="B")],
        (9, 0, 0, 9),
    ),
    case(
        "a shipment of its order line",
        [RECEIPT, fact("order.allocated", 1, 3), fact("wms.shipment", 2, 2, order_line="L")],
        (7, 0, 1, 6),
    ),
    case("a damaged return", [RECEIPT, fact("pos.return", 1, 2, state="damaged")], (11, 2, 0, 9)),
    case(
        "written off",
        [RECEIPT, fact("pos.return", 1, 2, state="damaged"), fact("wms.adjustment", 2, -2, state="damaged")],
        (9, 0, 0, 9),
    ),
    case(
        "found damaged",
        [RECEIPT, fact("wms.status_changed", 1, 3, from_state="sellable", to_state="damaged")],
        (9, 3, 0, 6),
    ),
    case("states outlive a count", [fact("pos.return", 1, 2, state="damaged"), fact("wms.count", 9, 9)], (9, 2, 0, 7)),
    case("and change behind it", [fact("wms.count", 9, 9), fact("pos.return", 1, 2, state="damaged")], (9, 2, 0, 7)),
    case("a claim before its hold", [RECEIPT, fact("pos.sale", 3, 2, reservation="R"), hold(1, 3)], (7, 0, 1, 6)),
    case("a release before its hold", [RECEIPT, fact("reservation.released", 3), hold(1, 3)], (9, 0, 0, 9)),
]


@pytest.mark.parametrize(("facts", "numbers"), STORIES)
def test_a_record_follows_its_facts(facts: list[StockFact], numbers: tuple[int, int, int, int]) -> None:
    """The numbers of SKU at A, in the order told and in reverse."""
    for order in (facts, facts[::-1]):
        record = told(*order).record(seconds=100)
        assert (record.on_hand, record.unavailable, record.committed, record.available_to_ship) == numbers


def test_both_ends_of_a_cross_location_fact_are_touched() -> None:
    """The one that moves stock and the one whose hold it frees, each with the record's time."""
    desk = told(RECEIPT, hold(1, 3))
    desk.ledger.touched.clear()
    desk.tell(fact("pos.sale", 2, 3, reservation="R", location="B"))
    assert desk.ledger.touched == {"SKU|B": us(2), KEY: us(2)}


def test_touched_keeps_the_oldest_time() -> None:
    """Latency is measured from the first input that waits."""
    desk = told(fact("pos.sale", 1, 1), fact("pos.sale", 2, 1))
    assert desk.ledger.touched == {KEY: us(1)}


def test_a_repeat_touches_nothing() -> None:
    """There is nothing to look at."""
    desk = told(SALE)
    desk.ledger.touched.clear()
    desk.tell(SALE)
    assert desk.ledger.touched == {}


def test_sources_keep_the_newest_time_of_each_kind() -> None:
    """Whatever arrives last; a void speaks when it was said."""
    desk = told(fact("pos.sale", 5, 1), fact("pos.sale", 3, 1), void("pos.sale", 9, 1, 5))
    desk.tell(fact("wms.receipt", 7, 1), hold(8, 1), fact("order.allocated", 6, 1))
    assert desk.record().sources == Sources(pos=at(9), wms=at(7), orders=at(8))
    assert told(fact("pos.sale", 5, 1)).record().sources == Sources(pos=at(5), wms=None, orders=None)


def test_a_limit_refuses_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hold too many changes nothing; the record stays to be counted as a dead letter."""
    monkeypatch.setattr(commitments, "ORDERS_PER_SKU_MAX", 1)
    desk = told(hold(1, 2))
    before = desk.record()
    for refused in (hold(2, 2, reservation="Q"), fact("order.allocated", 2, 2)):
        with pytest.raises(LimitReached, match="SKU has too many holds"):
            desk.tell(refused)
    assert desk.record() == before
    assert desk.ledger.refuse(2, 1) is True
    assert sum(desk.ledger.totals.by_outcome) == 2
    assert desk.tell(hold(3, 5))[0] == "applied", "a known hold still takes facts"


def test_keys_that_are_not_admitted_leave_no_trace() -> None:
    """Asked once, at the first fact of a key, before anything is changed."""

    class NotHere(Exception):
        pass

    asked = []

    def admit(sku: str, location: str) -> None:
        asked.append((sku, location))
        if location == "B":
            raise NotHere

    desk = Desk(Ledger(rules(), admit=admit))
    desk.tell(fact("pos.sale", 1, 1), fact("pos.sale", 2, 1))
    with pytest.raises(NotHere):
        desk.tell(fact("pos.sale", 3, 1, location="B"))
    assert asked == [("SKU", "A"), ("SKU", "B")]
    assert (len(desk.ledger), "SKU|B" in desk.ledger) == (1, False)
    assert sum(desk.ledger.totals.by_outcome) == 2


# Causes


CAUSES = [
    case("the last fact", [RECEIPT, SALE], "published", "pos.sale"),
    case("a hold", [RECEIPT, hold(1, 1)], "published", "reservation.created"),
    case("a receipt stays until it is published", [SALE, RECEIPT, SALE], "waiting", "wms.receipt"),
    case("a return stays until it is published", [fact("pos.return", 1, 1), SALE], "waiting", "pos.return"),
    case("the newest of receipts and returns", [RECEIPT, fact("pos.return", 1, 1), SALE], "waiting", "pos.return"),
    case("a hold does not push it away", [RECEIPT, hold(1, 1)], "waiting", "wms.receipt"),
    case("an absorbed fact names nothing", [fact("wms.count", 9, 3), SALE], "published", "wms.count"),
    case(
        "an absorbed fact that changes a state does",
        [fact("wms.count", 9, 3), fact("pos.sale", 1, 1, state="display")],
        "published",
        "pos.sale",
    ),
    case("the first fact always names itself", [fact("reservation.released", 1)], "published", "reservation.released"),
]


@pytest.mark.parametrize(("facts", "each", "cause"), CAUSES)
def test_cause_is_the_newest_fact_but_a_receipt_or_return_is_kept(
    facts: list[StockFact], each: str, cause: str
) -> None:
    """Published after each fact, or waiting for all of them."""
    desk = Desk()
    for one in facts:
        desk.tell(one)
        if each == "published":
            desk.ledger.publishing(KEY)
    assert desk.record().cause.type == cause


def test_cause_names_the_fact_at_the_other_location() -> None:
    """Whoever sold the hold changed this record."""
    desk = told(fact("wms.count", 0, 9), hold(1, 3))
    sale = fact("pos.sale", 2, 3, reservation="R", location="B")
    desk.tell(sale)
    assert desk.record().cause == Cause("pos.sale", sale.id, "someone", at(2))


def test_the_cause_of_a_void_is_when_it_was_said() -> None:
    """Not when the sale was."""
    assert told(void("pos.sale", 9, 1, 2)).record().cause.occurred_at == at(9)


@pytest.mark.parametrize("then", [[], [renewed(59, 300)]], ids=["the hold ends", "and is reopened"])
def test_an_unpublished_receipt_is_the_cause_also_when_a_hold_ends(then: list[StockFact]) -> None:
    """Who waits for goods must not miss the receipt, and no ended hold may stay the cause of what follows."""
    desk = told(hold(0, 1, 60), fact("wms.receipt", 1, 5))
    desk.ledger.advance(us(70))
    desk.tell(*then)
    assert desk.record().cause.type == "wms.receipt"
    desk.ledger.publishing(KEY)
    desk.tell(fact("pos.sale", 80, 1))
    assert desk.record().cause.type == "pos.sale"


def test_a_changed_rule_is_a_cause() -> None:
    """Told from outside, published once, then facts speak again."""
    desk = told(RECEIPT)
    desk.ledger.publishing(KEY)
    desk.ledger.set_cause(KEY, ("policy.set", "p-1", "planning", us(3)))
    assert desk.record().cause == Cause("policy.set", "p-1", "planning", at(3))


# Time


def test_the_end_of_a_hold_changes_its_record_at_that_moment() -> None:
    """Cause: the reservation's end, said by stockflow; nothing else was heard."""
    desk = told(fact("wms.count", 0, 9), hold(1, 3, expires=60))
    desk.ledger.publishing(KEY)
    desk.ledger.touched.clear()
    desk.ledger.advance(us(60) - 1)
    assert (desk.ledger.touched, desk.ledger.view(KEY).committed) == ({}, 3)
    desk.ledger.advance(us(60))
    assert desk.ledger.touched == {KEY: 0}
    record = desk.record(seconds=60)
    assert (record.committed, record.available_to_ship) == (0, 9)
    assert record.cause == Cause("reservation.expired", "R", "stockflow", at(60))
    assert record.sources.orders == at(1)


def test_a_late_valid_renewal_takes_the_units_again() -> None:
    """Told after the end, said before it."""
    desk = told(fact("wms.count", 0, 9), hold(1, 3, expires=60))
    assert desk.record(seconds=70).committed == 0
    desk.tell(renewed(59, 120))
    assert desk.record(seconds=71).committed == 3
    assert desk.record(seconds=120).committed == 0


def test_a_hold_that_ends_elsewhere_touches_only_its_place() -> None:
    """Its key is where it stands now."""
    desk = told(RECEIPT, hold(1, 3, expires=60), hold(2, 3, expires=60, location="B"))
    desk.ledger.touched.clear()
    desk.ledger.advance(us(60))
    assert desk.ledger.touched == {"SKU|B": 0}


# The band


def test_every_event_counts_for_the_band_and_not_every_record() -> None:
    """Low in between and never published as such: still low inside the band."""
    band = rules(policy("p", low_stock_enter=3, low_stock_exit=6))
    desk = Desk(Ledger(band))
    desk.tell(fact("wms.count", 0, 9))
    assert desk.record().status == "IN_STOCK"
    desk.tell(fact("pos.sale", 1, 6), fact("pos.return", 2, 2))
    assert desk.record().status == "LOW_STOCK"


def test_holds_and_their_ends_count_for_the_band() -> None:
    """Whatever moves the number available."""
    band = rules(policy("p", low_stock_enter=3, low_stock_exit=6))
    desk = Desk(Ledger(band))
    desk.tell(fact("wms.count", 0, 9), hold(1, 6, expires=60), hold(2, 4, expires=60))
    assert (desk.record().status, desk.record().available_to_ship) == ("LOW_STOCK", 5)
    desk.tell(hold(3, 6, expires=60, reservation="Q"))
    desk.tell(fact("reservation.released", 4, reservation="Q"))
    assert (desk.record().status, desk.record().available_to_ship) == ("IN_STOCK", 5), "it was out in between"
    desk.tell(hold(5, 6, expires=60))
    desk.ledger.advance(us(60))
    assert desk.record(seconds=60).status == "IN_STOCK"


def test_facts_told_elsewhere_count_for_the_band() -> None:
    """An order line may bind stock here by what happened there."""
    desk = Desk(Ledger(rules(policy("p", low_stock_enter=3, low_stock_exit=6))))
    desk.tell(fact("wms.count", 0, 9), fact("order.allocated", 1, 6))
    desk.tell(fact("wms.shipment", 2, 6, order_line="L", location="B"))
    assert (desk.record().status, desk.record().available_to_ship) == ("IN_STOCK", 9)
    desk.tell(fact("wms.shipment_voided", 3, 6, order_line="L", location="B"))
    desk.tell(fact("order.deallocated", 4, 2, location="B"))
    assert (desk.record().status, desk.record().available_to_ship) == ("LOW_STOCK", 5)


def test_each_mode_has_its_own_band() -> None:
    """A policy for one mode says nothing about the other."""
    desk = Desk(Ledger(rules(policy("p", {"mode": "pickup"}, low_stock_enter=3, low_stock_exit=6))))
    desk.tell(fact("wms.count", 0, 3), fact("wms.receipt", 1, 2))
    assert (desk.record().status_ship, desk.record().status_pickup) == ("IN_STOCK", "LOW_STOCK")


def test_rules_hold_from_the_moment_they_change() -> None:
    """Nothing of an older rule is remembered in a balance."""
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(fact("wms.count", 0, 9))
    policies.set_policy(policy("p", safety_stock=4))
    policies.set_location(location("A", pickup=False))
    record = desk.record()
    assert (record.available_to_ship, record.available_in_store, record.withheld_ship) == (5, 0, 4)
    assert (record.status_pickup, record.policy) == ("OUT_OF_STOCK", "p")
    assert micros(record.changed_at) == us(0)
