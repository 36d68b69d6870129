"""Inbound bytes of the settings topic: policies, locations and why one is refused."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from schemas.events import EVENT_BYTES_MAX, REASONS, Refusal, decode_setting, setting_key
from stock.events import LocationSet, PolicyRemoved, PolicySet, SourceAlive
from stock.times import micros

SAID = {"id": "1", "source": "planning", "occurred_at": "2026-11-22T08:00:00Z"}
POLICY = {"type": "policy.set", **SAID, "policy": "p", "scope": {"mode": "pickup"}, "values": {"safety_stock": 2}}
REMOVED = {"type": "policy.removed", **SAID, "policy": "p"}
LOCATION = {
    "type": "location.set",
    **SAID,
    "location": "STORE-042",
    "kind": "store",
    "ship_enabled": True,
    "pickup_enabled": False,
}
DESCRIBED = {"brand": "b", "region": "r", "latitude": 52.5, "longitude": 13.4}
ALIVE = {"type": "source.alive", **SAID, "location": "A", "feed": "pos", "until": "2026-11-22T09:00:00Z"}


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def wire(message: dict[str, Any], **changed: Any) -> bytes:
    """A setting as bytes, with fields changed; None leaves one out."""
    return json.dumps({name: value for name, value in {**message, **changed}.items() if value is not None}).encode()


EVERY_VALUE = {
    "safety_stock": 1, "safety_percent": 2, "buffer": 3, "low_stock_enter": 4, "low_stock_exit": 5,
    "backorder_limit": 6, "reorder_point": 7, "enabled": False, "stale_buffer": 8, "quota": 9,
    "network_safety_stock": 0,
}  # fmt: skip
EVERY_SCOPE = {
    "sku": "s", "location": "l", "channel": "web", "mode": "ship",
    "category": "c", "brand": "b", "region": "r", "location_kind": "3pl",
}  # fmt: skip
ACCEPTED = [
    case("a policy", b"policy:p", wire(POLICY), PolicySet),
    case("everywhere", b"policy:p", wire(POLICY, scope={}), PolicySet),
    case("without values", b"policy:p", wire(POLICY, values={}), PolicySet),
    case("the end of a policy", b"policy:p", wire(REMOVED), PolicyRemoved),
    case("a location", b"location:STORE-042", wire(LOCATION), LocationSet),
    case("a described location", b"location:STORE-042", wire(LOCATION, **DESCRIBED), LocationSet),
    case("unknown extra fields", b"policy:p", wire(POLICY, comment="why"), PolicySet),
    case("every value", b"policy:p", wire(POLICY, values=EVERY_VALUE), PolicySet),
    case("every scope", b"policy:p", wire(POLICY, scope=EVERY_SCOPE), PolicySet),
    case("a date", b"policy:p", wire(POLICY, valid_from="2026-11-22T08:00:00Z"), PolicySet),
    case("a feed", b"alive:A:pos", wire(ALIVE), SourceAlive),
    case("another alphabet", "policy:Größe".encode(), wire(POLICY, policy="Größe"), PolicySet),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "kind"), ACCEPTED)
def test_a_setting_is_decoded(key: bytes, value: bytes, kind: type) -> None:
    """Into its message."""
    found = decode_setting(key, value)
    assert isinstance(found, kind), found


REFUSED = [
    case("no bytes", b"policy:p", b"", "empty"),
    case("not JSON", b"policy:p", b"{", "not_json"),
    case("no object", b"policy:p", b"[]", "bad_field"),
    case("too large", b"policy:p", wire(POLICY, pad="x" * EVENT_BYTES_MAX), "too_large"),
    case("nested too deeply", b"policy:p", b"[" * 60_000, "limit"),
    case("unknown type", b"policy:p", wire(POLICY, type="policy.gone"), "unknown_type"),
    case("a fact", b"policy:p", wire(POLICY, type="pos.sale"), "wrong_topic"),
    case("no policy", b"policy:p", wire(POLICY, policy=None), "missing_field"),
    case("no values", b"policy:p", wire(POLICY, values=None), "missing_field"),
    case("an unknown scope field", b"policy:p", wire(POLICY, scope={"colour": "red"}), "bad_field"),
    case("an unknown value", b"policy:p", wire(POLICY, values={"safty_stock": 2}), "bad_field"),
    case("a negative value", b"policy:p", wire(POLICY, values={"safety_stock": -1}), "bad_field"),
    case("an absurd value", b"policy:p", wire(POLICY, values={"buffer": 10**12}), "bad_field"),
    case("more than everything", b"policy:p", wire(POLICY, values={"safety_percent": 101}), "bad_field"),
    case("a mode that is none", b"policy:p", wire(POLICY, scope={"mode": "drone"}), "bad_field"),
    case("a date without a zone", b"policy:p", wire(POLICY, valid_from="2026-11-22T08:00:00"), "bad_field"),
    case("a feed of another", b"alive:A:wms", wire(ALIVE), "bad_field"),
    case("a feed of no kind", b"alive:A:erp", wire(ALIVE, feed="erp"), "bad_field"),
    case("a feed of a place with a bar", b"alive:a|b:pos", wire(ALIVE, location="a|b"), "bad_field"),
    case("a key of another policy", b"policy:q", wire(POLICY), "bad_field"),
    case("a key of a location", b"location:p", wire(POLICY), "bad_field"),
    case("no key", None, wire(POLICY), "bad_field"),
    case("an unreadable key", b"policy:\xff", wire(POLICY), "bad_field"),
    case("a channel that would mean all", b"policy:p", wire(POLICY, scope={"channel": "*"}), "bad_field"),
    case("a channel without a name", b"policy:p", wire(POLICY, scope={"channel": ""}), "bad_field"),
    case("a channel with a bar", b"policy:p", wire(POLICY, scope={"channel": "a|b"}), "bad_field"),
    case("a channel with controls", b"policy:p", wire(POLICY, scope={"channel": "\x1fhold\x1f"}), "bad_field"),
    case("a channel too long", b"policy:p", wire(POLICY, scope={"channel": "w" * 129}), "bad_field"),
    case("a location with a bar", b"location:a|b", wire(LOCATION, location="a|b"), "bad_field"),
    case("a location with blanks around", b"location: a", wire(LOCATION, location=" a"), "bad_field"),
    case("a location too long", b"location:" + b"x" * 129, wire(LOCATION, location="x" * 129), "bad_field"),
    case("a kind that is none", b"location:STORE-042", wire(LOCATION, kind="shop"), "bad_field"),
    case("off the earth", b"location:STORE-042", wire(LOCATION, latitude=91, longitude=0), "bad_field"),
    case("an empty policy id", b"policy:", wire(POLICY, policy=""), "bad_field"),
    case("a policy id with controls", b"policy:a\n", wire(POLICY, policy="a\n"), "bad_field"),
    case("a policy id too long", b"policy:" + b"p" * 257, wire(POLICY, policy="p" * 257), "limit"),
]


@pytest.mark.parametrize(("key", "value", "reason"), REFUSED)
def test_a_setting_is_refused_with_its_reason(key: bytes | None, value: bytes, reason: str) -> None:
    """Whole: half a policy would be another one."""
    found = decode_setting(key, value)
    assert isinstance(found, Refusal), found
    assert found.reason == reason
    assert reason in REASONS
    assert found.detail


LONG = "x" * 257
IN_TIME_US = micros(datetime(2026, 11, 22, 7, 55, tzinfo=timezone.utc))  # Five minutes before it was said.


@pytest.mark.parametrize(
    ("timestamp_us", "changed", "reason"),
    [
        case("said within the tolerance", IN_TIME_US, {}, None),
        case("said in the future", IN_TIME_US - 1, {}, "in_future"),
        case("a record without a timestamp", None, {"occurred_at": "9999-12-31T23:59:59Z"}, None),
        case("an empty id", None, {"id": ""}, "bad_field"),
        case("an id too long", None, {"id": LONG}, "limit"),
        case("a source too long", None, {"source": LONG}, "limit"),
    ],
)
def test_a_setting_keeps_the_common_rules(
    timestamp_us: int | None, changed: dict[str, Any], reason: str | None
) -> None:
    """What is asked of every fact is asked of settings too."""
    found = decode_setting(b"policy:p", wire(POLICY, **changed), timestamp_us)
    assert (found.reason if isinstance(found, Refusal) else None) == reason, found


def test_a_wrong_key_is_explained() -> None:
    """With the right one."""
    found = decode_setting(b"policy:q", wire(POLICY))
    assert isinstance(found, Refusal)
    assert found.detail == "the record's key must be 'policy:p', so that compaction and removal find it"


@pytest.mark.parametrize(
    ("key", "message"),
    [("policy:p", POLICY), ("policy:p", REMOVED), ("location:STORE-042", LOCATION)],
    ids=["a policy", "its end", "a location"],
)
def test_a_setting_knows_its_key(key: str, message: dict[str, Any]) -> None:
    """Setting and removal of one policy share it."""
    found = decode_setting(key.encode(), wire(message))
    assert not isinstance(found, Refusal)
    assert setting_key(found) == key
