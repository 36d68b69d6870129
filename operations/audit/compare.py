"""The comparisons: recomputed with the topic, topic with Redis, records with outcomes; never a repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
import polars as pl

from operations.audit.expected import MODES, with_overall
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import Extent, Extents
from operations.audit.published import COMPARED_FIELDS, Entry, Key
from operations.audit.recompute import KEY, Recomputed
from operations.audit.report import Findings
from schemas import topics
from schemas.state import UnknownFormat


class Outcomes(Protocol):
    """What the pipeline has counted in one partition, and up to where."""

    @property
    def totals(self) -> Mapping[str, int]:
        """Input records by outcome."""

    @property
    def positions(self) -> Sequence[int]:
        """Next offset to read, per topic in the order of `KEYED_INPUTS`."""


DecodeOutcomes = Callable[[bytes], Outcomes]


def compare_topic(expected: pl.DataFrame, published: pl.DataFrame, findings: Findings) -> None:
    """Every key must be published with one of its expected records; nothing else may be published.

    Args:
        expected: from `expected_records`, one or more legal rows per key.
        published: the newest records, in `PUBLISHED_SCHEMA`.
        findings: where differences go.
    """
    actual = published.rename({name: f"actual_{name}" for name in COMPARED_FIELDS}).with_columns(found=True)
    paired = expected.join(actual, on=KEY, how="left", maintain_order="left")
    for mode in MODES:
        said = pl.col(f"actual_status_{mode}")
        either = pl.col(f"band_{mode}") & said.is_in(["LOW_STOCK", "IN_STOCK"])
        paired = paired.with_columns(
            pl.when(either).then(said).otherwise(pl.col(f"status_{mode}")).alias(f"status_{mode}")
        )
    paired = with_overall(paired)
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"actual_{name}")) for name in COMPARED_FIELDS)
    paired = paired.with_columns(same=same & pl.col("found").fill_null(False))
    wrong = paired.filter(~pl.col("same").any().over(KEY)).unique(KEY, keep="first", maintain_order=True)
    for row in wrong.sort(KEY).iter_rows(named=True):
        findings.add("recomputed and topic", f"{row['sku']}|{row['location']} {_unlike(row)}")
    for sku, location in actual.join(expected, on=KEY, how="anti").select(KEY).sort(KEY).iter_rows():
        findings.add("recomputed and topic", f"{sku}|{location} is published, but no fact names it")


def _unlike(row: Mapping[str, object]) -> str:
    if row["found"] is None:
        return "is not published"
    unlike = [
        f"{name} is {row[f'actual_{name}']}, recomputed {row[name]}"
        for name in COMPARED_FIELDS
        if row[name] != row[f"actual_{name}"]
    ]
    return "; ".join(unlike)


def compare_view(
    entries: Mapping[Key, Entry], view: Mapping[Key, bytes], in_flux: Collection[Key], findings: Findings
) -> None:
    """The view must hold the topic's bytes, key by key; a key in flux may be newer than the topic was."""
    for key, entry in entries.items():
        value = view.get(key)
        if value == entry.value:
            continue
        sku, location = key
        if value is None:
            findings.add("topic and Redis", f"{sku}|{location} is not in Redis")
            continue
        version = _version(value)
        if key in in_flux and version is not None and version > entry.version:
            continue
        findings.add(
            "topic and Redis",
            f"{sku}|{location} has version {version} in Redis, {entry.version} on the topic"
            + (" with other content" if version == entry.version else ""),
        )
    for sku, location in view.keys() - entries.keys():
        findings.add("topic and Redis", f"{sku}|{location} is in Redis, but not on the topic")


def _version(value: bytes) -> int | None:
    try:
        version = msgspec.json.decode(value, type=dict[str, object]).get("version")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return version if isinstance(version, int) else None


def compare_outcomes(
    stored: Mapping[int, bytes],
    decode: DecodeOutcomes,
    extents: Extents,
    dead: DeadLetters,
    recomputed: Recomputed,
    inputs: Inputs,
    findings: Findings,
) -> dict[str, int]:
    """Every input record must be accounted for exactly once; returns the pipeline's totals.

    Args:
        stored: by partition, the value of the newest outcome record of the state topic.
        decode: reads such a value.
        extents: of the keyed input topics; what was read.
        dead: what was refused.
        recomputed: what of the rest came for the first time, and what again.
        inputs: what was read of the items, whose log may have lost overwritten records.
        findings: where differences go.
    """
    refused = dead.counts(extents)
    sums: Counter[str] = Counter()
    for partition in sorted(extents[topics.KEYED_INPUTS[0].name]):
        parts = [extents[topic.name][partition] for topic in topics.KEYED_INPUTS]
        value = stored.get(partition)
        if value is None:
            if any(part.end > part.start for part in parts):
                findings.add("outcomes", f"partition {partition} has input, but no outcomes were stored")
            continue
        try:
            outcomes = decode(value)
        except (UnknownFormat, msgspec.MsgspecError) as error:
            findings.add("outcomes", f"partition {partition} has outcomes that cannot be read: {error}")
            continue
        sums.update(outcomes.totals)
        items = extents[topics.STOCK_ITEMS.name][partition]
        gone = items.end - items.start - inputs.items_read[partition]
        for text in (
            *_unlike_positions(outcomes, parts, partition),
            *_unlike_totals(
                outcomes,
                parts,
                refused[partition],
                recomputed.duplicates.get(partition, 0),
                recomputed.applied.get(partition, 0) + inputs.items_accepted[partition],
                gone,
            ),
        ):
            findings.add("outcomes", f"partition {partition} {text}")
    return dict(sums)


def _unlike_positions(outcomes: Outcomes, parts: Sequence[Extent], partition: int) -> Iterator[str]:
    for topic, part, position in zip(topics.KEYED_INPUTS, parts, outcomes.positions, strict=True):
        nothing_to_read = part.end == part.start and position <= part.end
        if position != part.end and not nothing_to_read:
            yield f"was counted up to {topic.name}[{partition}]@{position}, the log ends at {part.end}"


def _unlike_totals(
    outcomes: Outcomes, parts: Sequence[Extent], refused: int, duplicates: int, applied: int, gone: int
) -> Iterator[str]:
    """What does not add up; `gone` records, compacted away, may have been applied once, or overwritten unread."""
    totals = outcomes.totals
    consumed = sum(max(0, position - part.start) for part, position in zip(parts, outcomes.positions, strict=True))
    if not consumed - gone <= sum(totals.values()) <= consumed:
        yield f"accounts for {sum(totals.values())} records, but consumed {consumed}"
    effective = totals.get("applied", 0) + totals.get("absorbed", 0) + totals.get("echo", 0)
    for outcome, counted, found, more in (
        ("refused", totals.get("dead_letter", 0), refused, 0),
        ("duplicate", totals.get("duplicate", 0), duplicates, 0),
        ("applied or absorbed", effective, applied, gone),
    ):
        if not found <= counted <= found + more:
            yield f"counted {counted} records as {outcome}, recomputed {found}"
