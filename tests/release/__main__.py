"""`python -m tests.release`: build the wheel twice, install it where nothing else is, judge what would be given out.

Needs the package registry, and for the last step the advisories behind it. Says what it did not learn; with `--strict`
that is a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from stockflow import __version__
from tests.release import environment, statements, weaknesses, wheel
from tests.test_tidy import PACKAGES, tracked_files

ROOT = Path(__file__).resolve().parents[2]


class Check:
    """Runs steps one after the other and remembers whether each was as it should be."""

    def __init__(self, console: Console, strict: bool) -> None:
        self.failed = False
        self._console, self._strict = console, strict

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """One step; it gets a function that takes what is wrong. Errors of programs are wrong, too."""
        wrong: list[str] = []
        with self._console.status(text):
            try:
                yield wrong.append
            except (environment.InstallFailed, wheel.BuildFailed) as error:
                wrong.append(str(error))
        self._console.print(f"{'FAILED' if wrong else 'ok':<8}{text}", markup=False)
        for line in wrong:
            self._console.print(f"        {line}", markup=False)
        self.failed |= bool(wrong)

    def unknown(self, text: str) -> None:
        """Something that could not be learnt here."""
        self._console.print(f"{'FAILED' if self._strict else 'unknown':<8}{text}", markup=False)
        self.failed |= self._strict


def main(arguments: list[str]) -> int:
    """Exit code 0 if nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="what could not be learnt is a failure")
    parser.add_argument("--uncommitted", action="store_true", help="judge the work tree as it is")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put the wheel and its bill of materials there")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    check = Check(console, options.strict)
    names = tracked_files()

    if not options.uncommitted:
        with check.step("the source is what was committed") as wrong:
            changed = environment.run("git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "status", "--porcelain")
            for line in changed.splitlines():
                wrong(line)
    with check.step("the version is the same wherever it is stated") as wrong:
        for place, stated in statements.versions(ROOT).items():
            if stated != __version__:
                wrong(f"{place} states {stated}, stockflow/__init__.py {__version__}")
    with tempfile.TemporaryDirectory(prefix="stockflow-release-") as folder:
        work = Path(folder)
        made, python = None, work / "environment" / "bin" / "python"
        with check.step("two builds give the same wheel") as wrong:
            made, again = wheel.built_twice(ROOT, names, work)
            if wheel.digest(made) != wheel.digest(again):
                wrong(f"{wheel.digest(made)} and {wheel.digest(again)}")
        if made is None:
            return 1
        with check.step("the wheel holds the packages and its licence, and nothing else") as wrong:
            for line in wheel.wrong_contents(made, names, PACKAGES):
                wrong(line)
        with check.step("it installs with what is locked for it, and starts") as wrong:
            environment.made(made, (ROOT / "requirements.lock").read_text(encoding="utf-8"), work / "environment")
            program = str(work / "environment" / "bin" / "stockflow")
            if (said := environment.run(program, "--version").strip()) != f"stockflow {__version__}":
                wrong(f"--version says {said}")
            environment.run(program, "--help")
        if check.failed and not python.exists():
            return 1
        bill = json.loads(environment.run(sys.executable, str(ROOT / ".ci" / "sbom"), str(work / "environment")))
        with check.step(f"the licences of its {len(bill['components'])} packages let others run it") as wrong:
            for line in statements.refused_licences(bill):
                wrong(line)
        _ask(check, work / "environment.txt")
        console.print(f"{made.name}  sha256 {wheel.digest(made)}  {made.stat().st_size:,} bytes", markup=False)
        if options.keep and not check.failed:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / made.name).write_bytes(made.read_bytes())
            (options.keep / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    return int(check.failed)


def _ask(check: Check, requirements: Path) -> None:
    """Whether advisories know a weakness of what is in the environment."""
    told, reason = None, ""
    with check.step("its packages are looked up among known weaknesses") as wrong:
        program = weaknesses.pip_audit(ROOT / ".ci" / "pip-audit.lock", ROOT / ".cache" / "pip-audit")
        try:
            told = weaknesses.known(program, requirements)
        except weaknesses.NotAsked as error:
            reason = str(error)
        else:
            for line in told.weaknesses:
                wrong(line)
    if told is None:
        check.unknown(f"nobody answers: {reason}")
    elif told.unknown:
        check.unknown(f"nothing could be learnt of {len(told.unknown)} packages, the first: {told.unknown[0]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
