"""One record the demo will send, planned in seconds after the start; never a clock, never a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from schemas.topics import Topic
from stock.events import Message

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Planned:
    """A record with its times in real seconds after the start of the sending.

    `happened_at` becomes `occurred_at`; `send_at` is when the record goes out, never earlier. `moments` are the
    message's other times (`expires_at`, `voided_at`), planned in the same way. `raw` replaces the message where
    bytes are needed that no typed message can give (None is a null value then); `refused` is the reason for which
    the pipeline has to refuse the record.
    """

    send_at: float
    happened_at: float
    topic: Topic
    key: str
    kind: type[Message] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    raw: bytes | None = None
    refused: str | None = None
    foreign_partition: bool = False

    @property
    def type(self) -> str:
        """The wire type, or `refused` for bytes that are no message."""
        return "refused" if self.kind is None else str(self.kind.__struct_config__.tag)

    def message(self, start: datetime) -> Message:
        """The typed message, its times counted from `start`.

        Raises:
            ValueError: this record is raw bytes.
        """
        if self.kind is None:
            raise ValueError("a raw record has no typed message")
        times: dict[str, Any] = {name: start + timedelta(seconds=after) for name, after in self.moments.items()}
        return self.kind(**self.fields, **times, occurred_at=start + timedelta(seconds=self.happened_at))

    def value(self, start: datetime) -> bytes | None:
        """The record's value: JSON without absent fields, or the raw bytes (None is a null value)."""
        if self.kind is None:
            return self.raw
        fields = msgspec.to_builtins(self.message(start), builtin_types=(datetime,))
        return _encoder.encode({name: value for name, value in fields.items() if value is not None})
