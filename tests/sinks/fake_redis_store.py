"""A Redis in a dict, for the view's tests: a `ViewStore` that can be down, wiped and rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from sinks.view_store import Change, Marker, StoreUnavailable


class FakeRedisStore:
    """What `RedisStore` promises, over two dicts; `down` makes every call fail."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.markers: dict[int, Marker] = {}
        self.seen: dict[int, Marker | None] = {}
        self.down = False
        self.connected = False
        self.before_move: Callable[[], None] = lambda: None

    def connect(self) -> None:
        self.connected = True
        self._check()

    def close(self) -> None:
        self.connected = False

    def write(self, changes: Sequence[Change]) -> int:
        self._check()
        refused = 0
        for key, value, generation in changes:
            stored = _version(self.values[key]) if key in self.values else -1
            if stored > (generation << 32 | 0xFFFFFFFF if value is None else _version(value)):
                refused += 1
            elif value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        return refused

    def read_markers(self, partitions: Sequence[int]) -> dict[int, Marker | None]:
        self._check()
        found = {partition: self.markers.get(partition) for partition in partitions}
        self.seen.update(found)
        return found

    def move_markers(self, markers: Mapping[int, Marker]) -> set[int]:
        self.before_move()
        self._check()
        moved = {p: m for p, m in markers.items() if self.markers.get(p) == self.seen.get(p)}
        self.markers.update(moved)
        self.seen.update(moved)
        return set(markers) - set(moved)

    def _check(self) -> None:
        if self.down or not self.connected:
            raise StoreUnavailable("Fake: down")


def _version(value: bytes) -> int:
    return int(json.loads(value)["version"])
