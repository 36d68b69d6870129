"""What was published: the newest record of each key on the topic, and the view; never judged here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import polars as pl
import redis

from operations.audit.log import AuditImpossible, LogRecord, Progress
from operations.audit.report import Findings
from schemas import records, topics

VIEW_PREFIX = b"availability:"
SCAN_KEYS = 1_000
PIPELINE_KEYS = 500  # Hashes per round trip.
REDIS_TIMEOUT_S = 30.0

# What is compared, field by field; times as microseconds.
COMPARED_FIELDS = tuple(
    name
    for name in records.Availability.__struct_fields__
    if name not in records.VOLATILE_FIELDS and name not in ("sku", "location")
)
_TEXT_FIELDS = frozenset({"status", "reason", "status_ship", "status_pickup", "policy"})
PUBLISHED_SCHEMA: dict[str, pl.DataType] = {
    "sku": pl.String(),
    "location": pl.String(),
    **{name: pl.String() if name in _TEXT_FIELDS else pl.Int64() for name in COMPARED_FIELDS},
}

Key = tuple[str, str]


class _Version(msgspec.Struct, gc=False):
    version: int


_version_decoder = msgspec.json.Decoder(_Version)


class Entry(NamedTuple):
    """The newest record of one key; its value is empty once the key is delisted."""

    version: int
    value: bytes


class Published:
    """The availability topic as a reader keeps it: the newest version per key; null removes the key."""

    def __init__(self, partitions: int, findings: Findings) -> None:
        self._partitions = partitions
        self._findings = findings
        self._newest: dict[Key, Entry] = {}
        self._stale: dict[Key, str] = {}

    def add(self, batch: Iterable[LogRecord]) -> None:
        """Records in the order of their partition."""
        for record in batch:
            key = self._key(record)
            if key is None:
                continue
            known = self._newest.get(key)
            if record.value is None:
                # Versions go on after a delisting, so the last one is remembered.
                self._newest[key] = Entry(-1 if known is None else known.version, b"")
                self._stale.pop(key, None)
                continue
            try:
                version = _version_decoder.decode(record.value).version
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._findings.add("availability topic", f"{_where(record)} is not a record: {error}")
                continue
            if known is None or version > known.version:
                self._newest[key] = Entry(version, record.value)
                self._stale.pop(key, None)
            elif version < known.version or record.value != known.value:
                self._stale[key] = f"{_where(record)} has version {version} after {known.version}"

    def entries(self) -> dict[Key, Entry]:
        """The newest record of every key that is not delisted."""
        return {key: entry for key, entry in self._newest.items() if entry.value}

    def report_stale(self) -> None:
        """Adds a difference for each key of which an older version is the last word of the log."""
        for (sku, location), text in self._stale.items():
            self._findings.add("availability topic", f"{sku}|{location} ends with an older version: {text}")

    def columns(self) -> pl.DataFrame:
        """The newest records as columns, in `PUBLISHED_SCHEMA`."""
        rows = []
        for (sku, location), entry in self.entries().items():
            try:
                record = records.decode_availability(entry.value)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._findings.add("availability topic", f"{sku}|{location} is not a record: {error}")
                continue
            if (record.sku, record.location) != (sku, location):
                self._findings.add("availability topic", f"{sku}|{location} holds {record.sku}|{record.location}")
            rows.append((sku, location, *(_plain(record, name) for name in COMPARED_FIELDS)))
        return pl.DataFrame(rows, schema=PUBLISHED_SCHEMA, orient="row")

    def _key(self, record: LogRecord) -> Key | None:
        """The balance's key, if it is one and stands in its SKU's partition."""
        text = (record.key or b"").decode(errors="replace")
        sku, location = records.split_availability_key(text)
        if not sku or not location:
            self._findings.add("availability topic", f"{_where(record)} has the key {text!r}")
            return None
        if topics.partition_of(sku, self._partitions) != record.partition:
            self._findings.add("availability topic", f"{_where(record)} is in a foreign partition: {text}")
            return None
        return sku, location


def read_view(redis_url: str, progress: Progress | None = None, prefix: bytes = VIEW_PREFIX) -> dict[Key, bytes]:
    """Every field of every `<prefix><sku>` hash, as bytes.

    Raises:
        AuditImpossible: Redis cannot be reached or read.
    """
    found: dict[Key, bytes] = {}
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=REDIS_TIMEOUT_S) as client:
            names = sorted(set(client.scan_iter(match=prefix + b"*", count=SCAN_KEYS)))
            for begin in range(0, len(names), PIPELINE_KEYS):
                chunk = names[begin : begin + PIPELINE_KEYS]
                pipeline = client.pipeline(transaction=False)
                for name in chunk:
                    pipeline.hgetall(name)
                for name, fields in zip(chunk, pipeline.execute(), strict=True):
                    sku = name.removeprefix(prefix).decode(errors="replace")
                    for location, value in fields.items():
                        found[sku, location.decode(errors="replace")] = value
                if progress is not None:
                    progress("redis", min(begin + PIPELINE_KEYS, len(names)), len(names))
    except (redis.RedisError, ValueError) as error:
        raise AuditImpossible(f"cannot read the Redis view: {error}") from error
    return found


def _plain(record: records.Availability, name: str) -> object:
    if name == "next_inbound_at":
        return None if record.next_inbound_at is None else records.micros(record.next_inbound_at)
    return getattr(record, name)


def _where(record: LogRecord) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
