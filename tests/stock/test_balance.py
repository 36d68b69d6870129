"""One balance: movements against counts whatever arrives first, the bounds of the movement log, states, bytes."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest

from stock import balance as module
from stock.balance import (
    HAS_BASELINE,
    MOVEMENTS_HORIZON_US,
    MOVEMENTS_MAX,
    Balance,
    Movements,
    apply_count,
    apply_movement,
    pack,
    unpack,
    unpack_past,
)

Move = tuple[int, int]  # time, units


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def count(at: int, units: int, source: str = "wms", id: str = "1") -> tuple[int, int, str, str]:
    """A count for a table."""
    return at, units, source, id


def after(*steps: tuple[Any, ...]) -> Balance:
    """A balance after movements (time, units) and counts (time, units, source, id), in the order of arrival."""
    balance, movements = Balance([-1] * 4), Movements()
    for step in steps:
        if len(step) == 2:
            apply_movement(balance, movements, *step)
        else:
            at, units, source, id = step
            apply_count(balance, movements, (at, source, id), units, 0)
    return balance


BARRIER = [
    case("movements add up", [(1, 5), (2, -2)], 3),
    case("on hand may go below zero", [(1, -2)], -2),
    case("a count replaces what was before", [(1, 5), count(2, 3)], 3),
    case("a count of nothing", [(1, 5), count(2, 0)], 0),
    case("a later movement counts on top", [count(2, 3), (3, -1)], 2),
    case("an equal time counts as later", [count(2, 3), (2, -1)], 2),
    case("just before is absorbed", [count(2, 3), (1, -1)], 3),
    case("two counts: the newer", [count(2, 8), count(5, 3)], 3),
    case("between two counts nothing counts", [count(2, 8), (3, -1), count(5, 3)], 3),
    case("at the newer count's time it counts", [count(2, 8), (5, -1), count(5, 3)], 2),
    case("equal times: the greater source", [count(2, 8, "b"), count(2, 3, "a")], 8),
    case("equal times and sources: the greater id", [count(2, 8, id="9"), count(2, 3, id="10")], 8),
    case("source before id", [count(2, 8, "b", "1"), count(2, 3, "a", "2")], 8),
    case("three counts and movements between", [count(1, 9), (2, -1), count(3, 7), (4, -2), count(3, 6, "x")], 4),
]


@pytest.mark.parametrize(("steps", "on_hand"), BARRIER)
def test_a_count_states_what_was_there_in_whatever_order(steps: list[tuple[Any, ...]], on_hand: int) -> None:
    """Every order of arrival ends with the same number."""
    for order in permutations(steps):
        assert after(*order).on_hand == on_hand, order


def test_a_movement_before_the_count_says_that_it_was_absorbed() -> None:
    """On hand stays, and the caller learns it."""
    balance, movements = Balance([-1] * 4), Movements()
    assert apply_count(balance, movements, (10, "s", "1"), 5, 0) == "applied"
    assert apply_movement(balance, movements, 9, -1) is False
    assert apply_movement(balance, movements, 10, -1) is True
    assert balance.on_hand == 4


def test_an_older_count_changes_nothing() -> None:
    """It is told apart from one that could not be applied."""
    balance, movements = Balance([-1] * 4), Movements()
    apply_count(balance, movements, (10, "s", "2"), 5, 0)
    assert apply_count(balance, movements, (9, "s", "3"), 1, 0) == "older"
    assert apply_count(balance, movements, (10, "s", "1"), 1, 0) == "older"
    assert (balance.on_hand, balance.count) == (5, (10, "s", "2"))


def test_any_count_is_a_baseline() -> None:
    """Even one that came too late to be applied has been heard."""
    balance, movements = Balance([-1] * 4, moved_us=20, dropped_us=15), Movements()
    assert apply_count(balance, movements, (12, "s", "1"), 5, 0) == "beyond_log"
    assert balance.flags == HAS_BASELINE
    assert (balance.on_hand, balance.count) == (0, None)


BEYOND = [
    case("after all movements", 101, 100, 100, 100, "applied"),
    case("at the newest movement, nothing dropped", 100, 100, 0, 0, "applied"),
    case("before the newest movement, nothing dropped", 50, 100, 0, 0, "applied"),
    case("after what was dropped", 61, 100, 60, 0, "applied"),
    case("at what was dropped: it would count on top", 60, 100, 60, 0, "beyond_log"),
    case("before what was dropped", 59, 100, 60, 0, "beyond_log"),
    case("after what the partition forgot", 61, 100, 0, 60, "applied"),
    case("at what the partition forgot", 60, 100, 0, 60, "beyond_log"),
    case("before what the partition forgot, but after every movement here", 55, 50, 0, 60, "applied"),
]


@pytest.mark.parametrize(("at", "moved", "dropped", "forgotten", "outcome"), BEYOND)
def test_a_count_older_than_the_log_is_not_applied(
    at: int, moved: int, dropped: int, forgotten: int, outcome: str
) -> None:
    """Movements at or after it may be among those that are no longer known one by one."""
    balance = Balance([-1] * 4, on_hand=7, moved_us=moved, dropped_us=dropped)
    assert apply_count(balance, Movements(), (at, "s", "1"), 5, forgotten) == outcome
    assert balance.on_hand == (5 if outcome == "applied" else 7)


def test_the_newest_movements_are_kept() -> None:
    """At least 1,024 of them, whatever the order of arrival; what is dropped is the oldest, and said."""
    movements, times = Movements(), list(range(1, 5_001))
    random.Random(1).shuffle(times)
    dropped = max(movements.add(at, 1) for at in times)
    assert MOVEMENTS_MAX == 1_024
    assert MOVEMENTS_MAX <= len(movements) <= MOVEMENTS_MAX * 5 // 4
    assert movements.since(dropped + 1) == 5_000 - dropped


def test_dropping_is_remembered_by_the_balance() -> None:
    """The time of the newest dropped movement is durable; the log is not."""
    balance, movements = Balance([-1] * 4), Movements()
    for at in range(1, 1_400):
        apply_movement(balance, movements, at, 1)
    assert balance.dropped_us == 1_399 - len(movements)
    assert apply_count(balance, movements, (balance.dropped_us, "s", "1"), 0, 0) == "beyond_log"
    assert apply_count(balance, movements, (balance.dropped_us + 1, "s", "1"), 0, 0) == "applied"
    assert balance.on_hand == 1_399 - balance.dropped_us


def test_movements_of_one_time_are_dropped_together() -> None:
    """A log that kept some of them could not say what happened at that time."""
    movements = Movements()
    dropped = max([movements.add(5, 1) for _ in range(300)] + [movements.add(9, 1) for _ in range(1_000)])
    assert dropped == 5
    assert movements.since(0) == len(movements) == 1_000


def test_movements_of_long_ago_are_dropped() -> None:
    """Nothing within 24 hours before the newest is, and nothing stays for more than twice that."""
    hour = MOVEMENTS_HORIZON_US // 24
    movements = Movements()
    assert [movements.add(at * hour, 1) for at in (1, 10, 25, 30)] == [0, 0, 0, 0]
    assert movements.add(50 * hour, 1) == 25 * hour
    assert movements.since(0) == 2
    assert [movements.add(at * hour, 1) for at in (60, 78)] == [0, 0]


def test_a_late_movement_drops_nothing() -> None:
    """The horizon follows the newest movement, not the last one told."""
    hour = MOVEMENTS_HORIZON_US // 24
    movements = Movements()
    assert [movements.add(at * hour, 1) for at in (100, 60, 90)] == [0, 0, 0]
    assert movements.since(0) == 3


def test_forgetting_says_what_was_forgotten() -> None:
    """The newest of the dropped times, 0 if there was none; the limit itself stays."""
    movements = Movements()
    for at in (5, 3, 8, 5):
        movements.add(at, at)
    assert movements.forget_before(3) == 0
    assert movements.forget_before(8) == 5
    assert (movements.since(0), len(movements)) == (8, 1)


def test_a_single_movement_is_discarded_once() -> None:
    """Only one of two equal ones goes, and an unknown one is ignored."""
    movements = Movements()
    for at, units in ((5, 1), (5, 1), (5, 2)):
        movements.add(at, units)
    movements.discard(5, 1)
    movements.discard(5, 9)
    assert (movements.since(0), len(movements)) == (3, 2)


def test_a_new_count_forgets_what_it_includes() -> None:
    """Movements before it can never matter again."""
    balance, movements = Balance([-1] * 4), Movements()
    for at in range(10):
        apply_movement(balance, movements, at, 1)
    apply_count(balance, movements, (7, "s", "1"), 100, 0)
    assert (len(movements), balance.on_hand, balance.dropped_us) == (3, 103, 0)


STATES = [
    case("sellable is what remains", [("sellable", 5)], (0, 0, 0), 0),
    case("damaged", [("damaged", 2)], (2, 0, 0), 2),
    case("quality hold", [("quality_hold", 2)], (0, 2, 0), 2),
    case("display", [("display", 2)], (0, 0, 2), 2),
    case("counters stay exact below zero", [("damaged", -2), ("damaged", 1)], (-1, 0, 0), 0),
    case("and come back from there", [("damaged", -2), ("damaged", 3)], (1, 0, 0), 1),
    case("one below zero hides nothing of another", [("damaged", -2), ("display", 3)], (-2, 0, 3), 3),
]


@pytest.mark.parametrize(("moves", "counters", "unavailable"), STATES)
def test_states_have_counters_of_their_own(
    moves: list[tuple[str, int]], counters: tuple[int, int, int], unavailable: int
) -> None:
    """Units in them are unavailable; on hand is not touched."""
    balance = Balance([-1] * 4, on_hand=9)
    for state, units in moves:
        balance.move_state(state, units)
    assert (balance.damaged, balance.quality_hold, balance.display) == counters
    assert (balance.unavailable, balance.on_hand) == (unavailable, 9)


def test_a_balance_survives_its_bytes() -> None:
    """Every field, with the largest numbers."""
    balance = Balance(
        [2**40, -1, 7, 0], -(2**50), 1, -2, 3, 15, (2**50, "s" * 256, "ü"), 2**50, 1, None, 2, 3, ("t", "i", "s", 4)
    )
    balance.digest, balance.published = 2**64 - 1, 127
    assert unpack(pack(balance)) == balance


def test_an_idle_balance_is_small() -> None:
    """A usual balance rests in few bytes, since a million of them must fit."""
    us = 1_790_000_000_000_000
    cause = ("pos.sale", "042-3-20261122-881-1", "pos/STORE-042/till-3", us)
    usual = Balance([10**6] * 4, 40, flags=1, count=(us, "wms/DC-1", "c-1"), moved_us=us, pos_us=us, wms_us=us)
    usual.cause, usual.digest = cause, 2**63
    assert len(pack(usual)) <= 180


def test_the_logs_bounds_are_sane() -> None:
    """Dropping in portions needs room for one portion."""
    assert module._LOG_LENGTH_MAX == 2 * 1_280


@pytest.mark.parametrize("net", [None, (1, 0, 2)], ids=["short form", "long form"])
def test_the_past_of_packed_bytes_is_that_of_the_balance(net: tuple[int, int, int] | None) -> None:
    """A restart reads only this much of most balances."""
    balance = Balance([4, 9, 2, 0], 7, 1, count=(60, "wms", "c"), moved_us=80, dropped_us=50, pos_us=70, net=net)
    past = unpack_past(pack(balance))
    fields = past.__struct_fields__
    assert {"applied", "count", "dropped_us"} <= set(fields)
    assert [getattr(past, field) for field in fields] == [getattr(balance, field) for field in fields]
