"""The workload is what its sums say, the ledger arrives at them, and a short run of each measurement works."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import floor, hot_path, memory, throughput
from benchmarks.workload import Options, make
from schemas.events import decode
from schemas.topics import KEYED_INPUTS, partition_of
from sources import kafka
from stock.events import StockFact
from stock.ledger import Ledger
from stock.policies import Policies
from stockflow.embedded import RedisServer
from tests import services

NOW_US = 1_790_000_000_000_000
SMALL = Options(events=2_000, balances=100, partitions=3)


def test_the_ledger_arrives_at_the_sums_of_the_workload() -> None:
    """Every event is valid and in its partition, and all of them together give the expected sums."""
    workload = make(SMALL, NOW_US)
    ledger = Ledger(Policies())
    topics = {topic.name: number for number, topic in enumerate(KEYED_INPUTS)}
    offset = 0
    for batches in (workload.openings, workload.events):
        for (topic, partition), messages in batches.items():
            for message in messages:
                event = decode(topics[topic], message["value"], NOW_US)
                assert isinstance(event, StockFact)
                assert partition == partition_of(event.sku, SMALL.partitions)
                assert message["key"] == event.sku.encode()
                assert ledger.apply(event, topics[topic], offset, NOW_US) == 0
                offset += 1
    keys = ledger.keys()
    assert len(keys) == workload.expected.keys == 100
    assert sum(ledger.balance(key).on_hand for key in keys) == workload.expected.on_hand
    assert sum(ledger.commitments.units(key) for key in keys) == workload.expected.committed
    assert 190 <= workload.event_bytes <= 220


def test_the_conflating_floor_reads_as_much_at_once() -> None:
    """Else it would conflate less than stockflow, and look slower than it is."""
    assert floor.CONFLATED_MESSAGES == kafka.BACKLOG_MESSAGES
    assert floor.CONFLATED_FETCH_BYTES == kafka.FETCH_PARTITION_BYTES


def test_a_seed_gives_the_same_events() -> None:
    """Two workloads of one seed and time are equal, of another seed not; ordered or not changes no event."""
    one, same, other = (make(Options(500, 100, 3, seed), NOW_US) for seed in (1, 1, 2))
    ordered = make(Options(500, 100, 3, 1), NOW_US, ordered=True)
    assert one.events == same.events != other.events
    assert sorted(value for *_, value in ordered.sequence) == sorted(
        message["value"] for messages in one.events.values() for message in messages
    )


def test_the_memory_of_a_case_is_measured_in_a_process_of_its_own() -> None:
    """A packed balance takes more than its bytes and less than a kilobyte."""
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from the proc file system, which only Linux has")
    found = memory.in_own_process("idle", 20_000, 0, 3)
    assert 100 < found["bytes"] < 1_000


def test_the_hot_path_sends_a_record_for_every_key() -> None:
    """The loop over lists publishes each opened balance, and every stage of it takes time."""
    loop = hot_path.Loop(SMALL, 0.25)
    assert loop.run(make(SMALL, hot_path.START_US).openings, 50_000, spread=3) == 100
    assert loop.lists.counts["availability"] == 100
    assert all(seconds > 0 for seconds in loop.spent.values())


def test_a_short_throughput_run_checks_every_program(
    kafka: services.Kafka, private_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Both floors and stockflow end with the sums of the workload, on the topic and in Redis."""
    arguments = ["--events", "3000", "--balances", "200", "--partitions", "3", "--rounds", "1"]
    arguments += ["--folder", str(tmp_path), "--bootstrap", kafka.bootstrap]
    arguments += ["--redis-url", private_redis().url]
    options: argparse.Namespace = throughput.parser().parse_args(arguments)
    report = throughput.measure(options, Console(quiet=True))
    assert [result["program"] for result in report["results"]] == ["floor", "conflating floor", "stockflow"]  # type: ignore[attr-defined]
    assert all(result["events"] == 3_000 for result in report["results"])  # type: ignore[attr-defined]
    json.dumps(report)
