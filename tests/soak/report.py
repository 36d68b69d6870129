"""A long run's figures and verdicts for people: tables on the screen and in a file; no measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tests.soak.faults import Fault
from tests.soak.figures import FDS_GROWN_MAX, LEAK_MB_PER_H_MAX, Memory, Slope, Steps

Pair = tuple[float, float]


@dataclass(frozen=True)
class Check:
    """One judgement; `fine` is None where the run was too short for it."""

    name: str
    fine: bool | None
    text: str


@dataclass
class Report:
    """Everything that a long run found."""

    about: list[str]
    facts: list[tuple[str, str]]
    faults: list[Fault]
    memory: Memory
    counted: dict[str, Steps]
    minutes: list[dict[str, float]]
    drifts: dict[str, Pair]
    processes: list[Mapping[str, Any]]
    problems: list[str]
    covered: list[str]
    ended: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """The verdicts."""
        rest, fds = self.memory.unexplained, self.counted.get("fds")
        return [
            Check("exact", not self.problems, "; ".join(self.covered[:1]) or "not compared"),
            Check(
                "faults healed, nobody ended unasked", not self.ended, "; ".join(self.ended) or "and the survivor lived"
            ),
            Check(
                "no file descriptors leak",
                None if fds is None else fds.grown <= FDS_GROWN_MAX,
                "no calm time" if fds is None else f"first to last quarter {fds.grown:+.0f}, bound +{FDS_GROWN_MAX}",
            ),
            _leak_check(rest),
        ]

    @property
    def fine(self) -> bool:
        """Whether nothing that could be judged is wrong."""
        return all(check.fine is not False for check in self.checks)


def _leak_check(rest: Slope | None) -> Check:
    """Wrong if memory surely grows more than the bound, right if surely less; in between nothing is shown."""
    if rest is None:
        return Check("no memory leaks", None, "too short to judge")
    text = f"unexplained between faults {rest} MB/h, bound {LEAK_MB_PER_H_MAX:.0f}"
    if rest.low <= LEAK_MB_PER_H_MAX < rest.high:
        return Check("no memory leaks", None, f"{text}: the interval is too wide to tell")
    return Check("no memory leaks", rest.high <= LEAK_MB_PER_H_MAX, text)


def render(report: Report) -> RenderableType:
    """All tables, then the verdicts."""
    return Group(
        *[Text(line) for line in report.about],
        _pairs("Run", report.facts),
        _processes(report.processes),
        _memory(report.memory),
        _counted(report.counted),
        _latency(report.minutes),
        _drifts(report.drifts),
        _faults(report.faults),
        *[Text(line) for line in report.covered],
        *[Text(line, style="red") for line in report.problems],
        _checks(report.checks),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> Table:
    table = _table(title, "what", "value")
    for name, value in pairs:
        table.add_row(name, value)
    return table


def _processes(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("At the end", "process", "MB", "peak MB", "fds", "threads", "CPU s", "balances", "facts", "orders")
    for row in rows:
        table.add_row(
            str(row["process"]),
            f"{row.get('rss', 0) / 1e6:,.0f}",
            f"{row.get('peak', 0) / 1e6:,.0f}",
            *(f"{row.get(name, 0):,.0f}" for name in ("fds", "threads", "cpu_s", "balances", "facts", "orders")),
        )
    return table


def _memory(memory: Memory) -> Table:
    table = _table("Resident memory of the survivor (calm minutes)", "what", "MB, or MB per hour (95 % interval)")
    table.add_row("first and last calm minute", f"{memory.first_mb:,.0f} and {memory.last_mb:,.0f}")
    table.add_row("peak, while it holds everything", f"{memory.peak_mb:,.0f}")
    table.add_row("level between the faults", ", ".join(f"{level:,.0f}" for level in memory.stretches_mb))
    if memory.total is not None:
        table.add_row(f"slope, second half, across faults ({memory.total.points} minutes)", str(memory.total))
    for name, per_h in memory.explained.items():
        table.add_row(f"  of it by {name} remembered", f"{per_h:+.1f}")
    rest = memory.unexplained
    points = "" if rest is None else f" ({rest.points} points)"
    table.add_row(f"slope between faults, unexplained{points}", "too short to tell" if rest is None else str(rest))
    return table


def _counted(counted: Mapping[str, Steps]) -> Table:
    table = _table("The survivor in calm time", "what", "least", "most", "per hour", "first quarter", "last quarter")
    for name, found in counted.items():
        per_h = "" if found.slope is None else str(found.slope)
        table.add_row(
            name,
            f"{found.least:,.0f}",
            f"{found.most:,.0f}",
            per_h,
            f"{found.first_quarter:,.0f}",
            f"{found.last_quarter:,.0f}",
        )
    return table


def _latency(minutes: Sequence[Mapping[str, float]]) -> Table:
    names = ("load", "count", "p50_ms", "p99_ms", "urgent_count", "urgent_p50_ms", "urgent_p99_ms")
    titles = ("load of the machine", *(name.replace("_", " ") for name in names[1:]))
    table = _table("Fact due -> availability read, in the calm tens of seconds of each minute", "minute", *titles)
    for one in minutes:
        texts = [_text(name, one.get(name)) for name in names]
        table.add_row(str(int(one["minute"])), *texts)
    return table


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name.endswith("count") else f"{value:,.1f}"


def _drifts(drifts: Mapping[str, Pair]) -> Table:
    table = _table("Latency drift, ms", "what", "first quarter", "last quarter", "change")
    for name, (first, last) in drifts.items():
        change = f"{(last / first - 1) * 100:+.0f} %" if first else ""
        table.add_row(name, f"{first:.1f}", f"{last:.1f}", change)
    return table


def _faults(faults: Sequence[Fault]) -> Table:
    table = _table("Faults", "at s", "what", "seconds", "balances restored")
    for fault in faults:
        took = ", ".join(f"{name} {seconds:.1f}" for name, seconds in fault.took_s.items())
        table.add_row(f"{fault.began_s:,.0f}", fault.name, took, f"{fault.balances:,}" if fault.balances else "")
    return table


def _checks(checks: Sequence[Check]) -> Table:
    table = _table("Verdict", "rule", "holds", "because")
    for check in checks:
        word = {True: "yes", False: "NO", None: "not judged"}[check.fine]
        style = {True: "green", False: "bold red", None: "yellow"}[check.fine]
        table.add_row(check.name, Text(word, style=style), check.text)
    return table
