"""The dashboards: a model that Grafana loads, queries that Prometheus understands, and metrics that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.k8s.custom import COUNT, TEXT, Schema, closed, listed
from tests.k8s.tools import run, tool
from tests.k8s.watched import (
    DASHBOARDS,
    FOREIGN,
    dashboard_expressions,
    filled_in,
    load,
    names_in,
    panels,
    recorded,
    rules,
    watched,
)
from tests.test_tidy import declared_metrics

COLUMNS = 24  # of Grafana's grid
SOURCE = closed({"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}})
# What Grafana reads of its classic dashboard model (schema version 39), as far as these dashboards use it.
PANEL: Schema = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["row", "timeseries", "stat", "heatmap", "table"]},
        "title": TEXT,
        "description": {"type": "string"},
        "datasource": SOURCE,
        "gridPos": closed({"x": COUNT, "y": COUNT, "w": {"type": "integer", "minimum": 1}, "h": COUNT}),
        "fieldConfig": closed({"defaults": {"type": "object", "required": ["unit"]}, "overrides": {"type": "array"}}),
        "options": {"type": "object"},
        "targets": listed(
            closed(
                {"refId": {"type": "string", "pattern": "^[A-Z]$"}, "expr": TEXT, "datasource": SOURCE},
                {
                    "legendFormat": {"type": "string"},
                    "instant": {"type": "boolean"},
                    "format": {"enum": ["heatmap", "table", "time_series"]},
                },
            )
        ),
        "collapsed": {"type": "boolean"},
        "panels": {"type": "array"},
    },
    "additionalProperties": False,
    "if": {"properties": {"type": {"not": {"const": "row"}}}},
    "then": {"required": ["targets", "datasource", "fieldConfig", "options"]},
}
DASHBOARD: Schema = closed(
    {
        "uid": {"type": "string", "pattern": "^[a-z-]{1,40}$"},
        "title": TEXT,
        "schemaVersion": {"const": 39},
        "panels": listed(PANEL),
        "templating": closed({"list": listed({"type": "object", "required": ["name", "type", "query"]})}),
        "time": closed({"from": TEXT, "to": TEXT}),
    },
    {
        **dict.fromkeys(("description", "timezone", "refresh"), TEXT),
        **dict.fromkeys(("version", "graphTooltip"), COUNT),
        "tags": {"type": "array"},
        "links": {"type": "array"},
        "editable": {"type": "boolean"},
        "annotations": {"type": "object"},
    },
)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_is_a_model_that_grafana_loads(path: Path) -> None:
    """Fields and their types, each id once, and panels that lie side by side on the grid."""
    dashboard = load(path)
    jsonschema.validate(dashboard, DASHBOARD)
    assert dashboard["uid"] == path.stem
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= COLUMNS, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("a type that is gone", {"type": "graph"}),
        ("no query", {"targets": []}),
        ("a fixed data source", {"datasource": {"type": "prometheus", "uid": "abc"}}),
        ("a field of another place", {"unit": "s"}),
    ],
)
def test_model_refuses(text: str, change: dict[str, Any]) -> None:
    """The schema above can fail."""
    dashboard = load(DASHBOARDS[0])
    position = next(i for i, panel in enumerate(dashboard["panels"]) if panel["type"] != "row")
    dashboard["panels"][position] = {**dashboard["panels"][position], **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(dashboard, DASHBOARD)


def test_queries_are_understood_by_prometheus(tmp_path: Path) -> None:
    """promtool reads every expression of every panel."""
    queries = [{"record": f"panel:{n}", "expr": text} for n, (_, text) in enumerate(dashboard_expressions())]
    assert len(queries) > 40
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))
    result = run(tool("promtool"), "check", "rules", "--lint=none", str(file))
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_is_watched_is_measured_and_what_is_measured_is_watched() -> None:
    """Rules and dashboards name exactly the metrics that the program declares, and the few that others export."""
    assert watched() == exported_by_the_program() | FOREIGN


def exported_by_the_program() -> set[str]:
    """Declared names as a query writes them: counters end in _total, the information in _info."""
    named = {name for name in watched() if name.startswith("stockflow_")}
    by_base = {name.removesuffix("_total").removesuffix("_info"): name for name in named}
    return {by_base.get(name, name) for name in declared_metrics()}


def test_recorded_series_are_used() -> None:
    """By an alert, a dashboard or another rule."""
    read = {name for rule in rules() for name in names_in(rule["expr"])}
    read |= {name for _, text in dashboard_expressions() for name in names_in(text)}
    assert recorded() - read == set()


def test_every_panel_chooses_by_namespace() -> None:
    """Two pipelines on one Prometheus stay apart."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                assert 'namespace=~"$namespace"' in target["expr"], panel["title"]


@pytest.mark.parametrize(
    ("text", "expression", "found"),
    [
        ("plain", "up", {"up"}),
        ("labels", 'a_total{b="c",d=~"e|f"}', {"a_total"}),
        ("a function and a range", "sum by (x, y) (rate(a_total[5m])) > 0", {"a_total"}),
        ("two with matching", "a * on (x) group_left (y) b", {"a", "b"}),
        ("recorded", "a:b:c <= bool 10", {"a:b:c"}),
        ("words", "a unless b offset 15m or c", {"a", "b", "c"}),
        ("a quantile", "histogram_quantile(0.99, sum by (le) (rate(a_bucket[5m])))", {"a_bucket"}),
        ("variables", filled_in('a{n=~"$namespace"}[$__rate_interval]'), {"a"}),
    ],
)
def test_names_are_found_in_an_expression(text: str, expression: str, found: set[str]) -> None:
    """What is read, without functions, labels and words of the language."""
    assert names_in(expression) == found
