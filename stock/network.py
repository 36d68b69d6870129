"""What can be sold of a SKU over all its locations: running sums of what each location says, and the status of them.

A network owns no stock: it is computed from the views of the locations. The sums of a SKU are kept while it is in use,
when each change costs the same, however many locations there are; otherwise they rest packed. A channel that a policy
names has sums of its own, of what its locations would say if its policies held everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator

import msgspec
from msgspec import Struct

from stock import items
from stock.availability import LOW_STOCK, View
from stock.events import Lifecycle
from stock.sums import (
    COMMITTED,
    COUNTS,
    IN_STOCK_SOMEHOW,
    INBOUND,
    LEFT,
    LISTED,
    ON_HAND,
    PICKUP,
    SHIP,
    SHORTAGE,
    TRANSIT,
    UNKNOWN_SOMEHOW,
    Sums,
    counted,
    mode_of,
    sold_through,
)
from stock.terms import NetworkTerms

ALL_CHANNELS = "*"
ONE_CHANNEL = (ALL_CHANNELS,)
LOCATIONS_SUMMED_MAX = 5_000  # Locations whose part in the sums is kept per partition; about 220 bytes each.
# Locations of a SKU from which on its sums rest packed, at about 40 bytes each in all; fewer are quickly summed again.
PACKED_FROM = 4

# Stored. State keys of the partition: what was last published of `sku|channel`. Programs that do not know them leave
# them alone, as all keys that begin with a bar.
NETWORK_PREFIX = "|network|"

Fence = tuple[NetworkTerms, tuple[int, int]]  # and units reserved for others, by mode
Supply = tuple[int, int]  # when (microseconds), units
Published = tuple[int, int]  # digest and statuses of the newest acknowledged record; (0, 0) if there is none

_ALL = f"|{ALL_CHANNELS}"
_NOTHING: Published = (0, 0)
_NOTHING_RESERVED = (0, 0)
_NOBODY: tuple[str | None, int] = (None, 0)


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


class Network:
    """The network of one partition's SKUs; not thread-safe.

    Args:
        look: what can be sold at a key now, in a channel or (None) in none.
        terms: what holds for a SKU over all locations, likewise.
        dated_supply: what is on its way to any location of a SKU and has a date.
        lifecycle: of a SKU.
        named: the channels that policies name for a SKU.
        named_anywhere: those that they name at all, at any time.
        bound_for: units of a SKU that are bound for a channel.
    """

    def __init__(
        self,
        look: Callable[[str, str | None], View],
        terms: Callable[[str, str | None], NetworkTerms],
        dated_supply: Callable[[str], Iterable[Supply]],
        lifecycle: Callable[[str], Lifecycle],
        named: Callable[[str], tuple[str, ...]],
        named_anywhere: Collection[str],
        bound_for: Callable[[str, str], int],
    ) -> None:
        self._look, self._terms, self._dated_supply = look, terms, dated_supply
        self._lifecycle, self._bound_for = lifecycle, bound_for
        self._named, self._named_anywhere = named, named_anywhere
        self._keys: dict[str, str | list[str]] = {}  # by SKU: its only key, or all of them
        self._sums: dict[str, Sums] = {}
        self._summed = 0
        self._packed: dict[str, bytes] = {}  # sums of SKUs that are not in use
        self._heard: dict[str, dict[str, View]] = {}  # by SKU: what keys say that is not in its sums yet
        self._published: dict[str, bytes] = {}  # by `sku|channel`
        self._told: dict[str, set[str]] = {}  # by SKU: channels, other than all, of which the topic may have a record
        self._dirty: dict[str, None] = {}
        self._unsaved: dict[str, None] = {}

    # Keys

    def add(self, sku: str, key: str) -> None:
        """A SKU has one more key."""
        self._forget(sku)
        known = self._keys.get(sku)
        if known is None:
            self._keys[sku] = key
        elif isinstance(known, str):
            self._keys[sku] = [known, key]
        else:
            known.append(key)

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
        if sku not in self._sums and sku not in self._packed:
            # What may have changed although no location tells: dates, and what is bound or on hand for a channel.
            return bool(seen.in_transit or seen.inbound) or self.channels(sku) is not ONE_CHANNEL
        self._heard.setdefault(sku, {})[key] = seen
        return True

    def view(self, sku: str, channel: str, was: int, keep: bool = True) -> NetworkView | None:
        """What can be sold of a SKU by a channel; None if all of it is delisted, or no policy names the channel.

        Args:
            sku: a SKU with at least one key.
            channel: `*`, or a channel that a policy names.
            was: the statuses published before: a mode that was LOW_STOCK stays so within the band.
            keep: keep the sums, since the SKU is in use.
        """
        sums = self._sums.get(sku) or self._unpacked(sku) or self._sum(sku, keep)
        heard = self._heard.pop(sku, None)
        if heard is not None:
            sums.catch_up(heard)
        reserved = _NOTHING_RESERVED
        if channel == ALL_CHANNELS:
            terms = self._terms(sku, None)
        elif channel in self._named(sku):
            sums = self._in_channel(sku, channel, sums)
            terms, reserved = self._terms(sku, channel), self.reserved(sku, channel)
        else:
            return None
        total = sums.total
        counts = total[COUNTS]
        if not counted(counts, LISTED):
            return None
        before = was - 64 if was else 0
        low_ship, low_pickup = was != 0 and before >> 3 == LOW_STOCK, was != 0 and before & 7 == LOW_STOCK
        ship, units_ship, base_ship = mode_of(total, counts, SHIP, terms.ship, reserved[0], low_ship)
        pickup, units_pickup, base_pickup = mode_of(total, counts, PICKUP, terms.pickup, reserved[1], low_pickup)
        if not (units_ship and units_pickup) and self._lifecycle(sku) == items.DISCONTINUED:
            ship, pickup = sold_through(ship, counts, SHIP), sold_through(pickup, counts, PICKUP)
        base = base_ship if base_ship > base_pickup else base_pickup
        return NetworkView(
            ship,
            pickup,
            units_ship,
            units_pickup,
            counted(counts, IN_STOCK_SOMEHOW),
            counted(counts, UNKNOWN_SOMEHOW),
            total[ON_HAND],
            total[COMMITTED],
            total[TRANSIT],
            total[INBOUND],
            min(sums.expected.values()) if sums.expected else None,
            available_to_promise(base, self._dated_supply(sku)) if total[TRANSIT] or total[INBOUND] else (),
            total[SHORTAGE],
            total[LEFT],
        )

    def channels(self, sku: str) -> tuple[str, ...]:
        """The channels that have a record of a SKU, or whose record is still to be removed."""
        if not self._named_anywhere and not self._told:
            return ONE_CHANNEL
        named, told = self._named(sku), self._told.get(sku)
        if not named and not told:
            return ONE_CHANNEL
        return (ALL_CHANNELS, *sorted({*named, *(told or ())}))

    def reserved(self, sku: str, channel: str | None, without: tuple[str | None, int] = _NOBODY) -> tuple[int, int]:
        """Units, by mode, that a channel must leave to others: their quotas, less what is bound for each of them.

        Args:
            sku: whose units.
            channel: the one that leaves them; None leaves all quotas alone.
            without: a channel, and units bound for it that no longer count.
        """
        ship = pickup = 0
        for other in self._named(sku):
            if other != channel:
                terms = self._terms(sku, other)
                if terms.ship.quota or terms.pickup.quota:
                    bound = self._bound_for(sku, other) - (without[1] if other == without[0] else 0)
                    ship += max(0, terms.ship.quota - bound)
                    pickup += max(0, terms.pickup.quota - bound)
        return ship, pickup

    def fence(self, sku: str, channel: str | None, held: tuple[str | None, int]) -> Fence:
        """What a request must leave of all that there is: to other channels, and to the network's own safety stock.

        Args:
            sku, channel: what is asked for, and for which channel.
            held: the channel and units of the hold that the request replaces.
        """
        return self._terms(sku, channel), self.reserved(sku, channel, held)

    def look_anew(self, sku: str) -> None:
        """Rules changed that may concern a SKU: what was summed is not what holds now, be it told by no location."""
        in_use = sku in self._sums
        self._forget(sku)
        if in_use:
            self._sum(sku, keep=True)

    def _in_channel(self, sku: str, channel: str, sums: Sums) -> Sums:
        """The sums of a SKU in a channel, as of now; kept along with those over all channels."""
        of_channel = sums.channels.get(channel) if sums.channels else None
        if of_channel is None:
            of_channel = Sums(sums.keys)
            of_channel.behind = set(sums.keys)
            if self._sums.get(sku) is sums:
                if self._summed + len(sums.keys) > LOCATIONS_SUMMED_MAX:
                    del self._sums[sku]
                    self._rest()
                    self._keep(sku, sums)
                sums.channels = sums.channels or {}
                sums.channels[channel] = of_channel
                self._summed += len(sums.keys)
        assert of_channel.behind is not None
        for key in of_channel.behind:
            of_channel.put(key, self._look(key, channel))
        of_channel.behind.clear()
        return of_channel

    def _sum(self, sku: str, keep: bool) -> Sums:
        """The sums of a SKU, built from all its locations."""
        sums = Sums(self.keys_of(sku))
        for key in sums.keys:
            sums.put(key, self._look(key, None))
        if keep:
            self._keep(sku, sums)
        return sums

    def _keep(self, sku: str, sums: Sums) -> None:
        if self._summed + sums.size > LOCATIONS_SUMMED_MAX:
            self._rest()
        self._sums[sku] = sums
        self._summed += sums.size

    def _rest(self) -> None:
        """Make room: no sums are in use any more."""
        for sku, sums in self._sums.items():
            if len(sums.keys) >= PACKED_FROM:
                self._packed[sku] = sums.packed()
            else:
                self._heard.pop(sku, None)
        self._sums, self._summed = {}, 0

    def _unpacked(self, sku: str) -> Sums | None:
        """The sums of a SKU that rested packed, in use again; None if there are none."""
        packed = self._packed.pop(sku, None)
        if packed is None:
            return None
        sums = Sums.unpacked(self.keys_of(sku), packed)
        self._keep(sku, sums)
        return sums

    def _forget(self, sku: str) -> None:
        self._packed.pop(sku, None)
        self._heard.pop(sku, None)
        sums = self._sums.pop(sku, None)
        if sums is not None:
            self._summed -= sums.size

    # What was published

    def published(self, key: str) -> Published:
        """Digest and statuses of the newest acknowledged record of `sku|channel`; (0, 0) if there is none."""
        packed = self._published.get(key)
        return _NOTHING if packed is None else _decoder.decode(packed)

    def publishing(self, key: str) -> None:
        """A record of this key is sent: until it is acknowledged its digest is in doubt, which the state must tell."""
        if key not in self._unsaved:
            self._dirty[key] = None
        if not key.endswith(_ALL):
            self.recall(key)

    def recall(self, key: str) -> None:
        """The topic may have a record of this key."""
        sku, _, channel = key.partition("|")
        if channel != ALL_CHANNELS:
            self._told.setdefault(sku, set()).add(channel)

    def drop(self, key: str) -> bool:
        """Forget a key of which the topic has no record any more; False if it is still to be known."""
        sku, _, channel = key.partition("|")
        if channel == ALL_CHANNELS or channel in self._named(sku):
            return False
        told = self._told.get(sku)
        if told is not None:
            told.discard(channel)
            if not told:
                del self._told[sku]
        self._published.pop(key, None)
        self._unsaved.pop(key, None)
        self._dirty[key] = None
        return True

    def _is_told(self, key: str) -> bool:
        sku, _, channel = key.partition("|")
        return channel == ALL_CHANNELS or channel in self._told.get(sku, ())

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
            if packed is None and key not in in_doubt and not self._is_told(key):
                yield NETWORK_PREFIX + key, None
                continue
            if key in in_doubt or packed is None:
                packed = _encoder.encode((0, self.published(key)[1]))
                self._unsaved[key] = None
            else:
                self._unsaved.pop(key, None)
            yield NETWORK_PREFIX + key, packed
        self._dirty.clear()

    def restore(self, state_key: str, packed: bytes) -> None:
        """Take back what was published of a key."""
        key = state_key.removeprefix(NETWORK_PREFIX)
        self._published[key] = packed
        if not key.endswith(_ALL):
            self.recall(key)


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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Published)
