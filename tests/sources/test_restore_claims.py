"""What a claim is worth: over simulated clients, so that records can come between a look at the log and the claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from schemas.state import CLAIM_KEY, Claim, CommitMetadata, decode_claim, encode_claim, seal
from schemas.topics import AVAILABILITY, DEAD_LETTERS, KEYED_INPUTS, NETWORK_AVAILABILITY, STOCK_STATE
from sources.restore import PartitionsChanged, Restored, RestoreFailed, Restorer
from stock.balance import Balance, pack
from stock.ledger import TOPIC_COUNT
from tests.at_once import AtOnce
from tests.simulation.clients import Host, Troubles
from tests.simulation.kafka import Broker, Group, Timeline
from tests.simulation.process import simulated_clients

TURNS_MAX = 200
OUTPUTS = (STOCK_STATE, AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY)
KEY = "SKU-1|STORE-A"


def balance_of(on_hand: int) -> bytes:
    return pack(Balance([0] * TOPIC_COUNT, on_hand))


@contextmanager
def state_log() -> Iterator[Broker]:
    """A broker without troubles, and a host `here` for the clients of the program."""
    timeline = Timeline(1)
    group = Group(timeline, tuple(topic.name for topic in KEYED_INPUTS), 1, session_s=6)
    topics = [(topic.name, topic.cleanup == "compact") for topic in OUTPUTS]
    broker = Broker(timeline, topics, 1, group, start_ms=0)
    with simulated_clients({"here": Host("here", timeline, broker, Troubles(0, 0, 0, 0, 0, 0))}):
        yield broker


def append(broker: Broker, key: str, value: bytes | None) -> None:
    broker.append(STOCK_STATE.name, 0, key.encode(), value, (), "somebody")


def append_claim(broker: Broker, generation: int, writer: str, partitions: int | None = 1) -> None:
    append(broker, CLAIM_KEY, encode_claim(Claim(generation, writer, partitions)))


def take_over(
    broker: Broker, committed: CommitMetadata | None = None, before: Callable[[], None] = lambda: None
) -> Restored:
    """Restore the partition; `before` is called once before the first claim stands in the log."""
    pending = [before]

    def claim(partition: int, generation: int, partitions: int) -> None:
        if pending:
            pending.pop()()
        append_claim(broker, generation, "me", partitions)

    names = [topic.name for topic in OUTPUTS]
    restorer = Restorer({"client.id": "here"}, *names, claim, "me", 1, AtOnce())
    restorer.start(0, 1, committed)
    for _ in range(TURNS_MAX):
        for restored in restorer.step():
            return restored
        broker.timeline.advance(0.01)
    raise AssertionError("it took too many turns")


def claims(broker: Broker) -> list[tuple[int, str]]:
    """Generation and writer of every claim in the log."""
    found = []
    for record in broker.logs[STOCK_STATE.name, 0].records:
        if record.key == CLAIM_KEY.encode() and record.value is not None:
            claim = decode_claim(record.value)
            found.append((claim.generation, claim.writer))
    return found


@pytest.mark.parametrize(
    ("text", "other", "generation"),
    [("the same", 5, 6), ("a higher one", 7, 8), ("a lower one", 3, 5)],
)
def test_a_claim_holds_unless_one_as_high_stands_before_it(text: str, other: int, generation: int) -> None:
    """Two who looked at the same log claim the same generation; only the first in the log has it."""
    with state_log() as broker:
        append_claim(broker, 4, "before")
        restored = take_over(broker, before=lambda: append_claim(broker, other, "other"))
        assert restored.generation == generation, text
        assert restored.state_next == broker.logs[STOCK_STATE.name, 0].end
        assert claims(broker)[-1] == (generation, "me")


@pytest.mark.parametrize(
    ("text", "generation", "committed"),
    [("state", 9, None), ("the commit", 1, CommitMetadata(1, 9, 0, 0))],
)
def test_a_generation_that_was_written_is_not_claimed_again(
    text: str, generation: int, committed: CommitMetadata | None
) -> None:
    """Compaction keeps the newest claim record, which may be a fenced process's late and low one."""
    with state_log() as broker:
        append(broker, KEY, seal(generation) + balance_of(1))
        append_claim(broker, 2, "late")
        assert take_over(broker, committed).generation == 10, text


def test_what_a_fenced_process_writes_is_not_believed_and_written_anew() -> None:
    """Behind a claim only its own generation counts; what stood there before holds, and replaces the late record."""
    with state_log() as broker:
        append_claim(broker, 1, "first")
        append(broker, KEY, seal(1) + balance_of(1))
        append_claim(broker, 2, "second")
        append(broker, KEY, seal(1) + balance_of(7))
        append(broker, "SKU-2|STORE-A", seal(1) + balance_of(7))
        restored = take_over(broker)
        assert restored.records == {KEY: balance_of(1)}
        assert restored.rewrite == {KEY, "SKU-2|STORE-A"}


def test_what_is_written_before_the_claim_lands_is_restored() -> None:
    """The old owner's last records may come between our first look and our claim."""
    with state_log() as broker:
        append_claim(broker, 1, "first")
        restored = take_over(broker, before=lambda: append(broker, KEY, seal(1) + balance_of(3)))
        assert restored.records == {KEY: balance_of(3)}
        assert restored.rewrite == set()


def test_state_that_cannot_be_read_is_not_claimed() -> None:
    """A claim fences the owner off, who may understand what we do not."""
    with state_log() as broker:
        append(broker, KEY, seal(1) + b"\x00")
        with pytest.raises(RestoreFailed, match="cannot be read"):
            take_over(broker)
        assert claims(broker) == []


def test_state_of_another_number_of_partitions_is_not_claimed() -> None:
    """SKUs belong to other partitions then than their state."""
    with state_log() as broker:
        append_claim(broker, 1, "before", partitions=3)
        with pytest.raises(PartitionsChanged, match="had 3 partitions, now they have 1"):
            take_over(broker)
        assert claims(broker) == [(1, "before")]
