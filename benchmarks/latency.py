"""Latency of `stockflow run` and of the floor at a low, open-loop rate: event due -> availability read from Kafka.

Events fall due at fixed times whether or not the program keeps up, and a late one is not forgiven: latency counts
from the time it was due. A record answers the event that it names as its cause; where one record stands for several
events of a key, only the newest of them is counted, and the share of events that were is shown. The routine interval
is 0, so that nothing is held back on purpose. The first seconds are not counted (a broker just started compiles its
code). Load generator and reader run in this process, in threads of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median as middle

import msgspec
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.floor import TOPIC as FLOOR_TOPIC
from benchmarks.rig import (
    CpuClock,
    FloorRun,
    Loader,
    Servers,
    StockflowRun,
    add_place,
    drop_topics,
    empty_redis,
    make_topics,
    servers,
    wait_for,
    wait_for_calm,
)
from benchmarks.workload import Options, Workload, make
from schemas.topics import AVAILABILITY

QUANTILES = (0.5, 0.99, 0.999)
LEAST_SHARE = 0.5  # Of the events must be answered by a record of their own, or the figures mean nothing.
SETTLE_S = 1.0  # Before the first event, so that nobody is still starting.
LAST_ANSWER_S = 5.0


class _Caused(msgspec.Struct):
    id: str


class _Record(msgspec.Struct):
    cause: _Caused


class Answers:
    """Reads an availability topic from now on and notes when each cause was first seen."""

    def __init__(self, where: Servers, topic: str, partitions: int) -> None:
        self.seen: dict[str, float] = {}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": where.bootstrap, "group.id": "benchmark-reader", "fetch.wait.max.ms": 100}
        )
        ends = [TopicPartition(topic, partition, OFFSET_END) for partition in range(partitions)]
        self._consumer.assign(ends)
        wait_for(lambda: self._at_end(ends), "reader of availability", 30)
        self._thread = threading.Thread(target=self._read, name="answers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _at_end(self, ends: list[TopicPartition]) -> bool:
        """Whether all partitions have a position, so that nothing from now on is missed."""
        self._consumer.poll(0.1)
        return all(
            (self._consumer.get_watermark_offsets(end, cached=True) or (0, -1))[1] >= 0
            for end in self._consumer.assignment()
        )

    def _read(self) -> None:
        decode = msgspec.json.Decoder(_Record).decode
        while not self._stop.is_set():
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            for message in (first, *self._consumer.consume(1_000, 0)):
                if message.error() is None:
                    self.seen.setdefault(decode(message.value()).cause.id, time.monotonic())  # type: ignore[arg-type]


def play(where: Servers, prefix: str, workload: Workload, rate: float, skip: int) -> dict[str, float]:
    """Send the events, each when it is due; the due time of each by its id, but for the first ones to skip."""
    producer = Producer({"bootstrap.servers": where.bootstrap, "linger.ms": 0, "acks": 1})
    due: dict[str, float] = {}
    begin = time.monotonic() + 0.1
    for number, (topic, partition, key, value) in enumerate(workload.sequence):
        at = begin + number / rate
        while (left := at - time.monotonic()) > 0:
            producer.poll(min(left, 0.01))
        if number >= skip:
            due[msgspec.json.decode(value, type=_Caused).id] = at
        producer.produce(prefix + topic, value=value, key=key, partition=partition)
    if producer.flush(30):
        raise RuntimeError("events were not acknowledged")
    return due


def measure(where: Servers, program: str, options: argparse.Namespace, turn: str) -> dict[str, float]:
    """One turn of one program: milliseconds by quantile, and two shares.

    `share` of the events had a record of their own, `others` of the machine was used by other programs.
    """
    skip = int(options.rate * options.warm_up)
    shape = Options(skip + int(options.rate * options.seconds), options.balances, options.partitions)
    workload = make(shape, time.time_ns() // 1000, ordered=True)
    prefix = f"latency-{os.getpid()}-{turn}-{program}-"
    make_topics(where, prefix, shape.partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    output = FLOOR_TOPIC if program == "floor" else AVAILABILITY.name
    with _running(where, program, prefix, workload, shape, loader, options) as pid:
        answers = Answers(where, prefix + output, shape.partitions)
        try:
            time.sleep(SETTLE_S)
            wait_for_calm(options.calm)
            clock = CpuClock(pid, where)
            due = play(where, prefix, workload, options.rate, skip)
            last = max(due, key=due.__getitem__)
            deadline = time.monotonic() + LAST_ANSWER_S
            while last not in answers.seen and time.monotonic() < deadline:
                time.sleep(0.05)
            clock.stop()
        finally:
            answers.close()
    drop_topics(where, prefix)
    taken = sorted((answers.seen[id] - at) * 1e3 for id, at in due.items() if id in answers.seen)
    share = len(taken) / len(due)
    if share < LEAST_SHARE:
        raise RuntimeError(f"{program}: only {share:.0%} of the events have a record of their own")
    found = {f"p{q * 100:g}": taken[min(len(taken) - 1, int(q * len(taken)))] for q in QUANTILES}
    return {**found, "share": share, "others": clock.others}


@contextmanager
def _running(
    where: Servers,
    program: str,
    prefix: str,
    workload: Workload,
    shape: Options,
    loader: Loader,
    options: argparse.Namespace,
) -> Iterator[int]:
    """The program, once it has taken in the openings; its process id."""
    if program == "floor":
        floor = FloorRun(where, prefix, shape.partitions, workload.expected.keys, shape.events, options.linger_ms)
        try:
            floor.heard("ready")
            yield floor.pid
        finally:
            floor.close()
        return
    settings = {"STOCKFLOW_ROUTINE_INTERVAL_MS": "0", "STOCKFLOW_LINGER_MS": str(options.linger_ms)}
    stockflow = StockflowRun(where, prefix, settings, options.folder)
    try:
        stockflow.start()
        stockflow.wait_committed(loader.positions)
        yield stockflow.pid
        stockflow.stop()
    finally:
        stockflow.close()


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=float, default=1_000, help="events per second")
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--warm-up", type=float, default=15, help="seconds before that, not counted")
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--linger-ms", type=int, default=2, help="of both programs' producers")
    options.add_argument("--others-max", type=float, default=1.0, help="share of the machine; more: try once more")
    options.add_argument("--tries", type=int, default=1, help="how often at most, for --others-max")
    add_place(options)
    return options


def main() -> int:
    """Measure both in turns, show medians, write them."""
    chosen = parser().parse_args()
    console = Console()
    results: dict[str, list[dict[str, float]]] = {"floor": [], "stockflow": []}
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for number in range(chosen.rounds):
            for program in ("floor", "stockflow") if number % 2 == 0 else ("stockflow", "floor"):
                for attempt in range(chosen.tries):
                    figures = measure(where, program, chosen, f"{number}-{attempt}")
                    text = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
                    console.print(f"round {number + 1} {program:9} {text}", soft_wrap=True)
                    if figures["others"] <= chosen.others_max:
                        break
                results[program].append(figures)
    table = Table(title=f"Event due -> availability read, ms, at {chosen.rate:,.0f} events/s, median of rounds")
    names = [f"p{q * 100:g}" for q in QUANTILES]
    for title in ("program", *names, "events with a record of their own", "machine used by others"):
        table.add_column(title, justify="left" if title == "program" else "right")
    for program, rounds in results.items():
        row = [f"{middle(one[name] for one in rounds):.1f}" for name in names]
        shares = [f"{middle(one[name] for one in rounds):.0%}" for name in ("share", "others")]
        table.add_row(program, *row, *shares)
    console.print(table)
    written = chosen.folder / f"latency-{time.strftime('%Y%m%dT%H%M%S')}.json"
    written.write_text(json.dumps({"rate": chosen.rate, "linger_ms": chosen.linger_ms, "results": results}, indent=2))
    console.print(f"written to {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
