"""Workloads of others on this project's kind of source, state and sink, to lay figures beside published ones.

- shuffle: ShuffleBench (arXiv 2403.04570) with its defaults: records of 1,024 random bytes, 1,000 consumers whose rules
  match a fifth of them in all, 32 bytes of state each, one output per 10 records of a consumer.
- q17: Nexmark's unbounded aggregation: per auction and day the number of bids in three classes, lowest, highest, sum.
- q18: Nexmark's last bid of each bidder for each auction.

Each is a Bytewax flow like stockflow's: one consumer for all partitions, large polls, keyed state in dicts, batches to
an idempotent producer; q17 and q18 publish the newest of each key per poll, as Flink does with mini-batches. Nothing is
durable: this is what framework and clients cost, not what stockflow's guarantees do. A result counts only if it is what
a second computation finds. Per core means by the CPU seconds of the process, all its threads together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import Any, Protocol

import msgspec
import polars as pl
import xxhash
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks.rig import ROOT, Servers, WrongResult, add_place, drop_topics, read_all, servers, wait_for_calm

POLL_MESSAGES = 10_000
PARTITIONS = 12
GROUPS = 12  # Into which the keys of the state are dealt.
RULES, SELECTIVITY, RECORD_BYTES, PER_OUTPUT = 1_000, 0.2, 1_024, 10
SPAN, SLOT_BITS = 1 << 63, 47  # What the rules divide, and the width of an entry of their index.
CLASSES = (10_000, 1_000_000)  # Prices where Nexmark's ranks begin.
DAY_MS = 86_400_000
PUBLISHED = {
    "shuffle": "no table could be read",
    "q17": "Flink 161,000 per core (nexmark/nexmark, GUIDE_V2.md: 8 slots, RocksDB)",
    "q18": "Flink 65,000 per core (as above)",
}
Output = tuple[bytes, bytes]


class Work(Protocol):
    """One workload."""

    def make(self, count: int, chance: random.Random) -> list[bytes]:
        """So many input records."""

    def route(self, values: Iterable[bytes]) -> dict[int, list[Any]]:
        """Decode and deal out to groups of the state."""

    def keep(self) -> Callable[[list[Any]], list[Output]]:
        """The state of one group: takes what is routed to it and says what is to be published."""

    def check(self, inputs: Sequence[bytes], outputs: Sequence[Output]) -> None:
        """Raise WrongResult unless the outputs are those of the inputs."""


class Shuffle:
    """ShuffleBench's default workload."""

    def __init__(self) -> None:
        width = int(SPAN * SELECTIVITY / RULES)
        self._rules = [(xxhash.xxh3_64_intdigest(b"rule %d" % rule) % SPAN, width, rule) for rule in range(RULES)]
        self._slots: dict[int, list[tuple[int, int, int]]] = {}
        for offset, wide, rule in self._rules:
            first, last = offset >> SLOT_BITS, (offset + wide) >> SLOT_BITS
            for slot in range(first, last + 1):
                self._slots.setdefault(slot % (SPAN >> SLOT_BITS), []).append((offset, wide, rule))

    def make(self, count: int, chance: random.Random) -> list[bytes]:
        """Random bytes."""
        return [chance.randbytes(RECORD_BYTES) for _ in range(count)]

    def route(self, values: Iterable[bytes]) -> dict[int, list[tuple[int, bytes]]]:
        """To the consumers whose rules match."""
        routed: dict[int, list[tuple[int, bytes]]] = {}
        slots = self._slots
        for value in values:
            at = int.from_bytes(value[:8], "big") % SPAN
            for offset, wide, rule in slots.get(at >> SLOT_BITS, ()):
                if (at - offset) % SPAN < wide:
                    routed.setdefault(rule % GROUPS, []).append((rule, value))
        return routed

    def keep(self) -> Callable[[list[tuple[int, bytes]]], list[Output]]:
        """Count, sum, first and last time of each consumer; out they go with each tenth record."""
        states: dict[int, list[int]] = {}

        def take(items: list[tuple[int, bytes]]) -> list[Output]:
            now, out = time.time_ns() // 1_000_000, []
            for rule, value in items:
                state = states.get(rule)
                if state is None:
                    state = states[rule] = [0, 0, now, now]
                state[0] += 1
                state[1] = (state[1] + int.from_bytes(value[:8], "big")) % (1 << 64)
                state[3] = now
                if state[0] == PER_OUTPUT:
                    out.append((b"%d" % rule, b"".join(part.to_bytes(8, "big") for part in state)))
                    del states[rule]
            return out

        return take

    def check(self, inputs: Sequence[bytes], outputs: Sequence[Output]) -> None:
        """As many outputs for each consumer as ten times its rule matches, by looking at each rule apart."""
        at = pl.Series([int.from_bytes(value[:8], "big") % SPAN for value in inputs], dtype=pl.UInt64)
        found: dict[int, int] = {}
        for key, _ in outputs:
            found[int(key)] = found.get(int(key), 0) + 1
        for offset, wide, rule in self._rules:
            end = offset + wide
            matches = int(((at >= offset) & (at < end)).sum()) + (int((at < end - SPAN).sum()) if end > SPAN else 0)
            if found.get(rule, 0) != matches // PER_OUTPUT:
                raise WrongResult(f"consumer {rule}: {found.get(rule, 0)} outputs for {matches} records")


class Bid(msgspec.Struct, gc=False):
    """A bid as Nexmark has it."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    date_time: int
    extra: str


class _Bids:
    """What q17 and q18 have in common: bids as JSON of some 200 bytes, nine in ten for one of a few hot auctions."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Bid).decode
        self._encode = msgspec.json.Encoder().encode

    def make(self, count: int, chance: random.Random) -> list[bytes]:
        """Two days of bids in order of time; half of them for the hot auction of the moment, as Nexmark's generator."""
        made = []
        for number in range(count):
            newest = 1_000 + number // 15
            auction = newest - newest % 100 if chance.random() < 0.5 else newest - chance.randrange(100)
            bidder = 1_000 + number // 46 - chance.randrange(100)
            price = round(10 ** (chance.random() * 6) * 100)
            at = 1_436_918_400_000 + number * 2 * DAY_MS // count
            url = f"https://www.nexmark.com/{chance.randrange(10**6):06}/item.htm?query=1&channel_id={number % 10_000}"
            made.append(self._encode(Bid(auction, bidder, price, "channel-7", url, at, "x" * 20)))
        return made


class Statistics(_Bids):
    """q17: per auction and day."""

    def route(self, values: Iterable[bytes]) -> dict[int, list[Bid]]:
        """By auction."""
        routed: dict[int, list[Bid]] = {}
        for bid in map(self._decode, values):
            routed.setdefault(bid.auction % GROUPS, []).append(bid)
        return routed

    def keep(self) -> Callable[[list[Bid]], list[Output]]:
        """The newest of each key per poll goes out."""
        states: dict[tuple[int, int], list[int]] = {}
        encode = self._encode

        def take(bids: list[Bid]) -> list[Output]:
            changed = set()
            for bid in bids:
                key, price = (bid.auction, bid.date_time // DAY_MS), bid.price
                state = states.get(key)
                if state is None:
                    state = states[key] = [0, 0, 0, 0, price, price, 0]
                state[0] += 1
                state[1 if price < CLASSES[0] else 2 if price < CLASSES[1] else 3] += 1
                if price < state[4]:
                    state[4] = price
                if price > state[5]:
                    state[5] = price
                state[6] += price
                changed.add(key)
            return [(b"%d|%d" % key, encode(states[key])) for key in changed]

        return take

    def check(self, inputs: Sequence[bytes], outputs: Sequence[Output]) -> None:
        """The newest output of each key is what polars finds."""
        price = pl.col("price")
        by_key = [pl.col("auction"), pl.col("date_time") // DAY_MS]
        grouped = _frame(inputs).group_by(by_key).agg(
            pl.len().alias("total"),
            (price < CLASSES[0]).sum().alias("low"),
            ((price >= CLASSES[0]) & (price < CLASSES[1])).sum().alias("middle"),
            (price >= CLASSES[1]).sum().alias("high"),
            price.min().alias("least"),
            price.max().alias("most"),
            price.sum().alias("sum"),
        )  # fmt: skip
        wanted = {f"{row[0]}|{row[1]}": list(row[2:]) for row in grouped.iter_rows()}
        _compare(wanted, {key.decode(): json.loads(value) for key, value in outputs})


class LastBids(_Bids):
    """q18: the newest bid by auction and bidder."""

    def route(self, values: Iterable[bytes]) -> dict[int, list[tuple[Bid, bytes]]]:
        """By bidder."""
        routed: dict[int, list[tuple[Bid, bytes]]] = {}
        for value in values:
            bid = self._decode(value)
            routed.setdefault(bid.bidder % GROUPS, []).append((bid, value))
        return routed

    def keep(self) -> Callable[[list[tuple[Bid, bytes]]], list[Output]]:
        """The newest of each key per poll goes out, unless a later one was there."""
        newest: dict[tuple[int, int], int] = {}

        def take(bids: list[tuple[Bid, bytes]]) -> list[Output]:
            changed = {}
            for bid, value in bids:
                key = bid.bidder, bid.auction
                if bid.date_time >= newest.get(key, 0):
                    newest[key] = bid.date_time
                    changed[key] = value
            return [(b"%d|%d" % key, value) for key, value in changed.items()]

        return take

    def check(self, inputs: Sequence[bytes], outputs: Sequence[Output]) -> None:
        """The time of the newest output of each key is what polars finds."""
        grouped = _frame(inputs).group_by("bidder", "auction").agg(pl.col("date_time").max())
        wanted = {f"{bidder}|{auction}": at for bidder, auction, at in grouped.iter_rows()}
        _compare(wanted, {key.decode(): json.loads(value)["date_time"] for key, value in outputs})


def _frame(inputs: Sequence[bytes]) -> pl.DataFrame:
    return pl.read_ndjson(b"\n".join(inputs))


def _compare(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    if wanted != found:
        wrong = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
        raise WrongResult(f"{len(wrong)} of {len(wanted)} keys, {wrong[0]}: {found.get(wrong[0])}")


WORKS: dict[str, Callable[[], Work]] = {"shuffle": Shuffle, "q17": Statistics, "q18": LastBids}


# The program


class _Reader(StatefulSourcePartition[tuple[str, list[Any]], None]):
    """All partitions to their present ends, then the end of the flow."""

    def __init__(self, bootstrap: str, topic: str, work: Work) -> None:
        self._work, self._left = work, PARTITIONS
        self.began: float | None = None
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "published",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "max.partition.fetch.bytes": 8 << 20,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])

    def next_batch(self) -> list[tuple[str, list[Any]]]:
        """What one poll has, dealt out."""
        if not self._left:
            self._consumer.close()
            raise StopIteration
        first = self._consumer.poll(0.05)
        if first is None:
            return []
        self.began = self.began or time.monotonic()
        values = []
        for message in (first, *self._consumer.consume(POLL_MESSAGES, 0)):
            error = message.error()
            if error is None:
                values.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._left -= 1
            else:
                raise RuntimeError(str(error))
        return [(str(group), items) for group, items in self._work.route(values).items()]  # type: ignore[arg-type]

    def next_awake(self) -> datetime | None:
        """At once."""
        return None

    def snapshot(self) -> None:
        """Nothing is kept."""


class _Source(FixedPartitionedSource[tuple[str, list[Any]], None]):
    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Reader:
        return self._reader


class _Keep(StatefulBatchLogic[list[Any], list[Output], None]):
    def __init__(self, take: Callable[[list[Any]], list[Output]]) -> None:
        self._take = take

    def on_batch(self, values: list[list[Any]]) -> tuple[Iterable[list[Output]], bool]:
        return [self._take(items) for items in values], False

    def snapshot(self) -> None:
        return None


class _Writer(StatelessSinkPartition[tuple[str, list[Output]]]):
    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic

    def write_batch(self, items: list[tuple[str, list[Output]]]) -> None:
        for group, outputs in items:
            records = [{"key": key, "value": value} for key, value in outputs]
            if self._producer.produce_batch(self._topic, records, partition=int(group)) != len(records):
                raise RuntimeError("the producer's queue is full")
        self._producer.poll(0)


class _Sink(DynamicSink[tuple[str, list[Output]]]):
    def __init__(self, writer: _Writer) -> None:
        self._writer = writer

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Writer:
        return self._writer


def run(name: str, bootstrap: str, inputs: str, outputs: str) -> dict[str, float]:
    """Work the input topic off; seconds from the first record to the last acknowledgement, and CPU seconds."""
    work = WORKS[name]()
    reader = _Reader(bootstrap, inputs, work)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
        }
    )
    flow = Dataflow("published")
    routed = op.input("read", flow, _Source(reader))
    kept = op.stateful_batch("keep", routed, lambda _resume: _Keep(work.keep()))
    op.output("write", kept, _Sink(_Writer(producer, outputs)))
    before = time.process_time()
    run_main(flow)  # type: ignore[no-untyped-call]
    if producer.flush(60):
        raise RuntimeError("not everything was acknowledged")
    assert reader.began is not None
    return {"seconds": time.monotonic() - reader.began, "cpu_s": time.process_time() - before}


# Measuring it


def measure(name: str, where: Servers, count: int, rounds: int, calm_s: float) -> list[dict[str, float]]:
    """Load once, run several times; of each run its seconds and CPU seconds.

    Raises:
        WrongResult: an output is not what the inputs say.
    """
    work = WORKS[name]()
    inputs = work.make(count, random.Random(7))
    prefix = f"published-{os.getpid()}-{name}-"
    topic = prefix + "in"
    bootstrap = where.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    outs = [f"{prefix}out-{number}" for number in range(rounds)]
    for made in admin.create_topics([NewTopic(one, PARTITIONS, 1) for one in (topic, *outs)]).values():
        made.result(30)
    loader = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.kbytes": 1_048_576})
    for number, value in enumerate(inputs):
        while True:
            try:
                # A bid after another of the same auction and bidder must stay behind it.
                loader.produce(topic, value, partition=number * PARTITIONS // count)
            except BufferError:
                loader.poll(0.1)
            else:
                break
    if loader.flush(120):
        raise TimeoutError("the input was not taken")
    found = []
    for out in outs:
        wait_for_calm(calm_s)
        command = [sys.executable, "-m", "benchmarks.published", "--run", name, "--bootstrap", bootstrap]
        command += ["--topics", f"{topic},{out}"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        work.check(inputs, list(read_all(where, out)))
        found.append(json.loads(done.stdout))
    drop_topics(where, prefix)
    return found


def main() -> int:
    """Measure and show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=500_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", choices=WORKS, action="append")
    options.add_argument("--run", choices=WORKS, help="work off --topics IN,OUT in this process")
    options.add_argument("--topics", default="")
    add_place(options)
    chosen = options.parse_args()
    if chosen.run:
        sys.stdout.write(json.dumps(run(chosen.run, chosen.bootstrap, *chosen.topics.split(","))))
        return 0
    console = Console()
    table = Table(title=f"{chosen.records:,} records, medians of {chosen.rounds} rounds")
    for title in ("workload", "records/s", "per core", "published"):
        table.add_column(title, justify="right" if "r" in title[:3] else "left")
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(where.description)
        for name in chosen.only or WORKS:
            rounds = measure(name, where, chosen.records, chosen.rounds, chosen.calm)
            rate, per_core = (chosen.records / median(one[of] for one in rounds) for of in ("seconds", "cpu_s"))
            table.add_row(name, f"{rate:,.0f}", f"{per_core:,.0f}", PUBLISHED[name])
            console.print(f"{name}: {rate:,.0f} records/s, {per_core:,.0f} per core")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
