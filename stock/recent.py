"""What a partition remembers of its newest facts: ids already seen, and the journal that restores them.

Bounded twice: 24 hours by the timestamps of each fact's own input topic, and a number of facts. Never holds a
balance, never decides what a fact does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from stock.portions import in_portions
from stock.times import HOUR_US

HORIZON_US = 24 * HOUR_US  # A repeat arriving later than this after the original counts as a new fact.
CHUNK_FACTS_MAX = 4_096  # A chunk this large is never merged again; about 250 KB with keys of usual length.
CHUNK_BYTES_MAX = 512 * 1024  # Whatever the length of keys, a record stays far below the topic's limit.
LARGE = 255  # The level of chunks that are never merged again.
MERGE_FAN_IN = 16  # So many chunks of one level become one of the next: each fact is rewritten at most three times.

Row = tuple[
    str, int, int, int, int, int, int
]  # key, topic, outcome, offset, id hash, time in microseconds, units moved


class Chunk(Struct, array_like=True, gc=False):
    """A run of facts in the order of arrival, as one journal record holds them.

    Chunk `number` stands in for the chunks `replaces[0]` to `replaces[1]` (empty if the second is lower).
    `newest_us` is per keyed input the newest record timestamp in here, 0 for none. `level` counts its merges.
    """

    # Stored. Changing these needs a migration.
    number: int
    level: int
    replaces: tuple[int, int]
    newest_us: list[int]
    rows: list[Row]


class _Head(Struct, array_like=True, gc=False):
    """The first fields of a chunk, for which its rows need not be made."""

    number: int
    level: int
    replaces: tuple[int, int]


class _Kept(Struct, gc=False):
    number: int
    level: int
    facts: int
    newest_us: list[int]
    packed: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Chunk)
_head_decoder = msgspec.msgpack.Decoder(_Head)


def check_chunk(packed: bytes, topics: int) -> None:
    """Nothing, if these are the packed bytes of a chunk.

    Raises:
        ValueError: they are not.
    """
    if len(_decoder.decode(packed).newest_us) != topics:
        raise ValueError("a chunk of another shape")


class Recent:
    """Ids seen, and the chunks that carry them through a restart.

    `forgotten` collects the rows of chunks that aged away, for the owner of the movement logs to collect.
    """

    def __init__(self, topics: int, facts_max: int) -> None:
        self.ids: set[int] = set()
        self.facts_max = facts_max
        self.open_rows: list[Row] = []
        self.newest_us = [0] * topics
        self._open_newest_us = [0] * topics
        self._chunks: deque[_Kept] = deque()
        self._facts = 0
        self._next_number = 0
        self._rewrite: set[int] = set()

    @property
    def oldest_us(self) -> int:
        """The newest record timestamp in the oldest chunk: nothing older is remembered; 0 while nothing was dropped."""
        return max(self._chunks[0].newest_us) if self._chunks else 0

    @property
    def dirty(self) -> bool:
        """Whether a cut would write something."""
        return bool(self.open_rows or self._rewrite)

    def see(self, row: Row, timestamp_us: int) -> None:
        """Remember a fact of topic `row[1]` whose record carries this timestamp."""
        self.open_rows.append(row)
        topic = row[1]
        if timestamp_us > self._open_newest_us[topic]:
            self._open_newest_us[topic] = timestamp_us
            if timestamp_us > self.newest_us[topic]:
                self.newest_us[topic] = timestamp_us

    def cut(self) -> tuple[list[tuple[int, bytes | None]], list[Row]]:
        """Close the open rows into journal records.

        Returns:
            Records (number, packed chunk; None deletes) to be written in this order, and the rows that are forgotten.
        """
        records: list[tuple[int, bytes | None]] = []
        if self._rewrite:
            kept_now = {kept.number: kept.packed for kept in self._chunks}
            records.extend((number, kept_now.get(number)) for number in sorted(self._rewrite))
            self._next_number = max(self._next_number, max(self._rewrite) + 1)
            self._rewrite.clear()
        rows, self.open_rows = self.open_rows, []
        first_of_this_cut = self._next_number
        for part in _portions(rows):
            chunk = Chunk(self._take_number(), 0, (0, -1), self._open_newest_us, part)
            records.append((chunk.number, self._keep(chunk)))
        if rows:
            self._open_newest_us = [0] * len(self.newest_us)
        records.extend(self._merge())
        forgotten: list[Row] = []
        # A chunk of this very cut stays until the next: a crash before the cut's end needs it to tell what was done.
        while (
            self._chunks
            and self._chunks[0].number < first_of_this_cut
            and (self._facts > self.facts_max or self._aged(self._chunks[0]))
        ):
            records.append((self._chunks[0].number, None))
            forgotten.extend(self._drop_oldest())
        return records, forgotten

    def rewrite(self, number: int) -> None:
        """Write a chunk again, or its deletion, with the next cut: what stands on the topic is not ours."""
        self._rewrite.add(number)

    def restoring(self, packed: Iterable[bytes], counts: Callable[[Row], bool]) -> Iterator[None]:
        """Take back the chunks of a restart; yields as `Ledger.restoring` does.

        Args:
            packed: every chunk on the topic, in any order.
            counts: asked for each row, oldest first, whether its fact had its effect. If not, the fact comes again
                and gets a new row, so the old one is dropped, here and on the topic: no fact may have two.
        """
        chunks: dict[int, bytes] = {}
        replaced = []
        for value in packed:
            head = _head_decoder.decode(value)
            chunks[head.number] = value
            if head.replaces[0] <= head.replaces[1]:
                replaced.append(head.replaces)
            yield
        for number, value in sorted(chunks.items()):
            self._next_number = max(self._next_number, number + 1)
            if any(first <= number <= last for first, last in replaced):
                self._rewrite.add(number)  # its deletion was lost, and its successor will not stay for ever
                continue
            chunk, rows = _decoder.decode(value), []
            for some in in_portions(chunk.rows):
                rows += [row for row in some if counts(row)]
                yield
            if len(rows) < len(chunk.rows):
                self._rewrite.add(number)
                chunk.rows = rows
                value = _encoder.encode(chunk)
            # An empty one, too: a record lands before the balances that have the facts again, a deletion might not.
            self._keep(chunk, value)
            self.newest_us = [max(pair) for pair in zip(self.newest_us, chunk.newest_us, strict=True)]

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _keep(self, chunk: Chunk, packed: bytes | None = None) -> bytes:
        packed = packed or _encoder.encode(chunk)
        self._chunks.append(_Kept(chunk.number, chunk.level, len(chunk.rows), chunk.newest_us, packed))
        self._facts += len(chunk.rows)
        return packed

    def _merge(self) -> list[tuple[int, bytes | None]]:
        """Join the newest chunks while enough of them are of one level, so that few records carry many facts."""
        records: list[tuple[int, bytes | None]] = []
        while len(self._chunks) >= MERGE_FAN_IN:
            tail = [self._chunks[i] for i in range(-MERGE_FAN_IN, 0)]
            level = tail[-1].level
            if level == LARGE or tail[0].level != level:
                break
            facts, size = sum(kept.facts for kept in tail), sum(len(kept.packed) for kept in tail)
            if facts > CHUNK_FACTS_MAX or size > CHUNK_BYTES_MAX:
                for kept in tail:
                    kept.level = LARGE
                break
            parts = [_decoder.decode(self._chunks.pop().packed) for _ in tail][::-1]
            newest = [max(times) for times in zip(*(part.newest_us for part in parts), strict=True)]
            rows = [row for part in parts for row in part.rows]
            self._facts -= len(rows)
            replaces = (parts[0].number, parts[-1].number)
            merged = Chunk(self._take_number(), level + 1, replaces, newest, rows)
            records.append((merged.number, self._keep(merged)))
            records.extend((part.number, None) for part in parts)
        return records

    def _aged(self, kept: _Kept) -> bool:
        return all(
            newest == 0 or newest + HORIZON_US < now for newest, now in zip(kept.newest_us, self.newest_us, strict=True)
        )

    def _drop_oldest(self) -> list[Row]:
        kept = self._chunks.popleft()
        self._facts -= kept.facts
        rows = _decoder.decode(kept.packed).rows
        self.ids.difference_update(row[4] for row in rows)
        return rows


def _portions(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows in runs that fit one record each."""
    start = size = 0
    for at, row in enumerate(rows):
        row_bytes = 4 * len(row[0]) + 48
        if at - start == CHUNK_FACTS_MAX or size + row_bytes > CHUNK_BYTES_MAX:
            yield rows[start:at]
            start, size = at, 0
        size += row_bytes
    if rows:
        yield rows[start:]
