"""Kafka and Redis that stop, restart, forget and hang: the flow goes on, and in the end all is equal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from schemas.topics import AVAILABILITY
from stockflow.embedded import KafkaBroker, RedisServer
from tests.e2e.harness import Stage
from tests.e2e.load import SKUS_PER_PARTITION, Sending, stories
from tests.e2e.verdict import settle

GOES_ON_S = 15.0  # Without Redis a hundred records come in about two seconds; waiting for it would cost far more.

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_kafka_output_goes_on_while_redis_is_down_wiped_or_slow(
    stage: Callable[..., Stage],
    sending: Callable[[Stage], Sending],
    private_redis: Callable[..., RedisServer],
) -> None:
    """Redis stopped and back empty, wiped under way, and hanging: none holds up the topic, each is made good."""
    server = private_redis()
    on = stage(redis_url=server.url)
    load = sending(on)
    pipeline = on.pipeline().start()
    load.start(stories(seed=21, partitions=on.partitions), per_second=200)
    on.wait_for_records(50)

    server.kill()
    on.wait_for_records(100, GOES_ON_S)
    on.eventually(lambda: pipeline.metric("stockflow_redis_connected") == 0, "the outage shows in the metrics")
    assert pipeline.is_ready
    server.start()
    on.eventually(lambda: view_size(server) > 0, "the view comes back after a restart without data")
    on.eventually(lambda: pipeline.metric("stockflow_redis_connected") == 1, "the return shows in the metrics")

    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    on.wait_for_records(50)

    server.pause()
    on.wait_for_records(100, GOES_ON_S)
    assert pipeline.is_ready
    server.resume()
    settle(on, load)
    assert view_size(server) == SKUS_PER_PARTITION * on.partitions


def test_a_wiped_view_is_complete_again_without_any_new_event(
    stage: Callable[..., Stage],
    sending: Callable[[Stage], Sending],
    private_redis: Callable[..., RedisServer],
) -> None:
    """FLUSHALL at rest: what was published long ago is in Redis again, though nothing happens in the shops."""
    server = private_redis()
    on = stage(redis_url=server.url)
    load = sending(on)
    on.pipeline().start()
    load.start(stories(seed=22, partitions=on.partitions), per_second=300)
    on.wait_for_records(100)
    settle(on, load)
    before = view_size(server)
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    settle(on, load)
    assert view_size(server) == before


def test_a_broker_restart_in_mid_stream_costs_no_event(
    stage: Callable[..., Stage],
    sending: Callable[[Stage], Sending],
    private_kafka: Callable[..., KafkaBroker],
) -> None:
    """The broker restarts in good order, then is killed and comes back; a supervisor restarts what ends."""
    broker = private_kafka(heartbeat_ms=1_000, session_ms=12_000)
    on = stage(bootstrap=broker.bootstrap, LEASE_MS="10000")
    load = sending(on)
    pipeline = on.pipeline().start()
    pipeline.is_supervised = True
    load.start(stories(seed=23, partitions=on.partitions), per_second=100)
    on.wait_for_records(30)
    for stop in (broker.stop, broker.kill):
        stop()
        broker.start()
        on.eventually(lambda: pipeline.is_ready, "it is ready, or was restarted and is ready")
        on.wait_for_records(30)
    settle(on, load)
    old = on.read(AVAILABILITY)[0]
    on.append(AVAILABILITY, old)
    on.eventually(lambda: on.last(AVAILABILITY, old) != old.value, "a stranger's record is still noticed and answered")
    settle(on, load, late_records=True)


def view_size(server: RedisServer) -> int:
    """How many SKUs the view shows."""
    with redis.Redis.from_url(server.url) as client:
        return sum(1 for _ in client.scan_iter(match="availability:*"))
