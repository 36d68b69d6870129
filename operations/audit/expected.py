"""What should be published for each balance under the settings that hold: a second, independent formula.

Each rule is a column expression written from the contract; the pipeline's own formula is never used.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from schemas.records import micros
from stock import events

MODES = {"ship": "available_to_ship", "pickup": "available_in_store"}
LOW_STOCK_ENTER = 3  # Where no policy says otherwise.

# Best first: the record's own status is the better of its two modes.
STATUS_ORDER = {
    "IN_STOCK": 0,
    "LOW_STOCK": 1,
    "BACKORDERABLE": 2,
    "PREORDERABLE": 3,
    "UNKNOWN": 4,
    "DISCONTINUED": 5,
    "OUT_OF_STOCK": 6,
}

# In the order in which they decide between two policies that name equally many. A channel names no balance.
_SCOPE_FIELDS = ("sku", "location", "channel", "mode", "category", "brand", "region", "location_kind")
_ASKED_FOR = ("mode", "channel")  # Named by the question, not by the row.
_VALUES: dict[str, pl.DataType] = {
    "safety_stock": pl.Int64(),
    "safety_percent": pl.Int64(),
    "buffer": pl.Int64(),
    "stale_buffer": pl.Int64(),
    "low_stock_enter": pl.Int64(),
    "low_stock_exit": pl.Int64(),
    "enabled": pl.Boolean(),
    "backorder_limit": pl.Int64(),
    "reorder_point": pl.Int64(),
    "quota": pl.Int64(),
    "network_safety_stock": pl.Int64(),
}
_NETWORK_VALUES = ("low_stock_enter", "low_stock_exit", "quota", "network_safety_stock")
_MODE_VALUES = tuple(name for name in _VALUES if name not in ("backorder_limit", "reorder_point", *_NETWORK_VALUES[2:]))
_POLICY_SCHEMA: dict[str, pl.DataType] = {
    "policy": pl.String(),
    **{name: pl.String() for name in _SCOPE_FIELDS},
    "until_us": pl.Int64(),
    **_VALUES,
}


def expected_records(
    balances: pl.DataFrame,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None] | None = None,
    at_us: int | None = None,
    channel: str | None = None,
) -> pl.DataFrame:
    """One row per row of `balances` with everything a record says except its volatile fields; none if delisted.

    `status`, `reason` and `policy` depend on which mode is the better one, and inside the low-stock band
    either status of a mode is right: so `band_ship` and `band_pickup` mark the band, and `with_overall` adds
    the three.

    Args:
        balances: as in `Recomputed.balances`.
        settings: by Kafka key, the messages that hold.
        items: by SKU, the items that hold; None where one was removed.
        at_us: the moment that decides which dated policies hold and which feeds are stale; None for all and none.
        channel: whose policies hold, too: what a network of the channel is made of.
    """
    policies, locations = _policies(settings, at_us, channel), _locations(settings)
    records = balances.join(locations, on="location", how="left").with_columns(
        pl.col("ship_enabled", "pickup_enabled").fill_null(True), pl.col("location_kind").fill_null("store")
    )
    records = records.join(_silent(settings, at_us), on="location", how="left", maintain_order="left").with_columns(
        pl.col("stale").fill_null(False)
    )
    records = (
        records.join(_items(items or {}), on="sku", how="left", maintain_order="left")
        .with_columns(pl.col("lifecycle").fill_null("active"))
        .filter(pl.col("lifecycle") != "delisted")
    )
    raw = pl.col("on_hand") - pl.col("unavailable") - pl.col("committed")
    records = records.with_columns(
        raw=raw,
        shortage=pl.max_horizontal(pl.lit(0, pl.Int64), -raw),
    )
    of_mode = {mode: policies.filter(pl.col("mode").is_null() | (pl.col("mode") == mode)) for mode in MODES}
    for mode in MODES:
        records = _with_value(records, of_mode[mode], "enabled").with_columns(
            (~pl.col(f"{mode}_enabled") | ~pl.col("enabled").fill_null(True)).alias(f"off_{mode}")
        )
        records = records.drop("enabled", "enabled_by")
    of_none = policies.filter(pl.col("mode").is_null() & pl.col("channel").is_null())
    records = _with_value(records, of_none, "reorder_point")
    records = _with_value(records, of_none, "backorder_limit").with_columns(
        backorder_left=pl.when(pl.col("off_ship") & pl.col("off_pickup"))
        .then(pl.lit(0, pl.Int64))
        .otherwise((pl.col("backorder_limit").fill_null(0) - pl.col("shortage")).clip(lower_bound=0))
    )
    for mode in MODES:
        records = _with_mode(records, of_mode[mode], mode)
    return records


def network_values(
    skus: pl.DataFrame,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int | None,
    channel: str | None,
) -> pl.DataFrame:
    """What holds for SKUs over all locations, so by policies that name no place, in a channel or (None) in all.

    Adds `lifecycle` and, for each mode, `enter_<mode>`, `exit_<mode>`, `quota_<mode>` and, null where there is none,
    `network_safety_stock_<mode>`.
    """
    nowhere = {name: pl.lit(None, pl.String) for name in ("location", "location_kind", "region")}
    policies = _policies(settings, at_us, channel).filter(pl.col(name).is_null() for name in nowhere)
    values = skus.join(_items(items), on="sku", how="left", maintain_order="left")
    values = values.with_columns(pl.col("lifecycle").fill_null("active"), **nowhere)
    for mode in MODES:
        of_mode = policies.filter(pl.col("mode").is_null() | (pl.col("mode") == mode))
        for name in _NETWORK_VALUES:
            values = _with_value(values, of_mode, name)
        enter = pl.col("low_stock_enter").fill_null(LOW_STOCK_ENTER)
        values = values.with_columns(
            enter.alias(f"enter_{mode}"),
            pl.max_horizontal(pl.col("low_stock_exit").fill_null(0), enter + 1).alias(f"exit_{mode}"),
            pl.col("quota").fill_null(0).alias(f"quota_{mode}"),
            pl.col("network_safety_stock").alias(f"network_safety_stock_{mode}"),
        )
        values = values.drop(*_NETWORK_VALUES, *(f"{name}_by" for name in _NETWORK_VALUES))
    return values.drop("brand", "category", *nowhere)


def with_overall(records: pl.DataFrame) -> pl.DataFrame:
    """Adds `status`, `reason` and `policy`: those of the better mode, of ship where both are equal."""
    rank = {mode: _rank(pl.col(f"status_{mode}")) for mode in MODES}
    ship = rank["ship"] <= rank["pickup"]
    return records.with_columns(
        **{
            name: pl.when(ship).then(pl.col(f"{name}_ship")).otherwise(pl.col(f"{name}_pickup"))
            for name in ("status", "reason", "policy")
        }
    )


def _rank(status: pl.Expr) -> pl.Expr:
    return status.replace_strict(STATUS_ORDER, return_dtype=pl.Int8)


def _with_mode(records: pl.DataFrame, policies: pl.DataFrame, mode: str) -> pl.DataFrame:
    for name in _MODE_VALUES:
        records = _with_value(records, policies, name)
    zero = pl.lit(0, pl.Int64)
    # Whole units, rounded up: what is left of a division by 100 makes one more.
    share = pl.max_horizontal(zero, pl.col("raw") + pl.col("committed")) * pl.col("safety_percent").fill_null(0)
    share = share // 100 + (share % 100 > 0).cast(pl.Int64)
    safety = pl.max_horizontal(pl.col("safety_stock").fill_null(0), share) + pl.col("buffer").fill_null(0)
    more = pl.when("stale").then(pl.col("stale_buffer").fill_null(0)).otherwise(zero)
    safety = safety + more
    silent = pl.col("stale") & pl.col("stale_buffer").is_null()
    enter = pl.col("low_stock_enter").fill_null(LOW_STOCK_ENTER)
    leave = pl.max_horizontal(pl.col("low_stock_exit").fill_null(0), enter + 1)
    location_off = ~pl.col(f"{mode}_enabled")
    excluded = ~pl.col("enabled").fill_null(True)
    off = location_off | excluded
    preorder = ~off & (pl.col("lifecycle") == "preorder")
    unknown = ~off & ~preorder & (~pl.col("baseline") | silent)
    free = pl.when(preorder).then(zero).otherwise(pl.max_horizontal(zero, pl.col("raw") - safety))
    status = (
        pl.when(off)
        .then(pl.lit("OUT_OF_STOCK"))
        .when(unknown)
        .then(pl.lit("UNKNOWN"))
        .when((free > 0) & (free <= enter))
        .then(pl.lit("LOW_STOCK"))
        .when(free > 0)
        .then(pl.lit("IN_STOCK"))
        .when(preorder)
        .then(pl.when(pl.col("backorder_left") > 0).then(pl.lit("PREORDERABLE")).otherwise(pl.lit("OUT_OF_STOCK")))
        .when(pl.col("lifecycle") == "discontinued")
        .then(pl.lit("DISCONTINUED"))
        .when(pl.col("backorder_left") > 0)
        .then(pl.lit("BACKORDERABLE"))
        .otherwise(pl.lit("OUT_OF_STOCK"))
    )
    reason = (
        pl.when(location_off)
        .then(pl.lit("location_off"))
        .when(excluded)
        .then(pl.lit("excluded"))
        .when(unknown)
        .then(pl.when("baseline").then(pl.lit("stale_source")).otherwise(pl.lit("no_baseline")))
        .when((free > 0) | preorder | (pl.col("lifecycle") == "discontinued") | (pl.col("backorder_left") > 0))
        .then(pl.lit(None, pl.String))
        .when(pl.col("raw") > 0)
        .then(pl.lit("withheld_by_safety_stock"))
        .otherwise(pl.lit("sold_out"))
    )
    withheld = pl.max_horizontal(zero, pl.min_horizontal(pl.col("raw"), safety))
    return records.with_columns(
        pl.when(off).then(zero).when(unknown).then(None).otherwise(free).alias(MODES[mode]),
        pl.when(off | unknown).then(zero).otherwise(withheld).alias(f"withheld_{mode}"),
        safety.alias(f"safety_stock_{mode}"),
        status.alias(f"status_{mode}"),
        reason.alias(f"reason_{mode}"),
        pl.col("safety_stock_by").alias(f"policy_{mode}"),
        (~off & ~unknown & (free > enter) & (free < leave)).alias(f"band_{mode}"),
    ).drop(*_MODE_VALUES, *(f"{name}_by" for name in _MODE_VALUES))


def _with_value(records: pl.DataFrame, policies: pl.DataFrame, name: str) -> pl.DataFrame:
    """Adds the value that the most telling policy gives, and as `<name>_by` that policy's id."""
    setting = policies.filter(pl.col(name).is_not_null())
    records = records.with_columns(pl.lit(None, _VALUES[name]).alias(name), pl.lit(None, pl.String).alias(f"{name}_by"))
    for scope in _scopes(setting):
        on = [field for field in scope if field not in _ASKED_FOR]
        exact = [pl.col(field).is_not_null() if field in scope else pl.col(field).is_null() for field in _SCOPE_FIELDS]
        candidates = setting.filter(*exact).sort("until_us", "policy", nulls_last=True)
        chosen = candidates.select(*on, found=pl.col(name), found_by=pl.col("policy"))
        if on:
            records = records.join(
                chosen.unique(on, keep="first", maintain_order=True), on=on, how="left", maintain_order="left"
            )
        else:
            records = records.join(chosen.head(1), how="cross", maintain_order="left")
        unset = pl.col(name).is_null()
        records = records.with_columns(
            pl.when(unset).then(pl.col("found")).otherwise(pl.col(name)).alias(name),
            pl.when(unset).then(pl.col("found_by")).otherwise(pl.col(f"{name}_by")).alias(f"{name}_by"),
        ).drop("found", "found_by")
    return records


def _scopes(policies: pl.DataFrame) -> list[tuple[str, ...]]:
    """The sets of fields that policies name, the most telling first."""
    rows = policies.select(*(pl.col(field).is_not_null() for field in _SCOPE_FIELDS)).unique().rows()
    ordered = sorted(rows, key=lambda named: (-sum(named), [not one for one in named]))
    return [tuple(field for field, one in zip(_SCOPE_FIELDS, named, strict=True) if one) for named in ordered]


def channels_of(
    skus: pl.DataFrame,
    settings: Mapping[str, events.Message],
    items: Mapping[str, events.ItemSet | None],
    at_us: int | None,
) -> dict[str, list[str]]:
    """By channel, the SKUs for which a valid policy names it: for them, their brand or category, or for all goods."""
    goods = skus.select("sku").join(_items(items), on="sku", how="left")
    found: dict[str, list[str]] = {}
    for message in settings.values():
        if not isinstance(message, events.PolicySet) or not _is_valid(message, at_us):
            continue
        scope = message.scope
        if scope.channel is not None:
            named = {name: getattr(scope, name) for name in ("sku", "brand", "category")}
            fits = goods.filter(*(pl.col(name) == value for name, value in named.items() if value is not None))
            found[scope.channel] = sorted({*found.get(scope.channel, ()), *fits["sku"].to_list()})
    return found


def _policies(settings: Mapping[str, events.Message], at_us: int | None, channel: str | None = None) -> pl.DataFrame:
    """The policies that are valid at a moment, whatever their dates without one; of channels only those of one."""
    rows = [
        (
            message.policy,
            *(getattr(message.scope, name) for name in _SCOPE_FIELDS),
            None if message.valid_until is None else micros(message.valid_until),
            *(getattr(message.values, name) for name in _VALUES),
        )
        for message in settings.values()
        if isinstance(message, events.PolicySet)
        and message.scope.channel in (None, channel)
        and _is_valid(message, at_us)
    ]
    return pl.DataFrame(rows, schema=_POLICY_SCHEMA, orient="row")


def _silent(settings: Mapping[str, events.Message], at_us: int | None) -> pl.DataFrame:
    """The locations of which a feed promised to be complete until a moment that has passed."""
    rows = {
        message.location: (message.location, True)
        for message in settings.values()
        if isinstance(message, events.SourceAlive) and at_us is not None and micros(message.until) <= at_us
    }
    return pl.DataFrame(list(rows.values()), schema={"location": pl.String(), "stale": pl.Boolean()}, orient="row")


def _is_valid(policy: events.PolicySet, at_us: int | None) -> bool:
    if at_us is None:
        return True
    begun = policy.valid_from is None or micros(policy.valid_from) <= at_us
    return begun and (policy.valid_until is None or at_us < micros(policy.valid_until))


def dates_between(settings: Mapping[str, events.Message], earliest_us: int, latest_us: int) -> list[int]:
    """Moments in between at which policies begin or end, or feeds become stale, in microseconds."""
    dates = {
        micros(date)
        for message in settings.values()
        if isinstance(message, events.PolicySet)
        for date in (message.valid_from, message.valid_until)
        if date is not None
    }
    dates |= {micros(message.until) for message in settings.values() if isinstance(message, events.SourceAlive)}
    return sorted(date for date in dates if earliest_us < date <= latest_us)


def _items(items: Mapping[str, events.ItemSet | None]) -> pl.DataFrame:
    rows = [
        (sku, "delisted", None, None) if item is None else (sku, item.lifecycle, item.category, item.brand)
        for sku, item in items.items()
    ]
    schema = {name: pl.String() for name in ("sku", "lifecycle", "category", "brand")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _locations(settings: Mapping[str, events.Message]) -> pl.DataFrame:
    rows = {
        message.location: (
            message.location,
            message.ship_enabled,
            message.pickup_enabled,
            message.region,
            message.kind,
        )
        for message in settings.values()
        if isinstance(message, events.LocationSet)
    }
    schema = {
        "location": pl.String(),
        "ship_enabled": pl.Boolean(),
        "pickup_enabled": pl.Boolean(),
        "region": pl.String(),
        "location_kind": pl.String(),
    }
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row")
