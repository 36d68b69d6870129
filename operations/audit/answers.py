"""What was promised to requests, as their verdicts say; the audit takes it as given and checks that it was kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from operations.audit.log import LogRecord
from operations.audit.report import Findings
from schemas.records import ReservationVerdict
from stock import events

_decoder = msgspec.json.Decoder(ReservationVerdict)


Identity = tuple[str, str, str]  # SKU, source, id
_Name = tuple[str, str, "str | None", str]  # SKU, reservation, line, id: what an answer says of its request


class Granted(NamedTuple):
    """Units promised at a location; 0 units where the request was rejected."""

    location: str
    units: int
    verdict: str


class Answers:
    """The answers of the log, by request.

    An answer names no source. Requests of several sources under one id, for one reservation and line, are answered in
    the order of their log, so the first answer belongs to the first of them.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._asked: dict[_Name, int] = {}  # different requests, by what an answer says of them
        self._seen: set[Identity] = set()
        self._unanswered: dict[Identity, str] = {}
        self._answers: dict[_Name, list[ReservationVerdict]] = {}

    def add(self, records: Iterable[LogRecord]) -> None:
        """Verdicts in the order of their log; repeated ones say the same and are one."""
        for record in records:
            try:
                verdict = _decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                place = f"{record.topic}[{record.partition}]@{record.offset}"
                self._findings.add("verdicts", f"{place} is not a verdict: {error}")
                continue
            told = self._answers.setdefault((verdict.sku, verdict.reservation, verdict.line, verdict.request_id), [])
            if verdict not in told:
                told.append(verdict)

    def to(self, request: events.ReservationRequested, place: str) -> Granted | None:
        """What a request was granted, or None if it has no answer or is a repeat; asked in the order of their log."""
        identity = request.sku, request.source, request.id
        name = request.sku, request.reservation, request.line, request.id
        if identity in self._seen:
            return None
        self._seen.add(identity)
        asked = self._asked[name] = self._asked.get(name, 0) + 1
        told = self._answers.get(name)
        if not told:
            self._unanswered[identity] = place
            return None
        verdict = told[min(asked, len(told)) - 1]
        return Granted(verdict.location, verdict.units, verdict.verdict)

    def report_contradictions(self) -> None:
        """Adds a difference for each request that was told more than one thing."""
        for name, told in self._answers.items():
            if len(told) > max(1, self._asked.get(name, 0)):
                asked = " ".join(part for part in name if part)
                self._findings.add("verdicts", f"{asked} was answered twice, and not alike")

    def report_unanswered(self, requests: Collection[Identity]) -> None:
        """Adds a difference for each of these requests, none of them a repeat of anything, that has no answer."""
        for identity, place in self._unanswered.items():
            if identity in requests:
                self._findings.add("verdicts", f"{place} asks for a reservation and has no answer")
