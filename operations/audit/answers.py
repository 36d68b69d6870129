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


class Granted(NamedTuple):
    """Units promised at a location; 0 units where the request was rejected."""

    location: str
    units: int


class Answers:
    """The answers of the log, by request."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._asked: set[Identity] = set()
        self._unanswered: dict[Identity, str] = {}
        self._answers: dict[tuple[str, str, str | None, str], ReservationVerdict] = {}

    def add(self, records: Iterable[LogRecord]) -> None:
        """Verdicts in the order of their log; a repeated one must say the same."""
        for record in records:
            place = f"{record.topic}[{record.partition}]@{record.offset}"
            try:
                verdict = _decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._findings.add("verdicts", f"{place} is not a verdict: {error}")
                continue
            name = verdict.sku, verdict.reservation, verdict.line, verdict.request_id
            first = self._answers.setdefault(name, verdict)
            if first != verdict:
                self._findings.add("verdicts", f"{place} contradicts an earlier answer to the same request")

    def to(self, request: events.ReservationRequested, place: str) -> Granted | None:
        """What a request was granted, or None if it has no answer or is a repeat."""
        identity = request.sku, request.source, request.id
        if identity in self._asked:
            return None
        self._asked.add(identity)
        verdict = self._answers.get((request.sku, request.reservation, request.line, request.id))
        if verdict is None:
            self._unanswered[identity] = place
            return None
        if verdict.units > request.units or (verdict.units < request.units and verdict.verdict == "accepted"):
            self._findings.add("verdicts", f"{place} asks for {request.units} and was granted {verdict.units}")
        return Granted(verdict.location, verdict.units)

    def report_unanswered(self, requests: Collection[Identity]) -> None:
        """Adds a difference for each of these requests, none of them a repeat of anything, that has no answer."""
        for identity, place in self._unanswered.items():
            if identity in requests:
                self._findings.add("verdicts", f"{place} asks for a reservation and has no answer")
