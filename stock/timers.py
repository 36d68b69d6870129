"""Timers by name: each name has at most one, which setting it again moves; never a clock."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_STALE_MIN = 64  # So few timers that were moved or cleared are not worth tidying up.


class Timers:
    """When what is due next; not thread-safe. Moved timers leave a stale entry, and never more of those than timers."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        """Number of timers."""
        return len(self._due)

    def set(self, name: str, due_us: int | None) -> None:
        """Let a name be due at a time and at no other, or never."""
        if due_us is None:
            self._due.pop(name, None)
        elif self._due.get(name) != due_us:
            self._due[name] = due_us
            heappush(self._heap, (due_us, name))
        if len(self._heap) > 2 * len(self._due) + _STALE_MIN:
            self._heap = [(due, one) for one, due in self._due.items()]
            heapify(self._heap)

    def next_us(self) -> int | None:
        """When something is due next, or is found to have been moved; None if nothing ever is."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now_us: int) -> tuple[int, str] | None:
        """The first timer that is due by a time, which is gone then: when it was due, and its name."""
        while self._heap and self._heap[0][0] <= now_us:
            due_us, name = heappop(self._heap)
            if self._due.get(name) == due_us:
                del self._due[name]
                return due_us, name
        return None
