"""Network records: with their cause, conflated, withheld in a replay, repaired, and exact after a restart."""

from __future__ import annotations

from typing import Any

from schemas.records import NetworkAvailability, decode_network
from schemas.state import open_envelope
from sinks.network_lane import Tail
from stock.ledger import Ledger
from stock.policies import Policies
from tests.sinks.fake_wire import Window
from tests.stock.facts import KEY, Desk, fact, policy, told, us

COUNT = fact("wms.count", 0, 9)


def opened(**options: Any) -> Window:
    """A window that has published and committed nine units at A and four at B."""
    window = Window(told(COUNT, fact("wms.count", 0, 4, location="B")), **options)
    window.serve(-100)
    window.land()
    window.outlet.cut(-100, complete=True)
    window.land()
    assert window.outlet.cut_ready() is not None
    return window


def units(records: list[NetworkAvailability | None]) -> list[int | None]:
    return [None if record is None else record.available_to_ship for record in records]


def successor(window: Window, **options: Any) -> Window:
    """Who restores what the state says."""
    state: dict[str, bytes] = {}
    for key, value, _ in window.wire.logs["state"].records:
        assert key is not None
        if value is None:
            state.pop(key.decode(), None)
        else:
            state[key.decode()] = open_envelope(value)[1]
    ledger = Ledger(options.pop("policies", Policies()))
    ledger.restore(state, (), us(0))
    desk = Desk(ledger)
    desk.next = window.desk.next.copy()
    return Window(desk, wire=window.wire, generation=2, **options)


def test_a_network_record_goes_out_with_the_change_that_made_it() -> None:
    """In the same turn, with that event as its cause; a number that moves in vain is no record."""
    window = opened()
    sale = fact("pos.sale", 1, 2, location="B")
    window.desk.tell(sale)
    window.serve(1)
    [record] = window.networks()
    assert record is not None
    assert (record.sku, record.channel, record.available_to_ship, record.on_hand) == ("SKU", "*", 11, 11)
    assert (record.cause.type, record.cause.id, record.version) == ("pos.sale", sale.id, 1 << 32 | 2)
    window.ledger.touched[KEY] = 0
    window.serve(2)
    assert window.networks() == []


def test_routine_changes_of_a_network_are_one_record_and_urgent_ones_do_not_wait() -> None:
    """Many sales over many locations make one record per interval; the last unit is told at once."""
    window = opened()
    for tenth in range(1, 5):
        window.desk.tell(fact("pos.sale", 1, 1, location="AB"[tenth % 2]))
        window.serve(tenth / 20)
    assert units(window.networks()) == [12]
    window.serve(0.4)
    assert units(window.networks()) == [9]
    window.desk.tell(fact("pos.sale", 2, 7), fact("pos.sale", 2, 2, location="B"))
    window.serve(0.45)
    [record] = window.networks()
    assert record is not None
    assert (record.available_to_ship, record.status) == (0, "OUT_OF_STOCK")


def test_a_receipt_stays_the_cause_of_a_record_that_waited() -> None:
    """For backorder releasers, as with availability."""
    window = opened()
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0)
    window.land()
    receipt = fact("wms.receipt", 2, 1)
    for later in (receipt, fact("pos.sale", 3, 2, location="B")):
        window.desk.tell(later)
        window.serve(0.1)
    window.serve(1)
    [record] = window.networks()
    assert record is not None
    assert record.cause.id == receipt.id


def test_a_cut_waits_for_the_network_of_a_key_that_waited() -> None:
    """The network record follows the availability record, so it may begin to wait only after the cut."""
    window = opened()
    for now in (0.0, 0.1):
        window.desk.tell(fact("pos.sale", 1, 1))
        window.serve(now)
    window.outlet.network.show_again(["SKU|*"])
    window.serve(0.24)
    window.outlet.cut(0.245)
    window.serve(0.3)
    window.land()
    assert window.outlet.cut_ready() is None
    window.serve(0.5)
    window.land()
    assert window.outlet.cut_ready() is not None
    assert units([decode_network(value) for *_, value, _ in window.networks_published if value])[-1] == 11


def test_a_cut_does_not_wait_for_a_key_that_had_nothing_to_say() -> None:
    """Its number came back to what was published."""
    window = opened()
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0)
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0.1)
    window.land()
    window.outlet.cut(0.1)
    window.desk.tell(fact("wms.adjustment", 1, 1))
    window.serve(0.2)
    window.land()
    assert window.outlet.cut_ready() is not None


def test_a_rule_about_no_location_concerns_the_network_alone() -> None:
    """Three at each of two locations are low there before and after; all six are, once six is the level."""
    desk = told(fact("wms.count", 0, 3), fact("wms.count", 0, 3, location="B"))
    window = Window(desk)
    window.serve(0)
    window.land()
    window.ledger.policies.set_policy(policy("low", low_stock_enter=6))
    window.outlet.look_again(None, None, ("policy.set", "p", "planning", us(1)))
    while window.outlet.sweep():
        pass
    window.serve(2)
    assert window.sent() == []
    [record] = window.networks()
    assert record is not None
    assert record.status == "LOW_STOCK"


def test_a_restart_publishes_exactly_what_differs() -> None:
    """Nothing if the topic has it; again if its digest was in doubt; and what a rule has changed meanwhile."""
    first = opened()
    same = successor(first)
    same.serve(10)
    assert (same.networks(), same.sent()) == ([], [])
    ruled = Policies()
    ruled.set_policy(policy("keep", safety_stock=1))
    changed = successor(first, policies=ruled)
    changed.serve(10)
    assert units(changed.networks()) == [11]
    first.desk.tell(fact("pos.sale", 1, 1))
    first.serve(1)
    first.outlet.cut(1)
    first.wire.logs["state"].land()
    in_doubt = successor(first)
    in_doubt.serve(10)
    assert units(in_doubt.networks())[-1:] == [12]


def test_keys_of_the_tail_wait_for_the_end_of_the_replay() -> None:
    """The topic may say more than the restored state knows, and is told our truth once that is complete."""
    first = opened()
    tail = Tail(len(first.wire.logs["network"].records), 0, {"SKU|*"})
    second = successor(first, caught_up=False, network_tail=tail)
    second.desk.tell(fact("pos.sale", 1, 1, location="B"))
    second.serve(1)
    assert second.networks() == []
    assert second.outlet.network.tail_start == 0
    second.outlet.caught_up()
    second.serve(2)
    assert units(second.networks()) == [12]
    assert second.outlet.network.tail_start == len(second.wire.logs["network"].records)


def test_a_foreign_record_is_noticed_and_followed() -> None:
    """By the gap in the offsets; nothing is committed while it is unanswered."""
    window = opened()
    window.wire.logs["network"].foreign()
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(1)
    window.outlet.cut(1)
    window.land()
    assert window.outlet.has_gap
    assert window.outlet.cut_ready() is None
    window.outlet.network.stream.gap_from = None
    window.outlet.network.show_again(["SKU|*", "UNKNOWN|*"])
    window.serve(2)
    assert units(window.networks()) == [12]


def test_a_record_acknowledged_without_an_offset_is_said_again() -> None:
    """The broker took it for a repeat, of which it may not have the original."""
    window = opened()
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(1)
    _, _, _, done = window.wire.logs["network"].in_flight.popleft()
    done(None, _Nowhere())  # type: ignore[arg-type]
    assert window.outlet.has_gap
    window.serve(2)
    assert units(window.networks()) == [12]


def test_a_failed_delivery_is_told() -> None:
    """It concerns the whole process."""
    window = opened()
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(1)
    window.wire.logs["network"].fail()
    assert len(window.wire.failures) == 1


class _Nowhere:
    def key(self) -> bytes:
        return b"SKU|*"

    def offset(self) -> None:
        return None
