"""Why a mode has its status, in a sentence for a stock controller; the numbers themselves come from elsewhere."""

from __future__ import annotations

from stock.availability import (
    BACKORDERABLE,
    DISCONTINUED,
    IN_STOCK,
    LOW_STOCK,
    PREORDERABLE,
    STATUSES,
    ModeView,
    View,
)
from stock.terms import ModeTerms


def why(mode: str, seen: View, told: ModeView, terms: ModeTerms) -> str:
    """One sentence that says which rule made this status."""
    raw = seen.on_hand - seen.unavailable - seen.committed
    if told.reason == "location_off":
        return f"The location does not sell by {mode}: its location.set says so."
    if told.reason == "excluded":
        return f"A policy with enabled=false excludes {mode} here."
    if told.reason == "no_baseline":
        return "Nobody has ever counted or received anything here, so what lies there is not known; send a wms.count."
    if told.reason == "stale_source":
        return "A feed of the location has been silent for longer than it promised, and no policy sets a stale_buffer."
    if told.status == BACKORDERABLE:
        return f"Nothing is free ({raw}), and {seen.backorder_left} more may be sold without stock (backorder_limit)."
    if told.status == PREORDERABLE:
        return f"The item is on preorder: {seen.backorder_left} may be sold before there is any (backorder_limit)."
    if told.status == DISCONTINUED:
        return "The item is discontinued, and what was left of it is sold."
    if told.status == IN_STOCK:
        return f"{told.available} can be sold, more than the low-stock level of {terms.enter}."
    if told.status == LOW_STOCK:
        assert told.available is not None
        if told.available <= terms.enter:
            return f"{told.available} can be sold, not more than the low-stock level of {terms.enter}."
        return f"{told.available} can be sold; it was low before, and is IN_STOCK again only from {terms.exit} on."
    if told.reason == "withheld_by_safety_stock":
        return f"{raw} would be free, but safety stock and buffer of {told.safety_stock} keep all of it back."
    if told.reason == "sold_out":
        return _sold_out(seen, raw)
    return f"The rules of the item or its location say {STATUSES[told.status]}" + (
        f" ({told.reason})." if told.reason else "."
    )


def _sold_out(seen: View, raw: int) -> str:
    physical = seen.on_hand - seen.unavailable
    if seen.on_hand <= 0 and not seen.committed:
        return f"Nothing is on hand ({seen.on_hand})."
    if physical <= 0 < seen.on_hand:
        return f"All {seen.on_hand} on hand are damaged, on quality hold or on display."
    if raw < 0:
        return f"{seen.committed} are promised, {-raw} more than the {physical} that can be sold."
    return f"All {physical} that can be sold are promised to holds and orders."
