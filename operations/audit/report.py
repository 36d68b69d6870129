"""What an audit found, and how a person reads it; never how it was found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

DIFFERENCES_PER_KIND_MAX = 50  # Enough to see the pattern; the totals are always exact.


@dataclass
class Findings:
    """Differences as they are found: all are counted, the first of each kind are kept."""

    kept: list[str] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        """One more difference."""
        self.by_kind[kind] += 1
        if self.by_kind[kind] <= DIFFERENCES_PER_KIND_MAX:
            self.kept.append(f"{kind}: {text}")


@dataclass(frozen=True)
class AuditReport:
    """The result of one audit.

    Attributes:
        events: records of the keyed input topics that were read.
        settings: settings records that were read.
        keys: SKUs and locations that should be published.
        outcomes: input records by what became of them: `applied` (absorbed ones included), `duplicate`,
            `dead_letter`, and the pipeline's own totals as `reported_<outcome>`.
        redis_keys: keys found in the Redis view; None when no Redis was named.
        differences: the first differences of each kind.
        differences_by_kind: how many there are in all.
        notes: what limits the verdict without being a difference.
        alerts_open: alerts that are open.
    """

    events: int
    settings: int
    keys: int
    outcomes: dict[str, int]
    redis_keys: int | None
    differences: list[str]
    differences_by_kind: dict[str, int]
    notes: list[str]
    alerts_open: int = 0

    @property
    def differences_total(self) -> int:
        """All differences, those that are not listed too."""
        return sum(self.differences_by_kind.values())

    @property
    def equal(self) -> bool:
        """Whether recomputation, topic and view agree and every input record is accounted for."""
        return self.differences_total == 0


def render(report: AuditReport) -> RenderableType:
    """A table of what was compared, the differences, and the verdict in one line."""
    table = Table(title="Audit", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_row("input records", f"{report.events:,}")
    for outcome, count in report.outcomes.items():
        table.add_row(f"  {outcome}", f"{count:,}")
    table.add_row("settings records", f"{report.settings:,}")
    table.add_row("keys recomputed", f"{report.keys:,}")
    table.add_row("keys in Redis", "not compared" if report.redis_keys is None else f"{report.redis_keys:,}")
    table.add_row("alerts open", f"{report.alerts_open:,}")
    for kind, count in report.differences_by_kind.items():
        table.add_row(f"differences: {kind}", f"{count:,}", style="red")
    lines = [Text(text, style="red") for text in report.differences]
    hidden = report.differences_total - len(report.differences)
    if hidden:
        lines.append(Text(f"... and {hidden:,} more", style="red"))
    notes = [Text(f"note: {note}", style="yellow") for note in report.notes]
    return Group(table, *lines, *notes, _verdict(report))


def _verdict(report: AuditReport) -> Text:
    view = "" if report.redis_keys is None else " = Redis"
    if report.equal:
        text = f"EQUAL: recomputation = availability topic{view}, {report.keys:,} keys"
        return Text(text, style="bold green")
    return Text(f"NOT EQUAL: {report.differences_total:,} differences", style="bold red")
