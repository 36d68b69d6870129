"""Everything that goes out for one owned partition: lanes, records in flight, cuts and the watch for foreign writes.

An outlet lives from a takeover to the loss of its partition. All its methods and delivery callbacks run on the
worker's thread. What is durable and what is acknowledged decides when input positions may be committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Protocol

import msgspec
import xxhash
from confluent_kafka import KafkaError, Message

from schemas.dead_letters import Header, fitting, headers_for
from schemas.events import Refusal
from schemas.records import (
    EPOCH,
    Alternative,
    Availability,
    Cause,
    ReservationVerdict,
    Sources,
    StockAlert,
    cloudevents_headers,
    encode,
    micros,
    moment,
)
from schemas.state import COUNTER_MAX, JOURNAL_PREFIX, OUTCOMES_KEY, encode_metadata, seal
from sinks.latency import LaneLatencies
from sinks.network_lane import NetworkLane, NetworkWire, Tail
from sinks.streams import Delivered, Stream
from sinks.traces import Traces
from stock.alerts import ALERT_PREFIX, Owed, parts_of
from stock.availability import DELISTED, LOW_STOCK, STATUSES, View, is_urgent
from stock.balance import Balance
from stock.balance import Cause as CauseValues
from stock.echoes import is_echo_key
from stock.ledger import Ledger
from stock.verdicts import Decision, is_verdict_key, verdict_key

COMPLETE_INTERVAL_S = 5.0  # How long digests of acknowledged records may stay unsaved, unless a cut writes their key.
ANSWER_INTERVAL_S = 0.01  # Whoever has asked for a reservation waits for a cut.
SWEEP_KEYS = 50  # Keys looked at at once when rules changed: about a millisecond with their records.
PASS_KEYS = 20 * SWEEP_KEYS  # ... and passed by, if the change does not concern them.
# Keys that portions of a run may touch before they are sent: where events hardly share keys, waiting for the last
# portion spares nothing, and all of it would be sent and cut in one turn.
GATHERED_MAX = 10_000
DELISTED_DIGEST = 1  # Stored. Of a null record: what is on hand of a delisted SKU makes no other one.

_LONG_AGO = float("-inf")
_DELISTED = 64 + DELISTED * 8 + DELISTED  # As `View.statuses` says it.
_face_encoder = msgspec.msgpack.Encoder()


def digest_of(seen: View) -> int:
    """A 64-bit digest of everything in a record that can make a new record."""
    ship, pickup, better = seen.ship, seen.pickup, seen.better
    if ship.status == DELISTED:
        return DELISTED_DIGEST
    face = (
        ship.status, pickup.status, better.reason, better.policy, ship.available, pickup.available,
        ship.withheld, pickup.withheld, ship.safety_stock, pickup.safety_stock,
        seen.on_hand, seen.unavailable, seen.committed, seen.shortage,
        seen.in_transit, seen.inbound, seen.next_inbound_at_us, seen.backorder_left,
    )  # fmt: skip
    return xxhash.xxh3_64_intdigest(_face_encoder.encode(face))


def record_of(
    key: str, seen: View, balance: Balance, cause: CauseValues | None, version: int, lane: str, changed_at: datetime
) -> Availability:
    """The availability record of one key."""
    sku, _, location = key.partition("|")
    ship, pickup, better = seen.ship, seen.pickup, seen.better
    kind, id, source, occurred_us = cause or ("unknown", "", "stockflow", micros(changed_at))
    occurred_at = moment(occurred_us)
    pos_us, wms_us, orders_us = balance.pos_us, balance.wms_us, balance.orders_us
    return Availability(
        version,
        sku,
        location,
        STATUSES[better.status],
        better.reason,
        STATUSES[ship.status],
        STATUSES[pickup.status],
        ship.available,
        pickup.available,
        seen.on_hand,
        seen.unavailable,
        seen.committed,
        seen.in_transit,
        seen.inbound,
        None if seen.next_inbound_at_us is None else moment(seen.next_inbound_at_us),
        ship.safety_stock,
        pickup.safety_stock,
        ship.withheld,
        pickup.withheld,
        seen.shortage,
        seen.backorder_left,
        lane,
        better.policy,
        Cause(kind, id, source, occurred_at),  # type: ignore[arg-type]
        # One of them is the cause itself as a rule, and making a time is what costs most here.
        Sources(
            occurred_at if pos_us == occurred_us else moment(pos_us),
            occurred_at if wms_us == occurred_us else moment(wms_us),
            None if orders_us is None else moment(orders_us),
        ),
        changed_at,
    )


def verdict_of(sku: str, decision: Decision) -> ReservationVerdict:
    """The answer to a request, as it is published."""
    return ReservationVerdict(
        decision.reservation,
        decision.line,
        decision.id,
        sku,
        decision.location,
        decision.mode,
        decision.verdict,
        decision.units,
        decision.backordered,
        moment(decision.expires_at_us),
        decision.available,
        moment(decision.expected_at_us),
        decision.reason,
        [Alternative(one.location, one.mode, one.units, moment(one.at_us)) for one in decision.alternatives],
    )


def alert_of(owed: Owed) -> StockAlert:
    """The record of one state of an alert."""
    about = parts_of(owed.name)
    opened_at, closed_at = moment(owed.opened_us), moment(owed.closed_us)
    assert opened_at is not None
    return StockAlert(
        owed.id,
        about.kind,
        owed.state,
        about.sku,
        about.location,
        owed.units,
        dict(owed.references),
        opened_at,
        closed_at,
    )


def may_have_alerts(seen: View) -> bool:
    """Whether a key must be judged though it has none: a limit, or the program itself, may be another since."""
    low = seen.ship.status == LOW_STOCK or seen.pickup.status == LOW_STOCK
    return low or seen.shortage > 0 or seen.in_transit > 0


def headers_of(message: Message) -> list[Any] | None:
    """A record's headers, or None if the client cannot read a header's name: Kafka itself takes any bytes."""
    try:
        return list(message.headers() or ())
    except UnicodeDecodeError:
        return None


def nowhere() -> KafkaError:
    """A record counted as a repeat, which may stand nowhere: only a restart, which reads the log, knows."""
    return KafkaError(KafkaError._INCONSISTENT, "acknowledged without an offset")


@dataclass(frozen=True)
class Letter:
    """A refused record on its way to the dead letters. `topic` is its position in the keyed inputs, -1 for settings."""

    message: Message
    refusal: Refusal
    topic: int


class Wire(NetworkWire, Protocol):
    """How an outlet reaches Kafka: the publisher implements it, tests fake it."""

    def availability(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append records, in order, and call back for each; None delists.

        `headers`, here and below: of those records that have any, by their position, in order.
        """

    def dead_letter(
        self, partition: int, key: bytes | None, value: bytes | None, headers: list[Header], done: Delivered
    ) -> None:
        """Append one dead letter."""

    def alert(self, partition: int, sku: str, value: bytes, done: Delivered) -> None:
        """Append one alert."""

    def state(self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered) -> None:
        """Append state records, in order, and call back for each."""

    def verdicts(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append answers to requests, in order, and call back for each."""


StateRecords = list[tuple[str, "bytes | None"]]


@dataclass
class _Cut:
    """A moment of the partition: which acknowledgements make its input positions safe to commit."""

    positions: tuple[int, ...]
    metadata: str
    availability_sent: int
    letters_sent: int
    waiting: set[str]
    alerts: list[Owed]  # sent when all of its state is durable
    stages: deque[StateRecords]  # what is still to be sent, each when all before it is acknowledged
    answers: list[tuple[str, Decision]]  # to requests: sent once all stages are acknowledged


def in_stages(records: Iterable[tuple[str, bytes | None]]) -> deque[StateRecords]:
    """A flush in the stages in which it must reach the log, each only once all of the one before it is acknowledged.

    Ids, movements, echoes, decisions and alerts first, then what they happened to, the totals last: what is in a
    balance is not told to an echo or compared with a count again. The order of sending alone is no order of landing: a
    client goes on with later records after one has failed.
    """
    stages: tuple[StateRecords, StateRecords, StateRecords] = ([], [], [])
    for key, value in records:
        if key == OUTCOMES_KEY:
            stages[2].append((key, value))
        else:
            stages[value is None or not _comes_first(key)].append((key, value))
    return deque(stage for stage in stages if stage)


def _comes_first(key: str) -> bool:
    return key.startswith((JOURNAL_PREFIX, ALERT_PREFIX)) or is_verdict_key(key) or is_echo_key(key)


@dataclass
class _Sweep:
    """Keys that changes of the rules may concern, looked at little by little, with the cause of each.

    They are those of some SKUs or, where `skus` is None, of some locations, or all where `all_keys` is true.
    """

    skus: dict[str, CauseValues | None] | None = None
    locations: dict[str, CauseValues | None] = field(default_factory=dict)
    all_keys: bool = False
    cause: CauseValues | None = None  # of all that have no other
    keys: list[str] = field(default_factory=list)
    at: int = 0
    networks: set[str] = field(default_factory=set)  # SKUs with channels that were looked at


@dataclass
class OutletStats:
    """Counts of one process over all its outlets."""

    records_by_lane: dict[str, int] = field(default_factory=lambda: {"urgent": 0, "routine": 0})
    networks_by_lane: dict[str, int] = field(default_factory=lambda: {"urgent": 0, "routine": 0})
    state_records: int = 0
    letters_by_reason: dict[str, int] = field(default_factory=dict)
    foreign_writes: int = 0
    verdicts: int = 0
    alerts: dict[tuple[str, str], int] = field(default_factory=dict)  # that readers were told, by kind and state


class Outlet:
    """The way out of one partition.

    Args:
        wire: appends records.
        ledger: the partition's balances.
        tail_starts: where the tails of the availability and dead-letter topics began.
        shown: keys in the tail of the availability topic. Their records may be newer than
            the restored state, so they are not published before the replay is through, and then in any case.
        on_published: told of each acknowledged availability record: partition, key, value, offset, and its mark
            (`sinks.latency.LaneLatencies`).
        network_tail: the same as `next_offsets`, `tail_starts` and `shown` for the network records.
        on_network_published: told of each acknowledged network record: partition, key, value, offset.
        routine_interval_s: how long routine changes are collected; 0 publishes each at once.
        with_headers: give every availability record CloudEvents headers.
    """

    def __init__(
        self,
        wire: Wire,
        partition: int,
        epoch: int,
        generation: int,
        ledger: Ledger,
        next_offsets: tuple[int, int, int],
        shown: set[str],
        tail_starts: tuple[int, int],
        known_letters: set[tuple[str, int, int]],
        on_published: Callable[[int, str, bytes | None, int, int], None],
        routine_interval_s: float,
        stats: OutletStats,
        with_headers: bool = False,
        network_tail: Tail | None = None,
        on_network_published: Callable[[int, str, bytes | None, int], None] = lambda *_: None,
    ) -> None:
        self.partition, self.epoch, self.generation = partition, epoch, generation
        self.ledger = ledger
        self.catching_up = True
        self.gathers = False  # Touched keys wait for more of a run: until they are sent, no cut may be made.
        self._shown, (self._tail_start, self._letters_start) = shown, tail_starts
        self.closed = False
        self.traces = Traces()
        self._with_headers = with_headers
        state_next, availability_next, letters_next = next_offsets
        self.state_stream = Stream(state_next)
        self.availability_stream = Stream(availability_next)
        self.letters_stream = Stream(letters_next)
        self._wire = wire
        self._known_letters = known_letters
        self._on_published = on_published
        self._interval_s = routine_interval_s
        self._stats = stats
        self._counter = 0
        self._alerts_in_flight: set[tuple[str, str]] = set()
        self.network = NetworkLane(
            wire,
            partition,
            ledger,
            self.traces,
            network_tail or Tail(),
            generation,
            on_network_published,
            routine_interval_s,
            stats.networks_by_lane,
        )
        self._seal = seal(generation)
        self._in_flight: deque[tuple[str, bytes | None, tuple[int, int], int]] = deque()
        self._latest: dict[str, tuple[int, int]] = {}  # digest and statuses of the newest record in flight
        self._sent: dict[str, float] = {}  # when keys were last sent: since `_turned_at`, and in the interval before
        self._sent_before: dict[str, float] = {}
        self._turned_at = 0.0
        self._waiting: dict[str, int] = {}
        self._due: list[tuple[float, str]] = []  # a heap
        self._sweeps: deque[_Sweep] = deque()
        self._cut: _Cut | None = None
        self.cut_at = 0.0  # when the last cut was made
        self._cut_wanted_at: float | None = None
        self._complete_at = 0.0
        self._committed: tuple[int, ...] | None = None
        self.verdicts_under_way = 0
        self._given: list[str] = []  # the state keys of decisions whose answers are under way

    # Availability

    def caught_up(self) -> None:
        """The replay is through: now our truth of every key may be told, and every key is looked at once."""
        self.catching_up = False
        self.network.caught_up()
        self.show_again(self._shown)
        self._shown = set()
        self.look_again(None, None, None)

    def publish(self, now: float, now_us: int, more: bool = False) -> None:
        """Send what the touched keys have to say, each by its lane; all keys of a changed item are looked at soon.

        Where `more` facts of a run follow soon nothing is sent yet, unless many keys are touched.
        """
        self.gathers = more and len(self.ledger.touched) < GATHERED_MAX
        if self.gathers:
            return
        if self.ledger.items_changed:
            changed, self.ledger.items_changed = self.ledger.items_changed, {}
            for sku, cause in changed.items():
                self.look_again(sku, None, cause)
        touched, self.ledger.touched = self.ledger.touched, {}
        if touched:
            self._send(touched.items(), now, now_us, False)
        if not self.catching_up and self.ledger.has_suspects:
            self.ledger.judge_suspects(now_us)
        self.network.send(now, now_us)

    def publish_due(self, now: float, now_us: int) -> None:
        """Send the newest state of the keys whose routine interval is over."""
        if not self.catching_up and self.ledger.has_suspects:
            self.ledger.judge_suspects(now_us)
        if now >= self._turned_at + self._interval_s:
            self._sent, self._sent_before, self._turned_at = {}, self._sent, now
        due = []
        while self._due and self._due[0][0] <= now:
            _, key = heappop(self._due)
            since = self._waiting.get(key)
            if since is not None and now >= self._quiet_at(key):
                due.append((key, since))
        if due:
            self._send(due, now, now_us, True)
            self.network.send(now, now_us)
        self.network.send_due(now, now_us)

    def _send(self, keys: Iterable[tuple[str, int]], now: float, now_us: int, due: bool) -> None:
        ledger, forced, latest, waiting = self.ledger, self.ledger.forced, self._latest, self._waiting
        in_flight, stream, lane_time = self._in_flight, self.availability_stream, bool(self._interval_s)
        network, alerts, with_reorder_point = self.network, ledger.alerts.at, ledger.policies.with_reorder_point
        may_wait = lane_time and not due
        judges = not self.catching_up  # when all is replayed each key is looked at once
        changed_at = EPOCH + timedelta(microseconds=now_us)
        withheld = self._shown if self.catching_up else ()
        batch: list[tuple[str, bytes | None]] = []
        with_headers, traced = self._with_headers, bool(self.traces)
        all_headers: dict[int, list[Header]] = {}
        for key, since_us in keys:
            if key in withheld:
                continue
            held = may_wait and now < self._quiet_at(key)
            if held and self.catching_up:
                self._wait(key, since_us)
                continue
            seen, balance = ledger.settle(key)
            if judges and (with_reorder_point or key in alerts or may_have_alerts(seen)):
                ledger.judge(key, seen, now_us)
            digest = digest_of(seen)
            before_digest, before = latest.get(key) or (balance.digest, balance.published)
            if digest == before_digest and key not in forced:
                network.note(key, seen, key in waiting)
                self._no_longer_waiting(key)
                continue
            statuses = seen.statuses()
            urgent = is_urgent(before, statuses)
            if held and not urgent:
                self._wait(key, since_us)
                continue
            if self._counter == COUNTER_MAX:
                raise OverflowError("the version counter of this generation is used up; a restart claims a new one")
            self._counter += 1
            version = self.generation << 32 | self._counter
            lane = "urgent" if urgent else "routine"
            cause = ledger.publishing(key)
            network.count_in(key, seen, cause, urgent)
            value: bytes | None = None
            headers = self.traces.of(cause) if traced else None
            if statuses != _DELISTED:
                record = record_of(key, seen, balance, cause, version, lane, changed_at)
                value = encode(record)
                if with_headers:
                    headers = [*cloudevents_headers(key, record), *(headers or ())]
            if headers:
                all_headers[len(batch)] = headers
            batch.append((key, value))
            shown = latest[key] = (digest, statuses)
            in_flight.append((key, value, shown, LaneLatencies.mark(waiting.get(key) or since_us, urgent)))
            stream.sent += 1
            self._stats.records_by_lane[lane] += 1
            if forced:
                forced.discard(key)
            if lane_time:
                self._sent[key] = now
            if waiting:
                self._no_longer_waiting(key)
        if batch:
            self._wire.availability(self.partition, batch, self._availability_delivered, all_headers)

    def _quiet_at(self, key: str) -> float:
        """When the routine interval of a key is over; long ago if it was not sent lately."""
        sent_at = self._sent.get(key)
        if sent_at is None:
            sent_at = self._sent_before.get(key, _LONG_AGO)
        return sent_at + self._interval_s

    def _wait(self, key: str, since_us: int) -> None:
        """Send a key at the end of its interval, whatever its newest state is then."""
        if key not in self._waiting:
            self._waiting[key] = since_us
            heappush(self._due, (self._quiet_at(key), key))

    def _no_longer_waiting(self, key: str) -> None:
        if key in self._waiting:
            del self._waiting[key]
            cut = self._cut
            if cut is not None and key in cut.waiting:
                cut.waiting.discard(key)
                cut.availability_sent = max(cut.availability_sent, self.availability_stream.sent)

    def _availability_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None or self.closed:
            self._undelivered(error, message)
            return
        key, value, shown, mark = self._in_flight.popleft()
        assert message.key() == key.encode(), "acknowledgements of one partition come in the order of sending"
        offset = message.offset()
        self.availability_stream.acknowledge(offset)
        if self._latest.get(key) is shown:
            del self._latest[key]
        if offset is None:
            # The broker took it for a repeat, of which it may not have the original: say it again.
            self.show_again([key])
            return
        self.ledger.acknowledge(key, *shown)
        self._on_published(self.partition, key, value, offset, mark)

    # Rules

    def look_again(self, sku: str | None, location: str | None, cause: CauseValues | None) -> None:
        """Rules changed: look at the keys they may concern, little by little; None stands for any.

        Changes that wait to be looked at are looked at together where that spares a pass over all keys.
        """
        waiting = self._sweeps[-1] if self._sweeps and not self._sweeps[-1].at else None
        if waiting is None or (waiting.skus is None) == (sku is not None):
            waiting = _Sweep({} if sku is not None else None)
            self._sweeps.append(waiting)
        if sku is not None:
            assert waiting.skus is not None
            waiting.skus[sku] = cause
        elif location is not None:
            waiting.locations[location] = cause
        else:
            waiting.locations, waiting.all_keys, waiting.cause = {}, True, cause

    @property
    def sent(self) -> int:
        """Availability and network records sent so far."""
        return self.availability_stream.sent + self.network.stream.sent

    @property
    def sweeping(self) -> int:
        """Changes of the rules that are not looked at wholly."""
        return len(self._sweeps)

    def sweep(self) -> bool:
        """Look at some more keys; True if there were some to look at."""
        if not self._sweeps:
            return False
        sweep = self._sweeps[0]
        if not sweep.at:
            sweep.keys = self.ledger.keys()
        at, looked = sweep.at, 0
        alerts, with_reorder_point = self.ledger.alerts.at, self.ledger.policies.with_reorder_point
        with_network_stock = self.ledger.policies.with_network_safety_stock
        everywhere = sweep.skus is not None or sweep.all_keys  # and not only at some locations
        upto = min(len(sweep.keys), at + PASS_KEYS)
        while at < upto and looked < SWEEP_KEYS:
            key = sweep.keys[at]
            at += 1
            sku, _, location = key.partition("|")
            if sweep.skus is not None:
                if sku not in sweep.skus:
                    continue
                cause = sweep.skus[sku]
            elif location in sweep.locations:
                cause = sweep.locations[location]
            elif sweep.all_keys:
                cause = sweep.cause
            else:
                continue
            looked += 1
            if everywhere:
                if self.ledger.network.is_first(sku, key):
                    looked += self.network.look_at(sku, cause) - 1  # rules about no location are a network's as well
            elif sku not in sweep.networks and (with_network_stock or self.network.has_channels(sku)):
                # A channel, and a sum of raw stock, may see of a location what its own record does not tell.
                sweep.networks.add(sku)
                looked += self.network.look_at(sku, cause)
            seen, told = self.ledger.peek(key)
            if digest_of(seen) != told:
                if cause is not None:
                    self.ledger.set_cause(key, cause)
                self.ledger.touched.setdefault(key, 0)
                continue
            if not everywhere and sku not in sweep.networks:
                self.network.look_into(key, seen)
            if key in self._latest or key in alerts or with_reorder_point or may_have_alerts(seen):
                self.ledger.touched.setdefault(key, 0)
        sweep.at = at
        if at == len(sweep.keys):
            self._sweeps.popleft()
        return True

    # Dead letters

    def refuse(self, letters: Iterable[Letter], now_us: int) -> None:
        """Send refused records to the dead letters, each once as far as the log tells."""
        for letter in letters:
            message = letter.message
            topic, partition, offset = str(message.topic()), message.partition() or 0, message.offset() or 0
            if (topic, partition, offset) in self._known_letters:
                continue
            at = moment(now_us)
            assert at is not None
            refusal, original = letter.refusal, headers_of(message)
            if original is None:
                refusal = Refusal(refusal.reason, f"{refusal.detail} (its headers are left out: a name is not UTF-8)")
            ours = headers_for(refusal, topic, partition, offset, at)
            key, value, headers = fitting(message.key(), message.value(), original or [], ours)
            self.letters_stream.sent += 1
            reasons = self._stats.letters_by_reason
            reasons[letter.refusal.reason] = reasons.get(letter.refusal.reason, 0) + 1
            self._wire.dead_letter(self.partition, key, value, headers, self._letter_delivered)

    def _letter_delivered(self, error: KafkaError | None, message: Message) -> None:
        if not self._landed(error, message):
            return
        self.letters_stream.acknowledge(message.offset())

    # Cuts

    def cut(self, now: float, complete: bool = False) -> None:
        """Make the state durable as it is now; the positions it stands for become ready once all is acknowledged.

        Digests that nothing else makes worth a record are written each few seconds, or if the cut is to be `complete`.
        """
        complete = complete or now >= self._complete_at + COMPLETE_INTERVAL_S
        if complete:
            self._complete_at = now
        in_doubt = self._latest.keys() | self._waiting.keys()
        seal = self._seal
        stages = in_stages(
            (key, None if packed is None else seal + packed)
            for key, packed in self.ledger.flush(in_doubt, complete, self.network.in_doubt())
        )
        answers, self.ledger.answers = self.ledger.answers, []
        self.network.mark(self._waiting)
        self.cut_at, self._cut_wanted_at = now, None
        # What a restart must show again stays in its tail until it has been shown.
        tail_start = self._tail_start if self._shown else self.availability_stream.next_offset
        # Likewise the letters of records that have not been read again yet: the next owner must not send them twice.
        letters_start = self._letters_start if self.catching_up else self.letters_stream.next_offset
        self._cut = _Cut(
            tuple(self.ledger.totals.positions),
            encode_metadata(self.generation, tail_start, letters_start, self.network.tail_start),
            self.availability_stream.sent,
            self.letters_stream.sent,
            set(self._waiting),
            self.ledger.alerts.owed(),
            stages,
            answers,
        )
        self._send_stage(self._cut)

    def _send_stage(self, cut: _Cut) -> None:
        records = cut.stages.popleft()
        self.state_stream.sent += len(records)
        self._stats.state_records += len(records)
        self._wire.state(self.partition, records, self._state_delivered)

    def cut_due(self, now: float, interval_s: float) -> bool:
        """Whether a new cut should be made.

        One that is wanted waits up to another interval for the acknowledgements under way: a digest that is known then
        needs no record of its own later.
        """
        ledger = self.ledger
        if self._cut is not None or self.has_gap or self.gathers:
            return False
        if now < self.cut_at + (min(interval_s, ANSWER_INTERVAL_S) if ledger.answers else interval_s):
            return False
        unsaved = ledger.unsaved and now >= self._complete_at + COMPLETE_INTERVAL_S
        if not (ledger.dirty or ledger.answers or unsaved or tuple(ledger.totals.positions) != self._committed):
            return False
        if self._cut_wanted_at is None:
            self._cut_wanted_at = now
        return self.idle or now >= self._cut_wanted_at + interval_s

    def cut_ready(self) -> tuple[tuple[int, ...], str] | None:
        """Positions and metadata of a cut whose records are all acknowledged; once."""
        cut = self._cut
        if cut is None or cut.stages or not self.state_stream.idle or self.has_gap:
            return None
        if cut.answers:
            self._give(cut)
        if (
            cut.waiting
            or self.verdicts_under_way
            or self.availability_stream.acked < cut.availability_sent
            or self.letters_stream.acked < cut.letters_sent
            or not self.network.reached
        ):
            return None
        self._cut = None
        self.ledger.verdicts.answered(self._given)
        self._given.clear()
        self._send_alerts(cut.alerts)
        self._committed = cut.positions
        return cut.positions, cut.metadata

    def _give(self, cut: _Cut) -> None:
        """Answer requests: their decisions are durable, and nobody has claimed the partition since."""
        answers, cut.answers = cut.answers, []
        self.verdicts_under_way += len(answers)
        self._given += [verdict_key(sku, decision.source, decision.id) for sku, decision in answers]
        records = [(decision.reservation, encode(verdict_of(sku, decision))) for sku, decision in answers]
        headers: dict[int, list[Header]] = {}
        for at, (_, decision) in enumerate(answers if self.traces else ()):
            if trace := self.traces.of_event(decision.source, decision.id):
                headers[at] = trace
        self._stats.verdicts += len(records)
        self._wire.verdicts(self.partition, records, self._verdict_delivered, headers)

    def _verdict_delivered(self, error: KafkaError | None, message: Message) -> None:
        if not self._landed(error, message):
            return
        self.verdicts_under_way -= 1

    def _send_alerts(self, alerts: Iterable[Owed]) -> None:
        """Tell readers of alerts that are durable by now; whatever became of it, a restart tells them what is owed."""
        for owed in alerts:
            if (owed.id, owed.state) in self._alerts_in_flight:
                continue
            self._alerts_in_flight.add((owed.id, owed.state))
            self._wire.alert(self.partition, owed.name.partition("|")[0], encode(alert_of(owed)), self._told_of(owed))

    def _told_of(self, owed: Owed) -> Delivered:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None or self.closed or message.offset() is None:
                self._undelivered(error if message.offset() is not None or error else nowhere(), message)
                return
            self._alerts_in_flight.discard((owed.id, owed.state))
            self.ledger.alerts.told(owed)
            said = parts_of(owed.name).kind, owed.state
            self._stats.alerts[said] = self._stats.alerts.get(said, 0) + 1
            if owed.state == "closed":
                self.ledger.alert_ended(owed.name)

        return delivered

    @property
    def owes_alerts(self) -> bool:
        """Whether readers are still to be told of an alert."""
        return self.ledger.alerts.owes

    @property
    def has_more_to_tell(self) -> bool:
        """Whether readers wait for an alert, or something is to be looked at that may be one."""
        ledger = self.ledger
        waits = bool(ledger.touched) or self.network.touched
        return not self.catching_up and (self.owes_alerts or waits or ledger.has_suspects)

    @property
    def idle(self) -> bool:
        """Whether all availability and network records are acknowledged."""
        return self.availability_stream.idle and self.network.stream.idle

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All output partitions, in the order of `publisher.OutputTopics.in_order`."""
        return self.state_stream, self.availability_stream, self.letters_stream, self.network.stream

    @property
    def has_gap(self) -> bool:
        """Whether somebody else's records in our outputs are not answered yet."""
        return not (
            self.state_stream.gap_from is None
            and self.availability_stream.gap_from is None
            and self.letters_stream.gap_from is None
            and self.network.stream.gap_from is None
        )

    @property
    def cutting(self) -> bool:
        """Whether a cut waits for acknowledgements."""
        return self._cut is not None

    def release_waiting(self, now: float, now_us: int) -> None:
        """Send everything that waits in the routine lane, for an orderly end."""
        waiting = list(self._waiting.items())
        if waiting:
            self._send(waiting, now, now_us, True)
        self.network.release_waiting(now, now_us)

    def _state_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None or self.closed:
            self._undelivered(error, message)
            return
        stream, offset = self.state_stream, message.offset()
        if offset is None:
            self._undelivered(nowhere(), message)
            return
        if offset == stream.next_offset:
            stream.next_offset = offset + 1
            stream.acked += 1
        else:
            stream.acknowledge(offset)
        cut = self._cut
        if cut is not None and cut.stages and stream.idle:
            self._send_stage(cut)

    def _landed(self, error: KafkaError | None, message: Message) -> bool:
        """Whether a record stands in the log and its partition is still ours; what failed is told."""
        if error is not None or self.closed:
            self._undelivered(error, message)
            return False
        if message.offset() is None:
            self._undelivered(nowhere(), message)
            return False
        return True

    def _undelivered(self, error: KafkaError | None, message: Message) -> None:
        """A failure concerns the whole process, even if the partition was lost; what follows it says nothing."""
        if error is not None:
            self.closed = True
            self._wire.failed(error, message)

    # Foreign writes

    def show_again(self, keys: Iterable[str]) -> None:
        """Publish our truth of these keys anew: somebody else's record stands after ours."""
        for key in keys:
            if key in self.ledger:
                self.ledger.touched.setdefault(key, 0)
                self.ledger.forced.add(key)

    @property
    def backlog(self) -> int:
        """Records sent and not acknowledged."""
        under_way = self.verdicts_under_way + len(self._alerts_in_flight)
        return sum(stream.sent - stream.acked for stream in self.streams) + under_way

    def close(self) -> None:
        """The partition is lost: acknowledgements that still come are nobody's business any more."""
        self.closed = self.network.closed = True
