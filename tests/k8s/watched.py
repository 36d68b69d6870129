"""Which metrics rules and dashboards name, and what their expressions are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.tools import CHART

MONITORING = CHART / "files" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]
# Measured by others: Prometheus itself, and kube-state-metrics about the CronJob.
FOREIGN = frozenset(
    {
        "up",
        "kube_cronjob_status_active",
        "kube_cronjob_status_last_schedule_time",
        "kube_cronjob_status_last_successful_time",
    }
)
_NAME = re.compile(r"(?<![\w:$\"])([a-zA-Z_][\w:]*)(?=\s*(?:\{|\[|\)|$|[-+*/<>=!]|\s))")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\{[^}]*\}")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORDS = frozenset({"and", "or", "unless", "offset", "bool", "sum", "min", "max", "count"})


def rules() -> Iterator[dict[str, Any]]:
    """All recording rules and alerts."""
    for group in RULES["groups"]:
        yield from group["rules"]


def recorded() -> set[str]:
    """Names of the series that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def panels(path: Path) -> list[dict[str, Any]]:
    """Panels of a dashboard that show something."""
    return [panel for panel in load(path)["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Where, and the expression as Prometheus would get it."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", filled_in(target["expr"])


def filled_in(expression: str) -> str:
    """With Grafana's variables replaced."""
    return expression.replace("$__rate_interval", "5m").replace("$namespace", ".*")


def names_in(expression: str) -> set[str]:
    """Series that an expression reads."""
    bare = _GROUPING.sub(" ", _LABELS.sub(" ", _STRING.sub('""', expression)))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return {name for name in _NAME.findall(bare) if name not in _WORDS and not re.match(r"^\d", name)}


def base_name(series: str) -> str:
    """The exported metric behind a series of a histogram."""
    return re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", series)


def watched() -> set[str]:
    """Metrics, not recorded by rules, that rules and dashboards name."""
    expressions = [rule["expr"] for rule in rules()] + [text for _, text in dashboard_expressions()]
    return {base_name(name) for text in expressions for name in names_in(text)} - recorded()


def exported(page: str) -> set[str]:
    """Names on a metrics page, as queries write them."""
    return set(re.findall(r"^# TYPE (\S+) ", page, flags=re.MULTILINE))
