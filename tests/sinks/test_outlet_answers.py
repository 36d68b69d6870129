"""When an outlet answers requests: after their decision is durable, and before their positions are committed."""

from __future__ import annotations

import msgspec
import pytest
from confluent_kafka import KafkaError

from sinks.outlet import ANSWER_INTERVAL_S
from tests.sinks.fake_wire import Window
from tests.stock.facts import fact, told


@pytest.fixture
def asked() -> Window:
    """A request was read; everything before it is committed, and its availability is on the topic."""
    window = Window(told(fact("wms.count", 0, 9)))
    window.serve(-100)
    window.land()
    window.outlet.cut(-100)
    window.land()
    assert window.outlet.cut_ready() is not None
    window.desk.tell(fact("reservation.requested", 1, 2))
    window.serve(1)
    window.land("availability", "network")
    return window


def answered(window: Window) -> list[str]:
    """Verdicts that were sent."""
    log = window.wire.logs["verdicts"]
    values = [value for _, value, _ in log.records] + [value for _, value, _, _ in log.in_flight]
    return [msgspec.json.decode(value)["verdict"] for value in values if value is not None]


def test_an_answer_waits_until_its_decision_is_durable(asked: Window) -> None:
    """Every stage of the cut must be acknowledged first."""
    asked.outlet.cut(1)
    state = asked.wire.logs["state"]
    while state.in_flight:
        assert asked.outlet.cut_ready() is None
        assert answered(asked) == []
        state.land(1)
    assert asked.outlet.cut_ready() is None
    assert answered(asked) == ["accepted"]


def test_positions_wait_until_the_answer_is_acknowledged(asked: Window) -> None:
    """Or a crash would leave a request without one."""
    asked.outlet.cut(1)
    asked.land("state")
    assert asked.outlet.cut_ready() is None
    asked.land("verdicts")
    assert asked.outlet.cut_ready() is not None
    assert answered(asked) == ["accepted"]


def test_nothing_is_promised_while_somebody_else_may_own_the_partition(asked: Window) -> None:
    """A foreign record among our state is looked at first."""
    asked.outlet.cut(1)
    asked.wire.logs["state"].foreign()
    asked.land("state")
    assert asked.outlet.has_gap
    assert asked.outlet.cut_ready() is None
    assert answered(asked) == []


def test_whoever_has_asked_does_not_wait_for_the_usual_cut(asked: Window) -> None:
    """The next cut comes within milliseconds; without a request it comes with its interval."""
    assert asked.outlet.cut_due(1, 1e9)
    asked.outlet.cut(1)
    asked.land("state")
    asked.outlet.cut_ready()
    asked.land("verdicts")
    assert asked.outlet.cut_ready() is not None
    asked.desk.tell(fact("reservation.requested", 2, 1, reservation="Q"))
    assert not asked.outlet.cut_due(1 + ANSWER_INTERVAL_S / 2, 1e9)
    asked.serve(2)
    asked.land("availability", "network")
    assert asked.outlet.cut_due(1 + ANSWER_INTERVAL_S, 1e9)


def test_a_repeat_is_answered_although_nothing_changes(asked: Window) -> None:
    """It makes a cut of its own."""
    wanted = fact("reservation.requested", 2, 3, reservation="Q")
    asked.desk.tell(wanted)
    for second in (2, 3):
        asked.serve(second)
        asked.land("availability", "network")
        assert asked.outlet.cut_due(second, 0)
        asked.outlet.cut(second)
        asked.land("state")
        asked.outlet.cut_ready()
        asked.land("verdicts")
        assert asked.outlet.cut_ready() is not None
        asked.desk.tell(wanted)
    assert answered(asked) == ["accepted"] * 3


def test_an_answer_that_is_not_delivered_ends_the_process(asked: Window) -> None:
    """Only a restart knows what is in the log; it answers again."""
    asked.outlet.cut(1)
    asked.land("state")
    asked.outlet.cut_ready()
    asked.wire.logs["verdicts"].fail()
    assert asked.wire.failures == [str(KafkaError(KafkaError._MSG_TIMED_OUT))]
    assert asked.outlet.cut_ready() is None


def test_a_decision_is_kept_until_its_answer_is_out(asked: Window) -> None:
    """However old the request is: a restart before that has to give it."""
    owed = asked.ledger.verdicts._owed
    asked.outlet.cut(1)
    asked.land("state")
    assert asked.outlet.cut_ready() is None
    assert len(owed) == 1, "it is under way"
    asked.land("verdicts")
    assert asked.outlet.cut_ready() is not None
    assert owed == set()
