"""One balance: what is on hand of one SKU at one location, and the movement log that lets a count arrive late."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

MOVEMENTS_MAX = 1_024  # Movements kept per balance, so that a late count knows what happened after it.
MOVEMENTS_HORIZON_US = 24 * 3_600 * 1_000_000  # ... and for how long before the newest of them.
_SPAN_US_MAX = 2 * MOVEMENTS_HORIZON_US
_NEVER_US = 2**63 - 1
_LOG_LENGTH_MAX = 2 * (MOVEMENTS_MAX + MOVEMENTS_MAX // 4)  # Dropped in portions, so that each costs little.

HAS_BASELINE = 1  # a count or receipt was heard
LOW_SHIP = 2  # ship was LOW_STOCK at the last evaluation
LOW_PICKUP = 4
CAUSE_PINNED = 8  # the unpublished cause is a receipt or return, which conflation must keep

Cause = tuple[str, str, str, int]  # type, id, source, occurred_at in microseconds
Count = tuple[int, str, str]  # occurred_at in microseconds, source, id: the greatest wins


class Past(Struct, array_like=True, gc=False):
    """What a balance holds of the facts it has had; the beginning of its packed form.

    `applied`: per keyed input the highest offset that has had its effect (or was found to have none). `moved_us`: time
    of the newest movement of units or states; `dropped_us`: of the newest one the log no longer holds.
    """

    # Stored. Changing these needs a migration.
    applied: list[int]
    on_hand: int = 0
    damaged: int = 0
    quality_hold: int = 0
    display: int = 0
    flags: int = 0
    count: Count | None = None
    moved_us: int = 0
    dropped_us: int = 0


class Balance(Past, array_like=True, gc=False):
    """The durable facts of one balance. Units may be negative; they are never silently set to 0.

    `digest`: of the record last acknowledged as published, 0 if none was; `published`: its statuses, packed
    (`View.statuses`).
    """

    # Stored. Changing these needs a migration.
    pos_us: int | None = None
    wms_us: int | None = None
    orders_us: int | None = None
    cause: Cause | None = None
    digest: int = 0
    published: int = 0
    net: tuple[int, int, int] | None = None  # the counters as of `count`, if it left out what they and allocations bind

    @property
    def unavailable(self) -> int:
        """Units on hand that may not be sold; each counter stays exact, and counts only above 0."""
        if self.damaged or self.quality_hold or self.display:
            return unavailable_of(self.counters)
        return 0

    @property
    def counters(self) -> tuple[int, int, int]:
        """The units in each of the unavailable states, in the order of `UNAVAILABLE`; negative ones too."""
        return self.damaged, self.quality_hold, self.display

    def move_state(self, state: str, units: int) -> None:
        """Add units to one of the unavailable states; `sellable` is what remains and has no counter."""
        if state == "damaged":
            self.damaged += units
        elif state == "quality_hold":
            self.quality_hold += units
        elif state == "display":
            self.display += units


UNAVAILABLE = ("damaged", "quality_hold", "display")


def unavailable_of(counters: Iterable[int]) -> int:
    """Units that may not be sold, by the counters of the unavailable states."""
    return sum(max(0, units) for units in counters)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Balance)
_past_decoder = msgspec.msgpack.Decoder(Past)


def pack(balance: Balance) -> bytes:
    """A balance as msgpack bytes: how it rests in memory and what its state record carries.

    Without the last field where that is None, as nearly always: it would cost each balance three bytes.
    """
    packed = _encoder.encode(balance)
    return packed if balance.net is not None else _ARRAY_OF_15 + packed[len(_ARRAY_OF_16) : -1]


_ARRAY_OF_15, _ARRAY_OF_16 = b"\x9f", b"\xdc\x00\x10"  # how msgpack begins what has so many fields


def unpack(packed: bytes) -> Balance:
    """The balance of packed bytes.

    Raises:
        msgspec.ValidationError: the bytes are not a balance.
    """
    return _decoder.decode(packed)


def unpack_past(packed: bytes) -> Past:
    """The same for its beginning only, which takes less time."""
    return _past_decoder.decode(packed)


CountOutcome = Literal["applied", "older", "beyond_log"]


class Movements:
    """The newest movements of one balance: times in microseconds and signed units, in the order of arrival.

    Kept as plain numbers side by side: nearly every movement is only ever appended, and few are ever summed.
    """

    __slots__ = ("_first_us", "_log")

    def __init__(self) -> None:
        self._log = array("q")
        self._first_us = _NEVER_US  # of the oldest movement, or earlier

    def __len__(self) -> int:
        return len(self._log) // 2

    def add(self, time_us: int, units: int) -> int:
        """Remember a movement; the time of the newest movement dropped to make room comes back, 0 if none was."""
        log, first_us = self._log, self._first_us
        log.append(time_us)
        log.append(units)
        if time_us < first_us:
            self._first_us = first_us = time_us
        if len(log) > _LOG_LENGTH_MAX:
            times = sorted(log[0::2])
            return self._drop_through(times[len(times) - MOVEMENTS_MAX - 1])
        if time_us - first_us > _SPAN_US_MAX:
            return self.forget_before(time_us - MOVEMENTS_HORIZON_US)
        return 0

    def since(self, time_us: int) -> int:
        """Sum of the units moved at or after a time."""
        log = self._log
        return sum(units for at, units in zip(log[0::2], log[1::2], strict=True) if at >= time_us)

    def forget_before(self, time_us: int) -> int:
        """Drop what happened before a time; the time of the newest dropped movement comes back, 0 if none was."""
        dropped = max((at for at in self._log[0::2] if at < time_us), default=0)
        return self._drop_through(dropped) if dropped else 0

    def discard(self, time_us: int, units: int) -> None:
        """Drop one movement, if it is still here."""
        log = self._log
        for at in range(0, len(log), 2):
            if log[at] == time_us and log[at + 1] == units:
                del log[at : at + 2]
                return

    def _drop_through(self, time_us: int) -> int:
        log = self._log
        kept = [(at, units) for at, units in zip(log[0::2], log[1::2], strict=True) if at > time_us]
        self._log = array("q", [number for movement in kept for number in movement])
        self._first_us = min((at for at, _ in kept), default=_NEVER_US)
        return time_us


StateMoves = list[tuple[int, str, int]]  # time in microseconds, unavailable state, signed units


def counters_at(balance: Balance, changed: StateMoves, time_us: int) -> tuple[int, int, int]:
    """The counters of the unavailable states as they were before a time."""
    now = dict(zip(UNAVAILABLE, balance.counters, strict=True))
    for at_us, state, units in changed:
        if at_us >= time_us:
            now[state] -= units
    return now["damaged"], now["quality_hold"], now["display"]


def apply_movement(balance: Balance, movements: Movements, time_us: int, units: int) -> bool:
    """Move on_hand by signed units as of a time; False if the newest count already includes it."""
    count = balance.count
    if count is not None and time_us < count[0]:
        return False
    balance.on_hand += units
    if time_us > balance.moved_us:
        balance.moved_us = time_us
    dropped = movements.add(time_us, units)
    if dropped > balance.dropped_us:
        balance.dropped_us = dropped
    return True


def apply_count(
    balance: Balance,
    movements: Movements,
    count: Count,
    units: int,
    forgotten_us: int,
    changed: StateMoves | None = None,
) -> CountOutcome:
    """State what was on hand as of a count; later movements stay on top, wherever they arrived.

    Args:
        units: what was counted; of a net count less what was unavailable or allocated then, which stays off on_hand.
        forgotten_us: the newest movement time that is no longer remembered for any balance.
        changed: of a net count, the moves between states that are known one by one.

    Returns:
        `older` if a newer count stands, `beyond_log` if what came at or after it is no longer known one by one.
    """
    balance.flags |= HAS_BASELINE
    if balance.count is not None and count < balance.count:
        return "older"
    if count[0] <= balance.moved_us and count[0] <= max(balance.dropped_us, forgotten_us):
        return "beyond_log"
    balance.count = count
    balance.net = None if changed is None else counters_at(balance, changed, count[0])
    balance.on_hand = units + movements.since(count[0])
    movements.forget_before(count[0])
    return "applied"
