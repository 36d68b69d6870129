"""The simple balance job as plain functions, for the peers that are written in Python; never any of stockflow's code.

A sale takes from what is on hand, a receipt adds to it, a hold commits; what is available is the rest. No repeats are
recognised, nothing expires, no policy is applied. The record has the numbers and the cause, a third of stockflow's
bytes. The peers run these files as scripts, with interpreters that know nothing of this project.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import orjson

LOW_UNITS = 3
COMMIT_S = 0.2  # How often a peer commits: as often as stockflow does.


def arguments() -> argparse.Namespace:
    """What each peer is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--inputs", required=True, help="topics, with commas in between")
    parser.add_argument("--output", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for state on the disk; empty at the start")
    parser.add_argument("--linger-ms", type=int, required=True)
    options = parser.parse_args()
    options.inputs = options.inputs.split(",")
    return options


def take(balance: list[int], event: dict[str, Any]) -> None:
    """Let an event have its effect on a balance, which is [version, on hand, committed]."""
    kind, units = event["type"], event["units"]
    if kind == "pos.sale":
        balance[1] -= units
    elif kind == "wms.receipt":
        balance[1] += units
    else:
        balance[2] += units
    balance[0] += 1


def record(balance: list[int], event: dict[str, Any]) -> bytes:
    """What is published of a balance after an event."""
    version, on_hand, committed = balance
    available = max(0, on_hand - committed)
    return orjson.dumps(
        {
            "version": version,
            "sku": event["sku"],
            "location": event["location"],
            "status": "IN_STOCK" if available > LOW_UNITS else "LOW_STOCK" if available else "OUT_OF_STOCK",
            "available": available,
            "on_hand": on_hand,
            "committed": committed,
            "cause": {
                "type": event["type"],
                "id": event["id"],
                "source": event["source"],
                "occurred_at": event["occurred_at"],
            },
            "changed_at_ms": time.time_ns() // 1_000_000,
        }
    )
