"""`stockflow run` with a wall clock that is wrong; for tests only: `python skewed.py MILLISECONDS`."""

from __future__ import annotations

import sys

from stockflow import cli, run


def main() -> None:
    """Shift what the pipeline takes for the time, then run it as always."""
    skew_us = int(sys.argv.pop(1)) * 1_000
    right = run._wall_us
    run._wall_us = lambda: right() + skew_us
    sys.argv.append("run")
    cli.main()


if __name__ == "__main__":
    main()
