"""What somebody should look at: alerts that open once and close once per cause; never how they are sent.

An alert is durable before it is sent: its state key keeps its id and what of it is still owed to readers. So a restart
sends the same alert again, never another one, and readers that go by id and state see each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from stock.availability import LOW_STOCK, View
from stock.doubts import Doubt, DoubtKind
from stock.times import HOUR_US

# Stored. State keys of the partition: `sku|location|kind`, and `|reference` behind it where there is one. Programs that
# do not know them leave them alone.
ALERT_PREFIX = "|alert|"

Kind = Literal[
    "shortage",
    "overdue_transfer",
    "reorder_point",
    "low_stock",
    "unknown_location",
    "orphaned_hold",
    "orphaned_allocation",
    "unclaimed",
    "transfer_short",
    "count_variance",
    "count_too_old",
    "unmatched_echo",
]
State = Literal["open", "closed"]

KINDS: tuple[Kind, ...] = get_args(Kind)
OF_KEYS: tuple[Kind, ...] = ("shortage", "overdue_transfer", "reorder_point", "low_stock")
OF_REFERENCES: tuple[DoubtKind, ...] = get_args(DoubtKind)
OPEN_MAX = 10_000  # Alerts of one kind and partition; more tell nobody anything. About 1 KB each.
ENDED_KEPT_US = HOUR_US  # How long the state keeps an alert that ended; late records are late by minutes.
ENDED_MAX = 20_000  # ... and so many per partition; under 1 KB each.


class Alert(Struct, array_like=True, gc=False):
    """One alert as its state key keeps it. `owed`: the states that no reader may have seen yet, in order."""

    # Stored. Changing these needs a migration.
    id: str
    opened_us: int
    units: int
    owed: list[State]
    closed_us: int | None = None
    references: dict[str, str] = {}


class Owed(Struct, frozen=True, gc=False):
    """One state of an alert on its way to readers."""

    name: str
    state: State
    id: str
    units: int
    opened_us: int
    closed_us: int | None
    references: Mapping[str, str]


class Name(Struct, frozen=True, gc=False):
    """What an alert is about. `reference` is empty where that is a key or a location itself."""

    sku: str
    location: str
    kind: str
    reference: str = ""

    @property
    def key(self) -> str:
        """SKU and location."""
        return f"{self.sku}|{self.location}"


def name_of(key: str, kind: Kind, reference: str = "") -> str:
    """The name of an alert about `sku|location`; only a reference may have bars."""
    return f"{key}|{kind}|{reference}" if reference else f"{key}|{kind}"


def parts_of(name: str) -> Name:
    """What a name says."""
    return Name(*name.split("|", 3))


def reference_of(state_key: str) -> str:
    """How the state key of a hold, order line or transfer is called in an alert's name."""
    return state_key.partition("|\x1f")[2].replace("\x1f", "/")


def state_key_of(sku: str, reference: str) -> str:
    """The state key that `reference_of` was given; ids have no control characters, but may have slashes."""
    separators = 2 if reference.startswith("hold/") else 1
    return f"{sku}|\x1f" + reference.replace("/", "\x1f", separators)


def conditions(
    seen: View, overdue: int = 0, reorder_point: int | None = None, backorder_limit: int = 0
) -> tuple[tuple[Kind, int], ...]:
    """Which alerts hold for a key now, each with its units; 0 if it does not hold.

    Args:
        seen: what can be sold there.
        overdue: units of transfers that should have arrived by now.
        backorder_limit: so much may be short on purpose.
        reorder_point: at so many units, on hand or on their way and not promised, it is time to order; None: never.
    """
    if seen.delisted:
        return tuple((kind, 0) for kind in OF_KEYS)
    missing = 0
    if reorder_point is not None:
        position = seen.on_hand - seen.unavailable + seen.in_transit + seen.inbound - seen.committed
        missing = max(0, reorder_point - position + 1)
    better = seen.better
    return (
        ("shortage", seen.shortage if seen.shortage > backorder_limit else 0),
        ("overdue_transfer", overdue),
        ("reorder_point", missing),
        ("low_stock", better.available or 0 if better.status == LOW_STOCK else 0),
    )


class Alerts:
    """The alerts of one partition that are open or still owed; not thread-safe.

    While a closed one is still owed no other of its name opens. One that ended stays in the state for a while: a
    deletion carries no generation, so a fenced writer's late one must not find a successor in its place. `at` says
    which names a key has, `about` which a state key of a hold, order line or transfer has, `places` which a location
    has that nobody described.
    """

    def __init__(self) -> None:
        self._known: dict[str, Alert] = {}
        self._dirty: dict[str, None] = {}
        self._owing: dict[str, None] = {}
        self._ended: dict[str, Alert] = {}
        self._endings: list[tuple[int, str]] = []  # when what ended is deleted
        self.at: dict[str, dict[str, None]] = {}
        self.about: dict[str, dict[str, None]] = {}
        self.places: dict[str, str] = {}
        self.open_by_kind: dict[str, int] = {}
        self.left_out = 0  # how often one did not open, because there were so many of its kind

    def __len__(self) -> int:
        """Number of alerts that are open or owed."""
        return len(self._known)

    # What holds

    def judge(
        self,
        key: str,
        seen: View,
        now_us: int,
        overdue: int = 0,
        reorder_point: int | None = None,
        backorder_limit: int = 0,
    ) -> None:
        """Open and close the alerts of `sku|location` as it is now.

        One that could not open, since its predecessor is still owed, is judged again once that has been sent.
        """
        known = self.at.get(key, ())
        for kind, units in conditions(seen, overdue, reorder_point, backorder_limit):
            if units:
                if name_of(key, kind) not in known:
                    self.open(key, kind, units, now_us)
            elif known and name_of(key, kind) in known:
                self.close(name_of(key, kind), now_us)

    def settle(self, state_key: str, doubts: Sequence[Doubt], due_us: int, now_us: int) -> None:
        """Open the alerts of a hold, order line or transfer for doubts that are due, and close those without one."""
        sku, reference = state_key.partition("|")[0], reference_of(state_key)
        known = {parts_of(name).kind: name for name in self.about.get(state_key, ())}
        for kind in OF_REFERENCES:
            doubt = next((one for one in doubts if one.kind == kind and one.due_us <= due_us), None)
            if doubt is None and kind in known:
                self.close(known[kind], now_us)
            elif doubt is not None and kind not in known:
                named = _named_by(reference)
                self.open(f"{sku}|{doubt.location}", kind, doubt.units, now_us, reference, named)

    def settle_places(self, unknown: Mapping[str, str], now_us: int) -> None:
        """Let exactly these locations, each with a SKU that is told of there, be those that nobody described."""
        for location, name in list(self.places.items()):
            if location not in unknown:
                self.close(name, now_us)
        for location, sku in unknown.items():
            if location not in self.places:
                self.open(f"{sku}|{location}", "unknown_location", 0, now_us)

    def open(
        self,
        key: str,
        kind: Kind,
        units: int,
        at_us: int,
        reference: str = "",
        references: Mapping[str, str] | None = None,
    ) -> None:
        """Open an alert about `sku|location`, as of a time; nothing, if it is there, open or not yet told closed."""
        name = name_of(key, kind, reference)
        if name in self._known:
            return
        if self.open_by_kind.get(kind, 0) >= OPEN_MAX:
            self.left_out += 1
            return
        self._ended.pop(name, None)
        self._keep(name, Alert(f"{name}|{at_us}", at_us, units, ["open"], None, dict(references or {})))
        self._dirty[name] = None

    def close(self, name: str, at_us: int) -> None:
        """Close an alert, as of a time; nothing, if it is not open."""
        alert = self._known.get(name)
        if alert is None or alert.closed_us is not None:
            return
        alert.closed_us = max(at_us, alert.opened_us)
        alert.owed.append("closed")
        self._owing[name] = None
        self._dirty[name] = None
        self.open_by_kind[parts_of(name).kind] -= 1

    def close_all(self, key: str, kind: Kind, at_us: int, but: str = "") -> None:
        """Close every alert of a kind about `sku|location`, whatever it refers to, but for one by its name."""
        for name in list(self.at.get(key, ())):
            if name != but and parts_of(name).kind == kind:
                self.close(name, at_us)

    # What readers are told

    def owed(self) -> list[Owed]:
        """What readers have not been told for sure, oldest state first for each alert."""
        return [
            Owed(
                name, state, alert.id, alert.units, alert.opened_us,
                alert.closed_us if state == "closed" else None, alert.references,
            )
            for name in self._owing
            for alert in (self._known[name],)
            for state in alert.owed
        ]  # fmt: skip

    @property
    def owes(self) -> bool:
        """Whether readers are still to be told of something."""
        return bool(self._owing)

    def told(self, owed: Owed) -> None:
        """Readers have been told; a closed alert has ended then."""
        alert = self._known.get(owed.name)
        if alert is None or alert.id != owed.id or owed.state not in alert.owed:
            return
        alert.owed.remove(owed.state)
        if not alert.owed:
            del self._owing[owed.name]
            if alert.closed_us is not None:
                self._drop(owed.name)
                self._end(owed.name, alert)
        self._dirty[owed.name] = None

    def open_at(self, key: str) -> list[tuple[Name, Alert]]:
        """The open alerts about `sku|location`, or about its location; looks at all there are, so for tools only."""
        parts = [(parts_of(name), alert) for name, alert in self._known.items() if alert.closed_us is None]
        location = key.partition("|")[2]
        return [
            (name, alert)
            for name, alert in parts
            if name.key == key or (name.kind == "unknown_location" and name.location == location)
        ]

    # Durability

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        return self._endings[0][0] if self._endings else None

    def advance(self, now_us: int) -> None:
        """Delete what ended long ago, or what ended first if there is too much of it."""
        while self._endings and (self._endings[0][0] <= now_us or len(self._ended) > ENDED_MAX):
            due_us, name = heappop(self._endings)
            alert = self._ended.get(name)
            if alert is not None and _due(alert) == due_us:
                del self._ended[name]
                self._dirty[name] = None

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for name in self._dirty:
            alert = self._known.get(name) or self._ended.get(name)
            yield ALERT_PREFIX + name, None if alert is None else _encoder.encode(alert)
        self._dirty.clear()

    def restore(self, state_key: str, packed: bytes) -> None:
        """Take back one alert."""
        name, alert = state_key.removeprefix(ALERT_PREFIX), _decoder.decode(packed)
        if alert.closed_us is not None and not alert.owed:
            self._end(name, alert)
        else:
            self._keep(name, alert)

    def rewrite(self, state_key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[state_key.removeprefix(ALERT_PREFIX)] = None

    # Inside

    def _keep(self, name: str, alert: Alert) -> None:
        self._known[name] = alert
        if alert.owed:
            self._owing[name] = None
        parts = parts_of(name)
        if alert.closed_us is None:
            self.open_by_kind[parts.kind] = self.open_by_kind.get(parts.kind, 0) + 1
        if parts.kind == "unknown_location":
            self.places[parts.location] = name
        elif parts.kind in OF_REFERENCES:
            self.about.setdefault(state_key_of(parts.sku, parts.reference), {})[name] = None
        else:
            self.at.setdefault(parts.key, {})[name] = None

    def _end(self, name: str, alert: Alert) -> None:
        self._ended[name] = alert
        heappush(self._endings, (_due(alert), name))

    def _drop(self, name: str) -> None:
        del self._known[name]
        parts = parts_of(name)
        if parts.kind == "unknown_location":
            del self.places[parts.location]
            return
        is_of_reference = parts.kind in OF_REFERENCES
        index = self.about if is_of_reference else self.at
        at = state_key_of(parts.sku, parts.reference) if is_of_reference else parts.key
        del index[at][name]
        if not index[at]:
            del index[at]


def _due(ended: Alert) -> int:
    assert ended.closed_us is not None
    return ended.closed_us + ENDED_KEPT_US


def _named_by(reference: str) -> dict[str, str]:
    """The ids in the reference of a hold, order line or transfer, by what they name."""
    what, _, rest = reference.partition("/")
    if what != "hold":
        return {"order_line" if what == "order" else what: rest}
    length, _, rest = rest.partition("/")
    reservation, line = rest[: int(length)], rest[int(length) :]
    return {"reservation": reservation, "line": line} if line else {"reservation": reservation}


def check_alert(packed: bytes) -> None:
    """Nothing, if this is the packed value of an alert's state key.

    Raises:
        ValueError: it is not.
    """
    _decoder.decode(packed)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Alert)
