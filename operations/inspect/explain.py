"""From what was found about a SKU to an explanation: the balance, the arithmetic line by line, and why; pure."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, structs

from operations.inspect.answer import (
    Bound,
    Explanation,
    Line,
    Mode,
    Movement,
    Network,
    NetworkMode,
    OpenAlert,
    Place,
    Published,
    Question,
    Read,
    Rule,
    Unknown,
)
from operations.inspect.found import Found, Told
from operations.inspect.reasons import why
from schemas.events import Refusal, type_of
from schemas.records import VOLATILE_FIELDS, Availability, Promise, availability_key
from schemas.topics import KEYED_INPUTS
from sinks.outlet import record_of
from stock.availability import STATUSES, ModeView, View
from stock.commitments import line_in, order_line_in, reservation_in
from stock.effects import effect_of
from stock.events import ReservationRequested
from stock.ledger import Ledger
from stock.network import ALL_CHANNELS, available_to_promise
from stock.orders import Hold
from stock.terms import ModeTerms
from stock.times import micros, moment
from stock.verdicts import verdict_key

_OFF = ("location_off", "excluded")
_INPUTS = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}


def explain(found: Found, question: Question, now: datetime) -> Explanation | Unknown:
    """The explanation, or what to check where nothing is known of the SKU or the location."""
    records = {key: packed for key, packed in found.state.items() if "|" in key}
    found.policies.advance(micros(now))
    ledger = Ledger(found.policies)
    ledger.restore(records, (), micros(now))
    positions = list(ledger.restored_positions)
    ledger.advance(micros(now))
    locations = sorted(key.partition("|")[2] for key in ledger.keys())  # noqa: SIM118 - a ledger is no mapping
    inputs = [
        Read(topic, begin, end, begin - start, max(0, end - max(positions[_INPUTS[topic]], start)))
        for topic, start, begin, end in found.looked_at
    ]
    asked = locations if question.location is None else [at for at in locations if at == question.location]
    if not asked:
        return Unknown(
            found.sku, question.location, found.partition, found.partitions, _advice(found, locations, inputs)
        )
    places = [_place(found, ledger, location, positions, question.movements, now) for location in asked]
    return Explanation(
        sku=found.sku,
        partition=found.partition,
        partitions=found.partitions,
        as_of=now,
        places=places,
        inputs=inputs,
        dead_letters=found.letters_by_reason(),
        notes=_notes(found, inputs, places),
        networks=_networks(found.sku, ledger),
    )


def _networks(sku: str, ledger: Ledger) -> list[Network]:
    """What each channel can sell over all locations; in the LOW_STOCK band, as if it came from above."""
    networks = []
    for channel in ledger.network.channels(sku):
        seen = ledger.network.view(sku, channel, 0, keep=False)
        if seen is None:
            continue
        named = None if channel == ALL_CHANNELS else channel
        terms = ledger.policies.network_terms(sku, named, ledger.items.by_sku.get(sku))
        reserved = (0, 0) if named is None else ledger.network.reserved(sku, named)
        modes = [
            NetworkMode(STATUSES[status], units, own.safety_stock, own.policy, own.quota if named else 0, others)
            for status, units, own, others in (
                (seen.ship, seen.available_to_ship, terms.ship, reserved[0]),
                (seen.pickup, seen.available_in_store, terms.pickup, reserved[1]),
            )
        ]
        bound = seen.committed if named is None else ledger.commitments.for_channel(sku, named)
        known = seen.locations_in_stock, seen.locations_unknown
        networks.append(Network(channel, STATUSES[seen.status], *known, bound, *modes))
    return networks


def _place(found: Found, ledger: Ledger, location: str, positions: list[int], movements: int, now: datetime) -> Place:
    key = availability_key(found.sku, location)
    balance, seen = ledger.balance(key), ledger.view(key)
    terms = ledger.policies.terms(found.sku, location, ledger.items.by_sku.get(found.sku))
    described = found.locations.get(location)
    count = balance.count
    physical = seen.on_hand - seen.unavailable
    raw = physical - seen.committed
    return Place(
        location=location,
        kind=None if described is None else described.kind,
        on_hand=seen.on_hand,
        unavailable={name: getattr(balance, name) for name in ("damaged", "quality_hold", "display")},
        physical=physical,
        committed=seen.committed,
        raw=raw,
        shortage=seen.shortage,
        in_transit=seen.in_transit,
        inbound=seen.inbound,
        atp=_atp(ledger, key, seen),
        counted_at=None if count is None else moment(count[0]),
        counted_by=None if count is None else count[1],
        count_id=None if count is None else count[2],
        ship=_mode("ship", seen, seen.ship, terms.ship),
        pickup=_mode("pickup", seen, seen.pickup, terms.pickup),
        bound=_bound(ledger, found.sku, location),
        policies=_rules(found, location),
        published=_published(found.published.get(location), ledger, key, now),
        movements=_movements(found, ledger, location, positions)[:movements],
        alerts=_alerts(ledger, key),
    )


def _atp(ledger: Ledger, key: str, seen: View) -> list[Promise]:
    """What can be promised here from each date on at which something should arrive; what is late may never."""
    modes = [mode for mode in (seen.ship, seen.pickup) if mode.available is not None and mode.reason not in _OFF]
    if not modes:
        return []
    available = seen.on_hand - seen.unavailable - seen.committed - min(mode.safety_stock for mode in modes)
    now_us = ledger.commitments.clock_us
    dated = [(at_us, units) for units, at_us in ledger.supply.dated(key) if at_us is not None and at_us > now_us]
    promised = [(moment(at_us), units) for at_us, units in available_to_promise(available, dated)]
    return [Promise(at, units) for at, units in promised if at is not None]


def _mode(mode: str, seen: View, told: ModeView, terms: ModeTerms) -> Mode:
    return Mode(
        status=STATUSES[told.status],
        reason=told.reason,
        available=told.available,
        withheld=told.withheld,
        safety_stock=told.safety_stock,
        policy=told.policy,
        low_stock_enter=terms.enter,
        low_stock_exit=terms.exit,
        arithmetic=_arithmetic(seen, told),
        why=why(mode, seen, told, terms),
    )


def _arithmetic(seen: View, told: ModeView) -> list[Line]:
    """The formula with its numbers; the last line is what a buyer gets."""
    physical = seen.on_hand - seen.unavailable
    raw = physical - seen.committed
    by = "no policy sets any" if told.policy is None else f"by policy {told.policy}"
    if told.available is None:
        last = Line("available: not known", 0, "unknown")
    elif told.available == max(0, raw - told.safety_stock):
        last = Line("available: never below 0 for a buyer", told.available, "available")
    else:
        last = Line(f"available: {told.reason or STATUSES[told.status]}", told.available, "available")
    return [
        Line("on hand", seen.on_hand),
        Line("unavailable (damaged, on quality hold, display)", -seen.unavailable, f"physical {physical}"),
        Line("committed to holds and orders", -seen.committed, f"raw {raw}"),
        Line(f"safety stock and buffer, {by}", -told.safety_stock, f"{raw - told.safety_stock}"),
        last,
    ]


def _bound(ledger: Ledger, sku: str, location: str) -> list[Bound]:
    bound: list[Bound] = []
    for key, order in ledger.commitments.of_sku(sku):
        if isinstance(order, Hold):
            units = order.open_units(ledger.commitments.clock_us)
            if units and order.location == location:
                ends_at = moment(order.expires_at_us)
                bound.append(Bound("hold", reservation_in(key), line_in(key), units, ends_at))
        else:
            units = order.left().get(location, 0)
            if units:
                bound.append(Bound("allocation", order_line_in(key), None, units, None))
    return sorted(bound, key=lambda one: (one.kind, one.id, one.line or ""))


def _alerts(ledger: Ledger, key: str) -> list[OpenAlert]:
    found = []
    for about, alert in ledger.alerts.open_at(key):
        opened_at = moment(alert.opened_us)
        assert opened_at is not None
        found.append(OpenAlert(alert.id, about.kind, alert.units, alert.references, opened_at))
    return sorted(found, key=lambda one: (one.opened_at, one.alert))


def _rules(found: Found, location: str) -> list[Rule]:
    return [
        Rule(policy.policy, _given(policy.scope), _given(policy.values))
        for policy in sorted(found.policy_sets.values(), key=lambda policy: policy.policy)
        if policy.scope.sku in (None, found.sku) and policy.scope.location in (None, location)
    ]


def _given(struct: Struct) -> dict[str, object]:
    return {name: value for name, value in structs.asdict(struct).items() if value is not None}


def _published(record: Availability | None, ledger: Ledger, key: str, now: datetime) -> Published | None:
    if record is None:
        return None
    seen, balance = ledger.settle(key)
    held = record_of(key, seen, balance, balance.cause, record.version, record.lane, record.changed_at)
    return Published(
        version=record.version,
        age_s=round((now - record.changed_at).total_seconds(), 3),
        changed_at=record.changed_at,
        status=record.status,
        available_to_ship=record.available_to_ship,
        available_in_store=record.available_in_store,
        cause=record.cause,
        differs={
            name: (getattr(record, name), getattr(held, name))
            for name in record.__struct_fields__
            if name not in VOLATILE_FIELDS and getattr(record, name) != getattr(held, name)
        },
    )


def _movements(found: Found, ledger: Ledger, location: str, positions: list[int]) -> list[Movement]:
    """Input records that name the location, or were promised something there, the newest told first."""
    here = sorted(
        (told for told in found.told if told.location == location or _promised_at(ledger, told) == location),
        key=lambda told: (told.record.timestamp_ms, told.record.topic, told.record.offset),
        reverse=True,
    )
    return [_movement(found, told, positions) for told in here]


def _promised_at(ledger: Ledger, told: Told) -> str | None:
    """Where a request was granted something, if that is still known."""
    if not isinstance(told.event, ReservationRequested):
        return None
    decision = ledger.verdicts.get(verdict_key(told.event.sku, told.event.source, told.event.id))
    return decision.location if decision is not None and decision.units else None


def _movement(found: Found, told: Told, positions: list[int]) -> Movement:
    record, event = told.record, told.event
    topic = _INPUTS[record.topic]
    if isinstance(event, Refusal):
        return Movement(
            "refused",
            "",
            "",
            None,
            None,
            0,
            f"{event.reason}: {event.detail}",
            record.topic,
            record.partition,
            record.offset,
        )
    outcome = found.outcomes.get((topic, record.offset))
    if outcome is None:
        in_state = record.offset < positions[topic]
        outcome = "in the state, outcome no longer remembered" if in_state else "not in the saved state yet"
    moves = outcome not in ("duplicate", "absorbed") and not isinstance(event, ReservationRequested)
    units = effect_of(event).units if moves else 0
    return Movement(
        type_of(event),
        event.id,
        event.source,
        event.occurred_at,
        getattr(event, "units", None),
        units,
        outcome,
        record.topic,
        record.partition,
        record.offset,
    )


def _notes(found: Found, inputs: list[Read], places: list[Place]) -> list[str]:
    notes = []
    behind = {read.topic: read.not_in_state for read in inputs if read.not_in_state}
    if behind:
        told = ", ".join(f"{count:,} of {topic}" for topic, count in behind.items())
        notes.append(
            f"the saved state of partition {found.partition} does not cover the newest records yet ({told}): "
            "is `stockflow run` running and keeping up?"
        )
    elif any(place.published is None or place.published.differs for place in places):
        notes.append(
            "what is published is not what the state says now, although all input is in the state: a hold may just "
            "have ended, a policy have just changed, or no process runs (`stockflow audit` compares everything)"
        )
    for read in inputs:
        if read.not_read:
            notes.append(f"{read.topic}: {read.not_read:,} older records were not looked at (--look-back)")
    return notes


def _advice(found: Found, locations: list[str], inputs: list[Read]) -> list[str]:
    sku, here = found.sku, f"partition {found.partition} of {found.partitions}"
    advice = []
    if locations:
        advice.append(f"{sku} is known at: {', '.join(locations)}")
    else:
        advice.append(f"nothing was ever applied for {sku} in {here}, where it belongs; ids are case-sensitive")
    refused = [told for told in found.told if isinstance(told.event, Refusal)]
    if found.letters:
        by_reason = ", ".join(f"{reason} ({count})" for reason, count in found.letters_by_reason().items())
        record, headers = found.letters[-1]
        advice.append(
            f"dead letters under its key: {by_reason}; the newest is offset {record.offset} of "
            f"partition {record.partition}: {headers.get('dead-letter.detail', '')}"
        )
    elif refused:
        advice.append(f"its records are refused: {refused[-1].event}")
    if len(found.told) > len(refused):
        advice.append(
            f"{len(found.told) - len(refused)} records of it are in the input topics: "
            "if none is at this location, the sender names another one; else is `stockflow run` running?"
        )
    else:
        advice.append(
            f"no valid record of it was found in {here} of the inputs: the Kafka key must be the SKU and the producer "
            "must partition like Java (librdkafka: partitioner=murmur2_random); a record in another partition goes to "
            "the dead letters as wrong_partition"
        )
    advice += [
        f"{read.topic}: {read.not_in_state:,} records are not in the saved state yet"
        for read in inputs
        if read.not_in_state
    ]
    advice += [
        f"{read.topic}: {read.not_read:,} older records were not looked at (--look-back)"
        for read in inputs
        if read.not_read
    ]
    return advice
