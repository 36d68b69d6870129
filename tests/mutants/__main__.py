"""`python -m tests.mutants`: plant every bug, say who caught it. Nothing outside a temporary folder is changed."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from rich.console import Console

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.workbench import Catch, a_tree, catch, complaint
from tests.simulation.test_simulation import CI_SEEDS


def main(arguments: list[str]) -> int:
    """Exit code 0 if every mutant is caught, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these, by name or part of it")
    parser.add_argument("--simulator", action="store_true", help="only rules of section 7, by the simulator alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--seeds", type=int, default=CI_SEEDS, help="how many seeds the simulator tries")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if (not options.only or any(part in mutant.name for part in options.only))
        and (not options.simulator or (mutant.of_the_protocol and mutant.unseen_because is None))
    ]
    console = Console(soft_wrap=True, highlight=False)
    caught = 0
    with a_tree() as tree, ThreadPoolExecutor(options.jobs) as pool:
        if not options.only and not options.simulator:
            wrong = complaint(tree)
            if wrong is not None:
                console.print(f"nothing is planted, and yet: {wrong}", markup=False)
                return 1
        trials = {pool.submit(catch, tree, mutant, options.simulator, options.seeds): mutant for mutant in chosen}
        for trial in as_completed(trials):
            result = trial.result()
            console.print(_line(trials[trial], result), markup=False)
            caught += result.by is not None
    if options.simulator:
        for mutant in MUTANTS:
            if mutant.of_the_protocol and mutant.unseen_because is not None:
                console.print(f"not asked of the simulator: {mutant.name}: {mutant.unseen_because}", markup=False)
    console.print(f"{len(chosen)} mutants, {caught} caught")
    return int(caught < len(chosen))


def _line(mutant: Mutant, result: Catch) -> str:
    by = result.by or "NOT CAUGHT"
    line = f"{mutant.name:<42} {mutant.rule:<46} {by}  {result.seconds:.1f} s"
    return line if result.trouble is None else f"{line}\n{result.trouble}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
