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
class Filled:
    """A ledger that holds what was restored of a partition; of `state_records` records, idle balances and all else."""

    restored: Restored
    ledger: Ledger
    state_records: int


@dataclass
class _Filling:
    filled: Filled
    portions: Iterator[None]


class Fillings:
    """Fills one ledger after the other.

    Args:
        new_ledger: an empty one for a partition, and what fills it portion by portion.
        clock: monotonic seconds.
    """

    def __init__(self, new_ledger: NewLedger, clock: Callable[[], float]) -> None:
        self._new_ledger, self._clock = new_ledger, clock
        self._fillings: dict[int, _Filling] = {}

    @property
    def busy(self) -> bool:
        """Whether a ledger is to be filled."""
        return bool(self._fillings)

    def add(self, restored: Restored) -> None:
        """All records of a partition have been read."""
        state_records = len(restored.records)
        ledger, portions = self._new_ledger(restored)
        self._fillings[restored.partition] = _Filling(Filled(restored, ledger, state_records), portions)

    def abandon(self, partition: int) -> None:
        """The partition was taken away."""
        filling = self._fillings.pop(partition, None)
        if filling is not None:
            filling.filled.ledger.discard()

    def step(self, until: float) -> list[Filled]:
        """Fill one portion, and more until the given time; the ledgers that are full come back."""
        full: list[Filled] = []
        if not self._fillings:
            return full
        for portion in range(FILL_PORTIONS):
            if not self._fillings or (portion and self._clock() >= until):
                break
            partition = next(iter(self._fillings))
            filling = self._fillings[partition]
            if next(filling.portions, _END) is _END:
                full.append(filling.filled)
                del self._fillings[partition]
        gc.freeze()  # All of it is there to stay: a look for cycles in it would hold up everything.
        return full


_END = object()
