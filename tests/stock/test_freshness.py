"""Feeds that promise to be complete until a moment: who is stale, since when, and what that does to a key."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from stock.events import SourceAlive
from stock.ledger import Ledger
from stock.policies import Change, Policies
from tests.sinks.fake_wire import Window
from tests.stock.facts import START, Desk, at, fact, policy, rules, us


def alive(until: float, location: str = "A", feed: Literal["pos", "wms"] = "pos") -> SourceAlive:
    """A heartbeat."""
    return SourceAlive(id="h", source="gateway", occurred_at=START, location=location, feed=feed, until=at(until))


def at_ten(*heartbeats: SourceAlive) -> Policies:
    """Policies after heartbeats that came at 0, ten seconds later."""
    policies = Policies()
    policies.advance(us(0))
    for heartbeat in heartbeats:
        policies.set_alive(heartbeat)
    policies.advance(us(10))
    return policies


STALE: list[Any] = [
    ("never promised", [], []),
    ("until later", [alive(11)], []),
    ("until now", [alive(10)], ["pos"]),
    ("one of two", [alive(11), alive(9, feed="wms")], ["wms"]),
    ("both", [alive(5), alive(9, feed="wms")], ["pos", "wms"]),
    ("another location's", [alive(5, "B")], []),
    ("renewed", [alive(5), alive(11)], []),
    ("taken back", [alive(11), alive(5)], ["pos"]),
    ("over when it was told", [alive(-5)], ["pos"]),
]


@pytest.mark.parametrize(("heartbeats", "feeds"), [row[1:] for row in STALE], ids=[row[0] for row in STALE])
def test_a_feed_is_stale_once_its_promise_is_over(heartbeats: list[SourceAlive], feeds: list[str]) -> None:
    """The newest promise of each feed counts; without one it is never stale."""
    policies = at_ten(*heartbeats)
    assert policies.stale_feeds("A") == feeds
    assert policies.terms("SKU", "A").ship.stale is bool(feeds)


def test_only_what_makes_a_difference_is_a_change() -> None:
    """The first feed that falls silent and the last that is heard again, with the location and the cause."""
    policies = Policies()
    policies.advance(us(0))
    assert not policies.set_alive(alive(5))
    assert not policies.set_alive(alive(7, feed="wms"))
    assert policies.advance(us(5)) == [Change(None, "A", ("source.stale", "A:pos", "stockflow", us(5)))]
    assert policies.advance(us(7)) == []
    assert not policies.set_alive(alive(20))
    assert policies.stale_feeds("A") == ["wms"]
    assert policies.remove_alive("A", "wms")
    assert policies.stale_feeds("A") == []
    assert not policies.remove_alive("A", "wms")
    assert not policies.set_alive(alive(20))
    assert policies.set_alive(alive(6)), "a promise may be taken back"
    assert policies.set_alive(alive(30)), "and given again"


def test_a_talkative_feed_needs_one_timer() -> None:
    """However often it promises; an earlier end is looked at earlier, and a later one in its turn."""
    policies = Policies()
    policies.advance(us(0))
    for seconds in range(20, 1_000):
        policies.set_alive(alive(seconds))
    assert (len(policies._timers), policies.next_timer_us()) == (1, us(20))
    assert policies.advance(us(20)) == []
    assert (len(policies._timers), policies.next_timer_us()) == (1, us(999))
    policies.set_alive(alive(500))
    assert policies.next_timer_us() == us(500)
    assert [change.location for change in policies.advance(us(500))] == ["A"]
    assert policies.advance(us(999)) == []
    assert policies.stale_feeds("A") == ["pos"]
    assert policies.next_timer_us() is None


BUFFERS: list[Any] = [
    ("no policy says what to do", [], (True, 0)),
    ("more is kept back", [policy("p", stale_buffer=3)], (False, 3)),
    ("nothing more is kept back", [policy("p", stale_buffer=0)], (False, 0)),
    ("on top of the buffer", [policy("p", stale_buffer=3, buffer=2, safety_stock=1)], (False, 6)),
    ("for the other mode", [policy("p", {"mode": "pickup"}, stale_buffer=3)], (True, 0)),
    ("for another location", [policy("p", {"location": "B"}, stale_buffer=3)], (True, 0)),
]


@pytest.mark.parametrize(("told", "wanted"), [row[1:] for row in BUFFERS], ids=[row[0] for row in BUFFERS])
def test_a_stale_location_keeps_more_back_or_is_not_known(told: list[Any], wanted: tuple[bool, int]) -> None:
    """Per mode, as the most specific policy says."""
    policies = rules(*told)
    policies.set_alive(alive(10))
    fresh = policies.terms("SKU", "A").ship
    assert not fresh.stale
    policies.advance(us(10))
    found = policies.terms("SKU", "A").ship
    assert (found.stale, found.safety_stock) == wanted
    policies.set_alive(alive(20))
    assert policies.terms("SKU", "A").ship == fresh


def test_all_keys_of_a_location_become_unknown_and_known_again() -> None:
    """And no others; at once, since a shopper sees it."""
    desk = Desk(Ledger(Policies()))
    policies = desk.ledger.policies
    window = Window(desk, interval_s=0)
    desk.tell(*(fact("wms.count", 0, 5, sku=sku, location=where) for sku in ("S1", "S2") for where in ("A", "B")))
    window.serve(1)
    window.sent()

    def after(now: float) -> list[Any]:
        while window.outlet.sweep():
            continue
        window.serve(now)
        return [(r.sku, r.location, r.status, r.reason, r.available_to_ship, r.cause.type) for r in window.sent()]

    policies.set_alive(alive(10))
    for change in policies.advance(us(10)):
        window.outlet.look_again(*change)
    assert after(10) == [(sku, "A", "UNKNOWN", "stale_source", None, "source.stale") for sku in ("S1", "S2")]
    assert policies.set_alive(alive(20))
    window.outlet.look_again(None, "A", ("source.alive", "h", "gateway", us(11)))
    assert after(11) == [(sku, "A", "IN_STOCK", None, 5, "source.alive") for sku in ("S1", "S2")]


def test_many_locations_are_looked_at_in_one_pass() -> None:
    """A network that fails makes every feed stale at the same time; each key has the cause of its location."""
    desk = Desk(Ledger(Policies()))
    window = Window(desk, interval_s=0)
    desk.tell(*(fact("wms.count", 0, 5, location=f"L{n}") for n in range(5)))
    window.serve(1)
    window.sent()
    desk.ledger.policies.set_policy(policy("p", safety_stock=1))
    for n in range(4):
        window.outlet.look_again(None, f"L{n}", ("source.stale", f"L{n}", "stockflow", us(1)))
    assert window.outlet.sweeping == 1
    while window.outlet.sweep():
        continue
    window.serve(2)
    assert [(r.location, r.cause.id) for r in window.sent()] == [(f"L{n}", f"L{n}") for n in range(4)]
    window.outlet.look_again(None, "L4", ("source.stale", "L4", "stockflow", us(1)))
    window.outlet.look_again(None, None, ("policy.set", "p", "planning", us(1)))
    assert window.outlet.sweeping == 1, "a pass over all keys covers those of one location"
    while window.outlet.sweep():
        continue
    window.serve(3)
    assert [(r.location, r.cause.id) for r in window.sent()] == [("L4", "p")]
