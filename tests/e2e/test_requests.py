"""Requests for reservations against a running process: one winner, one answer, also across a crash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from schemas.topics import RESERVATION_VERDICTS
from stock.events import ReservationRequested, WmsCount
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, utc_now
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

RACES = 60


def saying(sku: str, id: str, source: str) -> dict[str, Any]:
    return {"id": id, "source": source, "occurred_at": utc_now(), "sku": sku, "location": "STORE-A"}


def race(number: int, shopper: str, attempt: int = 1) -> ReservationRequested:
    """One of two shoppers wants the only unit of a SKU, maybe once more under a new id."""
    own = {"reservation": f"R-{shopper}-{number}", "units": 1, "mode": "ship"}
    return ReservationRequested(**saying(f"SKU-{number}", f"q-{number}-{attempt}", shopper), **own)


def verdicts(on: Stage) -> list[dict[str, Any]]:
    """All answers so far."""
    return [json.loads(record.value) for record in on.read(RESERVATION_VERDICTS) if record.value is not None]


def test_of_two_shoppers_one_gets_the_last_unit_also_across_a_crash(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Half of them are read before a kill -9, half after it; repeats and retries are answered as the first time."""
    on = stage(partitions=3)
    load = sending(on)
    pipeline = on.pipeline().start()
    load.tell(*(WmsCount(**saying(f"SKU-{number}", f"c-{number}", "wms"), units=1) for number in range(RACES)))
    on.wait_until_committed()
    requests = [race(number, shopper) for number in range(RACES) for shopper in ("ann", "bob")]
    load.tell(*requests[:RACES])
    on.eventually(lambda: len(verdicts(on)) >= RACES // 4, "some are answered")
    pipeline.kill()
    retries = [race(number, shopper, 2) for number in range(RACES) for shopper in ("bob", "ann")]
    load.tell(*requests[RACES:], *requests[:20], *retries)  # some ask once more, and all under a new id
    on.pipeline().start()
    on.eventually(lambda: len({(v["reservation"], v["request_id"]) for v in verdicts(on)}) == 4 * RACES, "all answered")
    settle(on, load)

    by_reservation: dict[str, dict[str, Any]] = {}
    for verdict in verdicts(on):
        said = {name: value for name, value in verdict.items() if name not in ("request_id", "available")}
        assert by_reservation.setdefault(verdict["reservation"], said) == said
    won = Counter(verdict["sku"] for verdict in by_reservation.values() if verdict["verdict"] == "accepted")
    lost = Counter(verdict["sku"] for verdict in by_reservation.values() if verdict["verdict"] == "rejected")
    assert won == lost == Counter({f"SKU-{number}": 1 for number in range(RACES)})
    assert {(on.newest(sku, "STORE-A") or {})["available_to_ship"] for sku in won} == {0}
