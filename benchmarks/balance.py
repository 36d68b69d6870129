"""How evenly a catalogue falls on partitions and processes: the busiest of them decides how many are needed.

No server runs. SKUs are hashed as producers hash them, the n-th best seller sells as often as n to the power of -skew
says, and the group hands out whole partitions in ranges of equal length, as the range assignor does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from schemas.topics import partition_of

PARTITIONS = (64, 256, 1_024)
PROCESSES = (4, 16, 64)


@dataclass(frozen=True)
class Evenness:
    """Loads of the busiest and the fullest as multiples of the mean, 1.0 if all are alike; the best seller's share."""

    partition_events: float
    partition_keys: float
    process_events: float
    best_seller: float


def weights(skus: int, skew: float) -> list[float]:
    """The share of all events that each SKU has, from the best seller down."""
    raw = [rank**-skew for rank in range(1, skus + 1)]
    whole = sum(raw)
    return [one / whole for one in raw]


def owners(partitions: int, processes: int) -> list[int]:
    """Who owns each partition: ranges of neighbours, the first ones one longer where it does not come out even."""
    least, longer = divmod(partitions, processes)
    sizes = [least + (number < longer) for number in range(processes)]
    return [process for process, size in enumerate(sizes) for _ in range(size)]


def evenness(hashes: Sequence[int], shares: Sequence[float], partitions: int, processes: int) -> Evenness:
    """What the busiest partition and process carry.

    Args:
        hashes: of each SKU, before the remainder by the number of partitions.
        shares: of each SKU in all events.
        partitions: how many, at least as many as processes.
        processes: members of the group.
    """
    events, keys = [0.0] * partitions, [0] * partitions
    for number, share in zip(hashes, shares, strict=True):
        events[number % partitions] += share
        keys[number % partitions] += 1
    by_process = [0.0] * processes
    for partition, process in enumerate(owners(partitions, processes)):
        by_process[process] += events[partition]
    return Evenness(
        max(events) * partitions, max(keys) * partitions / len(hashes), max(by_process) * processes, max(shares)
    )


def main() -> int:
    """Hash a catalogue once and show all combinations."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--skus", type=int, default=1_000_000)
    options.add_argument("--skew", type=float, action="append", help="0: all alike; default: 0.8 and 1")
    options.add_argument("--partitions", type=int, action="append", help=f"default: {PARTITIONS}")
    options.add_argument("--processes", type=int, action="append", help=f"default: {PROCESSES}")
    chosen = options.parse_args()
    console = Console()
    # With as many partitions as there are hashes, the partition is the hash.
    ids = track(range(chosen.skus), "hashing", console=Console(stderr=True))
    hashes = [partition_of(f"SKU-{number:08d}", 1 << 31) for number in ids]
    table = Table(title=f"{chosen.skus:,} SKUs; multiples of the mean")
    for title in ("skew", "partitions", "processes", "events, busiest partition", "SKUs, fullest partition",
                  "events, busiest process", "share of the best seller"):  # fmt: skip
        table.add_column(title, justify="right")
    for skew in chosen.skew or (0.8, 1.0):
        shares = weights(chosen.skus, skew)
        for partitions in chosen.partitions or PARTITIONS:
            for processes in chosen.processes or PROCESSES:
                if processes <= partitions:
                    found = evenness(hashes, shares, partitions, processes)
                    table.add_row(
                        f"{skew:g}", str(partitions), str(processes), f"{found.partition_events:.2f}",
                        f"{found.partition_keys:.2f}", f"{found.process_events:.2f}", f"{found.best_seller:.2%}",
                    )  # fmt: skip
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
