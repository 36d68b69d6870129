"""The audit against the oracle: for random histories, two computations that share no code come to the same records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import polars as pl
import pytest

from operations.audit.answers import Answers
from operations.audit.compare import compare_topic
from operations.audit.expected import expected_records
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import LogRecord
from operations.audit.published import PUBLISHED_SCHEMA
from operations.audit.recompute import Moment, recompute
from operations.audit.report import Findings
from schemas.records import ReservationVerdict, micros
from schemas.topics import RESERVATION_VERDICTS, STOCK_SETTINGS
from stock.events import ReservationRequested
from tests.oracle import Expected, Key, expected, promises
from tests.strategies import History, World, random_history, to_wire

WORLD = World(null_settings=True, settings_percent=25, items_percent=8)


def audited(history: History, now: datetime, findings: Findings) -> pl.DataFrame:
    """What the audit expects at a moment, read from the wire."""
    answers = Answers(findings)
    for verdict in answered(history):
        answers.add([LogRecord(RESERVATION_VERDICTS.name, 0, 0, 0, b"", msgspec.json.encode(verdict))])
    inputs = Inputs(1, DeadLetters(lambda name: name, findings), answers, findings)
    for offset, told in enumerate(history.told):
        topic, key, value = to_wire(told.message)
        record = LogRecord(topic, 0, offset, micros(told.at) // 1_000, key.encode(), value)
        (inputs.add_settings if topic == STOCK_SETTINGS.name else inputs.add_facts)([record])
    at_us = micros(now)
    balances = recompute(inputs.facts(), Moment(at_us, at_us)).balances
    return expected_records(balances, inputs.settings(), inputs.items(), at_us)


def answered(history: History) -> list[ReservationVerdict]:
    """Some answer to every request of a history, whatever there is: every other one is granted."""
    found: dict[tuple[str, str, str | None, str], ReservationVerdict] = {}
    for told in history.told:
        if not isinstance(told.message, ReservationRequested):
            continue
        one = told.message
        where = "STORE-A" if one.location == "*" else one.location
        units = one.units * (len(found) % 2)
        said = ("accepted" if units else "rejected", units, 0, one.expires_at, None, None, None, [])
        verdict = ReservationVerdict(one.reservation, one.line, one.id, one.sku, where, one.mode, *said)  # type: ignore[arg-type]
        found.setdefault((one.sku, one.reservation, one.line, one.id), verdict)
    return list(found.values())


def published(wanted: dict[Key, Expected]) -> pl.DataFrame:
    """Records as the oracle wants them; of several legal ones, the first."""
    rows = []
    for (sku, location), record in wanted.items():
        chosen = min(record.together, key=repr)
        fields: dict[str, Any] = {name: getattr(record, name, None) for name in PUBLISHED_SCHEMA}
        if record.next_inbound_at is not None:
            fields["next_inbound_at"] = micros(record.next_inbound_at)
        rows.append({**fields, **chosen._asdict(), "sku": sku, "location": location})
    return pl.DataFrame(rows, schema=PUBLISHED_SCHEMA, orient="row")


@pytest.mark.parametrize("seed", range(25))
def test_both_expect_the_same_records(seed: int) -> None:
    """All types, lifecycles, scopes and dates, at the end of a history and some time after it."""
    history = random_history(seed, 200, WORLD)
    findings = Findings()
    for now in (history.told[-1].at, history.now):
        given = promises(msgspec.to_builtins(verdict) for verdict in answered(history))
        wanted = expected(history.facts, history.settings, now, given)
        found = audited(history, now, findings)
        compare_topic(found, published(wanted), findings)
        assert findings.kept == [], f"seed {seed}"
