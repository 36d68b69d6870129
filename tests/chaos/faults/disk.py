"""A small disk that can be full, for a broker's data: a tmpfs of its own, so that ENOSPC is the kernel's."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from stockflow.embedded import KafkaBroker, ServerUnavailable
from tests.services import BROKER_START_TIMEOUT_S

SIZE_MB = 96
BLOCK = b"\0" * 4_096
BLOCKS_AT_ONCE = 256
# Whatever ends this process closes the pipe that the watcher reads; then the mount goes too.
_WATCHER = 'read -r _; sleep 1; umount -l "$1"'


class SmallDisk:
    """A mounted tmpfs at `folder`, which `fill` fills to the last block and `free` empties of that again."""

    def __init__(self, folder: Path) -> None:
        """Mount it.

        Raises:
            ServerUnavailable: this user may not mount.
        """
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
        mount = shutil.which("mount")
        done = subprocess.run(command, capture_output=True, text=True) if mount else None
        if done is None or done.returncode != 0:
            told = done.stderr.strip() if done else "there is no `mount`"
            raise ServerUnavailable(f"no small disk here, run this test as root where tmpfs may be mounted: {told}")
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Leave not one block free."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (BLOCKS_AT_ONCE, 1):
                try:
                    while ballast.write(BLOCK * size) == size * len(BLOCK):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Somebody has made room."""
        self._ballast.unlink()

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()


class BrokerOnSmallDisk(KafkaBroker):
    """A broker whose data, but not its log, lies on a small disk."""

    def __init__(self, cache: Path, disk: SmallDisk, **options: Any) -> None:
        """As for KafkaBroker."""
        super().__init__(cache, **options)
        self.start_timeout_s = BROKER_START_TIMEOUT_S
        self._disk = disk

    @property
    def _data(self) -> Path:
        return self._disk.folder / "data"
