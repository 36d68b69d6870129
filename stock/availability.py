"""The formula: from a balance and the terms that hold to what can be sold; the only place that knows it.

Source of the numbers: on hand less what is unavailable, less what is committed, less safety stock, never below 0
for a buyer; the shortfall is told apart as `shortage`, what safety stock keeps back as `withheld`.
"""

from __future__ import annotations

from msgspec import Struct, structs

from stock import items
from stock.balance import HAS_BASELINE, LOW_PICKUP, LOW_SHIP, UNAVAILABLE, Balance, unavailable_of
from stock.events import Lifecycle
from stock.supply import NOTHING, Given, Incoming
from stock.terms import ModeTerms, Terms

# Stored. The position of a status is what state records keep. From best to worst, as the better mode is chosen.
STATUSES = (
    "IN_STOCK",
    "LOW_STOCK",
    "BACKORDERABLE",
    "PREORDERABLE",
    "UNKNOWN",
    "DISCONTINUED",
    "OUT_OF_STOCK",
)
IN_STOCK, LOW_STOCK, BACKORDERABLE, PREORDERABLE, UNKNOWN, DISCONTINUED, OUT_OF_STOCK = range(7)
_ACTIVE, _PREORDER, _DISCONTINUED, _DELISTED = items.ACTIVE, items.PREORDER, items.DISCONTINUED, items.DELISTED
DELISTED = 7  # Stored like a status, and published as a null record.


class ModeView(Struct, gc=False, array_like=True):
    """One mode's answer: status (position in STATUSES), its reason, units available (None: not known), withheld."""

    status: int
    reason: str | None
    available: int | None
    withheld: int
    safety_stock: int
    policy: str | None


class View(Struct, gc=False, array_like=True):
    """Everything that a record says of one key, apart from what never makes a record by itself."""

    ship: ModeView
    pickup: ModeView
    on_hand: int
    unavailable: int
    committed: int
    shortage: int
    in_transit: int = 0
    inbound: int = 0
    next_inbound_at_us: int | None = None
    backorder_left: int = 0

    @property
    def delisted(self) -> bool:
        """Whether nothing is published of this key but that it is gone."""
        return self.ship.status == DELISTED

    @property
    def better(self) -> ModeView:
        """The mode whose status comes first in STATUSES; ship if both are equal."""
        return self.ship if self.ship.status <= self.pickup.status else self.pickup

    def statuses(self) -> int:
        """The statuses of both modes in one number, as a state record keeps them; never 0."""
        return 64 + self.ship.status * 8 + self.pickup.status


def view(
    balance: Balance,
    committed: int,
    terms: Terms,
    incoming: Incoming = NOTHING,
    lifecycle: Lifecycle = _ACTIVE,
    allocated_then: int = 0,
) -> View:
    """What can be sold now.

    Args:
        balance: stock on hand and its unavailable part, in units; its flags say which mode was LOW before.
        committed: units bound by open holds and allocations.
        terms: the resolved policies of this key.
        incoming: what is on its way to this key, and what cancelled transfers gave back to it.
        lifecycle: of the SKU.
        allocated_then: units that were allocated here when the newest count was taken, which a net count left out.
    """
    on_hand = balance.on_hand
    if incoming.given:
        on_hand, unavailable = _with_given(balance, incoming.given)
    else:
        unavailable = balance.unavailable
    if balance.net is not None:
        on_hand += left_out(balance, incoming.given) + allocated_then
    physical = on_hand - unavailable
    raw = physical - committed
    shortage = -raw if raw < 0 else 0
    if lifecycle == _DELISTED:
        gone = ModeView(DELISTED, None, None, 0, 0, None)
        return View(gone, gone, on_hand, unavailable, committed, shortage)
    left = 0
    if terms.backorder_limit > shortage and (terms.ship.off is None or terms.pickup.off is None):
        left = terms.backorder_limit - shortage
    flags = balance.flags
    known = bool(flags & HAS_BASELINE)
    low = flags & (LOW_SHIP | LOW_PICKUP)
    ship = _mode_view(physical, raw, known, terms.ship, lifecycle, left, bool(flags & LOW_SHIP))
    same = terms.alike and (low == 0 or low == LOW_SHIP | LOW_PICKUP)
    return View(
        ship,
        ship if same else _mode_view(physical, raw, known, terms.pickup, lifecycle, left, bool(flags & LOW_PICKUP)),
        on_hand,
        unavailable,
        committed,
        shortage,
        incoming.in_transit,
        incoming.inbound,
        incoming.next_at_us,
        left,
    )


def _with_given(balance: Balance, given: tuple[Given, ...]) -> tuple[int, int]:
    """On hand and unavailable with what cancelled transfers gave back; the newest count includes what was before it."""
    counted_us = 0 if balance.count is None else balance.count[0]
    whole = structs.replace(balance)
    for one in given:
        if one.time_us >= counted_us:
            whole.on_hand += one.units
        whole.move_state(one.state, one.units)
    return whole.on_hand, whole.unavailable


def left_out(balance: Balance, given: tuple[Given, ...]) -> int:
    """What a net count left out because it was unavailable, which is on hand all the same."""
    assert balance.count is not None
    assert balance.net is not None
    then = dict(zip(UNAVAILABLE, balance.net, strict=True))
    for one in given:
        if one.time_us < balance.count[0] and one.state in then:
            then[one.state] += one.units
    return unavailable_of(then.values())


def low_flags(seen: View, flags: int) -> int:
    """A balance's flags with the LOW bits of this view."""
    flags &= ~(LOW_SHIP | LOW_PICKUP)
    if seen.ship.status == LOW_STOCK:
        flags |= LOW_SHIP
    if seen.pickup.status == LOW_STOCK:
        flags |= LOW_PICKUP
    return flags


def is_urgent(before: int, after: int) -> bool:
    """Whether a change of `statuses()` must go out at once: all but a step between IN_STOCK and LOW_STOCK.

    A number going to or from 0 or null always shows as such a change. `before` is 0 if nothing was published yet.
    """
    if before == after:
        return False
    if before == 0:
        return True
    was, now = before - 64, after - 64
    return _kind(was >> 3) != _kind(now >> 3) or _kind(was & 7) != _kind(now & 7)


def _kind(status: int) -> int:
    return IN_STOCK if status == LOW_STOCK else status


def _mode_view(
    physical: int, raw: int, known: bool, terms: ModeTerms, lifecycle: Lifecycle, left: int, was_low: bool
) -> ModeView:
    """One mode's answer; `left` units may still be sold without stock.

    The first row of the status table that fits holds; what can be sold is by far the most frequent and excludes those
    before it at once.
    """
    safety_stock = terms.safety_stock
    if terms.percent and physical > 0:
        share = -(-physical * terms.percent // 100)
        safety_stock = max(safety_stock - terms.on_top, share) + terms.on_top
    available = raw - safety_stock
    if available > 0 and known and terms.off is None and not terms.stale and lifecycle != _PREORDER:
        low = available <= terms.enter or (was_low and available < terms.exit)
        return ModeView(LOW_STOCK if low else IN_STOCK, None, available, safety_stock, safety_stock, terms.policy)
    if terms.off is not None:
        return ModeView(OUT_OF_STOCK, terms.off, 0, 0, safety_stock, terms.policy)
    withheld = 0 if raw <= 0 else min(raw, safety_stock)
    if lifecycle == _PREORDER:
        return ModeView(PREORDERABLE if left else OUT_OF_STOCK, None, 0, withheld, safety_stock, terms.policy)
    if not known or terms.stale:
        reason = "stale_source" if known else "no_baseline"
        return ModeView(UNKNOWN, reason, None, 0, safety_stock, terms.policy)
    if lifecycle == _DISCONTINUED:
        return ModeView(DISCONTINUED, None, 0, withheld, safety_stock, terms.policy)
    if left:
        return ModeView(BACKORDERABLE, None, 0, withheld, safety_stock, terms.policy)
    reason = "withheld_by_safety_stock" if raw > 0 else "sold_out"
    return ModeView(OUT_OF_STOCK, reason, 0, withheld, safety_stock, terms.policy)
