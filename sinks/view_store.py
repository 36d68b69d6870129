"""Redis as the view's store: version-guarded writes and markers on held connections; never what or when to write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha1
from itertools import chain, islice
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import msgspec
from msgspec import Struct
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import AskError, NoScriptError, RedisClusterException, RedisError, ResponseError, TryAgainError
from redis.retry import Retry
from redis.sentinel import Sentinel

from schemas.records import split_availability_key
from sinks.addresses import asks_for_tls

# Stored. Changing these needs a migration.
AVAILABILITY_PREFIX = "availability:"
MARKER_PREFIX = "stockflow:view:"
NETWORK_PREFIX = "network:"
NETWORK_MARKER_PREFIX = "stockflow:network-view:"

SOCKET_TIMEOUT_S = 1.5  # A black-holed server costs the view's thread this much, never more per answer.
RECORDS_PER_CALL = 200  # About 120 KB and well under a millisecond of the server's one thread.
SEND_BYTES = 32_768  # Small commands go together, so that each does not cost a system call.
GENERATION_SHIFT = 32  # A version is its writer's generation, then a counter of this many bits.

# One record per (KEYS[i], ARGV[2i-1], ARGV[2i]). A value is refused if the stored one has a higher version; `-<n>`
# deletes what has at most version n, so that a delete which arrives late cannot take a newer value with it.
# A key of another type can only be a stranger under our name: it is replaced. Answers how many were refused.
WRITE_SCRIPT = r"""
local refused = 0
for i = 1, #KEYS do
  local key, field, value = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i]
  local stored = redis.pcall('HGET', key, field)
  if type(stored) == 'table' then
    if not string.find(stored.err, 'WRONGTYPE', 1, true) then return stored end
    redis.call('DEL', key)
    stored = false
  end
  local known = stored and tonumber(string.match(stored, '^{"version":(%d+)') or -1) or -1
  local delete = string.match(value, '^%-(%d+)$')
  if delete then
    if stored and known <= tonumber(delete) then
      redis.call('HDEL', key, field)
    elseif stored then
      refused = refused + 1
    end
  elseif tonumber(string.match(value, '^{"version":(%d+)') or -1) < known then
    refused = refused + 1
  elseif stored ~= value then
    redis.call('HSET', key, field, value)
  end
end
return refused
"""

# A marker moves only from the very text that its owner saw last: a wipe, an older replica and a newer owner (whose
# generation is higher) all make it another text. So each move is at the same time the check.
MARKER_SCRIPT = r"""
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then return 0 end
if stored ~= ARGV[2] then redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""

_SCRIPTS = {sha1(text.encode()).hexdigest(): text for text in (WRITE_SCRIPT, MARKER_SCRIPT)}
_WRITE, _MOVE_MARKER = _SCRIPTS
_VERSION = re.compile(rb'^\{"version":(\d+)')

Command = tuple[Any, ...]
Change = tuple[str, bytes | None, int]  # `sku|location`, value (None deletes), generation of the writer
_Record = tuple[str, str, bytes]  # name of the hash, field, value


class StoreUnavailable(Exception):
    """Redis cannot be reached or refuses for now; what was asked may have been done in part. Connect again."""


class Marker(Struct, frozen=True):
    """All records of a partition below `offset` are in the view, says the owner of `generation`."""

    generation: int
    offset: int


class ViewStore(Protocol):
    """Where the view stands. Used by one thread only; may block up to a few socket timeouts.

    Every method raises `StoreUnavailable`; after that, and at first, `connect` must be called. A lost connection is
    never replaced silently: the server behind a new one may have forgotten what the old one acknowledged.
    """

    def connect(self) -> None:
        """Open new connections, to whatever is the primary now."""

    def write(self, changes: Sequence[Change]) -> int:
        """Write or delete; how many were refused because a newer value is stored."""

    def read_markers(self, partitions: Sequence[int]) -> dict[int, Marker | None]:
        """The marker of each partition; None if it is missing or unreadable."""

    def move_markers(self, markers: Mapping[int, Marker]) -> set[int]:
        """Set markers that still are as last read or moved here; the partitions whose marker was not."""

    def close(self) -> None:
        """Drop all connections; never raises."""


class RedisStore:
    """A `ViewStore` on Redis >= 6.2 or Valkey: one node, behind Sentinel, or a Cluster.

    URLs: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`,
    `redis+cluster://host:port,host:port`; user, password and query parameters go to redis-py as they are (for the
    last two `ssl=true` or any `ssl_...` parameter switches TLS on; `sentinel_username` and `sentinel_password` are
    for the sentinels themselves). Replaying any call changes nothing. `prefix` stands before the SKU of each hash,
    `marker_prefix` before the partition of each marker.
    """

    def __init__(self, url: str, prefix: str = AVAILABILITY_PREFIX, marker_prefix: str = MARKER_PREFIX) -> None:
        self._url, self._prefix, self._marker_prefix = url, prefix, marker_prefix
        self._client: Any = None  # Redis or RedisCluster, whose methods are typed in part only.
        self._cluster = False
        self._links: dict[str, Any] = {}
        self._witnesses: list[str] = []
        self._seen: dict[str, bytes] = {}

    def connect(self) -> None:
        """Open new connections, to whatever is the primary now.

        Raises:
            StoreUnavailable: no connection, or not to every primary of the cluster.
        """
        self.close()
        try:
            client = self._client = open_client(self._url)
            self._cluster = isinstance(client, RedisCluster)
            if self._cluster:
                for node in client.get_primaries():
                    self._links[node.name] = client.get_redis_connection(node).connection_pool.get_connection()
                self._witnesses = _witnesses(client)
            else:
                self._links[""] = client.connection_pool.get_connection()
            self._exchange({name: [("PING",)] for name in self._links})
        except (RedisError, RedisClusterException, OSError, ValueError) as error:
            self.close()
            raise StoreUnavailable(_text(error)) from error

    def write(self, changes: Sequence[Change]) -> int:
        """Write or delete; how many were refused because a newer value is stored.

        A delete has no version of its own. It takes at most what is stored as it begins, so that it cannot take a
        later value if it arrives late, and never what a newer generation wrote.

        Raises:
            StoreUnavailable: some or all may not be written.
        """
        deletes = [(*self._place(key), generation) for key, value, generation in changes if value is None]
        bounded = self._bounded(deletes) if deletes else []
        records = ((*self._place(key), value) for key, value, _ in changes if value is not None)
        return sum(self._call(map(_write_call, self._groups(chain(records, bounded)))))

    def read_markers(self, partitions: Sequence[int]) -> dict[int, Marker | None]:
        """The marker of each partition; None if it is missing or unreadable (in a cluster: on any primary).

        Raises:
            StoreUnavailable: they could not be read.
        """
        keys = [(partition, key) for partition in partitions for key in self._marker_keys(partition)]
        texts = self._call([(key, ("GET", key)) for _, key in keys])
        found: dict[int, list[Marker | None]] = {partition: [] for partition in partitions}
        for (partition, key), text in zip(keys, texts, strict=True):
            self._seen[key] = text or b""
            found[partition].append(_marker(text))
        return {partition: _lowest(markers) for partition, markers in found.items()}

    def move_markers(self, markers: Mapping[int, Marker]) -> set[int]:
        """Set markers that still are as last read or moved here; the partitions whose marker was not.

        Raises:
            StoreUnavailable: some or all may not be moved.
        """
        moves = [
            (partition, key, msgspec.json.encode(marker))
            for partition, marker in markers.items()
            for key in self._marker_keys(partition)
        ]
        answers = self._call(
            [(key, ("EVALSHA", _MOVE_MARKER, 1, key, self._seen.get(key, b""), text)) for _, key, text in moves]
        )
        others = set()
        for (partition, key, text), moved in zip(moves, answers, strict=True):
            if moved:
                self._seen[key] = text
            else:
                others.add(partition)
        return others

    def close(self) -> None:
        """Drop all connections; never raises."""
        for link in self._links.values():
            link.disconnect()
        self._links = {}
        if self._client is not None:
            self._client.close()
            self._client = None

    def _place(self, key: str) -> tuple[str, str]:
        """Name of the hash, and field."""
        sku, location = split_availability_key(key)
        return self._prefix + sku, location

    def _bounded(self, deletes: list[tuple[str, str, int]]) -> list[_Record]:
        """Deletes as the script takes them, each with the highest version that it may take."""
        bounded = []
        stored = self._call([(key, ("HGET", key, field)) for key, field, _ in deletes])
        for (key, field, generation), value in zip(deletes, stored, strict=True):
            if value is not None:
                version = _VERSION.match(value)
                own_last = generation << GENERATION_SHIFT | (1 << GENERATION_SHIFT) - 1
                bounded.append((key, field, b"-%d" % min(own_last, int(version.group(1)) if version else own_last)))
        return bounded

    def _groups(self, records: Iterator[_Record]) -> Iterator[list[_Record]]:
        """Records by script call: many keys on one node; one key in a cluster, where a call must stay in one slot."""
        if not self._cluster:
            while group := list(islice(records, RECORDS_PER_CALL)):
                yield group
            return
        by_key: dict[str, list[_Record]] = {}
        for record in records:
            by_key.setdefault(record[0], []).append(record)
        yield from by_key.values()

    def _marker_keys(self, partition: int) -> list[str]:
        """Where the marker of a partition stands: in a cluster on every primary too, since each can lose its own."""
        name = f"{self._marker_prefix}{partition}"
        return [name, *(f"{name}:{witness}" for witness in self._witnesses)]

    def _call(self, calls: Iterable[tuple[str, Command]]) -> list[Any]:
        """Answers to commands, in order; each goes to the node of its key, all of a node in one pipeline.

        A single node gets them as they are made: it works on the first while the next is made.
        """
        client = self._client
        if client is None:
            raise StoreUnavailable("not connected")
        try:
            if not self._cluster:
                return self._exchange({"": (command for _, command in calls)})[""]
            calls = list(calls)
            places: dict[str, list[int]] = {}
            for i, (key, _) in enumerate(calls):
                node = client.nodes_manager.get_node_from_slot(key_slot(key.encode()))
                places.setdefault(node.name, []).append(i)
            replies = self._exchange({name: [calls[i][1] for i in at] for name, at in places.items()})
            answers: list[Any] = [None] * len(calls)
            for name, at in places.items():
                for i, reply in zip(at, replies[name], strict=True):
                    answers[i] = reply
            return answers
        except (RedisError, RedisClusterException, OSError, KeyError) as error:
            self.close()
            raise StoreUnavailable(_text(error)) from error

    def _exchange(self, made: Mapping[str, Iterable[Command]]) -> dict[str, list[Any]]:
        """Send to all nodes, then read all answers; a script unknown to the server is sent whole."""
        commands, replies = self._round_trip(made)
        again: dict[str, list[tuple[int, Command]]] = {}
        for name, answers in replies.items():
            for i, answer in enumerate(answers):
                if isinstance(answer, NoScriptError):
                    _, script, *rest = commands[name][i]
                    again.setdefault(name, []).append((i, ("EVAL", _SCRIPTS[script], *rest)))
                elif commands[name][i][0] == "HGET" and str(answer).startswith("WRONGTYPE"):
                    answers[i] = b""  # The write script replaces a stranger's key.
                elif isinstance(answer, (AskError, TryAgainError)):
                    answers[i] = self._redirected(commands[name][i])
        if again:
            _, second = self._round_trip({name: [command for _, command in items] for name, items in again.items()})
            for name, items in again.items():
                for (i, _), answer in zip(items, second[name], strict=True):
                    replies[name][i] = answer
        for answers in replies.values():
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return replies

    def _round_trip(
        self, made: Mapping[str, Iterable[Command]]
    ) -> tuple[dict[str, list[Command]], dict[str, list[Any]]]:
        """What was sent, and the answers."""
        commands: dict[str, list[Command]] = {name: [] for name in made}
        for name, batch in made.items():
            link, packed = self._links[name], bytearray()
            for command in batch:
                commands[name].append(command)
                packed += b"".join(link.pack_command(*command))
                if len(packed) >= SEND_BYTES:
                    link.send_packed_command([packed], check_health=False)
                    packed = bytearray()
            if packed:
                link.send_packed_command([packed], check_health=False)
        return commands, {name: [_answer(self._links[name]) for _ in batch] for name, batch in commands.items()}

    def _redirected(self, command: Command) -> Any:
        """The answer to one command whose slot is on its way to another node; redis-py follows it there."""
        if command[0] == "EVALSHA":
            command = ("EVAL", _SCRIPTS[command[1]], *command[2:])
        return self._client.execute_command(*command)


def _write_call(group: list[_Record]) -> tuple[str, Command]:
    """The script call for some records, with the key by which its node is found."""
    keys = [key for key, _, _ in group]
    pairs = [text for _, field, value in group for text in (field, value)]
    return keys[0], ("EVALSHA", _WRITE, len(keys), *keys, *pairs)


def open_client(url: str) -> Any:
    """The redis-py client for a URL of any of the schemes that `RedisStore` names, without retries of its own.

    Raises:
        ValueError: the URL cannot be understood.
        redis.exceptions.RedisError: a cluster could not be asked for its nodes.
    """
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    parts = urlsplit(url)
    if parts.scheme not in ("redis+sentinel", "redis+cluster"):
        return Redis.from_url(url, **options)
    path = parts.path.strip("/").split("/")
    options.update(_options(parts, path[1] if len(path) > 1 else ""))
    nodes = [_address(text) for text in parts.netloc.rpartition("@")[2].split(",")]
    if parts.scheme == "redis+cluster":
        options.pop("db", None)
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port or 6379) for host, port in nodes],  # type: ignore[no-untyped-call]  # redis-py
            require_full_coverage=True,
            **options,
        )
    if not path[0]:
        raise ValueError("a redis+sentinel:// URL names the service: redis+sentinel://host:26379/service/0")
    sentinel_options = {name: value for name, value in options.items() if name not in ("db", "username", "password")}
    for name in ("username", "password"):
        options.pop(f"sentinel_{name}", None)
        if f"sentinel_{name}" in sentinel_options:
            sentinel_options[name] = sentinel_options.pop(f"sentinel_{name}")
    addresses = [(host, port or 26379) for host, port in nodes]
    sentinel = Sentinel(addresses, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]  # redis-py
    return sentinel.master_for(path[0], **options)  # type: ignore[no-untyped-call]  # redis-py


def _options(parts: SplitResult, db: str) -> dict[str, Any]:
    """User, password, database and query parameters of a URL as redis-py reads them from its own URLs."""
    query = dict(parse_qsl(parts.query))
    tls = asks_for_tls(query)
    query.pop("ssl", None)
    userinfo, at, _ = parts.netloc.rpartition("@")
    plain = f"redis://{userinfo}{at}localhost/{db}?{urlencode(query)}"
    options: dict[str, Any] = parse_url(plain)  # type: ignore[no-untyped-call]  # redis-py
    del options["host"]
    if tls:
        options["ssl"] = True
    return options


def _address(text: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} in the Redis URL names no host")
    return parts.hostname, parts.port


def _answer(link: Any) -> Any:
    """The next reply; an error reply is a value here, so that all replies of a pipeline are read."""
    try:
        return link.read_response()
    except ResponseError as error:
        return error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _marker(text: bytes | None) -> Marker | None:
    """The marker a text stands for; a text that is none counts as missing, so the partition is read again."""
    try:
        return None if text is None else msgspec.json.decode(text, type=Marker)
    except msgspec.DecodeError:
        return None


def _lowest(markers: list[Marker | None]) -> Marker | None:
    """What all copies of a marker claim together: the newest generation, and the lowest offset (0: one is missing)."""
    present = [marker for marker in markers if marker is not None]
    if not present:
        return None
    newest = max(marker.generation for marker in present)
    offset = min(marker.offset for marker in present)
    return Marker(newest, offset if len(present) == len(markers) else 0)


def _witnesses(client: Any) -> list[str]:
    """A hash tag for each primary, whose slot is the lowest that the primary serves."""
    lowest: dict[str, int] = {}
    for slot, nodes in client.nodes_manager.slots_cache.items():
        name = nodes[0].name
        lowest[name] = min(slot, lowest.get(name, slot))
    return sorted("{" + _tags()[slot] + "}" for slot in lowest.values())


@lru_cache(maxsize=1)
def _tags() -> dict[int, str]:
    """The smallest decimal number that hashes to each of the 16,384 slots."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < 16_384:
        tags.setdefault(key_slot(str(number).encode()), str(number))
        number += 1
    return tags
