"""`stockflow inspect` beside a running pipeline: from the topics alone, as a stock controller calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from stock.events import OrderAllocated, PolicySet, PolicyValues, PosSale, ReservationCreated, Scope, WmsCount
from stockflow.settings import process_environment
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, utc_now
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

TIMEOUT_S = 60


def inspected(on: Stage, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    environment = {
        **process_environment(),
        "STOCKFLOW_BOOTSTRAP_SERVERS": on.bootstrap,
        "STOCKFLOW_TOPIC_PREFIX": on.prefix,
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-m", "stockflow", "inspect", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_says_why_a_sku_is_out_of_stock(stage: Callable[..., Stage], sending: Callable[[Stage], Sending]) -> None:
    """Balance, hold, order, policy, facts and the published record, and advice for what is not known."""
    on = stage()
    load = sending(on)
    on.pipeline().start()

    def saying(number: int, source: str = "test") -> dict[str, Any]:
        where = {"sku": "SKU-1", "location": "A"}
        return {"id": f"e-{number}", "source": source, "occurred_at": utc_now(), **where}

    planned = {"id": "s-1", "source": "planning", "occurred_at": utc_now()}
    load.tell(PolicySet(**planned, policy="keep", scope=Scope(), values=PolicyValues(safety_stock=2)))
    load.tell(WmsCount(**saying(1), units=10))
    load.tell(
        PosSale(**saying(2), units=3),
        ReservationCreated(**saying(3), reservation="R-1", units=4, mode="ship"),
        OrderAllocated(**saying(4), order_line="L-1", units=1),
    )
    on.eventually(lambda: (on.newest("SKU-1", "A") or {}).get("committed") == 5, "all is published")
    settle(on, load)

    code, output = inspected(on, "SKU-1", "--json")
    assert code == 0, output
    (place,) = json.loads(output)["places"]
    ship = place["ship"]
    assert (ship["status"], ship["reason"], ship["policy"]) == ("OUT_OF_STOCK", "withheld_by_safety_stock", "keep")
    assert (place["on_hand"], place["committed"], place["raw"]) == (7, 5, 2)
    assert [(one["kind"], one["id"], one["units"]) for one in place["bound"]] == [
        ("allocation", "L-1", 1),
        ("hold", "R-1", 4),
    ]
    assert place["published"]["differs"] == {}
    assert sorted(one["id"] for one in place["movements"]) == ["e-1", "e-2", "e-3", "e-4"]
    assert {one["outcome"] for one in place["movements"]} == {"applied"}

    code, output = inspected(on, "SKU-1", "A")
    assert (code, "withheld_by_safety_stock" in output) == (0, True), output
    code, output = inspected(on, "SKU-1", "B")
    assert (code, "is known at: A" in output) == (1, True), output
