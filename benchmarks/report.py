"""The last results as a page with charts (`report.html`, and `report.png`) and as the tables of both READMEs.

Reads what the suite wrote (`latest.json`, `latency.parquet`) and measures nothing. matplotlib is needed only here.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

HERE = Path(__file__).resolve().parent
README, ROOT_README = HERE / "README.md", HERE.parent / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
BRIEFLY = (  # What the first README tells.
    "throughput_vs_floor",
    "throughput_all_cores_vs_floor",
    "throughput_vs_kafka_streams",
    "throughput_vs_stock_bytewax",
    "throughput_vs_quix",
    "throughput_vs_faust",
    "p50_vs_floor",
    "p99_vs_floor",
    "p99_vs_kafka_streams",
    "restore_vs_bare",
    "bytes_per_balance",
)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
COLOURS = ("#9aa5b1", "#1f6feb", "#d29922", "#a371f7", "#3fb950", "#f778ba", "#6e7681", "#db6d28")
MEANING = {
    "throughput_vs": "events/s of stockflow / of the other; more is better",
    "throughput_all_cores": "events/s of a group with a process per core / of the other, one process; more is better",
    "p50": "median latency of stockflow / of the other; less is better",
    "p999": "99.9th percentile of stockflow / of the other; less is better",
    "p99": "99th percentile of stockflow / of the other; less is better",
    "restore": "seconds to restore / seconds of a bare read; less is better",
    "takeover": "seconds to take half of the partitions over / seconds of a bare read of them; less is better",
    "redis": "records/s of the view / of redis-benchmark with the same script; more is better",
    "bytes": "resident bytes per idle balance; less is better",
}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse}td,th{padding:.25rem .75rem;border-bottom:1px solid #d1d9e0;text-align:right}"
    "td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}svg{max-width:100%;height:auto}"
)


def programs(latest: dict[str, Any]) -> pl.DataFrame:
    """Medians over the rounds, a row for each program."""
    rows = latest["raw"].get("throughput", [])
    if not rows:
        return pl.DataFrame()
    return (
        pl.DataFrame(rows, infer_schema_length=None)
        .group_by("program", maintain_order=True)
        .agg(
            pl.col("per_second").median().alias("events_per_second"),
            pl.col("per_second").min().alias("lowest"),
            pl.col("per_second").max().alias("highest"),
            pl.col("cpu_us", "servers_cpu_us", "resident_mb", "others").median(),
            (pl.col("records") / pl.col("events")).median().alias("records_per_event"),
            pl.len().alias("rounds"),
        )
        .sort("events_per_second", descending=True)
    )


def latencies(events: pl.DataFrame) -> pl.DataFrame:
    """Milliseconds by workload, program and quantile, over all rounds together."""
    each = [
        pl.col(column).quantile(q).alias(f"{column[:5]} p{q * 100:g}")
        for column in ("kafka_ms", "redis_ms")
        for q in QUANTILES
    ]
    return events.group_by("workload", "program", maintain_order=True).agg(*each)


def timeline(events: pl.DataFrame) -> pl.DataFrame:
    """Per second of due time the 99th percentile, by program; seconds count from the first event that was due."""
    return (
        events.filter(pl.col("workload") == pl.col("workload").first())
        .with_columns(pl.col("due_s").floor().alias("second"))
        .group_by("program", "second", maintain_order=True)
        .agg(pl.col("kafka_ms").quantile(0.99).alias("p99_ms"))
        .sort("program", "second")
    )


def markdown(latest: dict[str, Any]) -> str:
    """The programs and the figures as tables."""
    about, lines = latest["about"], []
    lines.append(f"{about['made_at']}, `{about['size']['name']}` run; {about['machine']}; {about['servers']}.\n")
    table = programs(latest)
    if table.height:
        lines.append("| program | events/s (lowest - highest) | CPU us/event | servers | MB | records/event |")
        lines.append("|--|--|--|--|--|--|")
        for row in table.iter_rows(named=True):
            lines.append(
                f"| {row['program']} | {row['events_per_second']:,.0f} ({row['lowest']:,.0f} - {row['highest']:,.0f}) "
                f"| {row['cpu_us']:.1f} | {row['servers_cpu_us']:.1f} | {row['resident_mb']:,.0f} "
                f"| {row['records_per_event']:.2f} |"
            )
        lines.append("")
    return "\n".join([*lines, *_figure_lines(_figures(latest))]) + "\n"


def briefly(latest: dict[str, Any]) -> str:
    """The figures that whoever chooses a program asks for first."""
    about, found = latest["about"], _figures(latest)
    told = f"{about['machine']}, shared with {about['servers']}; {about['made_at'][:10]}."
    return "\n".join([f"{told}\n", *_figure_lines({name: found[name] for name in BRIEFLY if name in found})]) + "\n"


def _figure_lines(found: dict[str, Any]) -> list[str]:
    lines = ["| figure | value | 95 % interval | |", "|--|--|--|--|"]
    for name, figure in found.items():
        if figure["value"] is None:
            lines.append(f"| `{name}` | skipped | | {_first_line(figure['skipped'])} |")
        else:
            interval = f"{figure['low']:,.2f} - {figure['high']:,.2f}"
            lines.append(f"| `{name}` | {figure['value']:,.2f} | {interval} | {_meaning(name)} |")
    return lines


def page(latest: dict[str, Any], events: pl.DataFrame) -> tuple[str, bytes]:
    """The page, and all its charts as one PNG."""
    figure = draw(latest, events)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg")
    figure.savefig(png, format="png", dpi=110)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_number(one['value'])}</td><td>{_number(one['low'])}</td>"
        f"<td>{_number(one['high'])}</td><td>{html.escape(_first_line(one.get('skipped') or _meaning(name)))}</td></tr>"
        for name, one in _figures(latest).items()
    )
    about = latest["about"]
    where = html.escape(f"{about['made_at']}, {about['size']['name']} run; {about['machine']}; {about['servers']}")
    drawn = svg.getvalue()
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>stockflow benchmarks</title>"
        f"<style>{STYLE}</style><h1>stockflow compared</h1><p>{where}</p>"
        "<table><tr><th>figure<th>value<th>low<th>high<th>meaning, or why it was skipped</tr>"
        f"{rows}</table>{drawn[drawn.index('<svg') :]}{_latency_table(events)}</html>\n",
        png.getvalue(),
    )


def draw(latest: dict[str, Any], events: pl.DataFrame) -> Any:
    """The charts: throughput, CPU and memory per program, latency by quantile and over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 12), layout="constrained")
    rate, cpu, quantiles, seconds = figure.subplots(4, 1)
    table = programs(latest)
    names = table["program"].to_list() if table.height else []
    colour = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(sorted(names))}
    if names:
        values = table["events_per_second"]
        errors = [(values - table["lowest"]).to_list(), (table["highest"] - values).to_list()]
        rate.barh(names, values.to_list(), xerr=errors, color=[colour[name] for name in names])
        cpu.barh(names, table["cpu_us"].to_list(), color=[colour[name] for name in names])
        cpu.barh(names, table["servers_cpu_us"].to_list(), left=table["cpu_us"].to_list(), color="#d1d9e0")
    for axes, title in (
        (rate, "events/s, median (lowest - highest)"),
        (cpu, "CPU us per event: program, then servers"),
    ):
        axes.set_title(title)
        axes.invert_yaxis()
    for row in latencies(events).iter_rows(named=True) if events.height else ():
        for kind, style in (("kafka", "-o"), ("redis", "--s")):
            points = [row[f"{kind} p{q * 100:g}"] for q in QUANTILES]
            if points[0] is not None:
                labels = [f"p{q * 100:g}" for q in QUANTILES]
                quantiles.plot(labels, points, style, label=f"{row['workload']}, {row['program']}, {kind}")
    quantiles.set_yscale("log")
    quantiles.set_title("ms from due to read")
    for (name,), one in timeline(events).group_by("program", maintain_order=True) if events.height else ():
        seconds.plot(one["second"].to_list(), one["p99_ms"].to_list(), label=str(name))
    seconds.set_title("p99 of the events due in each second, ms, all rounds")
    for axes in (quantiles, seconds):
        if axes.has_data():
            axes.legend(fontsize=7)
    return figure


def update_readme(readme: Path, table: str) -> None:
    """Put the table between its marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{readme}: no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def _figures(latest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in latest.items() if isinstance(one, dict) and "value" in one}


def _latency_table(events: pl.DataFrame) -> str:
    if not events.height:
        return ""
    found = latencies(events)
    head = "".join(f"<th>{name}" for name in found.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_number(one))}</td>" for one in row) + "</tr>" for row in found.rows()
    )
    return f"<h2>Latency, ms</h2><table><tr>{head}</tr>{rows}</table>"


def _number(value: object) -> str:
    return "" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)


def _meaning(name: str) -> str:
    return next((text for start, text in MEANING.items() if name.startswith(start)), "")


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def main() -> int:
    """Write page, picture and, if asked, the table in the README."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--results", type=Path, default=HERE / "results", help="what the suite wrote")
    options.add_argument("--into", type=Path, default=HERE, help="folder for report.html and report.png")
    options.add_argument("--readme", action="store_true", help="put the tables into both READMEs, too")
    chosen = options.parse_args()
    latest = json.loads((chosen.results / "latest.json").read_text(encoding="utf-8"))
    events = pl.read_parquet(chosen.results / "latency.parquet")
    text, png = page(latest, events)
    (chosen.into / "report.html").write_text(text, encoding="utf-8")
    (chosen.into / "report.png").write_bytes(png)
    if chosen.readme:
        update_readme(README, markdown(latest))
        update_readme(ROOT_README, briefly(latest))
    Console().print(f"written to {chosen.into / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
