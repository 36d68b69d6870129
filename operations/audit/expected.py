"""What should be published for each balance under the settings that hold: a second, independent formula.

Each rule is a column expression written from the contract; the pipeline's own formula is never used.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from stock import events

MODES = {"ship": "available_to_ship", "pickup": "available_in_store"}
LOW_STOCK_ENTER = 3  # Where no policy says otherwise.

# Best first: the record's own status is the better of its two modes.
STATUS_ORDER = {"IN_STOCK": 0, "LOW_STOCK": 1, "UNKNOWN": 4, "OUT_OF_STOCK": 6}

_POLICY_SCHEMA: dict[str, pl.DataType] = {
    "policy": pl.String(),
    "sku": pl.String(),
    "location": pl.String(),
    "mode": pl.String(),
    "safety_stock": pl.Int64(),
    "buffer": pl.Int64(),
    "low_stock_enter": pl.Int64(),
    "low_stock_exit": pl.Int64(),
    "enabled": pl.Boolean(),
}
_VALUES = ("safety_stock", "buffer", "low_stock_enter", "low_stock_exit", "enabled")

# Scopes from the most to the least telling: more fields first, then the earlier of sku, location, mode.
_SCOPES = (
    ("sku", "location", "mode"),
    ("sku", "location"),
    ("sku", "mode"),
    ("location", "mode"),
    ("sku",),
    ("location",),
    ("mode",),
    (),
)


def expected_records(balances: pl.DataFrame, settings: Mapping[str, events.Message]) -> pl.DataFrame:
    """One row per row of `balances` with everything a record says except its volatile fields.

    `status`, `reason` and `policy` depend on which mode is the better one, and inside the low-stock band
    either status of a mode is right: so `band_ship` and `band_pickup` mark the band, and `with_overall` adds
    the three.

    Args:
        balances: as in `Recomputed.balances`.
        settings: by Kafka key, the messages that hold.
    """
    policies, locations = _policies(settings), _locations(settings)
    records = balances.join(locations, on="location", how="left").with_columns(
        pl.col("ship_enabled", "pickup_enabled").fill_null(True)
    )
    raw = pl.col("on_hand") - pl.col("unavailable") - pl.col("committed")
    records = records.with_columns(
        raw=raw,
        shortage=pl.max_horizontal(pl.lit(0, pl.Int64), -raw),
        backorder_left=pl.lit(0, pl.Int64),
    )
    for mode in MODES:
        records = _with_mode(records, policies, mode)
    return records


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
    for name in _VALUES:
        records = _with_value(records, policies, name, mode)
    zero = pl.lit(0, pl.Int64)
    safety = pl.col("safety_stock").fill_null(0) + pl.col("buffer").fill_null(0)
    enter = pl.col("low_stock_enter").fill_null(LOW_STOCK_ENTER)
    leave = pl.max_horizontal(pl.col("low_stock_exit").fill_null(0), enter + 1)
    location_off = ~pl.col(f"{mode}_enabled")
    excluded = ~pl.col("enabled").fill_null(True)
    off = location_off | excluded
    unknown = ~off & ~pl.col("baseline")
    free = pl.max_horizontal(zero, pl.col("raw") - safety)
    status = (
        pl.when(off)
        .then(pl.lit("OUT_OF_STOCK"))
        .when(unknown)
        .then(pl.lit("UNKNOWN"))
        .when((free > 0) & (free <= enter))
        .then(pl.lit("LOW_STOCK"))
        .when(free > 0)
        .then(pl.lit("IN_STOCK"))
        .otherwise(pl.lit("OUT_OF_STOCK"))
    )
    reason = (
        pl.when(location_off)
        .then(pl.lit("location_off"))
        .when(excluded)
        .then(pl.lit("excluded"))
        .when(unknown)
        .then(pl.lit("no_baseline"))
        .when(free > 0)
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
    ).drop(*_VALUES, *(f"{name}_by" for name in _VALUES))


def _with_value(records: pl.DataFrame, policies: pl.DataFrame, name: str, mode: str) -> pl.DataFrame:
    """Adds the value that the most telling policy gives a mode, and as `<name>_by` that policy's id."""
    setting = policies.filter(pl.col(name).is_not_null())
    records = records.with_columns(
        pl.lit(None, _POLICY_SCHEMA[name]).alias(name), pl.lit(None, pl.String).alias(f"{name}_by")
    )
    for scope in _SCOPES:
        exact = [
            pl.col(field).is_not_null() if field in scope else pl.col(field).is_null()
            for field in ("sku", "location", "mode")
        ]
        candidates = setting.filter(*exact)
        if "mode" in scope:
            candidates = candidates.filter(pl.col("mode") == mode)
        if candidates.is_empty():
            continue
        on = [field for field in scope if field != "mode"]
        chosen = candidates.sort("policy").select(*on, found=pl.col(name), found_by=pl.col("policy"))
        if on:
            records = records.join(
                chosen.unique(on, keep="first", maintain_order=True),
                on=on,
                how="left",
                maintain_order="left",
            )
        else:
            records = records.join(chosen.head(1), how="cross", maintain_order="left")
        unset = pl.col(name).is_null()
        records = records.with_columns(
            pl.when(unset).then(pl.col("found")).otherwise(pl.col(name)).alias(name),
            pl.when(unset).then(pl.col("found_by")).otherwise(pl.col(f"{name}_by")).alias(f"{name}_by"),
        ).drop("found", "found_by")
    return records


def _policies(settings: Mapping[str, events.Message]) -> pl.DataFrame:
    rows = [
        (
            message.policy,
            message.scope.sku,
            message.scope.location,
            message.scope.mode,
            *(getattr(message.values, name) for name in _VALUES),
        )
        for message in settings.values()
        if isinstance(message, events.PolicySet)
    ]
    return pl.DataFrame(rows, schema=_POLICY_SCHEMA, orient="row")


def _locations(settings: Mapping[str, events.Message]) -> pl.DataFrame:
    rows = {
        message.location: (message.location, message.ship_enabled, message.pickup_enabled)
        for message in settings.values()
        if isinstance(message, events.LocationSet)
    }
    schema = {"location": pl.String(), "ship_enabled": pl.Boolean(), "pickup_enabled": pl.Boolean()}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row")
