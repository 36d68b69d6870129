"""A Redis in memory under the real store: the two scripts as Python, and down, slow, wiped, full, failed over.

The scripts' real text is tested against real servers; here their meaning is repeated, so that what the store and the
view make of the answers can be tried against every kind of failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from redis.exceptions import ConnectionError as RedisDown
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from sinks.view_store import (
    AVAILABILITY_PREFIX,
    MARKER_PREFIX,
    MARKER_SCRIPT,
    WRITE_SCRIPT,
    Command,
    RedisStore,
    StoreUnavailable,
)
from tests.simulation.clients import Host
from tests.simulation.kafka import Timeline

_WRITE, _MOVE = (sha1(text.encode()).hexdigest() for text in (WRITE_SCRIPT, MARKER_SCRIPT))
_VERSION = re.compile(rb'^\{"version":(\d+)')
REPLICA_LAG_WRITES = 40  # How many of the newest commands a failover loses at most.


@dataclass
class _Data:
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    strings: dict[str, bytes] = field(default_factory=dict)

    def copy(self) -> _Data:
        return _Data({key: dict(fields) for key, fields in self.hashes.items()}, dict(self.strings))


class SimRedis:
    """The server. `watch` is told of each field that changes: key, field, old value, new value, whose."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.data = _Data()
        self._replica = _Data()
        self._behind = 0
        self._scripts: set[str] = set()
        self.is_down = False
        self.refuses: str | None = None
        self.is_slow = False
        self.generation = 0
        self.watch: Callable[[str, str, bytes | None, bytes | None], None] = lambda *_: None

    def wipe(self) -> None:
        """FLUSHALL, or a restart without persistence."""
        self.data = _Data()
        self._scripts = set()

    def restart(self) -> None:
        """All connections end; scripts are forgotten, data stays."""
        self.generation += 1
        self._scripts = set()

    def fail_over(self) -> None:
        """The replica takes over with what it has; connections end."""
        self.data = self._replica.copy()
        self.restart()

    def execute(self, command: tuple[Any, ...]) -> Any:
        """The answer to one command; errors are values."""
        name, *arguments = command
        if name == "PING":
            return b"PONG"
        if name in ("EVAL", "EVALSHA"):
            script, keys_count, *rest = arguments
            digest = script if name == "EVALSHA" else sha1(script.encode()).hexdigest()
            if name == "EVAL":
                self._scripts.add(digest)
            elif digest not in self._scripts:
                return NoScriptError("No matching script")
            if self.refuses == "READONLY":
                return ReadOnlyError("You can't write against a read only replica.")
            if self.refuses == "OOM":
                return ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
            self._replicate()
            keys, values = rest[:keys_count], rest[keys_count:]
            return self._write(keys, values) if digest == _WRITE else self._move(keys[0], *values)
        if name == "GET":
            return self.data.strings.get(arguments[0])
        assert name == "HGET", command
        return self.data.hashes.get(arguments[0], {}).get(_plain(arguments[1]))

    def _replicate(self) -> None:
        self._behind += 1
        if self._behind >= self._timeline.chance.randint(1, REPLICA_LAG_WRITES):
            self._replica = self.data.copy()
            self._behind = 0

    def _write(self, keys: list[Any], values: list[Any]) -> int:
        refused = 0
        for i, key in enumerate(keys):
            field_name, value = _plain(values[2 * i]), values[2 * i + 1]
            fields = self.data.hashes.setdefault(key, {})
            stored = fields.get(field_name)
            known = -1 if stored is None else _version(stored)
            delete = re.match(rb"^-(\d+)$", value)
            if delete:
                if stored is not None and known <= int(delete[1]):
                    del fields[field_name]
                    self.watch(key, field_name, stored, None)
                elif stored is not None:
                    refused += 1
            elif _version(value) < known:
                refused += 1
            elif stored != value:
                fields[field_name] = value
                self.watch(key, field_name, stored, value)
        return refused

    def _move(self, key: str, seen: bytes, wanted: bytes) -> int:
        if (self.data.strings.get(key) or b"") != seen:
            return 0
        self.data.strings[key] = wanted
        return 1


class SimStore(RedisStore):
    """The real store over a connection to the simulated server."""

    def __init__(
        self,
        host: Host,
        server: SimRedis,
        prefix: str = AVAILABILITY_PREFIX,
        marker_prefix: str = MARKER_PREFIX,
    ) -> None:
        super().__init__("redis://simulated", prefix, marker_prefix)
        self._host, self._server = host, server
        self._connected_to = -1

    def connect(self) -> None:
        self.close()
        self._host.call("redis connect")
        if self._server.is_down:
            self._host.wait(0.05)
            raise StoreUnavailable("Simulated: connection refused")
        self._connected_to = self._server.generation
        self._links, self._client = {"": _Link()}, _Link()

    def _round_trip(
        self, made: Mapping[str, Iterable[Command]]
    ) -> tuple[dict[str, list[Command]], dict[str, list[Any]]]:
        host, server, timeline = self._host, self._server, self._host.timeline
        asked = list(made[""])
        if not asked:
            return {"": []}, {"": []}
        host.call(f"redis {asked[0][0]} and {len(asked) - 1} more")
        if server.is_down or self._connected_to != server.generation:
            raise RedisDown("Simulated: connection lost")
        if server.is_slow:
            host.wait(timeline.chance.uniform(0.1, 1.4))
        else:
            host.wait(0.0005)
        if not host.is_alive:
            raise RedisDown("Simulated: nobody listens")
        answers = []
        for command in asked:
            answer = server.execute(command)
            assert not isinstance(answer, RedisError) or not isinstance(answer, RedisDown)
            answers.append(answer)
            host.call("the next redis command")
        if timeline.percent(host.troubles.lost_answer / 4):
            raise RedisDown("Simulated: the answer is lost")
        return {"": asked}, {"": answers}


class _Link:
    """What the store closes."""

    def disconnect(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""


def _plain(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _version(value: bytes) -> int:
    found = _VERSION.match(value)
    return int(found[1]) if found else -1
