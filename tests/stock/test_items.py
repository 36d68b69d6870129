"""Lifecycles of SKUs by the status table, delisting and coming back, and items that outlive a crash."""

from __future__ import annotations

from typing import Any

import pytest

from stock.events import ItemSet, Lifecycle
from stock.items import Items, check_item, is_item_key, item_key
from stock.ledger import Ledger, check_packed
from stock.policies import Policies
from tests.sinks.fake_wire import Window
from tests.stock.facts import KEY, Desk, at, fact, location, policy, rules

COUNTED = fact("wms.count", 0, 5)


def item(lifecycle: Lifecycle, number: int = 1, **own: Any) -> ItemSet:
    """An item of SKU."""
    said: dict[str, Any] = {"brand": "own", "category": "shoes", **own}
    return ItemSet(id=f"i-{number}", source="master", occurred_at=at(number), sku="SKU", lifecycle=lifecycle, **said)


def desk_with(lifecycle: Lifecycle, *facts: Any, settings: tuple[Any, ...] = ()) -> Desk:
    """A desk with an item of SKU, then facts."""
    desk = Desk(Ledger(rules(*settings)))
    desk.ledger.apply_item("SKU", item(lifecycle), 0)
    desk.tell(*facts)
    return desk


SALE_5 = fact("pos.sale", 1, 5)
ALL_HELD_BACK = policy("p", {}, safety_stock=7)
# lifecycle, facts, settings: status and reason, available and withheld of ship
STATUSES: list[Any] = [
    ("active with stock", "active", (COUNTED,), (), ("IN_STOCK", None, 5, 0)),
    ("active, sold out", "active", (COUNTED, SALE_5), (), ("OUT_OF_STOCK", "sold_out", 0, 0)),
    ("preorder with stock on hand", "preorder", (COUNTED,), (), ("OUT_OF_STOCK", None, 0, 0)),
    ("preorder keeps back what it would", "preorder", (COUNTED,), (ALL_HELD_BACK,), ("OUT_OF_STOCK", None, 0, 5)),
    ("preorder before any count", "preorder", (fact("pos.return", 0, 1),), (), ("OUT_OF_STOCK", None, 0, 0)),
    (
        "preorder where a mode is off",
        "preorder",
        (COUNTED,),
        (location("A", ship=False, pickup=False),),
        ("OUT_OF_STOCK", "location_off", 0, 0),
    ),
    ("discontinued sells through", "discontinued", (COUNTED,), (), ("IN_STOCK", None, 5, 0)),
    ("discontinued and low", "discontinued", (COUNTED, fact("pos.sale", 1, 3)), (), ("LOW_STOCK", None, 2, 0)),
    ("discontinued, sold out", "discontinued", (COUNTED, SALE_5), (), ("DISCONTINUED", None, 0, 0)),
    ("discontinued, held back", "discontinued", (COUNTED,), (ALL_HELD_BACK,), ("DISCONTINUED", None, 0, 5)),
    (
        "discontinued and excluded",
        "discontinued",
        (COUNTED, SALE_5),
        (policy("p", {}, enabled=False),),
        ("OUT_OF_STOCK", "excluded", 0, 0),
    ),
    (
        "discontinued, never counted",
        "discontinued",
        (fact("pos.sale", 1, 1),),
        (),
        ("UNKNOWN", "no_baseline", None, 0),
    ),
]


@pytest.mark.parametrize(
    ("lifecycle", "facts", "settings", "wanted"), [row[1:] for row in STATUSES], ids=[row[0] for row in STATUSES]
)
def test_the_first_row_of_the_status_table_that_fits_holds(
    lifecycle: Lifecycle, facts: tuple[Any, ...], settings: tuple[Any, ...], wanted: tuple[Any, ...]
) -> None:
    """Mode off before preorder, preorder before unknown, stock before discontinued."""
    record = desk_with(lifecycle, *facts, settings=settings).record()
    assert (record.status_ship, record.reason, record.available_to_ship, record.withheld_ship) == wanted


def test_a_sku_without_an_item_is_active() -> None:
    """Master data may come late."""
    assert Items().lifecycle("SKU") == "active"
    desk = Desk()
    desk.tell(COUNTED)
    assert desk.record().status == "IN_STOCK"


def test_the_newest_record_holds_whatever_time_or_id_it_names() -> None:
    """The log is the order, and a record at or below the applied offset changes nothing."""
    ledger = Ledger(Policies())
    assert ledger.apply_item("SKU", item("discontinued", 9), 0) == 0
    assert ledger.apply_item("SKU", item("active", 1), 1) == 0
    assert ledger.items.lifecycle("SKU") == "active"
    assert ledger.apply_item("SKU", item("delisted"), 1) == 0
    assert ledger.items.lifecycle("SKU") == "active"
    assert ledger.totals.by_outcome == [3, 0, 0, 0, 0]


@pytest.mark.parametrize("gone", [None, item("delisted", 2)], ids=["a null value", "delisted"])
def test_a_delisted_sku_is_published_as_null_and_comes_back(gone: ItemSet | None) -> None:
    """At every location, once whatever is told of its stock meanwhile, and with that stock when it is listed again."""
    desk = Desk()
    window = Window(desk, interval_s=0)
    desk.tell(COUNTED, fact("wms.count", 0, 3, location="B"), fact("wms.count", 0, 9, sku="OTHER"))
    window.serve(1)
    assert {record.status for record in window.sent()} == {"IN_STOCK", "LOW_STOCK"}

    desk.ledger.apply_item("SKU", gone, 0)
    _look(window, 2)
    log = window.wire.logs["availability"]
    assert [(key, value) for key, value, _ in log.records[3:]] == [(b"SKU|A", None), (b"SKU|B", None)]
    assert window.stats.records_by_lane == {"urgent": 5, "routine": 0}
    assert [value for _, _, value, _, _ in window.published[3:]] == [None, None]

    desk.tell(fact("pos.sale", 3, 1), fact("wms.receipt", 3, 1, location="C"))
    _look(window, 3)
    assert [(key, value) for key, value, _ in log.records[5:]] == [(b"SKU|C", None)]

    desk.ledger.apply_item("SKU", item("active", 3), 1)
    window.serve(4)
    while window.outlet.sweep():
        continue
    window.serve(4)
    back = window.sent()
    assert {(r.location, r.on_hand, r.lane, r.cause.type) for r in back} == {
        ("A", 4, "urgent", "item.set"),
        ("B", 3, "urgent", "item.set"),
        ("C", 1, "urgent", "item.set"),
    }


def _look(window: Window, now: float) -> None:
    """One turn in which all keys of a changed item are looked at, and all records land."""
    window.serve(now)
    while window.outlet.sweep():
        continue
    window.serve(now)
    window.land()


def test_an_item_that_says_nothing_new_makes_nobody_look() -> None:
    """A catalogue is told anew each night."""
    ledger = Ledger(Policies())
    for offset in range(3):
        ledger.apply_item("SKU", item("active"), offset)
        assert (list(ledger.items_changed), ledger.items_changed.clear()) == ([] if offset else ["SKU"], None)


def test_items_outlive_a_restart_and_replayed_ones_count_once() -> None:
    """Whatever part of a flush survives: the item has its offset, the totals have theirs."""
    first = Ledger(Policies())
    Desk(first).tell(COUNTED)
    first.apply_item("SKU", item("active"), 0)
    whole = dict(first.flush())
    first.apply_item("SKU", None, 1)
    records = first.flush()
    assert [key for key, _ in records] == [item_key("SKU"), "|outcomes"]
    for survived in range(3):
        state = {key: value for key, value in {**whole, **dict(records[:survived])}.items() if value is not None}
        for key, packed in state.items():
            check_packed(key, packed)
        again = Ledger(Policies())
        again.restore(state, (), 0)
        assert again.items.lifecycle("SKU") == ("delisted" if survived else "active")
        outcomes = [again.apply_item("SKU", told, n) for n, told in enumerate((item("active"), None))]
        assert outcomes == [None, None if survived == 2 else 0]
        assert again.items.lifecycle("SKU") == "delisted"
        assert again.totals.by_outcome == [3, 0, 0, 0, 0]
        assert again.view(KEY).delisted


def test_a_rewritten_item_is_written_again() -> None:
    """Or deleted, where only a fenced writer knew of it."""
    ledger = Ledger(Policies())
    ledger.apply_item("SKU", item("discontinued", brand="b"), 4)
    [(key, packed), _] = ledger.flush()
    ledger.rewrite(key)
    ledger.rewrite(item_key("OTHER"))
    assert ledger.dirty
    assert ledger.flush()[:2] == [(key, packed), (item_key("OTHER"), None)]


def test_an_items_state_key_is_no_balance() -> None:
    """And what is no item is not taken for one."""
    assert is_item_key(item_key("SKU"))
    assert not is_item_key(KEY)
    with pytest.raises(ValueError, match="int"):
        check_item(b"\x94\xa1a\xa1b\xa1c\xa1d")
    with pytest.raises(ValueError, match="Invalid enum value"):
        check_packed(item_key("SKU"), b"\x94\x01\xa1b\xa1c\xa1d")
