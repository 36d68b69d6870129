"""What can be sold of a SKU over all its locations: running sums of what each location says, and the status of them.

A network owns no stock: it is computed from the views of the locations. The sums of a SKU are kept while it is in use
and built anew from all its locations otherwise; each change then costs the same, however many locations there are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

import msgspec
from msgspec import Struct

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
from stock.terms import ModeTerms, Terms

ALL_CHANNELS = "*"
ONE_CHANNEL = (ALL_CHANNELS,)
LOCATIONS_SUMMED_MAX = 5_000  # Locations whose part in the sums is kept per partition; about 400 bytes each.
NOWHERE = ""  # The location of a question about no location: none can have this name.

# Stored. State keys of the partition: what was last published of `sku|channel`. Programs that do not know them leave
# them alone, as all keys that begin with a bar.
NETWORK_PREFIX = "|network|"

Supply = tuple[int, int]  # when (microseconds), units
Published = tuple[int, int]  # digest and statuses of the newest acknowledged record; (0, 0) if there is none

_OFF = frozenset({"location_off", "excluded"})
_NOTHING: Published = (0, 0)

# The parts of a location in the sums, by position.
_SHIP, _PICKUP, _RAW_SHIP, _RAW_PICKUP, _COUNTS, _ON_HAND, _COMMITTED, _SHORTAGE, _LEFT, _TRANSIT, _INBOUND = range(11)
_Parts = tuple[int, int, int, int, int, int, int, int, int, int, int]
_ZERO: _Parts = (0,) * 11
# `_COUNTS` counts locations by what holds for them, each in its own bits of one number, so that one addition moves all.
_COUNT_BITS = 24
_KNOWN, _UNKNOWN, _PREORDER, _DISCONTINUED, _BACKORDER = range(5)  # of ship; of pickup `_PER_MODE` later
_PER_MODE = 5
_IN_STOCK_SOMEHOW, _UNKNOWN_SOMEHOW, _LISTED = range(2 * _PER_MODE, 2 * _PER_MODE + 3)


class NetworkView(Struct, gc=False, array_like=True):
    """Everything that a network record says, apart from what never makes a record by itself."""

    ship: int  # position in STATUSES
    pickup: int
    available_to_ship: int | None
    available_in_store: int | None
    locations_in_stock: int
    locations_unknown: int
    on_hand: int
    committed: int
    in_transit: int
    inbound: int
    next_inbound_at_us: int | None
    atp: tuple[Supply, ...]
    shortage: int
    backorder_left: int

    @property
    def status(self) -> int:
        """The better of both modes."""
        return min(self.ship, self.pickup)

    def statuses(self) -> int:
        """The statuses of both modes in one number, as `View.statuses`; never 0."""
        return 64 + self.ship * 8 + self.pickup


class _Sums:
    """The sums of one SKU, what each location has put into them, and what some of them say since (`heard`)."""

    __slots__ = ("expected", "heard", "parts", "total")

    def __init__(self) -> None:
        self.total = _ZERO
        self.parts: dict[str, _Parts] = {}
        self.heard: dict[str, View] = {}
        self.expected: dict[str, int] = {}  # when the next supply arrives, by key, where there is one

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
            self.heard.clear()


class Network:
    """The network of one partition's SKUs; not thread-safe.

    Args:
        look: what can be sold at a key now.
        terms: what holds for a SKU where no location is asked for.
        dated_supply: what is on its way to any location of a SKU and has a date.
    """

    def __init__(
        self,
        look: Callable[[str], View],
        terms: Callable[[str], Terms],
        dated_supply: Callable[[str], Iterable[Supply]],
    ) -> None:
        self._look = look
        self._dated_supply = dated_supply
        self._terms = terms
        self._keys: dict[str, str | list[str]] = {}  # by SKU: its only key, or all of them
        self._sums: dict[str, _Sums] = {}
        self._summed = 0
        self._published: dict[str, bytes] = {}  # by `sku|channel`
        self._dirty: dict[str, None] = {}
        self._unsaved: dict[str, None] = {}

    # Keys

    def add(self, sku: str, key: str) -> None:
        """A SKU has one more key."""
        known = self._keys.get(sku)
        if known is None:
            self._keys[sku] = key
        elif isinstance(known, str):
            self._keys[sku] = [known, key]
        else:
            known.append(key)
        sums = self._sums.get(sku)
        if sums is not None:
            self._forget(sku, sums)

    def keys_of(self, sku: str) -> list[str]:
        """All keys of a SKU."""
        known = self._keys.get(sku)
        return [] if known is None else [known] if isinstance(known, str) else known

    def is_first(self, sku: str, key: str) -> bool:
        """Whether this is the first key of its SKU: who looks at all keys looks at each network once."""
        known = self._keys.get(sku)
        return known is not None and key == (known if isinstance(known, str) else known[0])

    # Numbers

    def note(self, sku: str, key: str, seen: View) -> bool:
        """Hear what can be sold at a key now; whether sums of its SKU are kept that may have said something else."""
        sums = self._sums.get(sku)
        if sums is None:
            return bool(seen.in_transit or seen.inbound)  # whose dates may have changed, which no location tells
        sums.heard[key] = seen
        return True

    def view(self, sku: str, channel: str, was: int, keep: bool = True) -> NetworkView | None:
        """What can be sold of a SKU by a channel; None if all of it is delisted.

        Args:
            sku: a SKU with at least one key.
            channel: `*`, or a channel that a policy names.
            was: the statuses published before: a mode that was LOW_STOCK stays so within the band.
            keep: keep the sums, since the SKU is in use.
        """
        sums = self._sums.get(sku)
        if sums is None:
            sums = self._sum(sku, keep)
        sums.catch_up()
        total = sums.total
        counts = total[_COUNTS]
        if not _counted(counts, _LISTED):
            return None
        terms = self._terms(sku)
        before = was - 64 if was else 0
        ship, ship_units = _mode(total, counts, _SHIP, terms.ship, was != 0 and before >> 3 == LOW_STOCK)
        pickup, pickup_units = _mode(total, counts, _PICKUP, terms.pickup, was != 0 and before & 7 == LOW_STOCK)
        base = max(ship_units or 0, pickup_units or 0) - total[_SHORTAGE]
        return NetworkView(
            ship,
            pickup,
            ship_units,
            pickup_units,
            _counted(counts, _IN_STOCK_SOMEHOW),
            _counted(counts, _UNKNOWN_SOMEHOW),
            total[_ON_HAND],
            total[_COMMITTED],
            total[_TRANSIT],
            total[_INBOUND],
            min(sums.expected.values()) if sums.expected else None,
            available_to_promise(base, self._dated_supply(sku)) if total[_TRANSIT] or total[_INBOUND] else (),
            total[_SHORTAGE],
            total[_LEFT],
        )

    def channels(self, _sku: str) -> tuple[str, ...]:
        """The channels that have a record of a SKU."""
        return ONE_CHANNEL

    def _sum(self, sku: str, keep: bool) -> _Sums:
        """The sums of a SKU, built from all its locations; if they are kept, others may be forgotten to make room."""
        keys, sums = self.keys_of(sku), _Sums()
        for key in keys:
            sums.put(key, self._look(key))
        if keep:
            if self._summed + len(keys) > LOCATIONS_SUMMED_MAX:
                self._sums.clear()
                self._summed = 0
            self._sums[sku] = sums
            self._summed += len(keys)
        return sums

    def _forget(self, sku: str, sums: _Sums) -> None:
        self._summed -= len(sums.parts)
        del self._sums[sku]

    # What was published

    def published(self, key: str) -> Published:
        """Digest and statuses of the newest acknowledged record of `sku|channel`; (0, 0) if there is none."""
        packed = self._published.get(key)
        return _NOTHING if packed is None else _decoder.decode(packed)

    def publishing(self, key: str) -> None:
        """A record of this key is sent: until it is acknowledged its digest is in doubt, which the state must tell."""
        if key not in self._unsaved:
            self._dirty[key] = None

    def acknowledge(self, key: str, digest: int, statuses: int) -> None:
        """Note what the topic now says of a key."""
        self._published[key] = _encoder.encode((digest, statuses))
        self._unsaved[key] = None

    def rewrite(self, key: str) -> None:
        """Write the state of `sku|channel` again: what stands on the topic is not ours."""
        self._dirty[key] = None

    @property
    def dirty(self) -> bool:
        """Whether a flush would write more than acknowledged digests."""
        return bool(self._dirty)

    @property
    def unsaved(self) -> bool:
        """Whether digests of acknowledged records wait for a complete flush."""
        return bool(self._unsaved)

    def flush(self, in_doubt: Container[str], complete: bool) -> Iterator[tuple[str, bytes | None]]:
        """State records; as in `Ledger.flush`, a digest in doubt is written as 0, so that a restart publishes again."""
        if complete and self._unsaved:
            self._dirty.update((key, None) for key in self._unsaved if key not in in_doubt)
        for key in self._dirty:
            packed = self._published.get(key)
            if key in in_doubt or packed is None:
                packed = _encoder.encode((0, self.published(key)[1]))
                self._unsaved[key] = None
            else:
                self._unsaved.pop(key, None)
            yield NETWORK_PREFIX + key, packed
        self._dirty.clear()

    def restore(self, state_key: str, packed: bytes) -> None:
        """Take back what was published of a key."""
        self._published[state_key.removeprefix(NETWORK_PREFIX)] = packed


def check_network(packed: bytes) -> None:
    """Nothing, if this is the packed value of a network's state key.

    Raises:
        ValueError: it is not.
    """
    _decoder.decode(packed)


def available_to_promise(available: int, supply: Iterable[Supply]) -> tuple[Supply, ...]:
    """What can be promised from each date on: the least of the projection from there to the horizon, never below 0.

    Args:
        available: what can be sold now; negative where more is promised than there is.
        supply: dated units still to come.
    """
    projected: list[Supply] = []
    for at_us, units in sorted(supply):
        available += units
        if projected and projected[-1][0] == at_us:
            projected.pop()
        projected.append((at_us, available))
    least: list[Supply] = []
    for at_us, units in reversed(projected):
        least.append((at_us, units if not least else min(units, least[-1][1])))
    return tuple((at_us, max(0, units)) for at_us, units in reversed(least))


def _moved(total: _Parts, new: _Parts, old: _Parts) -> _Parts:
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


def _counted(counts: int, field: int) -> int:
    return counts >> _COUNT_BITS * field & (1 << _COUNT_BITS) - 1


_MODE_COUNTS = {
    UNKNOWN: _one(_UNKNOWN),
    PREORDERABLE: _one(_KNOWN) + _one(_PREORDER),
    DISCONTINUED: _one(_KNOWN) + _one(_DISCONTINUED),
    BACKORDERABLE: _one(_KNOWN) + _one(_BACKORDER),
}
_USUAL = _one(_KNOWN) + _one(_KNOWN + _PER_MODE) + _one(_IN_STOCK_SOMEHOW) + _one(_LISTED)


def _parts(seen: View) -> _Parts:
    ship, pickup = seen.ship, seen.pickup
    if ship.status > OUT_OF_STOCK:
        return _ZERO  # delisted: no part of any network
    on_hand, committed = seen.on_hand, seen.committed
    raw = on_hand - seen.unavailable - committed
    raw_ship = raw_pickup = raw
    if ship.status <= LOW_STOCK and pickup.status <= LOW_STOCK:
        counts = _USUAL
    else:
        of_ship, of_pickup = _mode_counts(ship), _mode_counts(pickup)
        counts = of_ship + (of_pickup << _COUNT_BITS * _PER_MODE) + _one(_LISTED)
        if ship.available or pickup.available:
            counts += _one(_IN_STOCK_SOMEHOW)
        if ship.status == UNKNOWN or pickup.status == UNKNOWN:
            counts += _one(_UNKNOWN_SOMEHOW)
        raw_ship, raw_pickup = raw * _counted(of_ship, _KNOWN), raw * _counted(of_pickup, _KNOWN)
    return (
        ship.available or 0,
        pickup.available or 0,
        raw_ship,
        raw_pickup,
        counts,
        on_hand,
        committed,
        seen.shortage,
        seen.backorder_left,
        seen.in_transit,
        seen.inbound,
    )


def _mode_counts(mode: ModeView) -> int:
    return 0 if mode.reason in _OFF else _MODE_COUNTS.get(mode.status, _one(_KNOWN))


def _mode(total: _Parts, counts: int, mode: int, terms: ModeTerms, was_low: bool) -> tuple[int, int | None]:
    """Status and units of one mode, by the status table of a location; the first row that fits holds."""
    counts >>= _COUNT_BITS * _PER_MODE * mode
    if not _counted(counts, _KNOWN):
        return (UNKNOWN, None) if _counted(counts, _UNKNOWN) else (OUT_OF_STOCK, 0)
    available = total[mode]
    if available > 0:
        low = available <= terms.enter or (was_low and available < terms.exit)
        return LOW_STOCK if low else IN_STOCK, available
    if _counted(counts, _PREORDER):
        return PREORDERABLE, 0
    if _counted(counts, _DISCONTINUED):
        return DISCONTINUED, 0
    return BACKORDERABLE if _counted(counts, _BACKORDER) else OUT_OF_STOCK, 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Published)
