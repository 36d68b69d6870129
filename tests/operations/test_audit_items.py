"""The audit's rules for items: which records hold, and what a lifecycle does to a record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from operations.audit.answers import Answers
from operations.audit.expected import expected_records, with_overall
from operations.audit.facts import judge_fact
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import LogRecord
from operations.audit.recompute import recompute
from operations.audit.report import Findings
from schemas import topics
from stock import events
from tests.operations.test_audit_rules import AT_REST, NOW_MS, clock, fact, facts_of, policy, settings_of

COUNT_10 = fact("wms.count", "09:00", 10)
ALL_SOLD = fact("pos.sale", "10:00", 10)


def item(lifecycle: str = "active", **own: Any) -> dict[str, Any]:
    """An item of SKU-1 as it is told."""
    said = {"type": "item.set", "id": "i", "source": "master", "occurred_at": clock("08:00"), "sku": "SKU-1"}
    return {**said, "brand": "own", "category": "shoes", "lifecycle": lifecycle, **own}


def record(value: Any, offset: int = 0, key: bytes | None = b"SKU-1") -> LogRecord:
    """A record of the items topic."""
    content = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
    return LogRecord(topics.STOCK_ITEMS.name, 0, offset, NOW_MS, key, content)


JUDGED: list[Any] = [
    ("an item", record(item()), None),
    ("a removal", record(None), None),
    ("another key", record(item(), key=b"SKU-2"), "its key is not its SKU"),
    ("no key", record(item(), key=None), "its key is not its SKU"),
    ("a removal of nothing", record(None, key=None), "sku has 0 characters"),
    ("a removal of what is no SKU", record(None, key=b"A|B"), "sku has a bar"),
    ("nothing", record(b""), "empty"),
    ("an unknown lifecycle", record(item("gone")), "not decodable"),
    ("tomorrow's", record(item(occurred_at="2026-11-23T12:00:00Z")), "it occurred in the future"),
    ("a long brand", record(item(brand="b" * 257)), "brand or category is too long"),
]


@pytest.mark.parametrize(("told", "refusal"), [row[1:] for row in JUDGED], ids=[row[0] for row in JUDGED])
def test_an_item_is_judged_by_the_contract(told: LogRecord, refusal: str | None) -> None:
    """It stands under its SKU, in the SKU's partition."""
    judged = judge_fact(told, 1)
    assert judged.doubt is None
    assert (judged.refusal or "").startswith(refusal or "")
    assert (judged.refusal is None) == (refusal is None)


def test_a_strangers_item_must_be_refused() -> None:
    """As its facts are."""
    own = topics.partition_of("SKU-1", 12)
    refused = [judge_fact(record(item())._replace(partition=number), 12).refusal for number in range(12)]
    assert [refusal is None for refusal in refused] == [number == own for number in range(12)]


def test_the_last_item_of_a_sku_holds() -> None:
    """A refused one changes nothing; all are counted."""
    findings = Findings()
    inputs = Inputs(1, DeadLetters(lambda name: name, findings), Answers(findings), findings)
    told = [item("preorder"), item("discontinued"), b"{"]
    inputs.add_facts([record(value, offset) for offset, value in enumerate(told)])
    inputs.add_facts([record(None, 3, b"SKU-2")])
    found = {sku: None if one is None else one.lifecycle for sku, one in inputs.items().items()}
    assert found == {"SKU-1": "discontinued", "SKU-2": None}
    assert (inputs.items_read, inputs.items_accepted) == ({0: 4}, {0: 3})


STATUSES: list[Any] = [
    ("no item", (COUNT_10,), None, ("IN_STOCK", None, 10, 2)),
    ("preorder", (COUNT_10,), "preorder", ("OUT_OF_STOCK", None, 0, 2)),
    ("preorder goes before unknown", (ALL_SOLD,), "preorder", ("OUT_OF_STOCK", None, 0, 0)),
    ("discontinued sells through", (COUNT_10,), "discontinued", ("IN_STOCK", None, 10, 2)),
    ("discontinued and sold", (COUNT_10, ALL_SOLD), "discontinued", ("DISCONTINUED", None, 0, 0)),
    ("unknown goes before discontinued", (ALL_SOLD,), "discontinued", ("UNKNOWN", "no_baseline", None, 0)),
    ("delisted", (COUNT_10,), "delisted", None),
]


@pytest.mark.parametrize(
    ("facts", "lifecycle", "wanted"), [row[1:] for row in STATUSES], ids=[row[0] for row in STATUSES]
)
def test_a_lifecycle_decides_in_its_turn(facts: Any, lifecycle: str | None, wanted: tuple[Any, ...] | None) -> None:
    """By the status table; what is delisted has no record."""
    settings = settings_of([policy("p", {"mode": "pickup"}, safety_stock=2)])
    items = {} if lifecycle is None else {"SKU-1": msgspec.convert(item(lifecycle), events.ItemSet)}
    rows = with_overall(expected_records(recompute(facts_of(facts), AT_REST).balances, settings, items)).rows(
        named=True
    )
    found = [(row["status_ship"], row["reason_ship"], row["available_to_ship"], row["withheld_pickup"]) for row in rows]
    assert found == ([] if wanted is None else [wanted])
