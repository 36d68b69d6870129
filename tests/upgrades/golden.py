"""Golden files: state as the encoder of one format writes it for a fixed history, and what it must be restored to.

`python -m tests.upgrades.golden` writes those of the present format, once. It refuses to overwrite: files of a format
that was released stay as they were written. What only adds to a format, in a way that a program from before it reads
and leaves alone, is a revision of it.
"""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from schemas.records import encode, micros
from schemas.state import CLAIM_KEY, FORMAT, Claim, encode_claim, encode_metadata, open_envelope, seal
from sinks.outlet import digest_of, record_of
from stock.balance import Balance
from stock.doubts import Thresholds
from stock.events import LocationSet, PolicySet, PolicyValues, Scope, StockFact
from stock.ledger import OUTCOMES, Ledger
from stock.policies import Policies
from tests.stock.facts import KINDS

FOLDER = Path(__file__).parent
REVISION = 2  # of the format: echoes, moves of states, channels and promises of holds, decisions
PRESENT = FOLDER / f"format-{FORMAT}.{REVISION}"
STATE, EXPECTED = "state.jsonl", "expected.json"
START = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
GENERATION = 3
CUTS = 20  # More than are merged into one, so that both kinds of journal records are there.
POS, WMS, ORDERS = range(3)
NEVER = 2**62
NO_DOUBTS = Thresholds(unclaimed_us=NEVER, hold_us=NEVER, allocation_us=NEVER)  # timers that no golden file knows


def at(seconds: float) -> datetime:
    """So many seconds into the history."""
    return START + timedelta(seconds=seconds)


def policies() -> Policies:
    """The rules of the history: a band for LOW_STOCK, so that flags are set."""
    rules = Policies()
    said: dict[str, Any] = {"id": "1", "source": "planning", "occurred_at": START}
    rules.set_policy(
        PolicySet(**said, policy="low", scope=Scope(), values=PolicyValues(low_stock_enter=5, low_stock_exit=9))
    )
    rules.set_location(LocationSet(**said, location="STORE-Ä", kind="store", ship_enabled=False, pickup_enabled=True))
    return rules


class History:
    """A ledger that is told numbered facts."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.offsets = [0, 0, 0]
        self.records: dict[str, bytes] = {}

    def tell(self, topic: int, kind: str, seconds: float, sku: str, location: str, **own: Any) -> int | None:
        """Apply one fact; its outcome."""
        offset = self.offsets[topic]
        self.offsets[topic] += 1
        said = {"id": f"{topic}-{offset}", "source": "golden", "occurred_at": at(seconds), **own}
        event = KINDS[kind](**said, sku=sku, location=location)
        assert isinstance(event, StockFact)
        return self.ledger.apply(event, topic, offset, micros(at(seconds)))

    def cut(self, *published: str) -> None:
        """Acknowledge some keys as published, then make everything durable."""
        for key in published:
            seen, _ = self.ledger.settle(key)
            self.ledger.publishing(key)
            self.ledger.acknowledge(key, digest_of(seen), seen.statuses())
        for key, packed in self.ledger.flush():
            if packed is None:
                self.records.pop(key, None)
            else:
                self.records[key] = packed


def history() -> History:
    """The fixed history: each kind of state record, in each of its shapes."""
    told = History(Ledger(policies()))
    tell = told.tell
    tell(WMS, "wms.receipt", 0, "SKU-1", "DC-1", units=40)
    tell(WMS, "wms.count", 5, "SKU-1", "STORE-Ä", units=7)
    tell(POS, "pos.sale", 6, "SKU-2", "STORE-B", units=2)  # never counted
    tell(WMS, "wms.status_changed", 7, "SKU-1", "DC-1", units=3, from_state="sellable", to_state="damaged")
    tell(ORDERS, "reservation.created", 8, "SKU-1", "DC-1", reservation="R", units=2, mode="ship", expires_at=at(900))
    tell(ORDERS, "reservation.renewed", 9, "SKU-1", "DC-1", reservation="R", expires_at=at(1_800))
    tell(ORDERS, "reservation.created", 9, "SKU-1", "STORE-Ä", reservation="R|1", line="2", units=1, mode="pickup")
    tell(ORDERS, "reservation.created", 9, "SKU-1", "DC-1", reservation="gone", units=4, mode="ship", expires_at=at(20))
    tell(ORDERS, "order.allocated", 10, "SKU-1", "DC-1", order_line="O-1", units=6, reservation="R")
    tell(ORDERS, "order.fulfilled", 11, "SKU-1", "DC-1", order_line="O-1", units=2)
    tell(ORDERS, "order.allocated", 12, "SKU-1", "STORE-Ä", order_line="O-1", units=1)
    told.cut("SKU-1|DC-1", "SKU-1|STORE-Ä", "SKU-2|STORE-B")
    for number in range(140):  # more facts than a hold keeps one by one
        tell(
            ORDERS,
            "reservation.created",
            13 + number,
            "SKU-3",
            "DC-1",
            reservation="busy",
            units=number + 1,
            mode="ship",
        )
    for number in range(CUTS):
        tell(POS, "pos.sale", 200 + number, "SKU-1", "DC-1", units=1)
        told.cut()
    tell(POS, "pos.sale", 200, "SKU-1", "DC-1", units=1, id="0-5")  # a repeat
    tell(POS, "pos.sale", 4, "SKU-1", "STORE-Ä", units=1)  # from before the count
    tell(WMS, "wms.receipt", 300, "SKU-1", "STORE-Ä", units=1)  # a cause that is kept until it is published
    told.ledger.refuse(POS, told.offsets[POS])
    told.ledger.advance(micros(at(400)))
    told.cut()
    return told


def facts_of(ledger: Ledger) -> dict[str, Any]:
    """Everything that a restored ledger must know, as plain values."""
    records = {}
    for key in sorted(ledger.keys()):
        seen, balance = ledger.settle(key)
        record = record_of(key, seen, balance, balance.cause, 1, "routine", at(500))
        records[key] = {
            "record": json.loads(encode(record)),
            "balance": fields_of(balance),
            "is_published": digest_of(seen) == balance.digest,
        }
    return {
        "balances": records,
        "outcomes": dict(zip(OUTCOMES, ledger.totals.by_outcome, strict=True)),
        "ends_us": ledger.commitments.next_timer_us(),
        "clock_us": ledger.commitments.clock_us,
        "ids": sorted(ledger.recent.ids),
        "orders": len(ledger.commitments),
    }


def fields_of(balance: Balance) -> list[Any]:
    """What a balance keeps, without the last fields that say nothing: a revision may have more of them."""
    fields: list[Any] = msgspec.to_builtins(balance)
    while fields[-1] is None:
        fields.pop()
    return fields


def later(told: History) -> dict[str, Any]:
    """What the facts after a restart do: only who remembers repeats, movements and holds gets these right."""
    outcomes = [
        told.tell(POS, "pos.sale", 201, "SKU-1", "DC-1", units=1, id="0-6"),  # in a merged journal record
        told.tell(POS, "pos.sale", 219, "SKU-1", "DC-1", units=1, id="0-20"),  # in one of its own
        told.tell(WMS, "wms.count", 210, "SKU-1", "DC-1", units=100),  # ten sales came after it
        told.tell(ORDERS, "reservation.released", 400, "SKU-1", "STORE-Ä", reservation="R|1", line="2"),
        told.tell(ORDERS, "order.deallocated", 401, "SKU-1", "DC-1", order_line="O-1", units=1),
        told.tell(ORDERS, "reservation.released", 402, "SKU-3", "DC-1", reservation="busy", units=40),
    ]
    told.ledger.advance(micros(at(2_000)))
    return {"outcomes": outcomes, **facts_of(told.ledger)}


def restored(records: dict[str, bytes], offsets: list[int]) -> History:
    """A new process's ledger, filled from packed values by key."""
    ledger = Ledger(policies(), thresholds=NO_DOUBTS)
    ledger.restore(dict(records), (), micros(at(500)))
    told = History(ledger)
    told.offsets = list(offsets)
    return told


def read(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Sealed state records by key, and what is expected of them."""
    lines = [json.loads(line) for line in (folder / STATE).read_text(encoding="utf-8").splitlines()]
    records = {line["key"]: base64.b64decode(line["value"]) for line in lines}
    return records, json.loads((folder / EXPECTED).read_text(encoding="utf-8"))


def write(folder: Path) -> None:
    """Make the golden files of the present format.

    Raises:
        FileExistsError: they are there already.
    """
    folder.mkdir(parents=True)
    told = history()
    packed = told.records
    sealed = {key: seal(GENERATION) + value for key, value in packed.items()}
    sealed[CLAIM_KEY] = encode_claim(Claim(GENERATION, "golden", 12))
    with (folder / STATE).open("w", encoding="utf-8") as file:
        for key, value in sealed.items():
            file.write(json.dumps({"key": key, "value": base64.b64encode(value).decode()}) + "\n")
    content = {key: open_envelope(value)[1] for key, value in sealed.items() if key != CLAIM_KEY}
    again = restored(content, told.offsets)
    expected = {
        "offsets": told.offsets,
        "claim": {"generation": GENERATION, "writer": "golden", "partitions": 12},
        "metadata": {"text": encode_metadata(GENERATION, 5, 6), "values": [1, GENERATION, 5, 6]},
        "restored": facts_of(again.ledger),
        "later": later(again),
    }
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Write, or refuse."""
    folder = PRESENT
    try:
        write(folder)
    except FileExistsError:
        Console(stderr=True).print(
            f"{folder} is there: what was written by a released format stays as it is. A change of the state needs a "
            "new revision or format number (CONTRIBUTING.md, Change something stored)."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
