"""What the shops of a long run say: one opening per balance, then a mix of facts without end; seeded, never a client.

SKUs are drawn by Zipf's law, so that a few are hot and most are seldom heard of.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import accumulate
from typing import NamedTuple

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, partition_of

LOCATIONS = 10  # Balances per SKU.
SKEW = 1.0  # The n-th SKU is heard of in proportion to n to the power of minus this.
DRAWN_AT_ONCE = 2_000
OPEN_MAX = 2_000  # Holds and order lines that a later fact may still name.
REPEATABLE = 5_000  # A repeat is of one of so many newest facts.
LATE_US_MAX = 2_000_000
HOLD_S = (30, 90)  # Shorter than the run, so that most holds end by timer.
STOCK_TAKE_S = 1.0  # A count says what was there so long ago.

# Percent of all facts. Few holds and order lines: each is remembered for 24 hours, as facts are not.
MIX = {
    "sale": 68,
    "pick_up": 1,
    "receipt": 14,
    "return": 4,
    "count": 3,
    "adjustment": 3,
    "status": 2,
    "hold": 3,
    "release": 0.5,
    "allocation": 0.75,
    "fulfilment": 0.75,
}


class Told(NamedTuple):
    """One fact on the wire; `id` is empty if no record can be expected to name it (a repeat)."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    id: str


class Stamps:
    """RFC 3339 texts of microseconds since 1970; the part up to the second is made once per second."""

    def __init__(self) -> None:
        self._second, self._text = -1, ""

    def __call__(self, us: int) -> str:
        """The text, to the millisecond."""
        second, micro = divmod(us, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{micro // 1000:03d}Z"


def sku_name(number: int) -> str:
    """The SKU with this number."""
    return f"SKU-{number:08d}"


def openings(balances: int, partitions: int, now_us: int) -> Iterator[tuple[int, bytes, bytes]]:
    """One receipt per balance: partition, key and value."""
    at = Stamps()(now_us)
    for number in range(balances // LOCATIONS):
        sku = sku_name(number)
        partition, key = partition_of(sku, partitions), sku.encode()
        for place in range(LOCATIONS):
            units = 20 + (number * 7 + place * 13) % 180
            yield (
                partition,
                key,
                _fact("wms.receipt", f"open-{number}-{place}", f"wms/DC-{place:03d}", at, sku, place, units),
            )


class Shop:
    """Tells one fact after another; not thread-safe."""

    def __init__(self, seed: int, balances: int, partitions: int) -> None:
        self._chance = random.Random(seed)
        self._partitions = partitions
        self._skus = balances // LOCATIONS
        self._weights = list(accumulate((n + 1) ** -SKEW for n in range(self._skus)))
        self._kinds, self._kind_weights = list(MIX), list(accumulate(MIX.values()))
        self._drawn: list[tuple[int, str]] = []
        self._holds: deque[tuple[str, int, str]] = deque(maxlen=OPEN_MAX)
        self._lines: deque[tuple[str, int, str]] = deque(maxlen=OPEN_MAX)
        self._newest: deque[Told] = deque(maxlen=REPEATABLE)
        self._stamp = Stamps()
        self._count = self.new_keys = 0

    def tell(self, now_us: int) -> Told:
        """The next fact; one in twenty happened up to two seconds earlier than now."""
        if not self._drawn:
            skus = self._chance.choices(range(self._skus), cum_weights=self._weights, k=DRAWN_AT_ONCE)
            kinds = self._chance.choices(self._kinds, cum_weights=self._kind_weights, k=DRAWN_AT_ONCE)
            self._drawn = list(zip(skus, kinds, strict=True))
        number, kind = self._drawn.pop()
        late_us = self._chance.randrange(LATE_US_MAX) if self._chance.random() < 0.05 else 0
        told = self._told(kind, sku_name(number), self._chance.randrange(LOCATIONS), now_us - late_us)
        self._newest.append(told)
        return told

    def tell_again(self) -> Told | None:
        """One of the newest facts once more; None before there is one."""
        return self._chance.choice(self._newest)._replace(id="") if self._newest else None

    def tell_of_new_key(self, now_us: int) -> Told:
        """A receipt for a SKU that nobody has heard of."""
        self.new_keys += 1
        return self._told("receipt", f"NEW-{self.new_keys:08d}", self._chance.randrange(LOCATIONS), now_us)

    def _told(self, kind: str, sku: str, place: int, at_us: int) -> Told:
        self._count += 1
        id, units, at = f"e-{self._count}", self._chance.randint(1, 3), self._stamp(at_us)
        topic, extra, type = POS_SALES.name, "", "pos.sale"
        if kind == "pick_up" and self._holds:
            sku, place, reservation = self._holds.popleft()
            extra = f',"reservation":"{reservation}"'
        elif kind == "return":
            type, extra = "pos.return", f',"state":"{self._chance.choice(("sellable", "damaged"))}"'
        elif kind == "receipt":
            topic, type, units = WMS_MOVEMENTS.name, "wms.receipt", self._chance.randint(3, 20)
        elif kind == "count":
            at = self._stamp(at_us - int(STOCK_TAKE_S * 1e6))
            topic, type, units = WMS_MOVEMENTS.name, "wms.count", self._chance.randint(0, 60)
        elif kind == "adjustment":
            topic, type, extra = WMS_MOVEMENTS.name, "wms.adjustment", ',"reason":"found"'
            units *= self._chance.choice((-1, 1))
        elif kind == "status":
            topic, type, extra = WMS_MOVEMENTS.name, "wms.status_changed", ',"from":"sellable","to":"quality_hold"'
        elif kind == "hold":
            until = Stamps()(at_us + self._chance.randint(*HOLD_S) * 1_000_000)
            topic, type = ORDER_RESERVATIONS.name, "reservation.created"
            extra = f',"reservation":"R-{self._count}","mode":"pickup","expires_at":"{until}"'
            self._holds.append((sku, place, f"R-{self._count}"))
        elif kind == "release" and self._holds:
            sku, place, reservation = self._holds.popleft()
            topic, type, extra = ORDER_RESERVATIONS.name, "reservation.released", f',"reservation":"{reservation}"'
        elif kind == "allocation":
            topic, type, extra = ORDER_RESERVATIONS.name, "order.allocated", f',"order_line":"L-{self._count}"'
            self._lines.append((sku, place, f"L-{self._count}"))
        elif kind == "fulfilment" and self._lines:
            sku, place, line = self._lines.popleft()
            topic, type, extra = ORDER_RESERVATIONS.name, "order.fulfilled", f',"order_line":"{line}"'
        value = _fact(type, id, f"{type.partition('.')[0]}/{place:03d}", at, sku, place, units, extra)
        return Told(topic, partition_of(sku, self._partitions), sku.encode(), value, id)


def _fact(type: str, id: str, source: str, at: str, sku: str, place: int, units: int, extra: str = "") -> bytes:
    return (
        f'{{"type":"{type}","id":"{id}","source":"{source}","occurred_at":"{at}","sku":"{sku}",'
        f'"location":"STORE-{place:03d}","units":{units}{extra}}}'
    ).encode()
