"""Redis that is down, empty, hanging, full, read-only or an older copy: the topic goes on, the view is made good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from stockflow.embedded import RedisServer, ServerUnavailable
from tests import services
from tests.chaos.faults.conftest import LEASE
from tests.chaos.faults.network import Proxy
from tests.chaos.faults.watch import Watch
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import SKUS_PER_PARTITION, Sending, stories
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(900)]

OUTAGE_S = 3.0
SENTINEL_DOWN_MS = 1_000


def test_redis_down_wiped_hanging_full_or_read_only_never_holds_up_the_topic(
    stage: Callable[..., Stage], watch: Callable[..., Watch], private_redis: Callable[..., RedisServer]
) -> None:
    """Each outage of one Redis in turn: the topic flows, the outage shows in the metrics, the view is made good."""
    server, other = private_redis(), private_redis()
    on = stage(redis_url=server.url, **LEASE)
    pipelines = [on.pipeline().start(), on.pipeline().start()]
    seen = watch(on, seed=201).start()
    seen.view_may_fall = True
    with redis.Redis.from_url(server.url) as client:
        with seen.fault("Redis killed, back empty") as fault:
            server.kill()
            wait_for_outage(seen, pipelines)
            server.start()
            fault.healed()
        with seen.fault("Redis wiped (FLUSHALL)"):
            client.flushall()
            on.eventually(lambda: view_size(server) > 0, "the view comes back")
        seen.view_may_fall = False
        with seen.fault("Redis hangs (SIGSTOP)") as fault:
            server.pause()
            wait_for_outage(seen, pipelines)
            server.resume()
            fault.healed()
        with seen.fault("Redis full (OOM, noeviction)") as fault:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
            wait_for_outage(seen, pipelines, "OutOfMemoryError")
            client.config_set("maxmemory", 0)
            fault.healed()
        with seen.fault("Redis read-only (demoted)") as fault:
            copy_to(other, client, server)
            demote(client, other)
            wait_for_outage(seen, pipelines, "ReadOnlyError")
            client.execute_command("REPLICAOF", "NO", "ONE")
            fault.healed()
    outages = [fault for fault in seen.report[-5:] if fault.lasted > OUTAGE_S]
    assert len(outages) == 4
    assert [fault for fault in outages if fault.silence > OUTAGE_S] == [], "the topic waited for Redis"
    seen.judge()
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


def test_a_failover_to_an_older_replica_is_made_good(
    stage: Callable[..., Stage], watch: Callable[..., Watch], private_redis: Callable[..., RedisServer]
) -> None:
    """The address of the service moves to a replica that has missed seconds of writes: they are written again."""
    primary, replica = private_redis(), private_redis()
    with Proxy(primary.port) as replication, Proxy(primary.port) as address:
        on = stage(redis_url=url_of(address.port), **LEASE)
        on.pipeline().start()
        on.pipeline().start()
        seen = watch(on, seed=202).start()
        with redis.Redis.from_url(replica.url) as client:
            replicate(client, replication.port)
            with seen.fault("Redis fails over to an older replica") as fault:
                let_it_fall_behind(seen, replication)
                primary.kill()
                client.execute_command("REPLICAOF", "NO", "ONE")
                seen.view_may_fall = True
                address.redirect(replica.port)
                fault.healed()
        seen.judge()
        assert all(pipeline.logged("redis view lost records, reads them again") for pipeline in on.pipelines)


@pytest.mark.long
def test_sentinel_promotes_an_older_replica_and_it_is_made_good(
    stage: Callable[..., Stage],
    watch: Callable[..., Watch],
    private_redis: Callable[..., RedisServer],
    sentinel: Callable[[int], SentinelServer],
) -> None:
    """The primary dies; Sentinel promotes the replica that missed writes; all processes find it and write again."""
    primary, replica = private_redis(), private_redis()
    guard = sentinel(primary.port)
    with Proxy(primary.port) as replication, redis.Redis.from_url(replica.url) as client:
        on = stage(redis_url=primary.url, REDIS_URL=guard.service_url, **LEASE)
        replicate(client, primary.port)
        on.eventually(lambda: guard.replicas() == 1, "the sentinel knows the replica")
        on.pipeline().start()
        on.pipeline().start()
        seen = watch(on, seed=203).start()
        with seen.fault("Redis primary dies, Sentinel promotes an older replica") as fault:
            replicate(client, replication.port)
            let_it_fall_behind(seen, replication)
            primary.kill()
            seen.view_may_fall = True
            on.eventually(lambda: guard.primary() == replica.port, "the replica is promoted")
            on.redis_url = replica.url
            fault.healed()
        seen.judge()
        assert all(pipeline.logged("redis view lost records, reads them again") for pipeline in on.pipelines)


class SentinelServer(RedisServer):
    """A sentinel that watches one primary, called `shop`, and needs nobody's consent."""

    def __init__(self, watches: int) -> None:
        super().__init__()
        self._watches = watches

    @property
    def service_url(self) -> str:
        """Where pipelines ask for the primary."""
        return f"redis+sentinel://127.0.0.1:{self.port}/shop/0"

    def ask(self, *command: str) -> Any:
        """A sentinel's answer."""
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command("SENTINEL", *command)

    def replicas(self) -> int:
        """How many replicas it knows."""
        return len(self.ask("REPLICAS", "shop"))

    def primary(self) -> int:
        """Port of the present primary."""
        return int(self.ask("GET-MASTER-ADDR-BY-NAME", "shop")[1])

    def _command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {self._watches} 1\n"
            f"sentinel down-after-milliseconds shop {SENTINEL_DOWN_MS}\nsentinel failover-timeout shop 5000\n"
        )
        return [self._program, str(config), "--sentinel"]


@pytest.fixture
def sentinel() -> Iterator[Callable[[int], SentinelServer]]:
    """A function that starts a sentinel for the primary at a port."""
    with ExitStack() as stack:

        def start(watches: int) -> SentinelServer:
            try:
                return stack.enter_context(SentinelServer(watches))
            except ServerUnavailable as error:
                services.missing(error)

        yield start


def wait_for_outage(seen: Watch, pipelines: list[Pipeline], error: str = "") -> None:
    """Let an outage be noticed by all and last for a while; nobody is unready for it."""
    on = seen.stage
    on.eventually(
        lambda: all(one.metric("stockflow_redis_connected") == 0 for one in pipelines),
        "the outage shows in the metrics",
    )
    seen.wait(OUTAGE_S)
    assert all(one.is_ready for one in pipelines)
    if error:
        told = [line for one in pipelines for line in one.logged("redis view cannot write, keeps trying")]
        assert any(error in line["error"] for line in told), told


def copy_to(other: RedisServer, client: Any, server: RedisServer) -> None:
    """Make another server a copy that is its own primary, as after somebody promoted a replica."""
    with redis.Redis.from_url(other.url) as copy:
        replicate(copy, server.port)
        copy.execute_command("REPLICAOF", "NO", "ONE")


def demote(client: Any, other: RedisServer) -> None:
    """Make the server a replica of the other one: it refuses writes from now on."""
    client.execute_command("REPLICAOF", "127.0.0.1", other.port)


def replicate(client: Any, port: int) -> None:
    """Make a server a replica, and wait until it is in sync."""
    client.execute_command("REPLICAOF", "127.0.0.1", port)
    assert services.wait_until(lambda: client.info("replication")["master_link_status"] == "up", 20.0)


def let_it_fall_behind(seen: Watch, replication: Proxy) -> None:
    """Cut the replica off while the primary takes writes that readers see."""
    replication.blackhole()
    seen.wait(OUTAGE_S)
    replication.reset()


def view_size(server: RedisServer) -> int:
    """How many SKUs the view shows."""
    with redis.Redis.from_url(server.url) as client:
        return sum(1 for _ in client.scan_iter(match="availability:*"))


def url_of(port: int) -> str:
    """The address of a Redis on this machine."""
    return f"redis://127.0.0.1:{port}/0"
