"""What the system and the processes say of themselves every few seconds, as JSON lines; never changes anything."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stockflow.demo.observe import Buckets, read_metrics
from stockflow.embedded.process import OwnedServer
from tests.e2e.harness import Pipeline

KIB = 1_024
MACHINE = "machine"  # The process of rows about everything that runs here.
_SAMPLE = re.compile(r"^(stockflow_\w+)(\{.*\})? (\S+)$")
# By the name of a sample's column: the metric, all labels added up.
GAUGES = {
    "balances": "stockflow_balances",
    "facts": "stockflow_facts_remembered",
    "orders": "stockflow_orders_remembered",
    "lag": "stockflow_lag_events",
    "unacknowledged": "stockflow_unacknowledged_records",
    "redis_backlog": "stockflow_redis_backlog_keys",
    "redis_connected": "stockflow_redis_connected",
    "redis_resyncs": "stockflow_redis_resyncs_total",
    "commit_age_s": "stockflow_commit_age_seconds",
    "commits_failed": 'stockflow_commits_total{result="failed"}',
    "foreign_writes": "stockflow_foreign_writes_total",
    "owned": 'stockflow_partitions{state="owned"}',
    "live": 'stockflow_partitions{state="live"}',
    "catching_up": 'stockflow_partitions{state="catching_up"}',
}


class Samples:
    """Looks at the processes in a thread of its own; `rows` has one dict per process and look.

    `phase` is what is going on at the moment, noted with each row.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline], servers: Mapping[str, OwnedServer], file: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self.visible: list[tuple[float, str, Buckets]] = []
        self.phase: Callable[[], str] = lambda: ""
        self.begin = time.monotonic()
        self._pipelines, self._servers, self._file = dict(pipelines), dict(servers), file
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_s: float) -> None:
        """Look every so many seconds until `stop`."""
        self._thread = threading.Thread(target=self._run, args=(every_s,), name="samples", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more looks."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def newest(self, process: str) -> dict[str, Any]:
        """The last row of a process; empty before the first."""
        return next((row for row in reversed(self.rows) if row["process"] == process), {})

    def look(self) -> None:
        """One row for each process and server."""
        phase, at = self.phase(), round(time.monotonic() - self.begin, 2)
        rows = [self._look_at(name, pipeline) for name, pipeline in self._pipelines.items()]
        rows += [{"process": name, "at_s": at, **resources(pid_of(server))} for name, server in self._servers.items()]
        rows.append({"process": MACHINE, "at_s": at, "load": round(os.getloadavg()[0], 2)})
        with self._file.open("a", encoding="utf-8") as file:
            for row in rows:
                row["phase"] = phase
                self.rows.append(row)
                file.write(json.dumps(row) + "\n")

    def _look_at(self, name: str, pipeline: Pipeline) -> dict[str, Any]:
        at = time.monotonic() - self.begin
        row: dict[str, Any] = {"process": name, "at_s": round(at, 2), **resources(pid_of(pipeline))}
        text = pipeline.get("/metrics")[1] if row["pid"] else ""
        if text:
            row.update(gauges(text))
            for stage, buckets in read_metrics(text).latency.items():
                if stage.startswith("visible"):
                    self.visible.append((at, f"{name} {stage}", buckets))
        return row

    def _run(self, every_s: float) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + every_s, time.monotonic())
            self.look()


def gauges(text: str) -> dict[str, float]:
    """The values of interest on a metrics page, all labels added up where none is named."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found is not None:
            sums[found[1]] += float(found[3])
            if found[2]:
                sums[found[1] + found[2]] += float(found[3])
    return {name: sums[metric] for name, metric in GAUGES.items()}


def pid_of(server: OwnedServer) -> int | None:
    """Its process id, asked from a thread that does not own it."""
    process = server._process
    return process.pid if process is not None and process.returncode is None else None


def resources(pid: int | None) -> dict[str, Any]:
    """Resident bytes, file descriptors, threads and CPU seconds; only the id, and None, if it is not there."""
    try:
        if pid is None:
            return {"pid": None}
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        words = {name: rest.split() for name, _, rest in (line.partition(":") for line in status.splitlines())}
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
        return {
            "pid": pid,
            "rss": int(words["VmRSS"][0]) * KIB,
            "threads": int(words["Threads"][0]),
            "fds": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
            "cpu_s": (int(stat[11]) + int(stat[12])) / 100,
        }
    except (OSError, KeyError, IndexError):
        return {"pid": None}  # it has just ended


def rows_of(rows: Iterable[Mapping[str, Any]], process: str) -> list[Mapping[str, Any]]:
    """The rows of one process."""
    return [row for row in rows if row["process"] == process]
