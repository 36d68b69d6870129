"""Which answers to requests made a hold of their own, and which told of one; from the log alone, never by arrival.

A promise of a reservation and line stands until it is over, released, or replaced by a statement of others. While it
does, further requests for it are told of it. One that is granted anew was decided knowing what had been said of the
hold, so nothing of that changes what it holds; nor does what was taken up to its record's timestamp, where there was
another hold before it to take from.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import polars as pl

from operations.audit.facts import TOPIC_ORDER
from schemas.topics import ORDER_RESERVATIONS

_REQUESTED, _CREATED = "reservation.requested", "reservation.created"
_RENEWED, _RELEASED = "reservation.renewed", "reservation.released"
_SAID = (_CREATED, _RENEWED, _RELEASED)
_HOLD = ("sku", "reservation", "line")
_PLACE = ("topic", "partition", "offset")

Row = dict[str, Any]


class Settled(NamedTuple):
    """Facts in which only answers that made a hold say `reservation.created`; and what is wrong with the answers.

    `facts` has one more column, `superseded`: it says nothing of its hold any more.
    """

    facts: pl.DataFrame
    problems: list[str]


def settle(facts: pl.DataFrame) -> Settled:
    """Tell holds from repetitions, in deduplicated facts of `facts.FACT_SCHEMA`."""
    told = facts.filter((pl.col("topic") == TOPIC_ORDER[ORDER_RESERVATIONS.name]) & pl.col("reservation").is_not_null())
    told = told.with_columns(pl.col("line").fill_null(""))
    answered = told.filter(pl.col("verdict").is_not_null()).select(_HOLD).unique()
    rows = told.join(answered, on=_HOLD, how="semi").sort(*_HOLD, "partition", "offset").iter_rows(named=True)
    repeats: list[Row] = []
    superseded: list[Row] = []
    earlier: list[tuple[object, ...]] = []
    problems: list[str] = []
    for _, group in groupby(rows, key=lambda row: tuple(row[name] for name in _HOLD)):
        _settle_hold(list(group), repeats, superseded, earlier, problems)
    marked = facts.join(_marks(repeats, "repeats"), on=_PLACE, how="left", maintain_order="left")
    marked = marked.join(_marks(superseded, "superseded"), on=_PLACE, how="left", maintain_order="left")
    marked = _mark_taken(marked, earlier)
    kind = pl.when(pl.col("repeats").fill_null(False)).then(pl.lit(_REQUESTED)).otherwise(pl.col("type"))
    return Settled(
        marked.with_columns(type=kind, superseded=pl.col("superseded").fill_null(False)).drop("repeats"), problems
    )


def _settle_hold(
    rows: list[Row],
    repeats: list[Row],
    superseded: list[Row],
    earlier: list[tuple[object, ...]],
    problems: list[str],
) -> None:
    """One reservation and line, in the order of the log; `earlier`: up to when takings are of what was held before."""
    promise: Row | None = None
    stated = False
    for at, row in enumerate(rows):
        if row["verdict"] is None:
            stated = stated or row["type"] == _CREATED
            continue
        granted = row["units"] if row["type"] == _CREATED else 0
        told = f"{row['sku']} {row['reservation']} {row['line']} {row['id']}"
        left = 0 if promise is None else _left(promise, rows[:at], row["timestamp_ms"] * 1_000)
        if left:
            assert promise is not None
            if (granted, row["location"]) != (left, promise["location"]):
                problems.append(
                    f"{told} was granted {granted} at {row['location']}, while {left} stood promised "
                    f"at {promise['location']}"
                )
            repeats.append(row)
        elif granted:
            if granted > row["asked"] or (granted < row["asked"] and row["verdict"] == "accepted"):
                problems.append(f"{told} asks for {row['asked']} and was granted {granted}")
            if stated:
                earlier.append((*(row[name] for name in _HOLD), row["timestamp_ms"] * 1_000))
            promise, stated = row, True
            superseded += [before for before in rows[:at] if before["type"] in _SAID]


def _left(promise: Row, before: list[Row], at_us: int) -> int:
    """How much of a promise stands at a time, by what its topic has said since it was made."""
    since = [row for row in before if row["offset"] >= promise["offset"] and (row is promise or row["verdict"] is None)]
    since.sort(key=lambda row: (row["occurred_us"], row["type"] != _CREATED, row["source"], row["id"]))
    left, end_us = promise["units"], promise["expires_us"]
    for row in since[since.index(promise) + 1 :]:
        if row["type"] == _CREATED:
            return 0
        if row["type"] == _RELEASED:
            left -= left if row["units"] is None else min(row["units"], left)
        elif row["type"] == _RENEWED and (end_us is None or row["occurred_us"] < end_us):
            end_us = row["expires_us"]
    return left if end_us is None or at_us < end_us else 0


def _mark_taken(facts: pl.DataFrame, earlier: list[tuple[object, ...]]) -> pl.DataFrame:
    """What was taken of what was held before a promise of the same name is superseded, too."""
    schema: dict[str, Any] = {**dict.fromkeys(_HOLD, pl.String()), "until_us": pl.Int64()}
    until = pl.DataFrame(earlier, schema=schema, orient="row").group_by(_HOLD).agg(pl.col("until_us").max())
    named = facts.with_columns(blank=pl.col("line"), line=pl.col("line").fill_null(""))
    named = named.join(until, on=_HOLD, how="left", maintain_order="left").with_columns(line=pl.col("blank"))
    taken = ~pl.col("type").is_in(_SAID)
    over = (taken & (pl.col("effective_us") <= pl.col("until_us"))).fill_null(False)
    return named.with_columns(superseded=pl.col("superseded").fill_null(False) | over).drop("blank", "until_us")


def _marks(rows: list[Row], name: str) -> pl.DataFrame:
    """The places of some rows, each once."""
    places = {tuple(row[column] for column in _PLACE) for row in rows}
    schema: dict[str, Any] = {"topic": pl.Int8(), "partition": pl.Int32(), "offset": pl.Int64(), name: pl.Boolean()}
    return pl.DataFrame([(*place, True) for place in places], schema=schema, orient="row")
