"""What must hold in every run: at each write to Redis, and whenever all is at rest."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.dead_letters import origin
from schemas.records import micros, moment, split_availability_key
from schemas.state import CLAIM_KEY, decode_claim, open_envelope
from schemas.topics import (
    AVAILABILITY,
    DEAD_LETTERS,
    KEYED_INPUTS,
    NETWORK_AVAILABILITY,
    RESERVATION_VERDICTS,
    STOCK_ALERTS,
    STOCK_STATE,
)
from sinks.view_store import AVAILABILITY_PREFIX, NETWORK_PREFIX
from stock.events import ReservationRenewed, ReservationRequested
from stock.ledger import APPLIED, DEAD_LETTER, DUPLICATE, OUTCOMES
from tests.alerts_oracle import Limits, alert_problems
from tests.network_oracle import expected_networks, network_disagreements
from tests.oracle import Fact, broken_promises, disagreements, expected, first_tellings, promises
from tests.simulation.kafka import Record

if TYPE_CHECKING:
    from tests.simulation.world import Simulation

VIEWS = {AVAILABILITY_PREFIX: AVAILABILITY.name, NETWORK_PREFIX: NETWORK_AVAILABILITY.name}  # Redis hashes, by topic
# As the processes of a run are set up.
LIMITS = Limits(1, 10, timedelta(seconds=20), timedelta(seconds=60), timedelta(seconds=40))
LETTERS_KEPT_S = 15.0  # So young a dead letter is surely there when a new owner reads the tail: half the retention.


def judge(run: Simulation) -> list[str]:
    """Every invariant that can be seen at rest; nothing if all hold."""
    unanswered = _unanswered(run, [fact for _, fact in run.told.facts])
    if unanswered:  # what must be published depends on the answers
        return unanswered
    return [
        *_topic_against_oracle(run),
        *_networks_against_oracle(run),
        *_alerts(run),
        *(text for prefix in VIEWS for text in _redis_against_topic(run, prefix)),
        *(text for topic in VIEWS.values() for text in _versions(run, topic)),
        *_older_truths(run),
        *_dead_letters(run),
        *_outcomes(run),
        *_renewed_holds(run),
        *_last_units(run),
    ]


def shows_only_what_the_topic_has(
    run: Simulation, key: str, location: str, old: bytes | None, new: bytes | None
) -> str | None:
    """A value in Redis stands on the topic, and none is older than the one that it replaces."""
    prefix = next((prefix for prefix in VIEWS if key.startswith(prefix)), None)
    if prefix is None or new is None:
        return None
    name = f"{key.removeprefix(prefix)}|{location}".encode()
    for log in run.broker.logs.values():
        if log.topic == VIEWS[prefix] and any(r.key == name and r.value == new for r in reversed(log.records)):
            break
    else:
        return f"redis shows {name.decode()} {new[:60]!r}, which is not on the topic"
    if old is not None and _version(new) < _version(old):
        return f"redis goes back at {name.decode()}: {_version(old)} to {_version(new)}"
    return None


def _version(value: bytes) -> int:
    found = re.match(rb'^\{"version":(\d+)', value)
    assert found is not None, value
    return int(found[1])


def _newest(run: Simulation, topic: str = AVAILABILITY.name) -> dict[bytes, Record]:
    """The record that stands last on the topic, by key."""
    return {record.key or b"": record for _, record in run.broker.appended[topic]}


def _topic_against_oracle(run: Simulation) -> list[str]:
    seen = moment(run.broker.wall_us() + int(run.max_skew_s * 1e6))
    assert seen is not None
    found = {
        split_availability_key(key.decode()): msgspec.json.decode(record.value)
        for key, record in _newest(run).items()
        if record.value is not None
    }
    facts = [fact for _, fact in (*run.told.facts, *run.told.items)]
    given = promises(_answers(run))
    wrong = disagreements(expected(facts, run.told.settings, seen, given), found)
    if wrong:  # A hold that ends in this very moment may be seen open or ended.
        wrong = disagreements(expected(facts, run.told.settings, seen - timedelta(seconds=1), given), found) and wrong
    return [f"oracle: {text}" for text in wrong]


def _answers(run: Simulation) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(record.value)
        for _, record in run.broker.appended[RESERVATION_VERDICTS.name]
        if record.value is not None
    ]


def _unanswered(run: Simulation, facts: list[Fact]) -> list[str]:
    """Every request has an answer, and all its answers are alike."""
    given = promises(_answers(run))
    missing = [
        f"verdicts: {event.sku} {event.reservation} {event.line} {event.id} has no answer"
        for event in first_tellings(facts)
        if isinstance(event, ReservationRequested) and (event.sku, event.reservation, event.line, event.id) not in given
    ]
    return missing or [f"verdicts: {text}" for text in broken_promises(facts, given)]


def _networks_against_oracle(run: Simulation) -> list[str]:
    seen = moment(run.broker.wall_us() + int(run.max_skew_s * 1e6))
    assert seen is not None
    found = {
        split_availability_key(key.decode()): msgspec.json.decode(record.value)
        for key, record in _newest(run, NETWORK_AVAILABILITY.name).items()
        if record.value is not None
    }
    facts, settings = [fact for _, fact in (*run.told.facts, *run.told.items)], run.told.settings
    wrong = network_disagreements(expected_networks(facts, settings, seen, promises(_answers(run))), found)
    if wrong:  # A hold that ends in this very moment may be seen open or ended.
        before = expected_networks(facts, settings, seen - timedelta(seconds=1), promises(_answers(run)))
        wrong = network_disagreements(before, found) and wrong
    return [f"oracle: {text}" for text in wrong]


def _alerts(run: Simulation) -> list[str]:
    seen = moment(run.broker.wall_us() + int(run.max_skew_s * 1e6))
    assert seen is not None
    told = [msgspec.json.decode(r.value or b"") for _, r in run.broker.appended[STOCK_ALERTS.name]]
    given = promises(_answers(run))
    facts, settings = [fact for _, fact in (*run.told.facts, *run.told.items)], run.told.settings
    partitions = run.plan.partitions
    wrong = alert_problems(told, facts, settings, seen, given, LIMITS, partitions, read_live=False)
    if wrong:  # A hold that ends in this very moment may be seen open or ended.
        earlier = seen - timedelta(seconds=1)
        wrong = alert_problems(told, facts, settings, earlier, given, LIMITS, partitions, read_live=False) and wrong
    return wrong


def _redis_against_topic(run: Simulation, prefix: str) -> list[str]:
    shown = {
        f"{key.removeprefix(prefix)}|{location}".encode(): value
        for key, fields in run.redis.data.hashes.items()
        if key.startswith(prefix)
        for location, value in fields.items()
    }
    newest = _newest(run, VIEWS[prefix])
    topic = {key: record.value for key, record in newest.items() if record.value is not None}
    missing = b"nothing"
    return [
        f"redis: {key.decode()} shows {shown.get(key, missing)[:60]!r}, the topic {topic.get(key, missing)[:60]!r}"
        for key in sorted(shown.keys() | topic.keys())
        if shown.get(key) != topic.get(key)
    ]


def _claims(run: Simulation) -> dict[int, list[tuple[int, int]]]:
    """By partition, order and generation of each claim that was ever made."""
    found: dict[int, list[tuple[int, int]]] = {partition: [] for partition in range(run.plan.partitions)}
    for partition, record in run.broker.appended[STOCK_STATE.name]:
        if record.key == CLAIM_KEY.encode() and record.value is not None:
            found[partition].append((record.order, decode_claim(record.value).generation))
    return found


def _is_fenced(claims: list[tuple[int, int]], record: Record, version: int) -> bool:
    """Whether a newer owner had claimed the partition when this record of the topic was appended."""
    return any(order < record.order and version >> 32 < generation for order, generation in claims)


def _versions(run: Simulation, topic: str) -> list[str]:
    """Versions rise; only a fenced writer's late record may be lower, and a newer one follows it."""
    claims = _claims(run)
    problems: list[str] = []
    highest: dict[bytes | None, int] = {}
    late: dict[bytes | None, str] = {}
    for partition, record in run.broker.appended[topic]:
        if record.value is None:
            late.pop(record.key, None)  # a null has no version, and is always the last word of its time
            continue
        version = _version(record.value)
        if version > highest.get(record.key, -1):
            highest[record.key] = version
            late.pop(record.key, None)
            continue
        text = f"versions: {record.key!r}@{record.offset} has {version:#x} after {highest[record.key]:#x}"
        if _is_fenced(claims[partition], record, version):
            late[record.key] = f"{text}, and nothing newer follows"
        else:
            problems.append(f"{text}, written by {record.writer}")
    return problems + list(late.values())


def _older_truths(run: Simulation) -> list[str]:
    """What a key has heard never becomes less, unless a fenced writer says so."""
    claims = _claims(run)
    # Where a request is held is decided once more if a crash comes before its answer.
    asked = {fact.event.sku for _, fact in run.told.facts if isinstance(fact.event, ReservationRequested)}
    problems: list[str] = []
    heard: dict[bytes | None, tuple[int, dict[str, Any]]] = {}
    for partition, record in run.broker.appended[AVAILABILITY.name]:
        if record.value is None:
            continue
        content = msgspec.json.decode(record.value)
        version, before = heard.get(record.key, (0, {}))
        if content["version"] < version or _is_fenced(claims[partition], record, content["version"]):
            continue
        heard[record.key] = (content["version"], content["sources"])
        for source, newest in before.items():
            if source == "orders" and content["sku"] in asked:
                continue
            now = content["sources"][source]
            if newest is not None and (now is None or _time(now) < _time(newest)):
                problems.append(f"older truth: {record.key!r}@{record.offset} heard {source} {now}, before {newest}")
    return problems


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _dead_letters(run: Simulation) -> list[str]:
    problems: list[str] = []
    told: dict[tuple[str, int, int], Record] = {}
    for partition, letter in run.broker.appended[DEAD_LETTERS.name]:
        place = origin(list(letter.headers))
        if place is None:
            problems.append(f"dead letters: @{letter.offset} names no origin")
            continue
        if place in run.told.poison and place in told and _stood_before_the_claim(run, partition, told[place], letter):
            problems.append(f"dead letters: {place} was sent again by {letter.writer}, who must have found it")
        told.setdefault(place, letter)
        if place in run.told.poison and (letter.key, letter.value) != run.told.poison[place]:
            problems.append(f"dead letters: {place} is not what was sent")
    wanted = run.told.poison.keys()
    problems += [f"dead letters: {place} is not there" for place in sorted(wanted - told.keys())]
    stray = told.keys() - wanted - run.told.refused_settings.keys()
    problems += [f"dead letters: {place} should have counted" for place in sorted(stray)]
    newest_refused = max(run.told.refused_settings, default=None, key=lambda place: place[2])
    kept = {(log.topic, log.partition, record.offset) for log in run.broker.logs.values() for record in log.records}
    if newest_refused in kept and newest_refused not in told:
        problems.append(f"dead letters: the refused setting {newest_refused} is not there")
    return problems


def _stood_before_the_claim(run: Simulation, partition: int, first: Record, again: Record) -> bool:
    """Whether a letter that was sent once more stood in the log, and not for long, as its writer took over."""
    claims = [
        record
        for at, record in run.broker.appended[STOCK_STATE.name]
        if at == partition
        and record.key == CLAIM_KEY.encode()
        and record.writer == again.writer
        and record.order < again.order
    ]
    return (
        bool(claims) and first.order < claims[-1].order and claims[-1].appended_at < first.appended_at + LETTERS_KEPT_S
    )


def _outcomes(run: Simulation) -> list[str]:
    """Each input record has one outcome, and duplicates and dead letters are as many as were told."""
    problems = []
    sums = [0] * len(OUTCOMES)
    for process in run.processes:
        for outlet in process.pipeline.publisher.outlets.values():
            totals = outlet.ledger.totals
            sums = [a + b for a, b in zip(sums, totals.by_outcome, strict=True)]
            logs = [run.broker.logs[topic.name, outlet.partition] for topic in KEYED_INPUTS]
            consumed = sum(log.end for log in logs)
            # Of the items the cleaner may have taken some before anybody read them.
            unread = sum(log.end - len(log.records) for log in logs if log.compacted)
            if not consumed - unread <= sum(totals.by_outcome) <= consumed:
                problems.append(
                    f"outcomes: partition {outlet.partition} counts {totals.by_outcome}, {consumed} were consumed"
                )
    facts = [fact for _, fact in run.told.facts]
    first = len(first_tellings(facts))
    if sums[DUPLICATE] != len(facts) - first:
        problems.append(f"outcomes: {sums[DUPLICATE]} duplicates counted, {len(facts) - first} told")
    if sums[DEAD_LETTER] != len(run.told.poison):
        problems.append(f"outcomes: {sums[DEAD_LETTER]} dead letters counted, {len(run.told.poison)} told")
    if sums[APPLIED] > first + len(run.told.items):
        problems.append(f"outcomes: {sums[APPLIED]} applied, but only {first} facts are different")
    return problems


def _renewed_holds(run: Simulation) -> list[str]:
    """No hold ends whose renewal stood in the log before its owner claimed the partition."""
    renewals = {
        fact.event.reservation: (order, fact.event)
        for order, fact in run.told.facts
        if isinstance(fact.event, ReservationRenewed) and fact.event.reservation.startswith("X-")
    }
    problems = []
    claims = _claims(run)
    for partition, record in run.broker.appended[AVAILABILITY.name]:
        if record.value is None:
            continue
        content = msgspec.json.decode(record.value)
        cause = content["cause"]
        renewal = renewals.get(cause["id"])
        if cause["type"] != "reservation.expired" or renewal is None:
            continue
        order, renewed = renewal
        assert renewed.expires_at is not None
        ended_early = _time(cause["occurred_at"]) < renewed.expires_at
        claimed_at = next((at for at, generation in claims[partition] if generation == content["version"] >> 32), None)
        if not ended_early or claimed_at is None or claimed_at < order:
            continue
        if not _wrote_after(run, partition, _time(cause["occurred_at"]), order, claims[partition]):
            problems.append(f"hold {cause['id']} ended at {cause['occurred_at']}, though renewed before the claim")
    return problems


def _wrote_after(run: Simulation, partition: int, moment_: datetime, order: int, claims: list[tuple[int, int]]) -> bool:
    """Whether an owner from before a record wrote state after a moment, by the fastest clock: it may have ended holds.

    Its successor may publish what it restored once more before it has replayed the renewal.
    """
    before = {generation for at, generation in claims if at < order}
    moment_us = micros(moment_) - int(run.max_skew_s * 1e6)
    return any(
        at == partition
        and record.value is not None
        and record.timestamp_ms * 1000 >= moment_us
        and open_envelope(record.value)[0] in before
        for at, record in run.broker.appended[STOCK_STATE.name]
    )


def _last_units(run: Simulation) -> list[str]:
    """Nobody is promised the only unit of a SKU from stock while somebody else has it, as of their records."""
    if run.max_skew_s:
        return []  # holds end by the clock of whoever owns them
    answers = {(answer["sku"], answer["request_id"]): answer for answer in _answers(run)}
    had: dict[str, list[tuple[datetime, datetime, str]]] = {}
    for _, fact in run.told.facts:
        event = fact.event
        if not isinstance(event, ReservationRequested) or not event.sku.startswith("LAST-"):
            continue
        answer = answers[event.sku, event.id]
        if answer["units"] and not answer["backordered"]:
            assert fact.stamped is not None
            had.setdefault(event.sku, []).append((fact.stamped, _time(answer["expires_at"]), event.reservation))
    problems = []
    for sku, spans in had.items():
        for begin, _, reservation in spans:
            others = [name for since, until, name in spans if name != reservation and since <= begin < until]
            problems += [f"last unit: {sku} was promised to {reservation} while {name} had it" for name in others]
    return problems
