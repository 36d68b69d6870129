"""`make fuzz`: any number of inputs of one seed, with progress; the last line has the figures."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.fuzz.corpus import CORPUS, read, write
from tests.fuzz.inputs import Generator
from tests.fuzz.run import Run

HANG_S = 60.0  # Of real time for one input, generously, since other programs may have the machine.
SHOW_EACH = 200
FOUND = Path(".cache/fuzz")
VIOLATIONS_MAX = 20


def main() -> int:
    """Fuzz; 1 if anything did not hold."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--replay", type=Path, help="inputs of a file instead, as a violation left them")
    options.add_argument("--keep", action="store_true", help="write the corpus anew with what was found")
    chosen = options.parse_args()
    console = Console()
    run = Run(Generator(chosen.seed, read()), [] if chosen.replay else read())
    signal.signal(signal.SIGALRM, _hung)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    given = None if chosen.replay is None else read(chosen.replay)
    total = chosen.inputs if given is None else len(given)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"seed {chosen.seed}", total=total)
        for number in range(total):
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            violation = run.step(None if given is None else given[number])
            signal.setitimer(signal.ITIMER_REAL, 0)
            if violation is not None:
                file = FOUND / f"seed-{chosen.seed}-input-{number}.jsonl"
                write(run.since_the_start, file)
                console.print(
                    f"input {number}: {violation}\n  replay: python -m tests.fuzz --replay {file}", markup=False
                )
                run.start_over()
            if number % SHOW_EACH == 0:
                progress.update(task, completed=number + 1, description=run.summary())
            if run.violations >= VIOLATIONS_MAX:
                break
        progress.update(task, completed=run.taken)
    for said, count in sorted(run.seen.items()):
        console.print(f"{count:9,}  {said}", highlight=False, markup=False)
    if chosen.keep:
        kept = run.interesting()
        write(kept, CORPUS)
        console.print(f"{len(kept)} inputs kept in {CORPUS}")
    console.print(run.summary(), highlight=False)
    return 1 if run.violations else 0


def _hung(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"one input took more than {HANG_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
