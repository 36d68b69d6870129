"""The audit's columns against the plain oracle: two formulas by different roads, over the same random histories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from operations.audit.expected import expected_records
from operations.audit.facts import frame, judge_fact, judge_setting, row_of
from operations.audit.log import LogRecord
from operations.audit.recompute import Moment, recompute
from schemas.records import micros
from schemas.topics import STOCK_SETTINGS
from tests.oracle import expected
from tests.strategies import History, World, random_history, to_wire

NUMBERS = (
    "on_hand", "unavailable", "committed", "in_transit", "inbound", "next_inbound_at", "shortage", "backorder_left",
    "available_to_ship", "available_in_store", "withheld_ship", "withheld_pickup",
    "safety_stock_ship", "safety_stock_pickup",
)  # fmt: skip


def audited(history: History) -> dict[tuple[str, str], dict[str, Any]]:
    """What the audit says must be published, by key."""
    offsets: Counter[str] = Counter()
    rows, settings = [], {}
    for told in history.told:
        topic, key, value = to_wire(told.message)
        record = LogRecord(topic, 0, offsets[topic], micros(told.at) // 1000, key.encode(), value)
        offsets[topic] += 1
        if topic == STOCK_SETTINGS.name:
            judged = judge_setting(record)
            settings.pop(key, None)
            if judged.refusal is None and judged.message is not None:
                settings[key] = judged.message
        else:
            judged = judge_fact(record, 1)
            if judged.refusal is None:
                assert judged.message is not None
                rows.append(row_of(record, judged.message))
    now_us = micros(history.now)
    balances = recompute(frame(rows), Moment(now_us, now_us)).balances
    found = expected_records(balances, settings).to_dicts()
    assert len(found) == len({(row["sku"], row["location"]) for row in found})
    return {(row["sku"], row["location"]): row for row in found}


@pytest.mark.parametrize("seed", range(40))
def test_the_audit_and_the_oracle_agree(seed: int) -> None:
    """On every number of every record, and on which records there are."""
    history = random_history(seed, 150, World(settings_percent=0))
    wanted = expected(history.facts, history.settings, history.now)
    found = audited(history)
    assert found.keys() == wanted.keys()
    for key, record in wanted.items():
        numbers = {name: getattr(record, name) for name in NUMBERS}
        if record.next_inbound_at is not None:
            numbers["next_inbound_at"] = micros(record.next_inbound_at)
        assert {name: found[key][name] for name in NUMBERS} == numbers, key
