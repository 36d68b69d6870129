"""Inbound bytes of the keyed topics: what is accepted, and the reason for everything that is not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from schemas.events import (
    DETAIL_LENGTH_MAX,
    EVENT_BYTES_MAX,
    REASONS,
    Refusal,
    check_names,
    decode,
    decode_item,
    type_of,
)
from schemas.records import micros
from stock.events import ID_LENGTH_MAX, UNITS_MAX, PosSale, WmsCount, WmsStatusChanged

POS, WMS, ORDERS = range(3)
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=timezone.utc)
NOW_US = micros(NOW)

SALE = {
    "type": "pos.sale",
    "id": "1",
    "source": "till",
    "occurred_at": "2026-11-22T10:15:00Z",
    "sku": "S",
    "location": "L",
    "units": 2,
}
COUNT = {**SALE, "type": "wms.count"}
MOVED = {**SALE, "type": "wms.status_changed", "from": "sellable", "to": "damaged"}
ADJUSTMENT = {**SALE, "type": "wms.adjustment", "reason": "lost"}
SHIPPED = {**SALE, "type": "transfer.shipped", "transfer": "T", "to_location": "M"}
HOLD = {**SALE, "type": "reservation.created", "reservation": "R", "mode": "ship"}
VOID = {**SALE, "type": "pos.void", "voids": "9", "voided_type": "pos.sale", "voided_at": "2026-11-22T10:00:00Z"}


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def wire(message: dict[str, Any], **changed: Any) -> bytes:
    """A message as bytes, with fields changed; None leaves one out."""
    return json.dumps({name: value for name, value in {**message, **changed}.items() if value is not None}).encode()


SOON = "2026-11-22T10:20:00.000001Z"
LARGEST = wire(SALE, pad="x" * (EVENT_BYTES_MAX - len(wire(SALE, pad=""))))
FIELDS = ("id", "source", "occurred_at", "sku", "location", "units")
TEXTS = ("id", "source", "sku", "location")


def decoded(topic: int, value: bytes | None) -> Any:
    """What becomes of a record that was appended at NOW."""
    return decode(topic, value, NOW_US)


def refusal(topic: int, value: bytes | None) -> Refusal:
    """Why a record is refused."""
    found = decoded(topic, value)
    assert isinstance(found, Refusal), found
    assert found.reason in REASONS
    assert 0 < len(found.detail) <= DETAIL_LENGTH_MAX
    return found


def test_a_fact_is_decoded_as_it_was_told() -> None:
    """Every field, with its defaults."""
    assert decoded(POS, wire(SALE, units=2, reservation="R")) == PosSale(
        id="1", source="till", occurred_at=NOW, sku="S", location="L", units=2, reservation="R"
    )


ACCEPTED = [
    case("unknown extra fields", POS, wire(SALE, colour="red", nested={"a": [1]})),
    case("references of any shape", POS, wire(SALE, references={"receipt": "1", "n": 5, "deep": {"a": []}})),
    case("another zone", POS, wire(SALE, occurred_at="2026-11-22T11:15:00+01:00")),
    case("microseconds", POS, wire(SALE, occurred_at="2026-11-22T10:15:00.123456Z")),
    case("long ago", POS, wire(SALE, occurred_at="1999-01-01T00:00:00Z")),
    case("five minutes ahead", POS, wire(SALE, occurred_at="2026-11-22T10:20:00Z")),
    case("the largest number of units", POS, wire(SALE, units=UNITS_MAX)),
    case("whitespace around", POS, b"\n " + wire(SALE) + b" \n"),
    case("the longest ids", POS, wire(SALE, id="i" * ID_LENGTH_MAX, source="s" * ID_LENGTH_MAX)),
    case("odd characters in ids", POS, wire(SALE, id="a|b/ü 订单", source=" x ")),
    case("odd characters in orders", ORDERS, wire(HOLD, reservation="R|9 ü", line="1|2")),
    case("the largest event", POS, LARGEST),
    case("nothing counted", WMS, wire(COUNT, units=0)),
    case("a gross count", WMS, wire(COUNT, basis="gross")),
    case("a net count", WMS, wire(COUNT, basis="net")),
    case("a negative adjustment", WMS, wire(ADJUSTMENT, units=-3)),
    case("invalid UTF-8 in a field that is ignored", POS, b'{"x":"\xff",' + wire(SALE)[1:]),
    case("the first day of all, in a far zone", POS, wire(SALE, occurred_at="0001-01-01T00:00:00+23:59")),
    case("an end that will never come", ORDERS, wire(HOLD, expires_at="9999-12-31T23:59:59-23:59")),
]


@pytest.mark.parametrize(("topic", "value"), ACCEPTED)
def test_what_can_be_understood_is_accepted(topic: int, value: bytes) -> None:
    """The contract is generous where nothing is ambiguous."""
    assert not isinstance(decoded(topic, value), Refusal)


REFUSED = [
    case("a null value", POS, None, "empty", "no value"),
    case("no bytes", POS, b"", "empty", "no value"),
    case("blanks only", POS, b"  \n", "not_json", ""),
    case("half a message", POS, b'{"type":"pos.sale"', "not_json", "truncated"),
    case("text", POS, b"hello", "not_json", "malformed"),
    case("two messages", POS, wire(SALE) + wire(SALE), "not_json", "trailing"),
    case("a byte order mark", POS, b"\xef\xbb\xbf" + wire(SALE), "not_json", "malformed"),
    case("UTF-16", POS, wire(SALE).decode().encode("utf-16"), "not_json", "malformed"),
    case("invalid UTF-8", POS, wire(SALE).replace(b'"till"', b'"\xff\xfe"'), "not_json", "utf"),
    case("NaN", POS, wire(SALE).replace(b": 2", b": NaN"), "not_json", "malformed"),
    case("nested too deeply", POS, b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "limit", "nested"),
    case("nested too deeply, and no object", POS, b"[" * 60_000, "limit", "nested"),
    case("nested too deeply, of an unknown type", POS, b'{"type":"x","a":' + b"[" * 60_000, "limit", "nested"),
    case("half a surrogate", POS, wire(SALE).replace(b'"S"', b'"\\ud800"'), "not_json", "surrogate"),
    case("the type twice", POS, wire(SALE)[:-1] + b',"type":"pos.gift"}', "unknown_type", "pos.gift"),
    case("one byte too large", POS, LARGEST + b" ", "too_large", "65537"),
    case("a list", POS, b"[1]", "bad_field", "got list"),
    case("a number", POS, b"5", "bad_field", "got int"),
    case("null as text", POS, b"null", "bad_field", "got NoneType"),
    case("no type", POS, wire(SALE, type=None), "missing_field", "`type`"),
    case("a type that is no text", POS, wire(SALE, type=5), "bad_field", "type must be text"),
    case("a null type", POS, b'{"type":null}', "bad_field", "type must be text"),
    case("an unknown type", POS, wire(SALE, type="pos.gift"), "unknown_type", "pos.return, pos.sale, pos.void"),
    case("a type in other letters", POS, wire(SALE, type="POS.SALE"), "unknown_type", "POS.SALE"),
    case("the wrong topic", WMS, wire(SALE), "wrong_topic", "pos.sale belongs on pos-sales.v1"),
    case("a setting on a stock topic", POS, wire(SALE, type="policy.set"), "wrong_topic", "stock-settings.v1"),
    *(case(f"no {name}", POS, wire(SALE, **{name: None}), "missing_field", f"`{name}`") for name in FIELDS),
    *(case(f"{name} is no text", POS, wire(SALE, **{name: 5}), "bad_field", f"$.{name}") for name in TEXTS),
    case("a return without its state", POS, wire(SALE, type="pos.return"), "missing_field", "`state`"),
    case("a void without its time", POS, wire(VOID, voided_at=None), "missing_field", "`voided_at`"),
    case("a void of something else", POS, wire(VOID, voided_type="wms.shipment"), "bad_field", "$.voided_type"),
    case("no reason for an adjustment", WMS, wire(ADJUSTMENT, reason=None), "missing_field", "`reason`"),
    case("no units", POS, wire(SALE, units=0), "bad_field", "$.units"),
    case("negative units", POS, wire(SALE, units=-1), "bad_field", "$.units"),
    case("absurd units", POS, wire(SALE, units=UNITS_MAX + 1), "bad_field", "$.units"),
    case("more than 64 bits", POS, wire(SALE, units=10**30), "bad_field", "$.units"),
    case("units as a float", POS, wire(SALE).replace(b": 2}", b": 2.0}"), "bad_field", "$.units"),
    case("half a unit", POS, wire(SALE, units=1.5), "bad_field", "$.units"),
    case("units as text", POS, wire(SALE, units="2"), "bad_field", "$.units"),
    case("units as a truth", POS, wire(SALE, units=True), "bad_field", "$.units"),
    case("counted below zero", WMS, wire(COUNT, units=-1), "bad_field", "$.units"),
    case("an absurd adjustment", WMS, wire(ADJUSTMENT, units=-UNITS_MAX - 1), "bad_field", "$.units"),
    case("an adjustment of nothing", WMS, wire(ADJUSTMENT, units=0), "bad_field", "$.units"),
    case("an unknown state", POS, wire(SALE, state="lost"), "bad_field", "$.state"),
    case("from a state to itself", WMS, wire(MOVED, to="sellable"), "bad_field", "the same state"),
    case("an unknown mode", ORDERS, wire(HOLD, mode="drone"), "bad_field", "$.mode"),
    case("a naive time", POS, wire(SALE, occurred_at="2026-11-22T10:15:00"), "bad_field", "timezone"),
    case("a time that is none", POS, wire(SALE, occurred_at="yesterday"), "bad_field", "$.occurred_at"),
    case("a time as a number", POS, wire(SALE, occurred_at=1_763_800_000), "bad_field", "$.occurred_at"),
    case("a naive end", ORDERS, wire(HOLD, expires_at="2026-11-22T10:15:00"), "bad_field", "$.expires_at"),
    case("more than five minutes ahead", POS, wire(SALE, occurred_at=SOON), "in_future", "after"),
    case("far ahead", POS, wire(SALE, occurred_at="9999-12-31T23:59:59Z"), "in_future", "9999"),
    case("far ahead of a far zone", POS, wire(SALE, occurred_at="9999-12-31T23:59:59-23:59"), "in_future", "9999"),
    case("voiding what is to come", POS, wire(VOID, voided_at="2026-11-22T10:20:01Z"), "in_future", "voided_at"),
    case("an empty id", POS, wire(SALE, id=""), "bad_field", "id"),
    case("an empty source", POS, wire(SALE, source=""), "bad_field", "source"),
    case("an id too long", POS, wire(SALE, id="i" * (ID_LENGTH_MAX + 1)), "limit", "id has 257"),
    case("a source too long", POS, wire(SALE, source="s" * 9_999), "limit", "source has 9999"),
    case("an empty reservation", ORDERS, wire(HOLD, reservation=""), "bad_field", "reservation"),
    case("a reservation with controls", ORDERS, wire(HOLD, reservation="R\u001f1"), "bad_field", "reservation"),
    case("a line with controls", ORDERS, wire(HOLD, line="1\u0000"), "bad_field", "line"),
    case("a reservation too long", ORDERS, wire(HOLD, reservation="R" * 257), "limit", "reservation has 257"),
    case("nowhere to ship to", WMS, wire(SHIPPED, to_location=""), "bad_field", "to_location"),
    case("a destination with a bar", WMS, wire(SHIPPED, to_location="a|b"), "bad_field", "to_location"),
    case("an empty transfer", WMS, wire(SHIPPED, transfer=""), "bad_field", "transfer"),
    case("a transfer too long", WMS, wire(SHIPPED, transfer="T" * 257), "limit", "transfer has 257"),
    case("an inbound with controls", WMS, wire(SALE, type="wms.receipt", inbound="I\u001f"), "bad_field", "inbound"),
    case("an ETA without a zone", WMS, wire(SHIPPED, eta="2026-11-22T10:15:00"), "bad_field", "$.eta"),
    case("an order line too long", POS, wire(SALE, order_line="L" * 257), "limit", "order_line has 257"),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "value", "reason", "detail"), REFUSED)
def test_what_cannot_be_understood_is_refused_with_its_reason(
    topic: int, value: bytes | None, reason: str, detail: str
) -> None:
    """One of the named reasons, and a detail that helps."""
    found = refusal(topic, value)
    assert found.reason == reason
    assert detail in found.detail


NOT_YET = [
    case("a count of one state", WMS, wire(COUNT, state="damaged")),
]


@pytest.mark.parametrize(("topic", "value"), NOT_YET)
def test_what_has_no_effect_yet_is_refused_as_such(topic: int, value: bytes | None) -> None:
    """Understood and set aside, to be replayed once it is supported."""
    assert refusal(topic, value).reason == "not_supported_yet"


ITEM = {
    "type": "item.set", "id": "i", "source": "s", "occurred_at": "2026-11-22T10:00:00Z",
    "sku": "SKU-1", "brand": "b", "category": "c", "lifecycle": "active",
}  # fmt: skip
ITEMS = [
    case("an item", b"SKU-1", wire(ITEM), None),
    case("a removal", b"SKU-1", None, None),
    case("a removal of nothing", None, None, "empty"),
    case("a removal whose key is no text", b"\xff", None, "bad_field"),
    case("nothing", b"SKU-1", b"", "empty"),
    case("another key", b"SKU-2", wire(ITEM), "bad_field"),
    case("no key", None, wire(ITEM), "bad_field"),
    case("no brand", b"SKU-1", wire(ITEM, brand=None), "missing_field"),
    case("an unknown lifecycle", b"SKU-1", wire(ITEM, lifecycle="gone"), "bad_field"),
    case("a sale", b"SKU-1", wire(SALE), "wrong_topic"),
    case("not JSON", b"SKU-1", b"{", "not_json"),
    case("tomorrow's", b"SKU-1", wire(ITEM, occurred_at="2026-11-23T10:00:00Z"), "in_future"),
    case("a long category", b"SKU-1", wire(ITEM, category="c" * 257), "limit"),
    case("no source", b"SKU-1", wire(ITEM, source=""), "bad_field"),
    case("a giant", b"SKU-1", wire(ITEM, name="x" * EVENT_BYTES_MAX), "too_large"),
]


@pytest.mark.parametrize(("key", "value", "reason"), ITEMS)
def test_an_item_stands_under_its_sku(key: bytes | None, value: bytes | None, reason: str | None) -> None:
    """So that compaction keeps the newest one, and a real null removes it."""
    found = decode_item(key, value, NOW_US)
    assert (found.reason if isinstance(found, Refusal) else None) == reason
    assert reason is not None or found.sku == "SKU-1"  # type: ignore[union-attr]


NAMES = [
    case("usual", "SKU-1", True),
    case("one character", "x", True),
    case("128 characters", "x" * 128, True),
    case("129 characters", "x" * 129, False),
    case("other alphabets", "Größe 订单 №5", True),
    case("nothing", "", False),
    case("a bar", "a|b", False),
    case("a leading blank", " a", False),
    case("a trailing blank", "a ", False),
    case("a leading blank of another kind", "\u00a0a", False),
    case("a tab inside", "a\tb", False),
    case("a line feed at the end", "a\n", False),
    case("a null character", "a\x00b", False),
    case("a C1 control", "a\x85b", False),
    case("a blank inside", "a b", True),
    case("an emoji", "👟", True),
]


@pytest.mark.parametrize(("name", "good"), NAMES)
def test_names_of_skus_and_locations_are_checked(name: str, good: bool) -> None:
    """1-128 characters without a bar, controls or blanks around."""
    assert (check_names(name, "L") is None) is good
    assert (check_names("S", name) is None) is good
    for found, field in ((check_names(name, "L"), "sku"), (check_names("S", name), "location")):
        if found is not None:
            assert (found.reason, found.detail.split()[0]) == ("bad_field", field)


def test_anywhere_is_no_location() -> None:
    """A request may leave the choice open with a star; nothing can lie there. A SKU may be called so."""
    assert check_names("*", None) is None
    refused = check_names("S", "*")
    assert refused is not None
    assert "only a request" in refused.detail
    transfer = wire(SHIPPED, to_location="*")
    found = decode(WMS, transfer, NOW_US)
    assert isinstance(found, Refusal)
    assert found.detail.startswith("to_location")


@pytest.mark.parametrize("seconds", [0, 1, 59, 299, 300])
def test_the_future_is_judged_by_the_records_own_time(seconds: int) -> None:
    """To the microsecond, also when many records of one second came before."""
    for moved_us in (0, 1, 999_999):
        stamp = NOW + timedelta(microseconds=moved_us)
        event = wire(SALE, occurred_at=(stamp + timedelta(seconds=seconds)).isoformat())
        late = wire(SALE, occurred_at=(stamp + timedelta(seconds=300, microseconds=1)).isoformat())
        assert not isinstance(decode(POS, event, micros(stamp)), Refusal)
        found = decode(POS, late, micros(stamp))
        assert isinstance(found, Refusal)
        assert found.reason == "in_future"


@pytest.mark.parametrize("stamp", [2**63 - 1, 2**63 * 1_000, -1, -(2**63) * 1_000, 0])
def test_a_nonsensical_timestamp_stops_nothing(stamp: int) -> None:
    """A producer that stamps microseconds as milliseconds is in the year 58,000; its facts are judged all the same."""
    found = decode(POS, wire(SALE), stamp)
    assert found.reason == "in_future" if isinstance(found, Refusal) else stamp > NOW_US


def test_wire_names_that_python_cannot_have() -> None:
    """`from` and `to` of a change of state."""
    found = decoded(WMS, wire(MOVED))
    assert isinstance(found, WmsStatusChanged)
    assert (found.from_state, found.to_state) == ("sellable", "damaged")
    assert json.loads(msgspec.json.encode(found))["from"] == "sellable"


def test_type_names_come_from_the_messages() -> None:
    """The wire's own noun."""
    assert type_of(decoded(WMS, wire(COUNT))) == "wms.count"
    assert isinstance(decoded(WMS, wire(COUNT)), WmsCount)
