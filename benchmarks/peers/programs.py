"""The peers as programs: how each is started, watched from outside and timed; never what they compute.

The end of a turn is as for stockflow: everything committed (where a peer commits to Kafka) and every record on the
topic; each publishes one per event. None writes to Redis, and none recognises a repeat, which stockflow does.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from benchmarks.floor import TOPIC as OUTPUT
from benchmarks.peers import environments
from benchmarks.rig import (
    FINISH_S,
    LOOK_INTERVAL_S,
    CpuClock,
    Loader,
    Servers,
    check_topic,
    committed_events,
    records_on,
    wait_for_calm,
)
from benchmarks.throughput import Result
from benchmarks.workload import Options, Workload
from schemas.topics import ORDER_RESERVATIONS, POS_SALES, WMS_MOVEMENTS
from stockflow.embedded.kafka import find_java

STOP_S = 10.0
LOG_TAIL_BYTES = 2_000
HEAP_MB = 1_024
OPENED = ("java.lang", "java.nio", "java.util", "java.util.concurrent")  # As Flink's own scripts do for Java 17.


@dataclass(frozen=True)
class Peer:
    """One peer and its settings.

    `commits`: to Kafka, and is waited for. `warms_up`: it gets faster by running, as Java does. `share` of the events
    that the fast programs get is enough for it to work for seconds.
    """

    name: str
    environment: str
    script: str = ""
    options: tuple[str, ...] = ()
    commits: bool = True
    warms_up: bool = False
    share: float = 1.0


PEERS = {
    peer.name: peer
    for peer in (
        Peer("kafka streams", environments.STREAMS, options=("--store", "memory"), warms_up=True),
        Peer("kafka streams, RocksDB", environments.STREAMS, options=("--store", "rocksdb"), warms_up=True),
        # It commits with each checkpoint, but the last events' only when its source has waited 10 s for more in vain.
        Peer("flink", environments.FLINK, commits=False, warms_up=True),
        Peer("stock bytewax", "stock-bytewax", "stock_bytewax.py", commits=False, share=0.25),
        Peer("quix", "quix", "quix.py", share=0.15),
        Peer("faust", "faust-streaming", "faust_streaming.py", share=0.05),
    )
}


class PeerFailed(Exception):
    """A peer ended by itself; the text shows the end of its log."""


class PeerRun:
    """A peer as a process of its own, from its start on."""

    def __init__(self, peer: Peer, where: Servers, prefix: str, partitions: int, linger_ms: int, folder: Path) -> None:
        made = environments.ensure(peer.environment)
        self._peer, self._partitions, self._output = peer, partitions, prefix + OUTPUT
        self._group = f"{prefix}{peer.environment}"
        self._admin = AdminClient({"bootstrap.servers": where.bootstrap})
        self._state = folder / f"{prefix}{peer.environment}-state"
        self._state.mkdir(parents=True)
        self._log = folder / f"{prefix}{peer.environment}.log"
        inputs = ",".join(prefix + topic.name for topic in (POS_SALES, WMS_MOVEMENTS, ORDER_RESERVATIONS))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *self._command(made),
                    *("--bootstrap", where.bootstrap, "--inputs", inputs, "--output", self._output),
                    *("--group", self._group, "--partitions", str(partitions), "--linger-ms", str(linger_ms)),
                    *("--folder", str(self._state.absolute()), *peer.options),
                ],
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={},  # Nothing of ours, and no proxy of ours.
            )

    def _command(self, made: Path) -> list[str]:
        if self._peer.environment in environments.JAVA_PEERS:
            classes = f"{made / 'classes'}:{made / 'jars'}/*"
            quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
            opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
            return [find_java(), f"-Xmx{HEAP_MB}m", "-XX:+UseSerialGC", *opened, quiet, "-cp", classes, "Balances"]
        return [str(environments.python_of(made)), str(environments.HERE / self._peer.script)]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def records(self) -> int:
        """Records that it has published so far."""
        return records_on(self._admin, self._output, self._partitions)

    def wait_done(self, positions: Mapping[tuple[str, int], int], events: int) -> float:
        """Block until it has taken in the events below these positions; the monotonic time of the look that found it.

        Args:
            positions: the ends of the inputs.
            events: how many events these are.

        Raises:
            PeerFailed: it ended.
            TimeoutError: not in time.
        """
        deadline = time.monotonic() + FINISH_S
        total = sum(positions.values())
        while True:
            if self.records() >= events and (not self._peer.commits or self._committed(positions) >= total):
                return time.monotonic()
            if self._process.poll() is not None:
                raise PeerFailed(
                    f"{self._peer.name} ended with exit code {self._process.returncode}:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._peer.name}: not done after {FINISH_S:.0f} s:\n{self.log_tail()}")
            time.sleep(LOOK_INTERVAL_S)

    def _committed(self, positions: Mapping[tuple[str, int], int]) -> int:
        return committed_events(self._admin, self._group, positions)

    def log_tail(self) -> str:
        """The end of its log."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def close(self) -> None:
        """End it, however it is, and remove its state."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._state, ignore_errors=True)


def run_peer(
    peer: Peer,
    where: Servers,
    prefix: str,
    workload: Workload,
    shape: Options,
    linger_ms: int,
    folder: Path,
    calm_s: float,
) -> Result:
    """One turn of a peer on fresh topics.

    Raises:
        WrongResult: what it published is not what the events say.
    """
    openings = workload.expected.keys + shape.warm_up
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    program = PeerRun(peer, where, prefix, shape.partitions, linger_ms, folder)
    try:
        program.wait_done(loader.positions, openings)
        loader.hold_back(workload.events)
        wait_for_calm(calm_s)
        before = program.records()
        clock = CpuClock(program.pid, where)
        begin = loader.release()
        seconds = program.wait_done(loader.positions, openings + shape.events) - begin
        clock.stop()
    finally:
        program.close()
    records, size = check_topic(where, prefix + OUTPUT, workload.expected)
    rate = shape.events / seconds
    cpu = clock.us_per(shape.events)
    memory = clock.resident_bytes / 1e6
    return Result(
        peer.name, shape.events, seconds, rate, rate, *cpu, clock.others, records - before, size, resident_mb=memory
    )
