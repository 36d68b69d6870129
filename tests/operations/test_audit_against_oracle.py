"""The audit against the oracle: for random histories, two computations that share no code come to the same records."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest

from operations.audit.alerts import JUDGED_KINDS, legal_alerts
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
from stock.doubts import Thresholds
from stock.events import ReservationRequested
from stock.times import SECOND_US
from tests.alerts_oracle import About, Limits, wanted_alerts
from tests.oracle import Expected, Key, expected, promises
from tests.strategies import History, World, random_history, to_wire

WORLD = World(null_settings=True, settings_percent=25, items_percent=8)


def audited(history: History, now: datetime, findings: Findings) -> pl.DataFrame:
    """What the audit expects at a moment, read from the wire."""
    inputs = read(history, findings)
    at_us = micros(now)
    balances = recompute(inputs.facts(), Moment(at_us, at_us)).balances
    return expected_records(balances, inputs.settings(), inputs.items(), at_us)


def read(history: History, findings: Findings) -> Inputs:
    """The inputs of a history, as the audit reads them from the wire."""
    answers = Answers(findings)
    for verdict in answered(history):
        answers.add([LogRecord(RESERVATION_VERDICTS.name, 0, 0, 0, b"", msgspec.json.encode(verdict))])
    inputs = Inputs(1, DeadLetters(lambda name: name, findings), answers, findings)
    for offset, told in enumerate(history.told):
        topic, key, value = to_wire(told.message)
        record = LogRecord(topic, 0, offset, micros(told.at) // 1_000, key.encode(), value)
        (inputs.add_settings if topic == STOCK_SETTINGS.name else inputs.add_facts)([record])
    return inputs


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


def flat(names: set[About]) -> set[About]:
    """The oracle's names of alerts as the audit has them, without those of counts."""
    judged = [name for name in names if name[0] in JUDGED_KINDS]
    return {(name[0], name[1], *name[2]) if isinstance(name[2], tuple) else name for name in judged}


@pytest.mark.parametrize("seed", range(25))
def test_both_want_the_same_alerts(seed: int) -> None:
    """All kinds but those of counts, at the end of a history and some time after it."""
    history = random_history(seed, 300, WORLD)
    limits = Limits(unclaimed=timedelta(seconds=60), hold=timedelta(seconds=300), allocation=timedelta(seconds=120))
    thresholds = Thresholds(unclaimed_us=60 * SECOND_US, hold_us=300 * SECOND_US, allocation_us=120 * SECOND_US)
    given = promises(msgspec.to_builtins(verdict) for verdict in answered(history))
    for now in (history.told[-1].at, history.now):
        moment = Moment(micros(now), micros(now))
        inputs = read(history, Findings())
        found = recompute(inputs.facts(), moment)
        records = expected_records(found.balances, inputs.settings(), inputs.items(), micros(now))
        legal = legal_alerts(records, found, inputs.settings(), moment, thresholds, 1)
        wanted = wanted_alerts(history.facts, history.settings, now, given, limits, 1)
        assert (legal.must, legal.may - legal.must) == (flat(wanted.must), flat(wanted.may)), f"seed {seed}"
