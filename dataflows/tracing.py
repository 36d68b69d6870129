"""What is noted of a batch in which somebody follows an event; who makes spans of it is wired from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from schemas.traces import Trace

LINKS_MAX = 32  # Of a batch. Each costs about as much CPU as an event, with its export.


@dataclass(frozen=True)
class TracedBatch:
    """A batch with at least one event whose trace is recorded by whoever began it.

    `topics`: the names on the broker of the inputs that these events came from. `traced`: how many of these there
    were; `traces` has the first of them, `LINKS_MAX` at most. `refused`: messages that went to the dead letters.
    """

    began_us: int
    messages: int
    refused: int
    topics: tuple[str, ...]
    traced: int
    traces: tuple[Trace, ...]


class Tracing(Protocol):
    """Whoever tells a collector of batches."""

    def processed(self, partition: int, batch: TracedBatch, ended_us: int) -> None:
        """A batch has been applied and what it changed was handed to the producer; never blocks, never raises."""
