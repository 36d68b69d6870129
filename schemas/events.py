"""Inbound bytes to typed facts: decoding, and the reason why something is refused; never any effect."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, get_args

import msgspec

from schemas.topics import KEYED_INPUTS, ORDER_RESERVATIONS, POS_SALES, STOCK_ITEMS, STOCK_SETTINGS, WMS_MOVEMENTS
from stock import events
from stock.effects import SUPPORTED
from stock.events import ANYWHERE, ID_LENGTH_MAX, Message
from stock.times import SECOND_US, micros, moment

EVENT_BYTES_MAX = 65_536  # A fact is a few hundred bytes; a larger one is a mistake, and would slow everything else.
FUTURE_TOLERANCE_US = 300 * SECOND_US  # A till's clock may be ahead of Kafka's by so much.
DETAIL_LENGTH_MAX = 500  # Details end in headers and logs.

REASONS = (
    "not_json",
    "empty",
    "missing_field",
    "bad_field",
    "unknown_type",
    "wrong_topic",
    "not_supported_yet",
    "wrong_partition",
    "too_large",
    "in_future",
    "limit",
)


class Refusal(NamedTuple):
    """Why a record goes to the dead letters: one of REASONS, and a sentence for a person."""

    reason: str
    detail: str


_NAME = re.compile(r"(?!\s)[^|\x00-\x1f\x7f-\x9f]{1,128}(?<!\s)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_UNIONS: dict[str, Any] = {
    POS_SALES.name: events.PosMessage,
    WMS_MOVEMENTS.name: events.WmsMessage,
    ORDER_RESERVATIONS.name: events.OrderMessage,
    STOCK_ITEMS.name: events.ItemSet,
    STOCK_SETTINGS.name: events.SettingsMessage,
}
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {name: msgspec.json.Decoder(union) for name, union in _UNIONS.items()}
_DECODE_KEYED = tuple(_DECODERS[topic.name].decode for topic in KEYED_INPUTS)
_TOPIC_OF_TYPE = {
    member.__struct_config__.tag: name for name, union in _UNIONS.items() for member in (get_args(union) or (union,))
}
_TYPES_BY_TOPIC = {name: sorted(kind for kind, topic in _TOPIC_OF_TYPE.items() if topic == name) for name in _UNIONS}


def type_of(event: Message) -> str:
    """The wire `type` of a message."""
    return type_name(type(event))


def type_name(kind: Any) -> str:
    """The wire `type` of a class of messages."""
    return str(kind.__struct_config__.tag)


def decode(topic: int, value: bytes | None, timestamp_us: int) -> events.StockFact | Refusal:
    """The fact in one record of a keyed input; an item has `decode_item`.

    Args:
        topic: position in `schemas.topics.KEYED_INPUTS`.
        value: the record's value.
        timestamp_us: the record's Kafka timestamp; a fact may not lie much after it.

    Returns:
        A supported, valid fact, or why it is refused. Names of SKU and location are checked by `check_names`.
    """
    if value is None or not value:
        return Refusal("empty", "the record has no value")
    if len(value) > EVENT_BYTES_MAX:
        return Refusal("too_large", f"{len(value)} bytes; an event has at most {EVENT_BYTES_MAX}")
    try:
        event: Any = _DECODE_KEYED[topic](value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return explain(KEYED_INPUTS[topic].name, value, error)
    kind: type = event.__class__
    if kind not in SUPPORTED:
        return Refusal("not_supported_yet", f"{type_of(event)} is understood but has no effect yet")
    if event.occurred_at > _surely_past(timestamp_us // SECOND_US) and (
        micros(event.occurred_at) > timestamp_us + FUTURE_TOLERANCE_US
    ):
        return Refusal("in_future", f"occurred_at {event.occurred_at.isoformat()} is after the record's timestamp")
    if not 0 < len(event.id) <= ID_LENGTH_MAX:
        return _bad_id("id", event.id)
    if not 0 < len(event.source) <= ID_LENGTH_MAX:
        return _bad_id("source", event.source)
    if (
        kind not in _PLAIN
        or event.reservation is not None
        or event.line is not None
        or event.order_line is not None
        or event.echo is not None
        or (kind is events.WmsReceipt and event.inbound is not None)
    ):
        refusal = _check_more(event, kind, timestamp_us)
        if refusal is not None:
            return refusal
    return event  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _surely_past(second: int) -> datetime:
    """A time that is not in the future for any record of this second; spares most facts the exact sum."""
    past = moment(second * SECOND_US + FUTURE_TOLERANCE_US)
    assert past is not None
    return past


class ItemRemoved(NamedTuple):
    """A null record on the items topic: the SKU of its key is delisted."""

    sku: str


def decode_item(key: bytes | None, value: bytes | None, timestamp_us: int) -> events.ItemSet | ItemRemoved | Refusal:
    """The item in one record of `stock-items.v1`, or why it is refused. The SKU is checked by `check_names`."""
    try:
        named = None if key is None else key.decode()
    except UnicodeDecodeError:
        return Refusal("bad_field", "the record's key is not UTF-8; it must be the SKU")
    if value is None:
        return (
            Refusal("empty", "a removal that names no SKU: the record has no key") if not named else ItemRemoved(named)
        )
    if not value:
        return Refusal("empty", "the record has no value")
    if len(value) > EVENT_BYTES_MAX:
        return Refusal("too_large", f"{len(value)} bytes; an item has at most {EVENT_BYTES_MAX}")
    try:
        item: events.ItemSet = _DECODERS[STOCK_ITEMS.name].decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return explain(STOCK_ITEMS.name, value, error)
    if named != item.sku:
        return Refusal("bad_field", "the record's key must be its SKU, so that compaction and removal find it")
    for name in ("id", "source", "brand", "category"):
        text = getattr(item, name)
        if len(text) > ID_LENGTH_MAX or (not text and name in ("id", "source")):
            return _bad_id(name, text)
    if micros(item.occurred_at) > timestamp_us + FUTURE_TOLERANCE_US:
        return Refusal("in_future", f"occurred_at {item.occurred_at.isoformat()} is after the record's timestamp")
    return item


def decode_setting(key: bytes | None, value: bytes, timestamp_us: int | None = None) -> Message | Refusal:
    """The setting in one record of `stock-settings.v1` that is not a removal by null.

    Args:
        key, value: the record's.
        timestamp_us: the record's Kafka timestamp, if it has one; a setting may not lie much after it.

    Returns:
        A supported, valid setting whose id fits the record's key, or why it is refused.
    """
    if not value:
        return Refusal("empty", "the record has no value")
    if len(value) > EVENT_BYTES_MAX:
        return Refusal("too_large", f"{len(value)} bytes; a setting has at most {EVENT_BYTES_MAX}")
    try:
        setting: Message = _DECODERS[STOCK_SETTINGS.name].decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return explain(STOCK_SETTINGS.name, value, error)
    expected = setting_key(setting)
    if key is None or key.decode(errors="replace") != expected:
        return Refusal("bad_field", f"the record's key must be {expected!r}, so that compaction and removal find it")
    for name in ("id", "source"):
        text = getattr(setting, name)
        if not 0 < len(text) <= ID_LENGTH_MAX:
            return _bad_id(name, text)
    if timestamp_us is not None and micros(setting.occurred_at) > timestamp_us + FUTURE_TOLERANCE_US:
        return Refusal("in_future", f"occurred_at {setting.occurred_at.isoformat()} is after the record's timestamp")
    if isinstance(setting, events.LocationSet | events.SourceAlive):
        refusal = check_names("-", setting.location)
        if refusal is not None:
            return refusal
    if isinstance(setting, events.PolicySet | events.PolicyRemoved) and not _is_id(setting.policy):
        return _bad_id("policy", setting.policy)
    if isinstance(setting, events.PolicySet):
        channel = setting.scope.channel
        if channel == "*":
            return Refusal("bad_field", "no channel is called *; a scope without a channel holds for all of them")
        if channel is not None and not _NAME.fullmatch(channel):
            return _bad_name("channel", channel)
    return setting


def setting_key(setting: Message) -> str:
    """The Kafka key that a settings message must have."""
    if isinstance(setting, events.LocationSet):
        return f"location:{setting.location}"
    if isinstance(setting, events.SourceAlive):
        return f"alive:{setting.location}:{setting.feed}"
    assert isinstance(setting, events.PolicySet | events.PolicyRemoved)
    return f"policy:{setting.policy}"


def check_names(sku: str, location: str | None) -> Refusal | None:
    """Why a SKU or location may not be used as a key, or None; asked once per new key or, without location, item."""
    for name, text in (("sku", sku), ("location", location)):
        if text is not None and (not _NAME.fullmatch(text) or (name == "location" and text == ANYWHERE)):
            return _bad_name(name, text)
    return None


def _bad_name(name: str, text: str) -> Refusal:
    if text == ANYWHERE:
        return Refusal("bad_field", f"{name} {text!r} is no location: only a request may name it, to have one chosen")
    return Refusal("bad_field", f"{name} {text[:140]!r} is not 1-128 characters without | or controls")


def explain(topic: str, value: bytes, error: Exception) -> Refusal:
    """Why a value could not be decoded; slow, since refusals are rare."""
    if isinstance(error, RecursionError):
        return Refusal("limit", "nested too deeply")
    try:
        raw = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        return Refusal("not_json", str(broken)[:DETAIL_LENGTH_MAX])
    except RecursionError:
        return Refusal("limit", "nested too deeply")
    if not isinstance(raw, dict):
        return Refusal("bad_field", f"expected an object, got {type(raw).__name__}")
    kind = raw.get("type")
    if "type" not in raw:
        return Refusal("missing_field", "Object missing required field `type`")
    if not isinstance(kind, str):
        return Refusal("bad_field", f"type must be text, got {type(kind).__name__}")
    if kind not in _TOPIC_OF_TYPE:
        return Refusal("unknown_type", f"{kind[:100]!r}; {topic} carries {', '.join(_TYPES_BY_TOPIC[topic])}")
    if _TOPIC_OF_TYPE[kind] != topic:
        return Refusal("wrong_topic", f"{kind} belongs on {_TOPIC_OF_TYPE[kind]}")
    text = str(error)[:DETAIL_LENGTH_MAX]
    return Refusal("missing_field" if "missing required field" in text else "bad_field", text)


# The ids by which each supported type names a hold, an order line, an echo, a transfer or an inbound.
_NAMES = ("reservation", "line", "order_line", "echo", "transfer", "inbound")
_NAMED: dict[type, tuple[str, ...]] = {
    kind: tuple(name for name in _NAMES if hasattr(kind, name)) for kind in SUPPORTED
}
_PLAIN = frozenset({events.PosSale, events.WmsReceipt, events.WmsShipment})  # Frequent; right unless an id is wrong.


def _check_more(event: Any, kind: type, timestamp_us: int) -> Refusal | None:
    """What single types may not say although every field is well formed, and the ids by which they name orders."""
    if kind is events.WmsAdjustment and event.units == 0:
        return Refusal("bad_field", "an adjustment of 0 units says nothing - at `$.units`")
    if kind is events.WmsCount and event.state != "sellable":
        return Refusal("not_supported_yet", "a count of one state is understood but has no effect yet")
    if kind is events.WmsStatusChanged and event.from_state == event.to_state:
        return Refusal("bad_field", "from and to are the same state")
    if kind is events.PosVoid and micros(event.voided_at) > timestamp_us + FUTURE_TOLERANCE_US:
        return Refusal("in_future", f"voided_at {event.voided_at.isoformat()} is after the record's timestamp")
    if kind is events.TransferShipped and (not _NAME.fullmatch(event.to_location) or event.to_location == ANYWHERE):
        return _bad_name("to_location", event.to_location)
    for name in _NAMED[kind]:
        text = getattr(event, name)
        if text is not None and not _is_id(text):
            return _bad_id(name, text)
    return None


def _is_id(text: str) -> bool:
    return 0 < len(text) <= ID_LENGTH_MAX and not _CONTROL.search(text)


def _bad_id(name: str, text: str) -> Refusal:
    if len(text) > ID_LENGTH_MAX:
        return Refusal("limit", f"{name} has {len(text)} characters, at most {ID_LENGTH_MAX} are kept")
    return Refusal("bad_field", f"{name} {text!r} is empty or has control characters")
