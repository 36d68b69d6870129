"""Requests for reservations: what is decided, that a promise is kept, and that only one can have the last unit."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stock import commitments, promises
from stock.events import Coordinates, ItemSet, LocationSet, PolicySet, StockFact
from stock.ledger import Ledger, LimitReached
from stock.policies import Policies
from stock.promises import ANSWERED_HORIZON_US
from stock.times import HOUR_US, micros
from stock.verdicts import (
    NODE_ORDER,
    Alternative,
    Decision,
    distance_km,
    is_verdict_key,
    node_order,
    verdict_key,
)
from tests.stock.facts import Desk, at, fact, hold, location, policy, renewed, rules, told, us

A, B = "SKU|A", "SKU|B"


def case(text: str, *row: Any) -> Any:
    """A row of a table, known by its text."""
    return pytest.param(*row, id=text)


def request(seconds: float, units: int, **own: Any) -> StockFact:
    """Somebody wants R, to be shipped from A unless said."""
    return fact("reservation.requested", seconds, units, **own)


def stock(units: int, where: str = "A") -> StockFact:
    """So much lies there from the beginning."""
    return fact("wms.receipt", 0, units, location=where)


def desk(*settings: PolicySet | LocationSet) -> Desk:
    """A ledger under these rules."""
    return Desk(Ledger(rules(*settings)))


def answers(desk: Desk) -> list[Decision]:
    """What waits to be answered, once; then it is."""
    found, desk.ledger.answers = desk.ledger.answers, []
    desk.ledger.verdicts.answered(verdict_key(sku, one.source, one.id) for sku, one in found)
    return [decision for _, decision in found]


# What there is, what is wanted, then verdict, location, units, available and reason.
DECIDED = [
    case("enough", [stock(5)], request(1, 5), ("accepted", "A", 5, 5, None)),
    case("too little", [stock(5)], request(1, 6), ("rejected", "A", 0, 5, "not_enough")),
    case("too little, and a part will do", [stock(5)], request(1, 6, partial=True),
         ("partial", "A", 5, 5, "not_enough")),
    case("nothing", [stock(5), fact("pos.sale", 1, 5)], request(2, 1), ("rejected", "A", 0, 0, "sold_out")),
    case("nothing, and a part would do", [stock(5), fact("pos.sale", 1, 5)], request(2, 1, partial=True),
         ("rejected", "A", 0, 0, "sold_out")),
    case("nobody has counted", [fact("pos.sale", 1, 5)], request(2, 1), ("rejected", "A", 0, None, "no_baseline")),
    case("never heard of", [stock(5, "B")], request(2, 1), ("rejected", "A", 0, None, "no_baseline")),
    case("held by others", [stock(5), hold(1, 3, reservation="Q")], request(2, 3),
         ("rejected", "A", 0, 2, "not_enough")),
    case("its own hold does not stand in its way", [stock(5), hold(1, 3)], request(2, 5),
         ("accepted", "A", 5, 5, None)),
    case("already over", [stock(5)], request(1, 1, expires_at=at(0)), ("rejected", "A", 0, 5, "expired")),
    case("anywhere: who has all of it", [stock(3, "A"), stock(5, "B")], request(1, 4, location="*"),
         ("accepted", "B", 4, 5, None)),
    case("anywhere: nobody has all of it", [stock(3, "A"), stock(5, "B")], request(1, 6, location="*"),
         ("rejected", "*", 0, 5, "not_enough")),
    case("anywhere, in part: who has most", [stock(3, "A"), stock(5, "B")], request(1, 6, location="*", partial=True),
         ("partial", "B", 5, 5, "not_enough")),
    case("anywhere, and nowhere", [], request(1, 6, location="*"), ("rejected", "*", 0, None, "no_baseline")),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "wanted", "decided"), DECIDED)
def test_a_request_is_decided_by_what_there_is(
    facts: list[StockFact], wanted: StockFact, decided: tuple[Any, ...]
) -> None:
    """And what was promised is held at once."""
    here = desk()
    here.tell(*facts)
    assert here.tell(wanted) == ["applied"]
    [answer] = answers(here)
    assert (answer.verdict, answer.location, answer.units, answer.available, answer.reason) == decided
    if answer.units:
        record = here.record(f"SKU|{answer.location}")
        assert (record.committed, record.shortage) == (answer.units + 3 * (facts[-1].source == "q"), 0)


def test_safety_stock_is_not_promised() -> None:
    """Neither at a named location nor anywhere."""
    here = desk(policy("p", {"location": "A"}, safety_stock=3))
    here.tell(stock(5), stock(4, "B"), request(1, 3), request(2, 3, location="*", reservation="Q"))
    first, second = answers(here)
    assert (first.verdict, first.available, second.location) == ("rejected", 2, "B")


def test_a_mode_that_is_off_promises_nothing() -> None:
    """What can be picked up there is an alternative."""
    here = desk(location("A", ship=False))
    here.tell(stock(5), request(1, 2))
    [answer] = answers(here)
    assert (answer.verdict, answer.reason) == ("rejected", "location_off")
    assert answer.alternatives == (Alternative("A", "pickup", 5),)


def item(lifecycle: str) -> ItemSet:
    """What is said of the SKU."""
    said: dict[str, Any] = {"id": "i", "source": "pim", "occurred_at": at(0), "sku": "SKU", "brand": "b"}
    return ItemSet(**said, category="c", lifecycle=lifecycle)  # type: ignore[arg-type]


# The lifecycle, stock, units wanted, then verdict, units, backordered and reason, with five that may be backordered.
LIFECYCLES = [
    case("from stock first", "active", 5, 4, ("accepted", 4, 0, None)),
    case("the rest is backordered", "active", 5, 8, ("accepted", 8, 3, None)),
    case("up to the limit", "active", 5, 11, ("rejected", 0, 0, "not_enough")),
    case("before it is out, only backorders", "preorder", 5, 4, ("accepted", 4, 4, None)),
    case("what ends sells through", "discontinued", 5, 5, ("accepted", 5, 0, None)),
    case("and is not backordered", "discontinued", 5, 6, ("rejected", 0, 0, "not_enough")),
    case("what is delisted is not sold", "delisted", 5, 1, ("rejected", 0, 0, "delisted")),
]


@pytest.mark.parametrize(("lifecycle", "there", "wanted", "decided"), LIFECYCLES)
def test_the_lifecycle_decides_what_may_be_promised(
    lifecycle: str, there: int, wanted: int, decided: tuple[Any, ...]
) -> None:
    """And when the missing units are expected, if somebody has said so."""
    here = desk(policy("p", backorder_limit=5))
    here.ledger.apply_item("SKU", item(lifecycle), 0)
    here.tell(stock(there), fact("inbound.expected", 1, 9, eta=at(60)), request(2, wanted))
    [answer] = answers(here)
    assert (answer.verdict, answer.units, answer.backordered, answer.reason) == decided
    assert answer.expected_at_us == (us(60) if answer.backordered else None)


def test_policies_of_the_channel_count() -> None:
    """A marketplace may have a safety stock of its own."""
    here = desk(policy("p", {"channel": "marketplace"}, safety_stock=4))
    here.tell(stock(5), request(1, 2, channel="marketplace"), request(2, 2, channel="web", reservation="Q"))
    assert [answer.verdict for answer in answers(here)] == ["rejected", "accepted"]


PARIS, LYON, LILLE = (48.86, 2.35), (45.76, 4.84), (50.63, 3.06)


def point(name: str, where: tuple[float, float], **own: Any) -> LocationSet:
    """A location with its coordinates."""
    return location(name, latitude=where[0], longitude=where[1], **own)


def test_the_nearest_comes_first() -> None:
    """Of those that have the whole line, and among the alternatives."""
    here = desk(point("PARIS", PARIS), point("LYON", LYON), point("LILLE", LILLE))
    here.tell(stock(1, "PARIS"), stock(5, "LYON"), stock(9, "LILLE"))
    near = Coordinates(*PARIS)
    here.tell(request(1, 3, location="*", near=near), request(2, 20, location="PARIS", reservation="Q"))
    first, second = answers(here)
    assert first.location == "LILLE"  # 204 km; Lyon is 392 km away
    assert [one.location for one in second.alternatives if one.mode == "ship"] == ["LILLE", "LYON"]


@pytest.mark.parametrize(("mode", "first"), [("ship", "DC"), ("pickup", "STORE")])
def test_among_equals_the_kind_decides(mode: str, first: str) -> None:
    """Warehouses ship, stores hand out."""
    here = desk(location("STORE"), location("DC", kind="warehouse"))
    here.tell(stock(5, "STORE"), stock(5, "DC"), request(1, 1, location="*", mode=mode))
    assert answers(here)[0].location == first


# An order of criteria, and who then ships 4, or a part of 20 which nobody has, of what there is: 5 in the shop PARIS, 9
# in the warehouse LYON, 3 in the shop LILLE, which is the nearest.
ORDERS: list[Any] = [
    case("as usual: who has the whole line, then the nearest", "whole,most,near,kind,id", 4, "PARIS"),
    case("the nearest, whatever it has", "near,whole", 4, "LILLE"),
    case("warehouses first", "whole,warehouse,near", 4, "LYON"),
    case("shops first", "whole,store,near", 4, "PARIS"),
    case("by what they are, for the mode", "whole,kind,near", 4, "LYON"),
    case("who has most left", "stock", 4, "LYON"),
    case("who has most of what is wanted: both have all", "most,id", 4, "LYON"),
    case("by id alone", "id", 4, "LILLE"),
    case("nobody has the whole line: who has most of it", "whole,most,near,kind,id", 20, "LYON"),
    case("nobody has the whole line, and the nearest will do", "whole,near", 20, "LILLE"),
]


@pytest.mark.parametrize(("order", "units", "chosen"), ORDERS)
def test_the_order_of_nodes_is_a_setting(order: str, units: int, chosen: str) -> None:
    """Each criterion decides among those that are equal by all before it."""
    settings = (point("PARIS", PARIS), point("LYON", LYON, kind="warehouse"), point("LILLE", LILLE))
    here = Desk(Ledger(rules(*settings), node_order=node_order(order)))
    here.tell(stock(5, "PARIS"), stock(9, "LYON"), stock(3, "LILLE"))
    here.tell(request(1, units, location="*", near=Coordinates(*LILLE), partial=True))
    assert [answer.location for answer in answers(here)] == [chosen]


def test_whoever_cannot_help_is_not_chosen() -> None:
    """However near: who has too little is passed over, unless a part will do."""
    settings = (point("PARIS", PARIS), point("LILLE", LILLE), point("LYON", LYON))
    here = Desk(Ledger(rules(*settings), node_order=("near", "id")))
    here.tell(stock(5, "PARIS"), stock(3, "LILLE"), fact("wms.count", 0, 0, location="LYON"))
    near = Coordinates(*LILLE)
    here.tell(request(1, 4, location="*", near=near), request(2, 4, location="*", near=near, reservation="Q"))
    here.tell(request(3, 4, location="*", near=Coordinates(*LYON), reservation="P", partial=True))
    told = [(answer.verdict, answer.location, answer.available) for answer in answers(here)]
    assert told == [("accepted", "PARIS", 5), ("rejected", "*", 3), ("partial", "PARIS", 1)]


@pytest.mark.parametrize("text", ["", "whole,", "fastest", "near,near", "whole;near", "NEAR"])
def test_an_order_that_makes_no_sense_is_refused(text: str) -> None:
    """With what is allowed."""
    with pytest.raises(ValueError, match=r"comma list without repetition of: whole, most, near, kind"):
        node_order(text)


def test_an_order_always_ends_with_the_id() -> None:
    """There is only one answer; the default is written out in full."""
    assert node_order(" near , whole ") == ("near", "whole", "id")
    assert node_order(",".join(NODE_ORDER)) == NODE_ORDER


def test_policies_keep_locations_out_of_the_choice() -> None:
    """By location, kind, channel or mode: `enabled: false` excludes, and more safety stock makes one less eager."""
    here = desk(
        policy("p", {"location": "A", "channel": "web"}, enabled=False),
        policy("q", {"location": "B", "mode": "pickup"}, safety_stock=9),
    )
    here.tell(stock(9, "A"), stock(9, "B"), stock(5, "C"))
    web, store = {"location": "*", "channel": "web"}, {"location": "*", "channel": "store"}
    here.tell(request(1, 1, mode="pickup", **web), request(2, 1, reservation="Q", **web))
    here.tell(request(3, 1, reservation="P", **store))
    assert [answer.location for answer in answers(here)] == ["C", "B", "A"]


def test_distances_are_those_of_the_earth() -> None:
    """Within a percent; unknown points are infinitely far."""
    assert distance_km(Coordinates(*PARIS), point("L", LYON)) == pytest.approx(392, rel=0.01)
    assert distance_km(None, point("L", LYON)) == distance_km(Coordinates(*PARIS), location("X")) == float("inf")


def test_alternatives_tell_what_is_on_its_way() -> None:
    """With its date."""
    here = desk()
    here.tell(stock(1), fact("inbound.expected", 1, 5, eta=at(60)), request(2, 3))
    assert answers(here)[0].alternatives == (Alternative("A", "pickup", 1), Alternative("A", "ship", 5, us(60)))


def test_a_repeat_gets_the_same_answer() -> None:
    """Whatever has changed since."""
    here, wanted = desk(), request(1, 5)
    here.tell(stock(5), wanted, stock(9))
    assert here.tell(wanted) == ["duplicate"]
    first, second = answers(here)
    assert first == second
    assert here.record(A).committed == 5


# What happens to the hold R of 3 units, then what another request for 3 of it is told, and what is bound then.
AGAIN: list[Any] = [
    case("nothing happened", [], ("accepted", 3, True), 3),
    case("half of it was sold", [fact("pos.sale", 2, 2, reservation="R")], ("accepted", 3, True), 1),
    case("all of it was sold", [fact("pos.sale", 2, 3, reservation="R")], ("accepted", 3, True), 0),
    case("it was allocated", [fact("order.allocated", 2, 3, reservation="R")], ("accepted", 3, True), 3),
    case("allocated and shipped", [fact("order.allocated", 2, 3, reservation="R"), fact("wms.shipment", 3, 3,
         order_line="L")], ("accepted", 3, True), 0),
    case("a part was released", [fact("reservation.released", 2, 2)], ("partial", 1, True), 1),
    case("all of it was released", [fact("reservation.released", 2)], ("accepted", 3, False), 3),
    case("all of it, bit by bit", [fact("reservation.released", 2, 1), fact("reservation.released", 3, 2)],
         ("accepted", 3, False), 3),
    case("sold and then released", [fact("pos.sale", 2, 1, reservation="R"), fact("reservation.released", 3)],
         ("accepted", 3, False), 3),
    case("released long before", [fact("reservation.released", -5)], ("accepted", 3, True), 3),
    case("it has ended", [renewed(2, 4)], ("accepted", 3, False), 3),
    case("it was renewed and has ended", [renewed(2, 4), renewed(3, 5)], ("accepted", 3, False), 3),
    case("somebody else decided since", [hold(2, 1)], ("accepted", 3, False), 3),
    case("somebody else decided before", [hold(0, 1)], ("accepted", 3, True), 3),
]  # fmt: skip


@pytest.mark.parametrize(("since", "told", "bound"), AGAIN)
def test_a_line_has_one_promise_while_it_stands(since: list[StockFact], told: tuple[Any, ...], bound: int) -> None:
    """Under whatever id it is asked for again; released, ended or replaced it is decided anew."""
    here = desk()
    here.tell(stock(9), request(1, 3), *since, request(10, 3))
    first, again = answers(here)
    assert (again.verdict, again.units, again.repeats) == told
    assert first.id != again.id
    assert here.record(A, 10).committed == bound


def test_who_asks_for_more_than_was_promised_is_told_what_was() -> None:
    """As a part of it; nothing more is held. Who asks for less, or elsewhere, is told where how much is held."""
    here = desk()
    here.tell(stock(9), stock(9, "B"), request(1, 3), request(2, 5), request(3, 2), request(4, 3, location="B"))
    told = [(answer.verdict, answer.units, answer.location, answer.reason) for answer in answers(here)]
    assert told == [
        ("accepted", 3, "A", None),
        ("partial", 3, "A", "already_promised"),
        ("accepted", 3, "A", None),
        ("accepted", 3, "A", None),
    ]
    assert (here.record(A).committed, here.record(B).committed) == (3, 0)


def test_a_refused_request_may_ask_again() -> None:
    """Nothing was promised, so it is decided by what there is now."""
    here = desk()
    here.tell(stock(2), request(1, 3), fact("wms.receipt", 2, 1), request(3, 3))
    assert [answer.verdict for answer in answers(here)] == ["rejected", "accepted"]
    assert here.record(A).committed == 3


def test_a_promise_outlives_what_was_told_before_it() -> None:
    """A release that stands before the request in the log takes nothing from it, whatever time it names."""
    here = desk()
    here.tell(stock(1), request(1, 1), fact("reservation.released", 5), request(5, 1), request(6, 1, reservation="Q"))
    assert [answer.verdict for answer in answers(here)] == ["accepted", "accepted", "rejected"]
    assert (here.record(A).committed, here.record(A).shortage) == (1, 0)


# What stands before the request for 3 units in the log, what behind it, and what is bound then.
AROUND: list[Any] = [
    case("a release of a later time before it", [hold(1, 5), fact("reservation.released", 9)], [], 3),
    case("a newer statement before it", [hold(9, 1)], [], 3),
    case("an allocation of an earlier hold", [hold(1, 5), fact("order.allocated", 5, 2, reservation="R")], [], 5),
    case("an allocation behind it", [hold(1, 5)], [fact("order.allocated", 9, 2, reservation="R")], 3),
    case("a release of its own moment behind it", [], [fact("reservation.released", 5)], 0),
    case("a release of an earlier moment behind it", [], [fact("reservation.released", 4)], 3),
    case("released before and behind it", [hold(1, 5), fact("reservation.released", 9)],
         [fact("reservation.released", 6)], 0),
    case("a newer statement behind it", [], [hold(6, 1)], 1),
    case("an older statement behind it", [], [hold(4, 1)], 3),
    case("a sale that claims it, known before", [fact("pos.sale", 6, 2, reservation="R")], [], 1),
    case("a sale of an earlier hold, by a clock ahead", [hold(1, 5), fact("pos.sale", 5, 2, reservation="R")], [], 3),
    case("the same, told later", [hold(1, 5)], [fact("pos.sale", 5, 2, reservation="R")], 3),
    case("a sale after its record, though there was an earlier hold", [hold(1, 5)],
         [fact("pos.sale", 6, 2, reservation="R")], 1),
    case("a sale that claims it, told later", [], [fact("pos.sale", 6, 2, reservation="R")], 1),
    case("a sale of what was held before it", [fact("pos.sale", 4, 2, reservation="R")], [], 3),
    case("a sale of what was held before it, told later", [], [fact("pos.sale", 4, 2, reservation="R")], 3),
]  # fmt: skip


@pytest.mark.parametrize(("before", "behind", "bound"), AROUND)
def test_a_promise_stands_behind_everything_that_its_topic_said_before(
    before: list[StockFact], behind: list[StockFact], bound: int
) -> None:
    """By offset; what comes later, and other topics, whose order nobody knows, count by time."""
    here = desk()
    here.tell(stock(20), *before, request(5, 3), *behind)
    assert here.record(A).committed == bound


def test_a_hold_that_was_granted_lives_like_any_other() -> None:
    """It is consumed, renewed, released and ends."""
    here = desk()
    here.tell(stock(9), request(1, 5, expires_at=at(60)), fact("pos.sale", 2, 2, reservation="R"))
    assert (here.record(A).on_hand, here.record(A).committed) == (7, 3)
    here.tell(fact("reservation.renewed", 3, expires_at=at(90)))
    assert here.record(A, 70).committed == 3
    assert here.record(A, 90).committed == 0


def test_only_one_can_have_the_last_unit() -> None:
    """10,000 races between two shoppers over one unit, in random order with sales and returns: never both."""
    chance = random.Random(7)
    here = desk()
    for race in range(10_000):
        own = {"sku": f"SKU-{race}"}
        here.tell(fact("wms.receipt", 0, 1, **own))
        requests = [request(1, 1, reservation=name, source=name, **own) for name in ("R-1", "R-2")]
        chance.shuffle(requests)
        here.tell(*requests)
        verdicts = sorted(answer.verdict for answer in answers(here))
        assert verdicts == ["accepted", "rejected"]
        assert here.record(f"SKU-{race}|A").shortage == 0


# A policy and what is told, then the request, and its verdict, units and backordered units.
OWN: list[Any] = [
    case("its own hold is not in its way", 5, [hold(1, 10, 5)], request(9, 10), ("accepted", 10, 5)),
    case("nor below zero", 5, [hold(1, 10, 5), fact("pos.sale", 2, 5)], request(9, 5), ("accepted", 5, 5)),
    case("another's is", 5, [hold(1, 10, reservation="Q")], request(9, 1), ("rejected", 0, 0)),
    case("up to the limit", 5, [hold(1, 10, 5)], request(9, 11), ("rejected", 0, 0)),
    case("a part, up to the limit", 5, [hold(1, 10, 5)], request(9, 11, partial=True), ("partial", 10, 5)),
]


@pytest.mark.parametrize(("limit", "facts", "wanted", "told"), OWN)
def test_what_may_be_backordered_counts_everything_once(
    limit: int, facts: list[StockFact], wanted: StockFact, told: tuple[Any, ...]
) -> None:
    """Of 5 on hand and a limit of 5, whoever asks may have 10, and nobody else."""
    here = desk(policy("p", backorder_limit=limit))
    here.tell(stock(5), *facts, wanted)
    [answer] = answers(here)
    assert (answer.verdict, answer.units, answer.backordered) == told


def test_a_promise_that_is_not_held_yet_counts_against_the_backorders() -> None:
    """A decision survived and its hold did not: what is left of the limit is left once."""
    early, promised = request(1, 4, reservation="Q"), request(2, 7)
    first = desk(policy("p", backorder_limit=5))
    first.tell(stock(5))
    first.next[2] = 1
    first.tell(promised)
    again = restarted(first, only_decisions=True)
    again.ledger.policies.set_policy(policy("p", backorder_limit=5))
    again.tell(stock(5), early, promised)
    assert [answer.verdict for answer in answers(again)] == ["rejected", "accepted"]
    assert again.record(A).shortage == 2


def test_what_should_have_come_is_no_prospect() -> None:
    """Neither as a date for a backorder nor as an alternative."""
    here = desk(policy("p", backorder_limit=2))
    here.tell(stock(1), fact("inbound.expected", 1, 5, eta=at(60)))
    here.tell(request(100, 2), request(101, 9, reservation="Q"))
    first, second = answers(here)
    assert (first.backordered, first.expected_at_us) == (1, None)
    assert [one.at_us for one in second.alternatives] == []


# When the hold Q of all 3 units ends, what else is told of it, and if a request stamped at 100 can have them.
BACKLOG: list[Any] = [
    case("it has ended", 99, [], "accepted"),
    case("it ends in that moment", 100, [], "accepted"),
    case("it has not", 101, [], "rejected"),
    case("it never does", None, [], "rejected"),
    case("it was renewed in time", 99, [renewed(90, 200, reservation="Q")], "rejected"),
    case("it was renewed, and has ended", 50, [renewed(40, 99, reservation="Q")], "accepted"),
    case("it was renewed too late", 50, [renewed(60, 200, reservation="Q")], "accepted"),
    case("it was used up", 99, [fact("pos.sale", 9, 3, reservation="Q")], "rejected"),
    case("some of it was used", 99, [fact("pos.sale", 9, 1, reservation="Q")], "rejected"),
]


@pytest.mark.parametrize(("end", "facts", "verdict"), BACKLOG)
def test_a_backlog_is_decided_as_of_its_records(end: float | None, facts: list[StockFact], verdict: str) -> None:
    """While everything is read up to now, no hold ends; but one that had ended by then is not in the way."""
    here = desk()
    here.tell(stock(3), hold(1, 3, end, reservation="Q"), *facts)
    assert here.ledger.commitments.clock_us == 0
    here.tell(request(100, 3))
    assert [answer.verdict for answer in answers(here)] == [verdict]
    assert here.record(A, 100).shortage == 0


def test_a_backlog_is_decided_as_it_would_have_been_at_once() -> None:
    """Whatever order the times of its records have, and with whatever happens to the holds meanwhile."""
    chance = random.Random(11)
    for _ in range(300):
        facts = [stock(6)]
        for second in range(1, 40):
            name = chance.choice("QPS")
            made = chance.choice(
                (
                    hold(second, chance.randint(1, 3), second + chance.randint(1, 30), reservation=name),
                    renewed(second, second + chance.randint(1, 30), reservation=name),
                    fact("reservation.released", second, chance.randint(1, 2), reservation=name),
                    request(second, chance.randint(1, 3), reservation=chance.choice("QPSR"), expires_at=at(second + 9)),
                )
            )
            facts.append(made)
        live, late = desk(), desk()
        for one in facts:
            live.ledger.advance(micros(one.occurred_at))
            live.tell(one)
            late.tell(one)
        assert answers(live) == answers(late)
        assert live.record(A, 100) == late.record(A, 100)


def test_a_clock_ahead_ends_no_hold_for_anyone_but_its_own_promise() -> None:
    """Units are free by the time of the record or now, whichever is earlier."""
    here = desk()
    here.tell(stock(3), hold(1, 3, 60, reservation="Q"))
    here.ledger.apply(request(50, 3), 2, 1, us(50), us(9_999))
    assert [answer.verdict for answer in answers(here)] == ["rejected"]


def test_deciding_leaves_what_is_idle_alone() -> None:
    """A SKU's own locations are looked at, none of those of other SKUs, and none is unpacked."""
    here = desk()
    here.tell(*(stock(5, f"L-{number}") for number in range(20)))
    here.tell(*(fact("wms.receipt", 0, 1, sku=f"S-{number}", location=f"M-{number}") for number in range(50)))
    again = restarted(here)
    looked: list[str] = []
    look = again.ledger.requests._look
    again.ledger.requests._look = lambda key, *how: looked.append(key) or look(key, *how)  # type: ignore[func-returns-value]
    again.next = here.next.copy()
    again.ledger._active.clear()
    again.tell(request(1, 5, location="*"))
    assert sorted(looked) == sorted(f"SKU|L-{number}" for number in range(20))
    assert len(again.ledger._active) == 1, "the one that was chosen"


def test_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; those whose hold is open stay, and those that nobody was told yet."""
    monkeypatch.setattr(promises, "DECISIONS_MAX", 10)
    here = desk()
    here.tell(stock(5), request(0, 1))
    for number in range(1, 100):
        here.tell(request(number, 9, reservation=f"Q-{number}"))
        if number != 50:
            answers(here)
    kept = [decision.reservation for decision in here.ledger.verdicts._known.values()]
    assert kept[0] == "R"
    assert kept[1:] == [f"Q-{number}" for number in range(91, 100)]
    waiting = desk()
    waiting.tell(*(request(number, 9, reservation=f"Q-{number}") for number in range(100)))
    assert len(waiting.ledger.verdicts) == 100


def test_a_repeat_of_what_was_forgotten_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same request is a duplicate all the same, as long as its id is remembered; it has no answer any more."""
    monkeypatch.setattr(promises, "DECISIONS_MAX", 1)
    here, wanted = desk(), request(1, 2)
    here.tell(stock(5), wanted, fact("reservation.released", 2))
    answers(here)
    here.tell(request(3, 9, reservation="Q"), request(4, 9, reservation="P"))
    answers(here)
    assert here.tell(wanted) == ["duplicate"]
    assert (answers(here), here.record(A).committed) == ([], 0)


def test_an_old_request_keeps_its_decision_until_it_is_answered() -> None:
    """One that waited in the log for days is answered again after a crash between its state and its answer."""
    days = 5 * 86_400
    facts = [stock(5), request(1, 4), request(2, 4, reservation="Q")]
    first = told(*facts)
    first.ledger.advance(us(days))  # everything is read: time goes on
    again = restarted(first)
    again.tell(*facts)
    again.ledger.advance(us(days))
    told_again = answers(again)
    assert (told_again, len(told_again)) == (answers(first), 2)
    again.tell(fact("reservation.released", days))
    again.ledger.advance(us(2 * days))
    assert len(again.ledger.verdicts) == 0


# What a crash leaves


def restarted(desk: Desk, only_decisions: bool = False) -> Desk:
    """Another process with what the first one has flushed, or with no more than its decisions."""
    records = {key: packed for key, packed in desk.ledger.flush() if packed is not None}
    kept = {key: packed for key, packed in records.items() if is_verdict_key(key) or not only_decisions}
    again = Desk(Ledger(Policies()))
    again.ledger.restore(kept, [], us(0))
    return again


def test_a_decision_that_is_durable_is_not_made_again() -> None:
    """All else was lost, and the replay reads the requests before the stock: they are answered as before."""
    first = told(stock(5), *(wanted := [request(1, 4), request(2, 4, reservation="Q")]))
    again = restarted(first, only_decisions=True)
    again.tell(*wanted, stock(5))
    assert answers(again) == answers(first)
    assert (again.record(A).committed, again.ledger.verdicts.promised(A)) == (4, 0)


def test_what_was_promised_and_is_not_held_yet_is_not_promised_twice() -> None:
    """A decision survived and its hold did not: who comes before it in the replay cannot have the units."""
    early, promised = request(1, 4, reservation="Q"), request(2, 4)
    first = desk()
    first.tell(stock(5))
    first.next[2] = 1
    first.tell(promised)
    again = restarted(first, only_decisions=True)
    again.tell(stock(5), early, promised)
    assert [answer.verdict for answer in answers(again)] == ["rejected", "accepted"]
    assert again.record(A).committed == 4


@pytest.mark.parametrize("stock_first", [True, False])
def test_a_retry_is_worth_nothing_without_what_it_repeats(stock_first: bool) -> None:
    """A crash kept its decision and lost the one behind it, which may come out otherwise: so does the retry."""
    facts = [request(1, 3), request(2, 3), request(3, 3, location="B")]
    first = told(stock(9), *facts)
    lost = verdict_key("SKU", facts[0].source, facts[0].id)
    again = Desk(Ledger(Policies()))
    decisions = {key: packed for key, packed in first.ledger.flush() if packed is not None and is_verdict_key(key)}
    again.ledger.restore({key: packed for key, packed in decisions.items() if key != lost}, [], us(0))
    again.tell(*([stock(9)] if stock_first else []), *facts)
    came_out = answers(again)
    assert [answer.units for answer in came_out] == ([3, 3, 3] if stock_first else [0, 0, 0])
    assert [answer.repeats for answer in came_out] == ([False, True, True] if stock_first else [False] * 3)
    assert again.ledger.commitments.units(A) == (3 if stock_first else 0)


def test_answers_are_given_again_after_a_restart() -> None:
    """Whether the first ones were sent is not known; they are the same."""
    facts = [stock(5), request(1, 4), request(2, 4, reservation="Q")]
    first = desk()
    first.tell(*facts)
    again = restarted(first)
    again.tell(*facts)
    assert answers(again) == answers(first)
    assert again.record(A) == first.record(A)


def test_a_replayed_repeat_holds_nothing() -> None:
    """Not even for another reservation that it names: its answer is that of the first."""
    facts = [stock(9), request(1, 4, id="x"), request(2, 4, id="x", reservation="Q")]
    first = told(*facts)
    again = restarted(first)
    again.tell(*facts)
    assert again.record(A).committed == first.record(A).committed == 4


def test_ids_may_contain_what_state_keys_are_made_of() -> None:
    """Nobody can make a decision look like a hold."""
    wanted = request(1, 4, id="|\x1fhold\x1f7\x1fx", source="|\x1forder\x1f")
    again = restarted(told(stock(9), wanted))
    again.tell(stock(9), wanted)
    assert [answer.verdict for answer in answers(again)] == ["accepted"]


def test_answers_are_forgotten_when_nothing_hangs_on_them() -> None:
    """A day after a rejection, or once the hold has ended."""
    day = ANSWERED_HORIZON_US / 1e6
    here = desk()
    here.tell(stock(5), request(1, 4), request(2, 4, reservation="Q"))
    here.ledger.advance(us(2 * day))
    assert len(here.ledger.verdicts) == 2, "nobody was told yet"
    assert len(answers(here)) == 2
    here.ledger.advance(us(2 * day) + HOUR_US)
    assert len(here.ledger.verdicts) == 1
    here.tell(fact("reservation.released", 2 * day))
    here.ledger.advance(us(3 * day) + HOUR_US)
    assert len(here.ledger.verdicts) == 0


def test_one_request_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a dead letter, and has no answer."""
    monkeypatch.setattr(commitments, "ORDERS_PER_SKU_MAX", 1)
    here = desk()
    here.tell(stock(9), request(1, 1))
    with pytest.raises(LimitReached):
        here.tell(request(2, 1, reservation="Q"))
    assert len(answers(here)) == 1
