"""A row of inputs through one world after the other, and what became of them."""

from __future__ import annotations

from collections import Counter

from tests.fuzz.inputs import Generator, Input
from tests.fuzz.world import Violation, World

RESTART_EACH = 500  # Inputs.
WORLD_INPUTS = 10_000  # Then all is forgotten, so that a run needs no more memory than its first minutes.


class Run:
    """Takes inputs from a generator, one at a time, and counts."""

    def __init__(self, generator: Generator, corpus: list[Input]) -> None:
        self.taken = self.accepted = self.refused = self.violations = 0
        self.seen: Counter[str] = Counter()
        self.since_the_start: list[Input] = []
        self._generator = generator
        self._shortest: dict[str, Input] = {}
        self._waiting = list(reversed(corpus))  # goes first
        self._world = World()

    def step(self, given: Input | None = None) -> Violation | None:
        """Take one input, of the generator unless it is given; what did not hold, if anything."""
        if given is None:
            given = self._waiting.pop() if self._waiting else self._generator.next()
        self.since_the_start.append(given)
        self.taken += 1
        try:
            said = self._world.take(given)
            if self._world.taken % RESTART_EACH == 0:
                self._world.restart()
        except Violation as violation:
            self.violations += 1
            return violation
        if said.startswith("refused"):
            self.refused += 1
        else:
            self.accepted += 1
        self._note(said, given)
        if self._world.taken >= WORLD_INPUTS:
            self.start_over()
        return None

    def start_over(self) -> None:
        """Go on in a new world."""
        self._world, self.since_the_start = World(), []

    def interesting(self) -> list[Input]:
        """The shortest input for each thing that became of one, in the order of their names."""
        return [given for _, given in sorted(self._shortest.items())]

    def summary(self) -> str:
        """The figures in one line."""
        return (
            f"{self.taken:,} inputs, {self.accepted:,} accepted, {self.refused:,} refused, {self.violations} violations"
        )

    def _note(self, said: str, given: Input) -> None:
        self.seen[said] += 1
        known = self._shortest.get(said)
        if known is None:
            self._generator.kept.append(given)
        if known is None or len(given.value or b"") < len(known.value or b""):
            self._shortest[said] = given
