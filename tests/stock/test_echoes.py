"""Facts that several systems tell of the same units: one effect for all, in every order, also across restarts."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from schemas.records import micros
from stock import echoes
from stock.echoes import KEPT_US, WINDOW_US, echo_key
from stock.events import StockFact
from stock.ledger import OUTCOMES, OUTCOMES_KEY, Ledger, LimitReached
from stock.policies import Policies
from tests.oracle import topic_of
from tests.stock.facts import KEY, TOPICS, Desk, fact, hold, told, us, void


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def sold(seconds: float, units: int, **own: Any) -> StockFact:
    """A till tells of L."""
    return fact("pos.sale", seconds, units, **{"order_line": "L", **own})


def shipped(seconds: float, units: int, **own: Any) -> StockFact:
    """A warehouse tells of L."""
    return fact("wms.shipment", seconds, units, **{"order_line": "L", **own})


def unshipped(seconds: float, units: int, **own: Any) -> StockFact:
    """A warehouse takes it back."""
    return fact("wms.shipment_voided", seconds, units, **{"order_line": "L", **own})


def fulfilled(seconds: float, units: int, **own: Any) -> StockFact:
    """The order system tells of L."""
    return fact("order.fulfilled", seconds, units, **own)


def unsold(seconds: float, units: int, voided: float, **own: Any) -> StockFact:
    """A till takes it back."""
    return void("pos.sale", seconds, units, voided, **{"order_line": "L", **own})


RECEIPT = fact("wms.receipt", 0, 20)
ALLOCATED = fact("order.allocated", 1, 5)

# What is told, then on_hand, unavailable, committed.
STORIES = [
    case("one system", [RECEIPT, ALLOCATED, shipped(2, 3)], (17, 0, 2)),
    case("two systems", [RECEIPT, ALLOCATED, shipped(2, 3), fulfilled(3, 3)], (17, 0, 2)),
    case("three systems", [RECEIPT, ALLOCATED, shipped(2, 3), fulfilled(3, 3), sold(4, 3)], (17, 0, 2)),
    case("who tells more is right", [RECEIPT, ALLOCATED, shipped(2, 3), fulfilled(3, 4)], (16, 0, 1)),
    case("in parts", [RECEIPT, ALLOCATED, shipped(2, 1), shipped(4, 2), fulfilled(3, 3)], (17, 0, 2)),
    case("one system twice is twice", [RECEIPT, ALLOCATED, shipped(2, 1), shipped(3, 1)], (18, 0, 3)),
    case(
        "both took it back",
        [RECEIPT, ALLOCATED, shipped(2, 3), sold(2, 3), unshipped(4, 3), unsold(5, 3, 4)],
        (20, 0, 5),
    ),
    case("only one took it back", [RECEIPT, ALLOCATED, shipped(2, 3), sold(3, 3), unshipped(4, 3)], (17, 0, 2)),
    case("a void of what is not known", [RECEIPT, unsold(5, 3, 2)], (23, 0, 0)),
    case(
        "a void of a return has no echo",
        [RECEIPT, void("pos.return", 3, 2, 2, order_line="L"), shipped(2, 2)],
        (16, 0, 0),
    ),
    case("another echo", [RECEIPT, shipped(2, 3), fulfilled(3, 3, echo="M")], (14, 0, 0)),
    case(
        "an echo of its own",
        [RECEIPT, sold(2, 3, order_line=None, echo="T-9"), shipped(3, 3, order_line=None, echo="T-9")],
        (17, 0, 0),
    ),
    case("no echo at all", [RECEIPT, sold(2, 3, order_line=None), shipped(3, 3, order_line=None)], (14, 0, 0)),
    case("another location", [RECEIPT, shipped(2, 3), fulfilled(3, 3, location="B")], (17, 0, 0)),
    case("told before and after a count", [shipped(2, 3), fact("wms.count", 4, 10), fulfilled(5, 3)], (10, 0, 0)),
    case("both told after a count", [fact("wms.count", 1, 10), shipped(2, 3), fulfilled(5, 3)], (7, 0, 0)),
    case("one more told after a count", [shipped(2, 3), fact("wms.count", 4, 10), fulfilled(5, 4)], (9, 0, 0)),
    case("taken back after a count", [shipped(2, 3), fact("wms.count", 4, 10), unshipped(5, 3)], (13, 0, 0)),
    case(
        "told of another state",
        [RECEIPT, fact("wms.receipt", 1, 3, state="display"), sold(2, 2), shipped(3, 2, state="display")],
        (21, 1, 0),
    ),
    case(
        "told of one state by both",
        [
            RECEIPT,
            fact("wms.receipt", 1, 3, state="display"),
            sold(2, 2, state="display"),
            shipped(3, 2, state="display"),
        ],
        (21, 1, 0),
    ),
    case(
        "a hold that both name",
        [RECEIPT, hold(1, 5), sold(2, 3, reservation="R"), shipped(3, 3, reservation="R")],
        (17, 0, 2),
    ),
    case(
        "a hold that one of them names", [RECEIPT, hold(1, 5), shipped(2, 3), sold(3, 3, reservation="R")], (17, 0, 2)
    ),
]


@pytest.mark.parametrize(("facts", "numbers"), STORIES)
def test_what_several_systems_tell_moves_once(facts: list[StockFact], numbers: tuple[int, int, int]) -> None:
    """The numbers of SKU at A, whatever the order of arrival."""
    for order in permutations(facts):
        record = told(*order).record(seconds=100)
        assert (record.on_hand, record.unavailable, record.committed) == numbers, [type(one).__name__ for one in order]


@pytest.mark.parametrize(("facts", "numbers"), STORIES)
def test_a_restart_in_the_middle_of_a_flush_tells_nothing_twice(
    facts: list[StockFact], numbers: tuple[int, int, int]
) -> None:
    """Whatever prefix of the state is durable: what follows is told again, and counts once."""
    for seen in range(len(facts) + 1):
        before = told(*facts[:seen])
        records = before.ledger.flush()
        for kept in range(len(records) + 1):
            again = Desk(Ledger(Policies()))
            again.ledger.restore(dict(_values(records[:kept])), (), us(100))
            again.tell(*facts)
            record = again.record(seconds=100)
            assert (record.on_hand, record.unavailable, record.committed) == numbers, (seen, kept)


def _values(records: list[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    return [(key, packed) for key, packed in records if packed is not None]


OUTCOMES_TOLD = [
    case("the second is an echo", [shipped(2, 3), fulfilled(3, 3)], ["applied", "echo"]),
    case("a larger second is not", [shipped(2, 3), fulfilled(3, 4)], ["applied", "applied"]),
    case("an earlier second moves it back in time", [shipped(2, 3), fulfilled(1, 3)], ["applied", "applied"]),
    case("before a count", [fact("wms.count", 9, 5), shipped(2, 3), fulfilled(3, 3)], ["applied", "absorbed", "echo"]),
    case("again is a duplicate", [ALLOCATED, ALLOCATED], ["applied", "duplicate"]),
]


@pytest.mark.parametrize(("facts", "outcomes"), OUTCOMES_TOLD)
def test_an_echo_is_an_outcome_of_its_own(facts: list[StockFact], outcomes: list[str]) -> None:
    """Outcomes exclude each other, so that their sum is what was consumed."""
    assert Desk().tell(*facts) == outcomes


def test_a_late_count_knows_what_was_told_twice() -> None:
    """Also after a restart, when the movements of a group come from its own state."""
    desk = told(RECEIPT, shipped(20, 3), fulfilled(30, 4))
    again = Desk(Ledger(Policies()))
    again.ledger.restore(dict(_values(desk.ledger.flush())), (), us(40))
    again.next = desk.next.copy()
    for one in (desk, again):
        one.tell(fact("wms.count", 25, 10, id="count"))
        assert one.record(seconds=50).on_hand == 9  # one of the four left after the count


def test_a_contradiction_is_told_when_its_window_is_over() -> None:
    """And ends when the systems agree at last; sums that are equal are none."""
    desk = told(RECEIPT, shipped(2, 3), fulfilled(3, 4), shipped(2, 1, order_line="M"), fulfilled(2, 1, order_line="M"))
    ledger = desk.ledger
    ledger.advance(us(3) + WINDOW_US - 1)
    assert ledger.alerts.owed() == []
    ledger.advance(us(3) + WINDOW_US)
    [alert] = ledger.alerts.owed()
    assert (alert.id, alert.units) == (f"{KEY}|unmatched_echo|L|{us(3) + WINDOW_US}", 1)
    assert (alert.state, alert.references) == ("open", {"echo": "L"})
    late_us = us(3) + WINDOW_US + 5
    late = shipped(late_us / 1e6 - us(0) / 1e6, 1)
    desk.tell(late)
    ledger.advance(micros(late.occurred_at) + WINDOW_US)
    assert [one.state for one in ledger.alerts.owed()] == ["open", "closed"]
    assert desk.record(seconds=0).on_hand == 20 - 4 - 1


def test_a_contradiction_ends_when_it_is_forgotten() -> None:
    """Nobody can settle it any more; a restart in between tells the same alert, not another one."""
    desk = told(RECEIPT, shipped(2, 3), fulfilled(3, 4))
    desk.ledger.advance(us(3) + WINDOW_US)
    again = Desk(Ledger(Policies()))
    again.ledger.restore(dict(_values(desk.ledger.flush())), (), us(3) + WINDOW_US + 9)
    again.ledger.advance(us(3) + WINDOW_US + 9)
    assert [one.id for one in again.ledger.alerts.owed()] == [one.id for one in desk.ledger.alerts.owed()]
    again.ledger.advance(us(3) + KEPT_US + 9)
    assert [one.state for one in again.ledger.alerts.owed()] == ["open", "closed"]


def test_what_happened_days_ago_is_paired_and_judged_as_it_is_told() -> None:
    """Its window is over by its own time; it is kept for a day from its telling, also by a process that restarts."""
    desk = told(RECEIPT)
    desk.ledger.advance(us(3) + 3 * WINDOW_US)
    desk.tell(shipped(2, 3))
    desk.ledger.advance(us(4) + 3 * WINDOW_US)
    again = Desk(Ledger(Policies()))
    again.ledger.restore(dict(_values(desk.ledger.flush())), (), us(5) + 3 * WINDOW_US)
    again.next = desk.next.copy()
    for one in (desk, again):
        one.ledger.advance(us(6) + 3 * WINDOW_US)
        assert one.tell(fulfilled(3, 4)) == ["applied"]
        one.ledger.advance(us(7) + 3 * WINDOW_US)
        assert [owed.units for owed in one.ledger.alerts.owed()] == [1]
        assert one.tell(shipped(3, 1)) == ["echo"]
        one.ledger.advance(us(8) + 3 * WINDOW_US)
        assert [owed.state for owed in one.ledger.alerts.owed()] == ["open", "closed"]
        assert one.record().on_hand == 16
        one.ledger.advance(us(9) + 4 * WINDOW_US)
        assert len(one.ledger.echoes) == 0


def test_what_only_one_system_tells_is_no_contradiction() -> None:
    """Most facts are told once."""
    desk = told(RECEIPT, shipped(2, 3))
    desk.ledger.advance(us(3) + 2 * WINDOW_US)
    assert desk.ledger.alerts.owed() == []


def test_groups_are_forgotten_and_their_state_deleted() -> None:
    """Memory is bounded; a count from before what was forgotten is refused from then on."""
    desk = told(RECEIPT, shipped(2, 3))
    desk.ledger.flush()
    assert len(desk.ledger.echoes) == 1
    desk.ledger.advance(us(2) + WINDOW_US)
    desk.ledger.advance(us(2) + KEPT_US)
    assert len(desk.ledger.echoes) == 0
    assert (echo_key("SKU", "A", "L"), None) in desk.ledger.flush()
    assert desk.ledger.totals.forgotten_us >= us(2)
    assert desk.tell(fact("wms.count", 1, 50)) == ["absorbed"]
    assert desk.ledger.counts_too_old == 1


def test_a_group_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives everything the same echo ends in the dead letters, not in memory; its replay too."""
    monkeypatch.setattr(echoes, "ECHO_FACTS_MAX", 16)
    facts = [shipped(2, 1) for _ in range(17)]
    desk = told(*facts[:16])
    with pytest.raises(LimitReached):
        desk.tell(facts[16])
    again = Desk(Ledger(Policies()))
    again.ledger.restore(dict(_values(desk.ledger.flush())), (), us(40))
    again.tell(*facts[:16])
    with pytest.raises(LimitReached):
        again.tell(facts[16])


def test_a_replay_in_another_order_of_topics_ends_alike() -> None:
    """A group that is durable while its balance is not: the balance hears all of it again, in any order."""
    facts = [RECEIPT, shipped(2, 3), fulfilled(3, 4), sold(4, 2)]
    records = told(*facts).ledger.flush()
    durable = [(key, packed) for key, packed in _values(records) if key not in (KEY, OUTCOMES_KEY)]
    for order in permutations(facts):
        again = Desk(Ledger(Policies()))
        again.ledger.restore(dict(durable), (), us(40))
        next_offset = {TOPICS[topic_of(one).name]: 0 for one in facts}
        offsets = {}
        for one in facts:
            topic = TOPICS[topic_of(one).name]
            offsets[one.id] = next_offset[topic]
            next_offset[topic] += 1
        positions: dict[int, int] = {}
        for one in sorted(order, key=lambda one: offsets[one.id]):
            topic = TOPICS[topic_of(one).name]
            assert positions.setdefault(topic, 0) == offsets[one.id]
            positions[topic] += 1
            outcome = again.ledger.apply(one, topic, offsets[one.id], micros(one.occurred_at))
            assert outcome is None or OUTCOMES[outcome] != "duplicate"
        assert again.record(seconds=100).on_hand == 16
