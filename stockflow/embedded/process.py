"""One server process owned by this one: started, watched, stopped, and never outliving its owner.

It must never decide what the server is: commands, ports and readiness belong to the modules beside it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

LOOPBACK = "127.0.0.1"
# Below the range that Linux and macOS hand out to outgoing connections: while a server is down for a restart,
# no client (not even one connecting to itself) can take its port.
PORT_FIRST, PORT_LAST = 20_000, 32_000
PORT_ATTEMPTS_MAX = 200
POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 25

# The watcher reads a pipe whose only writing end is ours. Whatever ends this process closes it, also SIGKILL;
# then the server goes, and with it the folder made for it. (A parent-death signal would follow the thread
# that started the server instead of the process.)
_WATCHER = 'read -r _; kill -9 "$1" 2>/dev/null; [ -n "$2" ] && { sleep 1; rm -rf "$2"; }'

Server = TypeVar("Server", bound="OwnedServer")


class ServerUnavailable(RuntimeError):
    """A server cannot be started here; the text says why and what to install or change."""


def free_port() -> int:
    """A loopback port that nothing listens on, outside the range of outgoing connections."""
    for _ in range(PORT_ATTEMPTS_MAX):
        port = random.randint(PORT_FIRST, PORT_LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue  # taken: try another
            return port
    raise ServerUnavailable(f"no free port on {LOOPBACK} between {PORT_FIRST} and {PORT_LAST}")


def wait_until(ready: Callable[[], bool], timeout_s: float) -> bool:
    """True as soon as `ready()` is, False if it is not within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def accepts_connections(port: int) -> bool:
    """Whether something on this machine accepts a TCP connection at `port`."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


class OwnedServer:
    """A server in a process of its own with one data folder and fixed ports over all its restarts.

    Calls block until the server answers or is gone. Not safe to call from several threads at once. A subclass
    says how to start it (`_command`), when it is ready (`_answers`) and what it is (`description`).
    """

    name = "server"
    start_timeout_s = 60.0
    stop_timeout_s = 20.0

    def __init__(self, folder: Path | None = None) -> None:
        """Nothing is started yet. Without a `folder` a temporary one is made and removed again by `close`."""
        self._is_temporary = folder is None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def description(self) -> str:
        """Product, version and where it comes from, for people."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """Where data and log lie; made at the first use."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"stockflow-{self.name}-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # stopped, but never closed
        return self._folder

    @property
    def log_file(self) -> Path:
        """All that the server has written to its standard output and error."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Process id while it runs (or is paused), else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self: Server) -> Server:
        """Start and wait until it answers; the same ports and data as before. Does nothing while it runs.

        Raises:
            ServerUnavailable: it ended or did not answer in time; the text holds the end of its log.
        """
        if self.pid is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._before_start()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the owner, which stops its servers last.
            )
        self._watch(self._process.pid)
        wait_until(lambda: self.pid is None or self._answers(), self.start_timeout_s)
        if self.pid is None or not self._answers():
            ended = "ended" if self.pid is None else f"did not answer within {self.start_timeout_s:.0f} s"
            self.kill()
            raise ServerUnavailable(
                f"{self.description} {ended} after its start. Its log ends with:\n{self.log_tail()}"
            )
        return self

    def stop(self) -> None:
        """End it in good order (SIGTERM), by force if that takes too long; port and data stay for `start`."""
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGCONT)  # a paused process would never see the next signal
            self._process.terminate()
            try:
                self._process.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._forget()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; port and data stay for `start`."""
        if self._process is not None and self.pid is not None:
            self._process.kill()
        self._forget()

    def restart(self: Server) -> Server:
        """Stop in good order and start again on the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and remove the folder if it was a temporary one."""
        self.stop()
        if self._is_temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the server's log."""
        if not self.log_file.exists():
            return "(no log)"
        return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def __enter__(self: Server) -> Server:
        try:
            return self.start()
        except ServerUnavailable:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _before_start(self) -> None:
        """Prepare the folder, where the server needs that."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self.pid is None:
            raise ServerUnavailable(f"{self.description} is not running")
        self._process.send_signal(number)

    def _watch(self, pid: int) -> None:
        folder = str(self.folder) if self._is_temporary else ""
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(pid), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _forget(self) -> None:
        """Collect what has ended; the watcher goes first, it must never meet a process id used anew."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            if self._watcher.stdin is not None:
                self._watcher.stdin.close()
            self._watcher = None
        if self._process is not None:
            self._process.wait()
            self._process = None


def runs(program: str, *arguments: str, timeout_s: float = 30) -> str | None:
    """What a program prints when run with these arguments; None if it is missing, fails or hangs.

    Being on PATH proves little: several systems put placeholders there that only tell what to install.
    """
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def is_executable(path: Path) -> bool:
    """Whether the path is a file that this user may run."""
    return path.is_file() and os.access(path, os.X_OK)
