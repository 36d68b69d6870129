"""Which values hold for a SKU at a location: locations, policies and how they are resolved; never any stock."""

from __future__ import annotations

from datetime import datetime, timezone

from msgspec import Struct

from stock.events import LocationSet, Mode, PolicySet, Scope

LOW_STOCK_ENTER_DEFAULT = 3  # Holds where no policy sets `low_stock_enter`.
SUPPORTED_SCOPE = frozenset({"sku", "location", "mode"})
SUPPORTED_VALUES = frozenset({"safety_stock", "buffer", "low_stock_enter", "low_stock_exit", "enabled"})
SKU_TERMS_CACHED_MAX = 100_000  # Terms of SKUs with policies of their own; beyond this the cache starts anew.

# The order in which scope fields decide between two policies with equally many of them.
_RANKED_FIELDS = ("sku", "location", "channel", "mode", "category", "brand", "region", "location_kind")
_FOREVER = datetime.max.replace(tzinfo=timezone.utc)


class ModeTerms(Struct, frozen=True, gc=False):
    """What holds for one way of selling (ship or pickup) at one key.

    `off` is None while the mode sells, else the published reason. `safety_stock` includes the buffer.
    """

    off: str | None
    safety_stock: int
    enter: int
    exit: int
    policy: str | None


class Terms(Struct, frozen=True, gc=False):
    """What holds at one key for both modes.

    `banded`: LOW_STOCK depends on the way there. `alike`: both modes have the very same terms.
    """

    ship: ModeTerms
    pickup: ModeTerms
    banded: bool
    alike: bool


class Policies:
    """All locations and policies in force, resolved on demand per (SKU, location).

    Not thread-safe. `revision` counts the changes, so that a reader can tell whether it has seen them all.
    A change forgets only what it can concern, since a retailer has a safety stock for every SKU.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._locations: dict[str, LocationSet] = {}
        self._policies: dict[str, PolicySet] = {}
        self._in_scope: dict[tuple[str | None, str | None], dict[str, PolicySet]] = {}  # by SKU and location, then id
        self._per_sku: dict[str, int] = {}  # how many policies name the SKU
        self._with_exit = 0
        self._by_location: dict[str, Terms] = {}
        self._by_sku: dict[str, dict[str, Terms]] = {}
        self._cached = 0

    @property
    def banded(self) -> bool:
        """Whether LOW_STOCK may depend on the way there, somewhere."""
        return self._with_exit > 0

    def set_location(self, location: LocationSet) -> None:
        """Describe a location; the newest description holds."""
        self._locations[location.location] = location
        self._changed(None, location.location)

    def remove_location(self, location: str) -> None:
        """Forget a location: it counts as a store with both modes on."""
        if self._locations.pop(location, None) is not None:
            self._changed(None, location)

    def set_policy(self, policy: PolicySet) -> Scope | None:
        """Put a policy in force; the scope that it replaces comes back, or None if its id is new."""
        replaced = self.remove_policy(policy.policy)
        scope = policy.scope
        self._policies[policy.policy] = policy
        self._in_scope.setdefault((scope.sku, scope.location), {})[policy.policy] = policy
        self._count(policy, 1)
        self._changed(scope.sku, scope.location)
        return replaced

    def remove_policy(self, policy: str) -> Scope | None:
        """End a policy; its scope comes back, or None if it was not known."""
        removed = self._policies.pop(policy, None)
        if removed is None:
            return None
        scope = removed.scope
        peers = self._in_scope[scope.sku, scope.location]
        del peers[policy]
        if not peers:
            del self._in_scope[scope.sku, scope.location]
        self._count(removed, -1)
        self._changed(scope.sku, scope.location)
        return scope

    def terms(self, sku: str, location: str) -> Terms:
        """What holds for a SKU at a location."""
        if sku in self._per_sku:
            of_sku = self._by_sku.get(sku)
            found = None if of_sku is None else of_sku.get(location)
            if found is None:
                if self._cached >= SKU_TERMS_CACHED_MAX:
                    self._by_sku.clear()
                    self._cached = 0
                self._cached += 1
                found = self._by_sku.setdefault(sku, {})[location] = self._resolve(sku, location)
            return found
        found = self._by_location.get(location)
        if found is None:
            found = self._by_location[location] = self._resolve(None, location)
        return found

    def _count(self, policy: PolicySet, change: int) -> None:
        if policy.values.low_stock_exit is not None:
            self._with_exit += change
        sku = policy.scope.sku
        if sku is not None:
            self._per_sku[sku] = self._per_sku.get(sku, 0) + change
            if not self._per_sku[sku]:
                del self._per_sku[sku]

    def _changed(self, sku: str | None, location: str | None) -> None:
        """Forget the resolved terms that a change inside this scope can concern."""
        self.revision += 1
        if sku is not None:
            self._cached -= len(self._by_sku.pop(sku, ()))
            return
        self._by_sku.clear()
        self._cached = 0
        if location is None:
            self._by_location.clear()
        else:
            self._by_location.pop(location, None)

    def _resolve(self, sku: str | None, location: str) -> Terms:
        described = self._locations.get(location)
        scopes = {(None, None), (None, location), (sku, None), (sku, location)}
        inside = sorted(
            (policy for scope in scopes for policy in self._in_scope.get(scope, {}).values()), key=_precedence
        )
        ship = self._mode_terms(inside, "ship", described is None or described.ship_enabled)
        pickup = self._mode_terms(inside, "pickup", described is None or described.pickup_enabled)
        banded = ship.exit > ship.enter + 1 or pickup.exit > pickup.enter + 1
        return Terms(ship=ship, pickup=pickup, banded=banded, alike=ship == pickup)

    def _mode_terms(self, candidates: list[PolicySet], mode: Mode, location_on: bool) -> ModeTerms:
        inside = [p for p in candidates if p.scope.mode in (None, mode) and p.scope.channel is None]

        def first(value: str) -> tuple[int | None, str | None]:
            for policy in inside:
                found = getattr(policy.values, value)
                if found is not None:
                    return found, policy.policy
            return None, None

        safety_stock, policy = first("safety_stock")
        buffer, _ = first("buffer")
        enter, _ = first("low_stock_enter")
        leave, _ = first("low_stock_exit")
        enabled, _ = first("enabled")
        enter = LOW_STOCK_ENTER_DEFAULT if enter is None else enter
        off = "location_off" if not location_on else "excluded" if enabled is False else None
        return ModeTerms(
            off=off,
            safety_stock=(safety_stock or 0) + (buffer or 0),
            enter=enter,
            exit=max(enter + 1, leave or 0),
            policy=policy,
        )


def unsupported(policy: PolicySet) -> str | None:
    """The first scope field or value of a policy that is not evaluated yet, or None if all are."""
    for name in policy.scope.__struct_fields__:
        if name not in SUPPORTED_SCOPE and getattr(policy.scope, name) is not None:
            return f"scope.{name}"
    for name in policy.values.__struct_fields__:
        if name not in SUPPORTED_VALUES and getattr(policy.values, name) is not None:
            return f"values.{name}"
    if policy.valid_from is not None or policy.valid_until is not None:
        return "valid_from/valid_until"
    return None


def _precedence(policy: PolicySet) -> tuple[int, tuple[bool, ...], datetime, str]:
    """Sorts the most specific policy first, then by the ranked fields, then earliest end, then id."""
    missing = tuple(getattr(policy.scope, name) is None for name in _RANKED_FIELDS)
    return sum(missing), missing, policy.valid_until or _FOREVER, policy.policy
