"""Ledgers of restored partitions on their way to being of use: filled little by little beside live partitions."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sources.restore import Restored
from stock.ledger import Ledger

FILL_PORTIONS = 10_000  # At most in one turn; what bounds a turn is time, of which a simulated clock knows nothing.

NewLedger = Callable[[Restored], tuple[Ledger, Iterator[None]]]


@dataclass
class Filling:
    """A ledger and what fills it. `state_records`: how many were read of the partition; the ledger uses them up."""

    restored: Restored
    ledger: Ledger
    portions: Iterator[None]
    state_records: int


class Fillings:
    """Fills one ledger after the other.

    Args:
        new_ledger: an empty one for a partition, and what fills it portion by portion.
        clock: monotonic seconds.
    """

    def __init__(self, new_ledger: NewLedger, clock: Callable[[], float]) -> None:
        self._new_ledger, self._clock = new_ledger, clock
        self._fillings: dict[int, Filling] = {}

    @property
    def busy(self) -> bool:
        """Whether a ledger is to be filled."""
        return bool(self._fillings)

    def add(self, restored: Restored) -> None:
        """All records of a partition have been read."""
        state_records = len(restored.records)
        self._fillings[restored.partition] = Filling(restored, *self._new_ledger(restored), state_records)

    def abandon(self, partition: int) -> None:
        """The partition was taken away."""
        filling = self._fillings.pop(partition, None)
        if filling is not None:
            filling.ledger.discard()

    def step(self, until: float) -> list[Filling]:
        """Fill one portion, and more until the given time; those that are full come back."""
        full: list[Filling] = []
        for portion in range(FILL_PORTIONS):
            if not self._fillings or (portion and self._clock() >= until):
                break
            filling = next(iter(self._fillings.values()))
            if next(filling.portions, _END) is _END:
                full.append(self._fillings.pop(filling.restored.partition))
            gc.freeze()  # All of it is there to stay: a look for cycles in it would hold up everything.
        return full


_END = object()
