"""The harness itself: its points exist, it kills where it says, and its watch sees what it is for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import pytest
import redis

from operations.audit.log import LogRecord
from schemas.topics import AVAILABILITY
from stockflow import run
from stockflow.embedded import RedisServer
from stockflow.embedded.process import wait_until
from tests.chaos import failing, failpoints
from tests.chaos.failpoints import LAST_WORDS, NAMES, SEAMS, Failpoint, Seam, parse, plant, resolve
from tests.chaos.rounds import not_on_the_topic, plan
from tests.chaos.watch import RedisWatch

TIMEOUT_S = 10.0


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_each_seam_is_a_function_of_the_program(seam: Seam) -> None:
    """One that was renamed would never be reached, and its rounds would prove nothing."""
    _, name, function = resolve(seam)
    assert callable(function)
    assert name == seam.path.rpartition(".")[2]


@pytest.mark.parametrize("text", ["before:produce:17", "after:state:1+20ms"])
def test_a_failpoint_is_a_text_and_back(text: str) -> None:
    """So a record names what a process is told."""
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["before:nothing:1", "at:produce:1", "before:produce:0", "before:produce", ""])
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    """Otherwise a process would live that should have died."""
    with pytest.raises(ValueError, match="is no failpoint"):
        parse(text)


class Died(Exception):
    """Instead of dying."""


@pytest.mark.parametrize(("when", "done"), [("before", 1), ("after", 2)])
def test_death_comes_before_or_after_the_call_that_is_named(
    monkeypatch: pytest.MonkeyPatch, when: str, done: int
) -> None:
    """The second call here: it is not made, or it is the last."""
    calls = []

    def die(_: Failpoint) -> NoReturn:
        raise Died

    monkeypatch.setattr(failpoints, "BY_NAME", {"seam": Seam("seam", __name__, "Died.seam", 1)})
    monkeypatch.setattr(Died, "seam", lambda *said: calls.append(said), raising=False)
    plant(Failpoint(when, "seam", 2), die)
    Died.seam(1)  # type: ignore[attr-defined]
    with pytest.raises(Died):
        Died.seam(2)  # type: ignore[attr-defined]
    assert len(calls) == done


def test_a_process_kills_itself_with_its_last_words() -> None:
    """By SIGKILL, so that nothing of it is tidied up."""
    code = "from tests.chaos.failpoints import kill_this_process, parse; kill_this_process(parse('after:redis:2+1ms'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, f"{LAST_WORDS}after:redis:2+1ms\n")


def test_the_wall_clock_can_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """By as much as is said, ahead or behind."""
    monkeypatch.setattr(run, "_wall_us", run._wall_us)
    failing.skew_wall_clock(-3_600_000)
    assert run._wall_us() < time.time_ns() // 1000 - 3_599_000_000


def test_rounds_follow_from_their_number_and_visit_every_point() -> None:
    """The same number is the same round, and so many rounds as there are points have each once."""
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)
    assert sorted(plan(seed).point.name for seed in range(80, 80 + len(NAMES))) == sorted(NAMES)


def test_the_watch_sees_versions_that_go_back_or_away(private_redis: Callable[..., RedisServer]) -> None:
    """And nothing else: a newer version is fine."""
    url = private_redis().url
    with redis.Redis.from_url(url) as client, RedisWatch(url) as watch:

        def show(**versions: int) -> None:
            for location, version in versions.items():
                client.hset("availability:SKU", location, f'{{"version":{version}}}')
            readings = watch.readings
            assert wait_until(lambda: watch.readings > readings + 1, TIMEOUT_S)

        show(A=5, B=5, C=5)
        show(A=6)
        assert watch.problems == []
        client.hdel("availability:SKU", "C")
        show(B=4)
    assert sorted(set(watch.problems)) == [
        "redis: ('SKU', 'B') went from version 5 to 4",
        "redis: ('SKU', 'C') went from version 5 to None",
    ]
    assert watch.seen()["SKU", "A"] == {5, 6}


def test_what_only_redis_has_is_named() -> None:
    """A version that Redis showed and the topic never had."""
    value = b'{"version":5,"sku":"SKU","location":"A"}'
    records = [LogRecord(AVAILABILITY.name, 0, 0, 0, b"SKU|A", value)]
    assert not_on_the_topic({("SKU", "A"): {5}}, records) == []
    assert not_on_the_topic({("SKU", "A"): {5, 6}}, records) == ["redis: ('SKU', 'A') had versions {6}"]
