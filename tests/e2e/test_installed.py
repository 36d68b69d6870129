"""The installed wheel as its container would run it: nothing else installed, nothing writable, nobody in particular."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stockflow import __version__
from tests.e2e.harness import Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle
from tests.release import environment, wheel
from tests.test_tidy import ROOT, tracked_files

USER = 65532
# Every mount becomes read-only in a namespace of its own; then the process is told that it is another user.
READ_ONLY = f"""
mounts=$(awk '{{print $5}}' /proc/self/mountinfo | grep -vE '^/(proc|sys)(/|$)') || exit 1
for mount in $mounts; do mount -o remount,bind,ro "$mount" || exit 1; done
exec unshare --user --map-user={USER} --map-group={USER} -- "$@"
"""
TIMEOUT_S = 60.0


def contained(*program: str) -> list[str]:
    """A program under a read-only root, as a user that owns nothing."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "contained", *program]


def run(*program: str) -> subprocess.CompletedProcess[str]:
    """A contained program that has ended, far from the source."""
    return subprocess.run(contained(*program), cwd="/", capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of an environment that holds the wheel and its locked requirements."""
    tried = run("true")
    if tried.returncode:
        pytest.skip(f"no namespaces here (they need root): {tried.stderr.strip()}")
    work = tmp_path_factory.mktemp("installed")
    built = wheel.built(wheel.copied(ROOT, tracked_files(), work / "source", 0o644, 1_700_000_000), work / "wheel")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return environment.made(built, lock, work / "environment").parent


def test_nothing_can_be_written_and_nobody_in_particular_runs(installed: Path) -> None:
    """The container is one: otherwise the test below would say nothing."""
    assert run("id", "-u").stdout == f"{USER}\n"
    for folder in ("/tmp", "/dev/shm", "/var/tmp", str(installed), str(ROOT)):
        refused = run("touch", f"{folder}/written")
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr
    python = str(installed / "python")
    assert run(python, "-c", "import stockflow; print(stockflow.__file__)").stdout.startswith(str(installed.parent))
    assert run(python, "-c", "import pytest").returncode != 0
    assert run(str(installed / "stockflow"), "--version").stdout == f"stockflow {__version__}\n"


def test_the_installed_pipeline_does_its_work_under_a_read_only_root(
    installed: Path, stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Events become availability on the topic and in Redis, everything is equal, and SIGTERM ends it in good order."""
    on = stage()
    load = sending(on)
    pipeline = on.pipeline()
    pipeline.program = contained(str(installed / "stockflow"), "run")
    load.start(stories(seed=61, partitions=on.partitions), per_second=300)
    pipeline.start()
    on.wait_for_records(200)
    settle(on, load)
    on.stop(pipeline)
