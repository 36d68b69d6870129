"""The simulation of a catalogue over partitions hashes as producers do and adds up."""

from __future__ import annotations

import pytest

from benchmarks.balance import evenness, owners, weights
from schemas.topics import partition_of


@pytest.mark.parametrize(
    ("text", "partitions", "processes", "expected"),
    [
        ("even", 4, 2, [0, 0, 1, 1]),
        ("the first ones take what is left", 5, 2, [0, 0, 0, 1, 1]),
        ("one each", 2, 2, [0, 1]),
    ],
)
def test_partitions_are_handed_out_in_ranges(text: str, partitions: int, processes: int, expected: list[int]) -> None:
    """As the range assignor does."""
    assert owners(partitions, processes) == expected


def test_shares_add_up_and_fall_with_the_rank() -> None:
    """The best seller of a skew of 1 sells twice as much as the second."""
    shares = weights(1_000, 1.0)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(2 * shares[1])
    assert weights(4, 0.0) == [0.25] * 4


def test_the_busiest_are_measured_in_means() -> None:
    """Two SKUs in one partition of two carry twice the mean; a process with both partitions carries the mean."""
    assert evenness([0, 2], [0.5, 0.5], 2, 2).partition_events == 2.0
    assert evenness([0, 2], [0.5, 0.5], 2, 2).partition_keys == 2.0
    assert evenness([0, 2], [0.5, 0.5], 2, 2).process_events == 2.0
    assert evenness([0, 2], [0.5, 0.5], 2, 1).process_events == 1.0
    assert evenness([0, 1], [0.75, 0.25], 2, 2).partition_events == 1.5


def test_a_hash_gives_the_partition_of_any_count() -> None:
    """One pass over the catalogue does for all partition counts."""
    for number in range(200):
        sku = f"SKU-{number}"
        assert partition_of(sku, 1 << 31) % 12 == partition_of(sku, 12)
