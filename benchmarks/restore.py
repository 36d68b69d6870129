"""How long a restart takes to have its balances back, against a bare loop that reads and decodes the state topic.

stockflow takes in so many balances and stops. Then, in turns: the bare loop, in a process of its own, reads the state
topic to its end, decodes each record and keeps it in a dict; and `stockflow run` starts, and its own log says when its
partitions were assigned and when the last one was restored. That includes what the loop has no need for: the claim of
each partition and the tails of the outputs. `ready_s` is from the start of the process to its readiness.

With `--takeover` an owner of everything runs, and a second process joins it: the group gives it half of the partitions,
and the loop reads these. The owner goes on beside both, as in a rollout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from rich.console import Console

from benchmarks import figures
from benchmarks.rig import (
    ROOT,
    Loader,
    Servers,
    StockflowRun,
    WrongResult,
    add_place,
    drop_topics,
    empty_redis,
    make_topics,
    servers,
    take_in,
    wait_for,
    wait_for_calm,
)
from benchmarks.workload import Options, make
from schemas.state import CLAIM_KEY, open_envelope
from schemas.topics import STOCK_STATE
from stock.ledger import check_packed

BARE, STOCKFLOW = "bare", "stockflow"
READ_MESSAGES = 10_000
POLL_S = 0.05


def bare(bootstrap: str, topic: str, partitions: Sequence[int]) -> dict[str, float]:
    """Read and decode the state topic; seconds, records read, and keys kept."""
    begin = time.monotonic()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "benchmark-restore",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    kept: dict[str, bytes] = {}
    read, left = 0, len(partitions)
    while left:
        first = consumer.poll(POLL_S)  # `consume` with a time would wait for that many messages.
        for message in () if first is None else (first, *consumer.consume(READ_MESSAGES, 0)):
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                left -= 1
                continue
            read += 1
            key, value = message.key().decode(), message.value()  # type: ignore[union-attr]
            if value is None:
                kept.pop(key, None)
            elif key != CLAIM_KEY:
                _, packed = open_envelope(value)
                check_packed(key, packed)
                kept[key] = packed
    seconds = time.monotonic() - begin
    consumer.close()
    return {"seconds": seconds, "records": read, "keys": sum(not key.startswith("|") for key in kept)}


def _bare_process(where: Servers, topic: str, partitions: Iterable[int]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.restore", "--bare", topic, "--bootstrap", where.bootstrap]
    command += ["--of", ",".join(map(str, partitions))]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def restored(log: Path) -> dict[str, float]:
    """What the log of one start says: seconds from the assignment to the last restored partition, and records."""
    assigned = [line for line in _logged(log, "assigned") if line["partitions"]]
    done = _logged(log, "partition_restored")
    if not assigned or not done:
        raise WrongResult(f"{log}: no partition was restored")
    begin, end = (datetime.fromisoformat(line["timestamp"][:26]) for line in (assigned[0], done[-1]))
    return {"seconds": (end - begin).total_seconds(), "keys": sum(line["records"] for line in done)}


def taken_over(log: Path) -> list[int]:
    """The partitions that the log of one start names as restored."""
    return sorted(line["partition"] for line in _logged(log, "partition_restored"))


def _logged(log: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


def _loaded(where: Servers, prefix: str, balances: int, partitions: int) -> tuple[Loader, int]:
    """Fresh topics with a receipt for each balance, and an empty Redis; who loaded them, and how many balances."""
    workload = make(Options(0, balances, partitions), time.time_ns() // 1000)
    make_topics(where, prefix, partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    return loader, workload.expected.keys


def measure(
    where: Servers, balances: int, partitions: int, rounds: int, folder: Path, calm_s: float, console: Console
) -> list[dict[str, dict[str, float]]]:
    """All rounds: of each program what it measured.

    Raises:
        WrongResult: a program did not get every balance back.
    """
    prefix = f"restore-{os.getpid()}-"
    loader, expected = _loaded(where, prefix, balances, partitions)
    take_in(where, prefix, loader.positions, folder)
    found = []
    for number in range(rounds):
        one: dict[str, dict[str, float]] = {}
        for program in (BARE, STOCKFLOW) if number % 2 == 0 else (STOCKFLOW, BARE):
            wait_for_calm(calm_s)
            if program == BARE:
                one[program] = _bare_process(where, prefix + STOCK_STATE.name, range(partitions))
            else:
                one[program] = _restart(where, prefix, folder, number)
            if one[program]["keys"] < expected:
                raise WrongResult(f"{program}: {one[program]['keys']} balances, expected {expected}")
        console.print(
            f"restore round {number + 1}: bare {one[BARE]['seconds']:.2f} s, stockflow "
            f"{one[STOCKFLOW]['seconds']:.2f} s, ready {one[STOCKFLOW]['ready_s']:.1f} s after its start"
        )
        found.append(one)
    drop_topics(where, prefix)
    return found


def measure_takeovers(
    where: Servers, balances: int, partitions: int, rounds: int, folder: Path, calm_s: float, console: Console
) -> list[dict[str, dict[str, float]]]:
    """All rounds: what a second process needed to take its part over, and the bare loop for the same partitions.

    Raises:
        WrongResult: it has not got every balance of its partitions.
    """
    prefix = f"takeover-{os.getpid()}-"
    loader, _ = _loaded(where, prefix, balances, partitions)
    owner, found = StockflowRun(where, prefix, {}, folder), []
    try:
        owner.start()
        owner.wait_committed(loader.positions)
        owner.wait_visible()
        for number in range(rounds):
            wait_for_calm(calm_s)
            own_folder = folder / f"{prefix}heir-{number}"
            own_folder.mkdir(parents=True)
            heir = StockflowRun(where, prefix, {}, own_folder)
            try:
                heir.start()
                wait_for(lambda: len(taken_over(heir.log_file)) == partitions // 2, "the second process has its part")  # noqa: B023
                mine = taken_over(heir.log_file)
                one = {STOCKFLOW: restored(heir.log_file), BARE: _bare_process(where, prefix + STOCK_STATE.name, mine)}
                heir.stop()
            finally:
                heir.close()
            if one[STOCKFLOW]["keys"] < one[BARE]["keys"]:
                raise WrongResult(f"{one[STOCKFLOW]['keys']} balances taken over, {one[BARE]['keys']} are there")
            console.print(
                f"takeover round {number + 1}: {len(mine)} partitions, {one[BARE]['keys']:,.0f} balances: bare "
                f"{one[BARE]['seconds']:.2f} s, stockflow {one[STOCKFLOW]['seconds']:.2f} s from the assignment"
            )
            found.append(one)
            wait_for(lambda: owner.live_partitions == partitions, "the owner has all again")
        owner.stop()
    finally:
        owner.close()
    drop_topics(where, prefix)
    return found


def _restart(where: Servers, prefix: str, folder: Path, number: int) -> dict[str, float]:
    program = StockflowRun(where, prefix, {}, folder)
    program.log_file.unlink()
    begin = time.monotonic()
    try:
        program.start()
        ready_s = time.monotonic() - begin
        program.stop()
    finally:
        program.close()
    return {**restored(program.log_file), "ready_s": ready_s}


def main() -> int:
    """Measure and show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--balances", type=int, default=1_000_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--takeover", action="store_true", help="beside a running owner, instead of after a stop")
    options.add_argument("--bare", metavar="TOPIC", help="run the bare loop over this topic in this process")
    options.add_argument("--of", metavar="PARTITIONS", default="", help="of the bare loop, with commas")
    add_place(options)
    chosen = options.parse_args()
    if chosen.bare:
        sys.stdout.write(json.dumps(bare(chosen.bootstrap, chosen.bare, [int(one) for one in chosen.of.split(",")])))
        return 0
    console = Console()
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(where.description)
        run = measure_takeovers if chosen.takeover else measure
        rounds = run(where, chosen.balances, chosen.partitions, chosen.rounds, chosen.folder, chosen.calm, console)
    seconds = [{name: one["seconds"] for name, one in each.items()} for each in rounds]
    found = figures.ratio(seconds, STOCKFLOW, BARE)
    console.print(f"{found['value']:.2f} times the bare loop ({found['low']:.2f} - {found['high']:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
