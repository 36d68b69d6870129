"""`python -m tests.simulation`: run seeds, or replay one with its history. Nothing here decides anything at random."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.world import Simulation

CHUNK_SEEDS = 10
HISTORY_SHOWN = 60
HASH_SEED = "0"  # Sets of text are gone through in the order of their hashes.


@dataclass(frozen=True)
class Outcome:
    """What a seed came to."""

    seed: int
    problems: list[str]
    counts: dict[str, int]


def run_chunk(seeds: range) -> list[Outcome]:
    """Run some seeds one after the other."""
    outcomes = []
    for seed in seeds:
        simulation = Simulation(seed)
        problems = simulation.run()
        outcomes.append(Outcome(seed, problems, simulation.counts()))
    return outcomes


def outcomes_of(first: int, count: int, jobs: int) -> Iterator[Outcome]:
    """The outcomes of consecutive seeds, in order."""
    chunks = [range(at, min(at + CHUNK_SEEDS, first + count)) for at in range(first, first + count, CHUNK_SEEDS)]
    if jobs == 1:
        for chunk in chunks:
            yield from run_chunk(chunk)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for outcomes in pool.map(run_chunk, chunks):
            yield from outcomes


def simulate(console: Console, first: int, count: int, jobs: int, fail_fast: bool) -> int:
    """Run seeds with a progress bar; the number of seeds that violate an invariant comes back."""
    bad: list[Outcome] = []
    totals: dict[str, int] = {}
    done = 0
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=count)
        for outcome in outcomes_of(first, count, jobs):
            done += 1
            progress.advance(task)
            for name, number in outcome.counts.items():
                totals[name] = totals.get(name, 0) + number
            if outcome.problems:
                bad.append(outcome)
                console.print(f"seed {outcome.seed}: {outcome.problems[0]}", markup=False, soft_wrap=True)
                console.print(f"  replay: {replay_command(outcome.seed)}", markup=False, soft_wrap=True)
                if fail_fast:
                    break
    said = ", ".join(f"{number} {name}" for name, number in totals.items())
    console.print(f"{said}; {time.monotonic() - began:.0f} s", markup=False, soft_wrap=True)
    console.print(f"{done} seeds, {len(bad)} violations")
    return len(bad)


def replay(console: Console, seed: int) -> int:
    """Run one seed and print its history."""
    simulation = Simulation(seed)
    problems = simulation.run()
    console.print(f"seed {seed}: {simulation.plan}", markup=False, soft_wrap=True)
    for line in simulation.timeline.history:
        console.print(line, markup=False, soft_wrap=True)
    for problem in problems:
        console.print(f"VIOLATION {problem}", markup=False, soft_wrap=True)
    console.print(f"1 seeds, {int(bool(problems))} violations")
    return len(problems)


def replay_command(seed: int) -> str:
    """What to type to see a seed's history."""
    return f"make simulate REPLAY={seed}"


def main(arguments: list[str]) -> int:
    """Exit code 0 if no seed violates anything, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--fail-fast", action="store_true", help="end at the first violation")
    parser.add_argument("--replay", type=int, help="run this one seed and print its history")
    options = parser.parse_args(arguments)
    console = Console()
    if options.replay is not None:
        return int(replay(console, options.replay) > 0)
    return int(simulate(console, options.first, options.seeds, options.jobs, options.fail_fast) > 0)


if __name__ == "__main__":
    if sys.flags.hash_randomization:
        command = ["/usr/bin/env", f"PYTHONHASHSEED={HASH_SEED}", sys.executable, "-m", "tests.simulation"]
        sys.exit(subprocess.call([*command, *sys.argv[1:]]))
    sys.exit(main(sys.argv[1:]))
