"""`stockflow run` in a process that is to fail: `python -m tests.chaos.failing run` with `CHAOS_...` variables.

`CHAOS_KILL` is a failpoint, `CHAOS_CLOCK_SKEW_MS` what its wall clock is ahead of the others (or behind, below 0).
Everything else is the real program with the settings of its environment.
"""

from __future__ import annotations

import os
import time

from stockflow import cli, run
from tests.chaos.failpoints import kill_this_process, parse, plant


def skew_wall_clock(skew_ms: int) -> None:
    """Let the program's wall clock be wrong by so much."""
    run._wall_us = lambda: time.time_ns() // 1000 + skew_ms * 1000


def main() -> None:
    """Plant what the environment names, then start the command line."""
    skew_ms = os.environ.get("CHAOS_CLOCK_SKEW_MS")
    if skew_ms:
        skew_wall_clock(int(skew_ms))
    point = os.environ.get("CHAOS_KILL")
    if point:
        plant(parse(point), kill_this_process)
    cli.main()


if __name__ == "__main__":
    main()
