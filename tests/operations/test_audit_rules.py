"""The audit's own rules on hand-made facts, as tables; no Kafka, no Redis, no pipeline."""

# ruff: noqa: E501 - a case is read as one row of its table

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec
import polars as pl
import pytest

from operations.audit.answers import Answers
from operations.audit.expected import expected_records, with_overall
from operations.audit.facts import frame, judge_fact, judge_setting, row_of
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import LogRecord
from operations.audit.recompute import Moment, recompute
from operations.audit.report import DIFFERENCES_PER_KIND_MAX, Findings
from schemas import topics
from schemas.records import micros
from stock import events

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
NOW_US = micros(NOW)
NOW_MS = NOW_US // 1_000
AT_REST = Moment(NOW_US, NOW_US)
_TOPICS = {
    "pos": topics.POS_SALES.name,
    "wms": topics.WMS_MOVEMENTS.name,
    "transfer": topics.WMS_MOVEMENTS.name,
    "inbound": topics.WMS_MOVEMENTS.name,
    "reservation": topics.ORDER_RESERVATIONS.name,
    "order": topics.ORDER_RESERVATIONS.name,
    "item": topics.STOCK_ITEMS.name,
}

Fact = dict[str, object]


def table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Cases of which the first column says what they show."""
    return pytest.mark.parametrize(names, rows, ids=[row[0] for row in rows])


def clock(text: object) -> str:
    """10:05 as a time of the day of these tests."""
    hour_minute = str(text) if str(text).count(":") == 2 else f"{text}:00"
    return f"2026-11-22T{hour_minute}Z"


def fact(type_: str, at: str, units: int | None = None, *, id: str = "", **own: object) -> Fact:
    """A fact about SKU-1 at S1, unless it says otherwise; without an id it gets one of its own."""
    times = {name: clock(own.pop(name)) for name in ("expires_at", "voided_at", "eta") if name in own}
    content: Fact = {"type": type_, "occurred_at": clock(at), "source": "test", "sku": "SKU-1", "location": "S1"}
    return {**content, **({} if units is None else {"units": units}), **({"id": id} if id else {}), **own, **times}


def log_of(facts: Sequence[Fact]) -> list[LogRecord]:
    """The facts as they stand on their topics, in order of arrival, one millisecond apart, one partition."""
    offsets: dict[str, int] = {}
    found = []
    for number, content in enumerate(facts):
        topic = _TOPICS[str(content["type"]).split(".")[0]]
        offset = offsets.get(topic, 0)
        offsets[topic] = offset + 1
        value = msgspec.json.encode({"id": f"e-{number:03}", **content})
        found.append(LogRecord(topic, 0, offset, NOW_MS + number, b"key", value))
    return found


def facts_of(facts: Sequence[Fact]) -> pl.DataFrame:
    """The frame of facts that all must be valid."""
    rows = []
    for record in log_of(facts):
        judged = judge_fact(record, 1)
        assert judged.refusal is None, judged.refusal
        assert judged.message is not None
        rows.append(row_of(record, judged.message))
    return frame(rows)


def published(
    facts: Sequence[Fact], settings: Sequence[dict[str, object]] = (), moment: Moment = AT_REST
) -> dict[tuple[str, str], dict[str, object]]:
    """By SKU and location, the first legal record."""
    balances = recompute(facts_of(facts), moment).balances
    records = with_overall(expected_records(balances, settings_of(settings))).filter(alternative=0)
    return {(row["sku"], row["location"]): row for row in records.iter_rows(named=True)}


def settings_of(settings: Sequence[dict[str, object]]) -> dict[str, events.Message]:
    """Settings by their Kafka key; all must be valid."""
    found: dict[str, events.Message] = {}
    for number, content in enumerate(settings):
        key = f"location:{content['location']}" if "location" in content else f"policy:{content['policy']}"
        message = {"id": f"s-{number}", "source": "test", "occurred_at": clock("08:00"), **content}
        record = LogRecord("stock-settings.v1", 0, number, NOW_MS, key.encode(), msgspec.json.encode(message))
        judged = judge_setting(record)
        assert (judged.refusal, judged.doubt) == (None, None)
        assert judged.message is not None
        found[key] = judged.message
    return found


def policy(name: str, scope: dict[str, object] | None = None, **values: object) -> dict[str, object]:
    """A policy as it is told."""
    return {"type": "policy.set", "policy": name, "scope": scope or {}, "values": values}


def location(name: str, ship: bool, pickup: bool) -> dict[str, object]:
    """A location as it is told."""
    return {
        "type": "location.set",
        "location": name,
        "kind": "store",
        "ship_enabled": ship,
        "pickup_enabled": pickup,
    }


COUNT_10 = fact("wms.count", "09:00", 10)
CREATED_3 = fact("reservation.created", "10:00", 3, reservation="R-1", mode="ship", expires_at="13:00")
ALLOCATED_5 = fact("order.allocated", "10:00", 5, order_line="O-1")


@table(
    ("text", "facts", "on_hand"),
    [
        ("movements without a count add up", [fact("wms.receipt", "09:00", 5), fact("pos.sale", "09:01", 2)], 3),
        ("units can be below nothing", [fact("pos.sale", "09:01", 2)], -2),
        ("a return adds", [COUNT_10, fact("pos.return", "10:00", 2, state="sellable")], 12),
        ("an adjustment is signed", [COUNT_10, fact("wms.adjustment", "10:00", -4, reason="theft")], 6),
        ("a shipment and its void cancel", [fact("wms.shipment", "01:00", 3), fact("wms.shipment_voided", "02:00", 3)], 0),
        ("a fulfilled order left", [COUNT_10, fact("order.fulfilled", "10:00", 4, order_line="O")], 6),
        ("a change of state stays", [COUNT_10, {**fact("wms.status_changed", "10:00", 3), "from": "sellable", "to": "damaged"}], 10),
        ("a movement before the count is absorbed", [COUNT_10, fact("pos.sale", "08:59", 2)], 10),
        ("a movement at the time of the count comes on top", [COUNT_10, fact("pos.sale", "09:00", 2)], 8),
        ("a count that arrives late keeps later movements", [fact("pos.sale", "09:30", 2), COUNT_10], 8),
        ("the newest count wins", [COUNT_10, fact("wms.count", "08:00", 99)], 10),
        ("of two counts at one time the greater id wins", [fact("wms.count", "09:00", 1, id="b"), fact("wms.count", "09:00", 2, id="a")], 1),
        ("of two counts at one time the source decides first", [fact("wms.count", "09:00", 1, id="b"), fact("wms.count", "09:00", 2, id="a", source="z")], 2),
        ("a void of a sale is effective when that was", [fact("pos.void", "10:00", 2, voids="x", voided_type="pos.sale", voided_at="08:00"), COUNT_10], 10),
        ("a void of a later sale comes on top", [fact("pos.void", "10:00", 2, voids="x", voided_type="pos.sale", voided_at="09:30"), COUNT_10], 12),
        ("a void of a return takes", [COUNT_10, fact("pos.void", "10:00", 2, voids="x", voided_type="pos.return", voided_at="09:30")], 8),
        ("a repeat changes nothing", [COUNT_10, fact("pos.sale", "10:00", 2, id="s"), fact("pos.sale", "10:00", 2, id="s")], 8),
        ("a repeat with other content changes nothing", [COUNT_10, fact("pos.sale", "10:00", 2, id="s"), fact("pos.sale", "10:00", 9, id="s")], 8),
        ("across topics the earlier arrival counts", [fact("wms.receipt", "10:00", 7, id="s"), fact("pos.sale", "10:00", 2, id="s")], 7),
        ("the same id of another source is another fact", [fact("pos.sale", "10:00", 2, id="s"), fact("pos.sale", "10:00", 2, id="s", source="z")], -4),
        ("a hold takes nothing away", [COUNT_10, CREATED_3], 10),
    ],
)  # fmt: skip
def test_on_hand_is_the_newest_count_and_what_moved_since(text: str, facts: list[Fact], on_hand: int) -> None:
    """Counts, movements, voids and repeats give the units that are there."""
    assert published(facts)["SKU-1", "S1"]["on_hand"] == on_hand, text


def change(at: str, units: int, from_: str, to: str) -> Fact:
    """Units that changed their state."""
    return {**fact("wms.status_changed", at, units), "from": from_, "to": to}


@table(
    ("text", "facts", "unavailable"),
    [
        ("nothing said", [COUNT_10], 0),
        ("damaged units are not for sale", [COUNT_10, change("10:00", 3, "sellable", "damaged")], 3),
        ("display to quality_hold changes nothing in sum", [change("10:00", 3, "sellable", "display"), change("11:00", 3, "display", "quality_hold")], 3),
        ("a count does not absorb states", [COUNT_10, change("08:00", 3, "sellable", "damaged")], 3),
        ("writing off damaged units lowers them", [change("09:00", 3, "sellable", "damaged"), fact("wms.adjustment", "10:00", -2, reason="scrap", state="damaged")], 1),
        ("a return of damaged goods is not for sale", [COUNT_10, fact("pos.return", "10:00", 2, state="damaged")], 2),
        ("absorbed movements move their state too", [COUNT_10, fact("pos.return", "08:00", 2, state="damaged")], 2),
        ("a counter below nothing counts as nothing", [change("10:00", 3, "damaged", "sellable"), change("10:00", 1, "sellable", "display")], 1),
        ("a void of a damaged return takes it back", [fact("pos.return", "10:00", 2, state="damaged"), fact("pos.void", "10:05", 2, voids="x", voided_type="pos.return", voided_at="10:00", state="damaged")], 0),
        ("a count of units says nothing about states", [change("10:00", 3, "sellable", "damaged"), fact("wms.count", "11:00", 1)], 3),
    ],
)  # fmt: skip
def test_unavailable_is_the_sum_of_positive_counters(text: str, facts: list[Fact], unavailable: int) -> None:
    """Every state but sellable is a counter of its own."""
    assert published(facts)["SKU-1", "S1"]["unavailable"] == unavailable, text


def released(at: str, units: int | None = None, **own: object) -> Fact:
    """A release of R-1."""
    return fact("reservation.released", at, units, reservation="R-1", **own)


def renewed(at: str, until: str) -> Fact:
    """A renewal of R-1."""
    return fact("reservation.renewed", at, reservation="R-1", expires_at=until)


@table(
    ("text", "facts", "committed"),
    [
        ("a hold is committed", [CREATED_3], 3),
        ("without an end it is open for good", [fact("reservation.created", "01:00", 3, reservation="R-1", mode="ship")], 3),
        ("it ends at its time", [fact("reservation.created", "10:00", 3, reservation="R-1", mode="ship", expires_at="12:00")], 0),
        ("a release in part", [CREATED_3, released("10:05", 1)], 2),
        ("a release as a whole", [CREATED_3, released("10:05")], 0),
        ("a release told before the hold", [released("10:05", 1), CREATED_3], 2),
        ("a release that happened before the hold", [CREATED_3, released("09:55", 1)], 3),
        ("at one time the creation comes first", [fact("reservation.released", "10:00", 1, reservation="R-1", id="a"), {**CREATED_3, "id": "z"}], 2),
        ("a sale takes what it names", [CREATED_3, fact("pos.sale", "10:05", 2, reservation="R-1")], 1),
        ("a sale takes no more than there is", [CREATED_3, fact("pos.sale", "10:05", 9, reservation="R-1")], 0),
        ("a lowering adjustment takes", [CREATED_3, fact("wms.adjustment", "10:05", -2, reason="x", reservation="R-1")], 1),
        ("a raising adjustment does not", [CREATED_3, fact("wms.adjustment", "10:05", 2, reason="x", reservation="R-1")], 3),
        ("a voided return takes at its own time", [CREATED_3, fact("pos.void", "11:00", 1, voids="x", voided_type="pos.return", voided_at="10:30", reservation="R-1")], 2),
        ("a voided sale restores no hold", [CREATED_3, fact("pos.sale", "10:05", 2, reservation="R-1"), fact("pos.void", "10:10", 2, voids="x", voided_type="pos.sale", voided_at="10:05", reservation="R-1")], 1),
        ("an allocation turns the hold into its own", [CREATED_3, fact("order.allocated", "10:05", 3, order_line="O", reservation="R-1")], 3),
        ("lines are holds of their own", [CREATED_3, {**CREATED_3, "line": "2"}, released("10:05")], 3),
        ("a newer creation states it anew", [CREATED_3, released("10:05"), fact("reservation.created", "10:10", 1, reservation="R-1", mode="ship")], 1),
        ("an older creation is history", [fact("reservation.created", "10:10", 1, reservation="R-1", mode="ship"), CREATED_3], 1),
        ("a renewal in time", [fact("reservation.created", "10:00", 3, reservation="R-1", mode="ship", expires_at="11:00"), renewed("10:30", "13:00")], 3),
        ("a renewal too late", [fact("reservation.created", "10:00", 3, reservation="R-1", mode="ship", expires_at="11:00"), renewed("11:00", "13:00")], 0),
        ("renewals chain", [renewed("11:30", "13:00"), renewed("10:30", "12:00"), fact("reservation.created", "10:00", 3, reservation="R-1", mode="ship", expires_at="11:00")], 3),
        ("a renewal may shorten", [CREATED_3, renewed("10:30", "11:00")], 0),
        ("a renewal gives an end to a hold without one", [fact("reservation.created", "01:00", 3, reservation="R-1", mode="ship"), renewed("02:00", "03:00")], 0),
    ],
)  # fmt: skip
def test_hold_is_the_fold_of_all_that_names_it(text: str, facts: list[Fact], committed: int) -> None:
    """What is open of a hold depends on when things happened, not on when they were told."""
    for order in (facts, facts[::-1]):
        numbered = [{"id": f"n-{facts.index(content)}", **content} for content in order]
        assert published(numbered)["SKU-1", "S1"]["committed"] == committed, text


def test_newer_creation_elsewhere_moves_a_hold() -> None:
    """A hold has one location, that of its newest creation, and both locations are published."""
    moved = {**CREATED_3, "location": "S2", "occurred_at": clock("10:10")}
    found = published([CREATED_3, moved])
    assert {key: row["committed"] for key, row in found.items()} == {("SKU-1", "S1"): 0, ("SKU-1", "S2"): 3}


@table(
    ("text", "facts", "committed"),
    [
        ("an allocation is committed", [ALLOCATED_5], {"S1": 5}),
        ("fulfilment takes", [ALLOCATED_5, fact("order.fulfilled", "10:05", 2, order_line="O-1")], {"S1": 3}),
        ("fulfilment takes no more than there is", [ALLOCATED_5, fact("order.fulfilled", "10:05", 9, order_line="O-1")], {"S1": 0}),
        ("a sale takes", [ALLOCATED_5, fact("pos.sale", "10:05", 2, order_line="O-1")], {"S1": 3}),
        ("deallocation gives back", [ALLOCATED_5, fact("order.deallocated", "10:05", 2, order_line="O-1")], {"S1": 3}),
        ("a newer statement replaces the older", [ALLOCATED_5, fact("order.fulfilled", "10:05", 2, order_line="O-1"), fact("order.allocated", "10:10", 4, order_line="O-1")], {"S1": 4}),
        ("what happened before the statement is in it", [ALLOCATED_5, fact("order.fulfilled", "09:05", 2, order_line="O-1")], {"S1": 5}),
        ("a voided shipment restores", [ALLOCATED_5, fact("wms.shipment", "10:05", 4, order_line="O-1"), fact("wms.shipment_voided", "10:10", 3, order_line="O-1")], {"S1": 4}),
        ("it restores at most what was taken", [ALLOCATED_5, fact("wms.shipment", "10:05", 2, order_line="O-1"), fact("wms.shipment_voided", "10:10", 9, order_line="O-1")], {"S1": 5}),
        ("it restores nothing that was deallocated", [ALLOCATED_5, fact("order.deallocated", "10:05", 2, order_line="O-1"), fact("wms.shipment_voided", "10:10", 2, order_line="O-1")], {"S1": 3}),
        ("a voided sale restores after the take of its own time", [ALLOCATED_5, fact("pos.sale", "10:05", 2, order_line="O-1", id="z"), fact("pos.void", "10:20", 2, voids="z", voided_type="pos.sale", voided_at="10:05", order_line="O-1", id="a")], {"S1": 5}),
        ("a voided return takes", [ALLOCATED_5, fact("pos.void", "10:20", 2, voids="z", voided_type="pos.return", voided_at="10:05", order_line="O-1")], {"S1": 3}),
        ("the own location comes first", [ALLOCATED_5, {**ALLOCATED_5, "location": "S2", "units": 4}, fact("order.fulfilled", "10:05", 3, order_line="O-1", location="S2")], {"S1": 5, "S2": 1}),
        ("then the others by their id", [ALLOCATED_5, {**ALLOCATED_5, "location": "S0", "units": 1}, {**ALLOCATED_5, "location": "S2", "units": 4}, fact("order.fulfilled", "10:05", 7, order_line="O-1", location="S2")], {"S0": 0, "S1": 3, "S2": 0}),
        ("restores go the same way", [ALLOCATED_5, {**ALLOCATED_5, "location": "S2", "units": 4}, fact("wms.shipment", "10:05", 9, order_line="O-1"), fact("wms.shipment_voided", "10:10", 6, order_line="O-1", location="S2")], {"S1": 2, "S2": 4}),
        ("another SKU's line of the same name is another", [ALLOCATED_5, fact("order.fulfilled", "10:05", 2, order_line="O-1", sku="SKU-2")], {"S1": 5}),
    ],
)  # fmt: skip
def test_order_line_is_the_fold_of_all_that_names_it(text: str, facts: list[Fact], committed: dict[str, int]) -> None:
    """What an order line binds depends on when things happened, not on when they were told."""
    for order in (facts, facts[::-1]):
        numbered = [{"id": f"n-{facts.index(content)}", **content} for content in order]
        found = published(numbered)
        assert {where: row["committed"] for (sku, where), row in found.items() if sku == "SKU-1"} == committed, text


SECOND_US = 1_000_000


@table(
    ("text", "ends", "legal"),
    [
        ("far from its end a hold is open", ["12:00:10"], [3]),
        ("long after its end it is closed", ["11:59:50"], [0]),
        ("close to its end either is right", ["12:00:01"], [3, 0]),
        ("just after its end either is right", ["11:59:59"], [3, 0]),
        ("holds end in order of time", ["12:00:01", "11:59:59"], [6, 3, 0]),
        ("an open one stays open", ["12:00:01", "12:00:10"], [6, 3]),
    ],
)
def test_hold_that_ends_while_it_is_read_may_be_open_or_closed(text: str, ends: list[str], legal: list[int]) -> None:
    """The clock of the reader and that of the pipeline differ by the time of reading."""
    facts = [
        fact("reservation.created", "10:00", 3, reservation=f"R-{number}", mode="ship", expires_at=end)
        for number, end in enumerate(ends)
    ]
    found = recompute(facts_of(facts), Moment(NOW_US - 2 * SECOND_US, NOW_US + 2 * SECOND_US))
    assert found.balances.sort("alternative")["committed"].to_list() == legal, text
    assert found.in_flux == ({("SKU-1", "S1")} if len(legal) > 1 else frozenset())


def test_every_location_that_a_fact_names_is_published() -> None:
    """A fact without units for sale makes a key too; a repeat elsewhere does not."""
    facts = [
        released("10:00", location="S3"),
        fact("order.deallocated", "10:00", 1, order_line="O", location="S4", id="same"),
        fact("order.deallocated", "10:01", 1, order_line="O", location="S5", id="same"),
    ]
    assert sorted(published(facts)) == [("SKU-1", "S3"), ("SKU-1", "S4")]


def test_outcomes_are_counted_by_partition() -> None:
    """First facts and repeats are told apart; absorbed facts count as applied."""
    facts = [COUNT_10, fact("pos.sale", "08:00", 1, id="s"), fact("pos.sale", "08:00", 1, id="s")]
    found = recompute(facts_of(facts), AT_REST)
    assert (found.applied, found.duplicates) == ({0: 2}, {0: 1})


@table(
    ("text", "facts", "settings", "record"),
    [
        ("plenty", [COUNT_10], [], {"status": "IN_STOCK", "reason": None, "available_to_ship": 10, "available_in_store": 10, "shortage": 0, "backorder_left": 0, "policy": None}),
        ("few", [fact("wms.receipt", "09:00", 3)], [], {"status": "LOW_STOCK", "status_ship": "LOW_STOCK", "status_pickup": "LOW_STOCK", "available_to_ship": 3}),
        ("one more than few", [fact("wms.receipt", "09:00", 4)], [], {"status": "IN_STOCK", "available_to_ship": 4}),
        ("none", [fact("wms.count", "09:00", 0)], [], {"status": "OUT_OF_STOCK", "reason": "sold_out", "available_to_ship": 0}),
        ("never stated", [fact("pos.sale", "09:00", 2)], [], {"status": "UNKNOWN", "reason": "no_baseline", "available_to_ship": None, "available_in_store": None, "on_hand": -2, "shortage": 2, "withheld_ship": 0}),
        ("an absorbed receipt is a statement", [fact("wms.receipt", "08:00", 2), COUNT_10], [], {"status": "IN_STOCK", "on_hand": 10}),
        ("more committed than there is", [fact("wms.count", "09:00", 5), {**ALLOCATED_5, "units": 8}], [policy("p", safety_stock=2)], {"available_to_ship": 0, "withheld_ship": 0, "shortage": 3, "committed": 8, "reason": "sold_out", "safety_stock_ship": 2}),
        ("safety stock and buffer are withheld", [COUNT_10], [policy("p", safety_stock=2), policy("q", buffer=3)], {"available_to_ship": 5, "withheld_ship": 5, "safety_stock_pickup": 5, "policy": "p"}),
        ("all is withheld", [fact("wms.count", "09:00", 2)], [policy("p", safety_stock=5)], {"status": "OUT_OF_STOCK", "reason": "withheld_by_safety_stock", "withheld_ship": 2, "withheld_pickup": 2}),
        ("damaged units are not for sale", [COUNT_10, change("10:00", 4, "sellable", "damaged")], [], {"available_to_ship": 6, "unavailable": 4, "on_hand": 10}),
        ("a location without shipping", [COUNT_10], [location("S1", False, True)], {"status": "IN_STOCK", "status_ship": "OUT_OF_STOCK", "available_to_ship": 0, "available_in_store": 10, "reason": None}),
        ("a location that is off", [COUNT_10], [location("S1", False, False), policy("p", safety_stock=2)], {"status": "OUT_OF_STOCK", "reason": "location_off", "withheld_ship": 0, "safety_stock_ship": 2, "policy": "p"}),
        ("off goes before unknown", [fact("pos.sale", "09:00", 2)], [location("S1", False, False)], {"status": "OUT_OF_STOCK", "reason": "location_off", "available_to_ship": 0}),
        ("unknown is better than off", [fact("pos.sale", "09:00", 2)], [location("S1", False, True)], {"status": "UNKNOWN", "reason": "no_baseline", "available_to_ship": 0, "available_in_store": None}),
        ("excluded by a policy", [COUNT_10], [policy("p", {"sku": "SKU-1"}, enabled=False)], {"status": "OUT_OF_STOCK", "reason": "excluded"}),
        ("excluded from one mode", [COUNT_10], [policy("p", {"mode": "ship"}, enabled=False)], {"status": "IN_STOCK", "status_ship": "OUT_OF_STOCK", "reason": None}),
        ("a nearer policy includes again", [COUNT_10], [policy("p", enabled=False), policy("q", {"location": "S1"}, enabled=True)], {"status": "IN_STOCK"}),
        ("a location that is off beats a policy", [COUNT_10], [location("S1", False, False), policy("p", enabled=False)], {"reason": "location_off"}),
        ("modes may differ", [COUNT_10], [policy("p", {"mode": "ship"}, safety_stock=8), policy("q", safety_stock=1)], {"available_to_ship": 2, "available_in_store": 9, "status": "IN_STOCK", "status_ship": "LOW_STOCK", "policy": "q"}),
        ("of equal modes shipping tells the policy", [COUNT_10], [policy("p", {"mode": "ship"}, safety_stock=1), policy("q", safety_stock=2)], {"policy": "p", "safety_stock_ship": 1, "safety_stock_pickup": 2}),
        ("sku and location beat sku and mode", [COUNT_10], [policy("a", {"sku": "SKU-1", "mode": "ship"}, safety_stock=1), policy("b", {"sku": "SKU-1", "location": "S1"}, safety_stock=2), policy("c", {"location": "S1", "mode": "ship"}, safety_stock=3)], {"policy": "b"}),
        ("sku and mode beat location and mode", [COUNT_10], [policy("b", {"sku": "SKU-1", "mode": "ship"}, safety_stock=1), policy("a", {"location": "S1", "mode": "ship"}, safety_stock=3)], {"safety_stock_ship": 1, "safety_stock_pickup": 0, "policy": "b"}),
        ("sku beats location beats mode", [COUNT_10], [policy("a", {"mode": "ship"}, safety_stock=1), policy("b", {"location": "S1"}, safety_stock=2), policy("c", {"sku": "SKU-1"}, buffer=4)], {"safety_stock_ship": 6, "policy": "b"}),
        ("of equal scopes the smaller id decides", [COUNT_10], [policy("q", safety_stock=1), policy("p", safety_stock=2)], {"policy": "p", "safety_stock_ship": 2}),
        ("others' policies do not matter", [COUNT_10], [policy("p", {"sku": "SKU-2"}, safety_stock=1), policy("q", {"location": "S2"}, safety_stock=2)], {"policy": None, "safety_stock_ship": 0}),
        ("a wider band of few", [COUNT_10], [policy("p", low_stock_enter=10)], {"status": "LOW_STOCK"}),
        ("nothing is few", [fact("wms.count", "09:00", 1)], [policy("p", low_stock_enter=0)], {"status": "IN_STOCK"}),
    ],
)  # fmt: skip
def test_record_follows_from_numbers_and_settings(
    text: str, facts: list[Fact], settings: list[dict[str, object]], record: dict[str, object]
) -> None:
    """Statuses, reasons, numbers and the deciding policy."""
    found = published(facts, settings)["SKU-1", "S1"]
    assert {name: found[name] for name in record} == record, text


@table(
    ("text", "on_hand", "enter", "leave", "band"),
    [
        ("without an exit there is no band", 4, 3, None, False),
        ("at the entrance", 3, 3, 6, False),
        ("inside", 4, 3, 6, True),
        ("last inside", 5, 3, 6, True),
        ("at the exit", 6, 3, 6, False),
        ("an exit below the entrance is none", 4, 3, 2, False),
    ],
)
def test_band_lies_between_entrance_and_exit(
    text: str, on_hand: int, enter: int, leave: int | None, band: bool
) -> None:
    """Inside the band the history decides between low and in stock, so the audit takes either."""
    values = {"low_stock_enter": enter} | ({} if leave is None else {"low_stock_exit": leave})
    found = published([fact("wms.count", "09:00", on_hand)], [policy("p", **values)])["SKU-1", "S1"]
    assert (found["band_ship"], found["band_pickup"]) == (band, band), text


def raw(value: bytes | None, topic: str = "pos-sales.v1", partition: int = 0) -> LogRecord:
    """A record with any bytes."""
    return LogRecord(topic, partition, 0, NOW_MS, b"SKU-1", value)


SALE = fact("pos.sale", "10:00", 1, id="x")
LONG = "x" * 257


@table(
    ("text", "content", "refusal"),
    [
        ("a sale", SALE, None),
        ("with more fields", {**SALE, "colour": "red", "deep": {"a": [1]}}, None),
        ("without units", fact("pos.sale", "10:00", id="x"), "Object missing required field `units`"),
        ("units as text", {**SALE, "units": "1"}, "Expected `int`, got `str`"),
        ("no units", {**SALE, "units": 0}, "Expected `int` >= 1"),
        ("absurd units", {**SALE, "units": 10**9 + 1}, "Expected `int` <= 1000000000"),
        ("an unknown type", {**SALE, "type": "pos.gift"}, "Invalid value 'pos.gift'"),
        ("a type of another topic", {**SALE, "type": "wms.receipt"}, "Invalid value 'wms.receipt'"),
        ("a time without zone", {**SALE, "occurred_at": "2026-11-22T10:00:00"}, "Expected `datetime` with a timezone"),
        ("a time 5 minutes ahead", {**SALE, "occurred_at": clock("12:05")}, None),
        ("a time further ahead", {**SALE, "occurred_at": clock("12:05:01")}, "it occurred in the future"),
        ("a bar in the SKU", {**SALE, "sku": "a|b"}, "sku has a bar, a control character or an outer blank"),
        ("an outer blank", {**SALE, "location": "S1 "}, "location has a bar, a control character or an outer blank"),
        ("a control character", {**SALE, "location": "S\n1"}, "location has a bar, a control character or an outer blank"),
        ("an inner blank", {**SALE, "location": "S 1"}, None),
        ("no name", {**SALE, "location": ""}, "location has 0 characters"),
        ("the longest name", {**SALE, "location": "é" * 128}, None),
        ("a name too long", {**SALE, "location": "é" * 129}, "location has 129 characters"),
        ("an id too long", {**SALE, "id": LONG}, "id is too long"),
        ("a hold's name too long", {**SALE, "reservation": LONG}, "reservation is too long"),
    ],
)  # fmt: skip
def test_facts_are_judged_by_the_contract(text: str, content: Fact, refusal: str | None) -> None:
    """What must be refused is refused for a reason that can be read."""
    judged = judge_fact(raw(msgspec.json.encode(content)), 1)
    assert judged.doubt is None
    if refusal is None:
        assert judged.refusal is None, text
    else:
        assert judged.refusal is not None, text
        assert refusal in judged.refusal, text


@table(
    ("text", "record"),
    [
        ("null", raw(None)),
        ("empty", raw(b"")),
        ("not JSON", raw(b"{")),
        ("not text", raw(b'{"type":"pos.sale","id":"\xff"}')),
        ("nested without end", raw(b'{"x":' + b"[" * 100_000)),
        ("a list", raw(b"[]")),
        ("an adjustment by nothing", raw(msgspec.json.encode(fact("wms.adjustment", "10:00", 0, id="x", reason="y")), "wms-movements.v1")),
        ("a null item of no SKU", raw(None, "stock-items.v1")._replace(key=None)),
    ],
)  # fmt: skip
def test_bytes_that_are_no_fact_must_be_refused(text: str, record: LogRecord) -> None:
    """Nothing that arrives stops the audit."""
    assert judge_fact(record, 1).refusal is not None, text


def test_stranger_to_its_partition_must_be_refused() -> None:
    """A SKU's facts stand in the partition that its hash names, whatever their key."""
    value = msgspec.json.encode(SALE)
    own = topics.partition_of("SKU-1", 12)
    found = [judge_fact(raw(value, partition=partition), 12).refusal is None for partition in range(12)]
    assert found == [partition == own for partition in range(12)]


@table(
    ("text", "content"),
    [
        ("an empty id", {**SALE, "id": ""}),
        ("a control character in a hold's name", {**SALE, "reservation": "R\x7f"}),
        ("another one in an order line's name", {**SALE, "order_line": "L\x85"}),
        ("a long id that nothing is kept under", fact("pos.void", "10:00", 1, id="x", voids=LONG, voided_type="pos.sale", voided_at="09:00")),
        ("a blank of another alphabet", {**SALE, "location": "\u00a0S1"}),
        ("a change to the same state", change("10:00", 1, "damaged", "damaged") | {"id": "x"}),
        ("a count of one state", fact("wms.count", "10:00", 1, id="x", state="damaged")),
        ("a void of the future", fact("pos.void", "10:00", 1, id="x", voids="y", voided_type="pos.sale", voided_at="13:00")),
    ],
)  # fmt: skip
def test_what_the_contract_leaves_open_may_be_refused_or_not(text: str, content: Fact) -> None:
    """The audit follows the pipeline where both decisions are right."""
    judged = judge_fact(raw(msgspec.json.encode(content), _TOPICS[str(content["type"]).split(".")[0]]), 1)
    assert (judged.refusal, judged.doubt is None) == (None, False), text


@table(
    ("text", "key", "content", "refusal"),
    [
        ("a policy", "policy:p", policy("p", {"mode": "ship"}, safety_stock=1), None),
        ("a removal by its key", "policy:p", None, None),
        ("a policy that says nothing", "policy:p", policy("p"), None),
        ("a scope by brand", "policy:p", policy("p", {"brand": "b", "channel": "web"}, safety_stock=1), None),
        ("a quota", "policy:p", policy("p", safety_stock=1, quota=3), None),
        ("a channel that would mean all", "policy:p", policy("p", {"channel": "*"}), "a channel called *"),
        ("a channel with a bar", "policy:p", policy("p", {"channel": "a|b"}), "channel has a bar, a control character or an outer blank"),
        ("a channel without a name", "policy:p", policy("p", {"channel": ""}), "channel has 0 characters"),
        ("a dated policy", "policy:p", {**policy("p"), "valid_from": clock("10:00")}, None),
        ("an unknown value", "policy:p", policy("p", colour=1), "not decodable: Object contains unknown field `colour` - at `$.values`"),
        ("a promise of a feed", "alive:S1:pos", {"type": "source.alive", "location": "S1", "feed": "pos", "until": clock("13:00")}, None),
        ("a feed of no place", "alive::pos", {"type": "source.alive", "location": "", "feed": "pos", "until": clock("13:00")}, "location has 0 characters"),
        ("a location", "location:S1", location("S1", True, False), None),
        ("a location without name", "location:", location("", True, False), "location has 0 characters"),
        ("a policy from the future", "policy:p", {**policy("p"), "occurred_at": clock("13:00")}, "it occurred in the future"),
    ],
)  # fmt: skip
def test_settings_are_judged_by_the_contract(
    text: str, key: str, content: dict[str, object] | None, refusal: str | None
) -> None:
    """A policy with one unknown part is refused whole."""
    common = {"id": "x", "source": "test", "occurred_at": clock("08:00")}
    value = None if content is None else msgspec.json.encode({**common, **content})
    judged = judge_setting(LogRecord("stock-settings.v1", 0, 0, NOW_MS, key.encode(), value))
    assert (judged.refusal, judged.doubt) == (refusal, None), text


def test_setting_under_a_foreign_key_may_be_refused_or_not() -> None:
    """The contract names the keys, but not what happens to others."""
    content = {"id": "x", "source": "test", "occurred_at": clock("08:00"), **policy("p")}
    judged = judge_setting(LogRecord("stock-settings.v1", 0, 0, NOW_MS, b"policy:q", msgspec.json.encode(content)))
    assert (judged.refusal, judged.doubt) == (None, "its key does not name what it sets")


def letter(record: LogRecord, reason: str) -> LogRecord:
    """The dead letter about a record."""
    where = {"topic": f"x-{record.topic}", "partition": str(record.partition), "offset": str(record.offset)}
    headers = tuple((f"dead-letter.{name}", text.encode()) for name, text in {**where, "reason": reason}.items())
    return LogRecord("dead-letters.v1", 0, 0, NOW_MS, record.key, record.value, headers)


def collected(records: Sequence[LogRecord], letters: Sequence[LogRecord] = ()) -> tuple[Inputs, list[str]]:
    """The inputs after these records, and the differences found with them."""
    findings = Findings()
    dead = DeadLetters(lambda name: f"x-{name}", findings)
    dead.add(letters)
    inputs = Inputs(1, dead, Answers(findings), findings)
    inputs.add_facts(record for record in records if record.topic != topics.STOCK_SETTINGS.name)
    inputs.add_settings(record for record in records if record.topic == topics.STOCK_SETTINGS.name)
    return inputs, findings.kept


@table(
    ("text", "reason", "size", "differences"),
    [
        ("a limit of the program", "limit", 10, []),
        ("a size that may be too large", "too_large", 20_000, []),
        ("a size that no limit forbids", "too_large", 10, ["refusals: pos-sales.v1[0]@0 was refused as 'too_large', but it is valid"]),
        ("a reason that does not hold", "bad_field", 10, ["refusals: pos-sales.v1[0]@0 was refused as 'bad_field', but it is valid"]),
    ],
)  # fmt: skip
def test_refusals_by_limits_are_not_judged(text: str, reason: str, size: int, differences: list[str]) -> None:
    """Limits belong to the running program; whatever was refused has no effect."""
    sale = raw(msgspec.json.encode({**SALE, "reason": "x" * size}))
    inputs, found = collected([sale], [letter(sale, reason)])
    assert found == differences, text
    assert inputs.facts().height == 0


def setting(key: str, offset: int, content: dict[str, object] | None) -> LogRecord:
    """A record of the settings topic."""
    common = {"id": "x", "source": "test", "occurred_at": clock("08:00")}
    value = None if content is None else msgspec.json.encode({**common, **content})
    return LogRecord(topics.STOCK_SETTINGS.name, 0, offset, NOW_MS, key.encode(), value)


def test_last_setting_of_a_key_holds() -> None:
    """A null value removes; so does a refused record, since compaction keeps only that one."""
    refused = setting("policy:b", 5, policy("b", {"colour": "x"}, buffer=9))
    records = [
        setting("policy:a", 0, policy("a", buffer=1)),
        setting("policy:b", 1, policy("b", buffer=1)),
        setting("policy:c", 2, policy("c", buffer=1)),
        setting("policy:a", 3, policy("a", buffer=2)),
        setting("policy:c", 4, None),
        refused,
    ]
    inputs, found = collected(records, [letter(refused, "bad_field")])
    holding = {
        key: message.values.buffer
        for key, message in inputs.settings().items()
        if isinstance(message, events.PolicySet)
    }
    assert (holding, found) == ({"policy:a": 2}, [])


def test_removed_policy_message_removes_too() -> None:
    """`policy.removed` under the key of a policy takes its place and says nothing."""
    records = [
        setting("policy:a", 0, policy("a", safety_stock=4)),
        setting("policy:a", 1, {"type": "policy.removed", "policy": "a"}),
    ]
    balances = recompute(facts_of([COUNT_10]), AT_REST).balances
    row = expected_records(balances, collected(records)[0].settings()).row(0, named=True)
    assert row["available_to_ship"] == 10


def test_letter_that_names_no_record_is_a_difference() -> None:
    """A letter must say what it is about."""
    _, found = collected([], [LogRecord("dead-letters.v1", 0, 7, NOW_MS, None, b"x")])
    assert found == ["dead letters: dead-letters.v1[0]@7 does not name an input record: no headers"]


def test_listed_differences_are_bounded_by_kind() -> None:
    """One kind cannot crowd out another, and the totals stay exact."""
    findings = Findings()
    for number in range(DIFFERENCES_PER_KIND_MAX + 10):
        findings.add("many", str(number))
    findings.add("few", "one")
    assert len(findings.kept) == DIFFERENCES_PER_KIND_MAX + 1
    assert findings.kept[-1] == "few: one"
    assert findings.by_kind == {"many": DIFFERENCES_PER_KIND_MAX + 10, "few": 1}
