"""Mistakes that an outlet once made, each as small as it can be told."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.events import Refusal
from schemas.records import decode_availability
from schemas.state import decode_metadata, open_envelope
from sinks.outlet import Letter
from stock.events import StockFact
from stock.ledger import FACTS_REMEMBERED_MAX, OUTCOMES_KEY, Ledger
from stock.policies import Policies
from stock.recent import CHUNK_FACTS_MAX
from tests.sinks.fake_wire import FakeMessage, Stream, Window, state_in
from tests.stock.facts import KEY, Desk, fact, told, us

REFUSED = Letter(FakeMessage(b"k", b"v", 1, "pos-sales.v1"), Refusal("empty", "no value"), 0)  # type: ignore[arg-type]


def test_numbers_that_return_to_an_older_record_in_flight_are_published() -> None:
    """There, back and there again while only the first records are acknowledged: the last word is the truth."""
    window = Window(told(fact("wms.count", 0, 9)), interval_s=0)
    window.serve(-100)
    window.land()
    log = window.wire.logs["availability"]
    for seconds, units in ((1, -1), (2, 1), (3, -1)):
        window.desk.tell(fact("wms.adjustment", seconds, units))
        window.serve(seconds)
    log.land(2)
    window.desk.tell(fact("wms.adjustment", 4, 1))
    window.serve(4)
    log.land()
    value = log.records[-1][1]
    assert value is not None
    assert decode_availability(value).on_hand == window.ledger.view(KEY).on_hand == 9


def test_a_key_waits_for_its_own_interval_only() -> None:
    """Also if another began to wait before it, whose interval ends later."""
    window = Window(told(fact("wms.count", 0, 9), fact("wms.count", 0, 9, location="B")))
    window.serve(-100)
    for now, location in ((0.0, "B"), (0.1, "A"), (0.15, "A"), (0.2, "B")):
        window.desk.tell(fact("pos.sale", 1, 1, location=location))
        window.serve(now)
    window.land()
    window.serve(0.25)
    assert [record.location for record in window.sent()] == ["B"]
    window.serve(0.35)
    assert [record.location for record in window.sent()] == ["A"]


def test_a_restart_commits_nothing_before_it_has_read_it_again() -> None:
    """A dead letter may have been lost in flight although the totals that count it are durable."""
    first = Window(told(fact("wms.count", 0, 9)))
    first.serve(1)
    refused = Letter(FakeMessage(b"k", b"v", 0, "pos-sales.v1"), Refusal("empty", "no value"), 0)  # type: ignore[arg-type]
    first.ledger.refuse(0, 0)
    first.outlet.refuse([refused], us(1))
    first.outlet.cut(1)
    first.land("state", "availability", "network")
    assert first.outlet.cut_ready() is None
    first.wire.logs["letters"].in_flight.clear()

    records = first.wire.logs["state"].records
    state = {(key or b"").decode(): open_envelope(value or b"")[1] for key, value, _ in records}
    ledger = Ledger(Policies())
    ledger.restore(state, (), us(2))
    for topic in range(4):
        ledger.passed(topic, 0)
    second = Window(Desk(ledger), wire=first.wire, generation=2)
    second.outlet.cut(2)
    second.land()
    ready = second.outlet.cut_ready()
    assert ready is None or ready[0] == (0, 0, 0, 0)

    assert ledger.refuse(0, 0) is False, "it is counted already"
    second.serve(2.5)
    second.land()
    second.outlet.cut_ready()
    second.outlet.refuse([refused], us(3))
    second.outlet.cut(3)
    second.land()
    ready = second.outlet.cut_ready()
    assert ready is not None
    assert ready[0] == (1, 0, 0, 0)


def restored(window: Window, upto: int | None = None, facts_max: int = FACTS_REMEMBERED_MAX) -> Desk:
    """A desk whose ledger is made of the state in the log, or of its first records, at the inputs' start."""
    state = state_in(window.wire, upto)
    ledger = Ledger(Policies(), facts_max)
    ledger.restore(state, (), us(1_000))
    return Desk(ledger)


def settled(*facts: StockFact) -> Window:
    """A window that has published and committed what was told long ago."""
    window = Window(told(*facts))
    window.serve(-100)
    window.land()
    window.outlet.cut(-100, complete=True)
    window.land()
    assert window.outlet.cut_ready() is not None
    return window


def tail(window: Window) -> int:
    """Cut, have everything acknowledged, and tell where a restart would begin to read the availability topic."""
    window.outlet.cut(500, complete=True)
    window.land()
    ready = window.outlet.cut_ready()
    assert ready is not None
    metadata = decode_metadata(ready[1])
    assert metadata is not None
    return metadata.availability


def test_keys_of_the_tail_are_published_after_the_replay_and_not_before() -> None:
    """The restored state is older than what stands there: sold out would turn back into available for a while."""
    first = settled(fact("wms.receipt", 0, 1), fact("wms.receipt", 0, 1, location="B"))
    sold = fact("pos.sale", 1, 1)
    first.desk.tell(sold)
    first.serve(1)
    assert [record.available_to_ship for record in first.sent()] == [0]

    second = Window(restored(first), wire=first.wire, generation=2, caught_up=False, shown={KEY}, tail_start=2)
    second.desk.next = [0, 2, 0, 0]
    for now in (100, 101, 102):
        second.ledger.touched.setdefault(KEY, us(now))
        second.serve(now)
    assert second.sent() == []
    second.desk.tell(sold, fact("pos.sale", 2, 1, location="B"))
    second.serve(103)
    assert [record.location for record in second.sent()] == ["B"], "what is not in the tail need not wait"
    second.outlet.caught_up()
    second.serve(104)
    [record] = second.sent()
    assert (record.location, record.available_to_ship, record.version >> 32) == ("A", 0, 2)


def test_the_tail_stays_in_the_metadata_until_its_keys_are_told_again() -> None:
    """A second restart during the replay must find them, too."""
    first = settled(fact("wms.receipt", 0, 1))
    first.desk.tell(fact("pos.sale", 1, 1))
    first.serve(1)
    first.land()
    second = Window(restored(first), wire=first.wire, generation=2, caught_up=False, shown={KEY}, tail_start=1)
    second.desk.next = [0, 1, 0, 0]
    for units in range(5, 8):
        second.desk.tell(fact("wms.count", 3, units, location=f"L{units}"))
        second.serve(100 + units)
        second.land()
        assert tail(second) == 1
    assert len(second.wire.logs["availability"].records) == 5
    second.outlet.caught_up()
    second.serve(200)
    assert len(second.sent()) == 1
    assert tail(second) == 6


@pytest.mark.parametrize("stream", ["state", "availability", "letters"])
def test_nothing_is_cut_or_committed_while_a_gap_is_open(stream: Stream) -> None:
    """What a fenced writer left behind must be answered first: the next owner would not read it any more."""
    window = settled(fact("wms.count", 0, 9))
    streams: dict[str, Any] = {
        "state": window.outlet.state_stream,
        "availability": window.outlet.availability_stream,
        "letters": window.outlet.letters_stream,
    }
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(1)
    window.outlet.refuse([REFUSED], us(1))
    window.outlet.cut(1)
    window.wire.logs[stream].foreign()
    window.land()
    assert window.outlet.cut_ready() is None
    streams[stream].gap_from = None
    assert window.outlet.cut_ready() is not None

    window.desk.tell(fact("pos.sale", 2, 1))
    window.serve(2)
    window.land()
    assert window.outlet.cut_due(20, 0.2) is True
    streams[stream].suspect()
    assert window.outlet.cut_due(21, 0.2) is False
    streams[stream].gap_from = None
    assert window.outlet.cut_due(22, 0.2) is True


@pytest.mark.parametrize("facts", [3, 2 * CHUNK_FACTS_MAX + 3])
def test_a_cut_keeps_all_its_own_facts_however_few_may_be_remembered(facts: int) -> None:
    """A crash before the totals are durable needs them to tell what was done; a later cut may forget them."""
    sales = [fact("pos.sale", i / 1_000, 1) for i in range(facts)]
    first = Window(Desk(Ledger(Policies(), facts_max=2)))
    first.desk.tell(*sales)
    first.outlet.cut(1)
    first.land("state")
    assert first.desk.tell(sales[0]) == ["duplicate"]
    everything = len(first.wire.logs["state"].records)
    assert first.wire.logs["state"].records[-1][0] == OUTCOMES_KEY.encode()
    for upto in range(everything + 1):
        again = restored(first, upto, facts_max=2)
        again.tell(*sales)
        assert again.record().on_hand == -facts, f"{upto} of {everything} state records were durable"
    first.desk.tell(fact("pos.sale", 100, 1))
    first.outlet.cut(2)
    first.land("state")
    assert len(first.ledger.recent.ids) <= 2 + 1


def test_totals_that_somebody_overwrote_are_written_again() -> None:
    """Also where nothing else happens: compaction would keep only the other's."""
    window = settled(fact("wms.count", 0, 9))
    assert window.outlet.cut_due(1_000, 0.2) is False
    window.ledger.rewrite(OUTCOMES_KEY)
    assert window.ledger.dirty is True
    assert window.outlet.cut_due(1_000, 0.2) is True
    before = len(window.wire.logs["state"].records)
    window.outlet.cut(1_000)
    window.land()
    assert [key for key, _, _ in window.wire.logs["state"].records[before:]] == [OUTCOMES_KEY.encode()]
    assert window.ledger.dirty is False


def test_a_record_acknowledged_without_an_offset_is_said_again() -> None:
    """The broker took it for a repeat of something that it may not have."""
    window = settled(fact("wms.count", 0, 9))
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(10)
    key, _, _, done = window.wire.logs["availability"].in_flight.popleft()
    done(None, FakeMessage(key, None))  # type: ignore[arg-type]
    window.outlet.availability_stream.gap_from = None  # the publisher has read the gap and found nothing
    window.serve(20)
    window.land()
    key, value, _ = window.wire.logs["availability"].records[-1]
    assert value is not None
    assert (key, decode_availability(value).on_hand) == (KEY.encode(), 8)


def test_state_acknowledged_without_an_offset_is_a_failure() -> None:
    """Only a restart, which reads the log, knows what became of it."""
    window = settled(fact("wms.count", 0, 9))
    window.desk.tell(fact("pos.sale", 1, 1))
    window.outlet.cut(10)
    key, _, _, done = window.wire.logs["state"].in_flight.popleft()
    done(None, FakeMessage(key, None))  # type: ignore[arg-type]
    assert len(window.wire.failures) == 1
    assert "without an offset" in window.wire.failures[0]
