"""Promises are kept: whatever is asked again, taken, released, ended or lost in a crash, in any order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from stock.commitments import hold_key
from stock.events import ReservationRequested, StockFact
from stock.ledger import Ledger
from stock.policies import Policies
from stock.verdicts import Decision, verdict_key
from tests.oracle import topic_of
from tests.stock.facts import TOPICS, at, fact, us

LOCATIONS = ("A", "B")
STOCK = 12


@dataclass
class Shop:
    """A partition whose only stock is sold by reservation: nobody takes what was not promised to them.

    `logs` are the input topics, `read` how far each was read; the state topic is a dictionary, and of the last flush a
    crash keeps some.
    """

    chance: random.Random
    ledger: Ledger = field(default_factory=lambda: Ledger(Policies()))
    logs: list[list[tuple[StockFact, int]]] = field(default_factory=lambda: [[], [], [], []])  # facts and timestamps
    read: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    committed: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    state: dict[str, bytes] = field(default_factory=dict)
    now: float = 1.0
    told: dict[str, Decision] = field(default_factory=dict)  # by the id of the request
    taken: Counter[str] = field(default_factory=Counter)  # units had, by reservation
    requests: list[ReservationRequested] = field(default_factory=list)

    def say(self, one: StockFact) -> None:
        """It stands on its topic."""
        self.logs[TOPICS[topic_of(one).name]].append((one, us(self.now)))

    def open_units(self, reservation: str) -> tuple[str | None, int]:
        """Where a reservation holds units, and how many."""
        return self.ledger.commitments.open_at(hold_key("SKU", reservation, None), us(self.now))

    def read_some(self, most: int = 9) -> None:
        """Some of what is unread; the stock, told first, before anything else."""
        for _ in range(self.chance.randint(1, most)):
            unread = [topic for topic, log in enumerate(self.logs) if self.read[topic] < len(log)]
            if not unread:
                return
            topic = 1 if 1 in unread else self.chance.choice(unread)
            one, stamped_us = self.logs[topic][self.read[topic]]
            self.ledger.apply(one, topic, self.read[topic], stamped_us)
            self.read[topic] += 1

    def cut(self) -> None:
        """Everything is durable, then those who have asked are told, then positions are committed."""
        self.state.update((key, packed) for key, packed in self.ledger.flush() if packed is not None)
        answers, self.ledger.answers = self.ledger.answers, []
        for sku, decision in answers:
            assert self.told.setdefault(decision.id, decision) == decision, "answered twice, and not alike"
            self.ledger.verdicts.answered([verdict_key(sku, decision.source, decision.id)])
        self.committed = self.read.copy()

    def crash(self) -> None:
        """Decisions reach the log before all else; of the rest of the last flush any part is lost."""
        records = self.ledger.flush()
        first = [one for one in records if "|\x1fverdict" in one[0] or one[0].startswith("|journal")]
        rest = [one for one in records if one not in first]
        kept = self.chance.randint(0, len(first))
        self.chance.shuffle(first)
        durable = first[:kept]
        if kept == len(first):
            self.chance.shuffle(rest)
            durable += rest[: self.chance.randint(0, len(rest) - 1)] if self.chance.random() < 0.7 else rest
            totals = [one for one in durable if one[0] == "|outcomes"]
            if totals and len(durable) < len(records):  # the totals are the last
                durable.remove(totals[0])
        self.state.update((key, packed) for key, packed in durable if packed is not None)
        self.ledger = Ledger(Policies())
        self.ledger.restore(dict(self.state), (), us(self.now))
        self.read = self.committed.copy()
        for topic, position in enumerate(self.read):
            self.ledger.passed(topic, position)


def ask(shop: Shop) -> StockFact:
    """A new line, or the same once more under a new id, maybe of another number or elsewhere."""
    if shop.requests and shop.chance.random() < 0.5:
        again = shop.chance.choice(shop.requests)
        reservation, units = (
            again.reservation,
            shop.chance.choice((again.units, again.units, shop.chance.randint(1, 4))),
        )
    else:
        reservation, units = f"R-{shop.chance.randint(1, 8)}", shop.chance.randint(1, 4)
    seconds = shop.now - shop.chance.choice((0, 0, 0, 1, 3))
    ends = {"expires_at": at(shop.now + shop.chance.choice((4, 20, 200)))} if shop.chance.random() < 0.6 else {}
    made = fact(
        "reservation.requested", seconds, units, reservation=reservation, partial=shop.chance.random() < 0.3,
        location=shop.chance.choice((*LOCATIONS, "*")), **ends,
    )  # fmt: skip
    assert isinstance(made, ReservationRequested)
    shop.requests.append(made)
    return made


def take(shop: Shop) -> StockFact | None:
    """Somebody takes some of what is held for them, at the till or for an order, where it is or elsewhere."""
    reservation = f"R-{shop.chance.randint(1, 8)}"
    where, held = shop.open_units(reservation)
    if not held or where is None:
        return None
    shop.now += 0.001  # nobody takes anything in the very moment in which it is promised
    units = shop.chance.randint(1, held)
    shop.taken[reservation] += units
    if shop.chance.random() < 0.5:
        return fact("pos.sale", shop.now, units, reservation=reservation, location=where)
    line = f"L-{len(shop.logs[2])}"
    return fact("order.allocated", shop.now, units, reservation=reservation, location=where, order_line=line)


def change(shop: Shop) -> StockFact:
    """A release, of some or all, or a renewal."""
    reservation = f"R-{shop.chance.randint(1, 8)}"
    if shop.chance.random() < 0.5:
        return fact("reservation.renewed", shop.now, reservation=reservation, expires_at=at(shop.now + 30))
    units = shop.chance.choice((None, 1, 2))
    return fact("reservation.released", shop.now - shop.chance.choice((0, 0, 2)), units, reservation=reservation)


def check(shop: Shop) -> None:
    """Nothing is promised that is not there, and nothing twice."""
    for location in LOCATIONS:
        assert shop.ledger.look(f"SKU|{location}").shortage == 0, location
    assert shop.ledger.look("SKU|A").on_hand + shop.ledger.look("SKU|B").on_hand >= 0


@pytest.mark.parametrize("seed", range(60))
def test_what_was_promised_is_there_for_whoever_it_was_promised_to(seed: int) -> None:
    """At no moment is more promised than there is, and each answer names what is held for its line from then on."""
    shop = Shop(random.Random(seed))
    for location in LOCATIONS:
        shop.say(fact("wms.receipt", 0, STOCK, location=location))
    shop.read_some()
    shop.cut()
    for _ in range(250):
        shop.now += shop.chance.choice((0, 0.5, 1, 5))
        roll = shop.chance.random()
        if roll < 0.35:
            shop.say(ask(shop))
        elif roll < 0.5:
            shop.read_some(10_000)  # only what is known to be held is taken, and nobody takes it twice
            shop.ledger.advance(us(shop.now))
            one = take(shop)
            if one is not None:
                shop.say(one)
                shop.read_some(10_000)
        elif roll < 0.6:
            shop.say(change(shop))
        elif roll < 0.8:
            shop.read_some()
        elif roll < 0.9:
            shop.read_some(10_000)
            shop.cut()
            shop.ledger.advance(us(shop.now))
            check(shop)
        else:
            shop.crash()
            shop.read_some(10_000)
            shop.ledger.advance(us(shop.now))
            check(shop)
    shop.read_some(10_000)
    shop.cut()
    assert {one.id for one in shop.requests} == shop.told.keys(), "everybody was told"
    check(shop)
    for reservation, units in shop.taken.items():
        granted = [d for d in shop.told.values() if d.reservation == reservation and not d.repeats]
        assert units <= sum(decision.units for decision in granted), f"{reservation} had more than was promised"


@pytest.mark.parametrize("seed", range(40))
def test_an_answer_is_true_at_the_moment_it_is_given(seed: int) -> None:
    """What it names is held, but for what its line has taken already; retries of it bind nothing more."""
    shop = Shop(random.Random(1_000 + seed))
    for location in LOCATIONS:
        shop.say(fact("wms.receipt", 0, STOCK, location=location))
    shop.read_some(10_000)
    promised: dict[str, tuple[Decision, int]] = {}  # the newest grant of a line, and what it had taken before
    for _ in range(200):
        shop.now += shop.chance.choice((0, 0.5, 1, 5))
        shop.ledger.advance(us(shop.now))
        one = shop.chance.choice((ask, ask, take, change))(shop)
        if one is None:
            continue
        before = [shop.ledger.look(f"SKU|{location}").committed for location in LOCATIONS]
        shop.say(one)
        shop.read_some(10_000)
        if not isinstance(one, ReservationRequested):
            continue
        [(_, decision)] = shop.ledger.answers
        shop.ledger.answers.clear()
        where, held = shop.open_units(one.reservation)
        if decision.repeats:
            grant, had = promised[one.reservation]
            assert [shop.ledger.look(f"SKU|{location}").committed for location in LOCATIONS] == before
            assert (decision.location, grant.units >= decision.units > 0) == (grant.location, True)
            assert grant.units >= held + shop.taken[one.reservation] - had >= decision.units
        elif decision.units:
            promised[one.reservation] = decision, shop.taken[one.reservation]
            assert (where, held) == (decision.location, decision.units)
        check(shop)
