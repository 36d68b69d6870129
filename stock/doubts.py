"""What somebody may have to look at in one hold, order line or transfer, and from when on; never an alert itself.

A doubt follows from the fold of all facts that name the reference, in the order of their times, so the order in which
topics deliver them has no influence. Facts that were folded into a base for good are in doubt no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from stock.times import HOUR_US

if TYPE_CHECKING:
    from stock.orders import Hold, OrderLine
    from stock.supply import Transfer

DoubtKind = Literal["orphaned_hold", "orphaned_allocation", "unclaimed", "transfer_short"]


class Thresholds(Struct, frozen=True, gc=False):
    """From when on something is worth an alert.

    A count may differ by so many units, or so many percent of what was expected, whichever is more.
    """

    count_variance_units: int = 2
    count_variance_percent: int = 5
    unclaimed_us: int = HOUR_US
    hold_us: int = 24 * HOUR_US
    allocation_us: int = 7 * 24 * HOUR_US

    def allows(self, expected: int, counted: int) -> bool:
        """Whether a count is as near to what was expected as it has to be."""
        allowed = max(100 * self.count_variance_units, max(0, expected) * self.count_variance_percent)
        return 100 * abs(counted - expected) <= allowed


class Doubt(Struct, frozen=True, gc=False):
    """One reason to look, from `due_us` on. `units` may be 0 where a fact asks for all that an unknown one has."""

    kind: DoubtKind
    location: str
    units: int
    due_us: int


def of_hold(hold: Hold, thresholds: Thresholds) -> tuple[Doubt, ...]:
    """A hold that nobody stated, of which more was asked than it had, or that never ends by itself."""
    facts, location = hold.facts, hold.location
    if location is not None and hold.left:
        if hold.expires_at_us is not None:
            return ()
        since_us = max((f.time_us for f in facts if f.kind == "stated"), default=facts[0].time_us)
        return (Doubt("orphaned_hold", location, hold.left, since_us + thresholds.hold_us),)
    if not facts:
        return ()
    missing = hold.missing()  # units left would say that nothing is
    if location is None:
        return (Doubt("unclaimed", facts[0].location, missing.units, facts[0].time_us + thresholds.unclaimed_us),)
    if not missing.units:
        return ()
    return (Doubt("unclaimed", location, missing.units, missing.since_us + thresholds.unclaimed_us),)


def of_line(line: OrderLine, thresholds: Thresholds) -> tuple[Doubt, ...]:
    """An order line that nobody stated, of which more was asked than it had, or that stays open."""
    facts = line.facts
    if not facts:
        return ()
    if not line.cells:
        asked = line.missing().units
        return (Doubt("unclaimed", facts[0].location, asked, facts[0].time_us + thresholds.unclaimed_us),)
    doubts = []
    left = line.left()
    if left:
        since_us = max((f.time_us for f in facts if f.kind in ("stated", "arrived")), default=facts[0].time_us)
        due_us = since_us + thresholds.allocation_us
        doubts.append(Doubt("orphaned_allocation", min(left), sum(left.values()), due_us))
    missing = line.missing()
    if missing.units:
        due_us = missing.since_us + thresholds.unclaimed_us
        doubts.append(Doubt("unclaimed", min(left or line.cells), missing.units, due_us))
    return tuple(doubts)


def of_transfer(transfer: Transfer, thresholds: Thresholds) -> tuple[Doubt, ...]:
    """A transfer that nobody shipped, or whose final receipt left units over."""
    facts = transfer.facts
    if facts and not transfer.shipments:
        due_us = facts[0].time_us + thresholds.unclaimed_us
        return (Doubt("unclaimed", facts[0].location, transfer.early, due_us),)
    if transfer.lost:
        return (Doubt("transfer_short", transfer.shipments[0].to, transfer.lost, 0),)
    return ()
