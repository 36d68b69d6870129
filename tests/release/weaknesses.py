"""Known weaknesses of what is given out, as published advisories tell them; pip-audit asks, which has its own lock."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.release.environment import fresh

AUDIT_TIMEOUT_S = 300.0


class NotAsked(RuntimeError):
    """Nobody could be asked; the message says why."""


@dataclass(frozen=True)
class Advice:
    """What is known of the packages: weaknesses, and those of which nothing could be learnt."""

    weaknesses: tuple[str, ...]
    unknown: tuple[str, ...]


def pip_audit(lock: Path, folder: Path) -> Path:
    """The program in an environment of its own, which is kept for as long as its lock is the same.

    Raises:
        InstallFailed: pip gave up.
    """
    installed, wanted = folder / ".installed", lock.read_text(encoding="utf-8")
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        fresh(folder, lock)
        installed.write_text(wanted, encoding="utf-8")
    return folder / "bin" / "pip-audit"


def known(program: Path, requirements: Path) -> Advice:
    """What advisories say of a list of pinned packages with hashes.

    Raises:
        NotAsked: the program got no answer.
    """
    command = [str(program), "--requirement", str(requirements), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotAsked(f"no answer within {AUDIT_TIMEOUT_S:.0f} s") from error
    try:
        told = json.loads(done.stdout)
    except ValueError as error:
        raise NotAsked((done.stderr or done.stdout).strip().rpartition("\n")[2] or f"exit {done.returncode}") from error
    return advice(told)


def advice(told: Mapping[str, Any]) -> Advice:
    """What pip-audit's JSON says; a package that it skips is unknown, though its exit code says that all is well."""
    weaknesses, unknown = [], []
    for package in told["dependencies"]:
        if "skip_reason" in package:
            unknown.append(f"{package['name']}: {package['skip_reason']}")
        for found in package.get("vulns", ()):
            mended = ", ".join(found.get("fix_versions", ())) or "no version yet"
            weaknesses.append(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    return Advice(tuple(weaknesses), tuple(unknown))
