"""What the alerts topic must say at rest: each alert opens once and closes once, and those that hold are open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.oracle import Expected, Key


def alert_problems(told: Iterable[Mapping[str, Any]], wanted: Mapping[Key, Expected]) -> list[str]:
    """Differences between the alerts that were told, in the order of their log, and what holds now."""
    problems = []
    by_id: dict[str, dict[str, Mapping[str, Any]]] = {}
    for alert in told:
        states = by_id.setdefault(alert["alert"], {})
        if alert["state"] in states:
            if states[alert["state"]] != alert:
                problems.append(f"alert {alert['alert']}: is {alert['state']} twice, with other content")
            continue
        if alert["state"] == "closed" and "open" not in states:
            problems.append(f"alert {alert['alert']}: closes before it opens")
        states[alert["state"]] = alert
    is_open = [next(iter(states.values())) for states in by_id.values() if "closed" not in states]
    told_open = [(alert["kind"], alert["sku"], alert["location"]) for alert in is_open]
    holds = {("shortage", *key) for key, one in wanted.items() if one.shortage > one.backorder_limit}
    holds |= {("overdue_transfer", *key) for key, one in wanted.items() if one.overdue}
    for key, one in wanted.items():
        position = one.on_hand - one.unavailable + one.in_transit + one.inbound - one.committed
        if one.reorder_point is not None and position <= one.reorder_point:
            holds.add(("reorder_point", *key))
    problems += [f"alert: {name} has several open" for name in sorted(set(told_open)) if told_open.count(name) > 1]
    problems += [f"alert: {name} is open, but does not hold" for name in sorted(set(told_open) - holds)]
    problems += [f"alert: {name} holds, but is not open" for name in sorted(holds - set(told_open))]
    return problems
