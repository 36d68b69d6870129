"""What is on its way to a location: transfers between locations and expected inbound from outside; never on hand.

Each transfer and each expected inbound is a state key of its own and idempotent by itself, since one fact may concern
a balance at one location and goods on their way to another. What a cancelled transfer gives back to its origin is
kept here too and read together with the origin's balance, so that no second balance has to change with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from stock.doubts import Doubt, Thresholds, of_transfer
from stock.orders import FACTS_MAX, Fact, insert
from stock.timers import Timers
from stock.times import HOUR_US

CLOSED_HORIZON_US = 24 * HOUR_US  # How long a closed transfer or inbound still takes late facts.

# Stored. State keys beside `sku|location`: a location has at least one character and no control character.
_TRANSFER = "|\x1ftransfer\x1f"
_INBOUND = "|\x1finbound\x1f"

TransferKind = Literal["shipped", "rescheduled", "received", "cancelled"]
_RANK = {"shipped": 0, "rescheduled": 1, "received": 1, "cancelled": 1}

_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


class TransferFact(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One fact about a transfer; times are microseconds. `to` and `state` come with what was shipped."""

    time_us: int
    rank: int
    source: str
    id: str
    kind: TransferKind
    location: str
    units: int = 0
    final: bool = False
    eta_us: int | None = None
    to: str = ""
    state: str = "sellable"


def transfer_fact(
    kind: TransferKind, time_us: int, source: str, id: str, location: str, **more: object
) -> TransferFact:
    """A fact, ranked by its kind: at equal times what was shipped comes first."""
    return TransferFact(time_us, _RANK[kind], source, id, kind, location, **more)  # type: ignore[arg-type]


class Shipment(Struct, gc=False, array_like=True):
    """What was shipped at once and how much of it is still on its way."""

    origin: str
    to: str
    left: int
    eta_us: int | None
    state: str


class Given(Struct, frozen=True, gc=False, array_like=True):
    """Units that a cancellation gave back to an origin, in the state in which they were shipped."""

    time_us: int
    location: str
    state: str
    units: int


class Transfer(Struct, gc=False, array_like=True):
    """A transfer of one SKU: the fold of every fact that names it, in the order of their times.

    Received units lower what is on its way to the receiver first, then to others by location id; more than is on its
    way lowers nothing. Units received before anything was shipped (clocks differ) lower the next shipment. `lost`:
    units that a final receipt left over and that neither turned up later nor were cancelled.
    """

    applied: list[int]
    facts: list[TransferFact]
    shipments: list[Shipment] = []
    given: list[Given] = []
    early: int = 0
    lost: int = 0
    base: tuple[list[Shipment], list[Given], int, int] = ([], [], 0, 0)

    def add(self, new: TransferFact) -> bool:
        """Take a fact in and fold anew; False if this very fact was in already."""
        if not insert(self.facts, new):
            return False
        if len(self.facts) > FACTS_MAX:
            self.base = self._folded(self.facts[: FACTS_MAX // 2])
            del self.facts[: FACTS_MAX // 2]
        self.shipments, self.given, self.early, self.lost = self._folded(self.facts)
        return True

    def on_the_way(self) -> dict[str, list[tuple[int, int | None]]]:
        """By destination: units still on their way, each with its ETA."""
        found: dict[str, list[tuple[int, int | None]]] = {}
        for shipment in self.shipments:
            if shipment.left:
                found.setdefault(shipment.to, []).append((shipment.left, shipment.eta_us))
        return found

    def last_us(self) -> int:
        """The time of the newest fact."""
        return self.facts[-1].time_us if self.facts else 0

    def _folded(self, facts: list[TransferFact]) -> tuple[list[Shipment], list[Given], int, int]:
        shipments = [msgspec.structs.replace(shipment) for shipment in self.base[0]]
        given, early, lost = self.base[1].copy(), self.base[2], self.base[3]
        for f in facts:
            if f.kind == "shipped":
                known = min(f.units, early)
                early -= known
                shipments.append(Shipment(f.location, f.to, f.units - known, f.eta_us, f.state))
            elif f.kind == "rescheduled":
                for shipment in shipments:
                    shipment.eta_us = f.eta_us
            elif f.kind == "received":
                early += 0 if shipments else f.units
                taken = _take(f.units, sorted(shipments, key=lambda s: (s.to != f.location, s.to)))
                lost -= min(lost, f.units - sum(units for _, units in taken))
                if f.final:
                    lost += sum(shipment.left for shipment in shipments)
                    for shipment in shipments:
                        shipment.left = 0
            else:
                own_first = sorted(shipments, key=lambda s: (s.origin != f.location, s.origin))
                taken = _take(f.units, own_first)
                lost -= min(lost, f.units - sum(units for _, units in taken))
                for shipment, units in taken:
                    given.append(Given(f.time_us, shipment.origin, shipment.state, units))
        return shipments, given, early, lost


def _take(units: int, shipments: list[Shipment]) -> list[tuple[Shipment, int]]:
    """Lower what is left of these shipments, one after the other; how much each gave."""
    taken = []
    for shipment in shipments:
        moved = min(units, shipment.left)
        if moved:
            shipment.left -= moved
            units -= moved
            taken.append((shipment, moved))
    return taken


class Inbound(Struct, gc=False, array_like=True):
    """Units expected from outside at one location: the newest statement less what was received or cancelled since."""

    applied: list[int]
    facts: list[Fact]
    left: int = 0
    eta_us: int | None = None
    base: tuple[int, int | None] = (0, None)

    def add(self, new: Fact) -> bool:
        """Take a fact in and fold anew; False if this very fact was in already."""
        if not insert(self.facts, new):
            return False
        if len(self.facts) > FACTS_MAX:
            self.base = self._folded(self.facts[: FACTS_MAX // 2])
            del self.facts[: FACTS_MAX // 2]
        self.left, self.eta_us = self._folded(self.facts)
        return True

    def last_us(self) -> int:
        """The time of the newest fact."""
        return self.facts[-1].time_us if self.facts else 0

    def _folded(self, facts: list[Fact]) -> tuple[int, int | None]:
        left, eta_us = self.base
        for f in facts:
            if f.kind == "stated":
                left, eta_us = f.units or 0, f.expires_at_us
            else:
                left -= left if f.units is None else min(f.units, left)
        return left, eta_us


_transfer_decoder = msgspec.msgpack.Decoder(Transfer)
_inbound_decoder = msgspec.msgpack.Decoder(Inbound)


class Incoming(Struct, frozen=True, gc=False):
    """What a key's record says of goods that are not on hand, and what cancelled transfers gave back to it."""

    in_transit: int = 0
    inbound: int = 0
    next_at_us: int | None = None
    given: tuple[Given, ...] = ()


NOTHING = Incoming()


def transfer_key(sku: str, transfer: str) -> str:
    """The state key of a transfer."""
    return f"{sku}{_TRANSFER}{transfer}"


def inbound_key(sku: str, location: str, inbound: str) -> str:
    """The state key of an expected inbound; a location has no control character."""
    return f"{sku}{_INBOUND}{location}\x1f{inbound}"


def _location_in(key: str) -> str:
    return key.partition(_INBOUND)[2].partition("\x1f")[0]


def is_supply_key(key: str) -> bool:
    """Whether a state key belongs to a transfer or an expected inbound."""
    return _TRANSFER in key or _INBOUND in key


def check_supply(key: str, packed: bytes, topics: int) -> None:
    """Nothing, if this is the packed transfer or inbound of a state key.

    Raises:
        ValueError: it is not.
    """
    if len(_unpacked(key, packed).applied) != topics:
        raise ValueError("a transfer or inbound of another shape")


def _unpacked(key: str, packed: bytes) -> Transfer | Inbound:
    return _transfer_decoder.decode(packed) if _TRANSFER in key else _inbound_decoder.decode(packed)


class _Index(Generic[T]):
    """Parts by `sku|location`, each of one transfer or inbound."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, list[T]]] = {}  # by key, then by state key
        self._places: dict[str, list[str]] = {}

    def put(self, state_key: str, new: dict[str, list[T]]) -> list[str]:
        """Let one transfer or inbound have these parts and no others; the keys where that changes something."""
        changed = []
        for at in self._places.pop(state_key, ()):
            if at not in new:
                del self.parts[at][state_key]
                if not self.parts[at]:
                    del self.parts[at]
                changed.append(at)
        for at, parts in new.items():
            known = self.parts.setdefault(at, {})
            if known.get(state_key) != parts:
                known[state_key] = parts
                changed.append(at)
        if new:
            self._places[state_key] = list(new)
        return changed

    def places(self, state_key: str) -> list[str]:
        """The keys at which one transfer or inbound has parts."""
        return self._places.get(state_key, [])


class Supply:
    """Transfers, expected inbound and their sums per `sku|location`; not thread-safe.

    Args:
        topics: number of keyed inputs.
        counted_us: asked for the time of the newest count of a key, 0 if there is none: what was given back before it
            is part of it.
        thresholds: from when on a transfer is in doubt.
    """

    def __init__(self, topics: int, counted_us: Callable[[str], int], thresholds: Thresholds | None = None) -> None:
        self._topics = topics
        self._thresholds = thresholds or Thresholds()
        self._counted_us = counted_us
        self._known: dict[str, Transfer | Inbound] = {}
        self._per_sku: dict[str, int] = {}
        self._coming: _Index[tuple[int, int | None]] = _Index()  # units on their way, with ETA
        self._given: _Index[Given] = _Index()
        self._etas = Timers()  # the next ETA of each transfer and inbound, by state key
        self._forgetting = Timers()
        self._doubting = Timers()
        self._dirty: dict[str, None] = {}
        self.suspects: dict[str, None] = {}  # state keys of which somebody should see now whether they are in doubt

    def __len__(self) -> int:
        """Number of transfers and inbounds remembered, open or closed."""
        return len(self._known)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def count(self, sku: str) -> int:
        """How many transfers and inbounds of a SKU are remembered."""
        return self._per_sku.get(sku, 0)

    def __contains__(self, state_key: str) -> bool:
        """Whether a transfer or inbound is remembered."""
        return state_key in self._known

    def incoming(self, key: str, clock_us: int) -> Incoming:
        """What is on its way to `sku|location` at a time, and what came back to it."""
        coming, given = self._coming.parts.get(key), self._given.parts.get(key)
        if coming is None and given is None:
            return NOTHING
        in_transit = inbound = 0
        etas = []
        for state_key, parts in (coming or {}).items():
            for units, eta_us in parts:
                if _TRANSFER in state_key:
                    in_transit += units
                else:
                    inbound += units
                if eta_us is not None and eta_us > clock_us:
                    etas.append(eta_us)
        back = tuple(one for parts in (given or {}).values() for one in parts)
        return Incoming(in_transit, inbound, min(etas, default=None), back)

    def overdue(self, key: str, clock_us: int) -> int:
        """Units of transfers that should have arrived at `sku|location` by a time."""
        coming = self._coming.parts.get(key, {}).items()
        late = [part for state_key, parts in coming if _TRANSFER in state_key for part in parts]
        return sum(units for units, eta_us in late if eta_us is not None and eta_us <= clock_us)

    def dated(self, key: str) -> list[tuple[int, int | None]]:
        """Units on their way to `sku|location`, each with its ETA, in no order."""
        return [part for parts in self._coming.parts.get(key, {}).values() for part in parts]

    def doubts(self, state_key: str) -> tuple[Doubt, ...]:
        """What there is to say against a transfer, by its state key."""
        known = self._known.get(state_key)
        return of_transfer(known, self._thresholds) if isinstance(known, Transfer) else ()

    def tell_transfer(self, sku: str, key: str, new: TransferFact, topic: int, offset: int) -> list[str]:
        """Let a transfer take in a fact; the keys `sku|location` that it changes come back."""
        transfer = self._known.get(key)
        if transfer is None:
            transfer = Transfer([-1] * self._topics, [])
            self._add(sku, key, transfer, new.time_us)
        assert isinstance(transfer, Transfer)
        if offset <= transfer.applied[topic]:
            return []
        transfer.applied[topic] = offset
        transfer.add(new)
        self._dirty[key] = None
        self._doubt(key)
        return self._index(sku, key, transfer)

    def tell_inbound(self, sku: str, key: str, new: Fact, topic: int, offset: int) -> list[str]:
        """Let an expected inbound take in a fact; the key `sku|location` comes back if it changes."""
        inbound = self._known.get(key)
        if inbound is None:
            inbound = Inbound([-1] * self._topics, [])
            self._add(sku, key, inbound, new.time_us)
        assert isinstance(inbound, Inbound)
        if offset <= inbound.applied[topic]:
            return []
        inbound.applied[topic] = offset
        inbound.add(new)
        self._dirty[key] = None
        return self._index(sku, key, inbound)

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        due = (self._etas.next_us(), self._doubting.next_us(), self._forgetting.next_us())
        return min((at for at in due if at is not None), default=None)

    def advance(self, now_us: int) -> Iterator[tuple[str, int]]:
        """Forget what closed long ago.

        Yields:
            The keys `sku|location` with an ETA that has passed, and that ETA.
        """
        while (timer := self._etas.pop(now_us)) is not None:
            due_us, key = timer
            for at in self._coming.places(key):
                if any(eta_us == due_us for _, eta_us in self._coming.parts[at][key]):
                    yield at, due_us
            self._set_eta(key, due_us)
        while (timer := self._doubting.pop(now_us)) is not None:
            self.suspects[timer[1]] = None
        while (timer := self._forgetting.pop(now_us)) is not None:
            if timer[1] in self._known:
                self._forget(timer[1], now_us)

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for key in self._dirty:
            known = self._known.get(key)
            yield key, None if known is None else _encoder.encode(known)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes) -> list[str]:
        """Take back one transfer or inbound; the keys `sku|location` to which it was sent or announced come back."""
        known = _unpacked(key, packed)
        sku = key.partition("|")[0]
        self._add(sku, key, known, known.last_us())
        self._index(sku, key, known)
        self._doubt(key)
        if isinstance(known, Transfer):
            return [f"{sku}|{shipment.to}" for shipment in known.shipments]
        return [f"{sku}|{_location_in(key)}"]

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key] = None

    def _add(self, sku: str, key: str, known: Transfer | Inbound, time_us: int) -> None:
        self._known[key] = known
        self._per_sku[sku] = self._per_sku.get(sku, 0) + 1
        self._forgetting.set(key, time_us + CLOSED_HORIZON_US)

    def _doubt(self, key: str) -> None:
        for doubt in self.doubts(key):
            self._doubting.set(key, doubt.due_us)

    def _index(self, sku: str, key: str, known: Transfer | Inbound) -> list[str]:
        """Bring the sums per key up to a transfer or inbound; the keys that changed come back."""
        coming: dict[str, list[tuple[int, int | None]]] = {}
        given: dict[str, list[Given]] = {}
        if isinstance(known, Transfer):
            coming = {f"{sku}|{to}": parts for to, parts in known.on_the_way().items()}
            for one in known.given:
                given.setdefault(f"{sku}|{one.location}", []).append(one)
        elif known.left:
            coming = {f"{sku}|{_location_in(key)}": [(known.left, known.eta_us)]}
        changed = dict.fromkeys((*self._coming.put(key, coming), *self._given.put(key, given)))
        if changed:
            self._set_eta(key, None)
        return list(changed)

    def _set_eta(self, key: str, after_us: int | None) -> None:
        """Set the timer of a transfer or inbound to its first ETA, or to the first after a time."""
        parts = [part for at in self._coming.places(key) for part in self._coming.parts[at][key]]
        etas = [eta_us for _, eta_us in parts if eta_us is not None and (after_us is None or eta_us > after_us)]
        self._etas.set(key, min(etas, default=None))

    def _forget(self, key: str, now_us: int) -> None:
        """Drop what is closed and no longer expects late facts; ask again later otherwise."""
        known = self._known[key]
        sku = key.partition("|")[0]
        if isinstance(known, Transfer):
            # A count includes what came back for sale before it; counters of other states go on for ever.
            is_open = any(shipment.left for shipment in known.shipments) or any(
                one.state != "sellable" or one.time_us >= self._counted_us(f"{sku}|{one.location}")
                for one in known.given
            )
        else:
            is_open = known.left > 0
        due_us = known.last_us() + CLOSED_HORIZON_US
        if is_open or due_us > now_us:
            self._forgetting.set(key, max(due_us, now_us + HOUR_US))
            return
        del self._known[key]
        self._given.put(key, {})
        self._dirty[key] = None
        self.suspects[key] = None
        self._per_sku[sku] -= 1
        if not self._per_sku[sku]:
            del self._per_sku[sku]
