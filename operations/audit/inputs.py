"""The input side of the audit: which records count, which were refused, and if rightly; never their effect.

The log of dead letters says what the pipeline refused. A record is left out of the recomputation exactly if
it stands there, and every disagreement with the audit's own judgement is a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import polars as pl

from operations.audit.answers import Answers, Granted
from operations.audit.facts import FACT_SCHEMA, TOPIC_ORDER, Judged, frame, judge_fact, judge_setting, row_of
from operations.audit.log import Extents, LogRecord
from operations.audit.report import Findings
from schemas import topics
from stock import events

# Refusals that depend on limits of the running program, which no reader of the log can know.
UNJUDGED_REASONS = frozenset({"limit", "too_large"})
TOO_LARGE_BYTES_MIN = 16 * 1024  # No sound limit refuses less; a fact has a few hundred bytes.

Place = tuple[str, int, int]  # registered topic name, partition, offset


class DeadLetters:
    """What the pipeline refused, by where it came from; a repeated letter is the same letter."""

    def __init__(self, topic_name: Callable[[str], str], findings: Findings) -> None:
        self._names = {topic_name(topic.name): topic.name for topic in _INPUTS}
        self._findings = findings
        self._letters: dict[Place, tuple[str, bytes | None, bytes | None]] = {}
        self._taken: set[Place] = set()

    def add(self, records: Iterable[LogRecord]) -> None:
        """Letters in the order of their log; headers must have been read."""
        for record in records:
            headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
            place = self._place(headers)
            if place is None:
                self._findings.add(
                    "dead letters",
                    f"{_where(record)} does not name an input record: {_short(headers)}",
                )
                continue
            self._letters.setdefault(place, (headers.get("dead-letter.reason", ""), record.key, record.value))

    def _place(self, headers: dict[str, str]) -> Place | None:
        topic = self._names.get(headers.get("dead-letter.topic", ""))
        partition, offset = headers.get("dead-letter.partition", ""), headers.get("dead-letter.offset", "")
        if topic is None or not (partition.isascii() and partition.isdigit() and offset.isdigit()):
            return None
        return topic, int(partition), int(offset)

    def take(self, record: LogRecord) -> str | None:
        """The reason for which a record was refused, or None; what was kept of it must be what was sent."""
        place = (record.topic, record.partition, record.offset)
        letter = self._letters.get(place)
        if letter is None:
            return None
        self._taken.add(place)
        reason, key, value = letter
        if (key, value) != (record.key, record.value):
            self._findings.add("dead letters", f"the letter about {_where(record)} changed its key or value")
        return reason

    def counts(self, extents: Extents) -> Counter[int]:
        """Refused records of the keyed inputs by partition, as far back as the log of their topic goes."""
        return Counter(
            partition
            for topic, partition, offset in self._letters
            if topic in TOPIC_ORDER
            and (extent := extents[topic].get(partition)) is not None
            and extent.start <= offset < extent.end
        )

    def report_unmatched(self, extents: Extents) -> None:
        """Adds a difference for each letter about a record that its log should have, but has not."""
        for topic, partition, offset in self._letters.keys() - self._taken:
            extent = extents[topic].get(partition)
            # A compacted log loses overwritten records, a log with retention its oldest.
            if extent is None or offset >= extent.end or (topic not in _COMPACTED and offset >= extent.start):
                self._findings.add(
                    "dead letters", f"a letter is about {topic}[{partition}]@{offset}, which is not there"
                )


class Inputs:
    """Collects the accepted input records, topic after topic."""

    def __init__(self, partitions: int, dead: DeadLetters, answers: Answers, findings: Findings) -> None:
        self._partitions = partitions
        self._dead = dead
        self._answers = answers
        self._findings = findings
        self._frames: list[pl.DataFrame] = []
        self._items: dict[str, tuple[int, events.ItemSet | None]] = {}
        self.items_accepted: Counter[int] = Counter()  # by partition
        self.items_read: Counter[int] = Counter()
        self._settings: dict[str, tuple[tuple[int, int, int], events.Message | None]] = {}
        self.facts_read = 0
        self.settings_read = 0

    def add_facts(self, records: Iterable[LogRecord]) -> None:
        """Records of the keyed topics."""
        rows = []
        for record in records:
            self.facts_read += 1
            judged = judge_fact(record, self._partitions)
            if record.topic == topics.STOCK_ITEMS.name:
                self._add_item(record, judged)
            elif self._accepts(record, judged) and judged.message is not None:
                rows.append(row_of(record, judged.message, self._granted(record, judged.message)))
        if rows:
            self._frames.append(frame(rows))

    def _add_item(self, record: LogRecord, judged: Judged) -> None:
        """Of all records of one SKU, which stand in one partition, the last one holds."""
        self.items_read[record.partition] += 1
        if not self._accepts(record, judged):
            return
        self.items_accepted[record.partition] += 1
        sku = (record.key or b"").decode()
        assert judged.message is None or isinstance(judged.message, events.ItemSet)
        if sku not in self._items or record.offset > self._items[sku][0]:
            self._items[sku] = (record.offset, judged.message)

    def add_settings(self, records: Iterable[LogRecord]) -> None:
        """Records of the settings topic; the newest of each key holds, and a refused one ends what stood there."""
        for record in records:
            self.settings_read += 1
            judged = judge_setting(record)
            message = judged.message if self._accepts(record, judged) else None
            key = (record.key or b"").decode(errors="replace")
            place = (record.timestamp_ms, record.partition, record.offset)
            known = self._settings.get(key)
            # One key stands in one partition as a rule, where the offset decides; else the time does.
            if known is None or (place[1:] > known[0][1:] if known[0][1] == place[1] else place > known[0]):
                self._settings[key] = (place, message)

    def facts(self) -> pl.DataFrame:
        """All accepted facts as columns."""
        return pl.concat(self._frames) if self._frames else pl.DataFrame(schema=FACT_SCHEMA)

    def items(self) -> dict[str, events.ItemSet | None]:
        """By SKU, the item that holds; None where it was removed."""
        return {sku: item for sku, (_, item) in self._items.items()}

    def settings(self) -> dict[str, events.Message]:
        """By Kafka key, the settings that hold."""
        return {key: message for key, (_, message) in self._settings.items() if message is not None}

    def _granted(self, record: LogRecord, message: events.Message) -> Granted | None:
        if not isinstance(message, events.ReservationRequested):
            return None
        return self._answers.to(message, _where(record))

    def _accepts(self, record: LogRecord, judged: Judged) -> bool:
        """Whether the record counts; adds a difference where the pipeline and the audit disagree about it."""
        reason = self._dead.take(record)
        if reason is None:
            if judged.refusal is not None:
                self._findings.add("refusals", f"{_where(record)} was not refused: {judged.refusal}")
            return judged.refusal is None
        if judged.refusal is None and judged.doubt is None and not _unjudged(reason, record):
            self._findings.add("refusals", f"{_where(record)} was refused as {reason!r}, but it is valid")
        return False


def _unjudged(reason: str, record: LogRecord) -> bool:
    if reason == "too_large":
        return len(record.value or b"") >= TOO_LARGE_BYTES_MIN
    return reason in UNJUDGED_REASONS


def _where(record: LogRecord) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _short(headers: dict[str, str]) -> str:
    return ", ".join(f"{name}={text[:40]}" for name, text in headers.items()) or "no headers"


_INPUTS = (*topics.KEYED_INPUTS, topics.STOCK_SETTINGS)
_COMPACTED = frozenset(topic.name for topic in _INPUTS if topic.cleanup == "compact")
