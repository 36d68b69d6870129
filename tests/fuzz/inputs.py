"""Inputs to fuzz with: records as Kafka hands them out, from plausible to absurd; never what must become of them.

Every input comes from one seeded generator. Half start as a message that a shop could send and are then spoiled at
the level where it hurts: a field, the JSON text, or the bytes.
"""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE

from schemas.topics import partition_of
from stock.events import PolicyValues

PARTITIONS, PARTITION = 3, 1
START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
SETTINGS = -1  # Instead of the position of a keyed input.
POS, WMS, ORDERS, ITEMS = range(4)
VALUE_BYTES_MAX = 1_100_000  # A little more than a record of an input topic may have.

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Input:
    """One record: the position of its topic, and what the client gives of it.

    `headers` is None where the client fails to give them, as it does for a name that is not UTF-8. `after_us` is how
    long after the one before it is read.
    """

    topic: int
    key: bytes | None
    value: bytes | None
    timestamp: tuple[int, int]
    headers: Headers | None
    after_us: int = 1_000

    def to_line(self) -> str:
        """One line of JSON that `from_line` reads back."""
        headers = None if self.headers is None else [[name, _text(value)] for name, value in self.headers]
        values = [self.topic, _text(self.key), _text(self.value), list(self.timestamp), headers, self.after_us]
        return json.dumps(values)

    @classmethod
    def from_line(cls, line: str) -> Input:
        """The input that `to_line` wrote."""
        topic, key, value, timestamp, headers, after_us = json.loads(line)
        known = None if headers is None else [(name, _bytes(content)) for name, content in headers]
        return cls(topic, _bytes(key), _bytes(value), (timestamp[0], timestamp[1]), known, after_us)


def _text(content: bytes | None) -> str | None:
    """Bytes as text: readable where they are ASCII, else in base 64."""
    if content is None:
        return None
    if content.isascii():
        return "a:" + content.decode()
    return "b:" + base64.b64encode(content).decode()


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    return text[2:].encode() if text.startswith("a:") else base64.b64decode(text[2:])


class Raw(str):
    """JSON text that is written as it is, valid or not."""

    __slots__ = ()


def _here(count: int) -> tuple[str, ...]:
    """SKUs whose home is the partition under test."""
    names = (f"SKU-{n}" for n in range(1_000))
    return tuple([name for name in names if partition_of(name, PARTITIONS) == PARTITION][:count])


SKUS = (*_here(4), "é" * 3)
LOCATIONS = ("STORE-A", "DC-1", "L" * 128, "店-1")
SOURCES = ("pos/1", "wms", "oms", "s" * 256)
ORDERS_NAMED = ("R", "R-2", "9", "r" * 256, "ä|b", "*")
KINDS: dict[int, tuple[str, ...]] = {
    POS: ("pos.sale", "pos.return", "pos.void"),
    WMS: (
        "wms.receipt",
        "wms.shipment",
        "wms.shipment_voided",
        "wms.adjustment",
        "wms.count",
        "wms.status_changed",
        "transfer.shipped",
        "transfer.received",
        "transfer.rescheduled",
        "transfer.cancelled",
        "inbound.expected",
        "inbound.cancelled",
    ),
    ORDERS: (
        "reservation.created",
        "reservation.renewed",
        "reservation.released",
        "order.allocated",
        "order.deallocated",
        "order.fulfilled",
        "reservation.requested",
    ),
    ITEMS: ("item.set",),
    SETTINGS: ("location.set", "policy.set", "policy.removed", "source.alive"),
}

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 10**9, 10**9 + 1, -(10**9), 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**18,
    Raw("9" * 400), Raw("-" + "9" * 5_000), Raw("1" + "0" * 30_000), Raw("1.0"), Raw("1e0"), Raw("1e9"), Raw("1e400"),
    Raw("-0"), Raw("0." + "3" * 2_000), Raw("1E+2"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("007"),
    Raw("0x10"), Raw("+1"), Raw("1."), Raw(".5"), Raw("1e99999999999999999999"),
)  # fmt: skip
TEXTS: tuple[Any, ...] = (
    "", " ", " x", "x ", "a" * 128, "a" * 129, "a" * 256, "a" * 257, "é" * 128, "😀" * 64, "\x00", "a\x00b", "\x7f",
    "\x85", "\u2028", "\ufeff", "\u202eabc", "|", "a|b", "\x1f", "\x1fhold\x1f1\x1fR", "a\u0301", "K" * 70_000, "*",
    "%s{}", "null", "ǅ", "\U0010ffff", "\ufffe", "\n", "\\", '"',
    Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'), Raw('"\\ud83d\\ude00"'), Raw('"\\u0000"'), Raw('"\\x41"'),
    Raw('"tab\there"'), Raw("'single'"), Raw('"' + "\\u0041" * 3_000 + '"'),
)  # fmt: skip
TIMES: tuple[Any, ...] = (
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00-23:59", "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59+23:59", "2016-12-31T23:59:60Z", "2026-02-29T00:00:00Z",
    "2024-02-29T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22t10:00:00z", "2026-11-22 10:00:00Z",
    "2026-11-22T10:00:00", "2026-11-22T10:00:00.123456789Z", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z",
    "2026-11-22T10:00:00,5Z", "2026-11-22T10:00:00+24:00", "2026-11-22T10:00:00-00:00", "2026-11-22T10:00:00+14:00",
    "2026-11-22T09:59:59.9999999Z", "2026-11-22", "10:00", "0000-00-00T00:00:00Z", "-2026-11-22T10:00:00Z",
    "10000-01-01T00:00:00Z", "2041-05-10T23:46:40Z", 1_790_000_000, Raw("1790000000.5"),
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, False, Raw("[]"), Raw("{}"), Raw("[[]]"), Raw('{"a":{}}'), Raw("[" + "null," * 1_000 + "null]"),
    Raw('{"":""}'),
)  # fmt: skip
NAMES = ("type", "id", "source", "units", "sku", "location", "state", "from", "to", "echo", "basis", "channel")


_ESCAPED = json.JSONEncoder().encode
_PLAIN = json.JSONEncoder(ensure_ascii=False).encode


class Generator:
    """An endless, repeatable row of inputs."""

    def __init__(self, seed: int, kept: list[Input] | None = None) -> None:
        self._random = random.Random(seed)
        self._now = START
        self._number = 0
        self.kept: list[Input] = list(kept or ())  # worth spoiling further

    def next(self) -> Input:
        """One more input."""
        chance = self._random
        self._number += 1
        after_us = chance.choice((0, 1_000, 1_000, 1_000, 300_000, 60_000_000, 3_600_000_000))
        self._now += timedelta(microseconds=after_us)
        what = chance.random()
        if what < 0.12 and self.kept:
            old = chance.choice(self.kept)
            topic, key, value = old.topic, old.key, self._bytes_spoiled(old.value or b"")
        else:
            topic = chance.choices((POS, WMS, ORDERS, SETTINGS, ITEMS), (35, 25, 30, 8, 2))[0]
            fields = self._plausible(topic)
            if chance.random() < 0.4:
                for _ in range(chance.choice((1, 1, 1, 2, 4))):
                    self._spoil(fields)
            key = self._key(topic, fields)
            value = self._written(fields).encode(errors="surrogatepass")
            if chance.random() < 0.1:
                value = self._bytes_spoiled(value)
        if chance.random() < 0.01:
            value = chance.choice(
                (None, b"", b"\xef\xbb\xbf" + (value or b""), b"\x00", b"[" * 60_000, b'{"a":' * 12_000)
            )
        if value is not None and chance.random() < 0.001:
            value += b" " * chance.choice((65_536, 200_000, VALUE_BYTES_MAX - 70_000))
        if chance.random() < 0.02:
            topic = chance.choice((POS, WMS, ORDERS, ITEMS, SETTINGS))
        if chance.random() < 0.02:
            key = chance.choice((None, b"", b"\xff\x00", b"k" * 300_000 if chance.random() < 0.02 else b"k"))
        return Input(topic, key, value, self._timestamp(), self._headers(), after_us)

    # Plausible messages

    def _plausible(self, topic: int) -> dict[str, Any]:
        chance = self._random
        kind = chance.choice(KINDS[topic])
        fields: dict[str, Any] = {
            "type": kind,
            "id": f"e{self._number}" if chance.random() < 0.9 else f"e{chance.randrange(self._number)}",
            "source": chance.choice(SOURCES),
            "occurred_at": self._time(chance.choice((-86_400 * 2, -3_600, -60, -1, 0, 0, 0, 120))),
        }
        if topic != SETTINGS:
            fields["sku"] = chance.choice(SKUS)
        if topic not in (SETTINGS, ITEMS):
            fields["location"] = chance.choice(LOCATIONS)
            fields["units"] = chance.choice((1, 1, 2, 5, 40, 10**9))
            if chance.random() < 0.2:
                fields["references"] = {"receipt": "x", "depth": [1, {"a": None}]}
        fields.update(self._own(kind))
        return fields

    def _own(self, kind: str) -> dict[str, Any]:
        """The fields of one type, some of them left out now and then."""
        chance = self._random
        order = {"reservation": chance.choice(ORDERS_NAMED), "line": chance.choice((None, "1", "R"))}
        order_line = {"order_line": chance.choice(ORDERS_NAMED)}
        states = ("sellable", "damaged", "quality_hold", "display")
        until = {"expires_at": self._time(chance.choice((-60, 1, 30, 3_600, 10**9)))}
        maybe: dict[str, Any] = chance.choice(({}, {}, order, order_line, {**order, **order_line}))
        state = chance.choice(({}, {"state": chance.choice(states)}))
        if kind == "pos.void":
            back = self._time(chance.choice((-3_600, -60, 0)))
            return {"voids": "x", "voided_type": chance.choice(("pos.sale", "pos.return")), "voided_at": back, **maybe}
        if kind == "pos.return":
            return {"state": chance.choice(states)}
        if kind == "wms.adjustment":
            return {"units": chance.choice((-3, 3, -(10**9), 0)), "reason": "found", **state}
        if kind == "wms.count":
            return {"units": chance.choice((0, 7, 10**9)), "basis": chance.choice(("gross", "gross", "gross", "net"))}
        if kind == "wms.status_changed":
            return {"from": chance.choice(states), "to": chance.choice(states)}
        if kind in ("reservation.created", "reservation.requested"):
            return {**order, "mode": chance.choice(("ship", "pickup")), **chance.choice(({}, until))}
        if kind == "reservation.renewed":
            return {**order, **until}
        if kind == "reservation.released":
            return {**order, "units": chance.choice((None, 1))}
        if kind == "order.allocated":
            return {**order_line, **chance.choice(({}, order))}
        if kind in ("order.deallocated", "order.fulfilled"):
            return order_line
        eta = {"eta": self._time(chance.choice((-60, 60, 3_600, 10**9)))}
        if kind.startswith("transfer."):
            more = eta if kind == "transfer.rescheduled" else chance.choice(({}, eta))
            to = {"to_location": chance.choice(LOCATIONS)}
            return {"transfer": chance.choice(ORDERS_NAMED), "final": chance.random() < 0.3, **to, **more}
        if kind.startswith("inbound."):
            return {"inbound": chance.choice(ORDERS_NAMED), **eta}
        return {**self._setting(kind), **maybe} if kind in KINDS[SETTINGS] + KINDS[ITEMS] else {**maybe, **state}

    def _setting(self, kind: str) -> dict[str, Any]:
        chance = self._random
        if kind == "item.set":
            lifecycles = ("active", "active", "preorder", "discontinued", "delisted")
            return {"brand": "b", "category": chance.choice("cd"), "lifecycle": chance.choice(lifecycles)}
        if kind == "location.set":
            modes = {"ship_enabled": chance.random() < 0.7, "pickup_enabled": chance.random() < 0.7}
            return {
                "location": chance.choice(LOCATIONS),
                "kind": "store",
                **modes,
                "latitude": chance.choice((None, 1.5)),
            }
        if kind == "source.alive":
            return {"location": "STORE-A", "feed": "pos", "until": self._time(chance.choice((-1, 60, 60, 10**9)))}
        policy = chance.choice(("p", "q", "p" * 256))
        if kind == "policy.removed":
            return {"policy": policy}
        scopes = (
            {}, {"sku": SKUS[0]}, {"location": LOCATIONS[0]}, {"mode": "ship"}, {"category": "c"}, {"brand": "b"},
            {"channel": "web"}, {"location_kind": "store", "region": None}, {"sku": SKUS[0], "category": "d"},
            {"channel": chance.choice(("web", "*", "", "a|b", " w", "w" * 128, "w" * 129, "\x1fhold\x1f", "\x85"))},
        )  # fmt: skip
        number = chance.choice((0, 1, 3, 100, 10**9))
        value = chance.choice(PolicyValues.__struct_fields__)
        dates = {name: self._time(chance.choice((-60, 0, 60, 10**9))) for name in ("valid_from", "valid_until")}
        return {
            **chance.choice(({}, {}, dates)),
            "policy": policy,
            "scope": chance.choice(scopes),
            "values": chance.choice(({value: number}, {"enabled": False})),
        }

    def _time(self, seconds: float) -> str:
        moment = self._now + timedelta(seconds=seconds, microseconds=self._random.choice((0, 0, 1, 123_456)))
        zone = self._random.choice((timezone.utc, timezone.utc, timezone(timedelta(hours=5, minutes=30))))
        text = moment.astimezone(zone).isoformat()
        return text.replace("+00:00", "Z")

    def _timestamp(self) -> tuple[int, int]:
        chance = self._random
        if chance.random() < 0.95:
            return TIMESTAMP_CREATE_TIME, int(self._now.timestamp() * 1000) - chance.choice(
                (0,) * 12 + (5, 500, 90_000_000)
            )
        kind = chance.choice((TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE))
        absurd = (0, -1, 1, -(2**63), 2**63 - 1, 2**53, 4_000_000_000_000, 253_402_300_800_000, -62_135_596_800_001)
        return kind, chance.choice(absurd)

    def _headers(self) -> Headers | None:
        chance = self._random
        what = chance.random()
        if what < 0.9:
            return []
        if what < 0.91:
            return None
        known: Headers = [
            ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("traceparent", None),
            ("traceparent", b"\xff\x00"),
            ("tracestate", b"shop=1"),
            ("", b""),
            ("é😀", b"x"),
            ("dead-letter.topic", b"\xff"),
            ("dead-letter.offset", b"-1"),
            ("dead-letter.partition", None),
            ("dead-letter.reason", b"forged"),
            ("big", b"h" * 2_000),
        ]
        if chance.random() < 0.005:
            known.append(("huge", b"h" * chance.choice((70_000, 400_000, 1_000_000))))
        return chance.sample(known, chance.randrange(len(known)))

    def _key(self, topic: int, fields: dict[str, Any]) -> bytes | None:
        if topic != SETTINGS:
            return str(fields.get("sku", "")).encode(errors="replace")
        name = {"location.set": "location", "source.alive": "location"}.get(str(fields.get("type")), "policy")
        kind = {"source.alive": "alive"}.get(str(fields.get("type")), name)
        tail = ":pos" if kind == "alive" else ""
        return f"{kind}:{fields.get(name)}{tail}".encode(errors="replace")

    # Spoiling

    def _spoil(self, fields: dict[str, Any]) -> None:
        chance = self._random
        names = list(fields)
        name = chance.choice(names) if names else "type"
        what = chance.randrange(8)
        if what == 0:
            fields.pop(name, None)
        elif what == 1:
            fields[chance.choice(NAMES)] = chance.choice(NUMBERS + TEXTS + TIMES + OTHERS)
        elif what == 2:
            fields[name] = chance.choice(TIMES)
        elif what == 3:
            fields[name] = chance.choice(NUMBERS)
        elif what == 4:
            fields[name] = chance.choice(OTHERS)
        elif what == 5:
            deep = chance.choice((2, 50, 900, 1_100, 20_000))
            fields[chance.choice(("references", "scope", "values", name))] = Raw("[" * deep + "]" * deep)
        elif what == 6 and isinstance(fields.get(name), dict) and fields[name]:
            self._spoil(fields[name])
        else:
            fields[name] = chance.choice(TEXTS)

    def _written(self, value: Any) -> str:
        """JSON text, with repeated keys and blanks now and then."""
        if isinstance(value, Raw):
            return value
        if isinstance(value, dict):
            pairs = [f'"{name}":{self._written(content)}' for name, content in value.items()]
            if pairs and self._random.random() < 0.02:
                pairs.append(self._random.choice(pairs))
            if self._random.random() < 0.3:
                self._random.shuffle(pairs)
            return "{" + self._random.choice((",", ",", ", ", ",\n\t ")).join(pairs) + "}"
        return (_ESCAPED if self._random.random() < 0.5 else _PLAIN)(value)

    def _bytes_spoiled(self, value: bytes) -> bytes:
        chance = self._random
        content = bytearray(value)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(content) + 1)
            what = chance.randrange(7)
            if what == 0 and content:
                content[at % len(content)] ^= 1 << chance.randrange(8)
            elif what == 1:
                content[at:at] = chance.choice(
                    (b"\x00", b"\xff", b'"', b"\\", b"{", b"}", b",", b"\xed\xa0\x80", b"9" * 30)
                )
            elif what == 2:
                del content[at : at + chance.choice((1, 1, 4, 40))]
            elif what == 3:
                del content[at:]
            elif what == 4:
                start = chance.randrange(len(content) + 1)
                content[at:at] = content[start : start + chance.choice((1, 8, 64))]
            elif what == 5:
                content = bytearray(
                    bytes(content).decode(errors="replace").encode(chance.choice(("utf-16", "utf-8-sig")))
                )
            elif self.kept:
                other = chance.choice(self.kept).value or b""
                cut = chance.randrange(len(other) + 1)
                content[at:] = other[cut:]
        return bytes(content[:VALUE_BYTES_MAX])
