"""The published record on the wire, and the one text form of its key."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import (
    EPOCH,
    VOLATILE_FIELDS,
    Availability,
    availability_key,
    decode_availability,
    encode,
    micros,
    moment,
    split_availability_key,
)
from tests.stock.facts import fact, told

FIELDS = [
    *("version", "sku", "location", "status", "reason", "status_ship", "status_pickup"),
    *("available_to_ship", "available_in_store", "on_hand", "unavailable", "committed"),
    *("in_transit", "inbound", "next_inbound_at", "safety_stock_ship", "safety_stock_pickup"),
    *("withheld_ship", "withheld_pickup", "shortage", "backorder_left"),
    *("lane", "policy", "cause", "sources", "changed_at"),
]


def test_a_record_has_its_fields_in_their_order() -> None:
    """The version stands first, so that a view can compare it without parsing the rest."""
    record = told(fact("wms.count", 1, 9)).record()
    value = encode(record)
    assert list(json.loads(value)) == FIELDS
    assert value.startswith(b'{"version":1,')
    assert decode_availability(value) == record


def test_unknown_is_null_on_the_wire() -> None:
    """Missing is not zero."""
    wire = json.loads(encode(told(fact("pos.sale", 1, 2)).record()))
    assert (wire["available_to_ship"], wire["available_in_store"], wire["reason"]) == (None, None, "no_baseline")
    assert wire["cause"] == {
        "type": "pos.sale",
        "id": wire["cause"]["id"],
        "source": "someone",
        "occurred_at": "2026-11-22T10:00:01Z",
    }
    assert wire["sources"] == {"pos": "2026-11-22T10:00:01Z", "wms": None, "orders": None}


def test_what_never_makes_a_record_is_named() -> None:
    """And exists."""
    assert {"version", "lane", "cause", "sources", "changed_at"} == VOLATILE_FIELDS
    assert set(Availability.__struct_fields__) == set(FIELDS)


@pytest.mark.parametrize(("sku", "location"), [("SKU-1", "STORE-1"), ("Größe 订单", "*")])
def test_a_key_is_taken_apart_as_it_was_made(sku: str, location: str) -> None:
    """Neither part may contain the bar between them."""
    assert split_availability_key(availability_key(sku, location)) == (sku, location)


@given(st.integers(-(2**52), 2**52))
@example(2**51 - 1)
@example(2**51)
@example(-(2**51) + 1)
@example(1_790_000_000_123_457)
def test_microseconds_are_exact(us: int) -> None:
    """From a number to a time and back, without rounding."""
    time = moment(us)
    assert time is not None
    assert (micros(time), time) == (us, EPOCH + timedelta(microseconds=us))


@pytest.mark.parametrize(
    ("text", "us", "expected"),
    [
        ("nothing", None, None),
        ("the beginning", 0, EPOCH),
        ("before there were dates", -(10**20), datetime(1, 1, 1, tzinfo=timezone.utc)),
        ("after the last date", 10**18, datetime.max.replace(tzinfo=timezone.utc)),
        ("more than any clock says", 2**80, datetime.max.replace(tzinfo=timezone.utc)),
    ],
)
def test_times_that_no_date_has_become_the_nearest(text: str, us: int | None, expected: datetime | None) -> None:
    """A nonsensical time must not stop the flow."""
    assert moment(us) == expected, text
