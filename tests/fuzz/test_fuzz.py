"""Whatever comes in, the flow goes on: the kept corpus and some thousands of fresh inputs. `make fuzz` runs more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE

from schemas.events import REASONS, type_name
from stock.effects import SUPPORTED
from stock.events import PosSale
from tests.fuzz.corpus import CORPUS, read, write
from tests.fuzz.inputs import POS, SKUS, START, Generator, Input
from tests.fuzz.run import Run
from tests.fuzz.world import World

FRESH_INPUTS = 20_000
SEED = 20_261_122
CORPUS_MAX = 600


@pytest.fixture(scope="module")
def replayed() -> Run:
    """The corpus, taken in once."""
    corpus = read()
    run = Run(Generator(SEED), corpus)
    for given in corpus:
        assert run.step(given) is None, given.to_line()[:2_000]
    return run


def test_the_kept_inputs_still_leave_everything_in_order(replayed: Run) -> None:
    """None of them breaks a rule; the corpus is small."""
    assert 100 < replayed.taken == replayed.accepted + replayed.refused < CORPUS_MAX


def test_the_corpus_holds_every_reason_and_every_supported_type(replayed: Run) -> None:
    """A corpus that no longer reaches them would protect nothing."""
    words = [said.split() for said in replayed.seen]
    assert {reason for outcome, reason, *_ in words if outcome == "refused"} == set(REASONS)
    assert {type_name(kind) for kind in SUPPORTED} <= {kind for outcome, kind, *_ in words if outcome == "accepted"}


def test_fresh_inputs_leave_everything_in_order(tmp_path: Path) -> None:
    """Some thousands of one seed; `python -m tests.fuzz --seed` finds the same."""
    run = Run(Generator(SEED, read()), [])
    for number in range(FRESH_INPUTS):
        violation = run.step()
        if violation is not None:
            write(run.since_the_start, tmp_path / "inputs.jsonl")
            pytest.fail(f"seed {SEED}, input {number}: {violation}; {tmp_path / 'inputs.jsonl'} replays it")
    assert run.accepted > FRESH_INPUTS / 5
    assert run.refused > FRESH_INPUTS / 5


@pytest.mark.parametrize(
    ("timestamp", "minutes_ahead", "outcome"),
    [
        ((TIMESTAMP_NOT_AVAILABLE, 0), 0, "accepted pos.sale applied UNKNOWN urgent"),
        ((TIMESTAMP_CREATE_TIME, -1), 0, "accepted pos.sale applied UNKNOWN urgent"),
        ((TIMESTAMP_CREATE_TIME, -1), 6, "refused in_future occurred_at is after the"),
    ],
)
def test_a_record_without_a_timestamp_counts_as_of_now(
    timestamp: tuple[int, int], minutes_ahead: int, outcome: str
) -> None:
    """Old clients have none, and some of others write -1 for that."""
    said = {"id": "1", "source": "till", "occurred_at": START + timedelta(minutes=minutes_ahead)}
    sale = PosSale(**said, sku=SKUS[0], location="A", units=1)
    assert World().take(Input(POS, None, msgspec.json.encode(sale), timestamp, [])) == outcome


def test_a_seed_makes_the_same_inputs_and_a_line_reads_back() -> None:
    """A finding can be looked at again, by seed and from its file."""
    one, other = Generator(5, read()), Generator(5, read())
    for _ in range(500):
        given = one.next()
        assert given == other.next() == type(given).from_line(given.to_line())
    assert CORPUS.exists()
