"""Timers by name: one each, in the order of their times, however often they are moved."""

from __future__ import annotations

from stock.timers import Timers


def due(timers: Timers, now_us: int) -> list[tuple[int, str]]:
    """All that is due, in order."""
    found = []
    while (timer := timers.pop(now_us)) is not None:
        found.append(timer)
    return found


def test_what_is_due_comes_once_and_in_order() -> None:
    """And nothing early."""
    timers = Timers()
    for name, at in (("b", 5), ("a", 3), ("c", 9)):
        timers.set(name, at)
    assert timers.next_us() == 3
    assert due(timers, 8) == [(3, "a"), (5, "b")]
    assert due(timers, 8) == []
    assert due(timers, 9) == [(9, "c")]
    assert timers.next_us() is None


def test_a_timer_that_was_moved_is_due_only_then() -> None:
    """Later, earlier, back again, or never."""
    timers = Timers()
    for at in (5, 9, 2, 7, 9):
        timers.set("a", at)
    timers.set("b", 5)
    timers.set("b", None)
    assert due(timers, 8) == []
    assert due(timers, 20) == [(9, "a")]


def test_moving_costs_no_memory() -> None:
    """However often, in whatever direction."""
    timers = Timers()
    for at in range(10_000, 0, -1):
        timers.set("a", at)
        timers.set(f"n-{at % 10}", at)
    assert (len(timers), len(timers._heap) <= 100) == (11, True)
