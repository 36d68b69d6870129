"""The one registry of topics: names, keys, cleanup and settings; never a client, never a topic string elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

HOUR_MS = 3_600_000
INPUT_BYTES_MAX = 1_048_588  # Kafka's own default for max.message.bytes, set so that dead letters can be sized.
DEAD_LETTER_BYTES_MAX = INPUT_BYTES_MAX + 65_536  # The largest input plus the headers that say why.
STATE_COMPACTION_LAG_MS_MIN = HOUR_MS  # A newer owner needs this long to repair what a fenced writer left.

Cleanup = Literal["delete", "compact"]
Role = Literal["input", "settings", "output", "state"]


@dataclass(frozen=True)
class Topic:
    """One topic: its name without prefix, how it is cleaned, who writes it, and its broker settings."""

    name: str
    cleanup: Cleanup
    role: Role
    settings: dict[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, str]:
        """Broker settings of this topic, cleanup policy included."""
        return {"cleanup.policy": self.cleanup, **self.settings}


# A compacted view is read from its start by new consumers: roll segments so that the cleaner may work, bound how
# long an overwritten value stays, and keep deletes long enough for a slow first read.
_COMPACTED_VIEW = {
    "segment.ms": str(HOUR_MS),
    "max.compaction.lag.ms": str(6 * HOUR_MS),
    "delete.retention.ms": str(7 * 24 * HOUR_MS),
    "min.cleanable.dirty.ratio": "0.2",
}
_SEVEN_DAYS = {"retention.ms": str(7 * 24 * HOUR_MS), "max.message.bytes": str(INPUT_BYTES_MAX)}

# Stored. Changing any name needs a migration.
POS_SALES = Topic("pos-sales.v1", "delete", "input", _SEVEN_DAYS)
WMS_MOVEMENTS = Topic("wms-movements.v1", "delete", "input", _SEVEN_DAYS)
ORDER_RESERVATIONS = Topic("order-reservations.v1", "delete", "input", _SEVEN_DAYS)
STOCK_ITEMS = Topic(
    "stock-items.v1", "compact", "input", {**_COMPACTED_VIEW, "max.message.bytes": str(INPUT_BYTES_MAX)}
)
STOCK_SETTINGS = Topic(
    "stock-settings.v1", "compact", "settings", {**_COMPACTED_VIEW, "max.message.bytes": str(INPUT_BYTES_MAX)}
)
AVAILABILITY = Topic("availability.v1", "compact", "output", _COMPACTED_VIEW)
NETWORK_AVAILABILITY = Topic("network-availability.v1", "compact", "output", _COMPACTED_VIEW)
RESERVATION_VERDICTS = Topic("reservation-verdicts.v1", "delete", "output", {"retention.ms": str(7 * 24 * HOUR_MS)})
STOCK_ALERTS = Topic("stock-alerts.v1", "delete", "output", {"retention.ms": str(30 * 24 * HOUR_MS)})
DEAD_LETTERS = Topic(
    "dead-letters.v1",
    "delete",
    "output",
    {"retention.ms": str(30 * 24 * HOUR_MS), "max.message.bytes": str(DEAD_LETTER_BYTES_MAX)},
)
STOCK_STATE = Topic(
    "stock-state.v1",
    "compact",
    "state",
    {
        "segment.ms": str(HOUR_MS),
        "min.compaction.lag.ms": str(STATE_COMPACTION_LAG_MS_MIN),
        "max.compaction.lag.ms": str(6 * HOUR_MS),
        "delete.retention.ms": str(7 * 24 * HOUR_MS),
        "min.cleanable.dirty.ratio": "0.2",
        "max.message.bytes": str(2 * INPUT_BYTES_MAX),
    },
)

# The order of the keyed inputs is stored in state records: offsets are kept by position in this list.
KEYED_INPUTS = (POS_SALES, WMS_MOVEMENTS, ORDER_RESERVATIONS, STOCK_ITEMS)
TOPICS = (
    *KEYED_INPUTS,
    STOCK_SETTINGS,
    AVAILABILITY,
    NETWORK_AVAILABILITY,
    RESERVATION_VERDICTS,
    STOCK_ALERTS,
    DEAD_LETTERS,
    STOCK_STATE,
)


def partition_of(sku: str, partitions: int) -> int:
    """The partition a SKU belongs to: Java's default partitioner over the UTF-8 bytes of the SKU."""
    return (murmur2(sku.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 hash as an unsigned 32-bit number.

    Source: org.apache.kafka.common.utils.Utils.murmur2 as specified by Austin Appleby's MurmurHash2, seed 0x9747b28c.
    """
    mask = 0xFFFFFFFF
    m = 0x5BD1E995
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * m) & mask
        k ^= k >> 24
        h = ((h * m) & mask) ^ ((k * m) & mask)
    tail = data[whole:]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)
