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


def headers_for(refusal: Refusal, topic: str, partition: int, offset: int, at: datetime) -> list[Header]:
    """The headers that a dead letter adds to the record's own; numbers as decimal text."""
    return [
        (REASON, refusal.reason.encode()),
        (DETAIL, refusal.detail[:DETAIL_LENGTH_MAX].encode(errors="replace")),
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
        (AT, at.isoformat(timespec="milliseconds").encode()),
    ]


def fitting(
    key: bytes | None, value: bytes | None, original: Sequence[Header], ours: Sequence[Header]
) -> tuple[bytes | None, bytes | None, list[Header]]:
    """Key, value and headers, cut down only if a decompressed giant would not fit the dead-letter topic.

    Byte for byte whatever the input topic's own limit admits uncompressed. Else the value's beginning, then the
    key's, then without the record's own headers, with the whole length in one more header.
    """
    whole = len(key or b"") + len(value or b"") + _size(original)
    room = DEAD_LETTER_BYTES_MAX - OVERHEAD_BYTES - _size(ours)
    if whole <= room:
        return key, value, [*original, *ours]
    kept = list(original) if _size(original) <= room // 4 else []
    room -= _size(kept)
    short_key = None if key is None else key[: room // 2]
    short_value = None if value is None else value[: room - len(short_key or b"")]
    return short_key, short_value, [*kept, *ours, (TRUNCATED, str(whole).encode())]


def _size(headers: Sequence[Header]) -> int:
    return sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers)


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
