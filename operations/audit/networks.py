"""The network records: added up again from the records expected of each location, against the topic and the view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import polars as pl

from operations.audit.expected import MODES, STATUS_ORDER, channels_of, expected_records, network_values
from operations.audit.log import LogRecord
from operations.audit.published import Entry, Key
from operations.audit.recompute import Recomputed
from operations.audit.report import Findings
from schemas import records, topics
from stock import events

VIEW_PREFIX = b"network:"
ALL_CHANNELS = "*"
SUMS = ("on_hand", "committed", "in_transit", "inbound", "shortage", "backorder_left")
FIELDS = ("locations_in_stock", "locations_unknown", *MODES.values(), *SUMS)


class PublishedNetworks:
    """The network topic as a reader keeps it: the newest version by SKU and channel; null removes the key."""

    def __init__(self, partitions: int, findings: Findings) -> None:
        self._partitions, self._findings = partitions, findings
        self._newest: dict[Key, tuple[records.NetworkAvailability, bytes]] = {}

    def add(self, batch: Iterable[LogRecord]) -> None:
        """Records in the order of their partition."""
        for record in batch:
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            sku, _, channel = (record.key or b"").decode(errors="replace").partition("|")
            if not channel or topics.partition_of(sku, self._partitions) != record.partition:
                self._findings.add("network topic", f"{where} has a wrong key or partition: {record.key!r}")
            elif record.value is None:
                self._newest.pop((sku, channel), None)
            else:
                self._take(where, (sku, channel), record.value)

    def _take(self, where: str, key: Key, value: bytes) -> None:
        try:
            record = records.decode_network(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._findings.add("network topic", f"{where} is not a record: {error}")
            return
        known = self._newest.get(key)
        if known is None or record.version >= known[0].version:
            self._newest[key] = record, value

    def entries(self) -> dict[Key, Entry]:
        """The newest record of every key, as bytes."""
        return {key: Entry(record.version, value) for key, (record, value) in self._newest.items()}

    def by_key(self) -> dict[Key, records.NetworkAvailability]:
        """The newest record of every key."""
        return {key: record for key, (record, _) in self._newest.items()}


def compare_networks(
    recomputed: Recomputed,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int,
    published: Mapping[Key, records.NetworkAvailability],
    findings: Findings,
) -> None:
    """Every SKU must have the network records that its locations add up to; nothing else may be published.

    Args:
        recomputed: the balances; SKUs of which something ended while the outputs were read are not judged.
        settings, items: by Kafka key, the messages that hold.
        at_us: the moment that decides which dated policies hold.
        published: the newest network records.
        findings: where differences go.
    """
    expected = expected_networks(recomputed, settings, items, at_us)
    flux = {sku for sku, _ in recomputed.in_flux}
    for sku, channel in sorted(published.keys() | expected.keys()):
        if sku in flux:
            continue
        want, have = expected.get((sku, channel)), published.get((sku, channel))
        if want is None or have is None:
            text = "is published, but no fact or policy names it" if want is None else "is not published"
            findings.add("recomputed and network", f"{sku}|{channel} {text}")
            continue
        should = {name: [want[name]] for name in FIELDS}
        should.update({f"status_{mode}": want[f"statuses_{mode}"] for mode in MODES})
        unlike = [name for name, legal in should.items() if getattr(have, name) not in legal]
        if have.status != min(have.status_ship, have.status_pickup, key=STATUS_ORDER.__getitem__):
            unlike.append("status")
            should["status"] = ["the better of both"]
        if unlike:
            told = "; ".join(
                f"{name} is {getattr(have, name)}, recomputed {' or '.join(map(str, should[name]))}" for name in unlike
            )
            findings.add("recomputed and network", f"{sku}|{channel} {told}")


def expected_networks(
    recomputed: Recomputed,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int,
) -> dict[Key, dict[str, Any]]:
    """By SKU and channel: the sums, what can be sold, and for each mode the statuses that are right."""
    skus = recomputed.balances.select("sku").unique()
    named = channels_of(skus, settings, items, at_us)
    kept = _kept(skus, settings, items, at_us, named, recomputed.bound)
    found: dict[Key, dict[str, Any]] = {}
    for channel in (None, *named):
        places = expected_records(recomputed.balances, settings, items, at_us, channel)
        if channel is not None:
            places = places.filter(pl.col("sku").is_in(named[channel]))
        others = kept.clear() if channel is None else kept.filter(pl.col("channel") != channel)
        reserved = others.group_by("sku").agg(pl.col("keeps_ship", "keeps_pickup").sum())
        for row in _added_up(places, settings, items, at_us, channel, reserved).iter_rows(named=True):
            found[row["sku"], channel or ALL_CHANNELS] = row
    return found


def _kept(
    skus: pl.DataFrame,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int,
    named: Mapping[str, list[str]],
    bound: Mapping[Key, int],
) -> pl.DataFrame:
    """What each channel still keeps from the others, by SKU, channel and mode: its quota less what is bound for it."""
    schema = {"sku": pl.String(), "channel": pl.String(), "keeps_ship": pl.Int64(), "keeps_pickup": pl.Int64()}
    rows = []
    for channel, of_skus in named.items():
        values = network_values(skus.filter(pl.col("sku").is_in(of_skus)), settings, items, at_us, channel)
        for sku, ship, pickup in values.select("sku", "quota_ship", "quota_pickup").iter_rows():
            used = bound.get((sku, channel), 0)
            rows.append((sku, channel, max(0, ship - used), max(0, pickup - used)))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _added_up(
    places: pl.DataFrame,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int,
    channel: str | None,
    reserved: pl.DataFrame,
) -> pl.DataFrame:
    """One row per SKU: the sums, what can be sold, and for each mode the statuses that are right."""
    first = places.filter(pl.col("alternative") == 0)
    off = {mode: pl.col(f"reason_{mode}").is_in(["location_off", "excluded"]).fill_null(False) for mode in MODES}
    unknown = {mode: pl.col(f"status_{mode}") == "UNKNOWN" for mode in MODES}
    known = {mode: ~off[mode] & ~unknown[mode] for mode in MODES}
    some = pl.any_horizontal(*(pl.col(units).fill_null(0) > 0 for units in MODES.values()))
    sums = first.group_by("sku").agg(
        *(pl.col(name).sum() for name in SUMS),
        *(pl.col(units).sum() for units in MODES.values()),
        *(pl.col("raw").filter(known[mode]).sum().alias(f"raw_{mode}") for mode in MODES),
        some.sum().cast(pl.Int64).alias("locations_in_stock"),
        pl.any_horizontal(*unknown.values()).sum().cast(pl.Int64).alias("locations_unknown"),
        *(known[mode].sum().alias(f"known_{mode}") for mode in MODES),
        *(unknown[mode].sum().alias(f"unknown_{mode}") for mode in MODES),
        *((known[mode] & (pl.col("backorder_left") > 0)).any().alias(f"backorder_{mode}") for mode in MODES),
    )
    sums = network_values(sums, settings, items, at_us, channel).join(reserved, on="sku", how="left")
    zero = pl.lit(0, pl.Int64)
    for mode, units in MODES.items():
        own = pl.col(f"network_safety_stock_{mode}")
        total = pl.when(own.is_null()).then(pl.col(units)).otherwise(pl.col(f"raw_{mode}") - own)
        total = pl.max_horizontal(zero, total - pl.col(f"keeps_{mode}").fill_null(0))
        total = pl.when((pl.col("lifecycle") == "preorder") | (pl.col(f"known_{mode}") == 0)).then(0).otherwise(total)
        sums = sums.with_columns(total.alias(units))
        sums = sums.with_columns(_statuses(mode, units).alias(f"statuses_{mode}"))
        # Nothing but unknown: the number is not known either.
        not_known = (pl.col(f"known_{mode}") == 0) & (pl.col(f"unknown_{mode}") > 0)
        sums = sums.with_columns(pl.when(not_known).then(None).otherwise(pl.col(units)).alias(units))
    return sums


def _statuses(mode: str, units: str) -> pl.Expr:
    def only(*statuses: str) -> pl.Expr:
        return pl.lit(list(statuses), pl.List(pl.String))

    none_known, total = pl.col(f"known_{mode}") == 0, pl.col(units)
    return (
        pl.when(none_known & (pl.col(f"unknown_{mode}") > 0))
        .then(only("UNKNOWN"))
        .when(none_known)
        .then(only("OUT_OF_STOCK"))
        .when((total > 0) & (total <= pl.col(f"enter_{mode}")))
        .then(only("LOW_STOCK"))
        .when((total > 0) & (total < pl.col(f"exit_{mode}")))
        .then(only("LOW_STOCK", "IN_STOCK"))
        .when(total > 0)
        .then(only("IN_STOCK"))
        .when((pl.col("lifecycle") == "preorder") & pl.col(f"backorder_{mode}"))
        .then(only("PREORDERABLE"))
        .when(pl.col("lifecycle") == "discontinued")
        .then(only("DISCONTINUED"))
        .when(pl.col(f"backorder_{mode}"))
        .then(only("BACKORDERABLE"))
        .otherwise(only("OUT_OF_STOCK"))
    )
