"""The registry of topics, and the partition of a SKU as Java's producers compute it."""

from __future__ import annotations

from collections import Counter

import pytest

from schemas.topics import (
    DEAD_LETTER_BYTES_MAX,
    DEAD_LETTERS,
    HOUR_MS,
    KEYED_INPUTS,
    STOCK_STATE,
    TOPICS,
    murmur2,
    partition_of,
)

# Published with Kafka's own tests of `Utils.murmur2`.
VECTORS = [
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
]


@pytest.mark.parametrize(("text", "java"), VECTORS)
def test_murmur2_is_javas(text: str, java: int) -> None:
    """The same 32 bits, which Java reads as a signed number."""
    assert murmur2(text.encode()) == java % 2**32


def test_a_partition_is_never_negative() -> None:
    """The sign is masked away, not negated."""
    for text, java in VECTORS:
        assert partition_of(text, 12) == (java & 0x7FFFFFFF) % 12


@pytest.mark.parametrize("sku", ["", "a", "ab", "abc", "abcd", "Größe", "订单", "x" * 128])
def test_every_sku_has_one_partition(sku: str) -> None:
    """Inside the range, for any length of the hash's tail."""
    for partitions in (1, 2, 12, 1_000):
        assert 0 <= partition_of(sku, partitions) < partitions


def test_skus_spread_evenly() -> None:
    """No partition has much more than its share."""
    spread = Counter(partition_of(f"SKU-{number}", 12) for number in range(12_000))
    assert len(spread) == 12
    assert max(spread.values()) < 1_150


def test_positions_of_the_keyed_inputs_are_stored() -> None:
    """State records keep offsets by position: this order may never change."""
    assert [topic.name for topic in KEYED_INPUTS] == [
        "pos-sales.v1",
        "wms-movements.v1",
        "order-reservations.v1",
        "stock-items.v1",
    ]


def test_the_registry_names_every_topic_once() -> None:
    """With the cleanup its readers count on."""
    assert {topic.name: topic.cleanup for topic in TOPICS} == {
        "pos-sales.v1": "delete",
        "wms-movements.v1": "delete",
        "order-reservations.v1": "delete",
        "stock-items.v1": "compact",
        "stock-settings.v1": "compact",
        "availability.v1": "compact",
        "network-availability.v1": "compact",
        "reservation-verdicts.v1": "delete",
        "stock-alerts.v1": "delete",
        "dead-letters.v1": "delete",
        "stock-state.v1": "compact",
    }
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topics_settings_fit_its_cleanup(topic: object) -> None:
    """Compacted views roll and keep their deletes; the policy itself is among the settings."""
    [found] = [one for one in TOPICS if one is topic]
    config = found.config()
    assert config["cleanup.policy"] == found.cleanup
    if found.cleanup == "compact":
        assert int(config["segment.ms"]) <= HOUR_MS
        assert int(config["delete.retention.ms"]) >= 24 * HOUR_MS
        assert "retention.ms" not in config
    else:
        assert int(config["retention.ms"]) >= 7 * 24 * HOUR_MS


def test_a_dead_letter_has_room_for_the_largest_input_and_its_headers() -> None:
    """Otherwise producing it would fail, again after every restart."""
    largest = max(int(topic.config().get("max.message.bytes", 1_048_588)) for topic in KEYED_INPUTS)
    assert int(DEAD_LETTERS.config()["max.message.bytes"]) == DEAD_LETTER_BYTES_MAX == largest + 65_536


def test_state_is_not_compacted_before_it_can_be_repaired() -> None:
    """A fenced writer's late record stands there until its successor has overwritten it."""
    assert int(STOCK_STATE.config()["min.compaction.lag.ms"]) >= HOUR_MS
