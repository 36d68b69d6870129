"""The seeds that every change must survive, and that a seed is the whole story."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.process import CLIENTS

ROOT = Path(__file__).resolve().parents[2]
CI_SEEDS = 300


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.timeout(900)
def test_no_seed_violates_an_invariant() -> None:
    """Crashes at any step, zombies, takeovers, failing deliveries and a failing Redis: each run ends with the truth."""
    done = simulate("--seeds", str(CI_SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{CI_SEEDS} seeds, 0 violations"


def test_a_seed_replays_bit_for_bit() -> None:
    """Nothing but the seed decides: the histories of two runs are equal to the last byte."""
    first, second = simulate("--replay", "11"), simulate("--replay", "11")
    assert len(first.stdout.splitlines()) > 20
    assert first.stdout == second.stdout


def test_the_simulation_stands_under_every_client_that_the_program_makes() -> None:
    """A Kafka client made anywhere else would be a real one."""
    found: dict[str, set[str]] = {}
    for folder in ("stock", "schemas", "sources", "sinks", "dataflows"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                made = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                if made in ("Consumer", "Producer", "AdminClient"):
                    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                    found.setdefault(module, set()).add(made)
    assert found == {module: set(names) for module, names in CLIENTS.items()}
