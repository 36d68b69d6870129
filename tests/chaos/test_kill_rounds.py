"""One death at each named point, with everything checked after each: what `make chaos` does at length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stockflow.embedded import KafkaBroker, RedisServer
from tests.chaos.campaign import Campaign
from tests.chaos.failpoints import NAMES, parse
from tests.chaos.rounds import SESSION_MS, Outcome, Plan, plan

LANES = 3  # A round waits most of its time for a session to end.
CALLS_MAX = 3  # Soon reached, also where everything is slow.
REACH_TIMEOUT_S = 15.0
ATTEMPTS_MAX = 3  # Where other processes keep a victim from its point in time.


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(900)  # Ten times what it takes on a quiet machine.
def test_a_death_at_any_named_point_loses_nothing_and_counts_nothing_twice(
    short_sessions: KafkaBroker, private_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Before and after each seam once: others take over, then log, topic and Redis say the same."""
    outcomes: list[Outcome] = []
    reached: set[str] = set()
    url = private_redis().url
    for attempt in range(ATTEMPTS_MAX):
        seeds = {name: attempt * len(NAMES) + at for at, name in enumerate(NAMES) if name not in reached}
        plans = [early(plan(seed, name)) for name, seed in seeds.items()]
        played: list[Outcome] = []
        campaign = Campaign(plans, played.append)
        campaign.play(short_sessions.bootstrap, url, tmp_path / str(attempt), LANES, SESSION_MS, REACH_TIMEOUT_S)
        outcomes += played
        reached |= {parse(outcome.point).name for outcome in played if outcome.reached}
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert [name for name in NAMES if name not in reached] == []


def early(planned: Plan) -> Plan:
    """The same with a death at one of the first calls."""
    return replace(planned, point=replace(planned.point, count=min(planned.point.count, CALLS_MAX)))
