"""Rules that only a running process can keep: holds that end by the clock, rules that change under way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from schemas.topics import AVAILABILITY
from stock.events import (
    LocationSet,
    PolicyRemoved,
    PolicySet,
    PolicyValues,
    PosSale,
    ReservationCreated,
    ReservationRenewed,
    Scope,
    WmsCount,
)
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import Record, Sending, record_of, utc_now
from tests.e2e.verdict import settle
from tests.oracle import Removed

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

SKU, STORE = "SKU-1", "STORE-A"
LATE_MS_MAX = 250  # How much later than promised a hold may end on a machine that does much else.


def saying(number: int, source: str = "test") -> dict[str, Any]:
    return {"id": f"e-{number}", "source": source, "occurred_at": utc_now(), "sku": SKU, "location": STORE}


def planning(number: int) -> dict[str, Any]:
    return {"id": f"s-{number}", "source": "planning", "occurred_at": utc_now()}


def wait_for(on: Stage, **fields: object) -> dict[str, Any]:
    """The newest record of the one key, once it says this."""
    found: dict[str, Any] = {}

    def says() -> bool:
        nonlocal found
        found = on.newest(SKU, STORE) or {}
        return all(found.get(name) == value for name, value in fields.items()) and bool(found)

    try:
        on.eventually(says, f"a record with {fields}", timeout_s=15)
    except AssertionError as error:
        raise AssertionError(f"{error}; the newest is {found}") from error
    return found


def test_a_hold_ends_at_its_moment_without_any_event(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """By timer, not before and hardly after; a renewal moves the moment; while nobody runs it ends at the start."""
    on = stage()
    load = sending(on)
    pipeline = on.pipeline().start()
    load.tell(WmsCount(**saying(1), units=10))
    wait_for(on, available_to_ship=10)
    ends_at = utc_now() + timedelta(seconds=2)
    renewed_to = ends_at + timedelta(seconds=1)
    load.tell(
        ReservationCreated(**saying(2), reservation="R-1", units=2, mode="ship", expires_at=ends_at),
        ReservationCreated(**saying(3), reservation="R-2", units=3, mode="pickup", expires_at=ends_at),
    )
    wait_for(on, available_to_ship=5, committed=5)
    load.tell(ReservationRenewed(**saying(4), reservation="R-2", expires_at=renewed_to))
    for left, reservation, moment in ((7, "R-1", ends_at), (10, "R-2", renewed_to)):
        ended = wait_for(on, available_to_ship=left)
        cause = {"type": "reservation.expired", "id": reservation, "source": "stockflow"}
        assert cause.items() <= ended["cause"].items()
        assert datetime.fromisoformat(ended["cause"]["occurred_at"]) == moment
        late = datetime.fromisoformat(ended["changed_at"]) - moment
        assert timedelta(0) <= late < timedelta(milliseconds=LATE_MS_MAX)

    over_night = utc_now() + timedelta(seconds=1)
    load.tell(ReservationCreated(**saying(5), reservation="R-3", units=4, mode="ship", expires_at=over_night))
    wait_for(on, available_to_ship=6)
    on.stop(pipeline)
    on.eventually(lambda: utc_now() > over_night, "the hold is over")
    assert (on.newest(SKU, STORE) or {})["available_to_ship"] == 6
    on.pipeline().start()
    assert wait_for(on, available_to_ship=10)["cause"]["id"] == "R-3"
    settle(on, load)


def test_a_hold_ends_at_its_moment_also_when_the_shops_never_pause(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """A process that starts under steady load counts as caught up once the ends of its start are passed."""
    on = stage(partitions=1)
    load = sending(on)
    load.start(busy_shop(), per_second=200)
    load.wait_for_more(200)
    pipeline = on.pipeline().start()
    caught_up(on, pipeline)
    load.tell(WmsCount(**saying(1), units=10))
    ends_at = utc_now() + timedelta(seconds=1)
    load.tell(ReservationCreated(**saying(2), reservation="R-1", units=2, mode="ship", expires_at=ends_at))
    wait_for(on, available_to_ship=8)
    ended = wait_for(on, available_to_ship=10)
    assert timedelta(0) <= at(ended) - ends_at < timedelta(milliseconds=LATE_MS_MAX)
    settle(on, load)


def busy_shop() -> Iterator[Record]:
    """Sales of something else without a pause, and rules for it that change all the time."""
    for number in itertools.count(1):
        yield record_of(PosSale(**{**saying(number, "busy"), "sku": "SKU-2"}, units=1))
        if number % 10 == 0:
            rules = PolicyValues(buffer=number % 3)
            yield record_of(PolicySet(**planning(number), policy="busy", scope=Scope(sku="SKU-2"), values=rules))


def test_policies_and_locations_take_effect_on_what_is_published(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Set, replaced, removed by event and by null: the key is published anew each time, and only on a change."""
    on = stage()
    load = sending(on)
    on.pipeline().start()
    load.tell(WmsCount(**saying(1), units=10))
    wait_for(on, available_to_ship=10, available_in_store=10, policy=None)

    here = Scope(sku=SKU)
    load.tell(PolicySet(**planning(1), policy="p", scope=here, values=PolicyValues(safety_stock=4)))
    record = wait_for(on, available_to_ship=6, available_in_store=6, policy="p")
    assert record["cause"]["type"] == "policy.set"
    pickup = Scope(sku=SKU, mode="pickup")
    load.tell(PolicySet(**planning(2), policy="p", scope=pickup, values=PolicyValues(safety_stock=10)))
    record = wait_for(on, available_to_ship=10, available_in_store=0, status="IN_STOCK")
    assert (record["status_pickup"], record["withheld_pickup"]) == ("OUT_OF_STOCK", 10)
    load.tell(PolicyRemoved(**planning(3), policy="p"))
    wait_for(on, available_to_ship=10, available_in_store=10)

    load.tell(
        LocationSet(**planning(4), location=STORE, kind="store", ship_enabled=False, pickup_enabled=False),
    )
    wait_for(on, available_to_ship=0, available_in_store=0, status="OUT_OF_STOCK", reason="location_off")
    load.tell(Removed(f"location:{STORE}"))
    wait_for(on, available_to_ship=10, available_in_store=10, status="IN_STOCK")

    load.tell(PolicySet(**planning(5), policy="q", scope=Scope(location=STORE), values=PolicyValues(enabled=False)))
    wait_for(on, available_to_ship=0, reason="excluded")
    load.tell(Removed("policy:q"))
    wait_for(on, available_to_ship=10, reason=None)

    count = on.published()
    load.tell(PolicySet(**planning(6), policy="r", scope=Scope(sku="SKU-2"), values=PolicyValues(safety_stock=9)))
    load.tell(PosSale(**saying(7), units=1))
    wait_for(on, available_to_ship=9)
    assert on.published() == count + 1
    settle(on, load)


def test_a_change_of_rules_while_nobody_runs_is_published_at_the_start(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """What is on the topic is compared with what holds now, for every key, also without any new fact."""
    on = stage()
    load = sending(on)
    pipeline = on.pipeline().start()
    load.tell(WmsCount(**saying(1), units=10))
    wait_for(on, available_to_ship=10)
    on.stop(pipeline)
    load.tell(PolicySet(**planning(1), policy="p", scope=Scope(), values=PolicyValues(buffer=3)))
    on.pipeline().start()
    wait_for(on, available_to_ship=7)
    settle(on, load)


def test_urgent_changes_are_published_at_once_and_routine_ones_once_per_interval(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """With a long routine interval: many sales make one record, the one that sells out does not wait."""
    on = stage(ROUTINE_INTERVAL_MS="3000")
    load = sending(on)
    pipeline = on.pipeline().start()
    caught_up(on, pipeline)
    load.tell(WmsCount(**saying(1), units=30))
    first = wait_for(on, available_to_ship=30)
    load.tell(*(PosSale(**saying(number), units=1) for number in range(2, 12)))
    later = wait_for(on, available_to_ship=20)
    load.tell(PosSale(**saying(12), units=20))
    out = wait_for(on, available_to_ship=0)
    assert [first["lane"], later["lane"], out["lane"]] == ["urgent", "routine", "urgent"]
    assert at(later) - at(first) >= timedelta(seconds=3)
    assert at(out) - at(later) < timedelta(seconds=2)
    said = [json.loads(record.value or b"null")["available_to_ship"] for record in on.read(AVAILABILITY)]
    assert said == [30, 20, 0]
    settle(on, load)


def at(record: dict[str, Any]) -> datetime:
    """When a record says that it changed."""
    return datetime.fromisoformat(record["changed_at"])


def caught_up(on: Stage, pipeline: Pipeline) -> None:
    """Wait until the process has seen the ends of its inputs: until then both lanes are slow."""
    sample = 'stockflow_partitions{state="%s"}'
    on.eventually(
        lambda: pipeline.metric(sample % "live") == on.partitions and pipeline.metric(sample % "catching_up") == 0,
        "it has caught up",
    )
