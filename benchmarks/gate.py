"""Guards the worker's work per event, without servers: instructions of the hot path against those of the floor's work.

Callgrind counts them, so a busy machine or another processor changes nothing: CPU times, which were compared here
before, gave the same code 3.3 times the floor's on one processor and 3.9 on another. Each program is a run that makes
both ready and then takes in the events, less a run that only makes both ready. The ratio must stay within a tenth of
the one last accepted. CI runs it; it says nothing about Kafka or Redis, nor about waiting for memory.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.floor import Floor
from benchmarks.hot_path import START_US, KeepBalances, Loop
from benchmarks.workload import Batches, Options, make

# Counted by this program on x86-64, by the minor version of CPython; a change that is worth its cost changes them.
ACCEPTED = {(3, 10): 3.34, (3, 11): 2.72, (3, 12): 2.70}
TOLERANCE = 1.10
SHAPE = Options(events=6_000, balances=2_500, partitions=12)
PIECES = 2  # Taken in one after the other: as many events of a partition at a time as a backlog hands out.
RATE = 50_000.0  # Events per second of the clock that the hot path is shown.
ROUTINE_S = 0.25
NOTHING, STOCKFLOW, FLOOR = PROGRAMS = ("nothing", "stockflow", "floor")
VALGRIND_TIMEOUT_S = 600.0
_COLLECTED = re.compile(r"Collected : (\d+)")


class _Message:
    """A consumed record or a delivery report of the floor."""

    __slots__ = ("_key", "_partition", "_topic", "_value")

    def __init__(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        self._topic, self._partition, self._key, self._value = topic, partition, key, value

    def topic(self) -> str:
        """Its topic."""
        return self._topic

    def partition(self) -> int:
        """Its partition."""
        return self._partition

    def key(self) -> bytes:
        """Its key."""
        return self._key

    def value(self) -> bytes:
        """Its value."""
        return self._value

    def error(self) -> None:
        """None: it is a record."""


class _Clients:
    """Consumer, producer and Redis of the floor, as lists."""

    def __init__(self) -> None:
        self.waiting: list[_Message] = []
        self._reports: list[tuple[Callable[..., None], list[_Message]]] = []

    def poll(self, _: float) -> _Message | None:
        """One message, if there is one."""
        return self.waiting.pop() if self.waiting else None

    def report(self) -> None:
        """Tell of everything produced that it was delivered."""
        reports, self._reports = self._reports, []
        for done, messages in reports:
            for message in messages:
                done(None, message)

    def consume(self, count: int, _: float) -> list[_Message]:
        """The next messages."""
        taken = self.waiting[: -count - 1 : -1]
        del self.waiting[-count:]
        return taken

    def produce_batch(
        self, topic: str, records: list[dict[str, Any]], partition: int, on_delivery: Callable[..., None]
    ) -> int:
        """Take records; `report` tells of them."""
        reports = [_Message(topic, partition, record["key"], record["value"]) for record in records]
        self._reports.append((on_delivery, reports))
        return len(records)

    def mset(self, _: dict[bytes, bytes]) -> None:
        """Forget them."""


class _Producer:
    """The producing side of the clients: its poll hands out no message."""

    def __init__(self, clients: _Clients) -> None:
        self._clients = clients
        self.produce_batch = clients.produce_batch

    def poll(self, _: float) -> None:
        """Delivery reports."""
        self._clients.report()


@dataclass(frozen=True)
class Cost:
    """Instructions per event of both, and those it takes to make both ready."""

    stockflow: float
    floor: float
    start: int

    @property
    def ratio(self) -> float:
        """The hot path against the floor's work."""
        return self.stockflow / self.floor


class CannotCount(RuntimeError):
    """No callgrind, or it did not come to its end; the message says what to do."""


def accepted_here() -> float | None:
    """The ratio accepted for this interpreter, None if none was ever counted."""
    return ACCEPTED.get(sys.version_info[:2]) if platform.machine() == "x86_64" else None


def measure(shape: Options = SHAPE, idle_loops: int = 0) -> Cost:
    """Count both on the same events.

    Args:
        shape: the events, and the balances that they find.
        idle_loops: as `instructions` takes it.

    Raises:
        CannotCount: valgrind is missing or failed.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        nothing, stockflow, floor = pool.map(lambda program: instructions(program, shape, idle_loops), PROGRAMS)
    return Cost((stockflow - nothing) / shape.events, (floor - nothing) / shape.events, nothing)


def judge(accepted: float, cost: Cost, show: Callable[[str], None] = print) -> bool:
    """Whether the hot path costs as little as was accepted."""
    limit = accepted * TOLERANCE
    show(
        f"{cost.stockflow:,.0f} instructions per event, {cost.ratio:.3f} times the floor's work ({cost.floor:,.0f}); "
        f"accepted {accepted:.3f}, limit {limit:.3f}"
    )
    return cost.ratio <= limit


def instructions(program: str, shape: Options = SHAPE, idle_loops: int = 0) -> int:
    """Count a whole run of a program.

    Args:
        program: which one takes in the events; one of `PROGRAMS`.
        shape: the events, and the balances that they find.
        idle_loops: so many turns of an empty loop are planted in the hot path for each event.

    Raises:
        CannotCount: valgrind is missing or failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CannotCount("valgrind is missing: install the package `valgrind` of your distribution")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "callgrind.log"
        # Hashes of texts, and with them the work of dicts and sets, are the same in every run.
        command = [
            "env",
            "PYTHONHASHSEED=0",
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            f"--log-file={log}",
        ]
        command += [sys.executable, "-m", "benchmarks.gate", "--take-in", program, "--idle-loops", str(idle_loops)]
        command += [f"--events={shape.events}", f"--balances={shape.balances}", f"--partitions={shape.partitions}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=VALGRIND_TIMEOUT_S)
        counted = _COLLECTED.search(log.read_text(encoding="utf-8")) if log.exists() else None
    if done.returncode or counted is None:
        raise CannotCount(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return int(counted[1])


def take_in(program: str, shape: Options, idle_loops: int = 0) -> int:
    """Make both programs ready and let one of them, or neither, take in the events; how many it did."""
    workload = make(shape, START_US + 1_000_000_000)
    loop, clients = Loop(shape, ROUTINE_S), _Clients()
    floor = Floor(clients, _Producer(clients), clients, "", conflates=False)
    clients.waiting = _messages(workload.openings)
    opened = len(clients.waiting)
    floor.until(opened)
    loop.run(workload.openings, RATE, spread=1)
    pieces = [_piece(workload.events, number) for number in range(PIECES)]
    fed = [_messages(piece) for piece in pieces]
    if idle_loops:
        KeepBalances.on_batch = _slowed(KeepBalances.on_batch, idle_loops)  # type: ignore[method-assign]
    taken = 0
    with _quiet_collector():
        if program == STOCKFLOW:
            taken = sum(loop.run(piece, RATE, spread=1) for piece in pieces)
        elif program == FLOOR:
            for clients.waiting in fed:
                taken += len(clients.waiting)
                floor.until(opened + taken)
    return taken


def _piece(batches: Batches, number: int) -> Batches:
    return {
        place: messages[len(messages) * number // PIECES : len(messages) * (number + 1) // PIECES]
        for place, messages in batches.items()
    }


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """As in `stockflow run`: what is there is left alone, and the collector comes by rarely."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _slowed(genuine: Callable[[Any, list[Any]], Any], idle_loops: int) -> Callable[[Any, list[Any]], Any]:
    """The hot path that does something for nothing, so many turns of a loop per event."""

    def on_batch(self: Any, arrivals: list[Any]) -> Any:
        done = genuine(self, arrivals)
        for _ in range(idle_loops * sum(len(getattr(one, "messages", ())) for one in arrivals)):
            pass
        return done

    return on_batch


def _messages(batches: Batches) -> list[_Message]:
    """As the floor's client hands them out: the first is the last of the list."""
    messages = [
        _Message(topic, partition, one["key"], one["value"])
        for (topic, partition), given in batches.items()
        for one in given
    ]
    return messages[::-1]


def main() -> int:
    """Judge; 1 if it costs more than was accepted, 2 if that cannot be said."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--take-in", choices=PROGRAMS, help="what runs under callgrind: one program, uncounted")
    options.add_argument("--events", type=int, default=SHAPE.events)
    options.add_argument("--balances", type=int, default=SHAPE.balances)
    options.add_argument("--partitions", type=int, default=SHAPE.partitions)
    options.add_argument("--idle-loops", type=int, default=0, help="planted in the hot path for each event")
    chosen = options.parse_args()
    shape = Options(chosen.events, chosen.balances, partitions=chosen.partitions)
    if chosen.take_in:
        print(f"{take_in(chosen.take_in, shape, chosen.idle_loops):,} events taken in")
        return 0
    console = Console(soft_wrap=True)
    try:
        cost = measure(shape, chosen.idle_loops)
    except CannotCount as error:
        console.print(str(error), markup=False)
        return 2
    accepted = accepted_here()
    if accepted is None:
        console.print(
            f"{cost.ratio:.3f} times the floor's work; nothing was accepted yet for CPython "
            f"{platform.python_version()} on {platform.machine()}"
        )
        return 2
    return 0 if judge(accepted, cost, console.print) else 1


if __name__ == "__main__":
    sys.exit(main())
