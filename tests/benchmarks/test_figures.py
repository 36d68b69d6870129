"""Ratios with their intervals, the file they are written to, and the report that is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks import figures, report, suite
from benchmarks.figures import Report

CONTRACT = (
    "throughput_vs_floor",
    "throughput_vs_kafka_streams",
    "throughput_vs_stock_bytewax",
    "throughput_vs_quix",
    "p50_vs_floor",
    "p99_vs_floor",
    "p99_vs_kafka_streams",
    "restore_vs_bare",
    "bytes_per_balance",
)


@pytest.mark.parametrize(
    ("text", "rounds", "value", "low", "high"),
    [
        ("one round has no spread", [(50, 100)], 0.5, 0.5, 0.5),
        ("equal rounds", [(50, 100)] * 5, 0.5, 0.5, 0.5),
        ("medians, not means", [(50, 100), (60, 100), (1, 100)], 0.5, 0.01, 0.6),
        ("a slow round slows both", [(50, 100), (5, 10), (500, 1_000)], 0.5, 0.5, 0.5),
    ],
)
def test_a_ratio_is_of_medians_and_its_interval_of_whole_rounds(
    text: str, rounds: list[tuple[float, float]], value: float, low: float, high: float
) -> None:
    """The rounds that are drawn keep what was measured side by side together."""
    found = figures.ratio([{"a": a, "b": b} for a, b in rounds], "a", "b")
    assert found == {"value": value, "low": low, "high": high, "rounds": len(rounds)}, text


def test_rounds_without_one_of_the_programs_do_not_count() -> None:
    """A peer that failed once is compared by its other rounds; one that never ran has no figure."""
    found = figures.ratio([{"a": 1.0, "b": 2.0}, {"a": 9.0}], "a", "b")
    assert (found["value"], found["rounds"]) == (0.5, 1)
    with pytest.raises(ValueError, match="no round"):
        figures.ratio([{"a": 1.0}], "a", "b")


def test_every_figure_of_the_contract_is_measured_or_marked_as_skipped(tmp_path: Path) -> None:
    """Whoever reads latest.json finds each name, with numbers or with the reason why there are none."""
    known = {name for names in suite.FIGURES.values() for name in names}
    assert set(CONTRACT) <= known
    made = Report({"made_at": "now"})
    for names in suite.FIGURES.values():
        made.skip("not asked for", *names)
    made.figures["p50_vs_floor"] = figures.middle([1.0, 3.0, 2.0])
    latest = json.loads(made.write(tmp_path).read_text())
    assert latest["p50_vs_floor"]["value"] == 2.0
    assert "p50_vs_floor" not in latest["skipped"]
    for name in known - {"p50_vs_floor"}:
        assert latest[name] == {"value": None, "low": None, "high": None, "skipped": "not asked for"}
        assert latest["skipped"][name] == "not asked for"


def _results(folder: Path) -> tuple[dict[str, object], pl.DataFrame]:
    made = Report({"made_at": "2026-01-01", "size": {"name": "quick"}, "machine": "2 cores", "servers": "a <broker>"})
    made.figures["throughput_vs_floor"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    made.skip("quix: no Python 3.11\nlong text", "throughput_vs_quix")
    one = {"cpu_us": 7.5, "servers_cpu_us": 6.0, "resident_mb": 60.0, "others": 0.1, "records": 10, "events": 20}
    made.raw["throughput"] = [
        {"program": program, "per_second": rate, **one}
        for program, rate in (
            ("floor", 100_000.0),
            ("stockflow", 70_000.0),
            ("floor", 110_000.0),
            ("stockflow", 71_000.0),
        )
    ]
    made.events = [
        ("steady", 0, program, second + 0.5, 5.0 + second, 6.0 if program == "floor" else None)
        for program in ("floor", "stockflow")
        for second in range(5)
    ]
    latest = json.loads(made.write(folder).read_text())
    return latest, pl.read_parquet(folder / "latency.parquet")


def test_the_table_has_programs_by_rate_and_the_figures(tmp_path: Path) -> None:
    """Medians, with what was skipped and why."""
    latest, _ = _results(tmp_path)
    lines = report.markdown(latest).splitlines()
    assert "| floor | 105,000 (100,000 - 110,000) | 7.5 | 6.0 | 60 | 0.50 |" in lines
    assert lines.index(next(line for line in lines if line.startswith("| floor"))) < lines.index(
        next(line for line in lines if line.startswith("| stockflow"))
    )
    assert any(line.startswith("| `throughput_vs_floor` | 0.70 | 0.60 - 0.80 |") for line in lines)
    assert "| `throughput_vs_quix` | skipped | | quix: no Python 3.11 |" in lines
    brief = report.briefly(latest)
    assert "| `throughput_vs_floor` | 0.70 | 0.60 - 0.80 |" in brief
    assert "| floor |" not in brief


def test_the_table_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    """Only what stands between the marks changes."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.update_readme(readme, "new\n")
    assert readme.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="figures: begin"):
        report.update_readme(readme, "new\n")


def test_the_page_shows_figures_and_charts(tmp_path: Path) -> None:
    """One file with everything inside, and a picture."""
    pytest.importorskip("matplotlib", reason="the charts need matplotlib, which `make setup` installs")
    latest, events = _results(tmp_path)
    text, png = report.page(latest, events)
    assert "a &lt;broker&gt;" in text
    assert "<svg" in text
    assert "throughput_vs_quix" in text
    assert png.startswith(b"\x89PNG")


def test_latencies_are_by_program_and_over_all_rounds(tmp_path: Path) -> None:
    """Quantiles from the single events; none of Redis where it was not looked at."""
    _, events = _results(tmp_path)
    rows = {row["program"]: row for row in report.latencies(events).iter_rows(named=True)}
    assert rows["floor"]["kafka p50"] == 7.0
    assert rows["floor"]["redis p50"] == 6.0
    assert rows["stockflow"]["redis p50"] is None
    assert report.timeline(events).height == 10
