"""What the alerts topic must say at rest: each alert opens once and closes once, and those that hold are open.

A count is compared with what was known of its moment when it came, which depends on how far the other topics had been
read by then. So every state of the reading that is possible counts: an alert must be there if all of them make one,
must not if none does, and what it says was expected must be what one of them makes of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS, partition_of
from stock.events import (
    OrderAllocated,
    OrderDeallocated,
    ReservationCreated,
    ReservationReleased,
    ReservationRenewed,
    StockFact,
    TransferCancelled,
    TransferReceived,
    TransferShipped,
    WmsCount,
)
from tests.oracle import (
    Expected,
    Fact,
    Promises,
    Setting,
    TransferEvent,
    by_echo,
    echo_named_by,
    effective_at,
    expected,
    first_facts,
    fold_hold,
    fold_order_line,
    has_baseline,
    hold_named_by,
    kept_promises,
    left_by,
    movements,
    newly_left,
    rank_in_order_line,
    settings_in_force,
    topic_of,
    transfer_told_by,
    transfers,
    without_what_was_known,
)

About = tuple[Hashable, ...]  # kind, SKU, and what else tells alerts apart


@dataclass(frozen=True)
class Limits:
    """From when on something is worth an alert."""

    count_units: int = 2
    count_percent: int = 5
    unclaimed: timedelta = timedelta(hours=1)
    hold: timedelta = timedelta(hours=24)
    allocation: timedelta = timedelta(days=7)


@dataclass
class Wanted:
    """Alerts that must be open, and those that may be; for counts also what must have been told at some time."""

    must: set[About] = field(default_factory=set)
    may: set[About] = field(default_factory=set)
    told: set[About] = field(default_factory=set)
    # With what may have been expected; None: what a net count left out depends on how far all locations were read.
    counts: dict[About, tuple[WmsCount, set[int] | None]] = field(default_factory=dict)


def alert_problems(
    told: Iterable[Mapping[str, Any]],
    history: Iterable[Fact],
    settings: Iterable[Setting],
    now: datetime,
    given: Promises | None = None,
    limits: Limits | None = None,
    partitions: int = 1,
    read_live: bool = True,
) -> list[str]:
    """Differences between the alerts that were told, in the order of their log, and what holds at a time.

    Where not all was `read_live`, nobody knows which counts were compared: those of a backlog are not.
    """
    history, settings = list(history), list(settings)
    wanted = wanted_alerts(history, settings, now, given, limits or Limits(), partitions)
    if not read_live:
        of_counts = {name for name in wanted.counts if name[0] == "count_variance"}
        wanted.must, wanted.may, wanted.told = wanted.must - of_counts, wanted.may | of_counts, set()
    problems, by_id = [], states_by_id(told)
    for states in by_id.values():
        problems += ill_told(states)
    newest = [states[-1] for states in by_id.values()]
    is_open = [about(alert, partitions) for alert in newest if alert["state"] == "open"]
    ever = {about(alert, partitions): alert for alert in newest}
    problems += [f"alert: {name} has several open" for name in sorted(set(is_open), key=str) if is_open.count(name) > 1]
    unfounded = set(is_open) - wanted.must - wanted.may
    problems += [f"alert: {name} is open, but does not hold" for name in sorted(unfounded, key=str)]
    problems += [f"alert: {name} holds, but is not open" for name in sorted(wanted.must - set(is_open), key=str)]
    problems += [f"alert: {name} was never told" for name in sorted(wanted.told - ever.keys(), key=str)]
    for name, alert in ever.items():
        if alert["kind"] == "count_variance":
            problems += variance_problems(name, alert, wanted, limits or Limits())
    return problems


def states_by_id(told: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """What was told of each alert, without repeats of the very same."""
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for alert in told:
        states = by_id.setdefault(alert["alert"], [])
        if alert not in states:
            states.append(alert)
    return by_id


def ill_told(states: list[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the states of one alert: it opens, and then it may close, and stays what it was."""
    names = [alert["state"] for alert in states]
    if names not in (["open"], ["open", "closed"]):
        return [f"alert {states[0]['alert']}: is told as {names}, or twice with other content"]
    lasting = [{k: v for k, v in alert.items() if k not in ("state", "closed_at")} for alert in states]
    if lasting[0] != lasting[-1]:
        return [f"alert {states[0]['alert']}: closes as another than it was"]
    if states[-1]["state"] == "closed" and states[-1]["closed_at"] is None:
        return [f"alert {states[0]['alert']}: closes at no time"]
    return []


def about(alert: Mapping[str, Any], partitions: int) -> About:
    """What tells an alert from all others that may be open beside it."""
    kind, sku, location, references = alert["kind"], alert["sku"], alert["location"], alert["references"]
    if kind == "unknown_location":
        return kind, partition_of(sku, partitions), location
    if kind in ("count_variance", "count_too_old"):
        return kind, sku, location, references["source"], references["count"]
    if kind == "unmatched_echo":
        return kind, sku, location, references["echo"]
    if references:
        return kind, sku, tuple(sorted(references.items()))
    return kind, sku, location


def wanted_alerts(
    history: list[Fact],
    settings: list[Setting],
    now: datetime,
    given: Promises | None,
    limits: Limits,
    partitions: int,
) -> Wanted:
    """Every alert that must or may be open."""
    wanted = Wanted()
    for one in expected(history, settings, now, given).values():
        of_numbers(one, wanted)
    facts = kept_promises(first_facts(history), given)
    of_places(facts, settings, partitions, wanted)
    of_sku: dict[str, list[StockFact]] = defaultdict(list)
    for fact in facts:
        of_sku[fact.sku].append(fact)
    for sku, its_facts in of_sku.items():
        of_holds(sku, its_facts, now, limits, wanted)
        of_order_lines(sku, its_facts, now, limits, wanted)
        of_transfers(sku, its_facts, now, limits, wanted)
        of_counts(sku, its_facts, limits, wanted)
        of_echoes(sku, its_facts, now, wanted)
    return wanted


def of_numbers(one: Expected, wanted: Wanted) -> None:
    """What follows from the record of one key."""
    key = one.sku, one.location
    position = one.on_hand - one.unavailable + one.in_transit + one.inbound - one.committed
    if one.shortage > one.backorder_limit:
        wanted.must.add(("shortage", *key))
    if one.overdue:
        wanted.must.add(("overdue_transfer", *key))
    if one.reorder_point is not None and position <= one.reorder_point:
        wanted.must.add(("reorder_point", *key))
    if one.status == {"LOW_STOCK"}:
        wanted.must.add(("low_stock", *key))
    elif "LOW_STOCK" in one.status:
        wanted.may.add(("low_stock", *key))


def of_places(facts: list[StockFact], settings: list[Setting], partitions: int, wanted: Wanted) -> None:
    """Locations that facts name and nobody described, if any is described."""
    described = settings_in_force(settings).locations
    for fact in facts if described else ():
        for location in (fact.location, getattr(fact, "to_location", fact.location)):
            if location not in described:
                wanted.must.add(("unknown_location", partition_of(fact.sku, partitions), location))


# Holds, order lines and transfers: what was asked of them beyond what they had, by folding every beginning of the story


def grouped(
    facts: list[StockFact], name: Callable[[StockFact], Hashable], place: Callable[[StockFact], Any]
) -> dict[Any, list[Any]]:
    """The facts that name the same thing, in the order of their times."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for fact in facts:
        if name(fact) is not None:
            groups[name(fact)].append(fact)
    return {named: sorted(group, key=place) for named, group in groups.items()}


def of_holds(sku: str, facts: list[StockFact], now: datetime, limits: Limits, wanted: Wanted) -> None:
    """Holds without an end, and what names a hold in vain."""

    def place(fact: StockFact) -> tuple[Any, ...]:
        return effective_at(fact), not isinstance(fact, ReservationCreated), fact.source, fact.id

    for (reservation, line), mentions in grouped(facts, hold_named_by, lambda _: 0).items():
        named = {"reservation": reservation} | ({} if line is None else {"line": line})
        name = sku, tuple(sorted(named.items()))
        known = without_what_was_known(mentions)
        over, story = [fact for fact in mentions if fact not in known], sorted(known, key=place)
        hold = fold_hold(story, over)
        stated = [fact.occurred_at for fact in story if isinstance(fact, ReservationCreated)]
        in_vain: list[datetime] = []
        for at, fact in enumerate(story):
            if isinstance(fact, ReservationCreated):
                in_vain.clear()
            elif not isinstance(fact, ReservationRenewed):
                before = fold_hold(story[:at], over)
                left = 0 if before is None else before.left
                if isinstance(fact, ReservationReleased | OrderAllocated):
                    asked = fact.units or 0
                else:
                    asked = newly_left(fact, over + story[:at])
                if asked > left:
                    in_vain.append(effective_at(fact))
        if hold is None and story:
            in_vain = [effective_at(story[0])]
        if in_vain and in_vain[0] + limits.unclaimed <= now:
            wanted.must.add(("unclaimed", *name))
        if hold is not None and hold.left and hold.expires_at is None and stated[-1] + limits.hold <= now:
            wanted.must.add(("orphaned_hold", *name))


def of_order_lines(sku: str, facts: list[StockFact], now: datetime, limits: Limits, wanted: Wanted) -> None:
    """Allocations that stay open, and what names an order line in vain."""

    def order_line(fact: StockFact) -> Hashable:
        return None if rank_in_order_line(fact) is None else getattr(fact, "order_line", None)

    def place(fact: StockFact) -> tuple[Any, ...]:
        return effective_at(fact), rank_in_order_line(fact), fact.source, fact.id

    for named, story in grouped(facts, order_line, place).items():
        name = sku, (("order_line", named),)
        cells = fold_order_line(story)
        in_vain, since = 0, now
        for at, fact in enumerate(story):
            before = fold_order_line(story[:at]).values()
            left, taken = sum(cell.left for cell in before), sum(cell.taken for cell in before)
            if isinstance(fact, OrderAllocated):
                in_vain = 0
            elif not isinstance(fact, TransferReceived):
                asked = fact.units if isinstance(fact, OrderDeallocated) else newly_left(fact, story[:at])
                if asked < 0:
                    in_vain = max(0, in_vain - max(0, -asked - taken))
                elif asked > left:
                    since = since if in_vain else effective_at(fact)
                    in_vain += asked - left
        if not cells:
            in_vain, since = 1, effective_at(story[0])
        if in_vain and since + limits.unclaimed <= now:
            wanted.must.add(("unclaimed", *name))
        opened = [effective_at(fact) for fact in story if isinstance(fact, OrderAllocated | TransferReceived)]
        if any(cell.left for cell in cells.values()) and max(opened) + limits.allocation <= now:
            wanted.must.add(("orphaned_allocation", *name))


def of_transfers(sku: str, facts: list[StockFact], now: datetime, limits: Limits, wanted: Wanted) -> None:
    """Transfers that nobody shipped, and units that a final receipt left over."""

    def transfer(fact: StockFact) -> Hashable:
        return fact.transfer if isinstance(fact, TransferEvent) else None

    def place(fact: StockFact) -> tuple[Any, ...]:
        return fact.occurred_at, not isinstance(fact, TransferShipped), fact.source, fact.id

    for named, story in grouped(facts, transfer, place).items():
        name = sku, (("transfer", named),)
        if not any(isinstance(fact, TransferShipped) for fact in story):
            if story[0].occurred_at + limits.unclaimed <= now:
                wanted.must.add(("unclaimed", *name))
            continue
        short = 0
        for at, fact in enumerate(story):
            on_the_way = sum(leg.left for leg in transfer_told_by(story[:at]).legs)
            if isinstance(fact, TransferReceived | TransferCancelled):
                short = max(0, short - max(0, fact.units - on_the_way))
                if isinstance(fact, TransferReceived) and fact.final:
                    short += max(0, on_the_way - fact.units)
        if short:
            wanted.must.add(("transfer_short", *name))


def of_echoes(sku: str, facts: list[StockFact], now: datetime, wanted: Wanted) -> None:
    """Topics that have told unequal sums of the same units by the end of a day."""
    for (location, echo), group in by_echo(facts).items():
        topics = {topic_of(fact).name for fact in group}
        told = {left_by([fact for fact in group if topic_of(fact).name == topic]) for topic in topics}
        times = [effective_at(fact) for fact in group]
        if len(told) > 1 and timedelta(hours=24) <= now - min(times):
            name = ("unmatched_echo", sku, location, echo)
            surely = timedelta(hours=24) <= now - max(times) and now - max(times) < timedelta(hours=48)
            (wanted.must if surely else wanted.may).add(name)


# Counts


def of_counts(sku: str, facts: list[StockFact], limits: Limits, wanted: Wanted) -> None:
    """Counts that differ from what could have been expected of their moment; all counts stand on one topic."""
    on_wms = [fact for fact in facts if topic_of(fact) is WMS_MOVEMENTS]
    for location in {fact.location for fact in on_wms if isinstance(fact, WmsCount)}:
        elsewhere = {
            topic.name: [fact for fact in facts if topic_of(fact) is topic and fact.location == location]
            for topic in (POS_SALES, ORDER_RESERVATIONS)
        }
        newest: WmsCount | None = None
        must: set[About] = set()
        may: set[About] = set()
        for at, count in enumerate(on_wms):
            if not isinstance(count, WmsCount) or count.location != location:
                continue
            if newest is not None and when(count) < when(newest):
                continue
            before = on_wms[:at]
            name: About = ("count_variance", sku, location, count.source, count.id)
            is_compared = has_baseline([fact for fact in before if fact.location == location])
            if is_compared and "net" in (count.basis, newest.basis if newest is not None else "gross"):
                wanted.counts[name] = count, None
                must, may = set(), must | may | {name}
            elif is_compared:
                possible = what_may_have_been_expected(count, newest, before, elsewhere)
                beyond = {units for units in possible if is_beyond(units, count.units, limits)}
                wanted.counts[name] = count, beyond
                if not beyond:
                    must, may = set(), set()
                elif beyond != possible:
                    must, may = set(), must | may | {name}
                else:
                    must, may = {name}, set()
                    wanted.told.add(name)
            newest = count
        wanted.must |= must
        wanted.may |= may


def when(count: WmsCount) -> tuple[datetime, str, str]:
    """Which of two counts is the newer one."""
    return count.occurred_at, count.source, count.id


def is_beyond(foreseen: int, counted: int, limits: Limits) -> bool:
    """Whether a count is farther from what was expected than may be."""
    return abs(counted - foreseen) > max(limits.count_units, max(0, foreseen) * limits.count_percent / 100)


def what_may_have_been_expected(
    count: WmsCount, newest: WmsCount | None, before: list[StockFact], elsewhere: Mapping[str, list[StockFact]]
) -> set[int]:
    """Units on hand just before a count's moment, for each way in which the other topics may have been read by then."""

    def matters(at: datetime) -> bool:
        return at < count.occurred_at and (newest is None or newest.occurred_at <= at)

    def moved(facts: list[StockFact]) -> int:
        return sum(units for at, units in movements(facts) if matters(at))

    here = [fact for fact in before if fact.location == count.location]
    back = [one for transfer in transfers(before) for one in transfer.returned]
    known = 0 if newest is None else newest.units
    known += sum(one.units for one in back if one.location == count.location and matters(one.at))
    known += moved([fact for fact in here if echo_named_by(fact) is None])
    possible = {known}
    told_once = [[fact for fact in facts if echo_named_by(fact) is None] for facts in elsewhere.values()]
    for facts in told_once:
        read_so_far = {moved(facts[:length]) for length in range(len(facts) + 1)}
        possible = {units + more for units in possible for more in read_so_far}
    # What several topics may tell depends on how far each of them was read. Who has read one fact has read those before
    # it, so this lets some states count that cannot have been.
    first, second = ([fact for fact in facts if echo_named_by(fact) is not None] for facts in elsewhere.values())
    echoed = [fact for fact in here if echo_named_by(fact) is not None]
    together = {
        moved(echoed + first[:length] + second[:other])
        for length in range(len(first) + 1)
        for other in range(len(second) + 1)
    }
    return {units + more for units in possible for more in together}


def variance_problems(name: About, alert: Mapping[str, Any], wanted: Wanted, limits: Limits) -> list[str]:
    """What is wrong with what an alert says of a count."""
    if name not in wanted.counts:
        return [f"alert: {name} is about a count that was never compared"]
    count, beyond = wanted.counts[name]
    said = alert["references"]
    foreseen, counted = int(said["expected"]), int(said["counted"])
    problems = []
    if beyond is None:
        if alert["units"] != counted - foreseen or not is_beyond(foreseen, counted, limits):
            problems.append(f"alert: {name} says {alert['units']} and {said}")
    elif foreseen not in beyond or counted != count.units or alert["units"] != counted - foreseen:
        problems.append(f"alert: {name} says {alert['units']} and {said}, expected were {sorted(beyond)}")
    accuracy = max(0.0, 1 - abs(counted - foreseen) / foreseen) if foreseen > 0 else 0.0
    if abs(float(said["accuracy"]) - accuracy) > 0.0001:
        problems.append(f"alert: {name} says that accuracy was {said['accuracy']}, and it was {accuracy}")
    return problems
