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
from tests.chaos.faults.conftest import HEARTBEAT_MS, LEASE, LONG_LEASE, LONG_SESSIONS, SESSION_MS
from tests.chaos.faults.disk import BrokerOnSmallDisk, SmallDisk
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Stage

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(900)]

PARTITIONS = 6


@pytest.mark.long
def test_a_broker_that_restarts_or_is_killed_costs_no_event_and_ends_no_process(
    private_kafka: Callable[..., KafkaBroker], stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """Leases longer than the outage: the broker restarts in good order, then is killed; all processes live on."""
    broker = private_kafka(**LONG_SESSIONS)
    on = stage(PARTITIONS, bootstrap=broker.bootstrap, **LONG_LEASE)
    for _ in range(3):
        on.pipeline().launch()
    on.wait_for_owners(2, 2, 2)
    seen = watch(on, seed=401).start()
    for name, stop in (("the only broker restarts (SIGTERM)", broker.stop), ("the only broker is killed", broker.kill)):
        with seen.fault(name) as fault:
            stop()
            broker.start()
            fault.healed()
    seen.judge()
    assert [len(pipeline.logged("starting")) for pipeline in on.pipelines] == [1, 1, 1]
    old = on.read(AVAILABILITY)[0]
    on.append(AVAILABILITY, old)
    on.eventually(lambda: on.last(AVAILABILITY, old) != old.value, "a stranger's record is still noticed and answered")
    seen.judge(late_records=True)


@pytest.mark.long
def test_a_broker_that_is_away_beyond_the_lease_costs_no_event(
    private_kafka: Callable[..., KafkaBroker], stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """Every process ends with its lease; a supervisor starts them again, and they wait for the session of the old."""
    broker = private_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=SESSION_MS)
    on = stage(PARTITIONS, bootstrap=broker.bootstrap, **LEASE)
    for _ in range(3):
        on.pipeline().launch().is_supervised = True
    on.wait_for_owners(2, 2, 2)
    seen = watch(on, seed=404).start()
    with seen.fault("the only broker is away beyond the lease") as fault:
        broker.kill()
        on.eventually(lambda: not any(one.is_ready for one in on.pipelines), "all have ended")
        broker.start()
        fault.healed()
    seen.judge(late_records=True)


@pytest.mark.long
def test_leaders_that_move_cost_seconds_and_end_no_process(
    cluster: Cluster, stage: Callable[..., Stage], watch: Callable[..., Watch]
) -> None:
    """Each of three brokers, so also the controller, goes, comes back and gets its partitions again."""
    on = stage(PARTITIONS, bootstrap=cluster.bootstrap, **LONG_LEASE)
    pipelines = [on.pipeline().launch(), on.pipeline().launch()]
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=402, per_second=10 * PARTITIONS).start()  # Three brokers have enough to do.
    for node, name, stop in zip(
        cluster.nodes,
        ("first of 3 brokers killed", "second of 3 stopped (SIGTERM)", "third of 3 killed"),
        (KafkaBroker.kill, KafkaBroker.stop, KafkaBroker.kill),
        strict=True,
    ):
        cluster.wait_until_in_sync()
        assert cluster.led_by(node, on.prefix) > 0
        with seen.fault(name):
            stop(node)
            on.eventually(lambda node=node: cluster.led_by(node, on.prefix) == 0, "others lead")
        with seen.fault("it comes back and leads again"):
            node.start()
            cluster.wait_until_in_sync()
            on.eventually(lambda node=node: cluster.led_by(node, on.prefix) > 0, "it leads again")
    seen.judge()
    assert [len(pipeline.logged("starting")) for pipeline in pipelines] == [1, 1]


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[tuple[BrokerOnSmallDisk, SmallDisk]]:
    """A broker on a disk that can be filled."""
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk(tmp_path / "small-disk"))
            broker = BrokerOnSmallDisk(services.CACHE, disk, **LONG_SESSIONS)
            stack.callback(broker.close)
            broker.start()
        except ServerUnavailable as error:
            services.missing(error)
        yield broker, disk


def test_a_broker_whose_disk_is_full_loses_nothing_that_counts(
    small_broker: tuple[BrokerOnSmallDisk, SmallDisk], stage: Callable[..., Stage], watch: Callable[..., Watch]
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
    seen.judge(late_records=True)
