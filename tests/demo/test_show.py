"""The demo's output: a live table on a terminal, plain lines elsewhere, a summary of what happened."""

from __future__ import annotations

import io

from rich.console import Console

from stockflow.demo.observe import Buckets, Flip, Scrape
from stockflow.demo.show import Figures, Screen, live_table, plain_line, summary


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    """A console that writes into memory."""
    out = io.StringIO()
    return Console(file=out, width=200, force_terminal=terminal, color_system=None), out


def figures(elapsed_s: float, phase: str = "shopping") -> Figures:
    """Some figures in mid-demo."""
    return Figures(
        phase=phase,
        elapsed_s=elapsed_s,
        sent=12_000,
        planned=60_000,
        sent_rate=950.4,
        processed_rate=949.6,
        published_rate=1_200,
        lag=3,
        latency_p50_s=0.0042,
        latency_p99_s=None,
        dead_letters=2,
        statuses={"IN_STOCK": 9_000, "OUT_OF_STOCK": 12},
        flips=[Flip("SKU-1", "STORE-9", "LOW_STOCK", "OUT_OF_STOCK", 0, "pos.sale")],
        flip_count=77,
    )


def test_plain_line_has_all_figures() -> None:
    """One line for a log."""
    assert plain_line(figures(12.3)) == (
        "   12 s  shopping  sent 12,000/60,000 (950/s)  processed 950/s  published 1,200/s  lag 3  "
        "p50 4.2 ms  p99 -  status changes 77  dead letters 2"
    )


def test_without_a_terminal_a_line_is_printed_every_few_seconds() -> None:
    """Looks in between are silent; a new phase is told at once."""
    target, out = console()
    with Screen(target, 60_000) as screen:
        for elapsed in (0.0, 1.0, 4.9, 5.0, 6.0):
            screen.show(figures(elapsed))
        screen.show(figures(7.0, "settling"))
    assert [line.split()[:3] for line in out.getvalue().splitlines()] == [
        ["0", "s", "shopping"],
        ["5", "s", "shopping"],
        ["7", "s", "settling"],
    ]


def test_live_table_shows_figures_and_status_changes() -> None:
    """Numbers on one side, the last changes with their cause on the other."""
    target, out = console()
    target.print(live_table(figures(1)))
    text = out.getvalue()
    for part in ("950", "1,200", "4.2 ms", "9,000", "SKU-1", "STORE-9", "LOW_STOCK -> OUT_OF_STOCK", "pos.sale"):
        assert part in text


def test_terminal_gets_a_progress_bar() -> None:
    """The live display draws the bar with what has been sent."""
    target, out = console(terminal=True)
    with Screen(target, 60_000) as screen:
        screen.show(figures(1))
    assert "12000/60000" in out.getvalue()


def test_summary_lists_what_happened_largest_first() -> None:
    """Zero counts are left out; each stage has its percentiles."""
    target, out = console()
    scrape = Scrape(
        events={"applied": 90.0, "duplicate": 2.0, "absorbed": 0.0},
        published={"availability urgent": 30.0},
        dead_letters={"not_json": 2.0},
        lag=0.0,
        latency={"acknowledged urgent": Buckets({0.01: 50.0, 0.1: 100.0})},
    )
    target.print(summary(scrape, {"pos.sale": 60, "wms.count": 34}, 12, {"IN_STOCK": 12}, 5, "Kafka, Valkey"))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines == [
        "servers Kafka, Valkey",
        "events sent 94 (pos.sale 60, wms.count 34)",
        "by outcome 92 (applied 90, duplicate 2)",
        "dead letters not_json 2",
        "published availability urgent 30",
        "keys 12 (IN_STOCK 12), 5 status changes",
        "latency acknowledged urgent p50 10.0 ms p99 98.2 ms p99.9 99.8 ms event in Kafka -> availability in Kafka",
    ]
