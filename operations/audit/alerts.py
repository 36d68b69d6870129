"""The alerts topic against what holds: every alert that must be open is, no other, and each opens and closes once.

What holds is worked out again from the facts and the records that are expected. Whether a count was near enough to what
was known as it came cannot be known from the log, so of counts only what their alerts say of them is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import polars as pl

from operations.audit.expected import with_overall
from operations.audit.folds import DAY_US, Life, folded_holds, folded_lines
from operations.audit.log import LogRecord
from operations.audit.recompute import KEY, Moment, Recomputed
from operations.audit.report import Findings
from operations.audit.supply import coming_by_key, doubtful_transfers
from schemas import topics
from schemas.records import StockAlert
from stock import events
from stock.doubts import Thresholds

FORGET_US_MAX = DAY_US + 2 * 3_600 * 1_000_000  # It is looked at each hour whether something can be forgotten.
JUDGED_KINDS = frozenset(
    {
        "shortage", "low_stock", "reorder_point", "overdue_transfer", "unknown_location",
        "orphaned_hold", "orphaned_allocation", "unclaimed", "transfer_short", "unmatched_echo",
    }
)  # fmt: skip
OF_COUNTS = frozenset({"count_variance", "count_too_old"})
OPEN_MAX = 10_000  # Of one kind and partition.
_OF_NUMBERS = ("shortage", "low_stock", "reorder_point")

About = tuple[object, ...]  # kind, and what tells one from others of its kind
_decoder = msgspec.json.Decoder(StockAlert)


@dataclass
class Legal:
    """Alerts that must be open, and those that may be."""

    must: set[About] = field(default_factory=set)
    may: set[About] = field(default_factory=set)

    def add(self, about: About, surely: bool) -> None:
        """One more that is open for sure, or maybe."""
        (self.must if surely else self.may).add(about)


class PublishedAlerts:
    """The alerts topic as a reader keeps it: the newest state of each alert."""

    def __init__(self, partitions: int, findings: Findings) -> None:
        self._partitions, self._findings = partitions, findings
        self._states: dict[str, dict[str, StockAlert]] = {}

    def add(self, batch: Iterable[LogRecord]) -> None:
        """Records in the order of their partition; a repeat must say the same."""
        for record in batch:
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            try:
                alert = _decoder.decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._findings.add("alerts topic", f"{where} is not an alert: {error}")
                continue
            if alert.sku.encode() != record.key or self._home(alert) != record.partition:
                self._findings.add("alerts topic", f"{where} has a wrong key or partition: {record.key!r}")
            states = self._states.setdefault(alert.alert, {})
            if states.setdefault(alert.state, alert) != alert:
                self._findings.add("alerts topic", f"{where}: {alert.alert} is {alert.state} twice, with other content")

    def all(self) -> Iterator[StockAlert]:
        """The newest state of every alert that was told."""
        for states in self._states.values():
            yield states.get("closed") or states["open"]

    def open(self) -> dict[About, list[StockAlert]]:
        """The open alerts by what they are about."""
        found: dict[About, list[StockAlert]] = {}
        for alert in self.all():
            if alert.state == "open":
                found.setdefault(about(alert, self._partitions), []).append(alert)
        return found

    def report_endless(self, logs_are_whole: bool) -> None:
        """Adds a difference for each alert that closes and never opened, unless the log has lost its beginning."""
        for name, states in self._states.items():
            if "open" not in states and logs_are_whole:
                self._findings.add("alerts topic", f"{name} closes, but never opened")

    def _home(self, alert: StockAlert) -> int:
        return topics.partition_of(alert.sku, self._partitions)


def about(alert: StockAlert, partitions: int) -> About:
    """What an alert is about; one of an unknown location speaks for its partition."""
    if alert.kind == "unknown_location":
        return alert.kind, topics.partition_of(alert.sku, partitions), alert.location
    if alert.kind == "unmatched_echo":
        return alert.kind, alert.sku, alert.location, alert.references.get("echo")
    if alert.references:
        return alert.kind, alert.sku, *sorted(alert.references.items())
    return alert.kind, alert.sku, alert.location


def compare_alerts(
    records: pl.DataFrame,
    recomputed: Recomputed,
    settings: Mapping[str, events.Message],
    moment: Moment,
    published: PublishedAlerts,
    thresholds: Thresholds,
    partitions: int,
    logs_are_whole: bool,
    findings: Findings,
) -> int:
    """Every alert that must be open is open, once, and no other of the kinds that can be judged; how many are open.

    Args:
        records: from `expected_records`, one or more legal rows per key.
        recomputed: the facts, and the balances before any policy.
        settings: by Kafka key, the messages that hold.
        moment: when the topic was read.
        published: what was told.
        thresholds: how the pipeline is set.
        partitions: how many there are.
        logs_are_whole: nothing is gone from the log of the alerts, so what is not there was never told.
        findings: where differences go.
    """
    legal = legal_alerts(records, recomputed, settings, moment, thresholds, partitions)
    is_open = published.open()
    judged = {name for name in is_open if name[0] in JUDGED_KINDS}
    for name, alerts in is_open.items():
        if len(alerts) > 1:
            findings.add("alerts", f"{_text(name)} has several open: {', '.join(alert.alert for alert in alerts)}")
    for name in sorted(judged - legal.must - legal.may, key=repr):
        since = is_open[name][0].opened_at
        findings.add("alerts", f"{_text(name)} is open since {since}, but does not hold")
    if logs_are_whole:
        crowded = {kind for kind, number in _numbers(is_open).items() if number >= OPEN_MAX}
        for name in sorted(legal.must - is_open.keys(), key=repr):
            if name[0] not in crowded:
                findings.add("alerts", f"{_text(name)} holds, but is not open")
    published.report_endless(logs_are_whole)
    _compare_counts(published, recomputed.first, thresholds, findings)
    return sum(map(len, is_open.values()))


def legal_alerts(
    records: pl.DataFrame,
    recomputed: Recomputed,
    settings: Mapping[str, events.Message],
    moment: Moment,
    thresholds: Thresholds,
    partitions: int,
) -> Legal:
    """Which alerts must and may be open, but for those of counts; arguments as in `compare_alerts`."""
    legal = Legal()
    _of_numbers(records, legal)
    listed = frozenset(records.select(KEY).iter_rows())
    _of_overdue(recomputed.first, listed, moment, legal)
    _of_places(recomputed.balances, settings, partitions, legal)
    _of_holds(recomputed.first, moment, thresholds, legal)
    _of_lines(recomputed.first, moment, thresholds, legal)
    _of_transfers(recomputed.first, moment, thresholds, legal)
    _of_echoes(recomputed.first, moment, legal)
    return legal


def _of_echoes(first: pl.DataFrame, moment: Moment, legal: Legal) -> None:
    """Topics that told unequal sums of the same units, from a day after the newest of them until another day later.

    What is told when that day is over is judged at once, which nobody can tell from the times of the facts.
    """
    group = [*KEY, "echo"]
    told = (
        first.filter(pl.col("echo").is_not_null())
        .group_by([*group, "topic"])
        .agg(pl.col("delta").sum(), newest=pl.col("effective_us").max(), oldest=pl.col("effective_us").min())
        .group_by(group)
        .agg(differs=pl.col("delta").n_unique() > 1, newest=pl.col("newest").max(), oldest=pl.col("oldest").min())
        .filter("differs")
    )
    for sku, location, echo, _, newest, oldest in told.iter_rows():
        due_us, gone_us = newest + DAY_US, newest + 2 * DAY_US
        if oldest + DAY_US <= moment.latest_us:
            surely = due_us <= moment.earliest_us and moment.latest_us < gone_us and newest - oldest < DAY_US
            legal.add(("unmatched_echo", sku, location, echo), surely)


def _numbers(is_open: Mapping[About, list[StockAlert]]) -> dict[object, int]:
    numbers: dict[object, int] = {}
    for name, alerts in is_open.items():
        numbers[name[0]] = numbers.get(name[0], 0) + len(alerts)
    return numbers


def _text(name: About) -> str:
    return f"{name[0]} " + " ".join("=".join(part) if isinstance(part, tuple) else str(part) for part in name[1:])


def _of_numbers(records: pl.DataFrame, legal: Legal) -> None:
    """Of the legal rows of a key, all must say so, or some may."""
    position = pl.col("on_hand") - pl.col("unavailable") + pl.col("in_transit") + pl.col("inbound")
    either = pl.col("band_ship") | pl.col("band_pickup")
    told = with_overall(records).with_columns(
        shortage_holds=pl.col("shortage") > pl.col("backorder_limit").fill_null(0),
        reorder_point_holds=(position - pl.col("committed") <= pl.col("reorder_point")).fill_null(False),
        low_stock_holds=(pl.col("status") == "LOW_STOCK") & ~either,
        low_stock_may=(pl.col("status") == "LOW_STOCK") | (either & pl.col("status").is_in(["LOW_STOCK", "IN_STOCK"])),
    )
    for kind in _OF_NUMBERS:
        holds = pl.col(f"{kind}_holds")
        may = pl.col("low_stock_may") if kind == "low_stock" else holds
        for sku, location, surely, maybe in told.group_by(KEY).agg(holds.all(), may.any().alias("may")).iter_rows():
            if maybe:
                legal.add((kind, sku, location), surely)


def _of_overdue(first: pl.DataFrame, listed: frozenset[tuple[str, str]], moment: Moment, legal: Legal) -> None:
    coming, _, _ = coming_by_key(first)
    for key, parts in coming.items():
        due = [part.eta_us for part in parts if part.in_transit and part.eta_us is not None]
        if due and key in listed and min(due) <= moment.latest_us:
            legal.add(("overdue_transfer", *key), min(due) <= moment.earliest_us)


def _of_places(balances: pl.DataFrame, settings: Mapping[str, events.Message], partitions: int, legal: Legal) -> None:
    described = {message.location for message in settings.values() if isinstance(message, events.LocationSet)}
    for sku, location in balances.select(KEY).unique().iter_rows() if described else ():
        if location not in described:
            legal.add(("unknown_location", topics.partition_of(sku, partitions), location), True)


def _of_holds(first: pl.DataFrame, moment: Moment, thresholds: Thresholds, legal: Legal) -> None:
    for (sku, reservation, line), hold in folded_holds(first):
        names = [("reservation", reservation)] if line is None else [("line", line), ("reservation", reservation)]
        life = hold.life
        if life.is_torn:
            legal.may.add(("unclaimed", sku, *names))
        if hold.location is None:
            _add_vain("unclaimed", (sku, *names), life, life.first_us, moment, thresholds.unclaimed_us, legal)
        elif life.in_vain:
            _add_vain("unclaimed", (sku, *names), life, life.in_vain_us, moment, thresholds.unclaimed_us, legal)
        elif hold.left and hold.expires_us is None and life.stated_us is not None:
            _add(("orphaned_hold", sku, *names), life.stated_us + thresholds.hold_us, moment, True, legal)


def _of_lines(first: pl.DataFrame, moment: Moment, thresholds: Thresholds, legal: Legal) -> None:
    for (sku, name), line in folded_lines(first):
        life, named = line.life, ("order_line", name)
        if any(cell.left for cell in line.cells.values()) and life.stated_us is not None:
            _add(("orphaned_allocation", sku, named), life.stated_us + thresholds.allocation_us, moment, True, legal)
        if life.is_torn:
            legal.may.add(("unclaimed", sku, named))
        if not line.cells:
            _add_vain("unclaimed", (sku, named), life, life.first_us, moment, thresholds.unclaimed_us, legal)
        elif life.in_vain:
            _add_vain("unclaimed", (sku, named), life, life.in_vain_us, moment, thresholds.unclaimed_us, legal)


def _of_transfers(first: pl.DataFrame, moment: Moment, thresholds: Thresholds, legal: Legal) -> None:
    for transfer in doubtful_transfers(first):
        named, life = (transfer.sku, ("transfer", transfer.transfer)), transfer.life
        if life.is_torn:
            legal.may.add(("unclaimed", *named))
        if transfer.is_shipped and life.in_vain:
            _add_vain("transfer_short", named, life, 0, moment, 0, legal)
        elif not transfer.is_shipped:
            _add_vain("unclaimed", named, life, life.first_us, moment, thresholds.unclaimed_us, legal)


def _add(about: About, due_us: int, moment: Moment, surely: bool, legal: Legal) -> None:
    if due_us <= moment.latest_us:
        legal.add(about, surely and due_us <= moment.earliest_us)


def _add_vain(
    kind: str, named: About, life: Life, since_us: int, moment: Moment, patience_us: int, legal: Legal
) -> None:
    """A doubt about what is closed, and so forgotten a day after it was heard of last."""
    if moment.earliest_us < max(life.last_us, life.heard_us) + FORGET_US_MAX:
        surely = not life.is_torn and moment.latest_us < life.last_us + DAY_US
        _add((kind, *named), since_us + patience_us, moment, surely, legal)


def _compare_counts(
    published: PublishedAlerts, first: pl.DataFrame, thresholds: Thresholds, findings: Findings
) -> None:
    """Each alert of a count names one that was told, says what it counted, and computes rightly with it.

    To a net count belongs what it left out, by what was known of that as it came.
    """
    counts = first.filter(pl.col("type") == "wms.count").select(*KEY, "source", "id", "units", "net")
    units_of = {tuple(name): (units, net) for *name, units, net in counts.iter_rows()}
    for alert in published.all():
        if alert.kind not in OF_COUNTS:
            continue
        said = alert.references
        counted = units_of.get((alert.sku, alert.location, said.get("source", ""), said.get("count", "")))
        if counted is None:
            findings.add("alerts", f"{alert.alert} is about a count that nobody told")
        elif alert.kind == "count_variance" and not _is_variance(alert, *counted, thresholds):
            units, _ = counted
            findings.add("alerts", f"{alert.alert} does not follow from its count of {units}: {alert.units}, {said}")


def _is_variance(alert: StockAlert, counted: int, is_net: bool, thresholds: Thresholds) -> bool:
    """Whether the numbers of an alert belong together, and are far enough from each other."""
    try:
        expected, said = int(alert.references["expected"]), int(alert.references["counted"])
    except (KeyError, ValueError):
        return False
    percent = 100 * abs(alert.units) > max(0, expected) * thresholds.count_variance_percent
    beyond = abs(alert.units) > thresholds.count_variance_units and percent
    return (said == counted or (is_net and said > counted)) and alert.units == said - expected and beyond
