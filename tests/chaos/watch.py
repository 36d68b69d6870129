"""Watches Redis while processes die: no key's version may ever go back or away.

It only reads, from a thread of its own, a few dozen times a second.
"""

from __future__ import annotations

import json
import threading
from types import TracebackType

import redis

from sinks.view_store import AVAILABILITY_PREFIX

INTERVAL_S = 0.02
TIMEOUT_S = 5.0


class RedisWatch:
    """Notes the versions seen of each SKU and location, and every time that one was lower than before or gone."""

    def __init__(self, url: str) -> None:
        self.problems: list[str] = []
        self.readings = 0
        self._seen: dict[tuple[str, str], set[int]] = {}
        self._noting = threading.Lock()
        self._latest: dict[tuple[str, str], int] = {}
        self._client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, decode_responses=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-watch", daemon=True)

    def __enter__(self) -> RedisWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def seen(self) -> dict[tuple[str, str], set[int]]:
        """The versions seen so far, by SKU and location: a copy, which readings to come leave alone."""
        with self._noting:
            return {key: set(versions) for key, versions in self._seen.items()}

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self._look()
            except redis.RedisError as error:
                self.problems.append(f"redis: the watch ended: {type(error).__name__}: {error}")
                return

    def _look(self) -> None:
        names = list(self._client.scan_iter(match=f"{AVAILABILITY_PREFIX}*", count=1_000))
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        found = {
            (name.removeprefix(AVAILABILITY_PREFIX), location): int(json.loads(value)["version"])
            for name, fields in zip(names, pipeline.execute(), strict=True)
            for location, value in fields.items()
        }
        for key, before in self._latest.items():
            now = found.get(key)
            if now is None or now < before:
                self.problems.append(f"redis: {key} went from version {before} to {now}")
        self._latest.update(found)
        with self._noting:
            for key, version in found.items():
                self._seen.setdefault(key, set()).add(version)
        self.readings += 1
