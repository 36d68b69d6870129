"""`python -m stockflow` is the command `stockflow`."""

from stockflow.cli import main

main()
