"""Which trace context goes on with which record: that of the event which the record names as its cause."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.dead_letters import Header
from schemas.traces import Trace
from stock.balance import Cause

TRACES_MAX = 5_000  # Of a generation; there are two. Far behind, what a record waits for may pass by later than those.


class Traces:
    """The trace contexts of a partition's newest events, by source and id. The oldest are forgotten, unused or not:
    an event may lead to many records, now or a little later, or to none.
    """

    def __init__(self) -> None:
        self._newer: dict[tuple[str, str], Trace] = {}
        self._older: dict[tuple[str, str], Trace] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._newer)

    def remember(self, traces: Mapping[tuple[str, str], Trace]) -> None:
        """Keep what a batch of events has brought."""
        if len(self._newer) >= TRACES_MAX:
            self._newer, self._older = {}, self._newer
        self._newer.update(traces)

    def of_event(self, source: str, id: str) -> list[Header]:
        """The headers for a record that answers an event; empty if it brought no context."""
        key = source, id
        return [*(self._newer.get(key) or self._older.get(key) or ())]

    def of(self, cause: Cause | None) -> list[Header]:
        """The headers for a record with this cause."""
        return [] if cause is None else self.of_event(cause[2], cause[1])
