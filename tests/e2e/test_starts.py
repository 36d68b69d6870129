"""What `stockflow run` checks before it touches anything, and how it says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, not marked as exported
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from schemas.topics import AVAILABILITY, POS_SALES, STOCK_STATE, Topic
from stockflow.embedded import RedisServer
from stockflow.embedded.process import free_port, wait_until
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

START_TIMEOUT_S = 60.0


def outcome(folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a `stockflow run` that cannot start."""
    variables = [f"STOCKFLOW_{name}={value}" for name, value in environment.items()]
    command = ["/usr/bin/env", *variables, sys.executable, "-m", "stockflow", "run"]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_TIMEOUT_S
    )
    return done.returncode, done.stdout


def refused_start(on: Stage, folder: Path, **environment: str) -> str:
    """What a start on this stage says before it ends with exit code 1."""
    code, output = outcome(
        folder,
        {
            "BOOTSTRAP_SERVERS": on.bootstrap,
            "TOPIC_PREFIX": on.prefix,
            "REDIS_URL": on.redis_url or "",
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": "0",
            **environment,
        },
    )
    assert code == 1, output
    assert "Traceback" not in output
    return output


def alter(on: Stage, topic: Topic, setting: str, value: str) -> None:
    """Set a topic's setting and wait until the broker shows it."""
    admin, name = on.admin(), on.topic(topic.name)
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    asked = ConfigResource(ResourceType.TOPIC, name)
    on.eventually(
        lambda: admin.describe_configs([asked])[asked].result(10)[setting].value == value, f"{setting} is {value}"
    )


def test_missing_topics_are_named_with_the_command_that_makes_them(stage: Callable[..., Stage], tmp_path: Path) -> None:
    """A prefix without topics: exit code 1, each topic named, and what to run."""
    output = refused_start(stage(), tmp_path, TOPIC_PREFIX="nobody-made-these-")
    assert "nobody-made-these-availability.v1: missing; run `stockflow topics ensure`" in output


def test_a_wrong_cleanup_policy_is_refused(stage: Callable[..., Stage], tmp_path: Path) -> None:
    """An input that is compacted, or a view that is not, would lose facts."""
    on = stage()
    alter(on, POS_SALES, "cleanup.policy", "compact")
    alter(on, AVAILABILITY, "cleanup.policy", "delete")
    output = refused_start(on, tmp_path)
    assert f"{on.topic(POS_SALES.name)}: cleanup.policy is compact, not delete" in output
    assert f"{on.topic(AVAILABILITY.name)}: cleanup.policy is delete, not compact" in output


def test_a_state_topic_that_is_compacted_at_once_is_refused(stage: Callable[..., Stage], tmp_path: Path) -> None:
    """Without a compaction lag a new owner could miss what it must still see."""
    on = stage()
    alter(on, STOCK_STATE, "min.compaction.lag.ms", "0")
    output = refused_start(on, tmp_path)
    assert f"{on.topic(STOCK_STATE.name)}: min.compaction.lag.ms is 0" in output


def test_unequal_partition_counts_are_refused(stage: Callable[..., Stage], tmp_path: Path) -> None:
    """A SKU must have one partition number everywhere."""
    on = stage()
    name = on.topic(POS_SALES.name)
    admin = on.admin()
    admin.create_partitions([NewPartitions(name, on.partitions + 1)])[name].result(10)
    on.eventually(lambda: len(admin.list_topics(name).topics[name].partitions) == on.partitions + 1, "it has more")
    output = refused_start(on, tmp_path)
    assert "partition counts differ" in output
    assert f"{on.partitions + 1}: {name}" in output


def test_an_unreachable_broker_is_named(tmp_path: Path) -> None:
    """Nobody listens there: exit code 1 within seconds, with the address and what to check."""
    address = f"127.0.0.1:{free_port()}"
    code, output = outcome(tmp_path, {"BOOTSTRAP_SERVERS": address, "METRICS_PORT": "0"})
    assert code == 1, output
    assert address in output
    assert "STOCKFLOW_BOOTSTRAP_SERVERS" in output
    assert "Traceback" not in output


def test_a_stop_during_the_start_ends_it_in_good_order(tmp_path: Path) -> None:
    """SIGTERM while it waits for a broker: handled, as the first process of a container would not even see it else."""
    environment = {"STOCKFLOW_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}", "STOCKFLOW_METRICS_HOST": "127.0.0.1"}
    pipeline = Pipeline(tmp_path, environment).launch()
    assert wait_until(lambda: pipeline.logged("starting") != [], 30)
    pipeline.stop()
    assert (pipeline.exit_code, len(pipeline.logged("stopped"))) == (0, 1)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LEASE_MS", "soon", "STOCKFLOW_LEASE_MS='soon' is not a whole number"),
        ("REDIS_URL", "localhost:6379", "STOCKFLOW_REDIS_URL is not an address that begins with one of: redis"),
        ("KAFKA__ACKS", "1", "STOCKFLOW_KAFKA__ACKS"),
    ],
)
def test_wrong_settings_end_with_exit_code_two(tmp_path: Path, variable: str, value: str, said: str) -> None:
    """What cannot work is said by the variable's name, before anything is connected."""
    code, output = outcome(tmp_path, {variable: value})
    assert code == 2, output
    assert said in " ".join(output.split())
    assert "Traceback" not in output


def test_a_lost_input_stops_the_start_until_it_is_accepted(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending], tmp_path: Path
) -> None:
    """Facts that retention took before they were read: refused with what to do, and only then gone on."""
    on = stage(partitions=1)
    load = sending(on)
    pipeline = on.pipeline().start()
    load.start(stories(seed=41, partitions=1), per_second=200)
    on.wait_for_records(20)
    on.stop(pipeline)
    load.wait_for_more(100)
    load.stop()
    on.delete_before_the_end(POS_SALES)

    refused = on.pipeline()
    refused.may_end = True
    refused.launch()
    on.eventually(lambda: refused.exit_code is not None, "it ends")
    assert refused.exit_code == 1
    (fatal,) = refused.logged("fatal")
    assert on.topic(POS_SALES.name) in fatal["error"]
    assert "STOCKFLOW_ACCEPT_LOST_INPUT=true" in fatal["error"]

    accepted = on.pipeline(ACCEPT_LOST_INPUT="true").start()
    on.wait_until_committed()
    assert accepted.logged("input_lost_accepted")
    on.stop(accepted)


def test_without_redis_it_starts_with_a_warning_and_fills_it_later(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending], private_redis: Callable[..., RedisServer]
) -> None:
    """Redis is down at the start: events count and are published; once it is there the view is complete."""
    server = private_redis()
    server.stop()
    on = stage(redis_url=server.url)
    load = sending(on)
    pipeline = on.pipeline().start()
    load.start(stories(seed=42, partitions=on.partitions), per_second=200)
    on.wait_for_records(100)
    settle(on, load, with_redis=False)
    assert any(line["level"] == "warning" for line in pipeline.log_lines() if line["logger"] == "stockflow.redis")
    server.start()
    settle(on, load)
