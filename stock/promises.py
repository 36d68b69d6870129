"""What was promised to requests in one partition: decisions that are kept, and for how long; never how one is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

from stock.commitments import hold_key
from stock.times import HOUR_US
from stock.verdicts import Decision, pack, unpack

ANSWERED_HORIZON_US = 24 * HOUR_US  # How long a decision is kept, and longer while its hold is open.
DECISIONS_MAX = 100_000  # Per partition, beside those that must stay; the oldest go first. Under 1 KB each.
_TRIES = 8  # So many of the oldest are looked at for each new one: those that must stay come up again a day later.


class Verdicts:
    """What was promised in one partition; not thread-safe.

    `promised` units are those of decisions whose hold is not there yet: a crash may keep the one and lose the other.

    Args:
        is_open: asked with the state key of a hold: whether it binds units.
    """

    def __init__(self, is_open: Callable[[str], bool]) -> None:
        self._is_open = is_open
        self._known: dict[str, Decision] = {}
        self._by_hold: dict[str, str] = {}  # the newest decision that granted it, by the state key of the hold
        self._promised: dict[str, dict[str, int]] = {}  # by `sku|location`, then by state key
        self._owed: set[str] = set()  # decisions whose answer is not known to be out
        self._timers: list[tuple[int, str]] = []
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        """Number of decisions remembered."""
        return len(self._known)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def get(self, key: str) -> Decision | None:
        """The decision of a request, by its state key."""
        return self._known.get(key)

    def that_granted(self, hold: str) -> Decision | None:
        """The newest decision from which a hold follows, by the hold's state key."""
        return self._known.get(self._by_hold.get(hold, ""))

    def keep(self, key: str, decision: Decision, read_to: int = 0) -> None:
        """Remember a decision, to answer repeats of its request with it.

        Args:
            key, decision: of the request.
            read_to: requests before this offset that wait for an answer are known to be owed it.
        """
        if key not in self._known:
            self._make_room(read_to)
            heappush(self._timers, (decision.decided_us + ANSWERED_HORIZON_US, key))
        self._known[key] = decision
        self._owed.add(key)
        self._dirty[key] = None

    def owe(self, key: str) -> None:
        """A request is to be answered, maybe again: its decision stays until it was."""
        self._owed.add(key)

    def answered(self, keys: Iterable[str]) -> None:
        """These answers are out."""
        self._owed.difference_update(keys)

    def promised(self, at: str) -> int:
        """Units at `sku|location` that were promised and are not held yet."""
        return sum(self._promised.get(at, {}).values())

    def held(self, key: str, decision: Decision) -> None:
        """The hold of a decision is there."""
        self._no_longer_promised(key, decision)
        if decision.units and not decision.repeats:
            hold = _hold_of(key, decision)
            newest = self.that_granted(hold)
            if newest is None or newest.offset <= decision.offset:
                self._by_hold[hold] = key

    def next_timer_us(self) -> int | None:
        """When `advance` has something to do next."""
        return self._timers[0][0] if self._timers else None

    def advance(self, now_us: int) -> None:
        """Forget what was answered long ago and binds nothing any more."""
        while self._timers and self._timers[0][0] <= now_us:
            _, key = heappop(self._timers)
            decision = self._known.get(key)
            if decision is None:
                continue
            if key in self._owed:
                heappush(self._timers, (now_us + HOUR_US, key))
            elif self._binds(key, decision) or decision.decided_us + ANSWERED_HORIZON_US > now_us:
                heappush(self._timers, (max(decision.decided_us, now_us) + ANSWERED_HORIZON_US, key))
            else:
                self._forget(key, decision)

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for key in self._dirty:
            decision = self._known.get(key)
            yield key, None if decision is None else pack(decision)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes, heard: Callable[[str], int], durable: int) -> None:
        """Take back one decision.

        Args:
            key, packed: of its state record.
            heard: tells up to which offset a hold has heard, by its state key.
            durable: below this offset every hold is as durable as its decision.
        """
        decision = self._known[key] = unpack(packed)
        heappush(self._timers, (decision.decided_us + ANSWERED_HORIZON_US, key))
        if decision.offset < durable or decision.offset <= heard(_hold_of(key, decision)):
            self.held(key, decision)
        elif decision.units and not decision.repeats:
            at = f"{key.partition('|')[0]}|{decision.location}"
            self._promised.setdefault(at, {})[key] = decision.units

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key] = None

    def _make_room(self, read_to: int) -> None:
        """Forget the oldest decisions that nothing hangs on, if there are too many."""
        for _ in range(_TRIES):
            if len(self._known) < DECISIONS_MAX or not self._timers:
                return
            due_us, key = heappop(self._timers)
            decision = self._known.get(key)
            if decision is None:
                continue
            if key in self._owed or decision.offset >= read_to or self._binds(key, decision):
                heappush(self._timers, (due_us + ANSWERED_HORIZON_US, key))
            else:
                self._forget(key, decision)

    def _binds(self, key: str, decision: Decision) -> bool:
        """Whether the hold that follows from a decision is open: a repeat of it would be answered by it."""
        hold = _hold_of(key, decision)
        return self._by_hold.get(hold) == key and self._is_open(hold)

    def _forget(self, key: str, decision: Decision) -> None:
        self._no_longer_promised(key, decision)
        hold = _hold_of(key, decision)
        if self._by_hold.get(hold) == key:
            del self._by_hold[hold]
        del self._known[key]
        self._dirty[key] = None

    def _no_longer_promised(self, key: str, decision: Decision) -> None:
        at = f"{key.partition('|')[0]}|{decision.location}"
        promised = self._promised.get(at)
        if promised is not None:
            promised.pop(key, None)
            if not promised:
                del self._promised[at]


def _hold_of(key: str, decision: Decision) -> str:
    return hold_key(key.partition("|")[0], decision.reservation, decision.line)
