"""When an alert opens and closes, what of it is owed to readers, and that a restart goes on with the same one."""

from __future__ import annotations

from typing import Any

import pytest

from stock import alerts as module
from stock.alerts import ALERT_PREFIX, ENDED_KEPT_US, Alerts, check_alert, conditions
from stock.availability import View
from tests.stock.facts import KEY, at, fact, hold, told, us

NAME = f"{KEY}|shortage"


def seen(on_hand: int, held: int = 0) -> View:
    desk = told(fact("wms.count", 0, on_hand), *([hold(1, held)] if held else []))
    return desk.ledger.view(KEY)


SHORT, FINE = seen(2, 5), seen(5)


def owed(alerts: Alerts) -> list[tuple[str, int | None]]:
    return [(one.state, one.closed_us) for one in alerts.owed()]


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


@pytest.mark.parametrize(
    ("view", "more", "holding"),
    [
        case("plenty", seen(5), {}, {}),
        case("nothing there, nothing promised", seen(0), {}, {}),
        case("all promised", seen(5, 5), {}, {}),
        case("more promised than there is", seen(2, 5), {}, {"shortage": 3}),
        case("a transfer that should be here", seen(5), {"overdue": 4}, {"overdue_transfer": 4}),
        case("above the reorder point", seen(5), {"reorder_point": 4}, {}),
        case("at the reorder point", seen(5), {"reorder_point": 5}, {"reorder_point": 1}),
        case("what is promised is not to sell", seen(9, 5), {"reorder_point": 6}, {"reorder_point": 3}),
        case("as many as make it low", seen(3), {}, {"low_stock": 3}),
        case("one more than that", seen(4), {}, {}),
    ],
)
def test_what_holds_is_told_with_its_units(view: View, more: dict[str, int], holding: dict[str, int]) -> None:
    """Short by so many, so many overdue, so many to order at least; 0 where nothing holds."""
    assert {kind: units for kind, units in conditions(view, **more) if units} == holding


def test_an_overdue_transfer_is_judged_at_its_moment() -> None:
    """By the timer of its ETA; what arrives, or gets a new date, is overdue no more."""
    desk = told(fact("transfer.shipped", 1, 4, location="B", to_location="A", eta=at(60)))
    ledger = desk.ledger

    def judged(now: float) -> list[tuple[str, int | None]]:
        ledger.advance(us(now))
        ledger.judge(KEY, ledger.view(KEY), us(now))
        return owed(ledger.alerts)

    assert judged(59) == []
    ledger.touched.clear()
    ledger.advance(us(60))
    assert KEY in ledger.touched
    assert judged(60) == [("open", None)]
    desk.tell(fact("transfer.rescheduled", 61, location="B", eta=at(90)))
    assert judged(61) == [("open", None), ("closed", us(61))]


def test_an_alert_opens_once_and_closes_once() -> None:
    """However often it is looked at; after that another one may open, with another id."""
    alerts = Alerts()
    for now in (10, 20):
        alerts.judge(KEY, SHORT, now)
    [opened] = alerts.owed()
    assert (opened.name, opened.state, opened.units, opened.opened_us) == (NAME, "open", 3, 10)
    alerts.told(opened)
    assert alerts.owed() == []
    for now in (30, 40):
        alerts.judge(KEY, FINE, now)
    [closed] = alerts.owed()
    assert (closed.id, closed.state, closed.closed_us) == (opened.id, "closed", 30)
    alerts.told(closed)
    assert len(alerts) == 0
    alerts.judge(KEY, SHORT, 50)
    assert alerts.owed()[0].id != opened.id


def test_what_closes_before_it_was_told_is_told_wholly() -> None:
    """First that it opened, then that it closed; meanwhile no other opens."""
    alerts = Alerts()
    alerts.judge(KEY, SHORT, 10)
    alerts.judge(KEY, FINE, 20)
    alerts.judge(KEY, SHORT, 30)
    assert owed(alerts) == [("open", None), ("closed", 20)]
    for one in alerts.owed():
        alerts.told(one)
    assert len(alerts) == 0


def test_a_restart_owes_what_was_owed() -> None:
    """The same alert, by its id; what readers were told is not owed any more."""
    alerts = Alerts()
    alerts.judge(KEY, SHORT, 10)
    [(state_key, packed)] = alerts.flush()
    assert state_key == f"{ALERT_PREFIX}{NAME}"
    assert packed is not None
    check_alert(packed)
    again = Alerts()
    again.restore(state_key, packed)
    again.judge(KEY, SHORT, 99)
    assert again.owed() == alerts.owed()
    again.told(again.owed()[0])
    assert again.dirty
    [(_, packed)] = again.flush()
    third = Alerts()
    assert packed is not None
    third.restore(state_key, packed)
    assert (third.owed(), len(third)) == ([], 1)
    third.judge(KEY, FINE, 100)
    third.told(third.owed()[0])
    [(_, packed)] = third.flush()
    assert packed is not None
    fourth = Alerts()
    fourth.restore(state_key, packed)
    assert (fourth.owed(), len(fourth), fourth.next_timer_us()) == ([], 0, 100 + ENDED_KEPT_US)
    fourth.advance(100 + ENDED_KEPT_US)
    assert list(fourth.flush()) == [(state_key, None)]


def test_what_ended_makes_room_for_its_successor() -> None:
    """Its deletion is due an hour later, and must not hit what is open under its name by then."""
    alerts = Alerts()
    for opened_us in (10, 30):
        alerts.judge(KEY, SHORT, opened_us)
        alerts.told(alerts.owed()[0])
        alerts.judge(KEY, FINE, opened_us + 10)
        alerts.told(alerts.owed()[0])
    alerts.judge(KEY, SHORT, 50)
    alerts.flush()
    alerts.advance(60 + ENDED_KEPT_US)
    assert (len(alerts), [key for key, packed in alerts.flush() if packed is None]) == (1, [])


def test_of_what_ended_so_much_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are deleted first."""
    monkeypatch.setattr(module, "ENDED_MAX", 2)
    alerts = Alerts()
    for number in range(4):
        alerts.judge(f"SKU|{number}", SHORT, number)
        alerts.judge(f"SKU|{number}", FINE, number)
        for owed in alerts.owed():
            alerts.told(owed)
    alerts.flush()
    alerts.advance(5)
    assert [key for key, packed in alerts.flush() if packed is None] == [
        f"{ALERT_PREFIX}SKU|{number}|shortage" for number in (0, 1)
    ]


def test_a_late_word_about_another_alert_changes_nothing() -> None:
    """Acknowledgements are matched by id and state."""
    alerts = Alerts()
    alerts.judge(KEY, SHORT, 10)
    [first] = alerts.owed()
    alerts.told(first)
    alerts.told(first)
    assert len(alerts) == 1


def test_state_that_is_none_is_refused() -> None:
    """As every state record."""
    with pytest.raises(ValueError, match=r"."):
        check_alert(b"\x01")
