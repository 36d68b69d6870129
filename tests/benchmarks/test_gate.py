"""The guard of the worker's work per event passes what there is and stops a fifth more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from benchmarks import gate
from benchmarks.workload import Options
from tests.services import missing

LOOPS = 100  # An eighth of the work of an event, or a little more, by the interpreter.
SMALL = Options(events=1_200, balances=100, partitions=3)


@pytest.fixture(scope="module")
def accepted() -> float:
    """The ratio accepted for this interpreter; without one, or without valgrind, there is nothing to judge."""
    ratio = gate.accepted_here()
    if ratio is None:
        pytest.skip("no ratio was accepted for this interpreter yet: python -m benchmarks.gate")
    return ratio


@pytest.fixture(scope="module")
def counted(accepted: float) -> tuple[gate.Cost, int]:
    """What an event costs now, and the instructions with a slowdown; without valgrind a skip, in CI a failure."""
    try:
        with ThreadPoolExecutor() as pool:  # Counts are the same beside each other.
            slowed = pool.submit(gate.instructions, gate.STOCKFLOW, idle_loops=LOOPS)
            return gate.measure(), slowed.result()
    except gate.CannotCount as error:
        missing(error)


def test_an_event_costs_no_more_than_was_accepted(counted: tuple[gate.Cost, int], accepted: float) -> None:
    """The hot path's instructions against those of the floor's work, within a tenth of the accepted ratio."""
    cost, _ = counted
    said: list[str] = []
    assert gate.judge(accepted, cost, said.append), "\n".join(said)


def test_a_fifth_more_work_is_stopped(counted: tuple[gate.Cost, int]) -> None:
    """A planted slowdown of less than 20 % is found."""
    cost, slowed_instructions = counted
    planted = (slowed_instructions - cost.start) / gate.SHAPE.events
    assert 1 < planted / cost.stockflow < 1.2
    slowed = replace(cost, stockflow=planted)
    said: list[str] = []
    assert not gate.judge(cost.ratio, slowed, said.append), "\n".join(said)


@pytest.mark.parametrize("program", [gate.STOCKFLOW, gate.FLOOR])
def test_both_take_in_every_event(program: str) -> None:
    """Neither side is cheap because it did nothing."""
    assert gate.take_in(program, SMALL) == SMALL.events


def test_the_baseline_takes_in_none() -> None:
    """What is subtracted is the way there alone."""
    assert gate.take_in(gate.NOTHING, SMALL) == 0
