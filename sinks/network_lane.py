"""The network records of one owned partition: sent behind the availability that changed them, conflated per key.

It follows the rules of the availability records in `sinks.outlet`: keys of the tail wait for the end of the replay, a
digest is in doubt until its record is acknowledged, and a cut waits for what was sent and what waited before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Protocol

import msgspec
import xxhash
from confluent_kafka import KafkaError, Message

from schemas.dead_letters import Header
from schemas.records import EPOCH, Cause, NetworkAvailability, Promise, encode, moment
from schemas.state import COUNTER_MAX
from sinks.streams import Delivered, Stream
from sinks.traces import Traces
from stock.availability import STATUSES, View, is_urgent
from stock.balance import Cause as CauseValues
from stock.ledger import Ledger
from stock.network import ALL_CHANNELS, ONE_CHANNEL, NetworkView, Published

# Stored. What stands for a null record, which delists: what is on hand then makes no other one.
DELISTED: Published = (1, 64 + 7 * 8 + 7)
_KEPT_CAUSES = frozenset({"pos.return", "wms.receipt", "transfer.received"})  # For backorder releasers.
# After a sending networks gather for so long, unless a location has turned urgent: many locations make one sum, and a
# broker works per request, of which each partition has its own. Where there are many, nothing is spared by waiting.
GATHER_S = 0.05
GATHERED_MAX = 50
_LONG_AGO = float("-inf")
_face_encoder = msgspec.msgpack.Encoder()


def digest_of_network(seen: NetworkView) -> int:
    """A 64-bit digest of a network record's content."""
    return xxhash.xxh3_64_intdigest(_face_encoder.encode(seen))


def network_record_of(
    sku: str, channel: str, seen: NetworkView, cause: CauseValues, version: int, changed_at: datetime
) -> NetworkAvailability:
    """The network record of one SKU in one channel."""
    kind, id, source, occurred_us = cause
    occurred_at = moment(occurred_us)
    assert occurred_at is not None
    return NetworkAvailability(
        version,
        sku,
        channel,
        STATUSES[seen.status],
        STATUSES[seen.ship],
        STATUSES[seen.pickup],
        seen.available_to_ship,
        seen.available_in_store,
        seen.locations_in_stock,
        seen.locations_unknown,
        seen.on_hand,
        seen.committed,
        seen.in_transit,
        seen.inbound,
        moment(seen.next_inbound_at_us),
        [Promise(moment(at_us) or EPOCH, units) for at_us, units in seen.atp],
        seen.shortage,
        seen.backorder_left,
        Cause(kind, id, source, occurred_at),
        changed_at,
    )


class NetworkWire(Protocol):
    """How network records reach Kafka."""

    def failed(self, error: KafkaError, message: Message) -> None:
        """A record was not delivered."""

    def network(
        self,
        partition: int,
        records: Sequence[tuple[str, bytes | None]],
        done: Delivered,
        headers: Mapping[int, list[Header]],
    ) -> None:
        """Append network records, in order, and call back for each; None delists. `headers`: see `outlet.Wire`."""


@dataclass
class Tail:
    """Where an output partition of ours continues, where its tail began, and the keys found there."""

    next_offset: int = 0
    start: int = 0
    shown: set[str] = field(default_factory=set)


@dataclass
class Mark:
    """A moment of the lane: what must be acknowledged before a cut of that moment may be committed.

    `waiting`: network keys that must be sent before; `owed`: availability keys that waited, and whose networks must be.
    """

    sent: int
    waiting: set[str]
    owed: set[str]


class NetworkLane:
    """The way out of the network records of one partition.

    Args:
        traces: contexts of the newest events.
        generation: of the partition's owner; versions count on from it, as those of availability do.
        on_published: told of each acknowledged record: partition, key, value, offset.
        by_lane: counts records by lane, shared by all outlets of the process.
    """

    def __init__(
        self,
        wire: NetworkWire,
        partition: int,
        ledger: Ledger,
        traces: Traces,
        tail: Tail,
        generation: int,
        on_published: Callable[[int, str, bytes | None, int], None],
        routine_interval_s: float,
        by_lane: dict[str, int],
    ) -> None:
        self.stream = Stream(tail.next_offset)
        self.catching_up = True
        self.closed = False
        self._wire, self._partition, self._network, self._ledger = wire, partition, ledger.network, ledger
        self._shown, self._tail_start = tail.shown, tail.start
        self._traces = traces
        self._generation, self._counter = generation, 0
        self._on_published = on_published
        self._interval_s, self._by_lane = routine_interval_s, by_lane
        self._touched: dict[str, CauseValues | None] = {}  # SKUs, with the newest cause
        self._gathers_until = _LONG_AGO
        self._hurries = False  # What is touched may not gather.
        self._forced: set[str] = set()
        self._in_flight: deque[tuple[str, bytes | None, Published]] = deque()
        self._latest: dict[str, Published] = {}
        self._sent: dict[str, float] = {}  # when keys were last sent: since `_turned_at`, and in the interval before
        self._sent_before: dict[str, float] = {}
        self._turned_at = 0.0
        self._waiting: dict[str, CauseValues | None] = {}
        self._due: list[tuple[float, str]] = []  # a heap
        self._mark = Mark(0, set(), set())

    # What changed

    def note(self, key: str, seen: View, has_waited: bool) -> None:
        """A location turned out to say what it said before; the network is told, should it have seen it in between."""
        sku = key.partition("|")[0]
        if self._network.note(sku, key, seen) or has_waited:
            self.touch(sku, None)
        if self._mark.owed:
            self._pay(sku, key)

    def look_into(self, key: str, seen: View) -> None:
        """A location may have said something else in between, of which no record of its own tells."""
        sku = key.partition("|")[0]
        self._network.note(sku, key, seen)
        self.touch(sku, None)

    def count_in(self, key: str, seen: View, cause: CauseValues | None, urgent: bool) -> None:
        """A location says something new, which is on its way to the topic.

        A network that waits goes on waiting for what is not urgent at a location: it turns urgent only where one does.
        """
        sku = key.partition("|")[0]
        self._network.note(sku, key, seen)
        self._hurries |= urgent
        if urgent or f"{sku}|{ALL_CHANNELS}" not in self._waiting or self._network.channels(sku) is not ONE_CHANNEL:
            self.touch(sku, cause)
        else:
            waits = f"{sku}|{ALL_CHANNELS}"
            self._waiting[waits] = self._kept_cause(waits, cause)
        if self._mark.owed:
            self._pay(sku, key)

    def _pay(self, sku: str, key: str) -> None:
        """A key that waited at the last cut waits no more: now that cut waits for its network to be looked at."""
        if key in self._mark.owed:
            self._mark.owed.discard(key)
            self._mark.waiting |= {f"{sku}|{channel}" for channel in self._network.channels(sku)} - self._shown
            self.touch(sku, None)

    def touch(self, sku: str, cause: CauseValues | None) -> None:
        """Look at a SKU with the next sending; a receipt or return stays the cause until then."""
        before = self._touched.get(sku)
        if before is None or (cause is not None and before[0] not in _KEPT_CAUSES):
            self._touched[sku] = cause

    def look_at(self, sku: str, cause: CauseValues | None) -> int:
        """Publish a SKU if one of its networks is not what was last published, by rules that may have changed.

        Returns:
            How many networks were looked at.
        """
        channels = self._network.channels(sku)
        self._network.look_anew(sku)
        for channel in channels:
            key = f"{sku}|{channel}"
            before = self._latest.get(key) or self._network.published(key)
            seen = self._network.view(sku, channel, before[1], keep=False)
            if self._said(seen) != before:
                self.touch(sku, cause)
        return len(channels)

    def has_channels(self, sku: str) -> bool:
        """Whether a SKU has another network than that of all channels."""
        return self._network.channels(sku) is not ONE_CHANNEL

    def show_again(self, keys: Iterable[str]) -> None:
        """Publish our truth of these keys anew: somebody else's record stands after ours."""
        for key in keys:
            sku = key.partition("|")[0]
            if self._network.keys_of(sku):
                self._network.recall(key)
                self._forced.add(key)
                self.touch(sku, None)
                self._hurries = True

    def caught_up(self) -> None:
        """The replay is through: now our truth of every key may be told."""
        self.catching_up = False
        self.show_again(self._shown)
        self._shown = set()

    # Sending

    @property
    def touched(self) -> bool:
        """Whether SKUs wait for a sending."""
        return bool(self._touched)

    def due(self, now: float) -> bool:
        """Whether SKUs are touched and have gathered long enough."""
        touched = len(self._touched)
        return touched > 0 and (self._hurries or now >= self._gathers_until or touched > GATHERED_MAX)

    def send(self, now: float, now_us: int) -> None:
        """Send what the touched SKUs have to say, each by its lane, unless they still gather."""
        if self.due(now):
            self._send_touched(now, now_us)

    def _send_touched(self, now: float, now_us: int) -> None:
        touched, self._touched = self._touched, {}
        self._hurries, self._gathers_until = False, now + GATHER_S
        keys = [(f"{sku}|{c}", cause) for sku, cause in touched.items() for c in self._network.channels(sku)]
        self._send(keys, now, now_us, False)
        mark = self._mark
        if mark.waiting:  # A channel that gathered may be none any more: nothing will be sent of it.
            mark.waiting.intersection_update(self._waiting)
            mark.sent = max(mark.sent, self.stream.sent)

    def send_due(self, now: float, now_us: int) -> None:
        """Send the newest state of the keys whose routine interval is over."""
        if now >= self._turned_at + self._interval_s:
            self._sent, self._sent_before, self._turned_at = {}, self._sent, now
        due = []
        while self._due and self._due[0][0] <= now:
            _, key = heappop(self._due)
            if key in self._waiting and now >= self._quiet_at(key):
                due.append((key, self._waiting[key]))
        if due:
            self._send(due, now, now_us, True)

    def release_waiting(self, now: float, now_us: int) -> None:
        """Send everything that gathers, or waits in the routine lane, for an orderly end."""
        self._send_touched(now, now_us)
        if self._waiting:
            self._send(list(self._waiting.items()), now, now_us, True)

    def _send(self, keys: Iterable[tuple[str, CauseValues | None]], now: float, now_us: int, due: bool) -> None:
        network, forced, withheld = self._network, self._forced, self._shown if self.catching_up else ()
        batch: list[tuple[str, bytes | None]] = []
        traced, headers = bool(self._traces), dict[int, list[Header]]()
        for key, cause in keys:
            if key in withheld:
                continue
            held = not due and bool(self._interval_s) and now < self._quiet_at(key)
            if held and self.catching_up:
                self._wait(key, cause)
                continue
            before = self._latest.get(key) or network.published(key)
            sku, _, channel = key.partition("|")
            seen = network.view(sku, channel, before[1])
            urgent = is_urgent(before[1], DELISTED[1] if seen is None else seen.statuses())
            said = None if held and key not in self._mark.waiting else self._said(seen)
            if held and not urgent and key not in forced and said != before:
                self._wait(key, cause)
                continue
            said = said or self._said(seen)
            if said == before and key not in forced:
                self._no_longer_waiting(key)
                continue
            value = None
            if seen is not None:
                known = self._kept_cause(key, cause) or self._newest_cause(sku)
                value = self._encoded(key, seen, known or ("unknown", "", "stockflow", now_us), now_us)
                if traced and (trace := self._traces.of(known)):
                    headers[len(batch)] = trace
            network.publishing(key)
            batch.append((key, value))
            self._latest[key] = said
            self._in_flight.append((key, value, said))
            self.stream.sent += 1
            self._by_lane["urgent" if urgent else "routine"] += 1
            forced.discard(key)
            if self._interval_s:
                self._sent[key] = now
            self._no_longer_waiting(key)
        if batch:
            self._wire.network(self._partition, batch, self._delivered, headers)

    @staticmethod
    def _said(seen: NetworkView | None) -> Published:
        """What a record says, as an object of its own: an acknowledgement finds by it whether a newer one is sent."""
        return (*DELISTED,) if seen is None else (digest_of_network(seen), seen.statuses())

    def _encoded(self, key: str, seen: NetworkView, cause: CauseValues, now_us: int) -> bytes:
        if self._counter == COUNTER_MAX:
            raise OverflowError("the version counter of this generation is used up; a restart claims a new one")
        self._counter += 1
        sku, _, channel = key.partition("|")
        version = self._generation << 32 | self._counter
        return encode(network_record_of(sku, channel, seen, cause, version, EPOCH + timedelta(microseconds=now_us)))

    def _kept_cause(self, key: str, cause: CauseValues | None) -> CauseValues | None:
        """The cause of a key's next record: a receipt or return that waited is not forgotten for what came later."""
        waited = self._waiting.get(key)
        return waited if waited is not None and (cause is None or waited[0] in _KEPT_CAUSES) else cause

    def _newest_cause(self, sku: str) -> CauseValues | None:
        """What last changed any location of a SKU: for records that no change at a location led to."""
        causes = [self._ledger.cause(key) for key in self._network.keys_of(sku)]
        return max((cause for cause in causes if cause is not None), key=lambda cause: cause[3], default=None)

    def _quiet_at(self, key: str) -> float:
        """When the routine interval of a key is over; long ago if it was not sent lately."""
        sent_at = self._sent.get(key)
        if sent_at is None:
            sent_at = self._sent_before.get(key, _LONG_AGO)
        return sent_at + self._interval_s

    def _wait(self, key: str, cause: CauseValues | None) -> None:
        """Send a key at the end of its interval, whatever its newest state is then."""
        if key not in self._waiting:
            self._waiting[key] = cause
            heappush(self._due, (self._quiet_at(key), key))
        else:
            self._waiting[key] = self._kept_cause(key, cause)

    def _no_longer_waiting(self, key: str) -> None:
        self._waiting.pop(key, None)
        mark = self._mark
        if key in mark.waiting:
            mark.waiting.discard(key)
            mark.sent = max(mark.sent, self.stream.sent)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None or self.closed:
            if error is not None:
                self.closed = True
                self._wire.failed(error, message)
            return
        key, value, said = self._in_flight.popleft()
        assert message.key() == key.encode(), "acknowledgements of one partition come in the order of sending"
        offset = message.offset()
        self.stream.acknowledge(offset)
        if self._latest.get(key) is said:
            del self._latest[key]
        if offset is None:
            # The broker took it for a repeat, of which it may not have the original: say it again.
            self.show_again([key])
            return
        if value is not None or key in self._latest or not self._network.drop(key):
            self._network.acknowledge(key, *said)
        self._on_published(self._partition, key, value, offset)

    # Cuts

    def in_doubt(self) -> set[str]:
        """Keys of which nobody knows what the topic says."""
        return self._latest.keys() | self._waiting.keys()

    def mark(self, waiting: Iterable[str]) -> None:
        """A cut is made now, while these availability keys wait: what they will change must be said before it, too.

        So must what has gathered, which is sent at once now: the next cut can only follow this one.
        """
        gathered = {f"{sku}|{c}" for sku in self._touched for c in self._network.channels(sku)} - self._shown
        self._hurries |= bool(gathered)
        self._mark = Mark(self.stream.sent, gathered.union(self._waiting), set(waiting))

    @property
    def reached(self) -> bool:
        """Whether everything that the last cut had to wait for is acknowledged."""
        return not (self._mark.waiting or self._mark.owed) and self.stream.acked >= self._mark.sent

    @property
    def tail_start(self) -> int:
        """Where the tail of a restart from now begins: what must be shown again stays in it until it has been."""
        return self._tail_start if self._shown else self.stream.next_offset
