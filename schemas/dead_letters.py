"""Dead letters: what a refused record carries so that nothing is lost and it can be replayed; never who refuses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from schemas.events import DETAIL_LENGTH_MAX, Refusal
from schemas.topics import DEAD_LETTER_BYTES_MAX

# Stored. Changing these needs a migration.
REASON = "dead-letter.reason"
DETAIL = "dead-letter.detail"
TOPIC = "dead-letter.topic"
PARTITION = "dead-letter.partition"
OFFSET = "dead-letter.offset"
AT = "dead-letter.at"
TRUNCATED = "dead-letter.truncated"

OVERHEAD_BYTES = 2_048  # Our own headers and Kafka's framing of one record.

Header = tuple[str, Any]  # the client gives bytes, text or None


def headers_for(
    refusal: Refusal, topic: str, partition: int, offset: int, at: datetime, original: Sequence[Header]
) -> list[Header]:
    """The record's own headers, untouched, then ours; numbers as decimal text."""
    return [
        *original,
        (REASON, refusal.reason.encode()),
        (DETAIL, refusal.detail[:DETAIL_LENGTH_MAX].encode(errors="replace")),
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
        (AT, at.isoformat(timespec="milliseconds").encode()),
    ]


def fitting(key: bytes | None, value: bytes | None, headers: list[Header]) -> tuple[bytes | None, list[Header]]:
    """The value and headers, cut down only if a decompressed giant would not fit the dead-letter topic.

    Byte for byte whatever the input topic's own limit admits uncompressed; else the value's beginning, with its
    whole length in one more header.
    """
    size = len(key or b"") + sum(len(name) + len(text or b"") + 10 for name, text in headers) + OVERHEAD_BYTES
    room = DEAD_LETTER_BYTES_MAX - size
    if value is None or len(value) <= room:
        return value, headers
    return value[: max(0, room)], [*headers, (TRUNCATED, str(len(value)).encode())]


def origin(headers: Sequence[Header] | None) -> tuple[str, int, int] | None:
    """Topic, partition and offset that a dead letter came from, or None if the headers do not say."""
    found = dict(headers or ())
    try:
        topic, partition, offset = found[TOPIC], found[PARTITION], found[OFFSET]
        if topic is None or partition is None or offset is None:
            return None
        return topic.decode(), int(partition), int(offset)
    except (KeyError, ValueError):
        return None
