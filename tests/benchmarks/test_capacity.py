"""The capacity plan: what decides the number of processes, and how it grows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.capacity import Costs, Limits, Load, plan
from benchmarks.scaling import NoQuota, quota

LOAD = Load(
    events_per_s=100_000, balances=10e6, busiest_process=1, fullest_partition=1, best_seller=0.1, states_per_event=1
)
COSTS = Costs(event_cpu_us=50, balance_bytes=300, process_bytes=1e9, restore_per_s=100_000, redis_balance_bytes=1_000)
LIMITS = Limits(process_cores=0.5, process_memory=4e9, restore_s=100, redis_memory=5e9, processes_margin=4)


def test_the_largest_need_decides() -> None:
    """5 cores at half a core each are 10 processes; the memory would take 1, the restore 1."""
    found = plan(LOAD, COSTS, LIMITS)
    assert (found.by_cpu, found.by_memory, found.by_restore, found.processes) == (10, 1, 1, 10)
    many = plan(replace(LOAD, balances=1e9), COSTS, LIMITS)
    assert (many.by_cpu, many.by_memory, many.by_restore, many.processes) == (10, 100, 100, 100)


def test_partitions_are_a_power_of_two_with_the_margin() -> None:
    """10 processes of at least 4 partitions each: 64."""
    assert plan(LOAD, COSTS, LIMITS).partitions == 64


def test_the_best_seller_is_not_divided() -> None:
    """A tenth of 5 cores, whatever number of partitions there is, and its partition's share of the others."""
    assert plan(LOAD, COSTS, LIMITS).hottest_partition_cores == pytest.approx(5 * (0.1 + 1 / 64))


def test_memory_is_that_of_the_fullest_process() -> None:
    """A million balances each, half as many again on the fullest."""
    found = plan(replace(LOAD, fullest_partition=1.5), COSTS, LIMITS)
    assert found.process_memory == pytest.approx(1e9 + 1.5e6 * 300)


def test_redis_primaries_hold_everything() -> None:
    """10 GB in primaries of 5 GB."""
    assert plan(LOAD, COSTS, LIMITS).redis_by_memory == 2


def test_a_process_too_small_for_itself_is_refused() -> None:
    """Instead of a negative number of processes."""
    with pytest.raises(ValueError, match="give it more"):
        plan(LOAD, COSTS, replace(LIMITS, process_memory=0.5e9))


def test_no_control_groups_are_said_with_what_helps(tmp_path: Path) -> None:
    """A root without the controller, as in a container that hides it."""
    with pytest.raises(NoQuota, match="Run as root"), quota("group", 0.5, tmp_path / "absent"):
        pass


def test_a_quota_is_written_in_the_unified_hierarchy(tmp_path: Path) -> None:
    """A fifth of a core, in microseconds per period; a group is left as the kernel wants it: without files of ours."""
    (tmp_path / "cgroup.controllers").write_text("cpu")
    limit = tmp_path / "group" / "cpu.max"
    with quota("group", 0.2, tmp_path) as members:
        assert members == tmp_path / "group" / "cgroup.procs"
        assert limit.read_text() == "4000 20000"
        limit.unlink()  # The kernel's own files go with the directory.
    assert not limit.parent.exists()
