"""Facts that several systems tell of the same units: one effect for all of them; never a balance, never an alert.

Whatever a till, a warehouse and the order system say under one echo (see `ECHOED`) is told of the same units. Up to
any time the effect is the largest sum that one topic has told, so it is a step function of all facts and independent
of their order of arrival. Each group is a state key of its own, made durable before its balance: what the balance has
not applied yet is dropped at a restart, and comes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import groupby
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from stock import events as e
from stock.balance import UNAVAILABLE, StateMoves
from stock.times import HOUR_US

WINDOW_US = 24 * HOUR_US  # After the newest fact of a group: then topics that told unequal sums contradict each other.
KEPT_US = 48 * HOUR_US  # After the newest fact, and at least a window after its judgement: how long a group is kept.
GROUPS_MAX = 200_000  # Groups remembered per partition; under 400 bytes each.
ECHO_FACTS_MAX = 1_024  # Facts of one group; more is a client that gives everything the same echo.

# The facts that may be told by two systems; a void of a return has no echo.
ECHOED = frozenset({e.PosSale, e.PosVoid, e.WmsShipment, e.WmsShipmentVoided, e.OrderFulfilled})

_ECHO = "|\x1fecho\x1f"  # Stored.
_JUDGE, _FORGET, _JUDGE_AGAIN = 0, 1, 2

Move = tuple[int, int]  # time in microseconds, signed change of on_hand
_STATES = ("sellable", *UNAVAILABLE)  # Stored by position.
K = TypeVar("K")


class Told(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One fact of a group. `units` left (negative: came back, by a void) out of the state at this position."""

    # Stored. Changing these needs a migration.
    time_us: int
    topic: int
    offset: int
    id_hash: int
    units: int
    state: int

    @staticmethod
    def of(time_us: int, topic: int, offset: int, id_hash: int, units: int, state: str) -> Told:
        """A fact whose state is named."""
        return Told(time_us, topic, offset, id_hash, units, _STATES.index(state))


class Contradiction(Struct, frozen=True, gc=False):
    """Topics that told unequal sums under one echo at `sku|location`; `units` is the difference, 0 once they agree.

    `at_us`: when their window was over.
    """

    key: str
    echo: str
    units: int
    at_us: int


def echo_of(event: Any) -> str | None:
    """Under which echo a fact is told, None if it is not one that others may tell, too."""
    kind = event.__class__
    if kind not in ECHOED or (kind is e.PosVoid and event.voided_type != "pos.sale"):
        return None
    return event.order_line if event.echo is None else event.echo  # type: ignore[no-any-return]


def echo_key(sku: str, location: str, echo: str) -> str:
    """The state key of a group; locations have no bar, so it keeps both apart whatever an echo contains."""
    return f"{sku}{_ECHO}{location}|{echo}"


def is_echo_key(key: str) -> bool:
    """Whether a state key belongs to a group."""
    return _ECHO in key


def check_echo(packed: bytes, topics: int) -> None:
    """Nothing, if this is the packed value of a group.

    Raises:
        ValueError: it is not.
    """
    for told in _decoder.decode(packed):
        if not 0 <= told.topic < topics or not 0 <= told.state < len(_STATES):
            raise ValueError("an echo of another shape")


def paired(sums: dict[int, int], topic: int, units: int) -> int:
    """By how much the largest of several sums grows (negative: falls) when a topic tells so many units more."""
    before = max(sums.values(), default=0)
    sums[topic] = sums.get(topic, 0) + units
    return max(sums.values()) - before


def moves(facts: Iterable[Told]) -> dict[int, int]:
    """The step function of a group: signed changes of on_hand by time, in the order of time."""
    sums: dict[int, int] = {}
    level, steps = 0, {}
    for time_us, same in groupby(sorted(facts), key=lambda told: told.time_us):
        for told in same:
            sums[told.topic] = sums.get(told.topic, 0) + told.units
        was, level = level, max(sums.values())
        if level != was:
            steps[time_us] = was - level
    return steps


def state_moves(facts: Iterable[Told]) -> dict[tuple[int, str], int]:
    """The same for each unavailable state, of the units told of it: signed changes of its counter by time and state."""
    by_state: dict[int, list[Told]] = {}
    for told in facts:
        if told.state:
            by_state.setdefault(told.state, []).append(told)
    return {(at, _STATES[state]): units for state, some in by_state.items() for at, units in moves(some).items()}


def contradiction(facts: Iterable[Told]) -> int:
    """By how many units the sums of the topics differ that have told anything."""
    sums: dict[int, int] = {}
    for told in facts:
        sums[told.topic] = sums.get(told.topic, 0) + told.units
    return max(sums.values()) - min(sums.values()) if sums else 0


class Echoes:
    """The groups of one partition; not thread-safe. They rest packed: most are told twice and never again.

    `forgotten_us`: movements of groups up to this time may no longer be known after a restart.
    """

    def __init__(self) -> None:
        self.forgotten_us = 0
        self._groups: dict[str, bytes] = {}
        self._timers: list[tuple[int, int, str]] = []
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        """Number of groups remembered."""
        return len(self._groups)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def facts(self, key: str) -> list[Told]:
        """What was told under a state key, in no order."""
        packed = self._groups.get(key)
        return [] if packed is None else _decoder.decode(packed)

    def is_full(self, key: str) -> bool:
        """Whether a group takes no more facts."""
        packed = self._groups.get(key)
        return packed is not None and len(packed) > 8 * ECHO_FACTS_MAX and len(self.facts(key)) >= ECHO_FACTS_MAX

    def tell(self, key: str, new: Told, clock_us: int) -> tuple[list[Move], StateMoves]:
        """Let a group take in a fact.

        Returns:
            How on_hand changes, as movements with their times, and how the counters of unavailable states do, likewise.
            Both are empty for what others have told already, and for a fact that is in.
        """
        facts = self.facts(key)
        if any(told.id_hash == new.id_hash for told in facts):
            return [], []
        if not facts:
            return self._begin(key, new, clock_us)
        if max(one.time_us for one in facts) + WINDOW_US <= clock_us:
            heappush(self._timers, (clock_us, _JUDGE_AGAIN, key))
        before_moves, before_states = moves(facts), state_moves(facts)
        facts.append(new)
        self._groups[key] = _encoder.encode(facts)
        self._dirty[key] = None
        changed = _difference(before_moves, moves(facts))
        states = _difference(before_states, state_moves(facts))
        return list(changed.items()), [(at, state, units) for (at, state), units in states.items()]

    def _begin(self, key: str, new: Told, clock_us: int) -> tuple[list[Move], StateMoves]:
        """Let a fact be the first of its group: it does what it says. The oldest group makes room if there are many."""
        if len(self._groups) >= GROUPS_MAX:
            oldest = next(iter(self._groups))
            self.forgotten_us = max(self.forgotten_us, max(told.time_us for told in self.facts(oldest)))
            del self._groups[oldest]
            self._dirty[oldest] = None
        heappush(self._timers, (max(new.time_us + WINDOW_US, clock_us), _JUDGE, key))
        self._groups[key] = _encoder.encode([new])
        self._dirty[key] = None
        states = [(new.time_us, _STATES[new.state], -new.units)] if new.state else []
        return [(new.time_us, -new.units)], states

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        return self._timers[0][0] if self._timers else None

    def advance(self, now_us: int) -> Iterator[Contradiction]:
        """Judge the groups whose window is over and forget what is old.

        Yields:
            What topics contradict each other about; with 0 units where they do not, or where nobody can tell any more.
        """
        while self._timers and self._timers[0][0] <= now_us:
            _, kind, key = heappop(self._timers)
            facts = self.facts(key)
            if not facts:
                continue
            newest_us = min(max(told.time_us for told in facts), now_us)
            due_us = newest_us + (KEPT_US if kind == _FORGET else WINDOW_US)
            if kind == _JUDGE_AGAIN:
                yield Contradiction(balance_of(key), echo_in(key), contradiction(facts), now_us)
            elif due_us > now_us:
                heappush(self._timers, (due_us, kind, key))
            elif kind == _JUDGE:
                # What happened long ago may just have been told, and others will tell it, too.
                heappush(self._timers, (max(newest_us + KEPT_US, now_us + WINDOW_US), _FORGET, key))
                self.forgotten_us = max(self.forgotten_us, newest_us)
                yield Contradiction(balance_of(key), echo_in(key), contradiction(facts), due_us)
            else:
                del self._groups[key]
                self._dirty[key] = None
                yield Contradiction(balance_of(key), echo_in(key), 0, due_us)

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for key in self._dirty:
            yield key, self._groups.get(key)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes, applied: list[int], clock_us: int) -> list[Told]:
        """Take back what a balance has applied of a group; these facts come back.

        Args:
            key, packed: of its state record.
            applied: per topic, up to which offset the balance has applied facts.
            clock_us: when judged groups are judged again: an alert that is told twice is one.
        """
        facts = [told for told in _decoder.decode(packed) if told.offset <= applied[told.topic]]
        if not facts:
            return []
        self._groups[key] = _encoder.encode(facts)
        newest_us = max(told.time_us for told in facts)
        due_us = min(newest_us, clock_us) + WINDOW_US
        heappush(self._timers, (due_us, _JUDGE, key))
        if due_us <= clock_us:  # it may have been judged before
            heappush(self._timers, (clock_us, _JUDGE_AGAIN, key))
        return facts

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key] = None


def _difference(before: dict[K, int], after: dict[K, int]) -> dict[K, int]:
    changed = {at: after.get(at, 0) - before.get(at, 0) for at in {**before, **after}}
    return {at: units for at, units in changed.items() if units}


def balance_of(key: str) -> str:
    """The key `sku|location` of the balance that a group's state key belongs to."""
    sku, _, rest = key.partition(_ECHO)
    return f"{sku}|{rest.partition('|')[0]}"


def echo_in(key: str) -> str:
    """The echo that a group's state key names."""
    return key.partition(_ECHO)[2].partition("|")[2]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Told])
