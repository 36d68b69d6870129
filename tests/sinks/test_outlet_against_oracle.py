"""A partition's whole way out under random faults: what the topic says in the end is what the oracle says.

Ledger, outlet and commits as they run, over logs in memory: deliveries land late, with or without their
acknowledgement, the process dies at any moment, its successor restores from the logs and replays from what was
committed.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from schemas.dead_letters import origin
from schemas.records import micros, moment, split_availability_key
from schemas.state import CommitMetadata, decode_metadata
from schemas.topics import KEYED_INPUTS
from sinks.network_lane import Tail
from sinks.outlet import Letter
from stock.doubts import Thresholds
from stock.events import ItemSet, StockFact, WmsAdjustment
from stock.ledger import Ledger
from stock.policies import Policies
from stock.times import SECOND_US
from tests.alerts_oracle import Limits, alert_problems
from tests.network_oracle import expected_networks, network_disagreements
from tests.oracle import Delisted, Fact, Promises, Setting, disagreements, expected, promises
from tests.sinks.fake_wire import FakeMessage, FakeWire, Window, state_in
from tests.stock.facts import TOPICS, Desk, us
from tests.strategies import SeededChoice, Storyteller, Told, World, to_wire
from tests.test_ledger_against_oracle import POISON, Record, take, take_setting

STEP_S = 0.05
THRESHOLDS = Thresholds(1, 10, unclaimed_us=20 * SECOND_US, hold_us=60 * SECOND_US, allocation_us=40 * SECOND_US)
LIMITS = Limits(1, 10, timedelta(seconds=20), timedelta(seconds=60), timedelta(seconds=40))
WIDE = World(null_settings=True)
NARROW = World(skus=("SKU-1",), locations=("STORE-A",), ticks_ms=(0, 1), settings_percent=20, null_settings=True)
START = (0,) * len(KEYED_INPUTS)
FLIP = WmsAdjustment(
    id="", source="flip", occurred_at=NARROW.start, sku="SKU-1", location="STORE-A", units=1, reason="there and back"
)


class Life:
    """Inputs and outputs that outlive every process, and the process that runs now."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.story = Storyteller(SeededChoice(seed), WIDE if seed % 2 else NARROW)
        self.policies = Policies()
        self.settings: list[Setting] = []
        self.inputs: list[list[Record]] = [[] for _ in KEYED_INPUTS]
        self.wire = FakeWire()
        self.committed: tuple[tuple[int, ...], CommitMetadata | None] = (START, None)
        self.generation = 0
        self.now = 0.0
        self.flips = 0
        self.take_over()

    # What happens

    def tell(self) -> None:
        """Something is told: it stands on its topic, or holds at once."""
        told = self.story.next()
        if self.story.world is NARROW and self.chance.random() < 0.7:
            # There and back again: the numbers return to what an older record says that is still in flight.
            self.flips += 1
            units = 1 if self.flips % 2 else -1
            told = Told(told.at, msgspec.structs.replace(FLIP, id=f"f{self.flips}", occurred_at=told.at, units=units))
        self.now = max(self.now, (told.at - self.story.world.start).total_seconds())
        name, key, value = to_wire(told.message)
        if isinstance(told.message, StockFact | ItemSet | Delisted):
            topic = TOPICS[name]
            fact = Fact(name, len(self.inputs[topic]), told.message, told.at)
            self.inputs[topic].append(Record(value, micros(told.at), fact, key.encode()))
        else:
            for change in self.policies.advance(us(self.now)):
                self.window.outlet.look_again(*change)
            self.settings.append(take_setting(self.policies, key, value))
            self.window.outlet.look_again(None, None, None)
        if self.chance.random() < 0.03:
            self.inputs[self.chance.randrange(3)].append(Record(POISON, micros(told.at), None))

    def consume(self, topic: int) -> None:
        """The next record of a topic reaches the ledger, or the dead letters."""
        offset = self.next[topic]
        record = self.inputs[topic][offset]
        self.next[topic] += 1
        ledger = self.window.ledger
        refusal = take(ledger, topic, offset, record.key, record.value, record.timestamp_us)
        if refusal is not None:
            ledger.refuse(topic, offset)
            message: Any = FakeMessage(None, record.value, offset, KEYED_INPUTS[topic].name)
            self.window.outlet.refuse([Letter(message, refusal, topic)], us(self.now))

    def unread(self) -> list[int]:
        return [topic for topic, log in enumerate(self.inputs) if self.next[topic] < len(log)]

    def turn(self) -> None:
        """One turn of the publisher."""
        window, outlet = self.window, self.window.outlet
        self.now += STEP_S
        for change in self.policies.advance(us(self.now)):
            outlet.look_again(*change)
        if outlet.catching_up and not self.unread():
            outlet.caught_up()
        if not outlet.catching_up:
            window.ledger.advance(us(self.now))
        outlet.sweep()
        window.serve(self.now)
        if outlet.cut_due(self.now, 0.2):
            outlet.cut(self.now)
        ready = outlet.cut_ready()
        if ready is not None and self.chance.random() < 0.7:
            self.committed = (ready[0], decode_metadata(ready[1]))

    def deliver(self) -> None:
        """Some of what is in flight lands and is acknowledged."""
        for log in self.wire.logs.values():
            log.land(self.chance.randint(0, len(log.in_flight)))

    def die(self) -> None:
        """Some of what is in flight still lands, unheard; the rest is lost."""
        for log in self.wire.logs.values():
            log.land(self.chance.randint(0, len(log.in_flight)), silently=True)
            log.in_flight.clear()
        self.take_over()

    def take_over(self) -> None:
        """Restore as the source does: state, then the tails of our outputs, then inputs from what was committed."""
        self.generation += 1
        state = state_in(self.wire)
        positions, metadata = self.committed
        shown_from, letters_from = (metadata.availability, metadata.dead_letters) if metadata else (0, 0)
        shown = {(key or b"").decode() for key, _, _ in self.wire.logs["availability"].records[shown_from:]}
        letters = {origin(headers) for _, _, headers in self.wire.logs["letters"].records[letters_from:]}
        network_from = metadata.network or 0 if metadata else 0
        networks = self.wire.logs["network"].records
        tail = Tail(len(networks), network_from, {(key or b"").decode() for key, _, _ in networks[network_from:]})
        ledger = Ledger(self.policies, thresholds=THRESHOLDS)
        ledger.restore(state, (), us(self.now))
        self.next = list(positions)
        for topic, start in enumerate(self.next):
            ledger.passed(topic, start)
        self.window = Window(
            Desk(ledger),
            interval_s=self.chance.choice((0, 0.1, 0.25)),
            caught_up=False,
            wire=self.wire,
            generation=self.generation,
            shown=shown,
            tail_start=shown_from,
            letters_start=letters_from,
            known_letters=letters,
            network_tail=tail,
        )

    # What must hold

    def come_to_rest(self) -> None:
        """No more faults: read everything, publish everything, commit."""
        for topic in self.unread():
            while topic in self.unread():
                self.consume(topic)
        self.now = max(self.now, (self.story.clock - self.story.world.start).total_seconds())
        for _ in range(20):
            self.turn()
            self.window.land()
        while self.window.outlet.cutting or self.window.outlet.backlog or self.window.outlet.owes_alerts:
            self.turn()
            self.window.land()

    def problems(self) -> list[str]:
        now = moment(us(self.now))
        assert now is not None
        facts = [record.fact for log in self.inputs for record in log if record.fact is not None]
        found: dict[tuple[str, str], Any] = {}
        newest: dict[bytes, int] = {}
        wrong = []
        for key, value, _ in self.wire.logs["availability"].records:
            assert key is not None
            if value is None:
                found[split_availability_key(key.decode())] = None
                continue
            record = msgspec.json.decode(value)
            if record["version"] <= newest.get(key, 0):
                wrong.append(f"{key.decode()}: version {record['version']} after {newest[key]}")
            newest[key] = record["version"]
            found[split_availability_key(key.decode())] = record
        answers = [value for _, value, _ in self.wire.logs["verdicts"].records if value is not None]
        given = promises(msgspec.json.decode(answer) for answer in answers)
        wrong += disagreements(expected(facts, self.settings, now, given), found)
        wrong += self.network_problems(facts, now, given)
        totals, consumed = self.window.ledger.totals, sum(map(len, self.inputs))
        if sum(totals.by_outcome) != consumed:
            wrong.append(f"{consumed} consumed, outcomes {totals.by_outcome}")
        letters = {origin(headers) for _, _, headers in self.wire.logs["letters"].records}
        poison = {
            (KEYED_INPUTS[topic].name, 0, offset)
            for topic, log in enumerate(self.inputs)
            for offset, record in enumerate(log)
            if record.fact is None
        }
        if letters != poison:
            wrong.append(f"dead letters {letters}, expected {poison}")
        if self.window.outlet.cutting or self.window.outlet.backlog:
            wrong.append("not at rest")
        return wrong

    def network_problems(self, facts: list[Fact], now: datetime, given: Promises) -> list[str]:
        """The newest network record of each SKU, and versions that rise."""
        said: dict[tuple[str, str], dict[str, Any] | None] = {}
        newest: dict[tuple[str, str], int] = {}
        wrong = []
        for key, value, _ in self.wire.logs["network"].records:
            assert key is not None
            name = split_availability_key(key.decode())
            record = None if value is None else msgspec.json.decode(value)
            if record is not None:
                if record["version"] <= newest.get(name, 0):
                    wrong.append(f"network {key.decode()}: version {record['version']} after {newest[name]}")
                newest[name] = record["version"]
            said[name] = record
        alerts = [msgspec.json.decode(value or b"") for _, value, _ in self.wire.logs["alerts"].records]
        wrong += alert_problems(alerts, facts, self.settings, now, given, LIMITS)
        return wrong + network_disagreements(expected_networks(facts, self.settings, now, given), said)


@pytest.mark.parametrize("seed", range(80))
def test_whatever_fails_the_topic_ends_with_the_truth(seed: int) -> None:
    """Each key's newest record, versions that rise, every dead letter, and each fact counted once."""
    life = Life(seed)
    for _ in range(150):
        life.tell()
        while life.unread() and life.chance.random() < 0.6:
            life.consume(life.chance.choice(life.unread()))
        for _ in range(life.chance.randint(0, 3)):
            life.turn()
            if life.chance.random() < 0.6:
                life.deliver()
        if life.chance.random() < 0.04:
            life.die()
        if life.chance.random() < 0.08:
            life.come_to_rest()
            assert life.problems() == [], f"seed {seed}"
    life.come_to_rest()
    assert life.problems() == [], f"seed {seed}"
