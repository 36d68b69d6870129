"""What a load needs: processes, partitions, memory, Redis primaries, broker traffic, from measured costs per unit.

No server runs. The costs are options whose defaults were measured on two shared cores (`SCALING.md` says how); measure
your own and give them here. The number of processes is the largest of three: by CPU, by memory, and by the time that
one process may take to read its share of the state back.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Load:
    """What there is: events per second at the peak, balances, and how uneven (`balance.py`), as multiples of a mean."""

    events_per_s: float = 150_000
    balances: float = 500e6
    busiest_process: float = 1.3
    fullest_partition: float = 1.1
    best_seller: float = 0.005
    records_per_event: float = 1.0
    networks_per_event: float = 1.0
    states_per_event: float = 1.0


@dataclass(frozen=True)
class Costs:
    """What one unit costs: CPU in microseconds, sizes in bytes (topics: newest record with its key, uncompressed).

    `redis_write_cpu_us` is assumed; all others were measured.
    """

    event_cpu_us: float = 40.0
    balance_bytes: float = 311.0
    process_bytes: float = 170e6
    restore_per_s: float = 110_000.0
    broker_event_cpu_us: float = 30.0
    redis_balance_bytes: float = 853.0
    redis_write_cpu_us: float = 6.0
    event_bytes: float = 250.0
    state_bytes: float = 166.0
    availability_bytes: float = 730.0
    network_bytes: float = 530.0


@dataclass(frozen=True)
class Limits:
    """What one may use: shares of a core, bytes of memory, seconds of a restore, copies of each record."""

    process_cores: float = 0.5
    process_memory: float = 4e9
    restore_s: float = 60.0
    broker_cores: float = 4.0
    redis_cores: float = 0.5
    redis_memory: float = 25e9
    replication: float = 3.0
    processes_margin: float = 4.0


@dataclass(frozen=True)
class Plan:
    """What is needed. Bytes and shares are of the busiest or fullest one."""

    by_cpu: int
    by_memory: int
    by_restore: int
    processes: int
    partitions: int
    process_memory: float
    hottest_partition_cores: float
    brokers: int
    broker_in_bytes_s: float
    topics_bytes: float
    redis_by_memory: int
    redis_by_cpu: int


def plan(load: Load, costs: Costs, limits: Limits) -> Plan:
    """The arithmetic.

    Raises:
        ValueError: one process may not even hold itself.
    """
    room = limits.process_memory - costs.process_bytes
    if room <= 0:
        raise ValueError("a process's memory is not more than what it takes without balances: give it more")
    cpu = load.events_per_s * costs.event_cpu_us / 1e6
    by_cpu = math.ceil(cpu * load.busiest_process / limits.process_cores)
    by_memory = math.ceil(load.balances * costs.balance_bytes * load.fullest_partition / room)
    by_restore = math.ceil(load.balances * load.fullest_partition / (costs.restore_per_s * limits.restore_s))
    processes = max(by_cpu, by_memory, by_restore, 1)
    # Ranges of several partitions come out more even, and leave room to add processes later.
    partitions = 2 ** math.ceil(math.log2(processes * limits.processes_margin))
    in_flight = (
        costs.event_bytes
        + load.records_per_event * costs.availability_bytes
        + load.networks_per_event * costs.network_bytes
        + load.states_per_event * costs.state_bytes
    )
    writes = load.events_per_s * (load.records_per_event + load.networks_per_event)
    broker_cpu = load.events_per_s * costs.broker_event_cpu_us * limits.replication / 1e6
    return Plan(
        by_cpu,
        by_memory,
        by_restore,
        processes,
        partitions,
        costs.process_bytes + load.balances / processes * load.fullest_partition * costs.balance_bytes,
        cpu * (load.best_seller + 1 / partitions),
        max(math.ceil(limits.replication), math.ceil(broker_cpu / limits.broker_cores)),
        load.events_per_s * in_flight * limits.replication,
        load.balances * (costs.state_bytes + costs.availability_bytes) * limits.replication,
        math.ceil(load.balances * costs.redis_balance_bytes / limits.redis_memory),
        math.ceil(writes * costs.redis_write_cpu_us / 1e6 / limits.redis_cores),
    )


def show(found: Plan, console: Console) -> None:
    """The plan as a table."""
    table = Table(title="What the load needs", show_header=False)
    rows = (
        ("processes", f"{found.processes} (CPU {found.by_cpu}, memory {found.by_memory}, restore {found.by_restore})"),
        ("partitions of each topic", f"{found.partitions:,}"),
        ("memory of the fullest process", f"{found.process_memory / 1e9:.1f} GB"),
        ("core that the hottest partition needs", f"{found.hottest_partition_cores:.2f}"),
        ("brokers by CPU", str(found.brokers)),
        ("written to all brokers", f"{found.broker_in_bytes_s / 1e6:,.0f} MB/s"),
        ("compacted state and availability, all copies", f"{found.topics_bytes / 1e12:.2f} TB"),
        ("Redis primaries", f"{max(found.redis_by_memory, found.redis_by_cpu)} (memory {found.redis_by_memory}, "
                            f"CPU {found.redis_by_cpu})"),
    )  # fmt: skip
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if found.hottest_partition_cores > 1:
        console.print(
            "[yellow]One SKU alone is more than a core's work: no number of partitions helps. What does: a longer "
            "STOCKFLOW_ROUTINE_INTERVAL_MS, or fewer events of it (sums per till and minute).[/yellow]"
        )


def main() -> int:
    """Show the plan of the options."""
    options = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for kind in (Load, Costs, Limits):
        group = options.add_argument_group(kind.__name__.lower(), kind.__doc__)
        for one in fields(kind):
            group.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default, help=" ")
    chosen = vars(options.parse_args())
    load, costs, limits = (kind(**{f.name: chosen[f.name] for f in fields(kind)}) for kind in (Load, Costs, Limits))
    console = Console()
    try:
        show(plan(load, costs, limits), console)
    except ValueError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
