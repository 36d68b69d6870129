"""The rules, played through by promtool: each alert fires, does not fire for less, and ends; and each has its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.tools import K8S, helm, run, tool
from tests.k8s.watched import RULES, rules

RUNBOOK = K8S / "runbook.md"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
LABELS = {"namespace": "shop", "job": "stockflow"}
POD = {**LABELS, "pod": "a"}
AUDIT = {"namespace": "shop", "cronjob": "stockflow-audit"}
SLOW_STEP_M = 10  # Minutes of stories that last for days: promtool evaluates every rule at every step.


@dataclass(frozen=True)
class Story:
    """What is measured, by series in promtool's notation, step by step, and when the alert must be there.

    `quiet` are steps without the alert, before it and after it has ended; `firing` are those with it. A step is a
    minute, or ten if it is `slow`.
    """

    text: str
    alert: str
    series: dict[str, str]
    quiet: tuple[int, ...]
    firing: tuple[int, ...] = ()
    labels: dict[str, str] = field(default_factory=lambda: LABELS)
    slow: bool = False


def series(name: str, **labels: str) -> str:
    """A series of the one pod of the stories."""
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in {**POD, **labels}.items()) + "}"


def latency(stage: str, all_events: str, in_time: str) -> dict[str, str]:
    """The two series of the histogram that the level is computed from."""
    name = "stockflow_update_latency_seconds"
    return {
        series(f"{name}_count", lane="urgent", stage=stage): all_events,
        series(f"{name}_bucket", lane="urgent", stage=stage, le="0.5"): in_time,
        series(f"{name}_bucket", lane="urgent", stage=stage, le="+Inf"): all_events,
    }


def freshness(live: str, lag: str, up: str = "1x20000") -> dict[str, str]:
    """What freshness is computed from, of 12 partitions."""
    return {
        series("stockflow_partitions", state="all"): "12x20000",
        series("stockflow_partitions", state="live"): live,
        series("stockflow_lag_events", topic="pos-sales.v1", partition="0"): lag,
        series("up"): up,
    }


def audit(scheduled: str, succeeded: str | None, active: str = "0x3000") -> dict[str, str]:
    """What kube-state-metrics says of the CronJob."""
    labels = "{" + ",".join(f'{key}="{value}"' for key, value in AUDIT.items()) + "}"
    return {
        f"kube_cronjob_status_last_schedule_time{labels}": scheduled,
        f"kube_cronjob_status_active{labels}": active,
        **({f"kube_cronjob_status_last_successful_time{labels}": succeeded} if succeeded else {}),
    }


VISIBLE = {**LABELS, "stage": "visible"}
# fmt: off
STORIES = [
    # 100 events a minute, of which some are late.
    Story("an hour with a fifth late", "StockflowUrgentLate",
          latency("visible", "0+100x600", "0+100x60 6000+80x60 10800+100x480"), (30, 60, 170), (110, 120), VISIBLE),
    Story("five per cent late for an hour are within the fast budget", "StockflowUrgentLate",
          latency("visible", "0+100x600", "0+100x60 6000+95x60 11700+100x480"), (60, 90, 120, 180)),
    Story("an hour with a fifth late after a quiet night ends within minutes", "StockflowUrgentLate",
          latency("visible", "0+100x700", "0+100x400 40000+80x60 44800+100x240"), (390, 420, 470), (452, 460), VISIBLE),
    Story("eight per cent late for six hours end within half an hour", "StockflowUrgentLate",
          latency("visible", "0+100x700", "0+100x100 10000+92x360 43120+100x240"), (90, 300, 500), (440, 460), VISIBLE),
    Story("nobody sells", "StockflowUrgentLate", latency("visible", "0x600", "0x600"), (60, 200)),
    Story("two per cent late for days", "StockflowUrgentLateSlowly",
          latency("visible", "0+1000x1500", "0+1000x150 150000+980x600 738000+1000x750"),
          (140, 800), (500, 740), VISIBLE, slow=True),
    Story("a day with eight per cent late is over hours later", "StockflowUrgentLateSlowly",
          latency("visible", "0+1000x500", "0+1000x150 150000+920x144 282480+1000x250"),
          (140, 345), (250, 290), VISIBLE, slow=True),
    Story("half a per cent late for days is within the budget", "StockflowUrgentLateSlowly",
          latency("visible", "0+1000x900", "0+995x900"), (100, 500), slow=True),
    Story("a partition without owner for half an hour", "StockflowStale",
          freshness("12x60 11x30 12x600", "0x700"), (50, 62, 150), (75, 90)),
    Story("ten minutes after a quiet night end within minutes", "StockflowStale",
          freshness("12x400 11x9 12x100", "0x600"), (395, 403, 420), (409, 411)),
    Story("three minutes of each hour", "StockflowStale",
          freshness(" ".join(["12x56 11x2"] * 8) + " 12x100", "0x600"), (50, 520), (482, 500)),
    Story("too far behind", "StockflowStale",
          freshness("12x700", "0x60 20000x30 0x600"), (50, 62, 150), (75, 90)),
    Story("no replica at all", "StockflowStale",
          freshness("12x60 _x30 12x600", "0x60 _x30 0x600", "1x60 0x30 1x600"), (50, 150), (75, 90)),
    Story("two minutes of a rollout", "StockflowStale",
          freshness("12x380 11x1 12x600", "0x900"), (50, 381, 382, 384, 390, 400)),
    Story("ten minutes in each of many half days", "StockflowStaleSlowly",
          freshness(" ".join(["12x70 11x0"] * 12) + " 12x600", "0x2000"), (60, 960), (800,), slow=True),
    Story("a day full of standstills is over hours later", "StockflowStaleSlowly",
          freshness("12x100 " + "11x3 12x31 " * 4 + "12x100", "0x400"), (90, 290), (220,), slow=True),
    Story("a rollout each week", "StockflowStaleSlowly",
          freshness("12x300 11x0 12x1000", "0x2000"), (290, 310, 360, 500), slow=True),
    Story("the nightly audit ends with a difference", "StockflowAuditFailed",
          audit("0x10 600x1440 87000x300", "60x1470 87200x300"), (9, 1500), (20, 1000), AUDIT),
    Story("the first audit ever fails", "StockflowAuditFailed", audit("600x100", None), (), (20, 90), AUDIT),
    Story("it still runs", "StockflowAuditFailed",
          audit("0x10 600x100", "60x20 1260x100", "0x10 1x20 0x100"), (9, 15, 25, 50)),
    Story("no audit for more than a day", "StockflowAuditMissing",
          audit("0x170 102000x30", "60x200"), (150, 180), (165,), AUDIT, slow=True),
    Story("an audit each day", "StockflowAuditMissing",
          audit("0x143 86400x143", "60x300"), (140, 150, 280), slow=True),
    Story("all replicas are down", "StockflowDown", {series("up"): "1x10 0x10 1x20"}, (5, 11, 30), (14, 20)),
    Story("one of two replicas is down", "StockflowDown",
          {series("up"): "1x40", series("up", pod="b"): "1x10 0x30"}, (5, 20, 40)),
    Story("nothing is there to be asked", "StockflowDown", {series("up"): "1x10 _x20 1x20"}, (5, 40), (25,),
          {"job": "stockflow"}),
    Story("partitions without an owner", "StockflowPartitionsMissing",
          freshness("12x10 11x20 12x20", "0x60"), (5, 14, 40), (20,)),
    Story("a takeover", "StockflowPartitionsMissing", freshness("12x10 8x2 12x20", "0x60"), (5, 12, 16, 20)),
    Story("a worker hangs", "StockflowStalled",
          {series("stockflow_turn_age_seconds"): "0x10 16x5 0x20"}, (10, 20), (14,), POD),
    Story("a long turn", "StockflowStalled", {series("stockflow_turn_age_seconds"): "0x10 14x5 0x20"}, (10, 14, 20)),
    Story("commits are not answered", "StockflowCommitsLate",
          {series("stockflow_commit_age_seconds"): "1x10 11x5 1x20"}, (10, 20), (14,), POD),
    Story("an idle pipeline commits each fifth of its lease", "StockflowCommitsLate",
          {series("stockflow_commit_age_seconds"): "6x40"}, (10, 40)),
    Story("commits fail for ten minutes", "StockflowCommitsFail",
          {series("stockflow_commits_total", result="failed"): "0x10 0+1x10 10x30"}, (10, 30), (20,)),
    Story("commits succeed", "StockflowCommitsFail",
          {series("stockflow_commits_total", result="acknowledged"): "0+300x40"}, (10, 40)),
    Story("a foreign record", "StockflowForeignWrites",
          {series("stockflow_foreign_writes_total"): "0x10 1x50"}, (9, 30), (12,)),
    Story("no foreign record", "StockflowForeignWrites", {series("stockflow_foreign_writes_total"): "1x50"}, (9, 30)),
    Story("the first letter of a reason", "StockflowDeadLetters",
          {series("up"): "1x60", series("stockflow_dead_letters_total", reason="not_json"): "_x10 1x50"},
          (9, 40), (12,), {**LABELS, "reason": "not_json"}),
    Story("one more letter", "StockflowDeadLetters",
          {series("stockflow_dead_letters_total", reason="not_json"): "1x30 2x50"}, (25, 50), (33,),
          {**LABELS, "reason": "not_json"}),
    Story("an old letter", "StockflowDeadLetters",
          {series("stockflow_dead_letters_total", reason="not_json"): "7x90"}, (20, 90)),
    Story("a count that came too late", "StockflowCountsTooOld",
          {series("stockflow_counts_too_old_total"): "0x10 1x150"}, (9, 80), (12, 60)),
    Story("no such count", "StockflowCountsTooOld", {series("stockflow_counts_too_old_total"): "3x90"}, (9, 80)),
    Story("a change of policies hangs", "StockflowRuleChangesStuck",
          {series("stockflow_rule_changes_pending"): "0x10 1x40 0x20"}, (10, 30, 60), (45,)),
    Story("a change of policies is done in minutes", "StockflowRuleChangesStuck",
          {series("stockflow_rule_changes_pending"): "0x10 12x9 0x40"}, (10, 19, 50)),
    Story("Redis is gone", "StockflowRedisUnreachable",
          {series("stockflow_redis_connected"): "1x10 0x10 1x20"}, (10, 12, 30), (15,)),
    Story("Redis fails over", "StockflowRedisUnreachable",
          {series("stockflow_redis_connected"): "1x10 0x0 1x20"}, (10, 12, 15)),
    Story("Redis is slow", "StockflowRedisBehind",
          {series("stockflow_redis_backlog_keys"): "0x10 15000x10 0x20"}, (10, 14, 30), (18,)),
    Story("a burst", "StockflowRedisBehind",
          {series("stockflow_redis_backlog_keys"): "0x10 15000x3 0x20"}, (10, 13, 20)),
]
# fmt: on


@pytest.fixture(scope="module")
def rules_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def test_rules_are_understood(rules_file: Path) -> None:
    """Syntax of rules and expressions."""
    result = run(tool("promtool"), "check", "rules", str(rules_file))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout


@pytest.mark.parametrize("slow", [False, True])
def test_alerts_fire_and_end_as_told(slow: bool, rules_file: Path) -> None:
    """All stories in one run of promtool, since each start costs more than its stories."""
    tests = rules_file.with_name(f"stories-{slow}.yaml")
    step = f"{SLOW_STEP_M}m" if slow else "1m"
    stories = [promtool_test(story, step) for story in STORIES if story.slow == slow]
    tests.write_text(yaml.safe_dump(suite(rules_file, step, stories)))
    result = run(tool("promtool"), "test", "rules", str(tests))
    assert result.returncode == 0, result.stdout + result.stderr


def suite(rules_file: Path, step: str, stories: list[dict[str, Any]]) -> dict[str, Any]:
    """A file of promtool; recorded series stand before what is computed from them, as in the rules."""
    return {
        "rule_files": [rules_file.name],
        "evaluation_interval": step,
        "group_eval_order": [group["name"] for group in RULES["groups"]],
        "tests": stories,
    }


def promtool_test(story: Story, step: str) -> dict[str, Any]:
    """A story in promtool's words. An alert that is expected is expected whole: labels and annotations."""
    rule = ALERTS[story.alert]
    minutes_of = int(step.removesuffix("m"))
    expected = {
        "exp_labels": {**rule["labels"], **story.labels},
        "exp_annotations": rule["annotations"],
    }
    return {
        "name": story.text,
        "interval": step,
        "input_series": [{"series": name, "values": values} for name, values in story.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{at * minutes_of}m", "alertname": story.alert, "exp_alerts": alerts}
            for moments, alerts in ((story.quiet, []), (story.firing, [expected]))
            for at in moments
        ],
    }


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_is_seen_to_fire_to_stay_quiet_and_to_end(alert: str) -> None:
    """The stories above tell all three of it."""
    told = [story for story in STORIES if story.alert == alert]
    assert any(story.firing and story.quiet and max(story.quiet) > max(story.firing) for story in told), "ends"
    assert any(story.firing for story in told), "fires"
    assert any(not story.firing for story in told), "stays quiet for less"


def test_a_story_that_is_wrong_is_noticed(rules_file: Path) -> None:
    """promtool says no if an alert is not there."""
    story = Story("nothing", "StockflowDown", {series("up"): "1x30"}, (), (20,))
    tests = rules_file.with_name("wrong.yaml")
    tests.write_text(yaml.safe_dump(suite(rules_file, "1m", [promtool_test(story, "1m")])))
    assert run(tool("promtool"), "test", "rules", str(tests)).returncode != 0


def anchors() -> Iterator[str]:
    """Headings of the runbook as links name them."""
    for heading in re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), flags=re.MULTILINE):
        yield re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_to_do(alert: str) -> None:
    """Each has a severity, a sentence and its own section in the runbook."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "k8s/runbook.md"
    assert anchor == alert.lower()
    assert anchor in set(anchors())


def test_runbook_knows_no_alert_that_is_gone() -> None:
    """Its sections about alerts are those of the rules."""
    headings = set(re.findall(r"^## (Stockflow\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE))
    assert headings == set(ALERTS)


def test_chart_links_to_where_the_runbook_is_served() -> None:
    """The value stands in front of every anchor."""
    rendered = helm("--set", "monitoring.enabled=true,monitoring.runbook=https://docs.example/stockflow")
    assert rendered.count("runbook_url: https://docs.example/stockflow#stockflow") == len(ALERTS)
    assert "k8s/runbook.md" not in rendered
