"""The wheel: built from copies of the source that differ in all that must not matter, and looked into."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

BUILD_TIMEOUT_S = 120.0
# Names that a wheel has besides the packages, below its .dist-info.
INFORMATION = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


class BuildFailed(RuntimeError):
    """The build backend gave up; the message is what it said."""


def copied(root: Path, names: Iterable[str], to: Path, mode: int, time_s: int) -> Path:
    """A copy of the named files with other rights and other times."""
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
        target.chmod(mode)
        os.utime(target, (time_s, time_s))
    return to


def built(source: Path, folder: Path) -> Path:
    """The wheel of a source folder.

    Raises:
        BuildFailed: with what the backend said.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def built_twice(root: Path, names: list[str], work: Path) -> tuple[Path, Path]:
    """Two wheels of the same files, made in different places, of files with other rights, times and order."""
    first = copied(root, names, work / "one", 0o644, 1_700_000_000)
    second = copied(root, names[::-1], work / "another" / "place", 0o600, 1_750_000_000)
    return built(first, work / "first"), built(second, work / "second")


def digest(file: Path) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def wrong_contents(wheel: Path, names: Iterable[str], packages: Iterable[str]) -> list[str]:
    """What is in the wheel and should not be, or is not and should: exactly the packages' files and its own papers."""
    packages = tuple(packages)
    wanted = {name for name in names if name.partition("/")[0] in packages}
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    papers = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    told = {name.partition("/")[2] for name in papers}
    return [
        *(f"not from the source: {name}" for name in sorted(held - papers - wanted)),
        *(f"missing: {name}" for name in sorted(wanted - held)),
        *(f"not expected: {name}" for name in sorted(told - INFORMATION)),
        *(f"missing: {name}" for name in sorted(INFORMATION - told)),
    ]
