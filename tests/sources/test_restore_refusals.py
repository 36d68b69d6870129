"""State that is not understood whole is neither claimed nor overwritten; the text says which record and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Producer

from schemas.state import CLAIM_KEY, Claim, UnknownFormat, encode_claim, seal
from schemas.topics import AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY, STOCK_STATE
from sources.claims import refuse_changed_partitions
from sources.restore import PartitionsChanged, Restored, RestoreFailed, Restorer
from tests.at_once import AtOnce
from tests.services import Kafka
from tests.upgrades.golden import FOLDER, read

GOLDEN, _ = read(FOLDER / "format-1")
GOLDEN[CLAIM_KEY] = encode_claim(Claim(3, "golden", 2))
HOLD = next(key for key in GOLDEN if "\x1fhold\x1f" in key)
LINE = next(key for key in GOLDEN if "\x1forder\x1f" in key)
JOURNAL = next(key for key in GOLDEN if key.startswith("|journal|"))
BALANCE, TOTALS = "SKU-1|DC-1", "|outcomes"
KINDS = [BALANCE, HOLD, LINE, JOURNAL, TOTALS]
PARTITIONS = 2
TIMEOUT_S = 30.0


@dataclass
class Place:
    """One partition of a fresh state topic, and somebody who wants to take it over."""

    bootstrap: str
    prefix: str
    claims: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def config(self) -> dict[str, str]:
        return {"bootstrap.servers": self.bootstrap}

    def append(self, *records: tuple[str | bytes, bytes | None], partition: int = 0) -> None:
        producer = Producer(self.config)
        for key, value in records:
            producer.produce(self.prefix + STOCK_STATE.name, key=key, value=value, partition=partition)
        assert producer.flush(TIMEOUT_S) == 0

    def take_over(self, partition: int = 0, partitions: int = PARTITIONS) -> Restored:
        """Restore it; claims are noted, and appended as the publisher does."""

        def claim(partition: int, generation: int, of: int) -> None:
            self.claims.append((partition, generation, of))
            self.append((CLAIM_KEY, encode_claim(Claim(generation, "me", of))), partition=partition)

        names = (self.prefix + topic.name for topic in (STOCK_STATE, AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY))
        restorer = Restorer(self.config, *names, claim, "me", partitions, AtOnce())
        restorer.start(partition, 1, None)
        deadline = time.monotonic() + TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                for restored in restorer.step():
                    return restored
        finally:
            restorer.close()
        raise AssertionError("it took too long")

    def refused(self, kind: type[Exception], partition: int = 0, partitions: int = PARTITIONS) -> str:
        """Why it cannot be taken over; nothing may have been written."""
        with pytest.raises(kind) as caught:
            self.take_over(partition, partitions)
        assert self.claims == []
        return str(caught.value)


@pytest.fixture
def place(kafka: Kafka, fresh_topics: Callable[..., str]) -> Place:
    return Place(kafka.bootstrap, fresh_topics(PARTITIONS))


@pytest.mark.parametrize("key", [*KINDS, CLAIM_KEY], ids=repr)
def test_a_record_of_a_newer_format_is_refused(place: Place, key: str) -> None:
    """Of whatever kind: partition, key and both formats are named, and nothing is claimed."""
    value = GOLDEN[key]
    place.append(*GOLDEN.items(), (key, b"\x02" + value[1:]))
    said = place.refused(UnknownFormat)
    assert f"{place.prefix}stock-state.v1 partition 0, key {key.encode()!r}" in said
    assert "format 2, this program knows 1" in said
    assert "Nothing was written" in said


@pytest.mark.parametrize("key", KINDS, ids=repr)
def test_a_record_that_was_cut_short_is_refused(place: Place, key: str) -> None:
    """Its envelope is fine, its content is not: partition and key are named, and nothing is claimed."""
    place.append(*GOLDEN.items(), (key, GOLDEN[key][:-1]))
    said = place.refused(RestoreFailed)
    assert f"{place.prefix}stock-state.v1 partition 0: the state record of {key!r} cannot be read" in said
    assert "append a null under its key" in said


def test_a_key_that_is_no_text_is_refused(place: Place) -> None:
    """It is not ours, so nobody knows what it means."""
    place.append(*GOLDEN.items(), (b"\xff", seal(1)))
    assert r"key b'\xff'" in place.refused(UnknownFormat)


@pytest.mark.parametrize("healing", [GOLDEN[BALANCE], None], ids=["the right record", "a null"])
def test_what_was_replaced_since_does_no_harm(place: Place, healing: bytes | None) -> None:
    """Only the newest record of a key counts: this is how an operator repairs one."""
    place.append(*GOLDEN.items(), (BALANCE, GOLDEN[BALANCE][:-1]), (BALANCE, healing))
    restored = place.take_over()
    assert restored.records.get(BALANCE) == (None if healing is None else healing[5:])


def test_a_claim_names_the_partition_count(place: Place) -> None:
    """It is written with each takeover, over claims from before it was kept."""
    place.append(*GOLDEN.items(), (CLAIM_KEY, seal(9) + b'{"generation":9,"writer":"old"}'))
    restored = place.take_over()
    assert place.claims == [(0, 10, PARTITIONS)]
    assert restored.generation == 10


def test_state_of_another_partition_count_is_refused(place: Place) -> None:
    """SKUs moved away from their state: both counts are said, and nothing is claimed."""
    place.append(*GOLDEN.items(), (CLAIM_KEY, encode_claim(Claim(4, "b", 12))))
    said = place.refused(PartitionsChanged)
    assert f"{place.prefix}stock-state.v1 partition 0: its state was written while the topics had 12 partitions" in said
    assert "now they have 2" in said
    assert "STOCKFLOW_TOPIC_PREFIX" in said


def test_the_newest_claim_says_the_partition_count(place: Place) -> None:
    """An older one that says otherwise is history."""
    place.append((CLAIM_KEY, encode_claim(Claim(1, "a", 12))), (CLAIM_KEY, encode_claim(Claim(2, "b", PARTITIONS))))
    assert place.take_over().generation == 3


def test_a_partition_that_was_added_while_running_is_not_claimed(place: Place) -> None:
    """The group hands it out, but this process knows of fewer."""
    said = place.refused(PartitionsChanged, partition=1, partitions=1)
    assert "had 1 partitions, now they have more" in said


@pytest.mark.parametrize(
    ("text", "records", "refused"),
    [
        ("nothing yet", {}, False),
        ("the same count", {0: [Claim(4, "a", 2)]}, False),
        ("another count", {0: [Claim(4, "a", 3)]}, True),
        ("only in the second partition", {1: [Claim(4, "a", 3)]}, True),
        ("another count, long ago", {0: [Claim(4, "a", 3), Claim(5, "b", 2)]}, False),
        ("from before it was kept", {0: [Claim(4, "a")], 1: [Claim(4, "a")]}, False),
    ],
)
def test_a_start_looks_for_a_claim_of_another_count(
    place: Place, text: str, records: dict[int, list[Claim]], refused: bool
) -> None:
    """Before anything else: a partition that was just added has no claim of its own that could tell."""
    for partition, claims in records.items():
        place.append((BALANCE, GOLDEN[BALANCE]), *[(CLAIM_KEY, encode_claim(c)) for c in claims], partition=partition)
    topic = place.prefix + STOCK_STATE.name
    if refused:
        with pytest.raises(PartitionsChanged, match="had 3 partitions, now they have 2"):
            refuse_changed_partitions(place.config, topic, PARTITIONS)
    else:
        refuse_changed_partitions(place.config, topic, PARTITIONS)


def test_a_start_refuses_claims_of_a_newer_format(place: Place) -> None:
    """Its own partition count may be told otherwise there."""
    place.append((CLAIM_KEY, b"\x02" + encode_claim(Claim(1, "a", 2))[1:]))
    with pytest.raises(UnknownFormat, match="format 2"):
        refuse_changed_partitions(place.config, place.prefix + STOCK_STATE.name, PARTITIONS)
