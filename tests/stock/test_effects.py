"""From each type of fact to what it moves, states and tells holds and order lines."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from stock.effects import SUPPORTED, effect_of
from stock.events import OrderMessage, PosMessage, StockFact, WmsMessage
from stock.orders import Fact
from tests.stock.facts import fact, hold, renewed, us, void

NAMED = {"reservation": "R", "line": "1", "order_line": "L"}


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def told(of: Fact | None) -> tuple[str, int | None] | None:
    """What a hold or order line is told: the kind of fact and its units."""
    return None if of is None else (of.kind, of.units)


# Units moved, states moved, what the hold and the order line are told.
EFFECTS = [
    case("a sale", fact("pos.sale", 1, 3), -3, (), None, None),
    case("a sale of a display piece", fact("pos.sale", 1, 3, state="display"), -3, (("display", -3),), None, None),
    case("a pick-up", fact("pos.sale", 1, 3, **NAMED), -3, (), ("taken", 3), ("taken", 3)),
    case("a pick-up of a hold", fact("pos.sale", 1, 3, reservation="R"), -3, (), ("taken", 3), None),
    case("a pick-up of an order line", fact("pos.sale", 1, 3, order_line="L"), -3, (), None, ("taken", 3)),
    case("a return", fact("pos.return", 1, 3), 3, (), None, None),
    case("a damaged return", fact("pos.return", 1, 3, state="damaged"), 3, (("damaged", 3),), None, None),
    case("a return binds nothing anew", fact("pos.return", 1, 3, **NAMED), 3, (), None, None),
    case("a voided sale", void("pos.sale", 9, 3, 1), 3, (), None, None),
    case("a voided sale of display", void("pos.sale", 9, 3, 1, state="display"), 3, (("display", 3),), None, None),
    case("a voided pick-up", void("pos.sale", 9, 3, 1, **NAMED), 3, (), None, ("given_back", 3)),
    case("a voided return", void("pos.return", 9, 3, 1), -3, (), None, None),
    case("a voided return, damaged", void("pos.return", 9, 3, 1, state="damaged"), -3, (("damaged", -3),), None, None),
    case("a receipt", fact("wms.receipt", 1, 3), 3, (), None, None),
    case("a receipt on hold", fact("wms.receipt", 1, 3, state="quality_hold"), 3, (("quality_hold", 3),), None, None),
    case("a receipt binds nothing", fact("wms.receipt", 1, 3, **NAMED), 3, (), None, None),
    case("a shipment", fact("wms.shipment", 1, 3, **NAMED), -3, (), ("taken", 3), ("taken", 3)),
    case("a shipment that stayed", fact("wms.shipment_voided", 1, 3, **NAMED), 3, (), None, ("given_back", 3)),
    case("found", fact("wms.adjustment", 1, 3, **NAMED), 3, (), None, None),
    case("lost", fact("wms.adjustment", 1, -3, **NAMED), -3, (), ("taken", 3), ("taken", 3)),
    case("written off", fact("wms.adjustment", 1, -3, state="damaged"), -3, (("damaged", -3),), None, None),
    case(
        "another state",
        fact("wms.status_changed", 1, 3, from_state="damaged", to_state="display"),
        0,
        (("damaged", -3), ("display", 3)),
        None,
        None,
    ),
    case("a hold", hold(1, 3), 0, (), ("stated", 3), None),
    case("a renewal", renewed(1, 9), 0, (), ("renewed", None), None),
    case("a release", fact("reservation.released", 1), 0, (), ("returned", None), None),
    case("a release of some", fact("reservation.released", 1, 2), 0, (), ("returned", 2), None),
    case("an allocation", fact("order.allocated", 1, 3), 0, (), None, ("stated", 3)),
    case("an allocation of a hold", fact("order.allocated", 1, 3, reservation="R"), 0, (), ("taken", 3), ("stated", 3)),
    case("a deallocation", fact("order.deallocated", 1, 3), 0, (), None, ("returned", 3)),
    case("a fulfilment", fact("order.fulfilled", 1, 3), -3, (), None, ("taken", 3)),
    case("a fulfilment of a hold", fact("order.fulfilled", 1, 3, **NAMED), -3, (), ("taken", 3), ("taken", 3)),
]


@pytest.mark.parametrize(("event", "units", "states", "of_hold", "of_line"), EFFECTS)
def test_a_fact_means_what_the_table_says(
    event: StockFact, units: int, states: tuple[Any, ...], of_hold: Any, of_line: Any
) -> None:
    """On hand, states, hold and order line; nothing here counts."""
    effect = effect_of(event)
    assert (effect.units, effect.states, told(effect.hold), told(effect.line)) == (units, states, of_hold, of_line)
    assert effect.count is None


def test_a_count_states_what_is_there() -> None:
    """As of its time, ranked by time, source and id."""
    effect = effect_of(fact("wms.count", 7, 5, source="wms/A", id="c-1"))
    assert (effect.count, effect.counted, effect.units) == ((us(7), "wms/A", "c-1"), 5, 0)


@pytest.mark.parametrize("kind", sorted({kind.__struct_config__.tag for kind in SUPPORTED} - {"reservation.requested"}))
def test_only_counts_and_receipts_are_a_baseline(kind: str) -> None:
    """Whoever only sells does not know what is there."""
    own: dict[str, Any] = {
        "pos.void": {"voids": "v", "voided_type": "pos.sale", "voided_at": fact("pos.sale", 1, 1).occurred_at},
        "wms.status_changed": {"from_state": "damaged", "to_state": "sellable"},
        "reservation.renewed": {"expires_at": fact("pos.sale", 1, 1).occurred_at},
        "transfer.rescheduled": {"eta": fact("pos.sale", 1, 1).occurred_at},
        "inbound.expected": {"eta": fact("pos.sale", 1, 1).occurred_at},
    }
    units = None if kind in ("reservation.renewed", "transfer.rescheduled") else 1
    is_baseline = kind in ("wms.count", "wms.receipt", "transfer.received")
    assert effect_of(fact(kind, 1, units, **own.get(kind, {}))).baseline is is_baseline


def test_a_void_takes_effect_when_its_fact_did() -> None:
    """For stock and for the order line; everything else when it happened."""
    effect = effect_of(void("pos.sale", 9, 3, 2, order_line="L"))
    assert effect.time_us == us(2)
    assert effect.line is not None
    assert effect.line.time_us == us(2)
    assert effect_of(fact("pos.sale", 9, 3)).time_us == us(9)


def test_what_a_hold_is_told_names_who_said_it_and_where() -> None:
    """So that the fold can sort it and a repeat is known."""
    told = effect_of(hold(3, 2, 60, source="oms", id="r-1", location="B")).hold
    assert told == Fact(us(3), 0, "oms", "r-1", "stated", "B", 2, us(60))


def test_every_type_has_an_effect() -> None:
    """A type without one could not be applied; what follows from a request depends on its decision."""
    assert set(get_args(PosMessage | WmsMessage | OrderMessage)) == SUPPORTED
