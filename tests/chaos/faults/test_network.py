"""Networks that are slow, reset connections, lose answers or swallow everything, on the way to Kafka and to Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stockflow.embedded import RedisServer
from tests.chaos.faults.brokers import LinkedBroker
from tests.chaos.faults.conftest import LEASE
from tests.chaos.faults.network import Proxy
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Stage

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(900)]

PARTITIONS = 6
SHORT_S = 1.5  # Well within the lease of four seconds.
LONG_S = 12.0  # Beyond lease and session.
DELAY_S = 0.1


@pytest.mark.long
def test_a_bad_network_to_kafka_costs_time_and_no_event(
    stage: Callable[..., Stage], watch: Callable[..., Watch], linked_kafka: LinkedBroker
) -> None:
    """Two processes behind a proxy that delays, resets, leaves connections half-open, loses answers and hangs."""
    link = linked_kafka.links[0]
    on = stage(PARTITIONS, BOOTSTRAP_SERVERS=linked_kafka.link(0), **LEASE)
    pipelines = [on.pipeline().start(), on.pipeline().start()]
    on.wait_for_owners(3, 3)
    for pipeline in pipelines:
        pipeline.is_supervised = True
    seen = watch(on, seed=301).start()
    with seen.fault("network to Kafka: 100 ms each way") as fault:
        link.delay(DELAY_S)
        seen.wait(3.0)
        link.heal()
        fault.healed()
    with seen.fault("network to Kafka: 5 resets in 2.5 s"):
        for _ in range(5):
            link.reset()
            seen.wait(0.5)
    with seen.fault("network to Kafka: hangs 1.5 s, then flows on") as fault:
        link.blackhole()
        seen.wait(SHORT_S)
        link.heal()
        fault.healed()
    with seen.fault("network to Kafka: answers lost 1.5 s, then reset") as fault:
        link.lose_answers()
        seen.wait(SHORT_S)
        link.reset()
        link.heal()
        fault.healed()
    with seen.fault("network to Kafka: all connections half-open"):
        link.forget()
    seen.judge(late_records=True)


def test_a_process_cut_off_from_kafka_is_replaced_and_its_late_records_do_no_harm(
    stage: Callable[..., Stage], watch: Callable[..., Watch], linked_kafka: LinkedBroker
) -> None:
    """Cut off beyond lease and session it ends; what the network held of it arrives after the takeover, is answered."""
    link = linked_kafka.links[0]
    on = stage(PARTITIONS, **LEASE)
    lost, heir = on.pipeline(BOOTSTRAP_SERVERS=linked_kafka.link(0)).start(), on.pipeline().start()
    on.wait_for_owners(3, 3)
    lost.may_end = True
    seen = watch(on, seed=302).start()
    with seen.fault("one process cut off from Kafka 12 s") as fault:
        link.blackhole()
        seen.wait(LONG_S)
        on.eventually(lambda: lost.exit_code is not None, "the process cut off ends by itself")
        on.eventually(lambda: heir.owned == PARTITIONS, "the other process owns all")
        assert link.held_bytes > 0
        link.heal()
        fault.healed()
        on.eventually(lambda: link.held_bytes == 0, "what it had sent arrives")
    seen.judge(late_records=True)
    # Whether records were among what the network held is chance; tests/chaos/test_foreign_writes.py makes sure of it.
    assert lost.exit_code == 1


@pytest.mark.long
def test_a_bad_network_to_redis_costs_freshness_of_the_view_only(
    stage: Callable[..., Stage], watch: Callable[..., Watch], linked_redis: tuple[RedisServer, Proxy, str]
) -> None:
    """The same faults on the way to Redis: the topic flows on, no process ends, the view never goes back."""
    server, link, url = linked_redis
    on = stage(PARTITIONS, redis_url=server.url, REDIS_URL=url, **LEASE)
    on.pipeline().start()
    on.pipeline().start()
    on.wait_for_owners(3, 3)
    seen = watch(on, seed=303).start()
    with seen.fault("network to Redis: 100 ms each way") as fault:
        link.delay(DELAY_S)
        seen.wait(3.0)
        link.heal()
        fault.healed()
    with seen.fault("network to Redis: 5 resets in 2.5 s"):
        for _ in range(5):
            link.reset()
            seen.wait(0.5)
    with seen.fault("network to Redis: hangs 4 s") as fault:
        link.blackhole()
        seen.wait(4.0)
        link.heal()
        fault.healed()
    with seen.fault("network to Redis: answers lost 4 s, then reset") as fault:
        link.lose_answers()
        seen.wait(4.0)
        link.reset()
        link.heal()
        fault.healed()
    with seen.fault("network to Redis: all connections half-open"):
        link.forget()
    seen.judge()
