"""What must be true of a commit at the moment it is sent: all that it passes over has been said."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from schemas.dead_letters import origin
from schemas.state import CLAIM_KEY
from schemas.topics import AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY, STOCK_STATE
from stock.events import ReservationRequested, StockFact
from tests.oracle import (
    Fact,
    TransferEvent,
    allocated_at,
    first_tellings,
    lifecycle_of,
    on_hand,
    transfers,
    unavailable,
)
from tests.simulation.kafka import Place
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import Simulation


def unsaid(run: Simulation, process: Process, committed: dict[Place, int]) -> list[str]:
    """What a commit of these positions passes over although it stands on no output topic.

    A process that was succeeded speaks for nobody, and what it published as it took over may wait for its replay.
    """
    problems = []
    for partition in sorted({partition for _, partition in committed}):
        if not process.host.was_told_nowhere and _owner(run, partition) == process.host.name:
            upto = {topic: position for (topic, at), position in committed.items() if at == partition}
            problems += _unsaid_letters(run, partition, upto)
            withheld = process.withheld.get(partition, set())
            problems += _unsaid_stock(run, partition, upto, withheld)
            problems += _unsaid_networks(run, partition, upto, withheld)
    return [f"{process.host.name} commits too early: {problem}" for problem in problems]


def _owner(run: Simulation, partition: int) -> str:
    """Who claimed a partition last."""
    for at, record in reversed(run.broker.appended[STOCK_STATE.name]):
        if at == partition and record.key == CLAIM_KEY.encode():
            return record.writer
    return ""


def _is_new(run: Simulation, topic: str, partition: int, offset: int, upto: dict[str, int]) -> bool:
    before, _ = run.group.positions.get((topic, partition), (0, ""))
    return before <= offset < upto[topic]


def _unsaid_letters(run: Simulation, partition: int, upto: dict[str, int]) -> list[str]:
    passed = {
        (topic, at, offset)
        for topic, at, offset in run.told.poison
        if at == partition and _is_new(run, topic, at, offset, upto)
    }
    if not passed:
        return []
    sent = {origin(list(letter.headers)) for _, letter in run.broker.appended[DEAD_LETTERS.name]}
    return [f"{place} is no dead letter yet" for place in sorted(passed - sent)]


def _unsaid_stock(run: Simulation, partition: int, upto: dict[str, int], withheld: set[str]) -> list[str]:
    """Keys of which every fact is passed must say on the topic what the oracle says of their stock."""
    facts = [fact for at, fact in run.told.placed if at == partition]
    keys = {_key(fact.event) for fact in facts if _is_new(run, fact.topic, partition, fact.order, upto)}
    ahead = [fact.event for fact in facts if fact.order >= upto[fact.topic]]
    keys -= {_key(event) for event in ahead}
    # What a cancelled transfer gives back to one location depends on what was received at another, and what a net
    # count left out on what happened to its order lines at another.
    in_motion = {
        event.sku
        for event in ahead
        if isinstance(event, TransferEvent) or getattr(event, "order_line", None) is not None
    }
    # Of a SKU that was ever delisted nothing may be said; which of two facts was published first nobody knows here.
    gone = {fact.event.sku for _, fact in run.told.items if lifecycle_of(fact.event) == "delisted"}
    keys = {key for key in keys if key.partition("|")[0] not in gone}
    problems = []
    for key in sorted(keys - withheld):
        sku, _, location = key.partition("|")
        if sku in in_motion:
            continue
        told = first_tellings(_of_sku(facts, key, upto))
        # A request moves no stock, and leaves nothing where it is rejected.
        here = [e for e in told if e.location == location and not isinstance(e, ReservationRequested)]
        if not here:
            continue  # nothing but repeats of what was told elsewhere
        said = _said(run, partition, key)
        returned = [back for transfer in transfers(told) for back in transfer.returned if back.location == location]
        allocated = partial(allocated_at, location, told)
        wanted = (on_hand(here, returned, allocated), unavailable(here, returned))
        if said != wanted:
            problems.append(f"{key} says {said}, on hand and unavailable are {wanted}")
    return problems


def _unsaid_networks(run: Simulation, partition: int, upto: dict[str, int], withheld: set[str]) -> list[str]:
    """SKUs of which every fact is passed must say on the network topic what the oracle says is on hand."""
    facts = [fact for at, fact in run.told.placed if at == partition]
    skus = {fact.event.sku for fact in facts if _is_new(run, fact.topic, partition, fact.order, upto)}
    skus -= {fact.event.sku for fact in facts if fact.order >= upto[fact.topic]}
    skus -= {key.partition("|")[0] for key in withheld}
    skus -= {fact.event.sku for _, fact in run.told.items if lifecycle_of(fact.event) == "delisted"}
    problems = []
    for sku in sorted(skus):
        all_told = first_tellings(_of_sku(facts, f"{sku}|", upto))
        told = [event for event in all_told if not isinstance(event, ReservationRequested)]
        if not told:
            continue  # a request that is rejected leaves nothing
        returned = [back for transfer in transfers(told) for back in transfer.returned]
        wanted = sum(
            on_hand(
                [event for event in told if event.location == location],
                [back for back in returned if back.location == location],
                partial(allocated_at, location, told),
            )
            for location in {event.location for event in told} | {back.location for back in returned}
        )
        said = [
            msgspec.json.decode(record.value)
            for at, record in run.broker.appended[NETWORK_AVAILABILITY.name]
            if at == partition and record.key == f"{sku}|*".encode() and record.value is not None
        ]
        newest = max(said, key=lambda content: content["version"], default={"on_hand": None})
        if newest["on_hand"] != wanted:
            problems.append(f"the network of {sku} says {newest['on_hand']} on hand, it is {wanted}")
    return problems


def _key(event: StockFact) -> str:
    return f"{event.sku}|{event.location}"


def _of_sku(facts: list[Fact], key: str, upto: dict[str, int]) -> list[Fact]:
    sku = key.partition("|")[0]
    return [fact for fact in facts if fact.event.sku == sku and fact.order < upto[fact.topic]]


def _said(run: Simulation, partition: int, key: str) -> tuple[int, int] | None:
    """Stock on hand and unavailable as the newest version of a key says on the topic."""
    contents = [
        msgspec.json.decode(record.value)
        for at, record in run.broker.appended[AVAILABILITY.name]
        if at == partition and record.key == key.encode() and record.value is not None
    ]
    if not contents:
        return None
    newest = max(contents, key=lambda content: content["version"])
    return newest["on_hand"], newest["unavailable"]
