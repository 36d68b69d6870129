"""What `stockflow inspect` says of a SKU, from records as they stand on the topics."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from operations.audit.log import LogRecord
from operations.inspect import Explanation, Question, Unknown, as_json, render
from operations.inspect.answer import Bound, Line, Place
from operations.inspect.explain import explain
from operations.inspect.found import Found
from schemas.events import setting_key
from schemas.records import encode, micros
from schemas.state import CLAIM_KEY, Claim, encode_claim, seal
from schemas.topics import AVAILABILITY, DEAD_LETTERS, STOCK_SETTINGS, STOCK_STATE
from stock.events import ItemSet, LocationSet, PolicySet, SourceAlive, StockFact
from stock.ledger import Ledger
from stockflow.cli import app
from tests.oracle import topic_of
from tests.stock.facts import KEY, Desk, at, fact, hold, location, policy, rules, us

NOW = 600.0
Setting = PolicySet | LocationSet


def log_record(topic: str, offset: int, key: str, value: bytes | None, seconds: float = 0, **headers: str) -> LogRecord:
    named = tuple((f"dead-letter.{name}", text.encode()) for name, text in headers.items())
    return LogRecord(topic, 0, offset, us(seconds) // 1_000, key.encode(), value, named)


def found_after(
    *facts: StockFact, settings: tuple[Setting, ...] = (), published: bool = True, unread: tuple[StockFact, ...] = ()
) -> Found:
    """What the topics hold once these facts were applied under these settings, and others still wait."""
    desk = Desk(Ledger(rules(*settings)))
    desk.tell(*facts)
    found = Found("SKU", partition=0, partitions=1)
    found.add_settings(
        log_record(STOCK_SETTINGS.name, n, setting_key(setting), msgspec.json.encode(setting))
        for n, setting in enumerate(settings)
    )
    if published and facts:
        record = desk.record(seconds=NOW - 100)
        found.add_published([log_record(AVAILABILITY.name, 0, KEY, encode(record))])
    found.add_state(
        log_record(STOCK_STATE.name, n, key, None if packed is None else seal(1) + packed)
        for n, (key, packed) in enumerate(desk.ledger.flush())
    )
    ends: dict[str, int] = {}
    for told in (*facts, *unread):
        topic = topic_of(told).name
        found.add_inputs([log_record(topic, ends.get(topic, 0), "SKU", msgspec.json.encode(told), NOW)])
        ends[topic] = ends.get(topic, 0) + 1
    for topic, end in ends.items():
        found.note_extent(topic, 0, 0, end)
    return found


def asked(found: Found, where: str | None = "A", movements: int = 10) -> Explanation:
    answer = explain(found, Question("SKU", where, movements, 100), at(NOW))
    assert isinstance(answer, Explanation), answer
    return answer


def place(found: Found) -> Place:
    (only,) = asked(found).places
    return only


COUNT = fact("wms.count", 0, 10)
RECEIPT = fact("wms.receipt", 0, 10)

SENTENCES: list[tuple[str, tuple[StockFact, ...], tuple[Setting, ...], str, str]] = [
    ("plenty", (COUNT,), (), "IN_STOCK", "10 can be sold, more than the low-stock level of 3."),
    ("few", (fact("wms.count", 0, 3),), (), "LOW_STOCK", "3 can be sold, not more than the low-stock level of 3."),
    (
        "few, a while longer",
        (COUNT, fact("pos.sale", 1, 8), fact("wms.receipt", 2, 2)),
        (policy("band", low_stock_enter=2, low_stock_exit=6),),
        "LOW_STOCK",
        "4 can be sold; it was low before, and is IN_STOCK again only from 6 on.",
    ),
    (
        "never counted",
        (fact("pos.sale", 0, 1),),
        (),
        "UNKNOWN",
        "Nobody has ever counted or received anything here, so what lies there is not known; send a wms.count.",
    ),
    ("nothing there", (COUNT, fact("pos.sale", 1, 10)), (), "OUT_OF_STOCK", "Nothing is on hand (0)."),
    (
        "all damaged",
        (COUNT, fact("wms.status_changed", 1, 10, from_state="sellable", to_state="damaged")),
        (),
        "OUT_OF_STOCK",
        "All 10 on hand are damaged, on quality hold or on display.",
    ),
    ("all held", (COUNT, hold(1, 10)), (), "OUT_OF_STOCK", "All 10 that can be sold are promised to holds and orders."),
    (
        "oversold",
        (COUNT, hold(1, 13)),
        (),
        "OUT_OF_STOCK",
        "13 are promised, 3 more than the 10 that can be sold.",
    ),
    (
        "kept back",
        (COUNT,),
        (policy("keep", safety_stock=11, buffer=1),),
        "OUT_OF_STOCK",
        "10 would be free, but safety stock and buffer of 12 keep all of it back.",
    ),
    (
        "location off",
        (COUNT,),
        (location("A", ship=False),),
        "OUT_OF_STOCK",
        "The location does not sell by ship: its location.set says so.",
    ),
    (
        "sold without stock",
        (COUNT, hold(1, 12)),
        (policy("more", backorder_limit=5),),
        "BACKORDERABLE",
        "Nothing is free (-2), and 3 more may be sold without stock (backorder_limit).",
    ),
    (
        "excluded",
        (COUNT,),
        (policy("no", enabled=False),),
        "OUT_OF_STOCK",
        "A policy with enabled=false excludes ship here.",
    ),
]


@pytest.mark.parametrize(("case", "facts", "settings", "status", "sentence"), SENTENCES, ids=[s[0] for s in SENTENCES])
def test_the_status_is_explained_in_a_sentence(
    case: str, facts: tuple[StockFact, ...], settings: tuple[Setting, ...], status: str, sentence: str
) -> None:
    """Each way to a status has words of its own, with the numbers that made it."""
    ship = place(found_after(*facts, settings=settings)).ship
    assert (ship.status, ship.why) == (status, sentence), case


def test_the_arithmetic_is_shown_line_by_line() -> None:
    """On hand less unavailable is physical, less committed is raw, less safety stock is what a buyer gets."""
    found = found_after(
        COUNT,
        fact("wms.status_changed", 1, 2, from_state="sellable", to_state="damaged"),
        hold(2, 3),
        settings=(policy("keep", safety_stock=1, buffer=1),),
    )
    assert place(found).ship.arithmetic == [
        Line("on hand", 10),
        Line("unavailable (damaged, on quality hold, display)", -2, "physical 8"),
        Line("committed to holds and orders", -3, "raw 5"),
        Line("safety stock and buffer, by policy keep", -2, "3"),
        Line("available: never below 0 for a buyer", 3, "available"),
    ]


def test_what_binds_units_is_listed_with_who_and_until_when() -> None:
    """Open holds and allocations of this location only; what has ended by now binds nothing."""
    found = found_after(
        COUNT,
        hold(1, 2, expires=NOW + 60, reservation="R-1", line="1"),
        hold(1, 2, expires=NOW - 60, reservation="R-2"),
        hold(1, 1, reservation="R-3", location="B"),
        fact("order.allocated", 2, 4, order_line="L-1"),
    )
    here = place(found)
    assert here.bound == [
        Bound("allocation", "L-1", None, 4, None),
        Bound("hold", "R-1", "1", 2, at(NOW + 60)),
    ]
    assert here.committed == 6


def test_open_alerts_are_listed_with_what_they_are_about() -> None:
    """Those of the key, and of its location under whatever SKU; what is closed is not."""
    desk = Desk(Ledger(rules(location("B"))))
    desk.tell(fact("wms.count", 0, 2, sku="OTHER"), fact("wms.count", 0, 2), hold(1, 5, reservation="R"))
    ledger = desk.ledger
    ledger.advance(us(90_000))
    for now in (90_000, 90_001):
        ledger.judge(KEY, ledger.view(KEY), us(now))
        ledger.judge_suspects(us(now))
    desk.tell(fact("wms.receipt", 90_002, 10))
    ledger.judge(KEY, ledger.view(KEY), us(90_002))
    found = Found("SKU", partition=0, partitions=1)
    found.add_state(
        log_record(STOCK_STATE.name, n, key, None if packed is None else seal(1) + packed)
        for n, (key, packed) in enumerate(ledger.flush())
    )
    listed = [(one.kind, one.units, one.references) for one in place(found).alerts]
    assert sorted(listed) == [("orphaned_hold", 5, {"reservation": "R"}), ("unknown_location", 0, {})]
    told = io.StringIO()
    Console(file=told, width=200).print(render(asked(found)))
    assert "open alerts" in told.getvalue()
    assert "reservation R" in told.getvalue()


def test_last_facts_say_what_became_of_them() -> None:
    """Newest first, with what they did to on_hand: a repeat and what a count absorbed did nothing."""
    sale = fact("pos.sale", 5, 1)
    late = fact("pos.sale", -5, 1)
    found = found_after(COUNT, sale, late, sale, unread=(fact("pos.sale", 6, 2),))
    told = [(one.type, one.on_hand, one.outcome) for one in place(found).movements]
    assert told == [
        ("wms.count", 0, "applied"),
        ("pos.sale", -2, "not in the saved state yet"),
        ("pos.sale", 0, "duplicate"),
        ("pos.sale", 0, "absorbed"),
        ("pos.sale", -1, "applied"),
    ]
    assert len(asked(found, movements=2).places[0].movements) == 2
    assert "pos-sales.v1" in asked(found).notes[0]


def test_a_refused_record_is_shown_with_its_reason() -> None:
    """What the pipeline cannot take stands among the facts, so that a wrong field is found."""
    found = found_after(COUNT)
    value = b'{"type":"pos.sale","id":"1","source":"s","occurred_at":"yesterday","sku":"SKU","location":"A","units":1}'
    found.add_inputs([log_record("pos-sales.v1", 0, "SKU", value, NOW + 1)])
    (refused, _) = place(found).movements
    assert refused.type == "refused"
    assert "occurred_at" in refused.outcome


def test_the_published_record_is_compared_with_what_holds_now() -> None:
    """Version and age are told; a field that differs is named with both values."""
    fresh = place(found_after(COUNT)).published
    assert fresh is not None
    assert (fresh.version, fresh.age_s, fresh.differs) == (1, 100.0, {})
    ended = place(found_after(COUNT, hold(1, 4, expires=NOW - 50))).published
    assert ended is not None
    assert ended.differs["committed"] == (4, 0)
    assert place(found_after(COUNT, published=False)).published is None


def test_state_of_a_fenced_writer_is_not_believed() -> None:
    """A record of an older generation behind a newer claim changes nothing, as at a restart."""
    found = found_after(COUNT)
    claim = encode_claim(Claim(2, "newer", 1))
    other = Desk()
    other.tell(fact("wms.count", 9, 99))
    late = dict(other.ledger.flush())[KEY]
    assert late is not None
    found.add_state(
        [log_record(STOCK_STATE.name, 8, CLAIM_KEY, claim), log_record(STOCK_STATE.name, 9, KEY, seal(1) + late)]
    )
    assert place(found).on_hand == 10


def test_policies_in_scope_are_listed_and_a_removed_one_is_not() -> None:
    """Those that name this SKU and location, or none; the newest settings record of a key holds."""
    found = found_after(
        COUNT, settings=(policy("here", {"location": "A"}, buffer=1), policy("there", {"location": "B"}))
    )
    assert [rule.policy for rule in place(found).policies] == ["here"]
    assert place(found).policies[0].values == {"buffer": 1}
    found.add_settings([log_record(STOCK_SETTINGS.name, 9, "policy:here", None)])
    assert place(found).policies == []


def test_items_and_heartbeats_count_as_they_do_in_the_pipeline() -> None:
    """A policy of a category applies to the SKUs that are in it; a silent feed makes its location unknown."""
    item = ItemSet(id="i", source="erp", occurred_at=at(0), sku="SKU", brand="b", category="bakery", lifecycle="active")
    settings = (policy("bread", {"category": "bakery"}, safety_stock=4),)
    desk = Desk(Ledger(rules(*settings)))
    desk.ledger.apply_item("SKU", item, 0)
    desk.tell(COUNT)
    found = found_after(COUNT, settings=settings)
    found.add_state(
        log_record(STOCK_STATE.name, n, key, None if packed is None else seal(1) + packed)
        for n, (key, packed) in enumerate(desk.ledger.flush())
    )
    assert (place(found).ship.available, place(found).ship.policy) == (6, "bread")
    said = {"id": "h", "source": "pos", "occurred_at": at(0)}
    alive = SourceAlive(**said, location="A", feed="pos", until=at(NOW - 1))
    found.add_settings([log_record(STOCK_SETTINGS.name, 9, setting_key(alive), msgspec.json.encode(alive))])
    assert place(found).ship.why.startswith("A feed of the location has been silent")


def test_networks_say_by_which_formula_and_what_they_leave_to_others() -> None:
    """Which safety stock counts no record tells: it is seen here, with the policy that set it."""
    settings = (
        policy("keep", {"location": "A"}, safety_stock=2),
        policy("all", {"channel": "app", "mode": "ship"}, network_safety_stock=3),
        policy("fence", {"channel": "web"}, quota=6),
    )
    other = fact("wms.count", 0, 5, location="B")
    answer = asked(found_after(COUNT, other, hold(1, 2, channel="web"), settings=settings))
    told = {one.channel: one for one in answer.networks}
    assert {name: (one.ship.available, one.pickup.available) for name, one in told.items()} == {
        "*": (11, 11),
        "app": (6, 7),
        "web": (11, 11),
    }
    app, web = told["app"], told["web"]
    assert (app.ship.safety_stock, app.ship.policy, app.ship.reserved_for_others, app.bound) == (3, "all", 4, 0)
    assert (app.pickup.safety_stock, app.pickup.reserved_for_others) == (None, 4)
    assert (web.ship.quota, web.ship.reserved_for_others, web.bound, told["*"].bound) == (6, 0, 2, 2)
    shown = Console(file=io.StringIO(), width=200)
    shown.print(render(answer))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "ship: all there is, less 3 by policy all, less 4 kept for other channels; pick-up: what each" in text
    assert "what each location may sell; has a quota of 6" in text


def test_an_unknown_sku_or_location_gets_advice() -> None:
    """Where it is known, what was refused, where its key belongs: what a sender can check."""

    def advice(found: Found, where: str | None) -> str:
        answer = explain(found, Question("SKU", where, 10, 100), at(NOW))
        assert isinstance(answer, Unknown)
        return "\n".join(answer.advice)

    assert "SKU is known at: A" in advice(found_after(COUNT), "B")
    nothing = found_after()
    assert "partition 0 of 1" in advice(nothing, None)
    assert "murmur2" in advice(nothing, None)
    letter = log_record(DEAD_LETTERS.name, 3, "SKU", b"{}", reason="wrong_partition", detail="belongs to 2")
    nothing.add_letters([letter])
    assert "wrong_partition (1)" in advice(nothing, None)
    assert "belongs to 2" in advice(nothing, None)
    waiting = found_after(unread=(COUNT,))
    assert "1 records of it are in the input topics" in advice(waiting, None)


def test_requests_are_told_where_they_were_promised_something() -> None:
    """Whatever location they asked for; they move nothing, and what they hold is told as any hold."""
    anywhere = fact("reservation.requested", 1, 2, location="*", reservation="R-1")
    too_many = fact("reservation.requested", 2, 99, location="*", reservation="R-2")
    refused = fact("reservation.requested", 3, 99, reservation="R-3")
    told = place(found_after(COUNT, anywhere, too_many, refused))
    assert [(one.id, one.on_hand, one.outcome) for one in told.movements if one.type == "reservation.requested"] == [
        (refused.id, 0, "applied"),
        (anywhere.id, 0, "applied"),
    ]
    assert [(one.kind, one.id, one.units) for one in told.bound] == [("hold", "R-1", 2)]


COMING = (
    fact("inbound.expected", 1, 5, eta=at(NOW + 100)),
    fact("inbound.expected", 1, 3, eta=at(NOW + 200), inbound="J"),
)

# Facts and settings beside 8 that are announced, then what can be promised from each date on.
PROMISES: list[tuple[str, tuple[StockFact, ...], tuple[Setting, ...], list[int]]] = [
    ("stock and what comes", (COUNT,), (), [15, 18]),
    ("what is short comes first", (COUNT, hold(1, 12)), (), [3, 6]),
    ("what is kept back is kept back then too", (COUNT, hold(1, 9)), (policy("keep", safety_stock=3),), [3, 6]),
    ("the mode that keeps less back", (COUNT,), (policy("keep", {"mode": "ship"}, safety_stock=9),), [15, 18]),
    ("never counted: not known", (fact("pos.sale", 0, 1),), (), []),
    ("nothing is sold here", (COUNT,), (location("A", ship=False, pickup=False),), []),
    ("only pick-up", (COUNT,), (location("A", ship=False), policy("keep", {"mode": "pickup"}, buffer=4)), [11, 14]),
]


@pytest.mark.parametrize(("text", "facts", "settings", "units"), PROMISES, ids=[row[0] for row in PROMISES])
def test_it_tells_what_can_be_promised_by_date(
    text: str, facts: tuple[StockFact, ...], settings: tuple[Setting, ...], units: list[int]
) -> None:
    """At one location, from each announced date on."""
    told = place(found_after(*facts, *COMING, settings=settings)).atp
    assert [one.units for one in told] == units, text
    assert [one.at for one in told] == [at(NOW + 100), at(NOW + 200)][: len(units)]


def test_what_is_late_is_not_promised() -> None:
    """It may never come; without a date nothing is, either."""
    late = fact("inbound.expected", 1, 5, eta=at(NOW - 1))
    sometime = fact("transfer.shipped", 1, 2, location="B", to_location="A")
    assert place(found_after(COUNT, late, sometime)).atp == []


def test_both_ways_of_telling_have_everything() -> None:
    """The JSON holds the whole answer; the table names status, policy, hold, fact and version."""
    found = found_after(
        COUNT,
        hold(1, 2, reservation="R-1"),
        COMING[0],
        settings=(policy("keep", safety_stock=9), location("A", pickup=False)),
    )
    answer = asked(found)
    told: dict[str, Any] = json.loads(as_json(answer))
    assert told["known"] is True
    assert told["places"][0]["ship"]["policy"] == "keep"
    assert told["places"][0]["atp"] == [{"at": "2026-11-22T10:11:40Z", "units": 4}]
    assert micros(answer.as_of) == us(NOW)
    console = Console(file=io.StringIO(), width=200)
    console.print(render(answer))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in (
        "withheld_by_safety_stock",
        "by policy keep",
        "R-1",
        "wms.count",
        "version 1",
        "location_off",
        "promised by date",
    ):
        assert expected in text


@pytest.mark.parametrize("arguments", [[], ["A|B"], ["SKU", " A"], ["SKU", "A", "B"], ["SKU", "--movements", "-1"]])
def test_wrong_use_has_its_own_exit_code(arguments: list[str]) -> None:
    """A missing SKU, or a name that cannot exist, is 2; nothing is connected to."""
    assert CliRunner().invoke(app, ["inspect", *arguments]).exit_code == 2
