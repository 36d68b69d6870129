"""A wire for outlets without a Kafka: three logs, and deliveries that are acknowledged when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from confluent_kafka import KafkaError

from schemas.dead_letters import Header
from schemas.records import Availability, NetworkAvailability, decode_availability, decode_network
from schemas.state import open_envelope
from sinks.network_lane import Tail
from sinks.outlet import Outlet, OutletStats
from sinks.streams import Delivered
from stock.ledger import Ledger
from tests.stock.facts import Desk, us

Stream = Literal["state", "availability", "letters", "verdicts", "network", "alerts"]


@dataclass(frozen=True)
class FakeMessage:
    """As much of a Kafka message as the code under test asks for."""

    own_key: bytes | None
    own_value: bytes | None = None
    own_offset: int | None = None
    own_topic: str = "some-topic"
    own_partition: int = 0
    own_headers: list[Header] | None = None

    def key(self) -> bytes | None:
        return self.own_key

    def value(self) -> bytes | None:
        return self.own_value

    def offset(self) -> int | None:
        return self.own_offset

    def topic(self) -> str:
        return self.own_topic

    def partition(self) -> int:
        return self.own_partition

    def headers(self) -> list[Header] | None:
        return self.own_headers


@dataclass
class FakeLog:
    """One partition of an output topic. What is in flight is not in the log yet."""

    records: list[tuple[bytes | None, bytes | None, list[Header]]] = field(default_factory=list)
    in_flight: deque[tuple[bytes | None, bytes | None, list[Header], Delivered]] = field(default_factory=deque)

    def land(self, count: int | None = None, silently: bool = False) -> None:
        """Append the oldest records in flight, all and what follows from that, or some; and acknowledge them or not."""
        while self.in_flight and count != 0:
            count = None if count is None else count - 1
            key, value, headers, done = self.in_flight.popleft()
            self.records.append((key, value, headers))
            if not silently:
                done(None, FakeMessage(key, value, len(self.records) - 1))  # type: ignore[arg-type]

    def fail(self) -> None:
        """Report the oldest record in flight as not delivered."""
        key, value, _, done = self.in_flight.popleft()
        done(KafkaError(KafkaError._MSG_TIMED_OUT), FakeMessage(key, value))  # type: ignore[arg-type]

    def foreign(self, key: bytes = b"foreign", value: bytes | None = b"foreign") -> None:
        """Somebody else appends a record."""
        self.records.append((key, value, []))


def state_in(wire: FakeWire, upto: int | None = None) -> dict[str, bytes]:
    """What the state log of a wire, or its first records, says: packed value by state key."""
    state: dict[str, bytes] = {}
    for key, value, _ in wire.logs["state"].records[:upto]:
        assert key is not None
        if value is None:
            state.pop(key.decode(), None)
        else:
            state[key.decode()] = open_envelope(value)[1]
    return state


class FakeWire:
    """Implements `sinks.outlet.Wire`."""

    def __init__(self) -> None:
        names: tuple[Stream, ...] = ("state", "availability", "letters", "verdicts", "network", "alerts")
        self.logs: dict[Stream, FakeLog] = {name: FakeLog() for name in names}
        self.failures: list[str] = []

    def failed(self, error: KafkaError, message: Any) -> None:
        self.failures.append(str(error))

    def availability(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        self._take("availability", records, done, headers)

    def network(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        self._take("network", records, done, headers)

    def alert(self, partition: int, sku: str, value: bytes, done: Delivered) -> None:
        self.logs["alerts"].in_flight.append((sku.encode(), value, [], done))

    def state(self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered) -> None:
        self.logs["state"].in_flight.extend((key.encode(), value, [], done) for key, value in records)

    def verdicts(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        self._take("verdicts", records, done, headers)

    def _take(
        self,
        stream: Stream,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        assert list(headers) == sorted(headers), "in order"
        assert set(headers) <= set(range(len(records))), "of records that there are"
        for at, (key, value) in enumerate(records):
            self.logs[stream].in_flight.append((key.encode(), value, headers.get(at, []), done))

    def dead_letter(
        self, partition: int, key: bytes | None, value: bytes | None, headers: list[Header], done: Delivered
    ) -> None:
        self.logs["letters"].in_flight.append((key, value, headers, done))

    def ends(self) -> tuple[int, int, int]:
        """The next offsets of state, availability and dead letters."""
        logs = self.logs
        return len(logs["state"].records), len(logs["availability"].records), len(logs["letters"].records)


class Window:
    """An outlet over a ledger, told facts and served like by the publisher. Time is seconds into the story."""

    def __init__(self, desk: Desk, interval_s: float = 0.25, caught_up: bool = True, **more: Any) -> None:
        self.desk = desk
        self.wire: FakeWire = more.pop("wire", None) or FakeWire()
        self.stats = OutletStats()
        self.published: list[tuple[int, str, bytes | None, int, int]] = []
        self.networks_published: list[tuple[int, str, bytes | None, int]] = []
        self.outlet = Outlet(
            self.wire,
            more.get("partition", 0),
            epoch=1,
            generation=more.get("generation", 1),
            ledger=desk.ledger,
            next_offsets=self.wire.ends(),
            shown=more.get("shown", set()),
            tail_starts=(more.get("tail_start", 0), more.get("letters_start", 0)),
            known_letters=more.get("known_letters", set()),
            on_published=lambda *record: self.published.append(record),
            routine_interval_s=interval_s,
            stats=self.stats,
            network_tail=more.get("network_tail") or Tail(len(self.wire.logs["network"].records)),
            on_network_published=lambda *record: self.networks_published.append(record),
        )
        if caught_up:
            self.outlet.caught_up()
            while self.outlet.sweep():
                continue

    @property
    def ledger(self) -> Ledger:
        return self.desk.ledger

    def serve(self, now: float) -> None:
        """One turn: what changed, then what is due."""
        self.outlet.publish(now, us(now))
        self.outlet.publish_due(now, us(now))

    def land(self, *streams: Stream) -> None:
        """Acknowledge all that is in flight, of some streams or of all."""
        for name in streams or tuple(self.wire.logs):
            self.wire.logs[name].land()

    def networks(self) -> list[NetworkAvailability | None]:
        """The network records that are in flight, taken off and acknowledged."""
        log = self.wire.logs["network"]
        first = len(log.records)
        log.land()
        return [None if value is None else decode_network(value) for _, value, _ in log.records[first:]]

    def sent(self) -> list[Availability]:
        """The availability records that are in flight, taken off and acknowledged."""
        log = self.wire.logs["availability"]
        first = len(log.records)
        log.land()
        return [decode_availability(value) for _, value, _ in log.records[first:] if value is not None]
