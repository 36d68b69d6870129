"""The judgement at the end of every scenario: log, topic and Redis say the same, and nothing was told twice.

Two independent recomputations are asked, the audit (whole topics, polars) and the oracle (the history as it was
sent), so that one that is wrong cannot hide what the other sees.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from operations.audit import AuditReport, audit
from operations.audit.log import LogRecord
from schemas.topics import AVAILABILITY, DEAD_LETTERS, RESERVATION_VERDICTS, STOCK_SETTINGS
from stock.events import PolicySet, SourceAlive
from tests.e2e.harness import POLL_INTERVAL_S, Stage
from tests.e2e.load import Record, Sending, utc_now
from tests.oracle import Expected, Key, Promises, broken_promises, disagreements, expected, promises

SETTLE_TIMEOUT_S = 20.0
FLUX = timedelta(seconds=2)  # A hold that ends so close to the reading may be seen open or ended.
DIFFERENCES_SHOWN = 20
LETTER_HEADERS = tuple(f"dead-letter.{name}" for name in ("reason", "detail", "topic", "partition", "offset", "at"))


def settle(
    stage: Stage,
    sending: Sending,
    *,
    with_redis: bool = True,
    late_records: bool = False,
    skew: timedelta = timedelta(0),
) -> AuditReport:
    """Let everything come to rest and compare; every difference that stays fails the test.

    Args:
        stage: where it ran.
        sending: all that was sent.
        with_redis: whether there is a Redis to compare with.
        late_records: whether a fenced writer may have left records, each followed by a newer one.
        skew: how far the clock of all owners is ahead; holds end by it.

    Returns:
        The audit's report, equal and complete.
    """
    sending.stop()
    sending.find_told_again(stage.read)
    stage.wait_until_committed()
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        report, problems = compare(stage, sending, with_redis, skew)
        problems += version_problems(stage.read(AVAILABILITY), late_records)  # a late record is answered in a second
        if not problems or time.monotonic() > deadline:
            break
        time.sleep(POLL_INTERVAL_S)
    problems += letter_problems(stage.read(DEAD_LETTERS), sending.refused, stage.prefix, late_records)
    text = "\n".join(problems[:DIFFERENCES_SHOWN])
    assert not problems, f"{len(problems)} differences after {len(sending.sent)} records:\n{text}"
    return report


def compare(
    stage: Stage, sending: Sending, with_redis: bool, skew: timedelta = timedelta(0)
) -> tuple[AuditReport, list[str]]:
    """The three-way comparison as it stands now."""
    before = utc_now() + skew
    report = audit(stage.client_config, stage.topic, stage.redis_url if with_redis else None, before)
    newest = newest_records(stage.read(AVAILABILITY))
    problems = [f"audit: {text}" for text in report.differences]
    answers = [json.loads(record.value) for record in stage.read(RESERVATION_VERDICTS) if record.value is not None]
    problems += broken_promises(sending.facts, promises(answers))
    wrong = oracle_problems(sending, newest, before - FLUX, utc_now() + skew + FLUX, promises(answers))
    problems += [f"oracle: {text}" for text in wrong]
    if report.events != len(sending.keyed):
        problems.append(f"the log holds {report.events} events, {len(sending.keyed)} were sent")
    return report, problems


def newest_records(records: Iterable[LogRecord]) -> dict[Key, dict[str, Any] | None]:
    """By SKU and location, the record with the highest version."""
    found: dict[Key, dict[str, Any] | None] = {}
    highest: dict[Key, int] = {}
    for record in records:
        sku, _, location = (record.key or b"").decode().partition("|")
        if record.value is None:
            found[sku, location] = None
            continue
        content = json.loads(record.value)
        if content["version"] > highest.get((sku, location), -1):
            highest[sku, location] = content["version"]
            found[sku, location] = content
    return found


def oracle_problems(
    sending: Sending,
    published: Mapping[Key, Mapping[str, Any] | None],
    first: datetime,
    last: datetime,
    given: Promises,
) -> list[str]:
    """Differences to what the history says; where a hold ends or an ETA passes just now, any moment is right."""
    facts, settings = sending.facts, sending.settings
    passing = {getattr(fact.event, name, None) for fact in facts for name in ("expires_at", "eta")} - {None}
    for setting in settings:
        if isinstance(setting, PolicySet):
            passing |= {date for date in (setting.valid_from, setting.valid_until) if date is not None}
        elif isinstance(setting, SourceAlive):
            passing.add(setting.until)
    moments = [first, *sorted(moment for moment in passing if first < moment <= last)]
    seen: list[dict[Key, Expected]] = [expected(facts, settings, moment, given) for moment in moments]
    problems = disagreements(seen[0], published)
    for later in seen[1:]:
        wrong = _keys(problems)
        again = set(_keys(disagreements(later, published)))
        problems = [text for text, key in zip(problems, wrong, strict=True) if key in again]
    return problems


def _keys(problems: list[str]) -> list[str]:
    return [text.partition(": ")[0] for text in problems]


def version_problems(records: Iterable[LogRecord], late_records: bool) -> list[str]:
    """Where a version does not increase on its way through the topic.

    A late record of a fenced writer is an older one, or the newest once more; a newer one must follow.
    """
    problems: list[str] = []
    newest: dict[bytes | None, tuple[int, bytes]] = {}
    late: dict[bytes | None, str] = {}
    for record in records:
        if record.value is None:
            late.pop(record.key, None)  # delisted: a null has no version
            continue
        version = json.loads(record.value)["version"]
        highest, told = newest.get(record.key, (-1, b""))
        if version > highest:
            newest[record.key] = version, record.value
            late.pop(record.key, None)
            continue
        text = f"versions: {record.key!r}@{record.offset} has {version} after {highest}"
        if late_records and (version < highest or record.value == told):
            late[record.key] = f"{text}, and nothing newer follows"
        else:
            problems.append(text)
    return problems + list(late.values())


def letter_problems(
    letters: Iterable[LogRecord],
    refused: Mapping[tuple[str, int, int], Record],
    prefix: str,
    late_records: bool = False,
) -> list[str]:
    """Where the dead letters are not exactly what was refused, byte for byte, each of the keyed inputs once.

    Twice is right for a fenced writer's late letters: readers go by topic, partition and offset.
    """
    problems: list[str] = []
    told: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for letter in letters:
        headers, own = letter.headers[: -len(LETTER_HEADERS)], letter.headers[-len(LETTER_HEADERS) :]
        said = {name: (text or b"").decode() for name, text in own}
        if tuple(name for name, _ in own) != LETTER_HEADERS:
            problems.append(f"dead letters: headers {[name for name, _ in own]}")
            continue
        topic = said["dead-letter.topic"].removeprefix(prefix)
        place = (topic, int(said["dead-letter.partition"]), int(said["dead-letter.offset"]))
        told[place].append(f"@{letter.offset} {said['dead-letter.at']}")
        record = refused.get(place)
        if record is None:
            problems.append(f"dead letters: {place} should have counted: {said}")
            continue
        if said["dead-letter.reason"] != record.refused_as:
            problems.append(f"dead letters: {place} is {said}, not {record.refused_as}")
        if (letter.key, letter.value, headers) != (record.key, record.value, record.headers):
            problems.append(f"dead letters: {place} is not what was sent")
        if not said["dead-letter.detail"] or datetime.fromisoformat(said["dead-letter.at"]).tzinfo is None:
            problems.append(f"dead letters: {place} has no detail or time: {said}")
    # A refused setting is told again after each restart: every process reads all settings anew.
    problems += [
        f"dead letters: {place} more than once: {times}"
        for place, times in told.items()
        if len(times) > 1 and place[0] != SETTINGS and not late_records
    ]
    return problems + [f"dead letters: {place} is not there" for place in refused.keys() - told.keys()]


SETTINGS = STOCK_SETTINGS.name
