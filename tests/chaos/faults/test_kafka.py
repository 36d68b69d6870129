"""Brokers that are stopped, killed, lose the lead or have no room left, while events flow through several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from schemas.topics import AVAILABILITY
from stockflow.embedded import KafkaBroker, ServerUnavailable
from tests import services
from tests.chaos.faults.brokers import Cluster
from tests.chaos.faults.conftest import HEARTBEAT_MS, LONG_LEASE, LONG_SESSION_MS
from tests.chaos.faults.disk import BrokerOnSmallDisk, SmallDisk
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Stage

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PARTITIONS = 6


def test_a_broker_that_restarts_or_is_killed_costs_no_event(
    stage: Callable[..., Stage], watch: Callable[..., Watch], private_kafka: Callable[..., KafkaBroker]
) -> None:
    """Three processes with long sessions; the broker restarts in good order, then is killed and comes back."""
    broker = private_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=LONG_SESSION_MS)
    on = stage(PARTITIONS, bootstrap=broker.bootstrap, **LONG_LEASE)
    for pipeline in [on.pipeline().launch() for _ in range(3)]:
        pipeline.is_supervised = True
    on.wait_for_owners(2, 2, 2)
    seen = watch(on, seed=401).start()
    for name, stop in (("the only broker restarts (SIGTERM)", broker.stop), ("the only broker is killed", broker.kill)):
        with seen.fault(name) as fault:
            stop()
            broker.start()
            fault.healed()
            on.eventually(lambda: all(one.is_ready for one in on.pipelines), "all are ready, or restarted and ready")
    seen.judge(late_records=True)
    old = on.read(AVAILABILITY)[0]
    on.append(AVAILABILITY, old)
    on.eventually(lambda: on.last(AVAILABILITY, old) != old.value, "a stranger's record is still noticed and answered")
    seen.judge(late_records=True)


@pytest.mark.long
def test_leaders_that_move_cost_seconds_and_end_no_process(
    stage: Callable[..., Stage], watch: Callable[..., Watch], cluster: Cluster
) -> None:
    """Of three brokers one is killed, one stopped in good order, each comes back and gets its partitions again."""
    on = stage(PARTITIONS, bootstrap=cluster.bootstrap, **LONG_LEASE)
    pipelines = [on.pipeline().launch(), on.pipeline().launch()]
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=402).start()
    other, third = [node for node in cluster.nodes if node is not cluster.controller][:2]
    for name, node, stop in (
        ("one of 3 brokers killed", other, KafkaBroker.kill),
        ("one of 3 brokers stopped (SIGTERM)", third, KafkaBroker.stop),
        ("the controller of 3 brokers killed", cluster.controller, KafkaBroker.kill),
    ):
        cluster.wait_until_in_sync()
        with seen.fault(name):
            assert cluster.led_by(node, on.prefix) > 0
            stop(node)
            on.eventually(lambda node=node: cluster.led_by(node, on.prefix) == 0, "others lead")
        with seen.fault(f"{name}: back, leads again"):
            node.start()
            cluster.wait_until_in_sync()
            cluster.lead_as_preferred(on.prefix)
            on.eventually(lambda node=node: cluster.led_by(node, on.prefix) > 0, "it leads again")
    seen.judge()
    assert [len(pipeline.logged("starting")) for pipeline in pipelines] == [1, 1]


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[tuple[BrokerOnSmallDisk, SmallDisk]]:
    """A broker on a disk that can be filled."""
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk(tmp_path / "small-disk"))
            broker = BrokerOnSmallDisk(services.CACHE, disk, heartbeat_ms=HEARTBEAT_MS, session_ms=LONG_SESSION_MS)
            stack.callback(broker.close)
            broker.start()
        except ServerUnavailable as error:
            services.missing(error)
        yield broker, disk


def test_a_broker_whose_disk_is_full_loses_nothing_that_counts(
    stage: Callable[..., Stage], watch: Callable[..., Watch], small_broker: tuple[BrokerOnSmallDisk, SmallDisk]
) -> None:
    """No room left: the broker gives up; somebody makes room and starts it again, and all goes on, exactly."""
    broker, disk = small_broker
    on = stage(PARTITIONS, bootstrap=broker.bootstrap, **LONG_LEASE)
    for pipeline in [on.pipeline().launch(), on.pipeline().launch()]:
        pipeline.is_supervised = True
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=403).start()
    with seen.fault("the broker's disk is full") as fault:
        disk.fill()
        on.eventually(lambda: broker.pid is None, "the broker gives up")
        broker.kill()
        disk.free()
        broker.start()
        fault.healed()
        on.eventually(lambda: all(one.is_ready for one in on.pipelines), "all are ready, or restarted and ready")
    seen.judge(late_records=True)
