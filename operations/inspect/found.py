"""What was read about one SKU, taken apart: state that counts, newest record, settings, inputs; no explanation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from operations.audit.log import LogRecord
from schemas.events import Refusal, decode, decode_setting
from schemas.records import Availability, decode_availability
from schemas.state import CLAIM_KEY, JOURNAL_PREFIX, OUTCOMES_KEY, decode_claim, open_envelope
from schemas.topics import KEYED_INPUTS
from stock.alerts import ALERT_PREFIX, parts_of
from stock.events import LocationSet, PolicyRemoved, PolicySet, SourceAlive, StockFact
from stock.ledger import OUTCOMES
from stock.policies import Policies
from stock.recent import Chunk

_INPUT = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}


@dataclass(frozen=True)
class Told:
    """One input record of the SKU: what it says, or why it cannot count."""

    record: LogRecord
    event: StockFact | Refusal
    location: str | None


@dataclass
class Found:
    """Collects what the topics hold of a SKU, which belongs to this partition of so many."""

    sku: str
    partition: int
    partitions: int
    state: dict[str, bytes] = field(default_factory=dict)
    published: dict[str, Availability] = field(default_factory=dict)  # by location
    policies: Policies = field(default_factory=Policies)
    policy_sets: dict[str, PolicySet] = field(default_factory=dict)
    locations: dict[str, LocationSet] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    letters: list[tuple[LogRecord, dict[str, str]]] = field(default_factory=list)
    looked_at: list[tuple[str, int, int, int]] = field(default_factory=list)  # topic, log's start, our start, end
    outcomes: dict[tuple[int, int], str] = field(default_factory=dict)  # by topic and offset, as far as remembered
    _newest_claim: int = 0

    def add_state(self, records: Iterable[LogRecord]) -> None:
        """Records of `stock-state.v1`, in the order of the log.

        Raises:
            UnknownFormat: a newer program wrote one of them.
        """
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            if record.value is None:
                self.state.pop(key, None)
            elif key == CLAIM_KEY:
                self._newest_claim = max(self._newest_claim, decode_claim(record.value).generation)
            elif key.startswith(f"{self.sku}|") or key == OUTCOMES_KEY or self._is_alert_of_interest(key):
                generation, packed = open_envelope(record.value)
                if generation >= self._newest_claim:  # else a fenced writer's late record
                    self.state[key] = packed
            elif key.startswith(JOURNAL_PREFIX):
                self._add_journal(open_envelope(record.value)[1])

    def _is_alert_of_interest(self, key: str) -> bool:
        """Whether a state key is of an alert about the SKU, or about a location that nobody described."""
        if not key.startswith(ALERT_PREFIX):
            return False
        about = parts_of(key.removeprefix(ALERT_PREFIX))
        return about.sku == self.sku or about.kind == "unknown_location"

    def _add_journal(self, packed: bytes) -> None:
        for key, topic, outcome, offset, *_ in msgspec.msgpack.decode(packed, type=Chunk).rows:
            if key.startswith(f"{self.sku}|"):
                self.outcomes[topic, offset] = OUTCOMES[outcome]

    def add_published(self, records: Iterable[LogRecord]) -> None:
        """Records of `availability.v1`; the highest version holds, a null value means delisted."""
        for record in records:
            sku, _, location = (record.key or b"").decode(errors="replace").partition("|")
            if sku != self.sku:
                continue
            if record.value is None:
                self.published.pop(location, None)
                continue
            try:
                read = decode_availability(record.value)
            except msgspec.DecodeError:
                continue  # no record of ours: the audit tells about it, the pipeline answers it
            known = self.published.get(location)
            if known is None or read.version > known.version:
                self.published[location] = read

    def add_settings(self, records: Iterable[LogRecord]) -> None:
        """Records of the settings topic; a refused one or a null ends what stood under its key."""
        for record in records:
            key = (record.key or b"").decode(errors="replace")
            timestamp_us = None if record.timestamp_ms < 0 else record.timestamp_ms * 1_000
            setting = None if record.value is None else decode_setting(record.key, record.value, timestamp_us)
            kind, _, name = key.partition(":")
            if isinstance(setting, LocationSet):
                self.policies.set_location(setting)
                self.locations[setting.location] = setting
            elif isinstance(setting, PolicySet):
                self.policies.set_policy(setting)
                self.policy_sets[setting.policy] = setting
            elif isinstance(setting, SourceAlive):
                self.policies.set_alive(setting)
            elif kind == "alive":
                self.policies.remove_alive(*_location_and_feed(name))
            elif kind == "location":
                self.policies.remove_location(name)
                self.locations.pop(name, None)
            elif kind == "policy" or isinstance(setting, PolicyRemoved):
                self.policies.remove_policy(name)
                self.policy_sets.pop(name, None)

    def note_extent(self, topic: str, log_start: int, begin: int, end: int) -> None:
        """How much of an input was looked at."""
        self.looked_at.append((topic, log_start, begin, end))

    def add_inputs(self, records: Iterable[LogRecord]) -> None:
        """Records of a keyed input; those that name another SKU are passed over."""
        for record in records:
            own_key = record.key == self.sku.encode()
            raw = _raw(record.value) if own_key or self.sku.encode() in (record.value or b"") else None
            if not own_key and (raw is None or raw.get("sku") != self.sku):
                continue
            event = decode(_INPUT[record.topic], record.value, record.timestamp_ms * 1_000)
            location = (raw or {}).get("location")
            self.told.append(Told(record, event, location if isinstance(location, str) else None))

    def add_letters(self, records: Iterable[LogRecord]) -> None:
        """Dead letters under the SKU's key."""
        for record in records:
            if record.key == self.sku.encode():
                headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
                self.letters.append((record, headers))

    def letters_by_reason(self) -> dict[str, int]:
        """How many letters there are of each reason."""
        return dict(Counter(headers.get("dead-letter.reason", "?") for _, headers in self.letters))


def _location_and_feed(name: str) -> tuple[str, str]:
    """What the key of a heartbeat names behind `alive:`."""
    location, _, feed = name.rpartition(":")
    return location, feed


def _raw(value: bytes | None) -> dict[str, Any] | None:
    """The object in a value that may be anything."""
    try:
        raw = msgspec.json.decode(value or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None
