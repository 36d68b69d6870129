"""The audit against the oracle: for random histories, two computations that share no code come to the same records."""

from __future__ import annotations

from datetime import timedelta
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
from operations.audit.networks import compare_networks
from operations.audit.published import PUBLISHED_SCHEMA
from operations.audit.recompute import Moment, recompute
from operations.audit.report import Findings
from schemas.records import Cause, NetworkAvailability, ReservationVerdict, micros
from schemas.topics import RESERVATION_VERDICTS, STOCK_SETTINGS
from stock.doubts import Thresholds
from stock.events import ReservationRequested
from stock.times import SECOND_US
from tests.alerts_oracle import About, Limits, wanted_alerts
from tests.network_oracle import NetworkKey, expected_networks
from tests.oracle import BEST_FIRST, Expected, Key, expected, promises
from tests.strategies import START, History, World, random_history, to_wire

CAUSE = Cause("test", "id", "test", START)
WORLD = World(null_settings=True, settings_percent=25, items_percent=8)


def audited(history: History, findings: Findings) -> Inputs:
    """What the audit reads from the wire."""
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


def published_networks(wanted: dict[NetworkKey, dict[str, Any]]) -> dict[NetworkKey, NetworkAvailability]:
    """Network records as the oracle wants them; of several legal statuses, the better ones."""
    records = {}
    for (sku, channel), fields in wanted.items():
        chosen = {
            name: min(value, key=BEST_FIRST.index) if isinstance(value, set) else value
            for name, value in fields.items()
        }
        status = min(chosen["status_ship"], chosen["status_pickup"], key=BEST_FIRST.index)
        said = {
            "version": 1,
            "sku": sku,
            "channel": channel,
            "status": status,
            "cause": CAUSE,
            "changed_at": CAUSE.occurred_at,
        }
        records[sku, channel] = NetworkAvailability(**said, **chosen)
    return records


@pytest.mark.parametrize("seed", range(25))
def test_both_expect_the_same_records(seed: int) -> None:
    """All types, lifecycles, scopes, channels and dates, at the end of a history and some time after it."""
    history = random_history(seed, 200, WORLD)
    findings = Findings()
    for now in (history.told[-1].at, history.now):
        given = promises(msgspec.to_builtins(verdict) for verdict in answered(history))
        wanted = expected(history.facts, history.settings, now, given)
        inputs, at_us = audited(history, findings), micros(now)
        settings, items = inputs.settings(), inputs.items()
        recomputed = recompute(inputs.facts(), Moment(at_us, at_us))
        compare_topic(expected_records(recomputed.balances, settings, items, at_us), published(wanted), findings)
        networks = published_networks(expected_networks(history.facts, history.settings, now, given))
        compare_networks(recomputed, settings, items, at_us, networks, findings)
        assert findings.kept == [], f"seed {seed}"


def test_a_channels_record_that_is_missing_or_stays_is_found() -> None:
    """What no policy names any more must be gone, what one names must be there, and say what its channel may sell."""
    history = random_history(22, 200, WORLD)
    findings = Findings()
    inputs, at_us = audited(history, findings), micros(history.now)
    recomputed = recompute(inputs.facts(), Moment(at_us, at_us))
    given = promises(msgspec.to_builtins(verdict) for verdict in answered(history))
    networks = published_networks(expected_networks(history.facts, history.settings, history.now, given))
    named = sorted(key for key in networks if key[1] != "*")
    assert named, "the history has channels"
    sku, channel = named[0]
    wrong = msgspec.structs.replace(networks[named[-1]], on_hand=99_999)
    changed = {**networks, (sku, "nobody"): networks[named[0]], named[-1]: wrong}
    del changed[named[0]]
    compare_networks(recomputed, inputs.settings(), inputs.items(), at_us, changed, findings)
    told = " ".join(map(str, findings.kept))
    for part in (f"{sku}|{channel} is not published", f"{sku}|nobody is published, but", "on_hand is 99999"):
        assert part in told


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
        inputs = audited(history, Findings())
        found = recompute(inputs.facts(), moment)
        records = expected_records(found.balances, inputs.settings(), inputs.items(), micros(now))
        legal = legal_alerts(records, found, inputs.settings(), moment, thresholds, 1)
        wanted = wanted_alerts(history.facts, history.settings, now, given, limits, 1)
        assert (legal.must, legal.may - legal.must) == (flat(wanted.must), flat(wanted.may)), f"seed {seed}"
