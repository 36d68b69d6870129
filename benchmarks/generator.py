"""Sends events when they are due, from a process of its own, whether or not anyone keeps up: an open loop.

The due times follow from a `Load` alone, so whoever reads the answers knows them too. A late event is neither skipped
nor forgiven. How late the generator itself was is what it says at its end; it decides nothing about the program.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import Producer

from benchmarks.rig import ROOT, Servers
from benchmarks.workload import Options, make

START_S = 0.3  # Between saying when it begins and beginning.
LINGER_MS = 1  # In every figure of every program: a request per event would have the broker measured, not the program.
LONGEST_SLEEP_S = 0.005


@dataclass(frozen=True)
class Load:
    """How many events are due when: a rate, and stretches in which it is `times` as high.

    Such a stretch of `burst_s` begins `every_s` after the last one began; a `flash` is one stretch of its own that
    begins at `flash_at_s`, in which every event is of the first few SKUs. Times count from the first event.
    """

    rate: float
    seconds: float
    every_s: float = 0.0
    burst_s: float = 0.0
    times: float = 1.0
    flash_at_s: float = 0.0
    flash_s: float = 0.0
    flash_times: float = 1.0

    def due(self) -> list[float]:
        """Seconds from the first event on, one for each event, in order."""
        times, at = [], 0.0
        while at < self.seconds:
            times.append(at)
            at += 1 / (self.rate * self._factor(at))
        return times

    def hot(self, due: list[float]) -> tuple[int, int]:
        """The numbers of the events of the flash: from, to."""
        inside = [number for number, at in enumerate(due) if self._in_flash(at)]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)

    def _factor(self, at: float) -> float:
        if self._in_flash(at):
            return self.flash_times
        return self.times if self.every_s and at % self.every_s < self.burst_s else 1.0

    def _in_flash(self, at: float) -> bool:
        return self.flash_at_s <= at < self.flash_at_s + self.flash_s


class Generator:
    """The sending process, seen from the one that started it."""

    def __init__(self, where: Servers, prefix: str, load: Load, options: Options, now_us: int) -> None:
        """Start it: it makes its events and then waits for `begin`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generator"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = {"bootstrap": where.bootstrap, "prefix": prefix, "load": asdict(load), "options": asdict(options)}
        self._say({**told, "now_us": now_us})
        self._hear()

    def begin(self) -> float:
        """Let it send; the monotonic time of the first event, a moment from now."""
        self._say({})
        return float(self._hear()["begin"])

    def finish(self) -> tuple[list[float], float]:
        """Block until everything was sent and acknowledged.

        Returns:
            Seconds by which each event was sent late, and the share of one core that sending took.
        """
        heard = self._hear()
        return [float(one) for one in heard["late"]], float(heard["cores"])

    def close(self) -> None:
        """End it, however it is."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _say(self, words: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the generator ended")
        return dict(json.loads(line))


def send(told: dict[str, Any]) -> None:
    """The process: make the events, wait for the word, send each when it is due."""
    due = Load(**told["load"]).due()
    options = Options(**{**told["options"], "hot": tuple(told["options"]["hot"])})
    sequence = make(options, told["now_us"], ordered=True).sequence
    producer = Producer({"bootstrap.servers": told["bootstrap"], "linger.ms": LINGER_MS, "acks": 1})
    for topic in {topic for topic, *_ in sequence}:
        producer.list_topics(told["prefix"] + topic, timeout=10)  # Connected before the first event is due.
    _answer({"ready": True})
    sys.stdin.readline()
    begin, cpu_s = time.monotonic() + START_S, time.process_time()
    _answer({"begin": begin})
    late = [0.0] * len(due)
    clock, poll, produce, prefix = time.monotonic, producer.poll, producer.produce, told["prefix"]
    for number, (topic, partition, key, value) in enumerate(sequence):
        at = begin + due[number]
        while (left := at - clock()) > 0:
            poll(0)
            time.sleep(
                min(left, LONGEST_SLEEP_S)
            )  # the client's own wait knows whole milliseconds only, and would spin
        produce(prefix + topic, value=value, key=key, partition=partition)
        late[number] = clock() - at
    if producer.flush(30):
        raise RuntimeError("events were not acknowledged")
    cores = (time.process_time() - cpu_s) / (time.monotonic() - begin + START_S)
    _answer({"late": [round(one, 6) for one in late], "cores": round(cores, 3)})


def _answer(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    send(json.loads(sys.stdin.readline()))
