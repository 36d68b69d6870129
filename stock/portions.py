"""Long work in portions, between which others can be served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

PORTION = 300  # Of things that take a few microseconds each: about a millisecond.

T = TypeVar("T")


def in_portions(all_of_it: list[T]) -> Iterator[list[T]]:
    """A list in runs of `PORTION`."""
    for at in range(0, len(all_of_it), PORTION):
        yield all_of_it[at : at + PORTION]
