"""Network records: with their cause, conflated, withheld in a replay, repaired, and exact after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.records import NetworkAvailability, decode_network
from sinks.network_lane import Tail
from stock.events import ItemSet, LocationSet, PolicySet, StockFact
from stock.ledger import Ledger
from stock.policies import Change, Policies
from tests.sinks.fake_wire import Window, state_in
from tests.stock.facts import KEY, Desk, at, fact, location, policy, rules, told, us

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
    state = state_in(window.wire)
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


def test_networks_gather_for_a_moment_after_a_sending() -> None:
    """Without an interval too: many sales are one record, but nothing waits after a quiet moment."""
    window = opened(interval_s=0)
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0)
    assert units(window.networks()) == [12]
    for later in (0.01, 0.02, 0.04):
        window.desk.tell(fact("pos.sale", 1, 1, location="B"))
        window.serve(later)
    assert len(window.sent()) == 4, "availability does not wait"
    assert window.networks() == []
    window.serve(0.051)
    assert units(window.networks()) == [9]


def test_a_network_that_sells_out_does_not_gather() -> None:
    """Nor do those that gather beside it."""
    window = opened(interval_s=0)
    for now, (place, sold) in enumerate([("B", 1), ("B", 1), ("A", 9)]):
        window.desk.tell(fact("pos.sale", 1, sold, location=place))
        window.serve(now / 1_000)
    assert units(window.networks()) == [12, 2]


def test_a_cut_waits_for_networks_that_gather_and_has_them_sent() -> None:
    """Else a crash after the commit would lose them, or answers would wait for the next cut."""
    window = opened(interval_s=0)
    for now in (0.0, 0.01):
        window.desk.tell(fact("pos.sale", 1, 1))
        window.serve(now)
    window.land()
    window.outlet.cut(0.011)
    window.land()
    assert window.outlet.cut_ready() is None
    window.serve(0.012)
    assert units(window.networks()) == [11]
    assert window.outlet.cut_ready() is not None


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


# Channels


def by_channel(window: Window) -> dict[str, int | None]:
    """The network records in flight, by channel: what can be shipped; None where it is gone."""
    log = window.wire.logs["network"]
    first = len(log.records)
    window.networks()
    said = {}
    for key, value, _ in log.records[first:]:
        channel = (key or b"").decode().partition("|")[2]
        assert channel not in said, "each is said once"
        said[channel] = None if value is None else decode_network(value).available_to_ship
    return said


def rule(window: Window, now: float, *changes: PolicySet | LocationSet | str) -> None:
    """Policies and locations that are set, or policies that are removed, as the settings topic tells them."""
    policies = window.ledger.policies
    for one in changes:
        if isinstance(one, LocationSet):
            policies.set_location(one)
            told = [Change(None, one.location, None)]
        elif isinstance(one, PolicySet):
            replaced = policies.set_policy(one)
            scopes = [one.scope] if replaced is None else [one.scope, replaced]
            told = [Change.inside(scope, ("policy.set", one.policy, "planning", us(now))) for scope in scopes]
        else:
            removed = policies.remove_policy(one)
            assert removed is not None
            told = [Change.inside(removed, None)]
        for change in told:
            window.outlet.look_again(*change)
    settle(window, now)


def settle(window: Window, now: float) -> None:
    """Look at all that rules may concern, and say it."""
    while window.outlet.sweep():
        pass
    window.serve(now)


def test_a_channel_comes_with_its_first_policy_and_goes_with_its_last() -> None:
    """With that as the cause, and with a null; then nothing is kept of it."""
    window = opened()
    rule(window, 1, policy("keep", {"channel": "app"}, safety_stock=2))
    log = window.wire.logs["network"]
    [(_, value, _, _)] = log.in_flight
    assert value is not None
    assert decode_network(value).cause.id == "keep"
    assert by_channel(window) == {"app": 9}
    rule(window, 2, policy("more", {"channel": "app", "sku": "SKU"}, safety_stock=3))
    assert by_channel(window) == {"app": 7}
    rule(window, 3, "keep")
    assert by_channel(window) == {}
    rule(window, 4, "more")
    assert by_channel(window) == {"app": None}
    window.outlet.cut(4, complete=True)
    window.land()
    newest = {key: value for key, value, _ in window.wire.logs["state"].records}
    assert newest[b"|network|SKU|app"] is None
    assert newest[b"|network|SKU|*"] is not None
    window.desk.tell(fact("pos.sale", 5, 1))
    window.serve(5)
    assert by_channel(window) == {"*": 12}


def test_a_cut_does_not_wait_for_a_channel_that_went_while_it_gathered() -> None:
    """Nobody was ever told of it, so nothing will be sent of it."""
    window = opened(interval_s=0)
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0)
    policies = window.ledger.policies
    policies.set_policy(policy("keep", {"channel": "app"}, safety_stock=2))
    window.desk.tell(fact("pos.sale", 1, 1))
    window.serve(0.01)
    window.land()
    window.outlet.cut(0.011)
    assert policies.remove_policy("keep") is not None
    window.serve(0.012)
    window.land()
    assert window.outlet.cut_ready() is not None


def test_a_change_is_told_to_every_channel_at_once() -> None:
    """In the same turn; a hold for one channel of a quota leaves the others where they were."""
    window = opened()
    rule(window, 1, policy("q", {"channel": "web"}, quota=5), policy("a", {"channel": "app"}, quota=0))
    assert by_channel(window) == {"web": 13, "app": 8}
    window.desk.tell(fact("reservation.created", 2, 4, channel="web"))
    window.serve(2)
    records = window.wire.logs["network"].in_flight
    assert {decode_network(value).cause.type for _, value, _, _ in records if value} == {"reservation.created"}
    assert by_channel(window) == {"*": 9, "web": 9, "app": 8}
    window.desk.tell(fact("reservation.created", 3, 4))
    window.serve(3)
    assert by_channel(window) == {"app": 4}, "the same units, and no more for the web"


PLACES: list[tuple[str, list[PolicySet | LocationSet], LocationSet, dict[str, int]]] = [
    (
        "a region that only the channel minds",
        [policy("p", {"channel": "app", "region": "north"}, safety_stock=3)],
        location("A", region="north"),
        {"app": 10},
    ),
    (
        "a mode that is off for all but the channel",
        [policy("p", enabled=False), policy("q", {"channel": "app"}, enabled=True)],
        location("B", ship=False),
        {"app": 9},
    ),
]


@pytest.mark.parametrize(("text", "settings", "place", "wanted"), PLACES, ids=[row[0] for row in PLACES])
def test_what_changes_at_a_location_reaches_its_channels(
    text: str, settings: list[PolicySet | LocationSet], place: LocationSet, wanted: dict[str, int]
) -> None:
    """Although that location's own numbers stay what they were."""
    window = opened()
    rule(window, 1, *settings)
    by_channel(window)
    window.land()
    rule(window, 2, place)
    said = by_channel(window)
    assert {channel: said[channel] for channel in wanted} == wanted


def test_a_policy_of_a_channel_at_one_location_gives_every_sku_a_record() -> None:
    """A SKU that does not lie there has the channel too: it may come there any time."""
    window = opened()
    rule(window, 1, policy("p", {"channel": "app", "location": "FAR"}, safety_stock=3))
    assert by_channel(window) == {"app": 13}


def test_an_item_that_changes_its_category_changes_its_channels() -> None:
    """What is named for shoes is gone once it is none."""
    window = opened()
    rule(window, 1, policy("p", {"channel": "app", "category": "shoes"}, safety_stock=3))
    assert by_channel(window) == {}
    for offset, (category, wanted) in enumerate((("shoes", {"app": 7}), ("bakery", {"app": None}))):
        said: dict[str, Any] = {"id": f"i{offset}", "source": "master", "occurred_at": at(2), "brand": "own"}
        window.ledger.apply_item("SKU", ItemSet(**said, sku="SKU", category=category, lifecycle="active"), offset)
        window.serve(2 + offset)
        settle(window, 2 + offset)
        assert by_channel(window) == wanted


def test_a_rule_that_came_and_went_with_its_process_is_told_by_the_next() -> None:
    """What was acknowledged after the state was written is in doubt there, though it is what holds again by now."""
    first = opened()
    rule(first, -99, policy("n", network_safety_stock=2))
    first.outlet.cut(-99)
    assert by_channel(first) == {"*": 11}
    first.land()
    assert first.outlet.cut_ready() is not None
    second = successor(first)
    settle(second, 10)
    assert by_channel(second) == {"*": 13}


def test_a_restart_removes_what_nobody_names_any_more() -> None:
    """Whether the state knows the record, or only the tail of the topic."""
    app = policy("p", {"channel": "app"}, safety_stock=3)
    first = opened()
    rule(first, 1, app)
    assert by_channel(first) == {"app": 7}
    in_tail = Tail(len(first.wire.logs["network"].records), 0, {"SKU|app", "SKU|*"})
    unsaved = successor(first, caught_up=False, network_tail=in_tail)
    unsaved.outlet.caught_up()
    settle(unsaved, 10)
    assert by_channel(unsaved) == {"*": 13, "app": None}
    second = opened()
    rule(second, 1, app)
    by_channel(second)
    second.outlet.cut(1, complete=True)
    second.land()
    same = successor(second, policies=rules(app))
    settle(same, 10)
    assert by_channel(same) == {}
    gone = successor(second)
    settle(gone, 10)
    assert by_channel(gone) == {"app": None}


def test_a_foreign_record_of_a_channel_that_is_gone_is_answered_with_a_null() -> None:
    """A fenced process may still have known the channel."""
    window = opened()
    window.outlet.network.show_again(["SKU|app"])
    window.serve(1)
    assert by_channel(window) == {"app": None}


def test_a_channel_that_comes_back_while_its_null_is_on_its_way_stays_known() -> None:
    """The null's acknowledgement is not the last word of it."""
    window = opened()
    app = policy("p", {"channel": "app"}, safety_stock=3)
    rule(window, 1, app)
    window.land()
    rule(window, 2, "p")
    rule(window, 3, app)
    rule(window, 4, "p")
    window.wire.logs["network"].land(1)
    assert window.ledger.network.channels("SKU") == ("*", "app")
    window.land()
    assert window.ledger.network.channels("SKU") == ("*",)
    assert window.wire.logs["network"].records[-1][1] is None


def test_a_delisted_sku_has_no_network_in_any_channel() -> None:
    """Nor after its channel is gone; it comes back with both."""
    window = opened()
    rule(window, 1, policy("p", {"channel": "app"}, safety_stock=3))
    by_channel(window)
    window.ledger.apply_item("SKU", None, 0)
    window.serve(2)
    settle(window, 2)
    assert by_channel(window) == {"*": None, "app": None}
    rule(window, 3, "p")
    assert by_channel(window) == {}
    said: dict[str, Any] = {"id": "i", "source": "master", "occurred_at": at(4), "brand": "own", "category": "c"}
    window.ledger.apply_item("SKU", ItemSet(**said, sku="SKU", lifecycle="active"), 1)
    window.serve(4)
    settle(window, 4)
    assert by_channel(window) == {"*": 13}


def test_a_location_that_is_back_at_its_last_record_is_heard_by_a_network_that_saw_it_change() -> None:
    """Its change waited while its network was sent from sums made anew, which then were forgotten again."""
    window = opened()

    def tell(now: float, *facts: StockFact) -> list[int | None]:
        window.ledger.network._rest()
        window.desk.tell(*facts)
        window.serve(now)
        window.land("availability")
        return units(window.networks())

    assert tell(0.90, fact("pos.sale", 1, 1, location="B")) == [12]
    assert tell(1.00, fact("pos.sale", 2, 1)) == []  # the network waits until 1.15
    assert tell(1.05, fact("pos.sale", 3, 2)) == []  # the location waits until 1.25
    assert tell(1.15) == [9]
    assert tell(1.20, fact("pos.return", 4, 2)) == []
    assert tell(1.26) == []
    assert tell(1.40) == [11]


@pytest.mark.parametrize("locations", [2, 5])
def test_a_location_that_was_off_for_a_moment_is_heard_by_a_network_that_saw_it_off(locations: int) -> None:
    """Of which no record of its own told: it is looked at again when it is on again."""
    names, last = "ABCDE"[:locations], "ABCDE"[locations - 1]
    rules_ = rules(*(location(name) for name in names))
    window = Window(Desk(Ledger(rules_)), interval_s=0)
    window.desk.tell(*(fact("wms.count", 0, 10, location=name) for name in names))
    window.serve(1)
    window.land()
    window.ledger.network._forget("SKU")  # as after a restart
    rules_.set_location(location(last, pickup=False, ship=False))
    window.desk.tell(fact("pos.sale", 2, 1, location="A"))
    window.serve(2)
    assert units(window.networks()) == [10 * locations - 11]
    rules_.set_location(location(last))
    window.outlet.look_again(None, last, None)
    settle(window, 3)
    assert units(window.networks()) == [10 * locations - 1]


class _Nowhere:
    def key(self) -> bytes:
        return b"SKU|*"

    def offset(self) -> None:
        return None


@pytest.mark.parametrize("sums", ["in use", "packed", "none, as after a restart"])
def test_a_mode_that_turns_on_where_the_record_stays_the_same_is_told(
    sums: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw stock of a location is part of a network with a safety stock of its own, in the modes that are on."""
    monkeypatch.setattr("stock.network.PACKED_FROM", 2 if sums == "packed" else 4)
    rules_ = rules(policy("p", network_safety_stock=0), location("A"), location("B", pickup=False))
    window = Window(Desk(Ledger(rules_)), interval_s=0)
    counts = [fact("wms.count", 0, 10, location="A"), fact("wms.count", 0, 0, location="B")]
    window.desk.tell(*counts, fact("reservation.created", 1, 3, location="B", reservation="R"))
    window.serve(1)
    window.land()
    if sums != "in use":
        window.ledger.network._rest()
    rules_.set_location(location("B", pickup=True))
    window.outlet.look_again(None, "B", ("location.set", "x", "master", us(2)))
    while window.outlet.sweep():
        window.serve(2)
    window.serve(3)
    newest = window.networks()[-1]
    assert newest is not None
    assert newest.available_in_store == 7
