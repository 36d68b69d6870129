"""What the demo reads from the pipeline's metrics page and the availability topic."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from schemas.records import Availability, Cause, Sources, encode
from stockflow.demo.observe import Buckets, Scrape, StatusWatch, fetch, read_metrics

PAGE = """\
# HELP stockflow_events_total Events by type and outcome.
# TYPE stockflow_events_total counter
stockflow_events_total{outcome="applied",type="pos.sale"} 40.0
stockflow_events_total{outcome="applied",type="wms.count"} 2.0
stockflow_events_total{outcome="duplicate",type="pos.sale"} 1.0
stockflow_events_created{outcome="applied",type="pos.sale"} 1.7e+09
stockflow_records_published_total{lane="urgent",topic="availability"} 7.0
stockflow_records_published_total{lane="routine",topic="availability"} 5.0
stockflow_dead_letters_total{reason="not_json"} 3.0
stockflow_lag_events{partition="0",topic="pos-sales.v1"} 4.0
stockflow_lag_events{partition="1",topic="pos-sales.v1"} 6.0
stockflow_update_latency_seconds_bucket{le="0.01",stage="applied"} 50.0
stockflow_update_latency_seconds_bucket{le="0.02",stage="applied"} 90.0
stockflow_update_latency_seconds_bucket{lane="",le="+Inf",stage="applied"} 100.0
stockflow_update_latency_seconds_bucket{lane="urgent",le="+Inf",stage="visible"} 3.0
stockflow_update_latency_seconds_sum{stage="applied"} 1.5
stockflow_build_info{version="0.1.0 \\"dev\\""} 1.0
"""


def record(version: int, status: str, available: int | None) -> bytes:
    """An availability record with this status."""
    now = datetime(2026, 11, 22, 10, 15, tzinfo=timezone.utc)
    return encode(
        Availability(
            version=version,
            sku="SKU-1",
            location="STORE-1",
            status=status,
            reason=None,
            status_ship=status,
            status_pickup=status,
            available_to_ship=available,
            available_in_store=available,
            on_hand=5,
            unavailable=0,
            committed=0,
            in_transit=0,
            inbound=0,
            next_inbound_at=None,
            safety_stock_ship=0,
            safety_stock_pickup=0,
            withheld_ship=0,
            withheld_pickup=0,
            shortage=0,
            backorder_left=0,
            lane="urgent",
            policy=None,
            cause=Cause("pos.sale", "s-1", "pos/STORE-1/till-1", now),
            sources=Sources(now, None, None),
            changed_at=now,
        )
    )


def test_metrics_page_is_summed_over_what_is_not_shown() -> None:
    """Types, topics and partitions are added up; outcomes, lanes and reasons are kept."""
    assert read_metrics(PAGE) == Scrape(
        events={"applied": 42.0, "duplicate": 1.0},
        published={"availability urgent": 7.0, "availability routine": 5.0},
        dead_letters={"not_json": 3.0},
        lag=10.0,
        latency={
            "applied": Buckets({0.01: 50.0, 0.02: 90.0, float("inf"): 100.0}),
            "visible urgent": Buckets({float("inf"): 3.0}),
        },
    )


def test_empty_page_knows_no_lag() -> None:
    """A lag that nobody reports is not a lag of zero."""
    assert read_metrics("") == Scrape(lag=None)
    assert Scrape().processed == 0


@pytest.mark.parametrize(
    ("text", "q", "seconds"),
    [
        ("in the first bucket", 0.25, 0.005),
        ("at a bound", 0.5, 0.01),
        ("inside the second bucket", 0.7, 0.015),
        ("above the last finite bound", 0.99, 0.02),
    ],
)
def test_quantile_is_linear_inside_its_bucket(text: str, q: float, seconds: float) -> None:
    """Percentiles come from the histogram's cumulative counts."""
    assert read_metrics(PAGE).latency["applied"].quantile(q) == pytest.approx(seconds), text


def test_quantile_of_nothing_is_unknown() -> None:
    """No observation, no latency."""
    assert Buckets({}).quantile(0.5) is None
    assert Buckets({0.1: 0.0, float("inf"): 0.0}).quantile(0.5) is None


def test_buckets_since_an_earlier_reading_hold_only_what_is_new() -> None:
    """The live percentiles are those of the last seconds."""
    before = Buckets({0.1: 90.0, 1.0: 90.0})
    after = Buckets({0.1: 90.0, 1.0: 100.0})
    assert after.since(before) == Buckets({0.1: 0.0, 1.0: 10.0})
    assert after.since(before).quantile(0.5) == pytest.approx(0.55)


def test_fetch_of_a_closed_port_is_nothing() -> None:
    """A pipeline that does not answer is not an error of the observer."""
    assert fetch("http://127.0.0.1:9/metrics") is None


def test_watch_remembers_status_changes_and_not_first_sights() -> None:
    """A flip is a change of a known status; newest first."""
    watch = StatusWatch({"bootstrap.servers": "127.0.0.1:9", "log_level": "0"}, "availability.v1", 1)
    watch.take("SKU-1|STORE-1", record(1, "IN_STOCK", 5))
    watch.take("SKU-1|STORE-1", record(2, "IN_STOCK", 4))
    watch.take("SKU-1|STORE-1", record(3, "LOW_STOCK", 2))
    watch.take("SKU-1|STORE-1", record(4, "OUT_OF_STOCK", 0))
    watch.take("SKU-2|STORE-1", b"not a record")
    assert [(flip.sku, flip.before, flip.after, flip.available, flip.cause) for flip in watch.flips] == [
        ("SKU-1", "LOW_STOCK", "OUT_OF_STOCK", 0, "pos.sale"),
        ("SKU-1", "IN_STOCK", "LOW_STOCK", 2, "pos.sale"),
    ]
    assert (watch.records, watch.flip_count, watch.unreadable, watch.keys) == (5, 2, 1, 1)
    assert watch.statuses == {"OUT_OF_STOCK": 1}
    watch.take("SKU-1|STORE-1", None)
    assert watch.keys == 0
    watch.close()
