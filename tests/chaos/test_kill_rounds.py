"""One death at each named point, with everything checked after each: what `make chaos` does at length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stockflow.embedded import KafkaBroker, RedisServer
from tests.chaos.campaign import Campaign
from tests.chaos.failpoints import NAMES
from tests.chaos.rounds import SESSION_MS, Outcome, Plan, plan

LANES = 3  # A round waits most of its time for a session to end.
CALLS_MAX = 3  # Soon reached, also where everything is slow.
REACH_TIMEOUT_S = 30.0


@pytest.mark.kafka
@pytest.mark.redis
def test_a_death_at_any_named_point_loses_nothing_and_counts_nothing_twice(
    short_sessions: KafkaBroker, private_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Before and after each seam once: others take over, then log, topic and Redis say the same."""
    outcomes: list[Outcome] = []
    campaign = Campaign([early(plan(seed)) for seed in range(len(NAMES))], outcomes.append)
    campaign.play(short_sessions.bootstrap, private_redis().url, tmp_path, LANES, SESSION_MS, REACH_TIMEOUT_S)
    assert [outcome for outcome in outcomes if outcome.problems] == []
    assert [outcome for outcome in outcomes if not outcome.reached] == []
    assert len(outcomes) == len(NAMES)


def early(planned: Plan) -> Plan:
    """The same with a death at one of the first calls."""
    return replace(planned, point=replace(planned.point, count=min(planned.point.count, CALLS_MAX)))
