"""What the locations of one SKU add up to, and what a network says by its sums; never which SKUs or channels there are.

A location that says something else costs the same, however many others there are; packing and unpacking do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec

from stock.availability import (
    BACKORDERABLE,
    DISCONTINUED,
    IN_STOCK,
    LOW_STOCK,
    OUT_OF_STOCK,
    PREORDERABLE,
    UNKNOWN,
    ModeView,
    View,
)
from stock.terms import NetworkModeTerms

# What is summed, by position. Of one location `COUNTS` holds a bit for each field instead, 1 or 0.
SHIP, PICKUP, _RAW_SHIP, _RAW_PICKUP, COUNTS, ON_HAND, COMMITTED, SHORTAGE, LEFT, TRANSIT, INBOUND = range(11)
Parts = tuple[int, int, int, int, int, int, int, int, int, int, int]
_ZERO: Parts = (0,) * 11
_WIDTH = len(_ZERO)
# `COUNTS` counts locations by what holds for them, each in its own bits of one number, so that one addition moves all.
_COUNT_BITS = 24
_KNOWN, _UNKNOWN, _PREORDER, _BACKORDER = range(4)  # of ship; of pickup `_PER_MODE` later
_PER_MODE = 4
IN_STOCK_SOMEHOW, UNKNOWN_SOMEHOW, LISTED = range(2 * _PER_MODE, 2 * _PER_MODE + 3)
_FIELDS = LISTED + 1
_COUNT_BYTES = _COUNT_BITS * _FIELDS // 8

_OFF = frozenset({"location_off", "excluded"})


class Sums:
    """The sums of one SKU, and what each location has put into them.

    `keys`: of all its locations. `channels`: the same in each channel that was asked for; what its locations say is
    looked at when it is asked for again (`behind`).
    """

    __slots__ = ("_at", "_parts", "behind", "channels", "expected", "keys", "total")

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self._at = {key: number * _WIDTH for number, key in enumerate(keys)}  # where the parts of a location begin
        self.total = _ZERO
        self._parts = [0] * (_WIDTH * len(keys))  # of one location after the other
        self.expected: dict[str, int] = {}  # when the next supply arrives, by key, where there is one
        self.channels: dict[str, Sums] | None = None
        self.behind: set[str] | None = None

    def put(self, key: str, seen: View) -> None:
        """Let a location say what it says now."""
        at, parts = self._at[key], _parts(seen)
        was = tuple(self._parts[at : at + _WIDTH])
        if parts != was:
            self.total = _moved(self.total, parts, was)  # type: ignore[arg-type]
            self._parts[at : at + _WIDTH] = parts
        if seen.next_inbound_at_us is not None:
            self.expected[key] = seen.next_inbound_at_us
        elif self.expected:
            self.expected.pop(key, None)

    def catch_up(self, heard: Mapping[str, View]) -> None:
        """Take in what was heard: several changes of a location between two records are one."""
        for key, seen in heard.items():
            self.put(key, seen)
        for of_channel in (self.channels or {}).values():
            assert of_channel.behind is not None
            of_channel.behind.update(heard)

    @property
    def size(self) -> int:
        """How many parts are kept."""
        return len(self.keys) * (1 + len(self.channels or ()))

    def packed(self) -> bytes:
        """All of it but for channels, in about 20 bytes a location."""
        total = list[int | bytes](self.total)
        total[COUNTS] = self.total[COUNTS].to_bytes(_COUNT_BYTES, "little")
        return _encoder.encode((total, self._parts, list(self.expected.items())))

    @classmethod
    def unpacked(cls, keys: Sequence[str], packed: bytes) -> Sums:
        """What was packed of sums over the same keys, in the same order."""
        sums = cls(keys)
        total, sums._parts, expected = _decoder.decode(packed)
        total[COUNTS] = int.from_bytes(total[COUNTS], "little")
        sums.total, sums.expected = tuple(total), dict(expected)
        return sums


def _moved(total: Parts, new: Parts, old: Parts) -> Parts:
    """The sums after a location says something else; written out, since it runs for each availability record."""
    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 = total
    n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10 = new
    o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10 = old
    return (
        t0 + n0 - o0,
        t1 + n1 - o1,
        t2 + n2 - o2,
        t3 + n3 - o3,
        t4 if n4 == o4 else t4 + _counts_of(n4) - _counts_of(o4),
        t5 + n5 - o5,
        t6 + n6 - o6,
        t7 + n7 - o7,
        t8 + n8 - o8,
        t9 + n9 - o9,
        t10 + n10 - o10,
    )


def _one(field: int) -> int:
    return 1 << _COUNT_BITS * field


def counted(counts: int, field: int) -> int:
    """How many locations are counted in a field."""
    return counts >> _COUNT_BITS * field & (1 << _COUNT_BITS) - 1


@cache
def _bits_of(counts: int) -> int:
    """A bit for each field of the counts of one location."""
    return sum(counted(counts, field) << field for field in range(_FIELDS))


@cache
def _counts_of(bits: int) -> int:
    """The counts with these bits."""
    return sum(_one(field) for field in range(_FIELDS) if bits >> field & 1)


_MODE_COUNTS = {
    UNKNOWN: _one(_UNKNOWN),
    PREORDERABLE: _one(_KNOWN) + _one(_PREORDER),
}
_USUAL = _one(_KNOWN) + _one(_KNOWN + _PER_MODE) + _one(IN_STOCK_SOMEHOW) + _one(LISTED)
_USUAL_BACKORDER = _USUAL + _one(_BACKORDER) + _one(_BACKORDER + _PER_MODE)


def _parts(seen: View) -> Parts:
    ship, pickup = seen.ship, seen.pickup
    if ship.status > OUT_OF_STOCK:
        return _ZERO  # delisted: no part of any network
    on_hand, committed = seen.on_hand, seen.committed
    raw = on_hand - seen.unavailable - committed
    raw_ship = raw_pickup = raw
    left = seen.backorder_left
    if ship.status <= LOW_STOCK and pickup.status <= LOW_STOCK:
        counts = _USUAL_BACKORDER if left else _USUAL
    else:
        of_ship, of_pickup = _mode_counts(ship, left), _mode_counts(pickup, left)
        counts = of_ship + (of_pickup << _COUNT_BITS * _PER_MODE) + _one(LISTED)
        if ship.available or pickup.available:
            counts += _one(IN_STOCK_SOMEHOW)
        if ship.status == UNKNOWN or pickup.status == UNKNOWN:
            counts += _one(UNKNOWN_SOMEHOW)
        raw_ship, raw_pickup = _raw(ship, of_ship, raw), _raw(pickup, of_pickup, raw)
    return (
        ship.available or 0,
        pickup.available or 0,
        raw_ship,
        raw_pickup,
        _bits_of(counts),
        on_hand,
        committed,
        seen.shortage,
        left,
        seen.in_transit,
        seen.inbound,
    )


def _mode_counts(mode: ModeView, left: int) -> int:
    if mode.reason in _OFF:
        return 0
    counts = _MODE_COUNTS.get(mode.status, _one(_KNOWN))
    return counts + _one(_BACKORDER) if left and counts == _one(_KNOWN) else counts


def _raw(mode: ModeView, counts: int, raw: int) -> int:
    """What a location adds to a network that keeps safety stock of its own: only its shortage if all is to come yet."""
    to_come = mode.status == PREORDERABLE or (mode.status == OUT_OF_STOCK and mode.reason is None)
    return (min(0, raw) if to_come else raw) * counted(counts, _KNOWN)


def mode_of(
    total: Parts, counts: int, mode: int, terms: NetworkModeTerms, reserved: int, was_low: bool
) -> tuple[int, int | None, int]:
    """Status and units of one mode by the status table of a location, and those less what is short: for promises.

    The units are either the sum of what each location may sell, or, where the network keeps a safety stock of its own,
    what is there in all less that: then no location keeps any, and a shortage of one is filled by the others.
    """
    counts >>= _COUNT_BITS * _PER_MODE * mode
    if not counted(counts, _KNOWN):
        return (UNKNOWN, None, -total[SHORTAGE]) if counted(counts, _UNKNOWN) else (OUT_OF_STOCK, 0, -total[SHORTAGE])
    if terms.safety_stock is None:
        units = total[mode] - reserved
        base = units - total[SHORTAGE]
    else:
        units = base = total[_RAW_SHIP + mode] - terms.safety_stock - reserved
    if units > 0:
        low = units <= terms.enter or (was_low and units < terms.exit)
        return LOW_STOCK if low else IN_STOCK, units, base
    if counted(counts, _PREORDER):
        return PREORDERABLE, 0, base
    return BACKORDERABLE if counted(counts, _BACKORDER) else OUT_OF_STOCK, 0, base


def sold_through(status: int, counts: int, mode: int) -> int:
    """The status of one mode of a discontinued SKU: what is sold out anywhere else is at its end."""
    sold_out = status in (BACKORDERABLE, OUT_OF_STOCK) and counted(counts, _KNOWN + _PER_MODE * mode)
    return DISCONTINUED if sold_out else status


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
