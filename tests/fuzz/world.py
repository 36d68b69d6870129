"""One partition's way from bytes to records, in which any input must leave everything in order.

The real step, ledger and outlet run here, with lists in Kafka's place. What must hold is checked at every input and
at every restart; the first thing that does not is a `Violation`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from dataflows.keep_balances import BalanceContext, BalanceStats, Changes, KeepBalances
from operations.audit.facts import judge_fact, judge_setting
from operations.audit.log import LogRecord
from schemas.dead_letters import DETAIL, REASON, TOPIC, TRUNCATED, Header, origin
from schemas.events import REASONS, Refusal, decode, decode_setting, type_of
from schemas.records import availability_key, decode_availability, decode_network, decode_verdict, encode, micros
from schemas.state import decode_metadata, open_envelope
from schemas.topics import DEAD_LETTER_BYTES_MAX, INPUT_BYTES_MAX, KEYED_INPUTS, STOCK_ITEMS, STOCK_SETTINGS
from schemas.traces import TRACEPARENT, TRACESTATE, trace_in
from sinks.network_lane import Tail
from sinks.outlet import Letter, Outlet, OutletStats
from sinks.streams import Delivered
from sources.arrivals import Batch, CaughtUp, Opened
from sources.restore import Restored
from stock.balance import Cause
from stock.events import UNITS_MAX, LocationSet, PolicySet, SourceAlive
from stock.ledger import OUTCOMES, Ledger
from stock.policies import Policies
from tests.fuzz.inputs import PARTITION, PARTITIONS, SETTINGS, START, Input

CPU_S_MAX = 1.0  # No single record may take longer; the slowest take a few milliseconds.
FACTS_REMEMBERED = 300  # Few, so that the journal merges and forgets.
INTEGER_MAX = 2**63 - 1
VERSION_MAX = 2**53 - 1
LAND_EACH, CUT_EACH, LOOK_EACH = 7, 40, 50  # Inputs.
RECORD_FRAME_BYTES = 100  # Kafka's own share of a record, at most.

_QUOTED = re.compile(r"'.*'|\".*\"", re.DOTALL)
_WORDS = re.compile(r"\b[A-Za-z_]{2,24}\b")
_UNJUDGED = ("limit", "too_large")  # The audit leaves these to the pipeline.
_NAMES_THE_CULPRIT = ("wrong_partition", "unknown_type")  # Before anything else that would be the same each time.


class Violation(AssertionError):
    """Something that must hold for every input did not."""


@dataclass(frozen=True)
class Message:
    """As much of a consumed record, or of a delivery report, as the code under test asks for."""

    own: Input
    own_topic: str
    own_offset: int

    def topic(self) -> str:
        return self.own_topic

    def partition(self) -> int:
        return PARTITION

    def offset(self) -> int:
        return self.own_offset

    def key(self) -> bytes | None:
        return self.own.key

    def value(self) -> bytes | None:
        return self.own.value

    def timestamp(self) -> tuple[int, int]:
        return self.own.timestamp

    def error(self) -> None:
        return None

    def headers(self) -> Any:
        if self.own.headers is None:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return self.own.headers


@dataclass(frozen=True)
class Report:
    """A delivery report."""

    own_key: bytes | None
    own_offset: int

    def key(self) -> bytes | None:
        return self.own_key

    def offset(self) -> int:
        return self.own_offset


class Log:
    """Kafka's place: takes what goes out, checks each record, and reports it as delivered when asked to."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.letters: list[tuple[bytes | None, bytes | None, list[Header]]] = []
        self.statuses = ""
        self.ends = [0, 0, 0, 0, 0, 0]
        self._version = 0
        self._in_flight: list[tuple[int, bytes | None, Delivered]] = []

    def failed(self, error: object, message: object) -> NoReturn:
        raise Violation(f"a delivery failed: {error}")

    def availability(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        for at, (key, value) in enumerate(records):
            own = headers.get(at, [])
            _must(value is None or len(own) >= 7, "every record has its headers")
            _must(_goes_on(own), "a context goes on if it is valid, and nothing else does")
            self._in_flight.append((1, key.encode(), done))
            if value is None:
                self.statuses = "delisted"
                continue
            record = decode_availability(value)
            _must(encode(record) == value, "a record reads back as it was written")
            _must(availability_key(record.sku, record.location) == key, "a record stands under its key")
            _must(self._version < record.version <= VERSION_MAX, "versions rise and stay exact in a double")
            self._version = record.version
            self.statuses = f"{record.status} {record.lane}"
            numbers = [number for number in msgspec.structs.astuple(record) if isinstance(number, int)]
            _must(all(abs(number) <= INTEGER_MAX for number in numbers), "every number has at most 64 bits")
            _must(record.shortage >= 0 and record.committed >= 0 and record.unavailable >= 0, "no sum below zero")
            _must(all(name.encode() and isinstance(text, bytes) for name, text in own), "headers are bytes")

    def network(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        _must(all(map(_goes_on, headers.values())), "a context goes on if it is valid, and nothing else does")
        for key, value in records:
            self._in_flight.append((3, key.encode(), done))
            if value is None:
                continue  # delisted
            record = decode_network(value)
            _must(encode(record) == value, "a network record reads back as it was written")
            _must(f"{record.sku}|{record.channel}" == key, "a network record stands under its key")
            numbers = [number for number in msgspec.structs.astuple(record) if isinstance(number, int)]
            _must(all(abs(number) <= INTEGER_MAX for number in numbers), "every sum has at most 64 bits")

    def alert(self, partition: int, sku: str, value: bytes, done: Delivered) -> None:
        self._in_flight.append((4, sku.encode(), done))

    def verdicts(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        _must(all(map(_goes_on, headers.values())), "a context goes on if it is valid, and nothing else does")
        for key, value in records:
            self._in_flight.append((5, key.encode(), done))
            verdict = decode_verdict(value)
            _must(encode(verdict) == value, "a verdict reads back as it was written")
            _must(verdict.reservation == key, "a verdict stands under its reservation")
            _must(0 <= verdict.backordered <= verdict.units <= UNITS_MAX, "a promise has at most the units asked for")

    def dead_letter(
        self, partition: int, key: bytes | None, value: bytes | None, headers: list[Header], done: Delivered
    ) -> None:
        self.letters.append((key, value, headers))
        self._in_flight.append((2, key, done))

    def state_records(self, records: Sequence[tuple[str, bytes | None]]) -> None:
        for key, value in records:
            if value is None:
                self.state.pop(key, None)
            else:
                _must(len(value) + len(key.encode()) < INPUT_BYTES_MAX, "a state record fits its topic")
                self.state[key] = open_envelope(value)[1]

    def land(self) -> None:
        """Report everything in flight as delivered."""
        while self._in_flight:
            in_flight, self._in_flight = self._in_flight, []
            for stream, key, done in in_flight:
                offset, self.ends[stream] = self.ends[stream], self.ends[stream] + 1
                done(None, Report(key, offset))  # type: ignore[arg-type]


class _Wire:
    """Implements `sinks.outlet.Wire` for one outlet."""

    def __init__(self, log: Log) -> None:
        self.failed, self.availability, self.dead_letter = log.failed, log.availability, log.dead_letter
        self.network, self.alert, self.verdicts = log.network, log.alert, log.verdicts
        self._log = log

    def state(self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered) -> None:
        self._log.state_records(records)
        self._log._in_flight.extend((0, key.encode(), done) for key, _ in records)


class World:
    """One partition, owned by one process after the other, with all that it has published."""

    def __init__(self) -> None:
        self.now_us = micros(START)
        self.log = Log()
        self.policies = Policies()
        self.taken = 0
        self._used_s = time.thread_time()
        self._generation = 0
        self._positions = [0] * len(KEYED_INPUTS)
        self._settings_position = 0
        topics = {topic.name: number for number, topic in enumerate(KEYED_INPUTS)}
        self._context = BalanceContext(
            self.policies, topics, PARTITIONS, FACTS_REMEMBERED, BalanceStats(), self._wall_us, _raise, traced=True
        )
        self._open({})

    def take(self, given: Input) -> str:
        """Let one record have its effect; what became of it, in words that are the same for alike inputs.

        Raises:
            Violation: something does not hold any more.
        """
        self.taken += 1
        self.now_us += given.after_us
        letters, self.log.statuses = len(self.log.letters), ""
        began = time.perf_counter()
        try:
            for change in self.policies.advance(self.now_us):
                self.outlet.look_again(*change)
            self._sweep()
            said = self._take_setting(given) if given.topic == SETTINGS else self._take_fact(given)
            self._publish()
            if self.taken % LAND_EACH == 0:
                self.log.land()
                self._end_holds()
            if self.taken % CUT_EACH == 0:
                self.outlet.cut(self.now_us / 1e6)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error
        self._check_time(time.perf_counter() - began)
        refused = said.startswith("refused")
        _must(len(self.log.letters) - letters == refused, "a refused record is one dead letter, another none")
        if refused:
            self._check_letter(given, *self.log.letters[-1])
        del self.log.letters[:]
        return said if refused else f"{said} {self.log.statuses}".rstrip()

    def restart(self) -> None:
        """Cut, and let a new process restore what stands in the state: it must know the same.

        Raises:
            Violation: it does not.
        """
        before = self._ledger
        try:
            self.log.land()
            self._end_holds()
            self._publish()
            self.outlet.release_waiting(self.now_us / 1e6, self.now_us)
            self.log.land()
            self.outlet.cut(self.now_us / 1e6, complete=True)
            self.log.land()
            ready = self.outlet.cut_ready()
            if ready is None:  # its answers are sent only now
                self.log.land()
                ready = self.outlet.cut_ready()
            _must(ready is not None and decode_metadata(ready[1]) is not None, "a cut ends in a commit")
            self._open(dict(self.log.state))
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"restart: {type(error).__name__}: {error}") from error
        after = self._ledger
        _must(sorted(before.keys()) == sorted(after.keys()), "a restart knows the same balances")
        for key in after.keys():  # noqa: SIM118  # a ledger is no mapping
            _must(before.view(key) == after.view(key), f"a restart finds the same numbers at {key!r}")
        _must(before.totals.by_outcome == after.totals.by_outcome, "a restart finds the same totals")
        _must(sum(after.totals.by_outcome) == sum(self._positions), "outcomes add up to the records read")

    # Inside

    def _check_time(self, took_s: float) -> None:
        """Compare with the limit; other programs may have had the processor, so what was really used decides."""
        if took_s > CPU_S_MAX:
            used_s = time.thread_time() - self._used_s
            _must(used_s < CPU_S_MAX, f"a record takes less than {CPU_S_MAX} s, this one up to {used_s:.1f}")
        if took_s > CPU_S_MAX or self.taken % LOOK_EACH == 0:
            self._used_s = time.thread_time()

    @property
    def _ledger(self) -> Ledger:
        return self.outlet.ledger

    def _wall_us(self) -> int:
        return self.now_us

    def _open(self, records: dict[str, bytes]) -> None:
        self._generation += 1
        self._step = KeepBalances(self._context)
        restored = Restored(PARTITION, self._generation, self._generation, records)
        ledger, portions = self._context.new_ledger(restored)
        for _ in portions:
            pass
        [opened] = self._changes([Opened(restored, ledger, tuple(self._positions))])
        assert opened.opened is not None
        self.outlet = Outlet(
            wire=_Wire(self.log),
            partition=PARTITION,
            epoch=self._generation,
            generation=self._generation,
            ledger=opened.opened[1],
            next_offsets=(self.log.ends[0], self.log.ends[1], self.log.ends[2]),
            shown=set(),
            tail_starts=(0, 0),
            known_letters=set(),
            on_published=lambda *_: None,
            routine_interval_s=0.25,
            stats=OutletStats(),
            with_headers=True,
            network_tail=Tail(self.log.ends[3]),
        )
        self._changes([CaughtUp(self._generation)])
        self.outlet.caught_up()
        self._sweep()

    def _changes(self, arrivals: list[Any]) -> list[Changes]:
        return list(self._step.on_batch(arrivals)[0])

    def _take_fact(self, given: Input) -> str:
        topic = given.topic
        message = Message(given, KEYED_INPUTS[topic].name, self._positions[topic])
        self._positions[topic] += 1
        before = self._ledger.totals.by_outcome.copy()
        [changes] = self._changes([Batch(self._generation, [message])])  # type: ignore[list-item]
        self.outlet.traces.remember(changes.traces)
        after = self._ledger.totals.by_outcome
        _must(sum(after) == sum(before) + 1, "every record has one outcome")
        self._ask_the_audit(given, message, changes.letters)
        if changes.letters:
            return self._refused(changes.letters)
        [outcome] = [n for n, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
        return f"accepted {_kind_in(given)} {OUTCOMES[outcome]}"

    def _ask_the_audit(self, given: Input, message: Message, letters: tuple[Letter, ...]) -> None:
        """The audit judges records by itself; wherever it has no doubt it must have judged alike."""
        kind, timestamp_ms = given.timestamp
        unjudged = (*_UNJUDGED, "in_future") if timestamp_ms < 0 else _UNJUDGED
        if kind == TIMESTAMP_NOT_AVAILABLE or any(letter.refusal.reason in unjudged for letter in letters):
            return
        record = LogRecord(message.topic(), PARTITION, message.offset(), timestamp_ms, given.key, given.value)
        judged = judge_fact(record, PARTITIONS)
        if judged.doubt is None:
            ours = letters[0].refusal if letters else None
            _must((judged.refusal is None) == (ours is None), f"the audit judges alike: {judged.refusal!r}, {ours!r}")

    def _take_setting(self, given: Input) -> str:
        """What `sources.settings_topic` does with a record."""
        message = Message(given, STOCK_SETTINGS.name, self._settings_position)
        self._settings_position += 1
        if given.value is None:
            return "accepted removal"
        kind, timestamp_ms = given.timestamp
        timestamp_us = None if kind == TIMESTAMP_NOT_AVAILABLE or timestamp_ms < 0 else timestamp_ms * 1000
        setting = decode_setting(given.key, given.value, timestamp_us)
        asked_ms = -1 if timestamp_us is None else timestamp_ms
        record = LogRecord(message.topic(), PARTITION, message.offset(), asked_ms, given.key, given.value)
        judged = judge_setting(record)
        if judged.doubt is None and not (isinstance(setting, Refusal) and setting.reason in _UNJUDGED):
            ours = setting if isinstance(setting, Refusal) else None
            _must((judged.refusal is None) == (ours is None), f"the audit judges alike: {judged.refusal!r}, {ours!r}")
        if isinstance(setting, Refusal):
            return self._refused((Letter(message, setting, SETTINGS),))  # type: ignore[arg-type]
        cause: Cause = (type_of(setting), setting.id, setting.source, micros(setting.occurred_at))
        if isinstance(setting, LocationSet):
            self.policies.set_location(setting)
            self.outlet.look_again(None, setting.location, cause)
        elif isinstance(setting, PolicySet):
            self.policies.set_policy(setting)
            self.outlet.look_again(None, None, cause)
        elif isinstance(setting, SourceAlive):
            self.policies.set_alive(setting)
            self.outlet.look_again(None, setting.location, cause)
        else:
            self.policies.remove_policy(setting.policy)  # type: ignore[attr-defined]
            self.outlet.look_again(None, None, cause)
        self._sweep()
        return f"accepted {type_of(setting)}"

    def _refused(self, letters: tuple[Letter, ...]) -> str:
        [letter] = letters
        _must(letter.refusal.reason in REASONS, f"{letter.refusal.reason} is on the list of reasons")
        _must(bool(letter.refusal.detail), "a refusal says why")
        self.outlet.refuse(letters, self.now_us)
        if letter.refusal.reason in _NAMES_THE_CULPRIT:
            return f"refused {letter.refusal.reason}"
        return f"refused {letter.refusal.reason} {' '.join(_WORDS.findall(_QUOTED.sub('', letter.refusal.detail))[:4])}"

    def _publish(self) -> None:
        self.outlet.publish(self.now_us / 1e6, self.now_us)
        self.outlet.publish_due(self.now_us / 1e6, self.now_us)

    def _sweep(self) -> None:
        while self.outlet.sweep():
            continue

    def _end_holds(self) -> None:
        due = self._step.notify_at()
        if due is not None and micros(due) <= self.now_us:
            self._step.on_notify()

    def _check_letter(self, given: Input, key: bytes | None, value: bytes | None, headers: list[Header]) -> None:
        """A dead letter fits, says where it came from and why, and holds what came in, whole if that can be."""
        own = dict(headers)
        for name in (REASON, DETAIL, TOPIC):
            _must(isinstance(own[name], bytes) and own[name] != b"", f"{name} is said")
        topic = STOCK_SETTINGS if given.topic == SETTINGS else KEYED_INPUTS[given.topic]
        offset = (self._settings_position if given.topic == SETTINGS else self._positions[given.topic]) - 1
        _must(
            origin(headers) == (topic.name, PARTITION, offset), "a letter says where it came from, whatever it is told"
        )
        size = len(key or b"") + len(value or b"") + RECORD_FRAME_BYTES
        size += sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers)
        _must(size <= DEAD_LETTER_BYTES_MAX, f"a letter fits its topic: {size}")
        whole = len(given.key or b"") + len(given.value or b"")
        whole += sum(len(name.encode()) + len(text or b"") + 10 for name, text in given.headers or ())
        if whole <= INPUT_BYTES_MAX:
            _must((key, value) == (given.key, given.value), "key and value are byte for byte what came in")
            given_headers = given.headers or []
            _must(headers[: len(given_headers)] == given_headers, "so are the headers")
            _must(all(name != TRUNCATED for name, _ in headers[len(given_headers) :]), "and nothing says otherwise")


def _kind_in(given: Input) -> str:
    """The type of an accepted message; judged by a timestamp long after it."""
    if KEYED_INPUTS[given.topic] is STOCK_ITEMS:
        return "item"
    return type_of(decode(given.topic, given.value, 2**70))  # type: ignore[arg-type]


def _goes_on(headers: list[Header]) -> bool:
    """Whether the trace context in an output's headers, if any, is a valid one and whole."""
    found = [header for header in headers if header[0] in (TRACEPARENT, TRACESTATE)]
    return not found or trace_in(found) == found


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise Violation(rule)


def _raise(error: BaseException) -> NoReturn:
    raise error
