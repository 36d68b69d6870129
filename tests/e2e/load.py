"""What shops send while things go wrong: seeded stories, spoiled records among them, and what became of each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as KafkaMessage

from operations.audit.log import LogRecord
from schemas.records import moment
from schemas.topics import (
    KEYED_INPUTS,
    ORDER_RESERVATIONS,
    POS_SALES,
    STOCK_ITEMS,
    STOCK_SETTINGS,
    WMS_MOVEMENTS,
    Topic,
    partition_of,
)
from stock.events import PosSale, StockFact
from stockflow.embedded.process import wait_until
from tests.oracle import Fact, Setting
from tests.strategies import Entry, Item, SeededChoice, Storyteller, World, skus_of_partition, to_wire

# Stories run slower than the clock, so that short holds end by timer while a test runs.
TICKS_MS = (5, 0, 0, 1, 5, 20)
STARTED_AGO = timedelta(seconds=60)
SKUS_PER_PARTITION = 2
TICK_S = 0.02
DELIVERY_TIMEOUT_MS = 120_000  # Longer than any broker is down here.
FLUSH_TIMEOUT_S = 60.0
KIB = 1_024

Header = tuple[str, bytes | None]
_KEYED = frozenset(topic.name for topic in KEYED_INPUTS)


@dataclass(frozen=True)
class Record:
    """A record to send: what it says to those who understand it, or the reason for which it must be refused.

    `partition` is None where the producer's partitioner decides, as it does in shops.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    message: Entry | None = None
    refused_as: str | None = None
    headers: tuple[Header, ...] = ()
    partition: int | None = None


@dataclass(frozen=True)
class Sent:
    """A record and where it stands."""

    record: Record
    partition: int
    offset: int
    stamped: datetime | None = None

    @property
    def place(self) -> tuple[str, int, int]:
        """Topic (registered name), partition and offset."""
        return self.record.topic, self.partition, self.offset


@dataclass
class Sending:
    """Everything that one test sent. Call `finish` before reading anything of it."""

    bootstrap: str
    prefix: str
    sent: list[Sent] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._produced = 0
        self._told_again: list[Record] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                # While a partition's first request is refused by a broker that is just becoming its leader, a second
                # one could be accepted; the first is then taken for a repeat, and its records are lost unnoticed.
                "max.in.flight": 1,
                "linger.ms": 2,
                "message.timeout.ms": DELIVERY_TIMEOUT_MS,
                "message.max.bytes": 2 * KIB * KIB,
                "log_level": 0,
            }
        )

    def send(self, record: Record, delivered_to: list[Sent] | None = None) -> None:
        """Hand one record to the producer; once it stands on its topic it is added to the list too."""
        self._produce(record, delivered_to)
        with self._lock:
            self._produced += 1
        self._producer.poll(0)

    def _produce(self, record: Record, delivered_to: list[Sent] | None) -> None:
        def delivered(error: KafkaError | None, message: KafkaMessage) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None and error.code() == KafkaError.UNKNOWN:
                # A broker whose disk has just failed says no more than this. A teller tells again.
                self._told_again.append(record)
                self._produce(record, delivered_to)
            elif error is not None or partition is None or offset is None:
                self.failures.append(f"{record.topic}: {error or 'acknowledged without an offset'}")
            else:
                sent = Sent(record, partition, offset, moment(message.timestamp()[1] * 1_000))
                self.sent.append(sent)
                if delivered_to is not None:
                    delivered_to.append(sent)

        placed: dict[str, Any] = {} if record.partition is None else {"partition": record.partition}
        self._producer.produce(
            self.prefix + record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            on_delivery=delivered,
            **placed,
        )

    def tell(self, *messages: Entry) -> None:
        """Send messages and wait until they stand on their topics."""
        delivered: list[Sent] = []
        for message in messages:
            self.send(record_of(message), delivered)

        def all_stand() -> bool:
            self._producer.poll(0)
            return len(delivered) == len(messages)

        assert wait_until(all_stand, FLUSH_TIMEOUT_S), f"not delivered: {self.failures}"

    def start(self, records: Iterator[Record], per_second: int) -> None:
        """Send in the background until `stop` or the end."""
        assert self._thread is None, "already sending"
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(records, per_second), name="load", daemon=True)
        self._thread.start()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more records are on their topics."""
        goal = len(self.sent) + count
        assert wait_until(lambda: len(self.sent) >= goal, FLUSH_TIMEOUT_S), f"{count} more records are not delivered"

    def stop(self) -> None:
        """End the background sending and wait until all is delivered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.flush()

    def flush(self) -> None:
        """Wait until all that was handed over stands on its topic."""
        assert self._producer.flush(FLUSH_TIMEOUT_S) == 0
        assert self.failures == [], self.failures
        assert len(self.sent) == self._produced, f"{len(self.sent)} of {self._produced}"

    def find_told_again(self, read: Callable[[Topic], list[LogRecord]]) -> None:
        """Find what a broker has written without saying so, beside the same told again; `read` gives a topic's log."""
        again = {(record.topic, record.key, record.value): record for record in self._told_again}
        self._told_again = []
        known = {sent.place for sent in self.sent}
        for topic in (*KEYED_INPUTS, STOCK_SETTINGS):
            if not any(name == topic.name for name, _, _ in again):
                continue
            for found in read(topic):
                record = again.get((topic.name, found.key, found.value))
                if record is not None and (topic.name, found.partition, found.offset) not in known:
                    self.sent.append(Sent(record, found.partition, found.offset, moment(found.timestamp_ms * 1_000)))
                    self._produced += 1

    def close(self) -> None:
        """Stop whatever is going on; for the end of a test that failed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, records: Iterator[Record], per_second: int) -> None:
        begun = time.monotonic()
        for count, record in enumerate(records, 1):
            self.send(record)
            while not self._stop.is_set() and time.monotonic() < begun + count / per_second:
                self._producer.poll(0)
                self._stop.wait(TICK_S)
            if self._stop.is_set():
                return

    # What it says

    @property
    def keyed(self) -> list[Sent]:
        """What stands on the keyed inputs."""
        return [sent for sent in self.sent if sent.record.topic in _KEYED]

    @property
    def refused(self) -> dict[tuple[str, int, int], Record]:
        """By place, what must be refused."""
        return {sent.place: sent.record for sent in self.sent if sent.record.refused_as is not None}

    @property
    def facts(self) -> list[Fact]:
        """What must count, as the oracle reads it."""
        return [
            Fact(sent.record.topic, sent.offset, sent.record.message, sent.stamped)
            for sent in self.sent
            if isinstance(sent.record.message, StockFact | Item)
        ]

    @property
    def settings(self) -> list[Setting]:
        """The settings that must count, in the order of their log."""
        told = [sent for sent in self.sent if sent.record.topic == STOCK_SETTINGS.name and sent.record.message]
        told.sort(key=lambda sent: sent.place)
        return [sent.record.message for sent in told]  # type: ignore[misc]  # filtered by topic


def record_of(message: Entry) -> Record:
    """A message as a record."""
    topic, key, value = to_wire(message)
    return Record(topic, key.encode(), value, message)


def stories(
    seed: int,
    partitions: int,
    *,
    poison_percent: int = 1,
    settings_percent: int = 3,
    items_percent: int = 4,
    spoil: Callable[[random.Random, int, int], Record] | None = None,
) -> Iterator[Record]:
    """Records without end: one story per partition, told in turns at random, some spoiled records among them."""
    chance = random.Random(seed)
    spoil = spoil or poison
    tellers = [
        Storyteller(
            SeededChoice(seed * 1_000 + partition),
            World(
                skus=skus_of_partition(partition, partitions, SKUS_PER_PARTITION),
                start=utc_now() - STARTED_AGO,
                ticks_ms=TICKS_MS,
                settings_percent=settings_percent,
                items_percent=items_percent,
                null_settings=True,
            ),
        )
        for partition in range(partitions)
    ]
    number = 0
    while True:
        number += 1
        if chance.random() < poison_percent / 100:
            yield spoil(chance, number, partitions)
        else:
            yield record_of(chance.choice(tellers).next().message)


def utc_now() -> datetime:
    """The time, as events name it."""
    return datetime.now(timezone.utc)


# Spoiled records


def sale(number: int, **changes: Any) -> dict[str, Any]:
    """A sale as JSON would have it, one that counts unless it is changed."""
    plain = {
        "type": "pos.sale",
        "id": f"spoiled-{number}",
        "source": "pos/STORE-X/till-1",
        "occurred_at": utc_now().isoformat(),
        "sku": f"SPOILED-{number % 7}",
        "location": "STORE-X",
        "units": 1,
    }
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


ODD_HEADERS: tuple[Header, ...] = (
    ("trace", b"\x00\xff\xfe"),
    ("trace", b"told twice"),
    ("nothing", None),
    ("empty", b""),
    ("dead-letter.offset", b"of an earlier life"),
)

# What is wrong, the reason that must be given, the topic, and the value as bytes or as something to encode.
SpoiledCase = tuple[str, str, str, Callable[[int], Any]]
SPOILED: tuple[SpoiledCase, ...] = (
    ("cut off", "not_json", POS_SALES.name, lambda n: msgspec.json.encode(sale(n))[:-9]),
    ("not JSON", "not_json", WMS_MOVEMENTS.name, lambda n: b"units;4;%d" % n),
    ("not text", "not_json", POS_SALES.name, lambda n: b"\xff\xfe\x00%d" % n),
    ("empty value", "empty", POS_SALES.name, lambda n: b""),
    ("null value", "empty", ORDER_RESERVATIONS.name, lambda n: None),
    ("a list", "bad_field", POS_SALES.name, lambda n: [sale(n)]),
    ("no type", "missing_field", POS_SALES.name, lambda n: sale(n, type=...)),
    ("no units", "missing_field", POS_SALES.name, lambda n: sale(n, units=...)),
    ("no sku", "missing_field", POS_SALES.name, lambda n: sale(n, sku=...)),
    ("a type nobody knows", "unknown_type", POS_SALES.name, lambda n: sale(n, type="pos.sold")),
    ("another topic's type", "wrong_topic", WMS_MOVEMENTS.name, sale),
    ("units as text", "bad_field", POS_SALES.name, lambda n: sale(n, units="1")),
    ("half a unit", "bad_field", POS_SALES.name, lambda n: sale(n, units=0.5)),
    ("no unit", "bad_field", POS_SALES.name, lambda n: sale(n, units=0)),
    ("less than no unit", "bad_field", POS_SALES.name, lambda n: sale(n, units=-1)),
    ("absurdly many units", "bad_field", POS_SALES.name, lambda n: sale(n, units=1_000_000_001)),
    ("sku as number", "bad_field", POS_SALES.name, lambda n: sale(n, sku=7)),
    ("a bar in the sku", "bad_field", POS_SALES.name, lambda n: sale(n, sku=f"A|{n}")),
    ("a blank in front of the sku", "bad_field", POS_SALES.name, lambda n: sale(n, sku=f" A{n}")),
    ("no zone", "bad_field", POS_SALES.name, lambda n: sale(n, occurred_at="2026-01-01T10:00:00")),
    ("no id", "bad_field", POS_SALES.name, lambda n: sale(n, id="")),
    ("a long id", "limit", POS_SALES.name, lambda n: sale(n, id="i" * 300)),
    ("ten minutes ahead", "in_future", POS_SALES.name, lambda n: sale(n, occurred_at=_in_minutes(10))),
    (
        "a count of a state",
        "not_supported_yet",
        WMS_MOVEMENTS.name,
        lambda n: sale(n, type="wms.count", state="damaged"),
    ),
    (
        "a transfer to nowhere",
        "bad_field",
        WMS_MOVEMENTS.name,
        lambda n: sale(n, type="transfer.shipped", transfer=f"T-{n}", to_location="STORE|Y"),
    ),
    (
        "a request of no name",
        "bad_field",
        ORDER_RESERVATIONS.name,
        lambda n: sale(n, type="reservation.requested", reservation="", mode="ship"),
    ),
    (
        "an item under another key",
        "bad_field",
        STOCK_ITEMS.name,
        lambda n: sale(n, type="item.set", brand="B", category="C", lifecycle="active", location=..., units=...),
    ),
)


def poison(chance: random.Random, number: int, partitions: int) -> Record:
    """A small record that must be refused, any of the table or one in a foreign partition."""
    place = chance.randrange(len(SPOILED) + (partitions > 1))  # One partition is nobody's foreign one.
    return stranger(number, partitions) if place == len(SPOILED) else spoiled(SPOILED[place], number)


def spoiled(case: SpoiledCase, number: int) -> Record:
    """One record of the table, with the key and headers of a careless producer."""
    _, reason, topic, make = case
    value = make(number)
    encoded = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
    has_key = number % 3 or topic == STOCK_ITEMS.name  # A compacted topic takes no record without a key.
    key = b"\xff key %d" % number if has_key else None
    headers = ODD_HEADERS if number % 2 else ()
    return Record(topic, key, encoded, refused_as=reason, headers=headers)


def stranger(number: int, partitions: int) -> Record:
    """A sale that stands in a partition which is not its SKU's."""
    content = sale(number, sku=f"STRANGER-{number}")
    foreign = (partition_of(content["sku"], partitions) + 1) % partitions
    key = content["sku"].encode()
    return Record(POS_SALES.name, key, msgspec.json.encode(content), refused_as="wrong_partition", partition=foreign)


def giant(number: int, size: int) -> Record:
    """A sale with a field that makes it larger than any fact may be."""
    content = msgspec.json.encode(sale(number, reason="x" * size))
    return Record(POS_SALES.name, b"giant", content, refused_as="too_large", headers=ODD_HEADERS)


def with_extras(number: int, partitions: int, key: bytes | None) -> Record:
    """A sale with fields that nobody knows, which counts like any other; its key need not be its SKU."""
    content = sale(number, colour={"r": [1, 2.5, None]}, till={"drawer": True}, references={"basket": f"b-{number}"})
    encoded = msgspec.json.encode(content)
    message = msgspec.json.decode(encoded, type=PosSale)
    home = partition_of(message.sku, partitions)
    return Record(POS_SALES.name, key, encoded, message, headers=ODD_HEADERS, partition=home)


def _in_minutes(minutes: int) -> str:
    return (utc_now() + timedelta(minutes=minutes)).isoformat()
