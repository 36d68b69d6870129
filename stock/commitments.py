"""Everything that binds stock in one partition: its holds and order lines, and the units they bind per key.

Each hold and order line is a state key of its own and idempotent by itself, because one fact may concern a balance at
one location and a hold at another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

import msgspec
from msgspec import structs

from stock.doubts import Doubt, Thresholds, of_hold, of_line
from stock.orders import Fact, Hold, OrderLine
from stock.portions import in_portions
from stock.times import HOUR_US

ORDERS_PER_SKU_MAX = 100_000  # Holds and order lines remembered per SKU; more is a runaway client.
CLOSED_HORIZON_US = 24 * HOUR_US  # How long a closed hold or order line still takes late facts.

# Stored. State keys beside `sku|location`: a location has at least one character and no control character.
_HOLD = "|\x1fhold\x1f"
_LINE = "|\x1forder\x1f"
_EXPIRE, _FORGET, _DOUBT = 0, 1, 2

Change = tuple[str, int]  # key `sku|location`, units bound more (or, negative, fewer)

_NO_CHANNELS: dict[str, int] = {}
_NOTHING_TOLD: dict[str, str] = {}

_encoder = msgspec.msgpack.Encoder()
_hold_decoder = msgspec.msgpack.Decoder(Hold)
_line_decoder = msgspec.msgpack.Decoder(OrderLine)


def _never(_key: str) -> None:
    return None


def hold_key(sku: str, reservation: str, line: str | None) -> str:
    """The state key of a hold; the length keeps reservation and line apart whatever they contain."""
    return f"{sku}{_HOLD}{len(reservation)}\x1f{reservation}{line or ''}"


def line_key(sku: str, order_line: str) -> str:
    """The state key of an order line."""
    return f"{sku}{_LINE}{order_line}"


def is_order_key(key: str) -> bool:
    """Whether a state key belongs to a hold or order line."""
    return _HOLD in key or _LINE in key


def reservation_in(key: str) -> str:
    """The reservation that a hold's state key names."""
    length, _, rest = key.partition(_HOLD)[2].partition("\x1f")
    return rest[: int(length)]


def line_in(key: str) -> str | None:
    """The line that a hold's state key names, if any."""
    length, _, rest = key.partition(_HOLD)[2].partition("\x1f")
    return rest[int(length) :] or None


def order_line_in(key: str) -> str:
    """The order line that an order line's state key names."""
    return key.partition(_LINE)[2]


def check_order(key: str, packed: bytes, topics: int) -> None:
    """Nothing, if this is the packed hold or order line of a state key.

    Raises:
        ValueError: it is not.
    """
    order = _unpacked(key, packed)
    if len(order.applied) != topics:
        raise ValueError("a hold or order line of another shape")
    if _HOLD in key:
        reservation_in(key)


def _pack(order: Hold | OrderLine) -> bytes:
    """A hold or order line without the last of its fields that say nothing."""
    values = structs.astuple(order)
    length = len(values) - isinstance(order, OrderLine)  # of which the last is never stored
    while not values[length - 1] and length > _FIELDS_MIN:
        length -= 1
    return _encoder.encode(values[:length])


_FIELDS_MIN = 4  # of an order line, without what has a default


def _unpacked(key: str, packed: bytes) -> Hold | OrderLine:
    return _hold_decoder.decode(packed) if _HOLD in key else _line_decoder.decode(packed)


class Commitments:
    """Holds, order lines and their sums; not thread-safe. Its clock is the time up to which holds have ended.

    `suspects` are the state keys of which somebody should see now whether there is a doubt about them.

    Args:
        topics: number of keyed inputs.
        net_us: asked with `sku|location` for the time of its newest count, if that left out what was allocated.
        thresholds: from when on a hold or order line is in doubt.
    """

    def __init__(
        self, topics: int, net_us: Callable[[str], int | None] = _never, thresholds: Thresholds | None = None
    ) -> None:
        self.clock_us = 0
        self.suspects: dict[str, None] = {}
        self._thresholds = thresholds or Thresholds()
        self._net_us = net_us
        self._lines: dict[str, dict[str, None]] = {}  # state keys of the order lines, by SKU
        self._then: dict[str, int] = {}  # units allocated when a net count was taken, by `sku|location`
        self._topics = topics
        self._orders: dict[str, Hold | OrderLine] = {}
        self._per_sku: dict[str, int] = {}
        self._units: dict[str, int] = {}
        self._for_channels: dict[str, dict[str, int]] = {}  # by SKU, then channel: what is told to be for one
        self._timers: list[tuple[int, int, str]] = []
        self._dirty: dict[str, None] = {}
        # What ends after the clock and before `_ahead_us`, by key and hold: end and units; and their timers.
        self._ahead_us = 0
        self._ahead: dict[str, dict[str, tuple[int, int]]] = {}
        self._ahead_units: dict[str, int] = {}
        self._ahead_at: dict[str, str] = {}
        self._passed: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        """Number of holds and order lines remembered, open or closed."""
        return len(self._orders)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def units(self, key: str) -> int:
        """Units bound at `sku|location`."""
        return self._units.get(key, 0)

    def allocated_then(self, key: str) -> int:
        """Units that were allocated at `sku|location` when its newest count was taken, if that left them out."""
        return self._then.get(key, 0)

    def counted(self, key: str) -> None:
        """A new count stands at `sku|location`."""
        self._then.pop(key, None)
        net_us = self._net_us(key)
        if net_us is None:
            return
        sku, _, location = key.partition("|")
        lines = [self._orders[line] for line in self._lines.get(sku, ())]
        units = sum(line.left_before(net_us).get(location, 0) for line in lines if isinstance(line, OrderLine))
        if units:
            self._then[key] = units

    def units_at(self, key: str, at_us: int) -> int:
        """Units bound at `sku|location` at a time that the clock may not have reached, as far as is known now."""
        bound = self._units.get(key, 0)
        if at_us <= self.clock_us:
            return bound
        self._look_ahead(at_us)
        over = self._ahead.get(key)
        if not over:
            return bound
        if at_us >= self._ahead_us:
            return bound - self._ahead_units[key]
        return bound - sum(units for end_us, units in over.values() if end_us <= at_us)

    def for_channel(self, sku: str, channel: str) -> int:
        """Units of a SKU bound by the holds and allocations that were made for a channel, wherever they are."""
        return self._for_channels.get(sku, _NO_CHANNELS).get(channel, 0)

    def open_at(self, key: str, at_us: int = 0) -> tuple[str | None, int]:
        """Where a hold binds units at a time, or now if that is later, by its state key, and how many."""
        hold = self._orders.get(key)
        return (hold.location, hold.open_units(max(self.clock_us, at_us))) if isinstance(hold, Hold) else (None, 0)

    def promised(self, key: str, source: str, id: str, units: int, at_us: int) -> int:
        """How much of the promise of a request stands in the hold of this state key; see `Hold.promised`."""
        hold = self._orders.get(key)
        return hold.promised(source, id, units, at_us) if isinstance(hold, Hold) else 0

    def channel_at(self, key: str, at_us: int = 0) -> tuple[str | None, int]:
        """For which channel a hold binds units at a time, or now if that is later, and how many; by its state key."""
        hold = self._orders.get(key)
        return (hold.channel, hold.open_units(max(self.clock_us, at_us))) if isinstance(hold, Hold) else (None, 0)

    def heard(self, key: str, topic: int) -> int:
        """Up to which offset of a topic a hold or order line has heard, by its state key; -1 if it is not known."""
        order = self._orders.get(key)
        return -1 if order is None else order.applied[topic]

    def doubts(self, key: str) -> tuple[Doubt, ...]:
        """What there is to say against a hold or order line, by its state key."""
        order = self._orders.get(key)
        if order is None:
            return ()
        return of_hold(order, self._thresholds) if isinstance(order, Hold) else of_line(order, self._thresholds)

    def of_sku(self, sku: str) -> Iterator[tuple[str, Hold | OrderLine]]:
        """State key and content of every hold and order line of a SKU; looks at all there are, so for tools only."""
        for key, order in self._orders.items():
            if key.partition("|")[0] == sku:
                yield key, order

    def is_full(self, sku: str, key: str) -> bool:
        """Whether a new hold or order line under this state key is one too many for the SKU."""
        return key not in self._orders and self._per_sku.get(sku, 0) >= ORDERS_PER_SKU_MAX

    def tell_hold(
        self,
        sku: str,
        key: str,
        new: Fact,
        topic: int,
        offset: int,
        channel: str | None = None,
        promised_us: int | None = None,
    ) -> list[Change]:
        """Let a hold take in a fact, told for a channel and maybe a promise as in `Hold.add`.

        What it binds more or less comes back.
        """
        hold = self._orders.get(key)
        if hold is None:
            hold = Hold([-1] * self._topics, [])
            self._add(sku, key, hold, max(new.time_us, self.clock_us) + CLOSED_HORIZON_US)
        assert isinstance(hold, Hold)
        if offset <= hold.applied[topic]:
            return []
        before, was_at, was_end = hold.open_units(self.clock_us), hold.location, hold.expires_at_us
        was_for = hold.channel
        hold.applied[topic] = offset
        hold.add(new, channel, promised_us)
        self._dirty[key] = None
        end_us = hold.expires_at_us
        if end_us is not None and end_us != was_end and end_us > self.clock_us:
            heappush(self._timers, (end_us, _EXPIRE, key))
        if self._ahead_us:
            self._note_ahead(key)
        if not hold.left or end_us is None:
            self._doubt(key)
        after = hold.open_units(self.clock_us)
        if was_for is not None or hold.channel is not None:
            self._bind_for(sku, was_for, -before)
            self._bind_for(sku, hold.channel, after)
        if was_at == hold.location:
            return self._bind(sku, {hold.location: after - before})
        return self._bind(sku, {was_at: -before, hold.location: after})

    def tell_line(
        self, sku: str, key: str, new: Fact, topic: int, offset: int, channel: str | None = None
    ) -> list[Change]:
        """Let an order line take in a fact, told for a channel; what it binds more or less comes back."""
        line = self._orders.get(key)
        if line is None:
            line = OrderLine([-1] * self._topics, [], {}, {})
            self._add(sku, key, line, max(new.time_us, self.clock_us) + CLOSED_HORIZON_US)
        assert isinstance(line, OrderLine)
        if offset <= line.applied[topic]:
            return []
        before, was_for, then = line.left(), line.channels, self._left_then(sku, line)
        line.applied[topic] = offset
        line.add(new, channel)
        self._dirty[key] = None
        self._doubt(key)
        after = line.left()
        if was_for is not None or line.channels is not None:
            self._bind_line_for(sku, was_for, before, -1)
            self._bind_line_for(sku, line.channels, after, 1)
        bound = self._bind(sku, {at: after.get(at, 0) - before.get(at, 0) for at in {**before, **after}})
        return bound + self._allocate_then(then, self._left_then(sku, line))

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        due = (timers[0][0] for timers in (self._passed, self._timers) if timers)
        return min(due, default=None)

    def advance(self, now_us: int) -> Iterator[tuple[str, str, int]]:
        """End the holds whose time has come and forget what closed long ago; a clock set back changes nothing.

        Yields:
            For each hold that ended with units left: the key it bound them at, its reservation, its end.
        """
        now_us = max(now_us, self.clock_us)
        self._look_back()
        ended: set[str] = set()
        while self._timers and self._timers[0][0] <= now_us:
            due_us, kind, key = heappop(self._timers)
            order = self._orders.get(key)
            if order is None:
                continue
            if kind == _FORGET:
                self._forget(key, order, now_us)
            elif kind == _DOUBT:
                self.suspects[key] = None
            elif isinstance(order, Hold) and order.expires_at_us == due_us > self.clock_us and key not in ended:
                ended.add(key)
                if order.left and order.location is not None:
                    self._bind_for(key.partition("|")[0], order.channel, -order.left)
                    [(at, _)] = self._bind(key.partition("|")[0], {order.location: -order.left})
                    yield at, reservation_in(key), due_us
        self.clock_us = now_us

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for key in self._dirty:
            order = self._orders.get(key)
            yield key, None if order is None else _pack(order)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes) -> None:
        """Take back one hold or order line; the clock must have been set before."""
        order = _unpacked(key, packed)
        sku = key.partition("|")[0]
        # Not before an hour is over: its facts may be told late, or by slow clocks.
        due_us = max(order.last_us() + CLOSED_HORIZON_US, self.clock_us + HOUR_US)
        self._add(sku, key, order, min(due_us, self.clock_us + CLOSED_HORIZON_US))
        self._doubt(key)
        if isinstance(order, OrderLine):
            self._bind(sku, dict(order.left()))
            self._bind_line_for(sku, order.channels, order.left(), 1)
            return
        if order.expires_at_us is not None and order.expires_at_us > self.clock_us:
            heappush(self._timers, (order.expires_at_us, _EXPIRE, key))
        self._bind(sku, {order.location: order.open_units(self.clock_us)})
        self._bind_for(sku, order.channel, order.open_units(self.clock_us))

    def restored(self) -> Iterator[None]:
        """Balances and their counts are back, too; yields as `Ledger.restoring` does."""
        for some in in_portions([(sku, key) for sku, lines in self._lines.items() for key in lines]):
            for sku, key in some:
                line = self._orders[key]
                assert isinstance(line, OrderLine)
                self._allocate_then({}, self._left_then(sku, line))
            yield

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key] = None

    def _look_ahead(self, at_us: int) -> None:
        """Note which holds will have ended at a time, without ending them: a renewal may still come."""
        self._ahead_us = max(self._ahead_us, at_us)
        while self._timers and self._timers[0][0] <= at_us:
            timer = heappop(self._timers)
            self._passed.append(timer)
            if timer[1] == _EXPIRE:
                self._note_ahead(timer[2])

    def _note_ahead(self, key: str) -> None:
        at = self._ahead_at.pop(key, None)
        if at is not None:
            self._ahead_units[at] -= self._ahead[at].pop(key)[1]
        hold = self._orders.get(key)
        if not isinstance(hold, Hold) or hold.location is None or not hold.open_units(self.clock_us):
            return
        if hold.expires_at_us is not None and hold.expires_at_us <= self._ahead_us:
            at = self._ahead_at[key] = f"{key.partition('|')[0]}|{hold.location}"
            self._ahead.setdefault(at, {})[key] = hold.expires_at_us, hold.left
            self._ahead_units[at] = self._ahead_units.get(at, 0) + hold.left

    def _look_back(self) -> None:
        """Forget what was noted ahead: the clock goes on."""
        if self._passed:
            self._timers += self._passed
            heapify(self._timers)
            self._passed = []
        if self._ahead_us:
            self._ahead_us = 0
            self._ahead, self._ahead_units, self._ahead_at = {}, {}, {}

    def _add(self, sku: str, key: str, order: Hold | OrderLine, forget_us: int) -> None:
        """Remember a hold or order line, and look at some time whether it can be forgotten."""
        self._orders[key] = order
        self._per_sku[sku] = self._per_sku.get(sku, 0) + 1
        if isinstance(order, OrderLine):
            self._lines.setdefault(sku, {})[key] = None
        heappush(self._timers, (forget_us, _FORGET, key))

    def _doubt(self, key: str) -> None:
        """Have a doubt looked at when it is due; what is due in days is seen by `_forget`, which comes by."""
        for doubt in self.doubts(key):
            if doubt.due_us < max(self.clock_us, self._orders[key].last_us()) + CLOSED_HORIZON_US:
                heappush(self._timers, (doubt.due_us, _DOUBT, key))

    def _bind(self, sku: str, changes: dict[str | None, int] | dict[str, int]) -> list[Change]:
        bound = []
        for location, units in changes.items():
            if units == 0 or location is None:
                continue
            key = f"{sku}|{location}"
            total = self._units.get(key, 0) + units
            if total:
                self._units[key] = total
            else:
                del self._units[key]
            bound.append((key, units))
        return bound

    def _left_then(self, sku: str, line: OrderLine) -> dict[str, int]:
        """What a line had allocated at each key when a net count was taken there."""
        then: dict[str, int] = {}
        for location in line.cells:
            key = f"{sku}|{location}"
            net_us = self._net_us(key)
            if net_us is not None:
                then[key] = line.left_before(net_us).get(location, 0)
        return then

    def _allocate_then(self, before: dict[str, int], after: dict[str, int]) -> list[Change]:
        changed = []
        for key in {**before, **after}:
            units = after.get(key, 0) - before.get(key, 0)
            if units:
                self._then[key] = self._then.get(key, 0) + units
                changed.append((key, 0))
        return changed

    def _bind_for(self, sku: str, channel: str | None, units: int) -> None:
        """Count units that a channel binds more (or, negative, fewer)."""
        if channel is None or units == 0:
            return
        of_sku = self._for_channels.setdefault(sku, {})
        total = of_sku.get(channel, 0) + units
        if total:
            of_sku[channel] = total
            return
        del of_sku[channel]
        if not of_sku:
            del self._for_channels[sku]

    def _bind_line_for(self, sku: str, channels: dict[str, str] | None, left: dict[str, int], sign: int) -> None:
        for location, channel in (channels or _NOTHING_TOLD).items():
            self._bind_for(sku, channel, sign * left.get(location, 0))

    def _forget(self, key: str, order: Hold | OrderLine, now_us: int) -> None:
        """Drop what is closed and no longer expects late facts; ask again later otherwise."""
        sku = key.partition("|")[0]
        if isinstance(order, Hold):
            is_open = order.open_units(now_us) > 0
        else:
            is_open = bool(order.left()) or any(self._left_then(sku, order).values())
        due_us = order.last_us() + CLOSED_HORIZON_US
        if is_open or due_us > now_us:
            # An end in the far future is no reason to look that late: the hold may be released before.
            look_us = min(max(due_us, now_us + HOUR_US), now_us + CLOSED_HORIZON_US)
            heappush(self._timers, (look_us, _FORGET, key))
            for doubt in self.doubts(key):
                if doubt.due_us <= look_us:
                    heappush(self._timers, (doubt.due_us, _DOUBT, key))
            return
        del self._orders[key]
        self._dirty[key] = None
        self.suspects[key] = None
        if isinstance(order, OrderLine):
            del self._lines[sku][key]
            if not self._lines[sku]:
                del self._lines[sku]
        self._per_sku[sku] -= 1
        if not self._per_sku[sku]:
            del self._per_sku[sku]
