"""Inputs worth keeping: the shortest that was found for each thing that can become of one. One line of JSON each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.inputs import Input

CORPUS = Path(__file__).parent / "inputs.jsonl"


def read(file: Path = CORPUS) -> list[Input]:
    """The inputs of a file; none if it is not there."""
    if not file.exists():
        return []
    return [Input.from_line(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(inputs: Iterable[Input], file: Path) -> None:
    """Make a file of inputs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{given.to_line()}\n" for given in inputs), encoding="utf-8")
