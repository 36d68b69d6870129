"""How alerts reach their topic: only once they are durable, again after a crash, and never another one instead."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.state import open_envelope
from stock.ledger import Ledger
from stock.policies import Policies
from tests.sinks.fake_wire import Window
from tests.stock.facts import KEY, Desk, fact, hold, told, us


def opened() -> Window:
    """A window with two units, that has published, committed, and told that this is little."""
    window = Window(told(fact("wms.count", 0, 2)))
    window.serve(-100)
    committed(window, -100)
    assert [alert["state"] for alert in alerts(window, "low_stock")] == ["open"]
    return window


def committed(window: Window, now: float) -> None:
    window.land("state", "availability", "network", "letters")
    window.outlet.cut(now)
    window.land("state", "availability", "network", "letters")
    assert window.outlet.cut_ready() is not None


def alerts(window: Window, kind: str = "shortage") -> list[dict[str, Any]]:
    """Alerts in flight, taken off and acknowledged; those of a kind come back."""
    log = window.wire.logs["alerts"]
    first = len(log.records)
    log.land()
    told = [msgspec.json.decode(value or b"") for _, value, _ in log.records[first:]]
    return [alert for alert in told if alert["kind"] == kind]


def test_an_alert_is_sent_when_its_state_is_durable() -> None:
    """A crash before would open another one; its record names SKU, location, units and time."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    window.land("availability", "network")
    assert alerts(window) == []
    committed(window, 1)
    [alert] = alerts(window)
    assert {name: alert[name] for name in ("kind", "state", "sku", "location", "units", "closed_at")} == {
        "kind": "shortage",
        "state": "open",
        "sku": "SKU",
        "location": "A",
        "units": 3,
        "closed_at": None,
    }
    committed(window, 2)
    assert alerts(window) == []
    window.desk.tell(fact("wms.receipt", 3, 9))
    window.serve(3)
    committed(window, 3)
    [closed] = alerts(window)
    assert (closed["alert"], closed["state"]) == (alert["alert"], "closed")
    assert not window.outlet.owes_alerts


def test_a_successor_sends_the_same_alert_again_until_it_is_acknowledged() -> None:
    """At least once on the topic, once by id and state for readers."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    committed(window, 1)
    log = window.wire.logs["alerts"]
    log.land(silently=True)
    state: dict[str, bytes] = {}
    for key, value, _ in window.wire.logs["state"].records:
        assert key is not None
        if value is None:
            state.pop(key.decode(), None)
        else:
            state[key.decode()] = open_envelope(value)[1]
    ledger = Ledger(Policies())
    ledger.restore(state, (), us(2))
    desk = Desk(ledger)
    desk.next = window.desk.next
    second = Window(desk, wire=window.wire, generation=2)
    second.serve(10)
    committed(second, 10)
    [again] = alerts(second)
    assert again == msgspec.json.decode(log.records[1][1] or b"")
    committed(second, 11)
    assert alerts(second) == []


def test_what_came_up_again_while_its_end_was_owed_opens_anew() -> None:
    """The key is judged again once the end has been told."""
    window = opened()
    for seconds, change in ((1, hold(1, 5)), (2, fact("wms.receipt", 2, 9)), (3, fact("pos.sale", 3, 9))):
        window.desk.tell(change)
        window.serve(seconds)
    committed(window, 4)
    assert [alert["state"] for alert in alerts(window)] == ["open", "closed"]
    window.serve(5)
    committed(window, 5)
    [third] = alerts(window)
    assert (third["state"], third["units"]) == ("open", 3)
    assert KEY in window.ledger


def test_an_alert_that_is_not_delivered_ends_the_process() -> None:
    """As every failed delivery; it is owed still."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    committed(window, 1)
    window.wire.logs["alerts"].fail()
    assert (len(window.wire.failures), window.outlet.owes_alerts) == (1, True)
