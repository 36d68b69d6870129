"""The pipeline as a child process: started like a user would, watched, ended by SIGTERM; never called in-process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stockflow.demo.observe import Scrape, fetch, read_metrics

READY_S = 90.0
STOP_S = 40.0  # More than a lease: a pipeline that cannot commit any more still ends by itself.
POLL_S = 0.1
LOG_TAIL_LINES = 15


class PipelineFailed(RuntimeError):
    """The pipeline did not start, ended by itself, or did not end when told to; the text shows its log."""


class Pipeline:
    """`stockflow run` with settings from a dict and its output in a file. Not for several threads."""

    def __init__(
        self,
        environment: Mapping[str, str],
        metrics_port: int,
        log_file: Path,
        program: Sequence[str] = (sys.executable, "-m", "stockflow"),
    ) -> None:
        """Nothing is started yet; `environment` is all the child sees, `program` is what runs its command `run`."""
        self._environment = dict(environment)
        self._program = list(program)
        self._address = f"http://127.0.0.1:{metrics_port}"
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it owns partitions, has restored them and keeps up."""
        return fetch(f"{self._address}/readyz") is not None

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"{self._address}/metrics"

    def start(self) -> None:
        """Start it; `wait_ready` tells when it works."""
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches only the demo, which ends its children in order.
            )

    def wait_ready(self) -> None:
        """Block until the pipeline owns its partitions and has restored them.

        Raises:
            PipelineFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + READY_S
        while not self.is_ready:
            self.check()
            if time.monotonic() > deadline:
                raise PipelineFailed(f"The pipeline was not ready within {READY_S:.0f} s.\n{self.log_tail()}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            PipelineFailed: it has ended.
        """
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise PipelineFailed(f"The pipeline ended by itself with exit code {code}.\n{self.log_tail()}")

    def scrape(self) -> Scrape | None:
        """Its metrics now; None if it does not answer."""
        text = fetch(self.metrics_url)
        return None if text is None else read_metrics(text)

    def stop(self) -> None:
        """End it with SIGTERM and wait for that.

        Raises:
            PipelineFailed: it did not end in time (it is killed then), or not with exit code 0.
        """
        if self._process is None:
            return
        self.check()
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise PipelineFailed(
                f"The pipeline did not end within {STOP_S:.0f} s of SIGTERM.\n{self.log_tail()}"
            ) from None
        self._process = None
        if code != 0:
            raise PipelineFailed(f"The pipeline ended with exit code {code} after SIGTERM.\n{self.log_tail()}")

    def kill(self) -> None:
        """End it at once, whatever it does; nothing happens if it is not there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it in good order if it still runs; how it ends does not matter any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S / 4)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def log_tail(self) -> str:
        """The end of its log."""
        if not self._log_file.exists():
            return "It has not written anything."
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "Its log ends with:\n" + "\n".join(f"  {line}" for line in lines)
