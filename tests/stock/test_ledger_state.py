"""What a ledger hands out to be durable, and how another one goes on from any part of it."""

from __future__ import annotations

import pytest

from stock import commitments
from stock.commitments import hold_key, line_key
from stock.ledger import JOURNAL_PREFIX, OUTCOMES_KEY, Ledger, LimitReached, decode_totals
from stock.policies import Policies
from tests.stock.facts import KEY, Desk, fact, hold, told, us

State = dict[str, bytes]
HOLD, LINE = hold_key("SKU", "R", None), line_key("SKU", "L")


def write(state: State, desk: Desk, upto: int | None = None) -> list[str]:
    """Make a flush durable, or only its first records; its keys come back."""
    records = desk.ledger.flush()
    for key, packed in records[:upto]:
        if packed is None:
            state.pop(key, None)
        else:
            state[key] = packed
    return [key for key, _ in records]


def taken_over(state: State, now: float = 1_000, rewrite: tuple[str, ...] = ()) -> Desk:
    """A desk whose ledger was restored, at the inputs' start."""
    ledger = Ledger(Policies())
    ledger.restore(dict(state), rewrite, us(now))
    return Desk(ledger)


def test_a_flush_writes_the_journal_first_and_the_totals_last() -> None:
    """Ids and movements, then orders, then balances, then what they all stand for."""
    desk = told(fact("wms.receipt", 1, 9), hold(2, 1), fact("order.allocated", 3, 1), fact("pos.sale", 4, 1))
    assert write({}, desk) == [f"{JOURNAL_PREFIX}0", HOLD, LINE, KEY, OUTCOMES_KEY]


def test_a_flush_writes_only_what_changed() -> None:
    """And says before if there is anything."""
    desk = told(fact("wms.receipt", 1, 9), fact("wms.receipt", 1, 9, location="B"))
    assert desk.ledger.dirty is True
    write({}, desk)
    assert desk.ledger.dirty is False
    assert write({}, desk) == [OUTCOMES_KEY]
    desk.tell(fact("pos.sale", 2, 1, location="B"))
    assert write({}, desk) == [f"{JOURNAL_PREFIX}1", "SKU|B", OUTCOMES_KEY]


def test_a_repeat_advances_its_balance() -> None:
    """Otherwise its row would not count after a restart."""
    sale = fact("pos.sale", 1, 1)
    desk = told(sale)
    write({}, desk)
    desk.tell(sale)
    assert KEY in write({}, desk)
    assert desk.ledger.balance(KEY).applied == [1, -1, -1, -1]


def test_a_restored_ledger_goes_on() -> None:
    """Balances, holds, counts, ids and movements are all there."""
    state: State = {}
    sale = fact("pos.sale", 5, 2)
    desk = told(fact("wms.count", 1, 9), hold(2, 1, expires=900), fact("order.allocated", 3, 1), sale)
    write(state, desk)
    again = taken_over(state, now=10)
    again.next = desk.next.copy()
    assert again.record(seconds=10) == desk.record(seconds=10)
    assert again.tell(sale) == ["duplicate"]
    assert again.tell(fact("pos.sale", 0, 1)) == ["absorbed"]
    assert again.tell(fact("wms.count", 4, 20)) == ["applied"]
    assert again.record().on_hand == 18, "the sale after the count counts on top"
    assert again.record(seconds=900).committed == 1, "the hold ends, the allocation stays"


def test_a_replayed_record_that_was_not_admitted_is_refused_again() -> None:
    """Its count is durable, but its dead letter may have been lost with the process."""

    class NotHere(Exception):
        pass

    def admit(sku: str, location: str) -> None:
        if location == "B":
            raise NotHere

    state: State = {}
    sale, stranger = fact("pos.sale", 1, 1), fact("pos.sale", 2, 1, location="B")
    desk = Desk(Ledger(Policies(), admit=admit))
    desk.tell(sale)
    with pytest.raises(NotHere):
        desk.tell(stranger)
    assert desk.ledger.refuse(0, 1) is True
    write(state, desk)

    again = Desk(Ledger(Policies(), admit=admit))
    again.ledger.restore(dict(state), (), us(10))
    assert again.tell(sale) == [None]
    with pytest.raises(NotHere):
        again.tell(stranger)
    assert again.ledger.refuse(0, 1) is False, "it is counted already"
    assert again.ledger.totals.by_outcome == desk.ledger.totals.by_outcome


@pytest.mark.parametrize("upto", [None, -1], ids=["all is durable", "all but the totals is durable"])
def test_a_replayed_record_beyond_a_limit_is_refused_again(monkeypatch: pytest.MonkeyPatch, upto: int | None) -> None:
    """Also where a later fact of the same balance has had its effect."""
    monkeypatch.setattr(commitments, "ORDERS_PER_SKU_MAX", 1)
    state: State = {}
    first, one_too_many, release = hold(1, 2), hold(2, 2, reservation="Q"), fact("reservation.released", 3, 1)
    desk = told(first)
    with pytest.raises(LimitReached):
        desk.tell(one_too_many)
    desk.ledger.refuse(2, 1)
    desk.next[2] = 2
    desk.tell(release)
    write(state, desk, upto)

    again = taken_over(state)
    again.tell(first)
    with pytest.raises(LimitReached):
        again.tell(one_too_many)
    again.ledger.refuse(2, 1)
    again.next[2] = 2
    again.tell(release)
    assert again.ledger.totals.by_outcome == desk.ledger.totals.by_outcome
    assert again.record() == desk.record()


def test_a_replay_of_what_is_durable_has_no_outcome() -> None:
    """It is counted already; its key is published again, since nobody knows what became of its record."""
    state: State = {}
    facts = [fact("wms.count", 1, 9), fact("pos.sale", 2, 2)]
    desk = told(*facts)
    write(state, desk)
    again = taken_over(state)
    assert again.tell(*facts) == [None, None]
    assert again.ledger.totals == desk.ledger.totals
    assert (again.ledger.touched, again.ledger.forced) == ({KEY: us(1)}, {KEY})
    assert again.tell(fact("pos.sale", 3, 1)) == ["applied"]
    assert sum(again.ledger.totals.by_outcome) == 3


@pytest.mark.parametrize("upto", range(6))
def test_a_flush_cut_short_is_completed_by_the_replay(upto: int) -> None:
    """Whatever the number of records that survived: the same numbers, each fact counted once, with its outcome."""
    state: State = {}
    sale = fact("pos.sale", 4, 1, reservation="R", order_line="L")
    facts = [fact("wms.count", 1, 9), hold(2, 1), fact("order.allocated", 3, 1), sale, sale, fact("pos.sale", 0, 1)]
    calm = told(*facts)
    write(state, told(*facts), upto)
    again = taken_over(state)
    again.tell(*facts)
    assert again.ledger.totals == calm.ledger.totals
    assert again.record() == calm.record()
    assert (again.record().on_hand, again.record().committed) == (8, 0)


def test_a_fact_replayed_after_a_lost_flush_moves_once_for_a_later_count() -> None:
    """The journal outlived the balance: its row must not stand beside the one that the replay writes."""
    state: State = {}
    sale = fact("pos.sale", 5, 3)
    write(state, told(sale), 1)
    again = taken_over(state)
    assert again.tell(sale) == ["applied"]
    write(state, again)
    third = taken_over(state)
    third.next = [1, 0, 0, 0]
    third.tell(fact("wms.count", 1, 10))
    assert third.record().on_hand == 7


def test_dead_letters_are_counted_once() -> None:
    """Also when they are refused again after a restart."""
    state: State = {}
    desk = told(fact("pos.sale", 1, 1))
    assert desk.ledger.refuse(0, 1) is True
    write(state, desk)
    again = taken_over(state)
    assert again.ledger.refuse(0, 1) is False
    assert again.ledger.refuse(0, 2) is True
    assert dict(enumerate(again.ledger.totals.by_outcome)) == {0: 1, 1: 0, 2: 0, 3: 0, 4: 2}


def test_positions_only_go_on() -> None:
    """The start of an assignment, or the end of a log, is no step back."""
    desk = told(fact("pos.sale", 1, 1))
    for position, expected in ((0, 1), (5, 5), (3, 5)):
        desk.ledger.passed(0, position)
        assert desk.ledger.totals.positions == [expected, 0, 0, 0]


def test_totals_can_be_read_back() -> None:
    """Outcomes, positions and the clock."""
    state: State = {}
    desk = told(fact("pos.sale", 1, 1))
    desk.ledger.advance(us(50))
    write(state, desk)
    totals = decode_totals(state[OUTCOMES_KEY])
    assert (totals.by_outcome, totals.positions, totals.clock_us) == ([1, 0, 0, 0, 0], [1, 0, 0, 0], us(50))


def test_a_clock_too_far_ahead_is_not_believed() -> None:
    """Another machine's: holds that it ended are open again by ours."""
    state: State = {}
    desk = told(fact("wms.count", 0, 9), hold(1, 3, expires=60))
    desk.ledger.advance(us(10_000))
    write(state, desk)
    again = taken_over(state, now=30)
    assert again.ledger.view(KEY).committed == 3
    assert again.record(seconds=60).committed == 0


def test_an_end_seen_before_a_restart_is_not_told_again() -> None:
    """The clock up to which holds have ended is durable."""
    state: State = {}
    desk = told(fact("wms.count", 0, 9), hold(1, 3, expires=60))
    desk.ledger.advance(us(70))
    write(state, desk)
    again = taken_over(state, now=80)
    again.ledger.advance(us(90))
    assert again.ledger.touched == {}


def test_digests_of_what_is_in_doubt_are_not_durable() -> None:
    """A restart then publishes the key whatever became of the record; once acknowledged it is written."""
    state: State = {}
    desk = told(fact("wms.count", 0, 9))
    desk.ledger.acknowledge(KEY, 77, 73)
    for key, packed in desk.ledger.flush(in_doubt={KEY}):
        state[key] = packed or b""
    assert taken_over(state).ledger.balance(KEY).digest == 0
    assert desk.ledger.balance(KEY).digest == 77
    assert (desk.ledger.dirty, desk.ledger.unsaved) == (False, True)
    assert [key for key, _ in desk.ledger.flush(complete=False)] == [OUTCOMES_KEY]
    write(state, desk)
    assert taken_over(state).ledger.balance(KEY).digest == 77
    assert desk.ledger.unsaved is False


def test_differing_is_judged_by_what_was_acknowledged() -> None:
    """Idle balances stay packed meanwhile."""
    state: State = {}
    desk = told(fact("wms.count", 0, 9))
    desk.ledger.acknowledge(KEY, 9, 73)
    write(state, desk)
    again = taken_over(state)
    seen, told_digest = again.ledger.peek(KEY)
    assert (seen.on_hand, told_digest) == (9, 9)
    assert again.ledger.keys() == [KEY]


def test_what_somebody_overwrote_is_written_again() -> None:
    """Balances, orders and journal records of ours; what is not ours is deleted where that is possible."""
    state: State = {}
    desk = told(fact("wms.count", 0, 9), hold(1, 1))
    write(state, desk)
    before = dict(state)
    strange = hold_key("SKU", "STRANGE", None)
    again = taken_over(state, 0, (KEY, HOLD, f"{JOURNAL_PREFIX}0", strange, "SKU|STRANGE", "|claim"))
    assert again.ledger.dirty is True
    state.update({KEY: b"x", HOLD: b"x", f"{JOURNAL_PREFIX}0": b"x", strange: b"x"})
    write(state, again)
    assert state == before


def test_balances_are_counted_and_known() -> None:
    """Fresh, idle and restored ones alike."""
    state: State = {}
    desk = told(fact("pos.sale", 1, 1), fact("pos.sale", 1, 1, location="B"))
    assert (len(desk.ledger), KEY in desk.ledger, "SKU|C" in desk.ledger) == (2, True, False)
    write(state, desk)
    desk.tell(fact("pos.sale", 1, 1, location="C"))
    assert sorted(desk.ledger.keys()) == [KEY, "SKU|B", "SKU|C"]
    assert len(desk.ledger) == 3
    assert len(taken_over(state).ledger) == 2
    with pytest.raises(KeyError):
        desk.ledger.balance("SKU|D")


def test_facts_beyond_the_bound_are_forgotten_with_their_movements() -> None:
    """A repeat then counts as new, and a count that old is not applied any more."""
    desk = Desk(Ledger(Policies(), facts_max=2))
    old = fact("pos.sale", 1, 1)
    for one in (old, fact("pos.sale", 2, 1), fact("pos.sale", 3, 1)):
        desk.tell(one)
        write({}, desk)
    assert desk.ledger.totals.forgotten_us == us(1)
    assert desk.tell(fact("wms.count", 1, 10)) == ["absorbed"]
    assert desk.tell(fact("wms.count", 2, 10)) == ["applied"]
    assert desk.record().on_hand == 8
    assert desk.tell(old) == ["absorbed"], "new to us, but before the count"
