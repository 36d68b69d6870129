"""The pictures of the dashboards: how they are drawn, and that they are of the dashboards as they are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.k8s.drawing import Series, draw, shown
from tests.k8s.tools import K8S
from tests.k8s.watched import DASHBOARDS, load, panels

NAN = float("nan")


def words(svg: str) -> list[str]:
    """All that is written in a picture."""
    return [str(one.text) for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_picture_shows_the_dashboard_as_it_is(path: Path) -> None:
    """Each panel of today's is on it: `python -m tests.k8s.pictures` makes it anew."""
    written = words((K8S / "pictures" / f"{path.stem}.svg").read_text())
    assert written[0] == load(path)["title"]
    assert {panel["title"] for panel in panels(path)} - set(written) == set()
    assert f"pictures/{path.stem}.svg" in (K8S / "runbook.md").read_text()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panel_without_data_says_so(path: Path) -> None:
    """Nothing measured is not zero."""
    dashboard = load(path)
    nothing = draw(dashboard, {panel["id"]: [Series("a", [(0, NAN)])] for panel in panels(path)})
    assert words(nothing).count("no data") == len(panels(path))
    legends = [("0.1", 1.0), ("+Inf", 2.0)]
    something = draw(dashboard, {p["id"]: [Series(a, [(0, b), (60, b)]) for a, b in legends] for p in panels(path)})
    assert "no data" not in words(something)


def test_line_has_a_gap_where_nothing_was_measured() -> None:
    """A missing number lifts the pen."""
    panel = {"id": 1, "type": "timeseries", "title": "t", "gridPos": {"x": 0, "y": 0, "w": 8, "h": 8}}
    dashboard = {"title": "d", "panels": [{**panel, "fieldConfig": {"defaults": {"unit": "s"}}}]}
    drawn = draw(dashboard, {1: [Series("a", [(0, 1.0), (1, 2.0), (2, NAN), (3, 1.0), (4, 1.0)])]})
    (line,) = (
        one.get("d", "")
        for one in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}path")
        if one.get("fill") == "none"
    )
    assert (line.count("M"), line.count("L")) == (2, 2)


@pytest.mark.parametrize(
    ("text", "value", "unit", "expected"),
    [
        ("milliseconds", 0.0123, "s", "12.3 ms"),
        ("seconds", 9.44, "s", "9.44 s"),
        ("a share", 0.0325, "percentunit", "3.25 %"),
        ("a rate", 241.2, "ops", "241/s"),
        ("thousands", 29_600, "short", "29.6k"),
        ("yes", 1, "bool", "yes"),
    ],
)
def test_value_reads_as_a_person_writes_it(text: str, value: float, unit: str, expected: str) -> None:
    """With its unit."""
    assert shown(value, unit) == expected
