"""Which values hold for a SKU at a location: locations, policies, feeds, and how they are resolved; never any stock.

Time comes in by `advance`: policies begin and end by it, and feeds fall silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timezone
from heapq import heappop, heappush
from itertools import product
from typing import NamedTuple

from stock.balance import Cause
from stock.events import LocationSet, Mode, PolicySet, Scope, SourceAlive
from stock.items import Item
from stock.terms import LOW_STOCK_ENTER_DEFAULT, ModeTerms, NetworkModeTerms, NetworkTerms, Terms
from stock.times import micros

SKU_TERMS_CACHED_MAX = 100_000  # Terms of SKUs with policies of their own; beyond this the cache starts anew.
GROUP_TERMS_CACHED_MAX = 100_000  # Terms by location, category and brand; likewise.
CHANNEL_TERMS_CACHED_MAX = 100_000  # Terms in a channel, and those over all locations; likewise.

# The order in which scope fields decide between two policies with equally many of them.
_RANKED_FIELDS = ("sku", "location", "channel", "mode", "category", "brand", "region", "location_kind")
_FOREVER = datetime.max.replace(tzinfo=timezone.utc)

_Place = tuple[str | None, ...]  # sku, location, category, brand, region, location_kind
_Feed = tuple[str, str]  # location and kind of a feed
_Goods = tuple[str | None, str | None, str | None]  # sku, category, brand
_ANY_GOODS: _Place = (None, None, None)  # of no channel, category or brand


class Change(NamedTuple):
    """One change of the rules: which keys it can concern (None: any) and what made it."""

    sku: str | None
    location: str | None
    cause: Cause | None

    @classmethod
    def inside(cls, scope: Scope, cause: Cause | None) -> Change:
        """A policy came or went; one of a channel concerns networks, so every SKU that it can mean, wherever it is."""
        return cls(scope.sku, scope.location if scope.channel is None else None, cause)


class Policies:
    """All locations, policies and feeds, resolved on demand per (SKU, location).

    Not thread-safe. `revision` counts the changes, so that a reader can tell whether it has seen them all.
    A change forgets only what it can concern, since a retailer has a safety stock for every SKU.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.clock_us = 0
        self._locations: dict[str, LocationSet] = {}
        self._policies: dict[str, PolicySet] = {}  # whatever their dates
        self._in_force: set[str] = set()
        self._in_scope: dict[_Place, dict[str, PolicySet]] = {}  # those in force by what they name, then id
        self._shapes: Counter[tuple[bool, ...]] = Counter()  # which of these policies in force name
        self._channels: Counter[str] = Counter()
        self._channels_of: dict[_Goods, Counter[str]] = {}  # the same, by what the policies name of goods
        self._per_sku: dict[str, int] = {}  # how many policies name the SKU
        self._with_exit = 0
        self._with_reorder_point = 0
        self._with_network_safety_stock = 0
        self._with_item = 0
        self._alive: dict[_Feed, int] = {}  # until when a feed promises to be complete
        self._expected: dict[_Feed, int] = {}  # when feeds are looked at
        self._stale: dict[str, set[str]] = {}  # by location the feeds that are silent
        self._timers: list[tuple[int, bool, str, str]] = []  # when, whether of a feed, and its names
        self._by_location: dict[str, Terms] = {}
        self._by_group: dict[str, dict[tuple[str | None, str | None], Terms]] = {}
        self._grouped = 0
        self._by_sku: dict[str, tuple[Item | None, dict[str, Terms]]] = {}
        self._cached = 0
        # By SKU, if policies name it, else None; then by channel, category, brand and, for one location, that.
        self._of_networks: dict[str | None, dict[_Place, NetworkTerms]] = {}
        self._of_channels: dict[str | None, dict[_Place, Terms]] = {}
        self._cached_of_channels = 0

    @property
    def banded(self) -> bool:
        """Whether LOW_STOCK may depend on the way there, somewhere."""
        return self._with_exit > 0

    @property
    def with_reorder_point(self) -> bool:
        """Whether there is a reorder point anywhere."""
        return self._with_reorder_point > 0

    @property
    def with_network_safety_stock(self) -> bool:
        """Whether any policy in force gives a network a safety stock of its own."""
        return self._with_network_safety_stock > 0

    @property
    def describes_locations(self) -> bool:
        """Whether any location is described."""
        return bool(self._locations)

    @property
    def channels(self) -> Collection[str]:
        """The channels that any policy in force names, at any time."""
        return self._channels.keys()

    def channels_of(self, sku: str, item: Item | None = None) -> tuple[str, ...]:
        """The channels that any policy in force names for this SKU, its category or brand, or for all goods."""
        if not self._channels:
            return ()
        categories = (None,) if item is None else (None, item.category)
        brands = (None,) if item is None else (None, item.brand)
        found: set[str] = set()
        for goods in product((None, sku), categories, brands):
            found.update(self._channels_of.get(goods, ()))
        return tuple(sorted(found))

    # Settings

    def set_location(self, location: LocationSet) -> None:
        """Describe a location; the newest description holds."""
        self._locations[location.location] = location
        self._changed(None, location.location)

    def location(self, location: str) -> LocationSet | None:
        """What is described of a location."""
        return self._locations.get(location)

    def remove_location(self, location: str) -> None:
        """Forget a location: it counts as a store with both modes on."""
        if self._locations.pop(location, None) is not None:
            self._changed(None, location)

    def set_policy(self, policy: PolicySet) -> Scope | None:
        """Put a policy in force, at once or by its dates; the scope that it replaces comes back, None for a new id."""
        replaced = self.remove_policy(policy.policy)
        self._policies[policy.policy] = policy
        for date in (policy.valid_from, policy.valid_until):
            if date is not None and micros(date) > self.clock_us:
                heappush(self._timers, (micros(date), False, policy.policy, ""))
        self._settle(policy)
        return replaced

    def remove_policy(self, policy: str) -> Scope | None:
        """End a policy; its scope comes back, or None if it was not known."""
        removed = self._policies.pop(policy, None)
        if removed is None:
            return None
        if policy in self._in_force:
            self._withdraw(removed)
        return removed.scope

    def set_alive(self, alive: SourceAlive) -> bool:
        """Note until when a feed promises to be complete; whether its location becomes stale or fresh by that."""
        feed, until_us = (alive.location, alive.feed), micros(alive.until)
        self._alive[feed] = until_us
        self._expect(feed, until_us)
        return self._listen(feed)

    def remove_alive(self, location: str, feed: str) -> bool:
        """Expect nothing of a feed any more: it is never stale; whether that changed anything."""
        self._alive.pop((location, feed), None)
        return self._listen((location, feed))

    def stale_feeds(self, location: str) -> list[str]:
        """The feeds of a location that are silent for longer than they promised."""
        return sorted(self._stale.get(location, ()))

    # Time

    def advance(self, now_us: int) -> list[Change]:
        """Begin and end policies by their dates and let feeds fall silent; a clock set back changes nothing."""
        changes: list[Change] = []
        self.clock_us = max(self.clock_us, now_us)
        while self._timers and self._timers[0][0] <= self.clock_us:
            due_us, is_feed, name, feed = heappop(self._timers)
            if is_feed:
                if self._expected.get((name, feed)) == due_us:
                    del self._expected[name, feed]
                    self._expect((name, feed), self._alive.get((name, feed), 0))
                if self._listen((name, feed)):
                    changes.append(Change(None, name, ("source.stale", f"{name}:{feed}", "stockflow", due_us)))
                continue
            policy = self._policies.get(name)
            if policy is not None and self._settle(policy):
                kind = "policy.started" if name in self._in_force else "policy.ended"
                changes.append(Change.inside(policy.scope, (kind, name, "stockflow", due_us)))
        # Keys that several changes concern are looked at once where the narrow ones come first.
        return sorted(changes, key=lambda change: (change.sku is None, change.location is None))

    def next_timer_us(self) -> int | None:
        """When `advance` may have something to do next."""
        return self._timers[0][0] if self._timers else None

    # Terms

    def terms(self, sku: str, location: str, item: Item | None = None) -> Terms:
        """What holds for a SKU, which has this item, at a location."""
        if sku in self._per_sku:
            of_sku = self._by_sku.get(sku)
            if of_sku is None or of_sku[0] is not item:
                if of_sku is not None:
                    self._cached -= len(of_sku[1])
                of_sku = self._by_sku[sku] = (item, {})
            found = of_sku[1].get(location)
            if found is None:
                if self._cached >= SKU_TERMS_CACHED_MAX:
                    self._by_sku = {sku: (item, {})}
                    self._cached = 0
                self._cached += 1
                found = self._by_sku[sku][1][location] = self._resolve(sku, location, item)
            return found
        if item is not None and self._with_item:
            group = (item.category, item.brand)
            of_location = self._by_group.get(location)
            found = None if of_location is None else of_location.get(group)
            if found is None:
                if self._grouped >= GROUP_TERMS_CACHED_MAX:
                    self._by_group = {}
                    self._grouped = 0
                self._grouped += 1
                found = self._by_group.setdefault(location, {})[group] = self._resolve(None, location, item)
            return found
        found = self._by_location.get(location)
        if found is None:
            found = self._by_location[location] = self._resolve(None, location, None)
        return found

    def channel_terms(self, sku: str, location: str, channel: str | None, item: Item | None = None) -> Terms:
        """What holds for a request that names a channel: policies of that channel count too."""
        if channel not in self._channels:
            return self.terms(sku, location, item)
        own, group = self._group(sku, channel, item)
        of_sku = self._of_channels.get(own)
        place = (*group, location)
        found = None if of_sku is None else of_sku.get(place)
        if found is None:
            self._make_room()
            found = self._resolve(own, location, item, channel)
            self._of_channels.setdefault(own, {})[place] = found
        return found

    def network_terms(self, sku: str, channel: str | None = None, item: Item | None = None) -> NetworkTerms:
        """What holds for a SKU over all locations, in one channel or (None) in all.

        Policies that name a location, a region or a kind of location have no say here. Whether a mode is off, and what
        may be sold without stock, each location says for itself.
        """
        if channel is None and (item is None or not self._with_item):
            own, group = sku if sku in self._per_sku else None, _ANY_GOODS
        else:
            own, group = self._group(sku, channel if channel in self._channels else None, item)
        of_sku = self._of_networks.get(own)
        found = None if of_sku is None else of_sku.get(group)
        if found is None:
            self._make_room()
            inside = self._candidates(own, None, item)
            modes = [_network_mode_terms(_Values(inside, mode, channel)) for mode in _MODES]
            found = self._of_networks.setdefault(own, {})[group] = NetworkTerms(modes[0], modes[1])
        return found

    # Inside

    def _group(self, sku: str, channel: str | None, item: Item | None) -> tuple[str | None, _Place]:
        """Under which SKU, and for which goods of which channel, resolved terms are kept."""
        own = sku if sku in self._per_sku else None
        if item is None or not self._with_item:
            return own, (channel, None, None)
        return own, (channel, item.category, item.brand)

    def _make_room(self) -> None:
        if self._cached_of_channels >= CHANNEL_TERMS_CACHED_MAX:
            self._of_networks, self._of_channels, self._cached_of_channels = {}, {}, 0
        self._cached_of_channels += 1

    def _settle(self, policy: PolicySet) -> bool:
        """Bring a policy in force or out of it, as its dates say; whether that changed anything."""
        begun = policy.valid_from is None or micros(policy.valid_from) <= self.clock_us
        over = policy.valid_until is not None and micros(policy.valid_until) <= self.clock_us
        holds = begun and not over
        if holds == (policy.policy in self._in_force):
            return False
        if holds:
            place = _place(policy.scope)
            self._in_force.add(policy.policy)
            self._in_scope.setdefault(place, {})[policy.policy] = policy
            self._count(policy, 1)
            self._changed(policy.scope.sku, policy.scope.location)
        else:
            self._withdraw(policy)
        return True

    def _withdraw(self, policy: PolicySet) -> None:
        place = _place(policy.scope)
        self._in_force.discard(policy.policy)
        peers = self._in_scope[place]
        del peers[policy.policy]
        if not peers:
            del self._in_scope[place]
        self._count(policy, -1)
        self._changed(policy.scope.sku, policy.scope.location)

    def _expect(self, feed: _Feed, until_us: int) -> None:
        """Look at a feed when its promise ends; one timer is enough, however often it promises."""
        expected_us = self._expected.get(feed)
        if until_us > self.clock_us and (expected_us is None or until_us < expected_us):
            self._expected[feed] = until_us
            heappush(self._timers, (until_us, True, *feed))

    def _listen(self, feed: _Feed) -> bool:
        """Note whether a feed is silent; whether that makes its location stale, or fresh again."""
        location, kind = feed
        until_us = self._alive.get(feed)
        silent = self._stale.get(location, set())
        was_stale = bool(silent)
        if until_us is not None and until_us <= self.clock_us:
            self._stale.setdefault(location, set()).add(kind)
        elif kind in silent:
            silent.remove(kind)
            if not silent:
                del self._stale[location]
        if was_stale == (location in self._stale):
            return False
        self._changed(None, location)
        return True

    def _count(self, policy: PolicySet, change: int) -> None:
        scope = policy.scope
        if policy.values.low_stock_exit is not None:
            self._with_exit += change
        if policy.values.reorder_point is not None:
            self._with_reorder_point += change
        if policy.values.network_safety_stock is not None:
            self._with_network_safety_stock += change
        if scope.category is not None or scope.brand is not None:
            self._with_item += change
        shape = tuple(value is not None for value in _place(scope))
        self._shapes[shape] += change
        if not self._shapes[shape]:
            del self._shapes[shape]
        if scope.channel is not None:
            self._channels[scope.channel] += change
            if not self._channels[scope.channel]:
                del self._channels[scope.channel]
            goods = (scope.sku, scope.category, scope.brand)
            named = self._channels_of.setdefault(goods, Counter())
            named[scope.channel] += change
            if not named[scope.channel]:
                del named[scope.channel]
                if not named:
                    del self._channels_of[goods]
        sku = scope.sku
        if sku is not None:
            self._per_sku[sku] = self._per_sku.get(sku, 0) + change
            if not self._per_sku[sku]:
                del self._per_sku[sku]

    def _changed(self, sku: str | None, location: str | None) -> None:
        """Forget the resolved terms that a change inside this scope can concern."""
        self.revision += 1
        self._forget_channels(sku, location)
        if sku is not None:
            forgotten = self._by_sku.pop(sku, None)
            self._cached -= 0 if forgotten is None else len(forgotten[1])
        elif location is None:
            self._by_sku, self._cached = {}, 0
            self._by_group, self._grouped = {}, 0
            self._by_location.clear()
        else:
            # All of them, not those at this location: many locations may change at once, and emptying twice is free.
            self._by_sku, self._cached = {}, 0
            self._grouped -= len(self._by_group.pop(location, ()))
            self._by_location.pop(location, None)

    def _forget_channels(self, sku: str | None, location: str | None) -> None:
        """The same for terms in a channel and over all locations; a location has no say in the latter."""
        if sku is not None:
            lost = len(self._of_channels.pop(sku, ())) + len(self._of_networks.pop(sku, ()))
            self._cached_of_channels -= lost
            return
        self._cached_of_channels -= sum(map(len, self._of_channels.values()))
        self._of_channels = {}
        if location is None:
            self._of_networks, self._cached_of_channels = {}, 0

    def _candidates(self, sku: str | None, location: str | None, item: Item | None) -> list[PolicySet]:
        """The policies in force that name nothing else than this, the most specific first."""
        described = None if location is None else self._locations.get(location)
        place: _Place = (
            sku,
            location,
            None if item is None else item.category,
            None if item is None else item.brand,
            None if described is None else described.region,
            None if location is None else "store" if described is None else described.kind,
        )
        found: list[PolicySet] = []
        for shape in self._shapes:
            named = tuple([value if used else None for value, used in zip(place, shape, strict=True)])
            if named.count(None) == shape.count(False):  # else a field is named that has no value here
                found.extend(self._in_scope.get(named, {}).values())
        return sorted(found, key=_precedence)

    def _resolve(self, sku: str | None, location: str, item: Item | None, channel: str | None = None) -> Terms:
        described = self._locations.get(location)
        inside = self._candidates(sku, location, item)
        stale = location in self._stale
        ship = _mode_terms(_Values(inside, "ship", channel), described is None or described.ship_enabled, stale)
        pickup = _mode_terms(_Values(inside, "pickup", channel), described is None or described.pickup_enabled, stale)
        banded = ship.exit > ship.enter + 1 or pickup.exit > pickup.enter + 1
        both = _Values(inside, None, None)
        return Terms(
            ship=ship,
            pickup=pickup,
            banded=banded,
            alike=ship == pickup,
            backorder_limit=both.get("backorder_limit") or 0,
            reorder_point=both.get("reorder_point"),
        )


class _Values:
    """The values that policies give one mode and channel; None of either leaves out all policies that name one."""

    def __init__(self, candidates: list[PolicySet], mode: Mode | None, channel: str | None) -> None:
        self.policies = [p for p in candidates if p.scope.mode in (None, mode) and p.scope.channel in (None, channel)]

    def first(self, value: str) -> tuple[int | None, str | None]:
        """What the most specific policy that sets this value says, and its id."""
        for policy in self.policies:
            found = getattr(policy.values, value)
            if found is not None:
                return found, policy.policy
        return None, None

    def get(self, value: str) -> int | None:
        """The same without the id."""
        return self.first(value)[0]


def _mode_terms(values: _Values, location_on: bool, stale: bool) -> ModeTerms:
    safety_stock, policy = values.first("safety_stock")
    stale_buffer = values.get("stale_buffer") if stale else 0
    on_top = (values.get("buffer") or 0) + (stale_buffer or 0)
    enter, exit_ = _band(values)
    return ModeTerms(
        off="location_off" if not location_on else "excluded" if values.get("enabled") is False else None,
        safety_stock=(safety_stock or 0) + on_top,
        enter=enter,
        exit=exit_,
        policy=policy,
        percent=values.get("safety_percent") or 0,
        on_top=on_top,
        stale=stale_buffer is None,
    )


def _network_mode_terms(values: _Values) -> NetworkModeTerms:
    safety_stock, policy = values.first("network_safety_stock")
    return NetworkModeTerms(safety_stock, policy, values.get("quota") or 0, *_band(values))


def _band(values: _Values) -> tuple[int, int]:
    """Where LOW_STOCK begins and where it ends."""
    enter = values.get("low_stock_enter")
    enter = LOW_STOCK_ENTER_DEFAULT if enter is None else enter
    return enter, max(enter + 1, values.get("low_stock_exit") or 0)


def _place(scope: Scope) -> _Place:
    return (scope.sku, scope.location, scope.category, scope.brand, scope.region, scope.location_kind)


def _precedence(policy: PolicySet) -> tuple[int, tuple[bool, ...], datetime, str]:
    """Sorts the most specific policy first, then by the ranked fields, then earliest end, then id."""
    missing = tuple(getattr(policy.scope, name) is None for name in _RANKED_FIELDS)
    return sum(missing), missing, policy.valid_until or _FOREVER, policy.policy


_MODES: tuple[Mode, Mode] = ("ship", "pickup")
