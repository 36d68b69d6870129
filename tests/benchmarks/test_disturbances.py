"""What disturbs and what grows: a short real run, and what a program that does not hold its memory is called."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import growth
from benchmarks.disturbances import _owned
from benchmarks.workload import Options, make
from schemas.topics import ORDER_RESERVATIONS
from stockflow.embedded import RedisServer
from tests import services

NOW_US = 1_790_000_000_000_000


@pytest.mark.parametrize(
    ("memory", "code"),
    [([100.0, 100.0, 100.0, 100.0, 100.0], 0), ([100.0, 100.0, 100.0, 104.0, 110.0], 1)],
    ids=["stands still", "grows"],
)
def test_growth_is_found(
    memory: list[float], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of five lines, a day each, the fourth and fifth come wholly after two days."""
    sizes = itertools.chain([mb * 1e6 for mb in memory])
    monkeypatch.setattr(growth, "resident_of", lambda _: next(sizes))
    monkeypatch.setattr(growth, "PORTION", 500)
    monkeypatch.setattr(growth, "PER_LINE", 1_000)
    monkeypatch.setattr(growth, "COST_MAX", 100.0)
    told = ["growth", "--events", "5000", "--balances", "100", "--partitions", "2", "--rate", str(1_000 / 90_000)]
    monkeypatch.setattr(sys, "argv", told)
    assert growth.main() == code, capsys.readouterr().out


def test_holds_end_when_asked_and_ids_count_on() -> None:
    """The first hold ends after so many seconds, the last a spread later; a second portion repeats no id."""
    shape = Options(2_000, 100, 2, hold_s=5, hold_spread_s=10)
    first, second = (make(one, NOW_US) for one in (shape, Options(2_000, 100, 2, first=2_000)))
    values = [m["value"].decode() for (topic, _), ms in first.events.items() for m in ms if topic.startswith("order")]
    ends = sorted(value.partition('"expires_at":"')[2][:19] for value in values)
    assert ORDER_RESERVATIONS.name.startswith("order")
    assert "2026-09-21T14:13:25" <= ends[0] < "2026-09-21T14:13:27"
    assert ends[-1] >= "2026-09-21T14:13:33"
    ids = [
        [m["value"].partition(b'"id":"')[2][:24] for ms in one.events.values() for m in ms] for one in (first, second)
    ]
    assert not set(ids[0]) & set(ids[1])


def test_partitions_of_a_process_are_read_from_its_log(tmp_path: Path) -> None:
    """Assigned less revoked and lost; other lines say nothing."""
    log = tmp_path / "stockflow.log"
    log.write_text(
        '{"event":"assigned","partitions":[0,1,2]}\nnot JSON\n{"event":"revoked","partitions":[1]}\n'
        '{"event":"assigned","partitions":[5]}\n{"event":"lost","partitions":[0]}\n',
        encoding="utf-8",
    )
    assert _owned(SimpleNamespace(log_file=log)) == {2, 5}  # type: ignore[arg-type]


@pytest.mark.kafka
@pytest.mark.redis
def test_a_short_takeover_is_measured(
    kafka: services.Kafka, private_redis: Callable[[], RedisServer], tmp_path: Path
) -> None:
    """Two processes of which one ends: the program itself fails if nothing was measured meanwhile."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.disturbances", "--what", "takeover", "--rounds", "1"),
            *("--rate", "1000", "--warm-up", "1", "--before", "2", "--after", "5", "--balances", "1000"),
            *("--partitions", "2", "--folder", str(tmp_path)),
            *("--bootstrap", kafka.bootstrap, "--redis-url", private_redis().url),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout  # Whether a bar is met on a busy machine is no test's business.
    assert "takeover  p99" in done.stdout
