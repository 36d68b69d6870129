"""What somebody should look at: alerts that open once and close once per cause; never how they are sent.

An alert is durable before it is sent: its state key keeps its id and what of it is still owed to readers. So a restart
sends the same alert again, never another one, and readers that go by id and state see each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from stock.availability import View

# Stored. State keys of the partition: `sku|location|kind`. Programs that do not know them leave them alone.
ALERT_PREFIX = "|alert|"

Kind = Literal["shortage", "overdue_transfer", "reorder_point"]
State = Literal["open", "closed"]


class Alert(Struct, array_like=True, gc=False):
    """One alert as its state key keeps it. `owed`: the states that no reader may have seen yet, in order."""

    # Stored. Changing these needs a migration.
    id: str
    opened_us: int
    units: int
    owed: list[State]
    closed_us: int | None = None


class Owed(Struct, frozen=True, gc=False):
    """One state of an alert on its way to readers. `name` is `sku|location|kind`."""

    name: str
    state: State
    id: str
    units: int
    opened_us: int
    closed_us: int | None


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
        return ("shortage", 0), ("overdue_transfer", 0), ("reorder_point", 0)
    missing = 0
    if reorder_point is not None:
        position = seen.on_hand - seen.unavailable + seen.in_transit + seen.inbound - seen.committed
        missing = max(0, reorder_point - position + 1)
    return (
        ("shortage", seen.shortage if seen.shortage > backorder_limit else 0),
        ("overdue_transfer", overdue),
        ("reorder_point", missing),
    )


class Alerts:
    """The alerts of one partition that are open or still owed; not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, Alert] = {}
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        """Number of alerts that are open or owed."""
        return len(self._known)

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

        While a closed one is still owed no other of its kind opens: it is judged again once that has been sent.
        """
        for kind, units in conditions(seen, overdue, reorder_point, backorder_limit):
            name = f"{key}|{kind}"
            alert = self._known.get(name)
            if alert is None and units:
                self._known[name] = Alert(f"{name}|{now_us}", now_us, units, ["open"])
                self._dirty[name] = None
            elif alert is not None and not units and alert.closed_us is None:
                alert.closed_us = max(now_us, alert.opened_us)
                alert.owed.append("closed")
                self._dirty[name] = None

    def owed(self) -> list[Owed]:
        """What readers have not been told for sure, oldest state first for each alert."""
        return [
            Owed(name, state, alert.id, alert.units, alert.opened_us, alert.closed_us if state == "closed" else None)
            for name, alert in self._known.items()
            for state in alert.owed
        ]

    def told(self, owed: Owed) -> None:
        """Readers have been told; a closed alert is forgotten then."""
        alert = self._known.get(owed.name)
        if alert is None or alert.id != owed.id or owed.state not in alert.owed:
            return
        alert.owed.remove(owed.state)
        if alert.closed_us is not None and not alert.owed:
            del self._known[owed.name]
        self._dirty[owed.name] = None

    # Durability

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for name in self._dirty:
            alert = self._known.get(name)
            yield ALERT_PREFIX + name, None if alert is None else _encoder.encode(alert)
        self._dirty.clear()

    def restore(self, state_key: str, packed: bytes) -> None:
        """Take back one alert."""
        self._known[state_key.removeprefix(ALERT_PREFIX)] = _decoder.decode(packed)

    def rewrite(self, state_key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[state_key.removeprefix(ALERT_PREFIX)] = None


def check_alert(packed: bytes) -> None:
    """Nothing, if this is the packed value of an alert's state key.

    Raises:
        ValueError: it is not.
    """
    _decoder.decode(packed)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Alert)
