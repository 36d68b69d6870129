"""What several topics tell of the same units, taken once: up to any time the most that one topic told; never a fold."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from operations.audit.facts import TOPIC_ORDER


def left_once(facts: pl.DataFrame, group: Sequence[str], order: Sequence[str]) -> pl.DataFrame:
    """Facts that carry an echo, with `once`: by how much the most that one topic told grows with each of them.

    Args:
        facts: deduplicated; `delta` is what each alone would do to on_hand.
        group: columns whose equality makes facts tell of the same units.
        order: columns that put the facts of a group in the order of their effect.
    """
    ranked = facts.sort([*group, *order])
    levels = []
    for topic in TOPIC_ORDER.values():
        own = pl.col("topic") == topic
        told = pl.when(own).then(-pl.col("delta")).otherwise(0).cum_sum().over(group)
        levels.append(pl.when(own.cast(pl.Int32).cum_sum().over(group) > 0).then(told))
    level = ranked.with_columns(level=pl.max_horizontal(levels))
    before = pl.col("level").shift(1).over(group).fill_null(0)
    return level.with_columns(once=pl.col("level") - before).drop("level")
