"""Mistakes that an outlet once made, each as small as it can be told."""

from __future__ import annotations

from schemas.events import Refusal
from schemas.records import decode_availability
from schemas.state import open_envelope
from sinks.outlet import Letter
from stock.ledger import Ledger
from stock.policies import Policies
from tests.sinks.fake_wire import FakeMessage, Window
from tests.stock.facts import KEY, Desk, fact, told, us


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
    first.land("state", "availability")
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
    second.outlet.refuse([refused], us(3))
    second.outlet.cut(3)
    second.land()
    ready = second.outlet.cut_ready()
    assert ready is not None
    assert ready[0] == (1, 0, 0, 0)
