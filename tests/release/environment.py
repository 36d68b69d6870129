"""An environment that holds the wheel and what it needs from the lock, and nothing of development."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("tracing",)  # As in the image.
INSTALL_TIMEOUT_S = 300.0
_INSTALL = ("install", "--quiet", "--no-deps", "--only-binary", ":all:")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")


class InstallFailed(RuntimeError):
    """A program gave up; the message is what it said."""


def closure(project: str = "stockflow", extras: tuple[str, ...] = EXTRAS) -> set[str]:
    """The normal names of all that a project needs here, itself left out, as the installed packages state it."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(project), extra) for extra in ("", *extras)]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        name, extra = one
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, wanted) for wanted in ("", *sorted(requirement.extras))]
    return found - {canonicalize_name(project)}


def locked(lock: str, names: set[str]) -> str:
    """The part of a lock file that speaks of these packages, with their hashes.

    Raises:
        InstallFailed: one is not locked, or another version of it is installed here.
    """
    kept, left = [], set(names)
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        pinned = _PINNED.match(block)
        if pinned is None or canonicalize_name(pinned[1]) not in names:
            continue
        name = canonicalize_name(pinned[1])
        marker = Requirement(block.partition("\\")[0].strip()).marker
        if marker is None or marker.evaluate():
            if version(name) != pinned[2]:
                raise InstallFailed(f"{name} {version(name)} is installed, {pinned[2]} is locked: run `make setup`")
            left.discard(name)
        kept.append(block)
    if left:
        raise InstallFailed(f"not in the lock: {', '.join(sorted(left))}; run `make lock`")
    return "\n".join(kept) + "\n"


def made(wheel: Path, lock: str, folder: Path) -> Path:
    """The Python of a new environment in `folder` with the wheel and what is locked for it.

    Raises:
        InstallFailed: pip gave up, or says that something does not fit.
    """
    needed = folder.with_suffix(".txt")
    needed.write_text(locked(lock, closure()), encoding="utf-8")
    python = fresh(folder, needed)
    _pip(python, *_INSTALL, "--no-index", str(wheel))
    _pip(python, "check")
    return python


def fresh(folder: Path, lock: Path) -> Path:
    """The Python of a new environment in `folder` with exactly what a lock file lists.

    Raises:
        InstallFailed: pip gave up.
    """
    run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    _pip(python, *_INSTALL, "--require-hashes", "-r", str(lock))
    return python


def _pip(python: Path, *arguments: str) -> None:
    """Our own pip, for another environment, which then needs none."""
    run(sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments)


def run(*command: str) -> str:
    """What a program prints.

    Raises:
        InstallFailed: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    if done.returncode:
        raise InstallFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
