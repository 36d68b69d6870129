"""All balances of one partition: the pure state machine from facts to changed keys.

The ledger neither reads a clock nor does I/O. It says what happened by return values, which keys need another look in
`touched` (with the timestamp of the oldest input since, 0 for none), and hands out what must be made durable in
`flush`. Idle balances rest packed; only those in use are objects.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import xxhash

from stock.alerts import ALERT_PREFIX, OF_REFERENCES, Alerts, Kind, check_alert, name_of, parts_of, state_key_of
from stock.availability import LOW_STOCK, View, left_out, low_flags, view
from stock.balance import (
    CAUSE_PINNED,
    HAS_BASELINE,
    LOW_PICKUP,
    LOW_SHIP,
    MOVEMENTS_MAX,
    UNAVAILABLE,
    Balance,
    Cause,
    Count,
    Movements,
    Past,
    StateMoves,
    apply_count,
    apply_movement,
    pack,
    unpack,
    unpack_past,
)
from stock.commitments import (
    ORDERS_PER_SKU_MAX,
    Commitments,
    check_order,
    hold_key,
    is_order_key,
    line_key,
)
from stock.doubts import Thresholds
from stock.echoes import (
    Echoes,
    Told,
    balance_of,
    check_echo,
    echo_key,
    echo_of,
    is_echo_key,
    moves,
    state_moves,
)
from stock.effects import BASELINES, DIRECTIONS, Effect, channel_of, effect_of, promise_of
from stock.events import (
    ANYWHERE,
    InboundExpected,
    ItemSet,
    OrderAllocated,
    PosReturn,
    ReservationCreated,
    ReservationRequested,
    StockFact,
    TransferReceived,
    TransferShipped,
    WmsReceipt,
)
from stock.items import ACTIVE, Items, check_item, is_item_key
from stock.network import NETWORK_PREFIX, Network, check_network
from stock.policies import Policies
from stock.portions import in_portions
from stock.recent import Recent, Row, check_chunk
from stock.requests import Requests
from stock.supply import Supply, check_supply, inbound_key, is_supply_key, transfer_key
from stock.terms import NetworkTerms, Terms
from stock.times import micros
from stock.verdicts import NODE_ORDER, Decision, check_decision, is_verdict_key, verdict_key

# Stored. The position of an outcome is what journal records keep. Outcomes exclude each other.
OUTCOMES = ("applied", "duplicate", "absorbed", "echo", "dead_letter")
APPLIED, DUPLICATE, ABSORBED, ECHO, DEAD_LETTER = range(5)

FACTS_REMEMBERED_MAX = 500_000  # Per partition; about 200 bytes each while they last.
ACTIVE_MAX = 5_000  # Balances per partition that stay unpacked between flushes; about 700 bytes each.
TOPIC_COUNT = 4  # The keyed inputs, in their registered order: pos, wms, orders, items.
_POS, _WMS, _ORDERS, _ITEMS = range(TOPIC_COUNT)

# Stored. State keys that belong to the partition as a whole; no SKU is empty.
OUTCOMES_KEY = "|outcomes"
JOURNAL_PREFIX = "|journal|"
_STATE_ROW = "|\x1fstate\x1f"  # in the key of a journal row: the move of a counter, not of on_hand


class Totals(msgspec.Struct, array_like=True, gc=False):
    """What a partition's state covers: outcomes so far and the next input positions they stand for.

    In a restored ledger `positions` begin anew and say what this process has read; what it writes never goes back.
    `clock_us` is the time up to which holds have ended; `forgotten_us` the newest movement no longer remembered.
    """

    # Stored. Changing these needs a migration.
    by_outcome: list[int]
    positions: list[int]
    clock_us: int = 0
    forgotten_us: int = 0


_hash = xxhash.xxh3_64_intdigest
_encoder = msgspec.msgpack.Encoder()
_totals_decoder = msgspec.msgpack.Decoder(Totals)


def decode_totals(packed: bytes) -> Totals:
    """The totals of packed bytes.

    Raises:
        msgspec.ValidationError: the bytes are not totals.
    """
    return _totals_decoder.decode(packed)


def check_packed(key: str, packed: bytes) -> None:
    """Nothing, if a ledger can take this value of a state key back.

    Raises:
        ValueError: it cannot; the text says why.
    """
    if key == OUTCOMES_KEY:
        totals = decode_totals(packed)
        if len(totals.by_outcome) != len(OUTCOMES) or len(totals.positions) != TOPIC_COUNT:
            raise ValueError("totals of another shape")
    elif key.startswith(JOURNAL_PREFIX):
        check_chunk(packed, TOPIC_COUNT)
    elif key.startswith(ALERT_PREFIX):  # before the others: it may name an id with anything in it
        check_alert(packed)
    elif is_order_key(key):
        check_order(key, packed, TOPIC_COUNT)
    elif is_supply_key(key):
        check_supply(key, packed, TOPIC_COUNT)
    elif key.startswith(NETWORK_PREFIX):
        check_network(packed)
    elif is_item_key(key):
        check_item(packed)
    elif is_verdict_key(key):
        check_decision(packed)
    elif is_echo_key(key):
        check_echo(packed, TOPIC_COUNT)
    elif key.startswith("|"):
        return  # not known here, so neither used nor touched
    elif "|" not in key:
        raise ValueError("the key names no balance")
    elif len(unpack(packed).applied) != TOPIC_COUNT:
        raise ValueError("a balance of another shape")


class LimitReached(Exception):
    """A fact was refused: as many of its kind are kept already as there may be."""


def _anything(_sku: str, _location: str | None) -> None:
    return None


class Ledger:
    """The running balances of one partition; not thread-safe.

    Args:
        policies: shared by all partitions of the process.
        facts_max: how many recent facts to remember for repeats and late counts.
        admit: asked with SKU and location about each fact whose key has no balance yet, and with None for a location
            about each item of a SKU that has none yet; may raise to keep it out.
        node_order: criteria by which requests for any location choose one, names of `stock.verdicts.CRITERIA`.
        thresholds: from when on something is worth an alert.
    """

    def __init__(
        self,
        policies: Policies,
        facts_max: int = FACTS_REMEMBERED_MAX,
        admit: Callable[[str, str | None], None] = _anything,
        node_order: Sequence[str] = NODE_ORDER,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.policies = policies
        self.thresholds = thresholds or Thresholds()
        self._admit = admit
        self.touched: dict[str, int] = {}
        self.forced: set[str] = set()
        self.totals = Totals([0] * len(OUTCOMES), [0] * TOPIC_COUNT)
        self.recent = Recent(TOPIC_COUNT, facts_max)
        self.commitments = Commitments(TOPIC_COUNT, self._net_us, self.thresholds)
        self.supply = Supply(TOPIC_COUNT, self._counted_us, self.thresholds)
        self.echoes = Echoes()
        self.items = Items()
        self.items_changed: dict[str, Cause | None] = {}  # SKUs of which all keys need another look, and why
        self._places: dict[str, str] = {}  # every location of any balance, with the first SKU there
        self._places_judged = (-1, 0)  # as of which revision of the rules, and how many
        self.alerts = Alerts()
        self.catching_up = False  # then topics are read one far ahead of another, and no count can be compared
        self.counted_units = [0, 0]  # sums over counts that were applied: units expected, units off
        self.network = Network(
            self._look_in,
            self._network_terms,
            self._dated_supply,
            self.items.lifecycle,
            self._channels_of,
            self.policies.channels,
            self.commitments.for_channel,
        )
        self.requests = Requests(
            policies,
            self.items,
            self.commitments,
            self.supply,
            _ORDERS,
            self.network.keys_of,
            self._look_under,
            self.network.fence,
            node_order,
        )
        self.verdicts = self.requests.verdicts
        self.answers: list[tuple[str, Decision]] = []  # SKU and decision of requests that wait for their answer
        self._idle: dict[str, bytes] = {}
        self._active: dict[str, Balance] = {}
        self._fresh = 0
        self._movements: dict[str, Movements] = {}
        self._state_moves: dict[str, StateMoves] = {}
        self._dirty: dict[str, None] = {}
        self._unsaved: dict[str, None] = {}
        self.counts_too_old = 0
        self._totals_dirty = False
        self._durable = [0] * TOPIC_COUNT
        self._replay_until = [0] * TOPIC_COUNT
        self._covered: dict[tuple[int, int], int] = {}
        self._over_limit: set[tuple[int, int]] = set()

    def discard(self) -> None:
        """Let go of what calls back here; the ledger is of no use any more.

        Else only a look for cycles would free it, and all that it remembers: they are rare, and not made everywhere.
        """
        for part in (self.network, self.commitments, self.supply, self.requests):
            for name, value in list(vars(part).items()):
                if getattr(value, "__self__", None) is self:
                    setattr(part, name, None)

    def __len__(self) -> int:
        """Number of balances."""
        return len(self._idle) + self._fresh

    @property
    def restored_positions(self) -> list[int]:
        """The next input positions that the state a restart began with stands for."""
        return self._durable

    def __contains__(self, key: str) -> bool:
        """Whether the key `sku|location` has a balance."""
        return key in self._active or key in self._idle

    def keys(self) -> list[str]:
        """The keys of all balances, as of now."""
        return [*self._idle, *(key for key in self._active if key not in self._idle)]

    def balance(self, key: str) -> Balance:
        """The live balance of a known key.

        Raises:
            KeyError: there is none.
        """
        found = self._active.get(key)
        if found is None:
            found = self._active[key] = unpack(self._idle[key])
        return found

    # Facts

    def apply(
        self, event: StockFact, topic: int, offset: int, timestamp_us: int, stamped_us: int | None = None
    ) -> int | None:
        """Let one fact have its effect, once.

        Args:
            event: a supported fact whose SKU belongs to this partition.
            topic: position of its topic in the keyed inputs.
            offset: its offset there.
            timestamp_us: the Kafka record's timestamp, or now if that is earlier.
            stamped_us: the timestamp as it is, if it is another; a request that comes after the end of a promise by
                this time is no repeat, which every reader of the log must see alike.

        Returns:
            The outcome, or None for a replayed record whose effect and outcome are already in the restored state.

        Raises:
            LimitReached: nothing was changed; the caller refuses the record.
            Exception: whatever `admit` raises; nothing was changed.
        """
        if event.__class__ is ReservationRequested:
            stamp_us = timestamp_us if stamped_us is None else stamped_us
            return self._request(event, topic, offset, timestamp_us, stamp_us)
        sku = event.sku
        key = f"{sku}|{event.location}"
        if offset < self._replay_until[topic]:
            self._refuse_again(event, key, topic, offset)
            self._show_again(key, timestamp_us)
            if offset < self._durable[topic]:
                self.totals.positions[topic] = offset + 1
                return None
            covered = self._covered.pop((topic, offset), None)
            if covered is not None:
                return self._complete(event, topic, offset, covered, timestamp_us)
        balance = self._active.get(key)
        if balance is None:
            packed = self._idle.get(key)
            if packed is not None:
                balance = self._active[key] = unpack(packed)
            else:
                self._admit(sku, event.location)
        totals, recent = self.totals, self.recent
        # Not before what was read already: a damaged log may have two facts at one place, of which one is not done.
        if balance is not None and totals.positions[topic] <= offset <= balance.applied[topic]:
            return self._complete(event, topic, offset, APPLIED, timestamp_us)  # done, but its journal row is gone
        id_hash = _hash(f"{sku}\0{event.source}\0{event.id}".encode())
        if id_hash in recent.ids:
            totals.positions[topic] = offset + 1
            if balance is not None:
                balance.applied[topic] = offset
                self._dirty[key] = None
            totals.by_outcome[DUPLICATE] += 1
            recent.see((key, topic, DUPLICATE, offset, 0, 0, 0), timestamp_us)
            return DUPLICATE
        kind = event.__class__
        fact: Any = event
        plain = (
            kind in DIRECTIONS
            and fact.state == "sellable"
            and fact.reservation is None
            and fact.order_line is None
            and fact.echo is None
            and (kind is not WmsReceipt or fact.inbound is None)
        )
        if not plain and self._is_over_limit(event):
            recent.see((key, topic, DEAD_LETTER, offset, 0, 0, 0), timestamp_us)  # a replay must refuse it too
            raise _limit_reached(sku)
        totals.positions[topic] = offset + 1
        if balance is None:
            balance = self._open(key)
        balance.applied[topic] = offset
        occurred_us = micros(event.occurred_at)
        if plain:
            # By far the most frequent: nothing but units in or out. Says the same as its `Effect`, at half the price.
            time_us, units = occurred_us, DIRECTIONS[kind] * fact.units
            outcome = self._move_units(key, balance, time_us, units)
            if kind in BASELINES:
                balance.flags |= HAS_BASELINE
            changed = outcome == APPLIED
        else:
            effect = effect_of(event)
            if effect.echo is not None:
                time_us, units = effect.time_us, 0  # its group keeps its movements
                told = Told.of(effect.time_us, topic, offset, id_hash, -effect.units, fact.state)
                outcome = self._move_once(key, balance, effect.echo, told)
                changed = outcome == APPLIED
            else:
                time_us, units = effect.time_us, effect.units
                outcome = self._move(key, balance, effect, timestamp_us)
                changed = outcome == APPLIED or bool(effect.states)
                for state, moved in effect.states:
                    if state in UNAVAILABLE:
                        self._move_state(key, balance, time_us, state, moved)
                        row = (_state_row_key(key, state), topic, APPLIED, offset, 0, time_us, moved)
                        recent.see(row, timestamp_us)
            self._tell_others(event, effect, topic, offset, timestamp_us)
        _heard(balance, topic, occurred_us)
        if changed or balance.cause is None:
            _set_cause(balance, event, occurred_us)
            if self.policies.banded:
                self._step_band(key, balance)
        self._dirty[key] = None
        if key not in self.touched:
            self.touched[key] = timestamp_us
        recent.ids.add(id_hash)
        totals.by_outcome[outcome] += 1
        recent.see((key, topic, outcome, offset, id_hash, time_us, units if outcome == APPLIED else 0), timestamp_us)
        return outcome

    def apply_item(self, sku: str, item: ItemSet | None, offset: int) -> int | None:
        """Let a record of the items topic hold, None for a removal; the newest one does, so there are no repeats.

        Returns:
            The outcome, or None for a replayed record whose effect and outcome are already in the restored state.

        Raises:
            Exception: whatever `admit` raises; nothing was changed.
        """
        if sku not in self.items:
            self._admit(sku, None)
        self.totals.positions[_ITEMS] = offset + 1
        if self.items.tell(sku, item, offset):
            cause = None if item is None else ("item.set", item.id, item.source, micros(item.occurred_at))
            self.items_changed[sku] = cause
        if offset < self._durable[_ITEMS]:
            return None
        self.totals.by_outcome[APPLIED] += 1
        return APPLIED

    def refuse(self, topic: int, offset: int) -> bool:
        """Count a record that goes to the dead letters; False if the restored state counts it already."""
        self.totals.positions[topic] = offset + 1
        if offset < self._durable[topic]:
            return False
        self.totals.by_outcome[DEAD_LETTER] += 1
        return True

    def passed(self, topic: int, position: int) -> None:
        """Everything before this position of an input has been seen, or will never be."""
        if position > self.totals.positions[topic]:
            self.totals.positions[topic] = position

    # Numbers

    def view(self, key: str) -> View:
        """What can be sold at a known key, now."""
        return self._view(key, self.balance(key))

    def look(self, key: str) -> View:
        """What can be sold at a known key, now; leaves idle balances packed."""
        return self._view(key, self._resting(key))

    def peek(self, key: str) -> tuple[View, int]:
        """What holds at a known key now, and the digest of what was last acknowledged; leaves idle balances packed."""
        balance = self._resting(key)
        return self._view(key, balance), balance.digest

    def settle(self, key: str) -> tuple[View, Balance]:
        """The view of a known key, its LOW bits brought up to it, and its balance."""
        balance = self.balance(key)
        seen = self._view(key, balance)
        flags = balance.flags
        if flags & _LOW or seen.ship.status == LOW_STOCK or seen.pickup.status == LOW_STOCK:
            settled = low_flags(seen, flags)
            if settled != flags:
                balance.flags = settled
                self._dirty[key] = None
        return seen, balance

    def publishing(self, key: str) -> Cause | None:
        """The cause to publish a key's record with; the next fact then names a new one.

        From here until its acknowledgement nobody knows what the topic says of the key, which the state must tell;
        a key whose digest is not saved yet says so already.
        """
        balance = self.balance(key)
        balance.flags &= ~CAUSE_PINNED
        if key not in self._unsaved:
            self._dirty[key] = None
        return balance.cause

    def acknowledge(self, key: str, digest: int, statuses: int) -> None:
        """Note what the topic now says of a key; it becomes durable with the key's next flush, or a complete one."""
        balance = self.balance(key)
        balance.digest = digest
        balance.published = statuses
        self._unsaved[key] = None

    def rewrite(self, key: str) -> None:
        """Write this state key again with the next flush: what stands on the topic is not ours."""
        if key == OUTCOMES_KEY:
            self._totals_dirty = True
        elif key in self:
            self.balance(key)
            self._dirty[key] = None
        elif key.startswith(ALERT_PREFIX):
            self.alerts.rewrite(key)
        elif is_order_key(key):
            self.commitments.rewrite(key)
        elif is_supply_key(key):
            self.supply.rewrite(key)
        elif key.startswith(NETWORK_PREFIX):
            self.network.rewrite(key.removeprefix(NETWORK_PREFIX))
        elif is_item_key(key):
            self.items.rewrite(key)
        elif is_verdict_key(key):
            self.verdicts.rewrite(key)
        elif is_echo_key(key):
            self.echoes.rewrite(key)
        elif key.startswith(JOURNAL_PREFIX):
            self.recent.rewrite(int(key.removeprefix(JOURNAL_PREFIX)))

    def cause(self, key: str) -> Cause | None:
        """What last changed a known key; leaves idle balances packed."""
        return self._resting(key).cause

    def set_cause(self, key: str, cause: Cause) -> None:
        """Note a cause that is no fact of this balance, such as a policy; a receipt or return stays until published."""
        balance = self.balance(key)
        if not (balance.flags & CAUSE_PINNED and balance.cause is not None):
            balance.cause = cause
        self._dirty[key] = None

    def judge(self, key: str, seen: View, now_us: int) -> None:
        """Open and close the alerts of a key as it is now."""
        sku, _, location = key.partition("|")
        terms = self.policies.terms(sku, location, self.items.by_sku.get(sku))
        overdue = self.supply.overdue(key, self.commitments.clock_us) if seen.in_transit else 0
        self.alerts.judge(key, seen, now_us, overdue, terms.reorder_point, terms.backorder_limit)

    @property
    def has_suspects(self) -> bool:
        """Whether `judge_suspects` has something to do."""
        places = (self.policies.revision, len(self._places))
        return bool(self.commitments.suspects or self.supply.suspects) or self._places_judged != places

    def judge_suspects(self, now_us: int) -> None:
        """Open and close the alerts of holds, order lines and transfers in doubt, and of locations nobody described."""
        for part in (self.commitments, self.supply):
            suspects, part.suspects = part.suspects, {}
            for key in suspects:
                doubts = part.doubts(key)
                if doubts or key in self.alerts.about:
                    self.alerts.settle(key, doubts, self.commitments.clock_us, now_us)
        places = (self.policies.revision, len(self._places))
        if self._places_judged != places:
            self._places_judged = places
            self.alerts.settle_places(self._undescribed(), now_us)

    def tell_alert(
        self, key: str, kind: Kind, reference: str, units: int, at_us: int, references: dict[str, str]
    ) -> None:
        """Let a key have an alert of a kind about a reference, with these units, or none of it where they are 0.

        For what the ledger finds out itself as it takes facts in or time goes by. It must be told before the flush
        that makes durable what it follows from, which lands after it.

        Args:
            key: `sku|location`.
            reference: what tells it from others of its kind there; any text.
            at_us: the moment of finding out, which becomes part of its id.
            references: ids that readers are told, by what they name.
        """
        if units:
            self.alerts.open(key, kind, units, at_us, reference, references)
        else:
            self.alerts.close(name_of(key, kind, reference), at_us)

    def alert_ended(self, name: str) -> None:
        """Readers were told of the end of an alert: its cause may have come up again meanwhile."""
        parts = parts_of(name)
        if parts.kind in OF_REFERENCES:
            self._suspect(state_key_of(parts.sku, parts.reference))
        elif parts.kind == "unknown_location":
            self._places_judged = (-1, 0)
        elif parts.key in self:
            self.touched.setdefault(parts.key, 0)

    # Time

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        parts = (self.commitments, self.supply, self.verdicts, self.echoes, self.alerts)
        return min((at for part in parts if (at := part.next_timer_us()) is not None), default=None)

    def advance(self, now_us: int) -> None:
        """End the holds whose time has come, and note the ETAs that have passed; a clock set back changes nothing."""
        for key, reservation, end_us in self.commitments.advance(now_us):
            if key not in self:
                continue
            self.set_cause(key, ("reservation.expired", reservation, "stockflow", end_us))
            self.settle(key)
            self.touched.setdefault(key, 0)
        clock_us = self.commitments.clock_us
        for key, eta_us in self.supply.advance(clock_us):
            self.set_cause(key, ("eta.passed", key, "stockflow", eta_us))
            self.touched.setdefault(key, 0)
        self.verdicts.advance(clock_us)
        for one in self.echoes.advance(clock_us):
            self.tell_alert(one.key, "unmatched_echo", one.echo, one.units, one.at_us, {"echo": one.echo})
        self.totals.forgotten_us = max(self.totals.forgotten_us, self.echoes.forgotten_us)
        self.alerts.advance(clock_us)

    # Durability

    @property
    def dirty(self) -> bool:
        """Whether a flush would write more than digests and totals that the topic has already."""
        return bool(self._dirty or self._totals_dirty or self.recent.dirty or self.commitments.dirty) or (
            self.supply.dirty
            or self.verdicts.dirty
            or self.echoes.dirty
            or self.items.dirty
            or self.network.dirty
            or self.alerts.dirty
        )

    @property
    def unsaved(self) -> bool:
        """Whether digests of acknowledged records wait for a complete flush."""
        return bool(self._unsaved or self.network.unsaved)

    def flush(
        self, in_doubt: Container[str] = (), complete: bool = True, networks_in_doubt: Container[str] = ()
    ) -> list[tuple[str, bytes | None]]:
        """State records that make everything since the last flush durable, in the order they must be written.

        Ids and movements come first, the totals last: whatever prefix survives a crash, the replay completes it.

        Args:
            in_doubt: keys with a publication under way: their digest is written as 0, so that a restart publishes
                them again whatever came of it.
            complete: write balances too of which only the digest has changed. Leaving them for later is safe,
                because what stands in their state is 0 then; it spares a second record for each publication.
            networks_in_doubt: the same for network records, by `sku|channel`.

        Returns:
            Keys and packed values; None deletes a key.
        """
        chunks, forgotten = self.recent.cut()
        records: list[tuple[str, bytes | None]] = [(f"{JOURNAL_PREFIX}{n}", packed) for n, packed in chunks]
        self._forget_movements(forgotten)
        records.extend(self.verdicts.flush())
        records.extend(self.commitments.flush())
        records.extend(self.supply.flush())
        records.extend(self.echoes.flush())
        records.extend(self.items.flush())
        active, idle, unsaved = self._active, self._idle, self._unsaved
        if complete and unsaved:
            self._dirty.update((key, None) for key in unsaved if key not in in_doubt)
        for key in self._dirty:
            balance = active[key]
            if key in in_doubt:
                digest, balance.digest = balance.digest, 0
                packed = pack(balance)
                balance.digest = digest
                unsaved[key] = None
            else:
                packed = pack(balance)
                unsaved.pop(key, None)
            idle[key] = packed
            records.append((key, packed))
        self._dirty.clear()
        self._fresh = 0
        records.extend(self.network.flush(networks_in_doubt, complete))
        records.extend(self.alerts.flush())
        if len(active) > ACTIVE_MAX:
            self._active = {key: active[key] for key in unsaved}
        self.totals.clock_us = self.commitments.clock_us
        self._totals_dirty = False
        counted = [max(pair) for pair in zip(self.totals.positions, self._durable, strict=True)]
        records.append((OUTCOMES_KEY, _encoder.encode(msgspec.structs.replace(self.totals, positions=counted))))
        return records

    def restore(self, records: dict[str, bytes], rewrite: Iterable[str], now_us: int) -> None:
        """Fill an empty ledger at once; see `restoring`."""
        for _ in self.restoring(records, rewrite, now_us):
            pass

    def restoring(self, records: dict[str, bytes], rewrite: Iterable[str], now_us: int) -> Iterator[None]:
        """Fill an empty ledger from the newest valid value of every state key; it is of no use before the end.

        Args:
            records: packed values by state key, without the claim. The dictionary becomes the ledger's own.
            rewrite: keys whose newest record on the topic must be replaced by what is here.
            now_us: bounds the stored clock, which another machine may have set too far.

        Yields:
            After each portion of about a millisecond, so that others can be served in between.
        """
        totals = records.pop(OUTCOMES_KEY, None)
        if totals is not None:
            self.totals = decode_totals(totals)
            self.commitments.clock_us = min(self.totals.clock_us, now_us)
            self._durable = self.totals.positions.copy()
            self._replay_until = self.totals.positions.copy()
            # Counted is not committed: dead letters of what was counted may have been lost on their way.
            self.totals.positions = [0] * TOPIC_COUNT
        chunks: list[bytes] = []
        awaited: list[str] = []
        decisions: list[tuple[str, bytes]] = []
        groups: list[tuple[str, bytes]] = []
        for keys in in_portions(list(records)):
            for key in keys:
                if not key.startswith("|") and "|\x1f" not in key:
                    sku, _, location = key.partition("|")
                    self._places.setdefault(location, sku)
                    self.network.add(sku, key)
                    continue
                packed = records.pop(key)
                if key.startswith(JOURNAL_PREFIX):
                    chunks.append(packed)
                elif key.startswith(ALERT_PREFIX):
                    self.alerts.restore(key, packed)
                elif is_order_key(key):
                    self.commitments.restore(key, packed)
                elif is_supply_key(key):
                    awaited += self.supply.restore(key, packed)
                elif key.startswith(NETWORK_PREFIX):
                    self.network.restore(key, packed)
                elif is_item_key(key):
                    self.items.restore(key, packed)
                elif is_verdict_key(key):
                    decisions.append((key, packed))
                elif is_echo_key(key):
                    groups.append((key, packed))
            yield
        self._idle = records
        for some in in_portions(decisions):
            for key, packed in some:
                self.requests.restore(key, packed, self._durable[_ORDERS])
            yield
        for keys in in_portions(awaited):
            for key in keys:
                self._await(key)
            yield
        yield from self.commitments.restored()
        for some in in_portions(groups):
            for key, packed in some:
                self._restore_echo(key, packed)
            yield
        for key in self.alerts.about:
            self._suspect(key)
        yield from self.recent.restoring(chunks, self._restore_row)
        for keys in in_portions(list(rewrite)):
            for key in keys:
                self.rewrite(key)
            yield

    # Inside

    def _resting(self, key: str) -> Balance:
        """The balance of a known key, to look at only; leaves idle balances packed."""
        return self._active.get(key) or unpack(self._idle[key])

    def _view(self, key: str, balance: Balance, terms: Terms | None = None, committed: int | None = None) -> View:
        sku, _, location = key.partition("|")
        item = self.items.by_sku.get(sku)
        return view(
            balance,
            self.commitments.units(key) if committed is None else committed,
            terms or self.policies.terms(sku, location, item),
            self.supply.incoming(key, self.commitments.clock_us),
            ACTIVE if item is None else item.lifecycle,
            0 if balance.net is None else self.commitments.allocated_then(key),
        )

    def _look_under(self, key: str, terms: Terms, committed: int) -> View:
        return self._view(key, self._resting(key), terms, committed)

    def _look_in(self, key: str, channel: str | None) -> View:
        """What a channel, or None for all, can sell at a known key, now; leaves idle balances packed."""
        if channel is None:
            return self.look(key)
        sku, _, location = key.partition("|")
        terms = self.policies.channel_terms(sku, location, channel, self.items.by_sku.get(sku))
        return self._view(key, self._resting(key), terms)

    def _network_terms(self, sku: str, channel: str | None) -> NetworkTerms:
        """What holds for a SKU over all locations."""
        return self.policies.network_terms(sku, channel, self.items.by_sku.get(sku))

    def _channels_of(self, sku: str) -> tuple[str, ...]:
        """The channels that policies name for a SKU."""
        return self.policies.channels_of(sku, self.items.by_sku.get(sku))

    def _dated_supply(self, sku: str) -> list[tuple[int, int]]:
        """When what is on its way to any location of a SKU should arrive, with its units; what is late may never."""
        clock_us, dated = self.commitments.clock_us, self.supply.dated
        parts = [part for key in self.network.keys_of(sku) for part in dated(key)]
        return [(eta_us, units) for units, eta_us in parts if eta_us is not None and eta_us > clock_us]

    def _counted_us(self, key: str) -> int:
        """The time of the newest count of a key, 0 if there is none."""
        count = self.balance(key).count if key in self else None
        return 0 if count is None else count[0]

    def _net_us(self, key: str) -> int | None:
        """The time of the newest count of a key, if that was net."""
        if key not in self:
            return None
        balance = self._resting(key)
        return None if balance.net is None or balance.count is None else balance.count[0]

    def _await(self, key: str) -> list[str]:
        """Something was sent to a key: it has a balance, be it empty, so that this can be told. The key, if new."""
        if key in self:
            return []
        self._open(key)
        self._dirty[key] = None
        return [key]

    def _open(self, key: str) -> Balance:
        balance = self._active[key] = Balance([-1] * TOPIC_COUNT)
        self._fresh += 1
        sku, _, location = key.partition("|")
        self._places.setdefault(location, sku)
        self.network.add(sku, key)
        return balance

    # Requests

    def _request(
        self, event: ReservationRequested, topic: int, offset: int, timestamp_us: int, stamped_us: int
    ) -> int | None:
        """Decide a request, or answer it as it was decided; see `apply`."""
        sku, totals, recent = event.sku, self.totals, self.recent
        stamped_us = max(-_FAR_US, min(stamped_us, _FAR_US))
        key = verdict_key(sku, event.source, event.id)
        known = self.verdicts.get(key)
        place = topic, offset
        if place in self._over_limit:
            raise _limit_reached(sku)
        if known is None:
            self._admit(sku, None if event.location == ANYWHERE else event.location)
        if offset < self._durable[topic]:
            totals.positions[topic] = offset + 1
            if known is not None:
                if known.offset == offset:
                    self._promise(event, key, known, topic, timestamp_us)
                self._answer(sku, key, known)
            return None
        before = self._covered.pop(place, None)
        if known is not None and known.offset == offset:
            known = self.requests.confirm(event, known, stamped_us, timestamp_us)
        id_hash = _identity(sku, event.source, event.id)
        outcome = APPLIED
        if before is not None:
            outcome = before
        elif (known is not None and known.offset != offset) or (known is None and id_hash in recent.ids):
            outcome = DUPLICATE
        elif known is None:
            if self.commitments.is_full(sku, hold_key(sku, event.reservation, event.line)):
                recent.see((key, topic, DEAD_LETTER, offset, 0, 0, 0), timestamp_us)  # a replay must refuse it too
                raise _limit_reached(sku)
            known = self.requests.decide(event, offset, stamped_us, timestamp_us, totals.positions[topic])
        totals.positions[topic] = offset + 1
        totals.by_outcome[outcome] += 1
        self._totals_dirty = True
        if known is not None:
            if known.offset == offset:
                self._promise(event, key, known, topic, timestamp_us)
            self._answer(sku, key, known)
        if before is None:
            if outcome == APPLIED:
                recent.ids.add(id_hash)
            row_hash = id_hash if outcome == APPLIED else 0
            recent.see((key, topic, outcome, offset, row_hash, 0, 0), timestamp_us)
        return outcome

    def _promise(
        self, event: ReservationRequested, key: str, decision: Decision, topic: int, timestamp_us: int
    ) -> None:
        """Let the hold follow from its decision; again has no effect."""
        self.verdicts.held(key, decision)
        if decision.units and not decision.repeats:
            at = f"{event.sku}|{decision.location}"
            self._await(at)
            promised = promise_of(decision, channel_of(event))
            self._tell_others(event, promised, topic, decision.offset, timestamp_us)
            _heard(self.balance(at), topic, decision.occurred_us)
            self._dirty[at] = None
            self.touched.setdefault(at, timestamp_us)

    def _answer(self, sku: str, key: str, decision: Decision) -> None:
        self.verdicts.owe(key)
        self.answers.append((sku, decision))

    def _show_again(self, key: str, timestamp_us: int) -> None:
        """A replayed record's key is published anew: what became of its record before the restart is not known."""
        if key in self:
            self.touched.setdefault(key, timestamp_us)
            self.forced.add(key)

    def _complete(self, event: StockFact, topic: int, offset: int, outcome: int, timestamp_us: int) -> int:
        """Finish a record whose balance became durable before the restart while its order or the totals did not."""
        self.totals.positions[topic] = offset + 1
        self.totals.by_outcome[outcome] += 1
        if outcome != DUPLICATE:
            self._tell_others(event, effect_of(event), topic, offset, timestamp_us)
        return outcome

    def _move(self, key: str, balance: Balance, effect: Effect, timestamp_us: int) -> int:
        """Let the balance itself take in an effect; APPLIED or, if a newer count includes it, ABSORBED."""
        outcome = APPLIED
        if effect.count is not None:
            outcome = self._count(key, balance, effect, timestamp_us)
        if effect.baseline:
            balance.flags |= HAS_BASELINE
        if effect.units:
            outcome = self._move_units(key, balance, effect.time_us, effect.units)
        return outcome

    def _count(self, key: str, balance: Balance, effect: Effect, timestamp_us: int) -> int:
        """Let a balance take in a count, and compare it with what was known of its moment when it came."""
        count = effect.count
        assert count is not None
        movements = self._movements.get(key) or Movements()
        before_us = 0 if balance.count is None else balance.count[0]
        back = self.supply.incoming(key, 0).given
        expected = None
        if balance.flags & HAS_BASELINE:
            expected = balance.on_hand - movements.since(count[0]) + self._left_out(key, balance)
            expected += sum(one.units for one in back if before_us <= one.time_us < count[0])
        changed = self._state_moves.get(key, []) if effect.net else None
        result = apply_count(balance, movements, count, effect.counted, self.totals.forgotten_us, changed)
        at_us, source, id = timestamp_us, count[1], count[2]
        reference = f"count/{len(source)}/{source}{id}"
        if result == "beyond_log":
            self.counts_too_old += 1
            # Its units may be 0, and it is an alert all the same.
            self.alerts.open(key, "count_too_old", effect.counted, at_us, reference, {"count": id, "source": source})
        if result != "applied":
            return ABSORBED
        self._counted(key, effect.time_us)
        self.alerts.close_all(key, "count_too_old", at_us)
        if expected is not None and not self.catching_up:
            self._compare(key, expected, effect.counted + self._left_out(key, balance), count, at_us)
        return APPLIED

    def _compare(self, key: str, expected: int, counted: int, count: Count, at_us: int) -> None:
        """Sum up how exact stock is; the newest count of a key has an alert if it is too far from what was expected."""
        off = counted - expected
        self.counted_units[0] += max(0, expected)
        self.counted_units[1] += abs(off)
        _, source, id = count
        reference = f"count/{len(source)}/{source}{id}"
        if self.thresholds.allows(expected, counted):
            self.alerts.close_all(key, "count_variance", at_us)
            return
        self.alerts.close_all(key, "count_variance", at_us, but=name_of(key, "count_variance", reference))
        accuracy = max(0.0, 1 - abs(off) / expected) if expected > 0 else 0.0
        named = {"count": id, "source": source, "expected": str(expected), "counted": str(counted)}
        named["accuracy"] = f"{accuracy:.4f}"
        self.alerts.open(key, "count_variance", off, at_us, reference, named)

    def _left_out(self, key: str, balance: Balance) -> int:
        """What the count that stands left out, and what is on hand beside it; 0 if it is gross or there is none."""
        if balance.net is None:
            return 0
        return left_out(balance, self.supply.incoming(key, 0).given) + self.commitments.allocated_then(key)

    def _undescribed(self) -> dict[str, str]:
        """The locations of any balance that nobody described, each with a SKU; none where nobody describes any."""
        policies = self.policies
        if not policies.describes_locations:
            return {}
        return {location: sku for location, sku in self._places.items() if policies.location(location) is None}

    def _suspect(self, state_key: str) -> None:
        part = self.supply if is_supply_key(state_key) else self.commitments
        part.suspects[state_key] = None

    def _move_state(self, key: str, balance: Balance, time_us: int, state: str, units: int) -> None:
        """Move the counter of an unavailable state, and what a net count left out if it happened before that."""
        balance.move_state(state, units)
        balance.moved_us = max(balance.moved_us, time_us)  # a net count must know what came after it
        if balance.net is not None and balance.count is not None and time_us < balance.count[0]:
            then = dict(zip(UNAVAILABLE, balance.net, strict=True))
            then[state] += units
            balance.net = then["damaged"], then["quality_hold"], then["display"]
        known = self._state_moves.setdefault(key, [])
        known.append((time_us, state, units))
        if len(known) > MOVEMENTS_MAX:
            balance.dropped_us = max(balance.dropped_us, known.pop(0)[0])

    def _counted(self, key: str, time_us: int) -> None:
        """A new count stands: what happened before it is no count's business any more."""
        self.commitments.counted(key)
        later = [move for move in self._state_moves.pop(key, ()) if move[0] >= time_us]
        if later:
            self._state_moves[key] = later

    def _move_once(self, key: str, balance: Balance, echo: str, told: Told) -> int:
        """Let the balance take in what no other topic has told before; ECHO if one has told it all."""
        sku, _, location = key.partition("|")
        moves, states = self.echoes.tell(echo_key(sku, location, echo), told, self.commitments.clock_us)
        for time_us, state, units in states:
            self._move_state(key, balance, time_us, state, units)
        moved = [self._move_units(key, balance, time_us, units) == APPLIED for time_us, units in moves]
        if any(moved) or states:
            return APPLIED
        return ABSORBED if moved else ECHO

    def _move_units(self, key: str, balance: Balance, time_us: int, units: int) -> int:
        movements = self._movements.get(key)
        if movements is None:
            movements = self._movements[key] = Movements()
        return APPLIED if apply_movement(balance, movements, time_us, units) else ABSORBED

    def _tell_others(self, event: Any, effect: Effect, topic: int, offset: int, timestamp_us: int) -> None:
        """Let the holds, order lines, transfers and inbounds that a fact names take it in."""
        sku, channel = event.sku, effect.channel
        changed: list[str] = []
        if effect.hold is not None:
            key = hold_key(sku, event.reservation, event.line)
            bound = self.commitments.tell_hold(sku, key, effect.hold, topic, offset, channel, effect.promised_us)
            changed += [at for at, _ in bound]
        if effect.line is not None:
            key = line_key(sku, event.order_line)
            changed += [at for at, _ in self.commitments.tell_line(sku, key, effect.line, topic, offset, channel)]
        if effect.transfer is not None:
            key = transfer_key(sku, event.transfer)
            changed += self.supply.tell_transfer(sku, key, effect.transfer, topic, offset)
            if effect.transfer.to:
                changed += self._await(f"{sku}|{effect.transfer.to}")
        if effect.inbound is not None:
            key = inbound_key(sku, event.location, event.inbound)
            changed += self.supply.tell_inbound(sku, key, effect.inbound, topic, offset)
        if self.alerts.about:
            self._look_at_alerts_of(event, effect)
        for key in changed:
            if key in self:
                balance = self.balance(key)
                _set_cause(balance, event, micros(event.occurred_at))
                if self.policies.banded:
                    self._step_band(key, balance)
                self._dirty[key] = None
                self.touched.setdefault(key, timestamp_us)

    def _look_at_alerts_of(self, event: Any, effect: Effect) -> None:
        """An alert of a hold, order line or transfer that a fact names may have come to its end."""
        named = [
            effect.hold and hold_key(event.sku, event.reservation, event.line),
            effect.line and line_key(event.sku, event.order_line),
            effect.transfer and transfer_key(event.sku, event.transfer),
        ]
        for key in named:
            if key is not None and key in self.alerts.about:
                self._suspect(key)

    def _step_band(self, key: str, balance: Balance) -> None:
        """Where LOW_STOCK depends on the way there, every step counts and not only those that are published."""
        sku, _, location = key.partition("|")
        if self.policies.terms(sku, location, self.items.get(sku)).banded:
            balance.flags = low_flags(self._view(key, balance), balance.flags)

    def _refuse_again(self, event: StockFact, key: str, topic: int, offset: int) -> None:
        """Raise for a replayed record what was raised before the restart: its dead letter may not have been sent."""
        if (topic, offset) in self._over_limit:
            raise _limit_reached(event.sku)
        if offset < self._durable[topic] and key not in self:
            self._admit(event.sku, event.location)

    def _is_over_limit(self, event: StockFact) -> bool:
        sku = event.sku
        if event.__class__ not in _OPENS_ORDER:
            echo = echo_of(event)
            return echo is not None and self.echoes.is_full(echo_key(sku, event.location, echo))
        if isinstance(event, ReservationCreated):
            return self.commitments.is_full(sku, hold_key(sku, event.reservation, event.line))
        if isinstance(event, OrderAllocated):
            return self.commitments.is_full(sku, line_key(sku, event.order_line))
        if self.supply.count(sku) < ORDERS_PER_SKU_MAX:
            return False
        if isinstance(event, InboundExpected):
            return inbound_key(sku, event.location, event.inbound) not in self.supply
        assert isinstance(event, TransferShipped)
        return transfer_key(sku, event.transfer) not in self.supply

    def _forget_movements(self, rows: list[Row]) -> None:
        for key, _, _, _, _, time_us, units in rows:
            if _STATE_ROW in key:
                self._forget_state_move(key, time_us, units)
            elif units:
                self.totals.forgotten_us = max(self.totals.forgotten_us, time_us)
                movements = self._movements.get(key)
                if movements is not None:
                    movements.discard(time_us, units)
                    if not movements:
                        del self._movements[key]

    def _forget_state_move(self, row_key: str, time_us: int, units: int) -> None:
        key, _, state = row_key.partition(_STATE_ROW)
        self.totals.forgotten_us = max(self.totals.forgotten_us, time_us)
        known = self._state_moves.get(key, [])
        if (time_us, state, units) in known:
            known.remove((time_us, state, units))
            if not known:
                del self._state_moves[key]

    def _restore_echo(self, key: str, packed: bytes) -> None:
        """Take back what the balance has applied of a group, with its movements; the rest is told again."""
        at = balance_of(key)
        known = self._idle.get(at)
        if known is None:
            return
        past = unpack_past(known)
        facts = self.echoes.restore(key, packed, past.applied, self.commitments.clock_us)
        for time_us, units in moves(facts).items():
            self._remember(at, past, time_us, units)
        for (time_us, state), units in state_moves(facts).items():
            self._state_moves.setdefault(at, []).append((time_us, state, units))

    def _remember(self, key: str, past: Past, time_us: int, units: int) -> None:
        """Put a movement back into the log, if a late count may still ask for it."""
        if time_us > past.dropped_us and (past.count is None or time_us >= past.count[0]):
            movements = self._movements.get(key)
            if movements is None:
                movements = self._movements[key] = Movements()
            movements.add(time_us, units)

    def _restore_row(self, row: Row) -> bool:
        """Take a journal row back if the balance it belongs to has had its effect; whether it has.

        Balances stay packed: few of them are asked for again soon.
        """
        row_key, topic, outcome, offset, _, time_us, units = row
        if outcome == DEAD_LETTER:
            self._over_limit.add((topic, offset))
            self._replay_until[topic] = max(self._replay_until[topic], offset + 1)
            return True
        if is_verdict_key(row_key):
            if self.verdicts.get(row_key) is None:
                return False
            return self._take_back(row)
        key, _, state = row_key.partition(_STATE_ROW)
        packed = self._idle.get(key)
        if packed is None:
            return False
        past = unpack_past(packed)
        if offset > past.applied[topic]:
            return False
        if state:
            self._state_moves.setdefault(key, []).append((time_us, state, units))
            return True
        if units:
            self._remember(key, past, time_us, units)
        return self._take_back(row)

    def _take_back(self, row: Row) -> bool:
        """Note the outcome of a fact that had its effect, if the totals do not cover it."""
        topic, outcome, offset, id_hash = row[1:5]
        if outcome != DUPLICATE:
            self.recent.ids.add(id_hash)
        if offset >= self._durable[topic]:
            self._covered[topic, offset] = outcome
            self._replay_until[topic] = max(self._replay_until[topic], offset + 1)
        return True


def _identity(sku: str, source: str, id: str) -> int:
    return _hash(f"{sku}\0{source}\0{id}".encode())


def _state_row_key(key: str, state: str) -> str:
    return f"{key}{_STATE_ROW}{state}"


def _limit_reached(sku: str) -> LimitReached:
    return LimitReached(f"{sku} has too many holds and order lines, transfers and inbounds, or facts under one echo")


_FAR_US = 1 << 61  # Beyond any date: what a client writes as a timestamp may be anything.
_LOW = LOW_SHIP | LOW_PICKUP
_OPENS_ORDER = frozenset({ReservationCreated, OrderAllocated, TransferShipped, InboundExpected})
_KEPT_CAUSES = frozenset({PosReturn, WmsReceipt, TransferReceived})


def _heard(balance: Balance, topic: int, occurred_us: int) -> None:
    """Keep the newest time heard from each kind of source."""
    if topic == _POS:
        if balance.pos_us is None or occurred_us > balance.pos_us:
            balance.pos_us = occurred_us
    elif topic == _WMS:
        if balance.wms_us is None or occurred_us > balance.wms_us:
            balance.wms_us = occurred_us
    elif topic == _ORDERS and (balance.orders_us is None or occurred_us > balance.orders_us):
        balance.orders_us = occurred_us


def _set_cause(balance: Balance, event: StockFact, occurred_us: int) -> None:
    """Name the cause of the next record; a receipt or return stays until it is published, for backorder releasers."""
    kind = event.__class__
    if kind in _KEPT_CAUSES:
        balance.flags |= CAUSE_PINNED
    elif balance.flags & CAUSE_PINNED and balance.cause is not None:
        return
    balance.cause = (kind.__struct_config__.tag, event.id, event.source, occurred_us)  # type: ignore[assignment]
