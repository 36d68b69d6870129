"""What the locations of one SKU add up to, and what a network says by its sums; never which SKUs or channels there are.

A location that says something else costs the same, however many others there are.
"""

from __future__ import annotations

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

# The parts of a location in the sums, by position.
SHIP, PICKUP, _RAW_SHIP, _RAW_PICKUP, COUNTS, ON_HAND, COMMITTED, SHORTAGE, LEFT, TRANSIT, INBOUND = range(11)
Parts = tuple[int, int, int, int, int, int, int, int, int, int, int]
_ZERO: Parts = (0,) * 11
# `COUNTS` counts locations by what holds for them, each in its own bits of one number, so that one addition moves all.
_COUNT_BITS = 24
_KNOWN, _UNKNOWN, _PREORDER, _BACKORDER = range(4)  # of ship; of pickup `_PER_MODE` later
_PER_MODE = 4
IN_STOCK_SOMEHOW, UNKNOWN_SOMEHOW, LISTED = range(2 * _PER_MODE, 2 * _PER_MODE + 3)

_OFF = frozenset({"location_off", "excluded"})


class Sums:
    """The sums of one SKU, what each location has put into them, and what some of them say since (`heard`).

    `channels`: the same in each channel that was asked for; what its locations say is looked at when it is asked for
    again (`behind`).
    """

    __slots__ = ("behind", "channels", "expected", "heard", "parts", "total")

    def __init__(self) -> None:
        self.total = _ZERO
        self.parts: dict[str, Parts] = {}
        self.heard: dict[str, View] = {}
        self.expected: dict[str, int] = {}  # when the next supply arrives, by key, where there is one
        self.channels: dict[str, Sums] | None = None
        self.behind: set[str] | None = None

    def put(self, key: str, seen: View) -> None:
        """Let a location say what it says now."""
        parts = _parts(seen)
        was = self.parts.get(key, _ZERO)
        if parts != was:
            self.total = _moved(self.total, parts, was)
        self.parts[key] = parts
        if seen.next_inbound_at_us is not None:
            self.expected[key] = seen.next_inbound_at_us
        elif self.expected:
            self.expected.pop(key, None)

    def catch_up(self) -> None:
        """Take in what was heard: several changes of a location between two records are one."""
        if self.heard:
            for key, seen in self.heard.items():
                self.put(key, seen)
            if self.channels:
                for of_channel in self.channels.values():
                    assert of_channel.behind is not None
                    of_channel.behind.update(self.heard)
            self.heard.clear()

    @property
    def size(self) -> int:
        """How many parts are kept."""
        return len(self.parts) * (1 + len(self.channels or ()))


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
        t4 if n4 == o4 else t4 + n4 - o4,
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
        counts,
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
