"""Whether several processes do what one does, times their number: one group, each process on a fraction of a core.

Processes of one machine would compete for its cores, so each gets a CPU quota (a control group of Linux, which needs
root) that is small enough for all of them together with broker and Redis. For each number of processes the events wait
in the log until the partitions are shared out evenly and live; then all become readable at once. The time ends when
every event is committed and Redis is up to date, and counts only if topic and Redis hold the right sums.

The last lines are what a capacity plan needs (`capacity.py`): bytes per balance in Redis and on the topics.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.rig import (
    Loader,
    Servers,
    StockflowRun,
    add_place,
    add_shape,
    check_redis,
    check_topic,
    cpu_of,
    drop_topics,
    empty_redis,
    make_topics,
    read_all,
    resident_of,
    servers,
    wait_for,
    wait_for_calm,
)
from benchmarks.workload import Options, Workload, make
from schemas.topics import AVAILABILITY, NETWORK_AVAILABILITY, STOCK_STATE

PROCESSES = (1, 2, 4)
CORES = 0.2  # Of each process: four of them leave more than half of two cores to the servers.
PERIOD_US = 20_000  # Short, so that a process is not stopped for long at once.
SHARED_S = 60.0


class NoQuota(Exception):
    """This machine gives no CPU quotas; the text says why and what helps."""


@dataclass(frozen=True)
class Scaled:
    """One turn. `cpu_us` is of all processes per event, `quota_used` the share of the time they were allowed.

    `resident_mb` is of the largest process; `records` are on the availability topic, without those of the openings.
    """

    processes: int
    events: int
    seconds: float
    per_second: float
    cpu_us: float
    servers_cpu_us: float
    quota_used: float
    resident_mb: float
    partitions: list[int]
    records: int
    record_bytes: int
    state_records: int


@dataclass(frozen=True)
class Sizes:
    """Bytes per balance: in Redis (both views), and of the newest record of each topic with its key."""

    redis: float
    state: float
    availability: float
    network: float


@contextmanager
def quota(name: str, cores: float, root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """A control group whose members together get so many cores; a process joins by writing its id into the file.

    Raises:
        NoQuota: no control groups, or no right to make one.
    """
    unified = (root / "cgroup.controllers").exists()
    group = (root if unified else root / "cpu") / name
    try:
        group.mkdir()
    except OSError as error:
        raise NoQuota(
            f"cannot make a control group: {error}. Run as root on Linux, outside of a container that hides {root}"
        ) from error
    try:
        try:
            if unified:
                (group / "cpu.max").write_text(f"{round(cores * PERIOD_US)} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(round(cores * PERIOD_US)))
        except OSError as error:
            raise NoQuota(f"{group} has no CPU quota: {error}. Enable the cpu controller for it") from error
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def measure(
    where: Servers,
    processes: int,
    workload: Workload,
    shape: Options,
    cores: float | None,
    prefix: str,
    folder: Path,
    calm_s: float,
    settings: Mapping[str, str] | None = None,
) -> Scaled:
    """One turn of one group of so many processes on the fresh topics behind a prefix.

    Args:
        cores: what each process may use of them; None: all that there is.
    """
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    with ExitStack() as stack:
        members = []
        for number in range(processes):
            logs = folder / f"process-{number}"
            logs.mkdir(parents=True, exist_ok=True)
            quotas = None if cores is None else stack.enter_context(quota(f"{prefix}{number}", cores))
            member = StockflowRun(where, prefix, settings or {}, logs)
            stack.callback(member.close)
            member.start()
            members.append((member, quotas))
        even = [shape.partitions // processes + (n < shape.partitions % processes) for n in range(processes)]
        wait_for(
            lambda: sorted((member.live_partitions for member, _ in members), reverse=True) == even,
            f"{shape.partitions} partitions shared out among {processes} processes",
            SHARED_S,
        )
        first = members[0][0]
        first.wait_committed(dict(loader.positions))
        for member, _ in members:
            member.wait_visible()
        loader.hold_back(workload.events)
        wait_for_calm(calm_s)
        for member, quotas in members:
            if quotas is not None:
                quotas.write_text(str(member.pid))
        sent_before = [member.records_sent() for member, _ in members]
        used, servers_used = [cpu_of(member.pid) for member, _ in members], where.cpu_s()
        begin = loader.release()
        first.wait_committed(loader.positions)
        ends = [member.wait_visible() for member, _ in members]
        seconds = max(ends) - begin
        cpu = sum(cpu_of(member.pid) for member, _ in members) - sum(used)
        servers_cpu = where.cpu_s() - servers_used
        memory = max(resident_of(member.pid) for member, _ in members)
        sent = [member.records_sent() for member, _ in members]
        shares = [member.live_partitions for member, _ in members]
        for member, _ in members:
            member.stop()
    _, size = check_topic(where, prefix + AVAILABILITY.name, workload.expected)
    check_redis(where, workload.expected, hashes=True)
    records = {
        topic: sum(after[topic] - before[topic] for after, before in zip(sent, sent_before, strict=True))
        for topic in (AVAILABILITY.name, STOCK_STATE.name)
    }
    return Scaled(
        processes,
        shape.events,
        seconds,
        shape.events / seconds,
        cpu / shape.events * 1e6,
        servers_cpu / shape.events * 1e6,
        cpu / (seconds * cores * processes) if cores else 0.0,
        memory / 1e6,
        shares,
        records[AVAILABILITY.name],
        size,
        records[STOCK_STATE.name],
    )


def sizes(where: Servers, prefix: str, balances: int) -> Sizes:
    """What a turn has left behind, per balance."""
    with redis.Redis.from_url(where.redis_url) as client:
        with_all = int(client.info("memory")["used_memory"])
        client.execute_command("FLUSHDB", "SYNC")  # Otherwise the memory is given back later.
        without = int(client.info("memory")["used_memory"])
    per_balance = {}
    for topic in (STOCK_STATE.name, AVAILABILITY.name, NETWORK_AVAILABILITY.name):
        newest = {key: len(key) + len(value or b"") for key, value in read_all(where, prefix + topic)}
        per_balance[topic] = sum(newest.values()) / balances
    return Sizes((with_all - without) / balances, *per_balance.values())


def main() -> int:
    """Measure in turns, show, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(options, events=60_000, rounds=3)
    options.add_argument("--processes", type=int, action="append", help=f"numbers to compare; default: {PROCESSES}")
    options.add_argument("--cores", type=float, default=CORES, help="of each process; 0: all that there is")
    add_place(options)
    chosen = options.parse_args()
    console = Console()
    numbers = tuple(chosen.processes or PROCESSES)
    results: dict[int, list[Scaled]] = {number: [] for number in numbers}
    with servers(chosen.folder, chosen.bootstrap, chosen.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; each process gets {chosen.cores or 'all'} cores")
        for round_number in range(chosen.rounds):
            for number in numbers if round_number % 2 == 0 else numbers[::-1]:
                shape = Options(chosen.events, chosen.balances, chosen.partitions, chosen.seed + round_number)
                prefix = f"scaling-{os.getpid()}-{round_number}-{number}-"
                workload = make(shape, time.time_ns() // 1000)
                make_topics(where, prefix, shape.partitions)
                try:
                    found = measure(
                        where, number, workload, shape, chosen.cores or None, prefix, chosen.folder, chosen.calm
                    )
                except NoQuota as error:
                    console.print(f"[red]{error}[/red]", soft_wrap=True)
                    return 2
                results[number].append(found)
                console.print(
                    f"round {round_number + 1}: {number} processes ({found.partitions} partitions) "
                    f"{found.per_second:9,.0f} events/s, CPU us/event {found.cpu_us:.1f} (servers "
                    f"{found.servers_cpu_us:.1f}), quota used {found.quota_used:.0%}, {found.resident_mb:.0f} MB",
                    soft_wrap=True,
                )
                of_last = sizes(where, prefix, chosen.balances)
                drop_topics(where, prefix)
        description = where.description
    least = median(one.per_second for one in results[numbers[0]]) / numbers[0]
    table = Table(title=f"Processes of {chosen.cores or 'all'} cores each, median of rounds")
    for title in ("processes", "events/s", "of one, times their number", "CPU us/event (servers)", "quota used"):
        table.add_column(title, justify="right")
    for number, rounds in results.items():
        rate = median(one.per_second for one in rounds)
        table.add_row(
            str(number),
            f"{rate:,.0f}",
            f"{rate / (least * number):.0%}",
            f"{median(one.cpu_us for one in rounds):.1f} ({median(one.servers_cpu_us for one in rounds):.1f})",
            f"{median(one.quota_used for one in rounds):.0%}",
        )
    console.print(table)
    console.print(
        f"bytes per balance: Redis {of_last.redis:.0f}, state topic {of_last.state:.0f}, availability topic "
        f"{of_last.availability:.0f}, network topic {of_last.network:.0f}"
    )
    written = chosen.folder / f"scaling-{time.strftime('%Y%m%dT%H%M%S')}.json"
    plain = {str(number): [asdict(one) for one in rounds] for number, rounds in results.items()}
    report = {"servers": description, "cores": chosen.cores, "results": plain, "bytes_per_balance": asdict(of_last)}
    written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
