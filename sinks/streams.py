"""One output partition that only we write: what was sent, what is acknowledged, and whether somebody else wrote too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message

Delivered = Callable[["KafkaError | None", Message], None]


@dataclass
class Stream:
    """One output partition that only we write: what was sent, what is acknowledged, where it must continue."""

    next_offset: int
    sent: int = 0
    acked: int = 0
    gap_from: int | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self.sent == self.acked

    def acknowledge(self, offset: int | None) -> None:
        """Note one acknowledged offset; anything but the next one means that somebody else wrote."""
        self.acked += 1
        if offset is None or offset != self.next_offset:
            self.suspect()
        if offset is not None:
            self.next_offset = offset + 1

    def suspect(self) -> None:
        """Somebody else wrote at or after the offset that should be next."""
        if self.gap_from is None:
            self.gap_from = self.next_offset
