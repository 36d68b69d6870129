"""Draws a dashboard as SVG from what Prometheus answered; a likeness of Grafana's layout, not of its looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLUMN_PX, ROW_PX, GAP_PX = 50, 24, 6
COLOURS = ("#73bf69", "#5794f2", "#f2cc0c", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d", "#ffb357", "#ca95e5")
NAMED_COLOURS = {"green": "#37872d", "orange": "#c15c17", "red": "#c4162a"}
PAPER, CARD, TEXT, FAINT = "#111217", "#181b1f", "#d0d1d9", "#34373d"
LEGENDS_MAX = 6


@dataclass(frozen=True)
class Series:
    """One line: its legend, and (seconds, value) in the order of time."""

    legend: str
    points: Sequence[tuple[float, float]]


def draw(dashboard: Mapping[str, Any], answers: Mapping[int, Sequence[Series]]) -> str:
    """The SVG of a dashboard; `answers` are the series of each panel by its id."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW_PX + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN_PX} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        text(10, 24, dashboard["title"], size=16),
    ]
    for panel in panels:
        at = panel["gridPos"]
        x, y = at["x"] * COLUMN_PX + GAP_PX / 2, at["y"] * ROW_PX + 40
        if panel["type"] == "row":
            parts.append(text(x + 4, y + 16, panel["title"], size=13))
            continue
        width, tall = at["w"] * COLUMN_PX - GAP_PX, at["h"] * ROW_PX - GAP_PX
        parts.append(f'<g transform="translate({x:g},{y:g})">')
        parts.append(f'<rect width="{width:g}" height="{tall:g}" rx="2" fill="{CARD}" stroke="{FAINT}"/>')
        parts.append(text(8, 16, panel["title"], size=12))
        found = [one for one in answers[panel["id"]] if any(math.isfinite(value) for _, value in one.points)]
        drawn = _PAINTERS[panel["type"]] if found else _nothing
        parts.append(drawn(panel, found, width, tall))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, size: int = 11, anchor: str = "start", fill: str = TEXT) -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


def shown(value: float, unit: str) -> str:
    """A value as a person reads it."""
    if unit == "bool":
        return "yes" if value else "no"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}" + {"s": " s", "ops": "/s"}.get(unit, "")


def _nothing(panel: Mapping[str, Any], found: Sequence[Series], width: float, tall: float) -> str:
    return text(width / 2, tall / 2 + 8, "no data", anchor="middle", fill="#7b8087")


def _stat(panel: Mapping[str, Any], found: Sequence[Series], width: float, tall: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    each = width / len(found)
    parts = []
    for n, one in enumerate(found):
        value = next(value for _, value in reversed(one.points) if math.isfinite(value))
        words = shown(value, defaults["unit"])
        for mapping in defaults.get("mappings", []):
            words = mapping["options"].get(f"{value:g}", {"text": words})["text"]
        colour = "#2f5aa8"
        for step in defaults.get("thresholds", {"steps": []})["steps"]:
            if step["value"] is None or value >= step["value"]:
                colour = NAMED_COLOURS[step["color"]]
        parts.append(f'<rect x="{n * each + 3:g}" y="24" width="{each - 6:g}" height="{tall - 28:g}" fill="{colour}"/>')
        parts.append(text(n * each + each / 2, tall / 2 + 16, words, size=20, anchor="middle", fill="#ffffff"))
        parts.append(text(n * each + each / 2, tall - 12, one.legend, anchor="middle", fill="#ffffff"))
    return "".join(parts)


def _table(panel: Mapping[str, Any], found: Sequence[Series], width: float, tall: float) -> str:
    return "".join(text(8, 40 + 16 * n, f"{one.legend}: {one.points[-1][1]:g}") for n, one in enumerate(found))


def _lines(panel: Mapping[str, Any], found: Sequence[Series], width: float, tall: float) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    values = [value for one in found for _, value in one.points if math.isfinite(value)]
    times = [at for one in found for at, _ in one.points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    left, top, right, bottom = 56.0, 28.0, width - 8, tall - 36
    place = _scale(min(times), max(times), low, high, (left, top, right, bottom))
    parts = []
    for share in (0, 1) if unit == "bool" else (0, 0.5, 1):
        level = low + share * (high - low)
        _, y = place(min(times), level)
        parts.append(f'<path d="M{left:g} {y:.1f}H{right:g}" stroke="{FAINT}"/>')
        parts.append(text(left - 4, y + 4, shown(level, unit), size=10, anchor="end"))
    for n, one in enumerate(found):
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f'<path d="{_path(one.points, place)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    minutes = (max(times) - min(times)) / 60
    parts.append(text(right, tall - 24, f"{minutes:.0f} min", size=9, anchor="end", fill="#7b8087"))
    x = 8.0
    for n, one in enumerate(found[:LEGENDS_MAX]):
        label = one.legend if n < LEGENDS_MAX - 1 or len(found) <= LEGENDS_MAX else f"and {len(found) - n} more"
        parts.append(f'<rect x="{x:g}" y="{tall - 13:g}" width="8" height="3" fill="{COLOURS[n % len(COLOURS)]}"/>')
        parts.append(text(x + 11, tall - 8, label, size=9))
        x += 22 + 5.4 * len(label)
        if x > width - 80:
            break
    return "".join(parts)


def _heatmap(panel: Mapping[str, Any], found: Sequence[Series], width: float, tall: float) -> str:
    """Cumulative buckets as columns of shares, the fastest at the bottom."""
    buckets = sorted(found, key=lambda one: float(one.legend.replace("+Inf", "inf")))
    times = [at for at, _ in buckets[0].points]
    counts = [dict(one.points) for one in buckets]
    left, top, bottom = 56.0, 28.0, tall - 12
    wide, high = (width - left - 8) / len(times), (bottom - top) / len(buckets)
    parts = []
    for i, at in enumerate(times):
        column = [one.get(at, 0.0) for one in counts]
        own = [max(0.0, this - before) for before, this in zip([0.0, *column], column, strict=False)]
        for n, count in enumerate(own):
            share = count / (max(own) or 1.0)
            if share > 0.01:
                parts.append(
                    f'<rect x="{left + i * wide:.1f}" y="{bottom - (n + 1) * high:.1f}" width="{wide:.1f}" '
                    f'height="{high:.1f}" fill="#ff780a" opacity="{0.15 + 0.85 * share:.2f}"/>'
                )
    for n, one in enumerate(buckets[::4]):
        words = one.legend if one.legend == "+Inf" else shown(float(one.legend), "s")
        parts.append(text(left - 4, bottom - 4 * n * high - 2, words, size=10, anchor="end"))
    return "".join(parts)


Place = Callable[[float, float], tuple[float, float]]


def _scale(since: float, until: float, low: float, high: float, box: tuple[float, float, float, float]) -> Place:
    left, top, right, bottom = box

    def place(at: float, value: float) -> tuple[float, float]:
        along = (at - since) / ((until - since) or 1.0)
        return left + along * (right - left), bottom - (value - low) / ((high - low) or 1.0) * (bottom - top)

    return place


def _path(points: Sequence[tuple[float, float]], place: Place) -> str:
    """Steps of a path; a gap where there was no number."""
    steps, pen_up = [], True
    for at, value in points:
        if not math.isfinite(value):
            pen_up = True
            continue
        x, y = place(at, value)
        steps.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = False
    return "".join(steps)


_PAINTERS = {"stat": _stat, "table": _table, "timeseries": _lines, "heatmap": _heatmap}
