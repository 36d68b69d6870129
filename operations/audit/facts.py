"""Input records judged and turned into columns, from the written contract; never through the pipeline's code.

That the audit decides again what a valid record is, and what each type does, is the point of it: only the
typed messages and the topic registry are shared with the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl

from operations.audit.answers import Granted
from operations.audit.log import LogRecord
from schemas import topics
from schemas.records import micros
from stock import events

FUTURE_US_MAX = 5 * 60 * 1_000_000  # A fact may be at most this much newer than its Kafka record.
NAME_LENGTH_MAX = 128  # Of a SKU or a location id.

TOPIC_ORDER = {topic.name: index for index, topic in enumerate(topics.KEYED_INPUTS)}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DOUBTFUL_CHARACTER = re.compile(r"[\x80-\x9f]")

_FACT_DECODERS = {
    topics.POS_SALES.name: msgspec.json.Decoder(events.PosMessage),
    topics.WMS_MOVEMENTS.name: msgspec.json.Decoder(events.WmsMessage),
    topics.ORDER_RESERVATIONS.name: msgspec.json.Decoder(events.OrderMessage),
}
_TOLD_TWICE = (events.PosSale, events.WmsShipment, events.WmsShipmentVoided, events.OrderFulfilled)
_item_decoder = msgspec.json.Decoder(events.ItemSet)
_setting_decoder = msgspec.json.Decoder(events.SettingsMessage)

# What a fact does to on_hand, per unit. A void does the opposite of what it voids.
_ON_HAND_SIGN: dict[type[events.StockFact], int] = {
    events.PosSale: -1,
    events.PosReturn: 1,
    events.WmsReceipt: 1,
    events.WmsShipment: -1,
    events.WmsShipmentVoided: 1,
    events.WmsAdjustment: 1,
    events.OrderFulfilled: -1,
    events.TransferShipped: -1,
    events.TransferReceived: 1,
}
_SUPPORTED: tuple[type[events.StockFact], ...] = (
    *_ON_HAND_SIGN,
    events.PosVoid,
    events.WmsCount,
    events.WmsStatusChanged,
    events.ReservationCreated,
    events.ReservationRenewed,
    events.ReservationReleased,
    events.ReservationRequested,
    events.OrderAllocated,
    events.OrderDeallocated,
    events.TransferRescheduled,
    events.TransferCancelled,
    events.InboundExpected,
    events.InboundCancelled,
)
_ORDER_IDS = ("reservation", "line", "order_line", "echo", "policy", "transfer", "inbound")
_ID_FIELDS = ("id", "source", *_ORDER_IDS)
_UNUSED_IDS = ("voids",)  # Nothing is kept under them yet, so their length is nobody's business.

FACT_SCHEMA: dict[str, pl.DataType] = {
    "topic": pl.Int8(),  # position in KEYED_INPUTS
    "partition": pl.Int32(),
    "offset": pl.Int64(),
    "timestamp_ms": pl.Int64(),
    "type": pl.String(),
    "sku": pl.String(),
    "location": pl.String(),
    "source": pl.String(),
    "id": pl.String(),
    "occurred_us": pl.Int64(),
    "effective_us": pl.Int64(),  # occurred_us, but the voided fact's time for pos.void
    "units": pl.Int64(),
    "delta": pl.Int64(),  # signed change of on_hand; null for facts that move nothing
    "restores": pl.Boolean(),  # gives units back to the order line it names
    "state": pl.String(),
    "from_state": pl.String(),
    "to_state": pl.String(),
    "reservation": pl.String(),
    "line": pl.String(),
    "order_line": pl.String(),
    "echo": pl.String(),  # under which other topics may tell of the same units
    "expires_us": pl.Int64(),
    "transfer": pl.String(),
    "inbound": pl.String(),
    "to_location": pl.String(),
    "eta_us": pl.Int64(),
    "final": pl.Boolean(),
    "net": pl.Boolean(),  # a count that left out what was unavailable or allocated
    "asked": pl.Int64(),  # units wanted by a request that was answered; `units` are those granted
    "verdict": pl.String(),  # of a request that was answered
    "channel": pl.String(),
}


class Judged(NamedTuple):
    """What the audit thinks of a record: its message, why it must be refused, why either would be right."""

    message: events.Message | None
    refusal: str | None = None
    doubt: str | None = None


def judge_fact(record: LogRecord, partitions: int) -> Judged:
    """Whether a record of a keyed input topic must be applied, must be refused, or may be either."""
    if record.topic == topics.STOCK_ITEMS.name:
        return judge_item(record, partitions)
    if not record.value:
        return Judged(None, "empty")
    decoded = _decode(_FACT_DECODERS[record.topic], record.value)
    if isinstance(decoded, str):
        return Judged(None, decoded)
    assert isinstance(decoded, events.StockFact)
    refusal = (
        _bad_name(decoded.sku, "sku")
        or _bad_location(decoded)
        or _bad_common(decoded, record.timestamp_ms)
        or _bad_units(decoded)
        or _unsupported_fact(decoded)
    )
    if refusal is None and topics.partition_of(decoded.sku, partitions) != record.partition:
        refusal = f"wrong partition: {decoded.sku} belongs to {topics.partition_of(decoded.sku, partitions)}"
    if refusal is not None:
        return Judged(decoded, refusal)
    names = (decoded.sku, decoded.location, getattr(decoded, "to_location", "-"))
    doubt = next(filter(None, map(_doubtful_name, names)), None) or _doubtful(decoded, record)
    return Judged(decoded, doubt=doubt)


def judge_item(record: LogRecord, partitions: int) -> Judged:
    """Whether a record of the items topic must hold, must be refused, or may be either; a removal has no message."""
    try:
        sku = (record.key or b"").decode()
    except UnicodeDecodeError:
        return Judged(None, "its key is not text")
    item: events.ItemSet | None = None
    refusal: str | None = None
    if record.value is not None:
        decoded = _decode(_item_decoder, record.value) if record.value else "empty"
        if isinstance(decoded, str):
            return Judged(None, decoded)
        assert isinstance(decoded, events.ItemSet)
        item = decoded
        refusal = _bad_common(item, record.timestamp_ms)
        if item.sku != sku:
            refusal = refusal or "its key is not its SKU"
        if max(len(item.brand), len(item.category)) > events.ID_LENGTH_MAX:
            refusal = refusal or "brand or category is too long"
    refusal = refusal or _bad_name(sku, "sku")
    if refusal is None and topics.partition_of(sku, partitions) != record.partition:
        refusal = f"wrong partition: {sku} belongs to {topics.partition_of(sku, partitions)}"
    if refusal is not None:
        return Judged(item, refusal)
    return Judged(item, doubt=_doubtful_name(sku) or (None if item is None else _doubtful_ids(item)))


def judge_setting(record: LogRecord) -> Judged:
    """Whether a settings record must hold, must be refused, or may be either; a removal has no message."""
    if record.value is None:
        return Judged(None, doubt=None if record.key else "a removal that names no key")
    if not record.value:
        return Judged(None, "empty")
    decoded = _decode(_setting_decoder, record.value)
    if isinstance(decoded, str):
        return Judged(None, decoded)
    assert isinstance(decoded, events.Message)
    refusal = _bad_common(decoded, record.timestamp_ms)
    if refusal is None and isinstance(decoded, events.LocationSet | events.SourceAlive):
        refusal = "location says anywhere" if decoded.location == "*" else _bad_name(decoded.location, "location")
    channel = decoded.scope.channel if isinstance(decoded, events.PolicySet) else None
    if refusal is None and channel is not None:
        refusal = "a channel called *" if channel == "*" else _bad_name(channel, "channel")
    if refusal is not None:
        return Judged(decoded, refusal)
    doubt = _doubtful_ids(decoded) or (None if channel is None else _doubtful_name(channel))
    if isinstance(decoded, events.LocationSet | events.SourceAlive):
        doubt = doubt or _doubtful_name(decoded.location)
    if _setting_key(decoded) != (record.key or b"").decode(errors="replace"):
        doubt = "its key does not name what it sets"
    elif isinstance(decoded, events.PolicySet):
        named = (decoded.scope.sku, decoded.scope.location)
        if any(name is not None and _bad_name(name, "scope") for name in named):
            doubt = "its scope names what cannot exist"
    return Judged(decoded, doubt=doubt)


def row_of(record: LogRecord, message: events.Message, granted: Granted | None = None) -> tuple[object, ...]:
    """One row of the frame of facts, in the order of `FACT_SCHEMA`; a request that was granted looks like a hold."""
    assert isinstance(message, events.StockFact)
    kind, location = message.__struct_config__.tag, message.location
    occurred_us = micros(message.occurred_at)
    effective_us = occurred_us
    units: int | None = getattr(message, "units", None)
    if granted is not None and granted.units:
        kind, location, units = "reservation.created", granted.location, granted.units
    sign = _ON_HAND_SIGN.get(type(message))
    restores = isinstance(message, events.WmsShipmentVoided)
    if isinstance(message, events.PosVoid):
        effective_us = micros(message.voided_at)
        restores = message.voided_type == "pos.sale"
        sign = 1 if restores else -1
    expires_at, eta = getattr(message, "expires_at", None), getattr(message, "eta", None)
    return (
        TOPIC_ORDER[record.topic],
        record.partition,
        record.offset,
        record.timestamp_ms,
        kind,
        message.sku,
        location,
        message.source,
        message.id,
        occurred_us,
        effective_us,
        units,
        None if sign is None or units is None else sign * units,
        restores,
        getattr(message, "state", None),
        getattr(message, "from_state", None),
        getattr(message, "to_state", None),
        getattr(message, "reservation", None),
        getattr(message, "line", None),
        getattr(message, "order_line", None),
        _echo(message),
        None if expires_at is None else micros(expires_at),
        getattr(message, "transfer", None),
        getattr(message, "inbound", None),
        getattr(message, "to_location", None),
        None if eta is None else micros(eta),
        getattr(message, "final", False),
        getattr(message, "basis", "gross") == "net",
        None if granted is None else getattr(message, "units", None),
        None if granted is None else granted.verdict,
        message.channel,
    )


def _echo(message: events.StockFact) -> str | None:
    """Sales, shipments, fulfilments and their voids may be told twice, by default of one order line."""
    if isinstance(message, events.PosVoid):
        paired = message.voided_type == "pos.sale"
    else:
        paired = isinstance(message, _TOLD_TWICE)
    if not paired:
        return None
    assert isinstance(message, events.Physical)
    return message.echo if message.echo is not None else message.order_line


def frame(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    """Rows of facts as columns."""
    if not rows:
        return pl.DataFrame(schema=FACT_SCHEMA)
    return pl.DataFrame(dict(zip(FACT_SCHEMA, zip(*rows, strict=True), strict=True)), schema=FACT_SCHEMA)


def _decode(decoder: msgspec.json.Decoder[Any], value: bytes) -> object | str:
    """The message, or the reason why there is none."""
    try:
        decoded: object = decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return f"not decodable: {error}"
    return decoded


def _bad_name(name: str, field: str) -> str | None:
    if not 1 <= len(name) <= NAME_LENGTH_MAX:
        return f"{field} has {len(name)} characters"
    if "|" in name or name[0] == " " or name[-1] == " " or _CONTROL.search(name):
        return f"{field} has a bar, a control character or an outer blank"
    return None


def _bad_location(fact: events.StockFact) -> str | None:
    """The locations that a fact names; a request alone may leave it open."""
    if fact.location == "*":
        return None if isinstance(fact, events.ReservationRequested) else "location says anywhere"
    to = fact.to_location if isinstance(fact, events.TransferShipped) else None
    if to == "*":
        return "to_location says anywhere"
    return _bad_name(fact.location, "location") or (None if to is None else _bad_name(to, "to_location"))


def _bad_common(message: events.Message, timestamp_ms: int) -> str | None:
    if timestamp_ms >= 0 and micros(message.occurred_at) > timestamp_ms * 1_000 + FUTURE_US_MAX:
        return "it occurred in the future"
    for field in _ID_FIELDS:
        text = getattr(message, field, None)
        if text is not None and len(text) > events.ID_LENGTH_MAX:
            return f"{field} is too long"
    return None


def _bad_units(message: events.StockFact) -> str | None:
    if isinstance(message, events.WmsAdjustment) and message.units == 0:
        return "an adjustment by nothing"
    return None


def _unsupported_fact(message: events.StockFact) -> str | None:
    if not isinstance(message, _SUPPORTED):
        return f"not supported yet: {message.__struct_config__.tag}"
    return None


def _setting_key(message: events.Message) -> str:
    if isinstance(message, events.LocationSet):
        return f"location:{message.location}"
    if isinstance(message, events.PolicySet | events.PolicyRemoved):
        return f"policy:{message.policy}"
    assert isinstance(message, events.SourceAlive)
    return f"alive:{message.location}:{message.feed}"


def _has_controls(text: str) -> bool:
    return _CONTROL.search(text) is not None or _DOUBTFUL_CHARACTER.search(text) is not None


def _doubtful_name(name: str) -> str | None:
    """The contract says "blanks" and "control characters"; Unicode has more of both than everyone expects."""
    if name != name.strip() or _DOUBTFUL_CHARACTER.search(name):
        return "a name with an unusual blank or control character"
    return None


def _doubtful_ids(message: events.Message) -> str | None:
    """Ids that the contract neither allows nor forbids."""
    for field in _ID_FIELDS:
        text = getattr(message, field, None)
        if text is not None and (not text or len(text.encode()) > events.ID_LENGTH_MAX):
            return f"{field} is empty or long in bytes"
        if text is not None and field in _ORDER_IDS and _has_controls(text):
            return f"{field} has a control character"
    for field in _UNUSED_IDS:
        if len(getattr(message, field, None) or "") > events.ID_LENGTH_MAX:
            return f"{field} is long"
    return None


def _doubtful(message: events.StockFact, record: LogRecord) -> str | None:
    """What the contract leaves open, so that refusing and applying are both right."""
    doubt = _doubtful_ids(message)
    if doubt is not None:
        return doubt
    if isinstance(message, events.WmsStatusChanged) and message.from_state == message.to_state:
        return "a change to the same state"
    if isinstance(message, events.WmsCount) and message.state != "sellable":
        return "a count of one state"
    if (
        isinstance(message, events.PosVoid)
        and record.timestamp_ms >= 0
        and micros(message.voided_at) > record.timestamp_ms * 1_000 + FUTURE_US_MAX
    ):
        return "what it voids lies in the future"
    return None
