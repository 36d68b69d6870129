"""The demo on the screen: a live table on a terminal, plain lines elsewhere, the summary at the end; no logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stockflow.demo.observe import STAGES, Buckets, Flip, Scrape

PLAIN_LINE_EVERY_S = 5.0
REFRESH_PER_S = 4
STAGE_MEANING = {
    "applied": "event in Kafka -> balance changed",
    "acknowledged urgent": "event in Kafka -> availability in Kafka",
    "acknowledged routine": "the same, collected for up to the routine interval",
    "visible urgent": "event in Kafka -> availability in Redis",
    "visible routine": "the same, collected for up to the routine interval",
}
STATUS_STYLE = {
    "IN_STOCK": "green",
    "LOW_STOCK": "yellow",
    "OUT_OF_STOCK": "red",
    "UNKNOWN": "magenta",
}


@dataclass(frozen=True)
class Figures:
    """What is going on, at one moment. Rates are per second, times in seconds; None is not known (yet)."""

    phase: str
    elapsed_s: float
    sent: int
    planned: int
    sent_rate: float = 0.0
    processed_rate: float = 0.0
    published_rate: float = 0.0
    lag: float | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    dead_letters: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    flips: Sequence[Flip] = ()
    flip_count: int = 0


class Screen:
    """Shows figures while it is entered; `show` may be called as often as one likes."""

    def __init__(self, console: Console, planned: int) -> None:
        """A terminal gets the live table; anything else a line every few seconds."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("starting", total=planned)
        self._live = (
            Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True) if console.is_terminal else None
        )
        self._next_line_s = 0.0
        self._phase = ""

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, figures: Figures) -> None:
        """Bring the newest figures to the screen."""
        if self._live is not None:
            self._progress.update(self._task, completed=figures.sent, description=figures.phase)
            self._live.update(Group(self._progress, live_table(figures)))
        elif figures.elapsed_s >= self._next_line_s or figures.phase != self._phase:
            self._console.print(plain_line(figures), soft_wrap=True, highlight=False)
            self._next_line_s = figures.elapsed_s + PLAIN_LINE_EVERY_S
        self._phase = figures.phase


def live_table(figures: Figures) -> RenderableType:
    """Rates and latencies on the left, the last status changes on the right."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="dim")
    numbers.add_column(justify="right")
    rows = {
        "events sent/s": f"{figures.sent_rate:,.0f}",
        "events processed/s": f"{figures.processed_rate:,.0f}",
        "records published/s": f"{figures.published_rate:,.0f}",
        "lag": "-" if figures.lag is None else f"{figures.lag:,.0f}",
        "update latency p50": milliseconds(figures.latency_p50_s),
        "update latency p99": milliseconds(figures.latency_p99_s),
        "dead letters": f"{figures.dead_letters:,}",
        "status changes": f"{figures.flip_count:,}",
    }
    for name, value in rows.items():
        numbers.add_row(name, value)
    for status, count in sorted(figures.statuses.items()):
        numbers.add_row(Text(status, style=STATUS_STYLE.get(status, "")), f"{count:,}")
    flips = Table(title="last status changes", title_justify="left", box=None, pad_edge=False)
    for column in ("sku", "location", "status", "left", "because of"):
        flips.add_column(column, no_wrap=True)
    for flip in figures.flips:
        change = Text.assemble(
            (flip.before, STATUS_STYLE.get(flip.before, "")), " -> ", (flip.after, STATUS_STYLE.get(flip.after, ""))
        )
        left = "?" if flip.available is None else str(flip.available)
        flips.add_row(flip.sku, flip.location, change, left, flip.cause)
    both = Table.grid(padding=(0, 4))
    both.add_row(numbers, flips)
    return both


def plain_line(figures: Figures) -> str:
    """The same in one line, for logs."""
    lag = "-" if figures.lag is None else f"{figures.lag:,.0f}"
    return (
        f"{figures.elapsed_s:5.0f} s  {figures.phase}  sent {figures.sent:,}/{figures.planned:,} "
        f"({figures.sent_rate:,.0f}/s)  processed {figures.processed_rate:,.0f}/s  "
        f"published {figures.published_rate:,.0f}/s  lag {lag}  "
        f"p50 {milliseconds(figures.latency_p50_s)}  p99 {milliseconds(figures.latency_p99_s)}  "
        f"status changes {figures.flip_count:,}  dead letters {figures.dead_letters:,}"
    )


def milliseconds(seconds: float | None) -> str:
    """A duration for people."""
    return "-" if seconds is None else f"{seconds * 1_000:,.1f} ms"


def summary(
    scrape: Scrape, sent: Mapping[str, int], keys: int, statuses: Mapping[str, int], flips: int, servers: str
) -> RenderableType:
    """What happened, after everything has come to rest.

    Args:
        scrape: the last reading of the metrics.
        sent: records sent by type.
        keys: keys on the availability topic.
        statuses: how many of them have each status.
        flips: status changes seen on that topic.
        servers: the broker and the Redis that were used.
    """
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("servers", servers)
    table.add_row("events sent", f"{sum(sent.values()):,}  ({_listed(sent)})")
    table.add_row("by outcome", f"{scrape.processed:,}  ({_listed(scrape.events)})")
    table.add_row("dead letters", _listed(scrape.dead_letters) or "none")
    table.add_row("published", _listed(scrape.published) or "unknown")
    table.add_row("keys", f"{keys:,}  ({_listed(statuses)}), {flips:,} status changes")
    for stage in (*STAGES, *sorted(set(scrape.latency) - set(STAGES))):
        buckets = scrape.latency.get(stage)
        if buckets is not None:
            table.add_row(f"latency {stage}", f"{_percentiles(buckets)}  {STAGE_MEANING.get(stage, '')}")
    return table


def _percentiles(buckets: Buckets) -> str:
    return "  ".join(
        f"{name} {milliseconds(buckets.quantile(q))}" for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    )


def _listed(counts: Mapping[str, float]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,.0f}" for name, count in ordered if count)
