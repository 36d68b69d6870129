"""When an outlet lets input positions be committed, what it makes durable, and how it notices foreign writers."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.events import Refusal
from schemas.state import CommitMetadata, decode_metadata, open_envelope
from sinks.outlet import COMPLETE_INTERVAL_S, Letter
from stock.balance import unpack
from stock.events import StockFact
from stock.ledger import OUTCOMES_KEY, Ledger
from stock.policies import Policies
from tests.sinks.fake_wire import FakeMessage, Window
from tests.stock.facts import KEY, Desk, fact, hold, told, us

COUNT = fact("wms.count", 0, 9)
REFUSED = Letter(FakeMessage(b"k", b"v", 1, "pos-sales.v1"), Refusal("empty", "no value"), 0)  # type: ignore[arg-type]


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def opened(*facts: StockFact, **options: Any) -> Window:
    """A window that has published and committed what was told long ago."""
    window = Window(told(*(facts or (COUNT,))), **options)
    window.serve(-100)
    window.land()
    window.outlet.cut(-100)
    window.land()
    assert window.outlet.cut_ready() is not None
    return window


def sell(window: Window, now: float, units: int = 1) -> None:
    """A sale, published by its lane."""
    window.desk.tell(fact("pos.sale", now, units))
    window.serve(now)


def positions(window: Window) -> tuple[int, ...] | None:
    """What may be committed now; asked once."""
    ready = window.outlet.cut_ready()
    return None if ready is None else ready[0]


def test_a_cut_is_ready_when_its_state_is_acknowledged() -> None:
    """Every record of it, and then once."""
    window = opened()
    sell(window, 1)
    window.land("availability", "network")
    window.outlet.cut(1)
    state = window.wire.logs["state"]
    while state.in_flight:
        assert (positions(window), window.outlet.cutting) == (None, True)
        state.land(1)
    assert positions(window) == (1, 1, 0, 0)
    assert (positions(window), window.outlet.cutting) == (None, False)


def test_a_cut_sends_what_rests_on_other_records_only_when_those_are_acknowledged() -> None:
    """A client goes on with later records after one has failed: totals must not stand without their balances."""
    window = opened()
    window.desk.tell(hold(1, 1))
    sell(window, 1)
    window.outlet.cut(1)
    state = window.wire.logs["state"]
    stages = []
    while state.in_flight:
        stages.append([(key or b"").decode() for key, *_ in state.in_flight])
        state.land(len(state.in_flight))
    assert [[key.partition("|")[2] for key in stage] for stage in stages] == [
        ["journal|1"],
        ["\x1fhold\x1f1\x1fR", "A", "network|SKU|*"],
        ["outcomes"],
    ]


def test_the_rest_of_a_cut_is_not_sent_after_a_failure() -> None:
    """The process is about to end; what became durable is a beginning of the cut, which the replay completes."""
    window = opened()
    sell(window, 1)
    window.outlet.cut(1)
    state = window.wire.logs["state"]
    state.fail()
    assert (len(window.wire.failures), len(state.in_flight)) == (1, 0)


def test_acknowledgements_after_a_failure_say_nothing() -> None:
    """A client reports later records as delivered after an earlier one was not: no bug, the process ends anyway."""
    window = opened(interval_s=0)
    sell(window, 1)
    sell(window, 2)
    availability = window.wire.logs["availability"]
    published = len(window.published)
    availability.fail()
    availability.land()
    assert (len(window.wire.failures), len(window.published)) == (1, published)


def test_a_cut_waits_for_what_was_published_before_it() -> None:
    """Otherwise a crash could lose a record whose fact is never read again."""
    window = opened()
    sell(window, 1)
    window.outlet.cut(1)
    window.land("state")
    assert positions(window) is None
    window.land("availability")
    assert positions(window) is None
    window.land("network")
    assert positions(window) == (1, 1, 0, 0)


def test_a_cut_does_not_wait_for_what_is_published_after_it() -> None:
    """A busy partition commits all the same, for the positions of the cut."""
    window = opened(interval_s=0)
    sell(window, 1)
    window.outlet.cut(1)
    sell(window, 2)
    window.land("state")
    window.wire.logs["availability"].land(1)
    window.wire.logs["network"].land(1)
    assert positions(window) == (1, 1, 0, 0)


def test_a_cut_waits_for_its_dead_letters() -> None:
    """Those sent before it."""
    window = opened()
    window.outlet.refuse([REFUSED], us(1))
    window.ledger.refuse(0, 0)
    window.outlet.cut(1)
    window.outlet.refuse([REFUSED], us(1))
    window.land("state")
    assert positions(window) is None
    window.wire.logs["letters"].land(1)
    assert positions(window) == (1, 1, 0, 0)


def waiting() -> Window:
    """A window with a routine change that waits until 0.25."""
    window = opened()
    sell(window, 0)
    sell(window, 0.1)
    window.land()
    window.outlet.cut(0.1)
    window.land("state")
    assert positions(window) is None
    return window


def test_a_cut_waits_for_keys_in_the_routine_lane() -> None:
    """Until their record is published and acknowledged."""
    window = waiting()
    window.serve(0.25)
    assert positions(window) is None
    window.land()
    assert positions(window) == (2, 1, 0, 0)


def test_a_waiting_key_that_turns_urgent_frees_the_cut_too() -> None:
    """As soon as that record is acknowledged."""
    window = waiting()
    sell(window, 0.2, units=7)
    assert positions(window) is None
    window.land()
    assert positions(window) == (2, 1, 0, 0)


def test_a_waiting_key_with_nothing_left_to_say_frees_the_cut() -> None:
    """Its number came back to what was published."""
    window = waiting()
    window.desk.tell(fact("wms.adjustment", 1, 1))
    window.serve(0.2)
    assert positions(window) == (2, 1, 0, 0)


def test_a_key_that_waits_anew_does_not_hold_an_older_cut() -> None:
    """What counts is what was waiting at the cut."""
    window = waiting()
    window.serve(0.25)
    window.land()
    sell(window, 0.3)
    assert positions(window) == (2, 1, 0, 0)


def test_an_orderly_end_publishes_what_waits() -> None:
    """Without waiting for its interval."""
    window = waiting()
    window.outlet.release_waiting(0.11, us(0.11))
    assert [record.available_to_ship for record in window.sent()] == [7]
    window.land("network")
    assert positions(window) == (2, 1, 0, 0)


def test_a_gap_in_the_state_holds_every_commit() -> None:
    """Somebody else may own the partition by now."""
    window = opened()
    sell(window, 1)
    window.land()
    window.wire.logs["state"].foreign()
    window.outlet.cut(1)
    window.land()
    assert positions(window) is None
    assert window.outlet.state_stream.gap_from is not None
    window.outlet.state_stream.gap_from = None
    assert positions(window) == (1, 1, 0, 0)


def test_a_commit_says_where_the_tails_begin() -> None:
    """At the first record that was not acknowledged at the cut, with the generation."""
    window = opened(generation=7)
    window.outlet.refuse([REFUSED], us(1))
    sell(window, 1)
    sell(window, 2)
    window.wire.logs["availability"].land(1)
    window.outlet.cut(2)
    window.land()
    ready = window.outlet.cut_ready()
    assert ready is not None
    assert decode_metadata(ready[1]) == CommitMetadata(1, 7, availability=2, dead_letters=0, network=1)


DUE = [
    case("nothing new", 1.0, False, False),
    case("a fact, in time", 1.0, True, True),
    case("a fact, too early", 0.1, True, False),
]


@pytest.mark.parametrize(("now", "news", "due"), DUE)
def test_a_cut_is_due_for_news_and_after_its_interval(now: float, news: bool, due: bool) -> None:
    """Never sooner, and never for nothing."""
    window = opened()
    window.outlet.cut(0)
    window.land()
    window.outlet.cut_ready()
    if news:
        window.desk.tell(fact("pos.sale", 1, 1))
    assert window.outlet.cut_due(now, 0.2) is due


def test_a_cut_is_due_for_positions_alone() -> None:
    """Refused and skipped records are done with, too."""
    window = opened()
    window.ledger.passed(3, 9)
    assert window.outlet.cut_due(0, 0.2) is True


def test_no_cut_is_due_while_one_waits() -> None:
    """At most one flush is under way, so that a crash can cut only the last."""
    window = opened()
    sell(window, 1)
    window.outlet.cut(1)
    sell(window, 2)
    assert window.outlet.cut_due(9, 0.2) is False
    window.land()
    window.outlet.cut_ready()
    assert window.outlet.cut_due(9, 0.2) is True


def state_of(window: Window, key: str = KEY) -> list[tuple[int, int]]:
    """Generation and digest of each state record of a key, in log order."""
    found = []
    for name, value, _ in window.wire.logs["state"].records:
        if name == key.encode() and value is not None:
            generation, packed = open_envelope(value)
            found.append((generation, unpack(packed).digest))
    return found


def test_state_carries_the_writers_generation() -> None:
    """In every record, the totals last."""
    window = opened(generation=5)
    assert {generation for generation, _ in state_of(window)} == {5}
    assert window.wire.logs["state"].records[-1][0] == OUTCOMES_KEY.encode()


def test_a_digest_is_durable_only_when_its_record_is_acknowledged() -> None:
    """What is under way counts as unpublished after a crash; what waits in a lane does, too."""
    window = opened()
    sell(window, 0)
    window.outlet.cut(0)
    window.land()
    window.outlet.cut_ready()
    assert state_of(window)[-1][1] == 0, "in flight at the cut"
    window.outlet.cut(10)
    window.land()
    window.outlet.cut_ready()
    assert state_of(window)[-1][1] == window.ledger.balance(KEY).digest != 0
    sell(window, 20)
    window.land()
    sell(window, 20.1)
    window.outlet.cut(20.1)
    window.land()
    assert state_of(window)[-1][1] == 0, "waiting at the cut"


def test_digests_alone_are_written_when_it_is_quiet_or_now_and_then() -> None:
    """Not with every cut of a busy partition, since a second record for each publication would double the state."""
    window = opened(COUNT, fact("wms.count", 0, 9, location="B"))
    sell(window, 0)
    window.outlet.cut(0)
    window.land()
    window.outlet.cut_ready()
    before = len(state_of(window))
    window.desk.tell(fact("pos.sale", 1, 1, location="B"))
    window.outlet.cut(1)
    window.land()
    window.outlet.cut_ready()
    assert len(state_of(window)) == before
    window.desk.tell(fact("pos.sale", 1, 1, location="B"))
    window.outlet.cut(COMPLETE_INTERVAL_S)
    assert window.outlet.cut_ready() is None
    window.land()
    assert len(state_of(window)) == before + 1


# Failures and foreign writers


@pytest.mark.parametrize("stream", ["state", "availability", "letters"])
@pytest.mark.parametrize("closed", [False, True])
def test_any_failed_delivery_is_reported(stream: Any, closed: bool) -> None:
    """Also of a partition that was lost meanwhile: it concerns the process."""
    window = opened()
    sell(window, 1)
    window.outlet.refuse([REFUSED], us(1))
    window.outlet.cut(1)
    if closed:
        window.outlet.close()
    window.wire.logs[stream].fail()
    assert len(window.wire.failures) == 1
    assert positions(window) is None


def test_acknowledgements_of_a_lost_partition_are_nobodys_business() -> None:
    """Nothing is handed on, nothing becomes ready, nothing fails."""
    window = opened()
    before = len(window.published)
    sell(window, 1)
    window.outlet.cut(1)
    window.outlet.close()
    window.land()
    assert (len(window.published), positions(window), window.wire.failures) == (before, None, [])


@pytest.mark.parametrize(
    ("text", "strangers", "gap_from", "next_offset"),
    [("nobody else wrote", 0, None, 2), ("one record", 1, 1, 3), ("several", 5, 1, 7)],
)
def test_acknowledged_offsets_must_follow_each_other(
    text: str, strangers: int, gap_from: int | None, next_offset: int
) -> None:
    """A jump tells that somebody else wrote, and from where on."""
    window = opened()
    for _ in range(strangers):
        window.wire.logs["availability"].foreign()
    sell(window, 1)
    window.land()
    stream = window.outlet.availability_stream
    assert (stream.gap_from, stream.next_offset, stream.idle) == (gap_from, next_offset, True), text


def test_an_unknown_offset_counts_as_a_gap() -> None:
    """Nobody can say what stands between."""
    window = opened()
    sell(window, 1)
    key, value, _, done = window.wire.logs["availability"].in_flight.popleft()
    done(None, FakeMessage(key, value, None))  # type: ignore[arg-type]
    assert window.outlet.availability_stream.gap_from == 1
    assert len(window.published) == 1, "what was not told an offset is not handed on"


def test_the_first_gap_is_kept() -> None:
    """Everything from there on is to be read again."""
    window = opened()
    for now in (1, 2):
        window.wire.logs["availability"].foreign()
        sell(window, now)
        window.land()
    stream = window.outlet.availability_stream
    assert (stream.gap_from, stream.next_offset) == (1, 5)


def test_a_foreign_record_is_followed_by_our_truth() -> None:
    """Even though nothing changed; once, and only for keys we know."""
    window = opened()
    window.outlet.show_again([KEY, "SKU|UNKNOWN"])
    window.serve(9)
    [record] = window.sent()
    assert (record.available_to_ship, record.version & 0xFFFFFFFF) == (9, 2)
    window.serve(10)
    assert window.sent() == []


def test_a_forced_record_respects_its_lane() -> None:
    """A key that was just published waits; the cut waits for it."""
    window = opened()
    sell(window, 0)
    window.land()
    window.outlet.show_again([KEY])
    window.serve(0.1)
    window.outlet.cut(0.1)
    window.land()
    assert positions(window) is None
    window.serve(0.25)
    assert [record.available_to_ship for record in window.sent()] == [8]
    assert positions(window) == (1, 1, 0, 0)


def test_a_restart_publishes_what_is_in_doubt_and_nothing_else() -> None:
    """Keys whose digest is not durable; the others are known to be on the topic."""
    window = opened(COUNT, fact("wms.count", 0, 9, location="B"))
    window.outlet.cut(0, complete=True)
    sell(window, 1)
    window.outlet.cut(1)
    window.land("state")
    state = {}
    for key, value, _ in window.wire.logs["state"].records:
        assert key is not None
        assert value is not None
        state[key.decode()] = open_envelope(value)[1]
    ledger = Ledger(Policies())
    ledger.restore(state, (), us(2))
    again = Window(Desk(ledger), generation=2)
    again.outlet.look_again(None, None, None)
    while again.outlet.sweep():
        again.serve(2)
    [record] = again.sent()
    assert (record.location, record.available_to_ship, record.version) == ("A", 8, 2 << 32 | 1)


def test_the_backlog_is_what_was_sent_and_not_acknowledged() -> None:
    """Over all streams."""
    window = opened()
    assert window.outlet.backlog == 0
    sell(window, 1)
    window.outlet.refuse([REFUSED], us(1))
    window.outlet.cut(1)
    assert window.outlet.backlog == 3 + len(window.wire.logs["state"].in_flight)
    window.land()
    assert window.outlet.backlog == 0
