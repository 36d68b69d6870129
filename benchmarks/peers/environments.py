"""Makes what each peer runs in, under `.cache/benchmarks/peers/NAME`, from pinned and hash-checked lists beside it.

`python -m benchmarks.peers.environments` makes all of them and says of each that could not be made why. What is there
already, made from the same list, is used as it is. It must never touch the project's own environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from stockflow.embedded.kafka import find_java
from stockflow.embedded.process import ServerUnavailable

HERE = Path(__file__).resolve().parent
PEERS = HERE.parents[1] / ".cache" / "benchmarks" / "peers"
STREAMS, FLINK = "kafka-streams", "flink"
JAVA_PEERS = {STREAMS: HERE / "kafka_streams", FLINK: HERE / "flink"}  # with their sources
JOB = HERE / "Job.java"  # What both do.
PYTHON_PEERS = ("stock-bytewax", "quix", "faust-streaming")
NAMES = (*JAVA_PEERS, *PYTHON_PEERS)
MAKE_S = 600
MARK = ".made-from"  # Holds the hash of what an environment was made from; written last.
QUIX_PYTHON = (3, 11)  # Older ones have no current Quix Streams.


class PeerUnavailable(Exception):
    """A peer's environment cannot be made here; the text says why."""


def ensure(name: str) -> Path:
    """The folder with a peer's environment, made if need be.

    Raises:
        PeerUnavailable: it cannot be.
    """
    folder = PEERS / name
    sources = [JOB, *sorted(JAVA_PEERS[name].glob("*.*"))] if name in JAVA_PEERS else [HERE / f"{name}.lock"]
    wanted = hashlib.sha256(b"".join(one.read_bytes() for one in sources) + sys.version.encode()).hexdigest()
    mark = folder / MARK
    if mark.is_file() and mark.read_text(encoding="ascii") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name in JAVA_PEERS:
        _make_java(name, folder)
    else:
        _make_python(name, folder)
    mark.write_text(wanted, encoding="ascii")
    return folder


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "venv" / "bin" / "python"


def _make_python(name: str, folder: Path) -> None:
    if name == "quix" and sys.version_info[:2] < QUIX_PYTHON:
        raise PeerUnavailable(f"{name}: needs Python {'.'.join(map(str, QUIX_PYTHON))} or newer")
    _run(name, sys.executable, "-m", "venv", "--clear", str(folder / "venv"))
    install = ["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
    _run(name, str(python_of(folder)), "-m", "pip", *install, "-r", str(HERE / f"{name}.lock"))


def _make_java(name: str, folder: Path) -> None:
    try:
        find_java()
    except ServerUnavailable as error:
        raise PeerUnavailable(f"{name}: {error}") from None
    source = JAVA_PEERS[name]
    maven, compiler = shutil.which("mvn"), shutil.which("javac")
    if maven is None or compiler is None:
        raise PeerUnavailable(f"{name}: `mvn` and `javac` are needed (Maven and a JDK)")
    jars = folder / "jars"
    options = ["--quiet", "--batch-mode", "--strict-checksums", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
    _run(name, maven, *options, "-f", str(source / "pom.xml"), "dependency:copy-dependencies")
    listed = (source / "jars.sha256").read_text(encoding="ascii").splitlines()
    expected = {jar: digest for digest, jar in (line.split() for line in listed)}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars.glob("*.jar")}
    if found != expected:
        wrong = sorted(jar for jar in found.keys() | expected.keys() if found.get(jar) != expected.get(jar))
        raise PeerUnavailable(f"{name}: these jars are not the ones that were pinned: {', '.join(wrong)}")
    _run(name, compiler, "-cp", f"{jars}/*", "-d", str(folder / "classes"), str(JOB), str(source / "Balances.java"))


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=MAKE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"{name}: {error}") from None
    if done.returncode:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-3:]
        raise PeerUnavailable(f"{name}: {Path(command[0]).name} failed: {' / '.join(last)}")


def main() -> int:
    """Make all, or those named; 1 if one could not be made."""
    failed = 0
    for name in sys.argv[1:] or NAMES:
        try:
            print(f"{name}: {ensure(name)}", flush=True)
        except PeerUnavailable as error:
            print(f"not available: {error}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
