"""What a rollout is measured by: the manifest's own rules, window and partitions; and a short real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rollout import SETTLE_S, rolled, rules_of, silences
from benchmarks.watching import Due
from schemas.topics import partition_of

PARTITIONS = 2
ZERO, ONE = (next(f"SKU-{n}" for n in range(99) if partition_of(f"SKU-{n}", PARTITIONS) == p) for p in range(2))


def due(id: str, sku: str, at: float) -> Due:
    return Due(id, "sale", sku, "STORE-1", at)


def test_rules_are_those_of_the_manifest(tmp_path: Path) -> None:
    """One more at a time, none missing; another manifest, other rules; a missing replica is refused."""
    rules = rules_of()
    assert (rules.replicas, rules.surge) == (3, 1)
    assert rules.min_ready_s > 0
    changed = tmp_path / "deployment.yaml"
    text = (Path(__file__).parents[2] / "k8s/base/deployment.yaml").read_text(encoding="utf-8")
    changed.write_text(text.replace("minReadySeconds: 10", "minReadySeconds: 7"), encoding="utf-8")
    assert rules_of(changed).min_ready_s == 7
    changed.write_text(text.replace("maxUnavailable: 0", "maxUnavailable: 1"), encoding="utf-8")
    with pytest.raises(ValueError, match="maxUnavailable is 1"):
        rules_of(changed)


def test_silence_is_the_longest_of_each_partition() -> None:
    """The window's ends count, what was answered outside of it does not; no answer at all is all silence."""
    events = [due("a", ZERO, 1), due("b", ZERO, 2), due("c", ZERO, 9), due("d", ONE, 1)]
    assert silences(events, {"a": 11.0, "b": 14.0, "c": 30.0, "d": 5.0}, (10, 20), PARTITIONS) == [6, 10]


def test_latency_is_that_of_events_due_during_the_change() -> None:
    """Before it, in it, and long after it: three events, one counts as changed, one as before."""
    events = [due("before", ZERO, 99), due("during", ONE, 101), due("after", ZERO, 103 + SETTLE_S)]
    seen = {"before": 99.010, "during": 101.500, "after": 103.9 + SETTLE_S}
    found = rolled("rolling", events, seen, (100, 102), PARTITIONS)
    assert found.latency["max"] == pytest.approx(500)
    assert found.before["max"] == pytest.approx(10)
    assert (found.answered, found.took_s) == (1, 2)


@pytest.mark.long
@pytest.mark.kafka
@pytest.mark.redis
def test_a_short_rollout_ends_with_the_right_sums(tmp_path: Path) -> None:
    """Two replicas, both replaced under load; the program itself compares topic and Redis before it reports."""
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.rollout", "--rounds", "1", "--replicas", "2", "--scenario", "rolling"),
            *(
                "--rate",
                "100",
                "--balances",
                "200",
                "--partitions",
                "4",
                "--quiet",
                "3",
                "--seconds",
                "28",
                "--min-ready",
                "0",
            ),
            *("--folder", str(tmp_path)),
        ],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=200,
    )
    (written,) = tmp_path.glob("rollout-*.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    (found,) = report["results"]["rolling"]
    assert [what for _, what in found["steps"]].count("an old one ended") == 2
    assert found["answered"] > 0.9
    assert len(found["silence_s"]) == 4
