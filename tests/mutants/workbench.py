"""Applies a planted bug to a copy of the tree and runs the fast suites over it until one notices."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutants.mutant import ROOT, Mutant
from tests.simulation.test_simulation import CI_SEEDS
from tests.test_tidy import tracked_files

COPIED = ("stock", "schemas", "sources", "sinks", "dataflows", "operations", "serving", "stockflow", "tests")
SUITE_TIMEOUT_S = 900.0
# Only what real clients and real time cannot disturb: a test that fails on a busy machine catches nothing.
CORE = (
    "tests/stock", "tests/schemas", "tests/sources/test_bounds.py", "tests/sources/test_commits.py",
    "tests/sources/test_settings_topic.py", "tests/sources/test_restore_claims.py",
    "tests/sinks/test_outlet.py", "tests/sinks/test_outlet_cuts.py",
    "tests/sinks/test_outlet_regressions.py", "tests/sinks/test_outlet_against_oracle.py",
    "tests/sinks/test_network_lane.py", "tests/sinks/test_outlet_alerts.py",
    "tests/dataflows", "tests/test_ledger_against_oracle.py",
)  # fmt: skip
VIEW = ("tests/sinks/test_redis_view.py", "tests/sinks/test_view_faults.py")
# What a patch with a slip of the pen causes: it says nothing about the rule that it was meant to switch off.
_SLIPS = re.compile(r"\b(SyntaxError|IndentationError|NameError|ImportError|ModuleNotFoundError|UnboundLocalError)\b")


@dataclass(frozen=True)
class Catch:
    """Who noticed a planted bug, or nobody; `trouble` is why that cannot be said."""

    by: str | None
    seconds: float
    trouble: str | None = None


class Tree:
    """A copy of what is tracked, compiled once, of which each mutant gets its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "original"
        for name in tracked_files():
            if name.partition("/")[0] in COPIED or name in ("pyproject.toml", "README.md"):
                place = self._folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=self._folder, check=True)

    @contextmanager
    def with_bug(self, mutant: Mutant) -> Iterator[Path]:
        """A copy with the bug in it, for as long as the context is open."""
        with TemporaryDirectory(dir=self._folder.parent) as name:
            copy = Path(name) / "tree"
            shutil.copytree(self._folder, copy, copy_function=os.link)
            for file, text in mutant.patched(self._folder).items():
                (copy / file).unlink()  # the original is the same file under another name
                (copy / file).write_text(text, encoding="utf-8")
            yield copy


@contextmanager
def a_tree() -> Iterator[Tree]:
    """A tree to plant bugs in."""
    with TemporaryDirectory(prefix="mutants-") as name:
        yield Tree(Path(name))


def catch(tree: Tree, mutant: Mutant, only_simulator: bool = False, seeds: int = CI_SEEDS) -> Catch:
    """Run suites in the order of likelihood until one notices."""
    began = time.monotonic()
    with tree.with_bug(mutant) as folder:
        slip = _cannot_be_imported(folder, mutant)
        found = None
        if slip is None:
            suites = _simulations(mutant, seeds) if only_simulator else _suites(mutant, seeds)
            try:
                found = next(filter(None, (_run(folder, suite) for suite in suites)), None)
            except _Slip as error:
                slip = str(error)
    return Catch(found, time.monotonic() - began, slip)


def complaint(tree: Tree) -> str | None:
    """What the fast suites complain about although nothing is planted: then their catches prove nothing."""
    nothing = Mutant("nothing", "none", "Nothing.", ())
    with tree.with_bug(nothing) as folder:
        suites: list[Suite] = [(*CORE, "-m", "not kafka and not redis"), VIEW]
        try:
            return next(filter(None, (_run(folder, suite) for suite in suites)), None)
        except _Slip as error:
            return str(error)


class _Slip(Exception):
    """A suite failed for a reason that proves nothing."""


Suite = tuple[str, ...]  # ("seeds", first, count), or what to give to pytest


def _suites(mutant: Mutant, seeds: int) -> Iterator[Suite]:
    if mutant.caught_by:
        yield tuple(mutant.caught_by.split())
    core = (*CORE, "-m", "not kafka and not redis")
    if not mutant.of_the_protocol:
        yield core
    yield from _simulations(mutant, seeds)
    if mutant.of_the_protocol:
        yield core
    yield VIEW


def _simulations(mutant: Mutant, seeds: int) -> Iterator[Suite]:
    if mutant.seed is not None and mutant.seed <= seeds:
        yield ("seeds", str(mutant.seed), "1")
    yield ("seeds", "1", str(seeds))


def _run(folder: Path, suite: Suite) -> str | None:
    """Who noticed in this suite; None if nobody did.

    Raises:
        _Slip: it failed, but not because a rule is broken.
    """
    if suite[0] == "seeds":
        _, first, count = suite
        arguments = ["tests.simulation", "--seeds", count, "--from", first, "--fail-fast", "--jobs", "1"]
        said = _said_by(folder, arguments)
        found = re.search(r"^seed (\d+): (.*)$", said, re.MULTILINE)
        by = None if found is None else f"seed {found[1]}"
        done = re.search(r"^\d+ seeds, \d+ violations$", said, re.MULTILINE) is not None
        reason = said if found is None else said[found.start() :]
    else:
        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--durations=0", "--hypothesis-seed=1"]
        said = _said_by(folder, ["pytest", *options, *suite])
        found = re.search(r"^FAILED (.+?)( - .*)?$", said, re.MULTILINE)
        by = None if found is None else found[1]
        done = re.search(r"\d+ (passed|failed|deselected)", said) is not None and "ERROR" not in said
        reason = "" if found is None else found[2] or ""
    if not done or _SLIPS.search(reason):
        raise _Slip("\n".join(said.strip().splitlines()[-12:]))
    return by


def _said_by(folder: Path, arguments: list[str]) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=SUITE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"not done within {SUITE_TIMEOUT_S:.0f} s"
    return done.stdout + done.stderr


def _cannot_be_imported(folder: Path, mutant: Mutant) -> str | None:
    """Why a patched module is no module, or is not the one that the suites would see; None if all is well."""
    for file in mutant.patched(ROOT):
        module = file.removesuffix(".py").replace("/", ".")
        code = f"import {module}; print({module}.__file__)"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        if done.returncode or Path(done.stdout.strip()).resolve() != (folder / file).resolve():
            return f"{module}: {done.stdout}{done.stderr}"
    return None
