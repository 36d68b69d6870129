"""The ledger against the oracle: any history, any interleaving, crashes at any record of a flush."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from schemas.events import ItemRemoved, Refusal, decode, decode_item, decode_setting
from schemas.records import encode, micros, moment, split_availability_key
from schemas.topics import KEYED_INPUTS, STOCK_ITEMS
from sinks.network_lane import network_record_of
from sinks.outlet import digest_of, in_stages, record_of, verdict_of
from stock import recent
from stock.events import ItemSet, LocationSet, PolicyRemoved, PolicySet, SourceAlive, StockFact
from stock.ledger import OUTCOMES, Ledger
from stock.policies import Policies
from stock.verdicts import Decision, verdict_key
from tests.network_oracle import expected_networks, network_disagreements
from tests.oracle import (
    Delisted,
    Fact,
    Promises,
    Removed,
    Setting,
    broken_promises,
    disagreements,
    expected,
    first_tellings,
    promises,
)
from tests.strategies import DrawnChoice, SeededChoice, Storyteller, Told, World, to_wire

WORLD = World(null_settings=True)
TOPICS = {topic.name: position for position, topic in enumerate(KEYED_INPUTS)}
POISON = b'{"type":"pos.sale",'


@dataclass(frozen=True)
class Record:
    """One record of an input topic, and what it says; None if it is poison."""

    value: bytes | None
    timestamp_us: int
    fact: Fact | None
    key: bytes = b""


class Partition:
    """One partition without its infrastructure: input logs, a ledger, a state topic and committed positions.

    What is told stands on the logs; what was `consumed` is in the ledger. A crash loses the ledger and keeps of its
    last flush as many records as the caller says.
    """

    def __init__(self) -> None:
        self.policies = Policies()
        self.ledger = Ledger(self.policies)
        self.logs: list[list[Record]] = [[] for _ in KEYED_INPUTS]
        self.settings: list[Setting] = []
        self.now_us = 0
        self.next = [0] * len(KEYED_INPUTS)
        self.seen = [0] * len(KEYED_INPUTS)  # the furthest that any of the processes came
        self.state: dict[str, bytes] = {}
        self.given: dict[tuple[str, str, str], Decision] = {}  # answers that were sent, after a whole flush
        self.complete = [(0,) * len(KEYED_INPUTS)]  # positions of the flushes from the last committed one on

    # Inputs

    def tell(self, told: Told) -> int | None:
        """Append a message to its log and return its topic; settings hold at once and have none."""
        self.now_us = max(self.now_us, micros(told.at))
        self.policies.advance(self.now_us)
        name, key, value = to_wire(told.message)
        if isinstance(told.message, StockFact | ItemSet | Delisted):
            topic = TOPICS[name]
            fact = Fact(name, len(self.logs[topic]), told.message, told.at)
            self.logs[topic].append(Record(value, micros(told.at), fact, key.encode()))
            return topic
        self.settings.append(take_setting(self.policies, key, value))
        return None

    def tell_poison(self, topic: int) -> None:
        """Append something that is no message."""
        self.logs[topic].append(Record(POISON, self.now_us, None))

    def unread(self) -> list[int]:
        """Topics with records that are not consumed."""
        return [topic for topic, log in enumerate(self.logs) if self.next[topic] < len(log)]

    def consume(self, topic: int) -> None:
        """Let the ledger take in the next record of a topic."""
        offset = self.next[topic]
        record = self.logs[topic][offset]
        self.next[topic] += 1
        self.seen[topic] = max(self.next[topic], self.seen[topic])
        if take(self.ledger, topic, offset, record.key, record.value, record.timestamp_us) is not None:
            self.ledger.refuse(topic, offset)

    # State

    def flush(self) -> None:
        """A flush that becomes durable as a whole, so that its positions may be committed."""
        self._write(self.ledger.flush())
        self.complete.append(tuple(self.ledger.totals.positions))
        answers, self.ledger.answers = self.ledger.answers, []
        for sku, decision in answers:
            before = self.given.setdefault((sku, decision.source, decision.id), decision)
            assert before == decision, "a request was answered twice, and not alike"
            self.ledger.verdicts.answered([verdict_key(sku, decision.source, decision.id)])

    def commit(self, flush: int) -> None:
        """Commit the positions of one of the complete flushes."""
        self.complete = self.complete[flush:]

    def crash(self, kept: Callable[[int], int], rewritten: Callable[[list[str]], list[str]]) -> None:
        """Lose the process in the middle of a flush, and take over from what is durable.

        Args:
            kept: from the number of records of the last flush to how many of them are durable.
            rewritten: from all state keys to those over which a fenced writer has written since.
        """
        records = self.ledger.flush()
        self._write(records[: kept(len(records))])
        self._take_over(rewritten)

    def crash_in_a_stage(self, whole: Callable[[int], int], landed: Callable[[], bool]) -> None:
        """Lose the process while a stage of a cut is under way: of that, any part may be durable.

        Args:
            whole: from the number of stages to how many of them are durable as a whole.
            landed: whether one record of the next stage is durable.
        """
        stages = list(in_stages(self.ledger.flush()))
        upto = whole(len(stages))
        for stage in stages[:upto]:
            self._write(stage)
        self._write([record for stage in stages[upto : upto + 1] for record in stage if landed()])
        self._take_over(lambda _: [])

    def _take_over(self, rewritten: Callable[[list[str]], list[str]]) -> None:
        self.ledger = Ledger(self.policies)
        self.ledger.restore(dict(self.state), rewritten(sorted(self.state)), self.now_us)
        self.next = list(self.complete[0])
        for topic, start in enumerate(self.next):
            self.ledger.passed(topic, start)

    def _write(self, records: list[tuple[str, bytes | None]]) -> None:
        for key, packed in records:
            if packed is None:
                self.state.pop(key, None)
            else:
                self.state[key] = packed

    # Verdict

    @property
    def replayed(self) -> bool:
        """Whether all that an earlier process may have made durable has been consumed by this one too."""
        return self.next == self.seen

    def problems(self) -> list[str]:
        """What is wrong now, judged by what has been consumed; only to be asked once all is replayed."""
        assert self.replayed
        self.policies.advance(self.now_us)
        self.ledger.advance(self.now_us)
        kept = dict(self._decisions())
        broken = [f"{key}: {given} was promised" for key, given in self.given.items() if kept.get(key) != given]
        broken += broken_promises(self._consumed_facts(), self.promises())
        return self._wrong_records() + self._wrong_networks() + self._wrong_totals() + broken

    def promises(self) -> Promises:
        """How each request was answered, as the ledger remembers it."""
        known = sorted(self.ledger.verdicts._known.items(), key=lambda one: one[1].offset)
        decided = [(key.partition("|")[0], one) for key, one in known]
        return promises(msgspec.json.decode(encode(verdict_of(sku, decision))) for sku, decision in decided)

    def _decisions(self) -> list[tuple[tuple[str, str, str], Decision]]:
        known = self.ledger.verdicts._known
        return [((key.partition("|")[0], one.source, one.id), one) for key, one in known.items()]

    def _wrong_records(self) -> list[str]:
        now = moment(self.now_us)
        assert now is not None
        wanted = expected(self._consumed_facts(), self.settings, now, self.promises())
        actual = {}
        for key in self.ledger.keys():  # noqa: SIM118  # a ledger is no mapping
            seen, balance = self.ledger.settle(key)
            actual[split_availability_key(key)] = (
                None
                if seen.delisted
                else msgspec.json.decode(encode(record_of(key, seen, balance, balance.cause, 1, "urgent", now)))
            )
            assert digest_of(self.ledger.view(key)) == digest_of(seen), "settling twice changes nothing"
        return disagreements(wanted, actual)

    def _wrong_networks(self) -> list[str]:
        now = moment(self.now_us)
        assert now is not None
        network, actual = self.ledger.network, {}
        for sku in {key.partition("|")[0] for key in self.ledger.keys()}:  # noqa: SIM118  # a ledger is no mapping
            for channel in network.channels(sku):
                seen = network.view(sku, channel, 0, keep=False)
                if seen is not None:
                    said = network_record_of(sku, channel, seen, ("", "", "", 0), 1, now)
                    actual[sku, channel] = msgspec.json.decode(encode(said))
        wanted = expected_networks(self._consumed_facts(), self.settings, now, self.promises())
        return network_disagreements(wanted, actual)

    def _wrong_totals(self) -> list[str]:
        facts = self._consumed_facts()
        distinct = len(first_tellings(facts)) + sum(isinstance(f.event, ItemSet | Delisted) for f in facts)
        counted = dict(zip(OUTCOMES, self.ledger.totals.by_outcome, strict=True))
        told = {
            "applied, absorbed or echo": counted["applied"] + counted["absorbed"] + counted["echo"],
            "duplicate": counted["duplicate"],
            "dead_letter": counted["dead_letter"],
        }
        wanted = {
            "applied, absorbed or echo": distinct,
            "duplicate": len(facts) - distinct,
            "dead_letter": sum(self.next) - len(facts),
        }
        return [] if told == wanted else [f"outcomes are {told}, expected {wanted}"]

    def _consumed_facts(self) -> list[Fact]:
        records = [record for log, upto in zip(self.logs, self.next, strict=True) for record in log[:upto]]
        return [record.fact for record in records if record.fact is not None]

    def finish(self) -> list[str]:
        """Consume what is left, topic by topic, and judge the end."""
        for topic in self.unread():
            while self.next[topic] < len(self.logs[topic]):
                self.consume(topic)
        return self.problems()


def take(ledger: Ledger, topic: int, offset: int, key: bytes, value: bytes | None, timestamp_us: int) -> Refusal | None:
    """Let a record of a keyed input have its effect; why it is refused comes back."""
    if KEYED_INPUTS[topic] is STOCK_ITEMS:
        item = decode_item(key, value, timestamp_us)
        if isinstance(item, Refusal):
            return item
        ledger.apply_item(item.sku, None if isinstance(item, ItemRemoved) else item, offset)
        return None
    event = decode(topic, value, timestamp_us)
    if isinstance(event, Refusal):
        return event
    ledger.apply(event, topic, offset, timestamp_us)
    return None


def take_setting(policies: Policies, key: str, value: bytes | None) -> Setting:
    """Let a settings record hold as the settings topic's reader does; what the oracle should take it for comes back."""
    setting = Refusal("", "") if value is None else decode_setting(key.encode(), value)
    if isinstance(setting, LocationSet):
        policies.set_location(setting)
        return setting
    if isinstance(setting, PolicySet):
        policies.set_policy(setting)
        return setting
    if isinstance(setting, PolicyRemoved):
        policies.remove_policy(setting.policy)
        return setting
    if isinstance(setting, SourceAlive):
        policies.set_alive(setting)
        return setting
    # Removed, or refused: what stood under the key ends.
    kind, _, name = key.partition(":")
    if kind == "policy":
        policies.remove_policy(name)
    elif kind == "alive":
        policies.remove_alive(*name.rsplit(":", 1))
    else:
        policies.remove_location(name)
    return Removed(key)


class LedgerMachine(RuleBasedStateMachine):
    """Hypothesis decides what is told, in which order topics are read, and where the process dies."""

    @initialize()
    def open(self) -> None:
        self.partition = Partition()
        self.data: st.DataObject | None = None
        self.storyteller = Storyteller(DrawnChoice(self._draw), WORLD)

    def _draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        assert self.data is not None
        return self.data.draw(strategy)

    @rule(data=st.data(), messages=st.integers(1, 6))
    def tell(self, data: st.DataObject, messages: int) -> None:
        self.data = data
        for _ in range(messages):
            self.partition.tell(self.storyteller.next())

    @rule(topic=st.integers(0, 2))
    def poison(self, topic: int) -> None:
        self.partition.tell_poison(topic)

    @precondition(lambda self: self.partition.unread())
    @rule(data=st.data(), records=st.integers(1, 5))
    def consume(self, data: st.DataObject, records: int) -> None:
        topic = data.draw(st.sampled_from(self.partition.unread()))
        for _ in range(min(records, len(self.partition.logs[topic]) - self.partition.next[topic])):
            self.partition.consume(topic)

    @rule(seconds=st.sampled_from((5, 60, 300, 900)))
    def wait(self, seconds: int) -> None:
        self.storyteller.clock += timedelta(seconds=seconds)
        self.partition.now_us = micros(self.storyteller.clock)
        self.partition.ledger.advance(self.partition.now_us)

    @rule()
    def flush(self) -> None:
        self.partition.flush()

    @precondition(lambda self: len(self.partition.complete) > 1)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.partition.commit(data.draw(st.integers(1, len(self.partition.complete) - 1)))

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.partition.crash(
            lambda records: data.draw(st.integers(0, records)),
            lambda keys: data.draw(st.lists(st.sampled_from(keys), max_size=3, unique=True)) if keys else [],
        )

    @precondition(lambda self: self.partition.replayed)
    @rule()
    def judge(self) -> None:
        assert self.partition.problems() == []

    def teardown(self) -> None:
        if hasattr(self, "partition"):
            assert self.partition.finish() == []


LedgerMachine.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no reason to fail
)
TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.__doc__ = "Whatever happens, the ledger ends with what the oracle says."


@pytest.mark.parametrize("seed", range(150))
def test_any_interleaving_with_crashes_ends_with_what_the_oracle_says(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long seeded stories: told, read topic by topic at random, flushed, committed, crashed anywhere in a flush."""
    # Journal records that merge early also merge often, so that crashes hit every stage of it.
    monkeypatch.setattr(recent, "MERGE_FAN_IN", 2 if seed % 2 else recent.MERGE_FAN_IN)
    story, chance = Storyteller(SeededChoice(seed), WORLD), random.Random(seed)
    partition = Partition()
    for _ in range(300):
        partition.tell(story.next())
        if chance.random() < 0.02:
            partition.tell_poison(chance.randrange(3))
        while partition.unread() and chance.random() < 0.6:
            partition.consume(chance.choice(partition.unread()))
        if chance.random() < 0.1:
            partition.ledger.advance(partition.now_us)
        if chance.random() < 0.08:
            partition.flush()
        if chance.random() < 0.05:
            partition.commit(chance.randrange(len(partition.complete)))
        if chance.random() < 0.04:
            partition.crash(
                lambda records: chance.randint(0, records), lambda keys: chance.sample(keys, len(keys) // 9)
            )
        if chance.random() < 0.02 and partition.replayed:
            assert partition.problems() == [], f"seed {seed}"
    assert partition.finish() == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(150))
def test_whatever_part_of_a_stage_lands_the_truth_is_found_again(seed: int) -> None:
    """Records of one stage land in any order: a client goes on with later ones after one has failed."""
    story, chance = Storyteller(SeededChoice(50_000 + seed), WORLD), random.Random(seed)
    partition = Partition()
    for _ in range(200):
        partition.tell(story.next())
        while partition.unread() and chance.random() < 0.6:
            partition.consume(chance.choice(partition.unread()))
        if chance.random() < 0.05:
            partition.flush()
        if chance.random() < 0.05:
            partition.commit(chance.randrange(len(partition.complete)))
        if chance.random() < 0.1:
            partition.crash_in_a_stage(lambda stages: chance.randint(0, stages), lambda: chance.random() < 0.5)
    assert partition.finish() == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(60))
def test_crashes_change_no_outcome_when_the_order_is_the_same(seed: int) -> None:
    """Replayed in the order of first arrival, every record counts exactly as in a run without crashes."""
    story, chance = Storyteller(SeededChoice(1_000 + seed), WORLD), random.Random(seed)
    calm, shaken = Partition(), Partition()
    order: list[int] = []  # the topic of each record, in the order of arrival
    for _ in range(250):
        told = story.next()
        topic = calm.tell(told)
        shaken.tell(told)
        if topic is None:
            continue
        order.append(topic)
        calm.consume(topic)
        shaken.consume(topic)
        if chance.random() < 0.08:
            shaken.flush()
        if chance.random() < 0.05:
            shaken.commit(chance.randrange(len(shaken.complete)))
        if chance.random() < 0.05:
            shaken.crash(lambda records: chance.randint(0, records), lambda keys: [])
            passed = [0] * len(KEYED_INPUTS)
            for again in order:
                passed[again] += 1
                if passed[again] > shaken.next[again]:
                    shaken.consume(again)
    assert shaken.ledger.totals.by_outcome == calm.ledger.totals.by_outcome, f"seed {seed}"
    assert shaken.ledger.totals.positions == calm.ledger.totals.positions, f"seed {seed}"
    assert (calm.finish(), shaken.finish()) == ([], []), f"seed {seed}"
