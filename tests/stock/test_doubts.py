"""When holds, order lines, transfers, counts and locations get an alert, what it says, and what ends it."""

# ruff: noqa: E501 - a case is read as one row of its table

from __future__ import annotations

from typing import Any

import pytest

from stock.alerts import OPEN_MAX, Alerts, name_of, parts_of, reference_of, state_key_of
from stock.commitments import hold_key, line_key
from stock.doubts import Thresholds
from stock.events import StockFact
from stock.ledger import Ledger, check_packed
from stock.policies import Policies
from stock.supply import transfer_key
from tests.stock.facts import KEY, Desk, fact, hold, location, policy, renewed, rules, told, us, void

HOUR, DAY = 3_600.0, 86_400.0
Step = StockFact | float  # a fact, or a moment to look at everything
Told = tuple[str, str, int]  # state, kind, units


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def told_after(steps: list[Step], desk: Desk | None = None) -> list[Told]:
    """Every state of an alert, but of low stock and shortages, that readers were told on the way."""
    desk = desk or told()
    heard: list[Told] = []
    for step in steps:
        if isinstance(step, StockFact):
            desk.tell(step)
            continue
        desk.ledger.advance(us(step))
        desk.ledger.judge_suspects(us(step))
        for owed in desk.ledger.alerts.owed():
            kind = parts_of(owed.name).kind
            if kind not in ("low_stock", "shortage"):
                heard.append((owed.state, kind, owed.units))
            desk.ledger.alerts.told(owed)
    return heard


def open_(kind: str, units: int) -> Told:
    return "open", kind, units


def closed(kind: str, units: int) -> Told:
    return "closed", kind, units


RELEASE = "reservation.released"


@pytest.mark.parametrize(
    ("steps", "heard"),
    [
        case("a hold without an end, a day later", [hold(0, 2), DAY - 1, DAY], [open_("orphaned_hold", 2)]),
        case("one with an end far off", [hold(0, 2, 30 * DAY), 2 * DAY], []),
        case("it is released", [hold(0, 2), DAY, fact(RELEASE, DAY), DAY + 1], [open_("orphaned_hold", 2), closed("orphaned_hold", 2)]),
        case("it is released before", [hold(0, 2), fact(RELEASE, 9), DAY], []),
        case("it gets an end", [hold(0, 2), DAY, renewed(DAY, 2 * DAY), DAY + 1], [open_("orphaned_hold", 2), closed("orphaned_hold", 2)]),
        case("it is stated anew", [hold(0, 2), DAY, hold(DAY, 2), DAY + 1, 2 * DAY], [open_("orphaned_hold", 2), closed("orphaned_hold", 2), open_("orphaned_hold", 2)]),
        case("it moves elsewhere", [hold(0, 2), hold(5, 2, location="B"), DAY + 5], [open_("orphaned_hold", 2)]),
        case("an allocation, a week later", [fact("order.allocated", 0, 3), 7 * DAY - 1, 7 * DAY], [open_("orphaned_allocation", 3)]),
        case("it is fulfilled in part", [fact("order.allocated", 0, 3), 7 * DAY, fact("order.fulfilled", 7 * DAY, 1), 8 * DAY], [open_("orphaned_allocation", 3)]),
        case("it is fulfilled", [fact("order.allocated", 0, 3), 7 * DAY, fact("order.fulfilled", 7 * DAY, 3), 8 * DAY], [open_("orphaned_allocation", 3), closed("orphaned_allocation", 3)]),
        case("it was old when it came", [8 * DAY, fact("order.allocated", 0, 3), 8 * DAY], [open_("orphaned_allocation", 3)]),
    ],
)  # fmt: skip
def test_what_stays_open_too_long_is_orphaned(steps: list[Step], heard: list[Told]) -> None:
    """From the age on that is set, until it is closed, or stated anew; the units are those of the opening."""
    assert told_after(steps) == heard


SALE = fact("pos.sale", 0, 3, order_line="L")


@pytest.mark.parametrize(
    ("steps", "heard"),
    [
        case("a sale claims a hold nobody stated", [fact("pos.sale", 0, 3, reservation="R"), HOUR - 1, HOUR], [open_("unclaimed", 3)]),
        case("the hold is stated in time", [fact("pos.sale", 9, 3, reservation="R"), hold(0, 3, DAY), 2 * HOUR], []),
        case("the hold is stated late", [fact("pos.sale", 9, 3, reservation="R"), 2 * HOUR, hold(0, 3, DAY), 2 * HOUR], [open_("unclaimed", 3), closed("unclaimed", 3)]),
        case("too little was held", [hold(0, 2, DAY), fact("pos.sale", 9, 3, reservation="R"), 2 * HOUR], [open_("unclaimed", 1)]),
        case("all that is left is released", [hold(0, 2, DAY), fact("pos.sale", 9, 2, reservation="R"), fact(RELEASE, 10), 2 * HOUR], []),
        case("more is released than was left", [hold(0, 2, DAY), fact(RELEASE, 9, 2), fact(RELEASE, 10, 2), 2 * HOUR], [open_("unclaimed", 2)]),
        case("an unknown hold is released whole", [fact(RELEASE, 0), HOUR], [open_("unclaimed", 0)]),
        case("an unknown hold is renewed", [renewed(0, DAY), HOUR], [open_("unclaimed", 0)]),
        case("a newer statement settles it", [hold(0, 2, DAY), fact(RELEASE, 9, 5), hold(20, 2, DAY), 2 * HOUR], []),
        case("a sale of an order line nobody allocated", [SALE, HOUR], [open_("unclaimed", 3)]),
        case("the sale is voided", [SALE, void("pos.sale", 9, 3, 0, order_line="L"), HOUR], [open_("unclaimed", 0)]),
        case("more fulfilled than allocated", [fact("order.allocated", 0, 2), fact("order.fulfilled", 1, 5), HOUR + 1], [open_("unclaimed", 3)]),
        case("what was too much is voided", [fact("order.allocated", 0, 2), fact("pos.sale", 1, 5, order_line="L"), void("pos.sale", 9, 5, 1, order_line="L"), HOUR + 1], []),
        case("it arrives and is allocated after all", [fact("order.fulfilled", 5, 2), HOUR + 5, fact("transfer.received", 0, 2, order_line="L"), fact("transfer.shipped", 0, 2), HOUR + 5], [open_("unclaimed", 2), closed("unclaimed", 2)]),
        case("a transfer nobody shipped", [fact("transfer.received", 0, 4), HOUR - 1, HOUR], [open_("unclaimed", 4)]),
        case("the shipment is told late", [fact("transfer.received", 9, 4), 2 * HOUR, fact("transfer.shipped", 0, 4), 2 * HOUR], [open_("unclaimed", 4), closed("unclaimed", 4)]),
        case("it is forgotten", [fact("transfer.received", 0, 4), HOUR, DAY + HOUR], [open_("unclaimed", 4), closed("unclaimed", 4)]),
        case("an old claim is due at once", [DAY, SALE, DAY], [open_("unclaimed", 3)]),
    ],
)  # fmt: skip
def test_what_is_asked_for_in_vain_is_unclaimed(steps: list[Step], heard: list[Told]) -> None:
    """An hour after the first such fact since the newest statement, whichever came first."""
    assert told_after(steps) == heard


def shipped(units: int) -> StockFact:
    return fact("transfer.shipped", 0, units)


def received(seconds: float, units: int, *, final: bool = False) -> StockFact:
    return fact("transfer.received", seconds, units, location="B", final=final)


@pytest.mark.parametrize(
    ("steps", "heard"),
    [
        case("the rest is still to come", [shipped(9), received(5, 7), 9], []),
        case("the rest is missing", [shipped(9), received(5, 7, final=True), 9], [open_("transfer_short", 2)]),
        case("nothing is", [shipped(9), received(5, 9, final=True), 9], []),
        case("it turns up", [shipped(9), received(5, 7, final=True), 9, received(10, 2), 11], [open_("transfer_short", 2), closed("transfer_short", 2)]),
        case("some of it turns up", [shipped(9), received(5, 7, final=True), 9, received(10, 1), 11], [open_("transfer_short", 2)]),
        case("it is cancelled", [shipped(9), received(5, 7, final=True), 9, fact("transfer.cancelled", 10, 2), 11], [open_("transfer_short", 2), closed("transfer_short", 2)]),
        case("it is forgotten", [shipped(9), received(5, 7, final=True), 9, 2 * DAY], [open_("transfer_short", 2), closed("transfer_short", 2)]),
        case("another receipt came from before", [shipped(9), received(5, 7, final=True), 9, received(4, 2), 11], [open_("transfer_short", 2), closed("transfer_short", 2)]),
    ],
)  # fmt: skip
def test_what_a_final_receipt_left_over_is_short(steps: list[Step], heard: list[Told]) -> None:
    """At once, until it is received or cancelled after all, or forgotten."""
    assert told_after(steps) == heard


COUNT = fact("wms.count", 0, 100)


def counted(seconds: float, units: int) -> StockFact:
    return fact("wms.count", seconds, units)


@pytest.mark.parametrize(
    ("steps", "heard"),
    [
        case("the first count has nothing to differ from", [COUNT, 1], []),
        case("as expected", [COUNT, fact("pos.sale", 5, 10), counted(9, 90), 10], []),
        case("at the edge: 5 %", [COUNT, counted(9, 95), 10], []),
        case("beyond it, too few", [COUNT, counted(9, 94), 10], [open_("count_variance", -6)]),
        case("beyond it, too many", [COUNT, counted(9, 106), 10], [open_("count_variance", 6)]),
        case("few units are let pass", [counted(0, 3), counted(9, 1), 10], []),
        case("after a receipt", [fact("wms.receipt", 0, 3), counted(9, 6), 10], [open_("count_variance", 3)]),
        case("after sales only, nothing was expected", [fact("pos.sale", 0, 3), counted(9, 6), 10], []),
        case("what is sold later has no part in it", [COUNT, fact("pos.sale", 20, 50), counted(9, 100), 21], []),
        case("what was sold before, and is told later, neither", [COUNT, counted(9, 90), 10, fact("pos.sale", 5, 10), 11], [open_("count_variance", -10)]),
        case("an older count", [counted(9, 100), counted(0, 50), 10], []),
        case("what a cancelled transfer gave back is expected", [COUNT, shipped(30), fact("transfer.cancelled", 5, 30), counted(9, 100), 10], []),
        case("the next good count ends it", [COUNT, counted(9, 90), 10, counted(20, 90), 21], [open_("count_variance", -10), closed("count_variance", -10)]),
        case("the next bad one has its own instead", [COUNT, counted(9, 90), 10, counted(20, 70), 21], [open_("count_variance", -10), closed("count_variance", -10), open_("count_variance", -20)]),
        case("a good one ends it", [COUNT, counted(9, 90), 10, counted(20, 70), 21, counted(30, 70), 31], [open_("count_variance", -10), closed("count_variance", -10), open_("count_variance", -20), closed("count_variance", -20)]),
    ],
)  # fmt: skip
def test_a_count_that_differs_is_told(steps: list[Step], heard: list[Told]) -> None:
    """By what was known of its moment when it came, beyond 2 units and 5 %."""
    assert told_after(steps) == heard


def test_no_count_is_compared_while_topics_are_read_one_far_ahead_of_another() -> None:
    """Its sales may stand in a topic that is read later."""
    desk = Desk()
    desk.tell(COUNT)
    desk.ledger.catching_up = True
    desk.tell(counted(9, 70))
    assert desk.ledger.alerts.owed() == []
    desk.ledger.catching_up = False
    desk.tell(counted(20, 50))
    assert [one.units for one in desk.ledger.alerts.owed()] == [-20]


def test_an_alert_of_a_count_says_what_it_compared() -> None:
    """The count's id and source, both numbers, the accuracy; opened as of the record, under an id that says so."""
    desk = told(COUNT, fact("wms.count", 9, 60, id="stock-take", source="wms/A"))
    [alert] = desk.ledger.alerts.owed()
    assert alert.references == {
        "count": "stock-take", "source": "wms/A", "expected": "100", "counted": "60", "accuracy": "0.6000",
    }  # fmt: skip
    assert (alert.opened_us, alert.id) == (us(9), f"{KEY}|count_variance|count/5/wms/Astock-take|{us(9)}")
    assert desk.ledger.counted_units == [100, 40]


def test_thresholds_are_those_that_are_set() -> None:
    """The larger of units and percent counts; what should be below 0 has no percent."""
    exact, loose = Thresholds(0, 0), Thresholds(count_variance_units=1, count_variance_percent=50)
    assert [exact.allows(5, counted) for counted in (4, 5, 6)] == [False, True, False]
    assert [loose.allows(10, counted) for counted in (4, 5, 15, 16)] == [False, True, True, False]
    assert [loose.allows(-9, counted) for counted in (-8, -7)] == [True, False]


def test_a_count_that_comes_too_late_is_told_with_its_id() -> None:
    """Until the next count that is applied."""
    ledger = Ledger(Policies(), facts_max=1)
    desk = Desk(ledger)
    desk.tell(COUNT, *(fact("pos.sale", seconds, 1) for seconds in range(1, 6)))
    ledger.flush()
    desk.tell(fact("pos.sale", 50, 1))
    ledger.flush()
    assert told_after([fact("wms.count", 3, 90, id="late"), 60], desk) == [open_("count_too_old", 90)]
    [(about, alert)] = ledger.alerts.open_at(KEY)
    assert (about.kind, alert.references) == ("count_too_old", {"count": "late", "source": "someone"})
    assert told_after([fact("wms.count", 70, 94), 71], desk) == [closed("count_too_old", 90)]


def test_a_location_nobody_described_is_told_once() -> None:
    """However many SKUs are told of there, if others are described; until it is."""
    desk = Desk(Ledger(Policies()))
    ledger = desk.ledger
    desk.tell(COUNT, fact("wms.count", 0, 9, sku="OTHER"), fact("transfer.shipped", 1, 1))
    assert told_after([2.0], desk) == []
    ledger.policies.set_location(location("C"))
    assert told_after([3.0, 4.0], desk) == [open_("unknown_location", 0), open_("unknown_location", 0)]
    assert {about.location for about, _ in ledger.alerts.open_at("SKU|A") + ledger.alerts.open_at("SKU|B")} == {
        "A",
        "B",
    }
    ledger.policies.set_location(location("A"))
    assert told_after([5.0], desk) == [closed("unknown_location", 0)]
    ledger.policies.remove_location("A")
    assert told_after([6.0], desk) == [open_("unknown_location", 0)]
    ledger.policies.remove_location("C")
    assert told_after([7.0], desk) == [closed("unknown_location", 0)] * 2


@pytest.mark.parametrize(
    "state_key",
    [
        case("a hold", hold_key("SKU", "R-1", None)),
        case("a hold with a line", hold_key("SKU", "R-1", "2")),
        case("ids with slashes and bars", hold_key("SKU", "a/b|c", "d/|e")),
        case("an order line", line_key("SKU", "O/1|2")),
        case("a transfer", transfer_key("SKU", "T/|1")),
    ],
)
def test_a_reference_leads_back_to_its_state_key(state_key: str) -> None:
    """So a restart finds what its alerts are about."""
    name = name_of("SKU|A", "unclaimed", reference_of(state_key))
    about = parts_of(name)
    assert (about.key, about.kind) == (KEY, "unclaimed")
    assert state_key_of(about.sku, about.reference) == state_key


def test_a_restart_goes_on_with_alerts_of_references() -> None:
    """The open ones end when their cause does, also while nobody was there; what is due opens."""
    desk = told(hold(0, 2), fact("order.allocated", 0, 3))
    desk.tell(fact("transfer.received", HOUR, 4), fact(RELEASE, HOUR, reservation="X"))
    assert len(told_after([DAY - 1], desk)) == 2  # the transfer, and what names X
    records = dict(desk.ledger.flush())
    again = Ledger(Policies())
    again.restore({key: packed for key, packed in records.items() if packed is not None}, (), us(DAY))
    second = Desk(again)
    second.next = desk.next
    heard = told_after([DAY, fact("transfer.shipped", 0, 4), fact(RELEASE, DAY), DAY + 1, DAY + HOUR], second)
    assert sorted(heard[:-1]) == [closed("orphaned_hold", 2), closed("unclaimed", 4), open_("orphaned_hold", 2)]
    assert heard[-1] == closed("unclaimed", 0)  # what names X is forgotten


def test_counts_with_odd_ids_have_alerts_like_others() -> None:
    """An id may have any characters, also those by which state keys are told apart."""
    odd = "|\x1fhold\x1f7\x1f|alert|/"
    desk = told(COUNT, fact("wms.count", 9, 60, id=odd, source=odd))
    records = {key: packed for key, packed in desk.ledger.flush() if packed is not None}
    for key, packed in records.items():
        check_packed(key, packed)
    again = Ledger(Policies())
    again.restore(records, (), us(20))
    [(about, alert)] = again.alerts.open_at(KEY)
    assert (about.kind, alert.references["count"], alert.references["source"]) == ("count_variance", odd, odd)
    second = Desk(again)
    second.next = desk.next
    second.tell(fact("wms.count", 30, 60))
    assert [one.state for one in again.alerts.owed()] == ["open", "closed"]


def test_what_the_ledger_finds_out_itself_becomes_an_alert() -> None:
    """A key, a kind, a reference and units; none of them is the end of it."""
    desk = told(COUNT)
    ledger = desk.ledger
    named = {"echo": "sale-9"}
    for units in (3, 5):
        ledger.tell_alert(KEY, "unmatched_echo", "sale-9", units, us(units), named)
    [alert] = ledger.alerts.owed()
    assert (alert.id, alert.units, alert.references) == (f"{KEY}|unmatched_echo|sale-9|{us(3)}", 3, named)
    ledger.tell_alert(KEY, "unmatched_echo", "sale-8", 0, us(6), {})
    ledger.tell_alert(KEY, "unmatched_echo", "sale-9", 0, us(6), {})
    assert [(one.state, one.closed_us) for one in ledger.alerts.owed()] == [("open", None), ("closed", us(6))]


def test_so_many_alerts_of_a_kind_are_open_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have room of their own; when one closes there is room again."""
    monkeypatch.setattr("stock.alerts.OPEN_MAX", 2)
    assert OPEN_MAX == 10_000
    alerts = Alerts()
    for place in "ABC":
        alerts.open(f"SKU|{place}", "low_stock", 1, 10)
    alerts.open("SKU|C", "shortage", 1, 10)
    assert (len(alerts), alerts.left_out, alerts.open_by_kind) == (3, 1, {"low_stock": 2, "shortage": 1})
    alerts.close("SKU|A|low_stock", 20)
    alerts.open("SKU|C", "low_stock", 1, 30)
    assert alerts.open_by_kind == {"low_stock": 2, "shortage": 1}


def test_nothing_is_kept_of_what_is_in_no_doubt() -> None:
    """A usual hold and a usual sale leave no timer that looks for doubts, and nothing to look at."""
    desk = told(COUNT, hold(1, 2, 900), fact("pos.sale", 2, 2, reservation="R"), fact("pos.sale", 3, 1))
    desk.ledger.advance(us(600))
    assert not desk.ledger.commitments.suspects
    assert not desk.ledger.supply.suspects
    assert len(desk.ledger.alerts) == 0


def test_low_stock_is_that_of_the_better_mode() -> None:
    """While one mode has plenty nobody needs to look."""
    desk = Desk(Ledger(rules(policy("p", {"mode": "ship"}, safety_stock=7))))
    desk.tell(fact("wms.count", 0, 9))
    seen, _ = desk.ledger.settle(KEY)
    assert (seen.ship.available, seen.pickup.available) == (2, 9)
    desk.ledger.judge(KEY, seen, us(1))
    assert desk.ledger.alerts.owed() == []
    desk.tell(fact("pos.sale", 2, 7))
    desk.ledger.judge(KEY, desk.ledger.settle(KEY)[0], us(3))
    [alert] = desk.ledger.alerts.owed()
    assert (parts_of(alert.name).kind, alert.units) == ("low_stock", 2)
