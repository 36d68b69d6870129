"""How alerts reach their topic: only once they are durable, again after a crash, and never another one instead."""

from __future__ import annotations

from typing import Any

import msgspec

from stock.alerts import ALERT_PREFIX
from stock.ledger import Ledger
from stock.policies import Policies
from tests.sinks.fake_wire import Window, state_in
from tests.stock.facts import KEY, Desk, fact, hold, policy, rules, told, us


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
    state = state_in(window.wire)
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


def restarted(window: Window, now: float, without: str | None = None) -> Window:
    """Another process with what stands in the state log, but for keys with a prefix; it reads on from there."""
    state = state_in(window.wire)
    ledger = Ledger(Policies())
    kept = {key: value for key, value in state.items() if without is None or not key.startswith(without)}
    ledger.restore(kept, (), us(now))
    desk = Desk(ledger)
    desk.next = window.desk.next
    for log in window.wire.logs.values():
        log.in_flight.clear()
    return Window(desk, wire=window.wire, generation=2)


def test_an_alert_that_was_not_durable_is_opened_by_another_id_and_nobody_saw_the_first() -> None:
    """Its id has the moment of opening; of two openings one at most reaches the topic."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    window.outlet.cut(1)
    [(name, first)] = [one for one in window.ledger.alerts.open_at(KEY) if one[0].kind == "shortage"]
    window.desk.next = [0, 1, 0, 0]  # the hold is read again
    second = restarted(window, 5)
    second.desk.tell(hold(1, 5))
    second.serve(9)
    committed(second, 9)
    told_ids = {alert["alert"] for alert in alerts(second)}
    assert told_ids == {f"{KEY}|{name.kind}|{us(9)}"}
    assert first.id not in told_ids


def test_an_alert_that_is_durable_without_its_cut_keeps_its_id() -> None:
    """Its record landed, and the process died before it knew: the successor tells of that very alert."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    window.outlet.cut(1)
    window.wire.logs["state"].land(silently=True)
    [(_, first)] = [one for one in window.ledger.alerts.open_at(KEY) if one[0].kind == "shortage"]
    window.desk.next = [0, 1, 0, 0]
    second = restarted(window, 5)
    second.desk.tell(hold(1, 5))
    second.serve(9)
    committed(second, 9)
    assert [alert["alert"] for alert in alerts(second)] == [first.id]


def test_the_alert_of_a_count_lands_before_its_balance() -> None:
    """A count that is in the state is not taken in again, so nobody would compare it a second time."""
    window = opened()
    window.desk.tell(fact("wms.count", 5, 9))
    window.serve(5)
    window.land("availability", "network", "letters")
    window.outlet.cut(5)
    sent = [(key or b"").decode() for key, *_ in window.wire.logs["state"].in_flight]
    assert any(key.startswith(f"{ALERT_PREFIX}{KEY}|count_variance|") for key in sent)
    assert KEY not in sent
    window.wire.logs["state"].land(silently=True)
    second = restarted(window, 6)
    second.serve(6)
    committed(second, 6)
    [alert] = alerts(second, "count_variance")
    assert (alert["units"], alert["opened_at"]) == (7, "2026-11-22T10:00:05Z")


def test_what_a_reference_is_called_reaches_readers() -> None:
    """Its ids by what they name, SKU and location beside them; its end is told like any other."""
    window = opened()
    window.desk.tell(fact("pos.sale", 10, 1, reservation="R", line="7"))
    late = 2 * 3_600.0
    window.ledger.advance(us(late))
    window.serve(late)
    committed(window, late)
    [alert] = alerts(window, "unclaimed")
    assert alert["references"] == {"reservation": "R", "line": "7"}
    assert (alert["sku"], alert["location"], alert["units"]) == ("SKU", "A", 1)
    window.desk.tell(hold(0, 1, late + 100, line="7"))
    window.serve(late + 1)
    committed(window, late + 1)
    assert [alert["state"] for alert in alerts(window, "unclaimed")] == ["closed"]
    assert window.stats.alerts["unclaimed", "open"] == window.stats.alerts["unclaimed", "closed"] == 1


def test_nobody_is_suspected_before_the_replay_is_through() -> None:
    """What names a hold that is read a moment later would be told in vain."""
    window = opened()
    window.outlet.catching_up = True
    window.desk.tell(fact("pos.sale", 10, 1, reservation="R"), fact("pos.sale", 11, 9))
    window.ledger.advance(us(7_200))
    window.serve(7_200)
    assert window.ledger.alerts.open_by_kind == {"low_stock": 1}
    window.desk.tell(hold(0, 1, 9_000), fact("wms.receipt", 12, 9))
    window.outlet.caught_up()
    window.serve(7_201)
    assert window.ledger.alerts.open_by_kind == {"low_stock": 1}


def test_a_shortage_within_a_limit_that_is_lowered_is_told() -> None:
    """No record changes by that, and nobody had an alert before."""
    limited = rules(policy("p", backorder_limit=3))
    desk = Desk(Ledger(limited))
    desk.tell(fact("wms.count", 0, 2), hold(0, 5))
    window = Window(desk)
    window.serve(1)
    committed(window, 1)
    assert alerts(window) == []
    limited.set_policy(policy("p", backorder_limit=2))
    window.outlet.look_again(None, None, None)
    window.outlet.sweep()
    window.serve(2)
    committed(window, 2)
    assert [alert["units"] for alert in alerts(window)] == [3]


def test_whoever_finds_a_strangers_record_in_the_state_sends_no_alert() -> None:
    """It may be the claim of a successor, who then knows nothing of this alert."""
    window = opened()
    window.desk.tell(hold(1, 5))
    window.serve(1)
    window.land("availability", "network", "letters")
    window.outlet.cut(1)
    state = window.wire.logs["state"]
    state.records.append((b"|claim", b"a successor's", []))
    while state.in_flight:
        window.land("state")
    assert window.outlet.has_gap
    assert window.outlet.cut_ready() is None
    assert not window.wire.logs["alerts"].in_flight


def test_an_orderly_end_waits_for_alerts() -> None:
    """Also for one that comes up again as the end of its predecessor is told."""
    window = opened()
    assert not window.outlet.has_more_to_tell
    window.desk.tell(hold(1, 5))
    assert window.outlet.has_more_to_tell
    window.serve(1)
    committed(window, 1)
    assert window.outlet.has_more_to_tell
    window.land("alerts")
    assert not window.outlet.owes_alerts
    assert window.outlet.has_more_to_tell  # stock is low no more, or again
    window.serve(2)
    assert not window.outlet.has_more_to_tell


def test_a_program_that_did_not_know_the_alert_leaves_it_to_the_next() -> None:
    """Though nothing else changes with a new version, each key is looked at once."""
    window = opened()
    second = restarted(window, 5, without=ALERT_PREFIX)
    second.serve(5)
    committed(second, 5)
    assert [alert["units"] for alert in alerts(second, "low_stock")] == [2]
