"""What an outlet publishes and when: lanes, conflation, emit only on change, causes, versions, rules, letters."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.dead_letters import Header
from schemas.events import Refusal
from schemas.records import encode
from schemas.state import COUNTER_MAX
from schemas.topics import DEAD_LETTER_BYTES_MAX
from sinks import outlet as module
from sinks.outlet import Letter, digest_of
from stock.events import StockFact
from stock.ledger import Ledger
from tests.sinks.fake_wire import FakeMessage, Window
from tests.stock.facts import KEY, Desk, at, fact, hold, policy, rules, told, us

COUNT = fact("wms.count", 0, 9)


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def opened(*facts: StockFact, **options: Any) -> Window:
    """A window whose first record of SKU at A was published long ago."""
    window = Window(told(*(facts or (COUNT,))), **options)
    window.serve(-100)
    window.land()
    return window


def numbers(window: Window) -> list[int | None]:
    """Available units of the records sent since the last look."""
    return [record.available_to_ship for record in window.sent()]


def test_the_first_fact_of_a_key_is_published_at_once() -> None:
    """Urgent, with everything that a reader needs."""
    window = Window(told(fact("wms.receipt", 0, 9)))
    window.serve(5)
    [record] = window.sent()
    assert (record.sku, record.location, record.status, record.lane) == ("SKU", "A", "IN_STOCK", "urgent")
    assert (record.version, record.changed_at) == (1 << 32 | 1, at(5))


# What is told and what is to be sent, as milliseconds:units; units told are signed, sent are available to ship.
# A sent record is marked with ! if it is urgent.
LANES = [
    case("quiet: routine at once", "0:-1", "0:8"),
    case("two in one interval: the second at its end", "0:-1 100:-1", "0:8 250:7"),
    case("many in one interval: the newest state, once", "0:-1 100:-1 200:-1", "0:8 250:6"),
    case("after the interval it is quiet again", "0:-1 250:-1", "0:8 250:7"),
    case("a steady stream: one each interval", "0:-1 100:-1 300:-1 400:-1", "0:8 250:7 500:5"),
    case("sold out goes out at once", "0:-1 100:-8", "0:8 100:0!"),
    case("and so does the way back", "0:-9 100:+5", "0:0! 100:5!"),
    case("low stock is routine", "0:-1 100:-6", "0:8 250:2"),
    case("urgent takes the waiting one along", "0:-1 100:-1 200:-7", "0:8 200:0!"),
    case("an urgent one starts an interval too", "0:-9 100:+5 200:-1", "0:0! 100:5! 350:4"),
    case("there and back within an interval is nothing", "0:-1 100:-1 200:+1", "0:8"),
    case("shortage alone is routine", "0:-9 100:-1", "0:0! 250:0"),
]


def lane_run(window: Window, told_at: str, until_ms: int = 1_000) -> str:
    """Serve each 10 ms and tell corrections at their times; what was sent."""
    steps = {int(ms): int(units) for ms, _, units in (step.partition(":") for step in told_at.split())}
    found = []
    for ms in range(0, until_ms, 10):
        if ms in steps:
            window.desk.tell(fact("wms.adjustment", ms / 1000, steps[ms]))
        window.serve(ms / 1000)
        found += [
            f"{ms}:{record.available_to_ship}{'!' if record.lane == 'urgent' else ''}" for record in window.sent()
        ]
    return " ".join(found)


@pytest.mark.parametrize(("told_at", "expected"), LANES)
def test_urgent_goes_at_once_and_routine_in_its_interval(told_at: str, expected: str) -> None:
    """Routine changes wait only while their key was published within the interval."""
    assert lane_run(opened(), told_at) == expected


@pytest.mark.parametrize(("told_at", "expected"), LANES)
def test_an_interval_of_zero_publishes_every_change(told_at: str, expected: str) -> None:
    """At once, lanes or not."""
    found = lane_run(opened(interval_s=0), told_at)
    assert [one.partition(":")[0] for one in found.split()] == [one.partition(":")[0] for one in told_at.split()]


@pytest.mark.parametrize(
    ("told_at", "expected"),
    [
        case("sold out waits", "0:-1 100:-8", "0:8 250:0!"),
        case("out and back is one record", "0:-1 100:-8 200:+4", "0:8 250:4"),
        case("quiet: at once", "0:-9", "0:0!"),
    ],
)
def test_catching_up_conflates_both_lanes(told_at: str, expected: str) -> None:
    """Only the newest state per key and interval."""
    assert lane_run(opened(caught_up=False), told_at) == expected


def test_keys_have_lanes_of_their_own() -> None:
    """One that is busy keeps no other waiting."""
    window = opened(COUNT, fact("wms.count", 0, 9, location="B"))
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0)
    window.sent()
    window.desk.tell(fact("pos.sale", 1, 1), fact("pos.sale", 1, 1, location="B"))
    window.serve(0.1)
    assert [record.location for record in window.sent()] == ["B"]


UNCHANGED = [
    case("a repeat", COUNT),
    case("an absorbed fact", fact("pos.sale", -5, 1)),
    case("an older count", fact("wms.count", -5, 1)),
    case("a count of what is there", fact("wms.count", 3, 9)),
    case("the release of an unknown hold", fact("reservation.released", 3)),
]


@pytest.mark.parametrize("event", UNCHANGED)
def test_what_changes_no_number_makes_no_record(event: StockFact) -> None:
    """Sources, causes and times alone are no news."""
    window = opened()
    window.desk.tell(event)
    window.serve(0)
    assert window.sent() == []


def test_a_change_while_records_are_in_flight_is_judged_by_the_newest_of_them() -> None:
    """Not by the last acknowledged one."""
    window = opened(interval_s=0)
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(1)
    window.desk.tell(fact("wms.adjustment", 2, 1))
    window.serve(2)
    assert numbers(window) == [8, 9]
    window.serve(3)
    assert numbers(window) == []


def test_the_digest_covers_exactly_what_can_make_a_record() -> None:
    """Two views have one digest if and only if their records say the same."""
    stories: list[list[StockFact]] = [
        [COUNT],
        [fact("wms.count", 0, 8)],
        [fact("wms.count", 0, 10), hold(1, 1)],
        [fact("wms.count", 0, 10), fact("wms.status_changed", 1, 1, from_state="sellable", to_state="damaged")],
        [fact("wms.count", 0, 0)],
        [fact("wms.count", 0, 0), fact("pos.sale", 1, 1)],
        [fact("pos.sale", 1, 1)],
        [COUNT, COUNT],
        [fact("pos.sale", -1, 3), COUNT],
    ]
    policies = [rules(), rules(policy("p", safety_stock=0)), rules(policy("p", {"mode": "ship"}, buffer=1))]
    by_digest: dict[int, bytes] = {}
    faces = set()
    for rule in policies:
        for story in stories:
            desk = Desk(Ledger(rule))
            desk.tell(*story)
            seen, balance = desk.ledger.settle(KEY)
            face = encode(module.record_of(KEY, seen, balance, ("t", "i", "s", 1), 1, "urgent", at(0)))
            face = face.partition(b'"cause"')[0]
            faces.add(face)
            assert by_digest.setdefault(digest_of(seen), face) == face
    assert len(by_digest) == len(faces) == 7 * len(policies)


def test_a_receipt_is_the_cause_of_a_conflated_record() -> None:
    """What a releaser of backorders looks for survives the facts after it; the next record has its own cause."""
    window = opened()
    window.desk.tell(fact("pos.sale", 0, 1))
    window.serve(0)
    window.desk.tell(fact("wms.receipt", 1, 5), fact("pos.sale", 2, 1), hold(3, 1))
    window.serve(0.3)
    window.desk.tell(fact("pos.sale", 4, 1))
    window.serve(0.6)
    assert [record.cause.type for record in window.sent()] == ["pos.sale", "wms.receipt", "pos.sale"]


def test_the_end_of_a_hold_is_published_as_such() -> None:
    """With the reservation as its cause."""
    window = opened(COUNT, hold(1, 9, expires=60))
    window.ledger.advance(us(60))
    window.serve(60)
    [record] = window.sent()
    assert (record.available_to_ship, record.lane) == (9, "urgent")
    assert (record.cause.type, record.cause.id, record.cause.source) == ("reservation.expired", "R", "stockflow")
    assert record.cause.occurred_at == at(60)


def test_versions_strictly_increase() -> None:
    """Over keys and records of a generation, and from one generation to the next."""
    window = opened(interval_s=0, generation=3)
    versions = []
    for seconds in range(5):
        window.desk.tell(fact("pos.sale", seconds, 1), fact("pos.sale", seconds, 1, location="B"))
        window.serve(seconds)
        versions += [record.version for record in window.sent()]
    after = opened(generation=4, wire=window.wire)
    after.desk.tell(fact("pos.sale", 9, 1))
    after.serve(9)
    versions += [record.version for record in after.sent()]
    assert versions == sorted(set(versions))
    assert [version >> 32 for version in versions] == [3] * 10 + [4]


def test_a_used_up_counter_ends_the_process() -> None:
    """A restart claims a new generation; nothing is ever published with an old version."""
    window = opened()
    window.outlet._counter = COUNTER_MAX
    window.desk.tell(fact("pos.sale", 1, 1))
    with pytest.raises(OverflowError, match="a restart claims a new one"):
        window.serve(1)


def test_acknowledged_records_are_handed_on() -> None:
    """Partition, key, value, offset, and a mark with the time of the oldest input and the lane."""
    window = Window(told(fact("wms.receipt", 3, 9)), partition=7)
    window.serve(5)
    assert window.published == []
    [record] = window.sent()
    assert window.published == [(7, KEY, encode(record), 0, us(3) << 1 | 1)]
    assert window.stats.records_by_lane == {"urgent": 1, "routine": 0}


def test_latency_is_measured_from_the_oldest_input_of_a_conflated_record() -> None:
    """That one waited longest."""
    window = opened()
    for seconds in (1, 2, 3):
        window.desk.tell(fact("pos.sale", seconds, 1))
        window.serve(seconds / 100)
    window.serve(0.3)
    window.land()
    assert [mark >> 1 for *_, mark in window.published[1:]] == [us(1), us(2)]


def test_an_urgent_record_is_as_old_as_the_change_that_waited() -> None:
    """It takes that one along."""
    window = opened()
    for seconds, units in ((1, 1), (2, 1), (3, 7)):
        window.desk.tell(fact("pos.sale", seconds, units))
        window.serve(seconds / 100)
    window.land()
    assert [(mark >> 1, mark & 1) for *_, mark in window.published[1:]] == [(us(1), 0), (us(2), 1)]


# Rules


def swept(window: Window, sku: str | None = None, location: str | None = None, cause: Any = None) -> list[str]:
    """Change of rules: sweep to the end and publish; the keys of the records sent."""
    window.outlet.look_again(sku, location, cause)
    while window.outlet.sweep():
        window.serve(0)
    return [f"{record.sku}|{record.location}" for record in window.sent()]


def test_a_changed_rule_publishes_the_keys_it_changes() -> None:
    """Only those whose record says something else, with the rule as cause."""
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(COUNT, fact("wms.count", 0, 9, location="B"), fact("wms.count", 0, 9, sku="OTHER"))
    window = Window(desk)
    window.serve(-100)
    window.land()
    assert swept(window) == []
    policies.set_policy(policy("p", {"location": "B"}, safety_stock=1))
    window.outlet.look_again(None, "B", ("policy.set", "p", "planning", us(1)))
    while window.outlet.sweep():
        window.serve(0)
    [record] = window.sent()
    assert (record.location, record.withheld_ship, record.policy, record.lane) == ("B", 1, "p", "routine")
    assert (record.cause.type, record.cause.occurred_at) == ("policy.set", at(1))


@pytest.mark.parametrize(
    ("text", "sku", "location", "keys"),
    [
        ("any", None, None, ["SKU|A", "SKU|B", "OTHER|A"]),
        ("a SKU", "SKU", None, ["SKU|A", "SKU|B"]),
        ("a location", None, "A", ["SKU|A", "OTHER|A"]),
        ("a SKU wherever it is", "SKU", "B", ["SKU|A", "SKU|B"]),
        ("nothing here", "NONE", None, []),
    ],
)
def test_only_keys_that_a_rule_concerns_are_looked_at(
    text: str, sku: str | None, location: str | None, keys: list[str]
) -> None:
    """By SKU, by location, or all."""
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(COUNT, fact("wms.count", 0, 9, location="B"), fact("wms.count", 0, 9, sku="OTHER"))
    window = Window(desk)
    window.serve(-100)
    window.land()
    policies.set_policy(policy("p", safety_stock=1))
    assert swept(window, sku, location) == keys, text


def test_many_keys_are_looked_at_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that events hardly wait; changes that come meanwhile are not lost."""
    monkeypatch.setattr(module, "SWEEP_KEYS", 10)
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(*(fact("wms.count", 0, 9, location=f"L{i}") for i in range(35)))
    window = Window(desk, interval_s=0)
    window.serve(-100)
    window.land()
    policies.set_policy(policy("p", safety_stock=1))
    window.outlet.look_again(None, None, None)
    turns = []
    while window.outlet.sweep():
        if not turns:
            policies.set_policy(policy("p", safety_stock=2))
            window.outlet.look_again(None, None, None)
        window.serve(0)
        turns.append(len(window.sent()))
    assert turns == [10, 10, 10, 5, 0, 0, 0, 0], "the rest of the first look sees the second change already"
    assert window.outlet.sweeping == 0


def test_a_rule_that_is_taken_back_while_its_record_is_in_flight_is_taken_back() -> None:
    """What was acknowledged says the same as now; what is under way does not."""
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(COUNT)
    window = Window(desk, interval_s=0)
    window.serve(-100)
    window.land()
    policies.set_policy(policy("p", safety_stock=1))
    window.outlet.look_again(None, None, None)
    window.outlet.sweep()
    window.serve(0)
    policies.remove_policy("p")
    window.outlet.look_again(None, None, None)
    window.outlet.sweep()
    window.serve(1)
    assert [record.withheld_ship for record in window.sent()] == [1, 0]


def test_changes_of_everything_that_wait_are_one_look() -> None:
    """A flood of settings at a start costs one."""
    window = opened()
    for _ in range(100):
        window.outlet.look_again(None, None, None)
    assert window.outlet.sweeping == 1


# Dead letters


def letter(offset: int, **message: Any) -> Letter:
    """A refused record of a sales topic."""
    found = FakeMessage(b"key", b"\xff\x00", offset, "pos-sales.v1", 3, **message)
    return Letter(found, Refusal("bad_field", "units"), 0)  # type: ignore[arg-type]


def test_a_refused_record_goes_on_byte_for_byte() -> None:
    """Key, value and headers, then ours."""
    window = opened()
    window.outlet.refuse([letter(5, own_headers=[("own", b"\xfe")])], us(9))
    window.land()
    [(key, value, headers)] = window.wire.logs["letters"].records
    assert (key, value, headers[0]) == (b"key", b"\xff\x00", ("own", b"\xfe"))
    assert dict(headers[1:]) == {
        "dead-letter.reason": b"bad_field",
        "dead-letter.detail": b"units",
        "dead-letter.topic": b"pos-sales.v1",
        "dead-letter.partition": b"3",
        "dead-letter.offset": b"5",
        "dead-letter.at": b"2026-11-22T10:00:09.000+00:00",
    }
    assert window.stats.letters_by_reason == {"bad_field": 1}


def test_a_letter_that_stands_in_the_log_is_not_sent_again() -> None:
    """Known from the tail that was read at the takeover."""
    window = opened(known_letters={("pos-sales.v1", 3, 5)})
    window.outlet.refuse([letter(5), letter(6)], us(9))
    window.land()
    assert [dict(headers)["dead-letter.offset"] for _, _, headers in window.wire.logs["letters"].records] == [b"6"]


class Unreadable(FakeMessage):
    """A record with a header whose name is not UTF-8, as the client shows it."""

    def headers(self) -> list[Header] | None:
        asked.append(self)
        assert len(asked) == 1, "the second answer of the client is a trap"
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


asked: list[Unreadable] = []


def test_a_record_whose_headers_cannot_be_read_goes_on_without_them() -> None:
    """Kafka takes any bytes as a header's name; the letter has ours only, and says why."""
    asked.clear()
    window = opened()
    message = Unreadable(b"key", b"\xff\x00", 5, "pos-sales.v1", 3)
    window.outlet.refuse([Letter(message, Refusal("bad_field", "units"), 0)], us(9))  # type: ignore[arg-type]
    window.land()
    [(key, value, headers)] = window.wire.logs["letters"].records
    assert (key, value) == (b"key", b"\xff\x00")
    assert [name.partition(".")[0] for name, _ in headers] == ["dead-letter"] * 6
    detail = b"units (its headers are left out: a name is not UTF-8)"
    assert (headers[0], headers[1]) == (("dead-letter.reason", b"bad_field"), ("dead-letter.detail", detail))
    assert window.stats.letters_by_reason == {"bad_field": 1}


def test_a_refused_giant_is_cut_to_what_the_dead_letters_take() -> None:
    """Whatever of it is too large; a broker that refuses the letter would stop the partition."""
    window = opened()
    message = FakeMessage(b"k" * 3_000_000, None, 5, "pos-sales.v1", 3, [("own", b"h" * 3_000_000)])
    window.outlet.refuse([Letter(message, Refusal("empty", "no value"), 0)], us(9))  # type: ignore[arg-type]
    window.land()
    [(key, value, headers)] = window.wire.logs["letters"].records
    assert key is not None
    assert (value, set(key)) == (None, {ord("k")})
    assert headers[0] == ("dead-letter.reason", b"empty")
    assert headers[-1] == ("dead-letter.truncated", b"6000013")
    assert len(key) + sum(len(name) + len(text) for name, text in headers) < DEAD_LETTER_BYTES_MAX


def test_rules_of_many_skus_are_one_look() -> None:
    """Each with its own cause; a planner's upload must not pass over all keys once per line."""
    policies = rules()
    desk = Desk(Ledger(policies))
    desk.tell(*(fact("wms.count", 0, 9, sku=f"S{i}") for i in range(50)))
    window = Window(desk)
    window.serve(-100)
    window.land()
    for i in range(10, 50):
        policies.set_policy(policy(f"p{i}", {"sku": f"S{i}"}, safety_stock=1))
        window.outlet.look_again(f"S{i}", None, ("policy.set", f"p{i}", "planning", us(1)))
    assert window.outlet.sweeping == 1
    while window.outlet.sweep():
        window.serve(0)
    assert [(record.sku, record.cause.id) for record in window.sent()] == [(f"S{i}", f"p{i}") for i in range(10, 50)]
