"""Brokers for faults: one that pipelines reach through proxies only, and three that form a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stockflow.embedded import KafkaBroker, ServerUnavailable
from stockflow.embedded.kafka import new_cluster_id
from stockflow.embedded.process import LOOPBACK, free_port, wait_until
from tests.chaos.faults.network import Proxy
from tests.services import BROKER_START_TIMEOUT_S

NODES = 3
NODE_HEAP_MB = 384
SETTLED_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 10.0
_INTERNAL_TOPICS = {"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"}


class LinkedBroker(KafkaBroker):
    """A broker with further listeners, each advertised as the proxy in front of it.

    A client that starts at `links[n].port` is sent to that proxy again for everything it asks; one that starts at
    `bootstrap` meets none.
    """

    def __init__(self, cache: Path, links: int, **options: Any) -> None:
        """As for KafkaBroker; `links` is the number of proxies."""
        super().__init__(cache, **options)
        self.start_timeout_s = BROKER_START_TIMEOUT_S
        inside = [free_port() for _ in range(links)]
        self.links = [Proxy(port) for port in inside]
        listeners, advertised = self._properties["listeners"], self._properties["advertised.listeners"]
        protocols = self._properties["listener.security.protocol.map"]
        for number, (port, link) in enumerate(zip(inside, self.links, strict=True)):
            listeners += f",LINK{number}://{LOOPBACK}:{port}"
            advertised += f",LINK{number}://{LOOPBACK}:{link.port}"
            protocols += f",LINK{number}:PLAINTEXT"
        self._properties |= {
            "listeners": listeners,
            "advertised.listeners": advertised,
            "listener.security.protocol.map": protocols,
        }

    def link(self, number: int) -> str:
        """Where a client starts that shall go through a proxy."""
        return f"{LOOPBACK}:{self.links[number].port}"

    def close(self) -> None:
        """Stop the broker and its proxies for good."""
        super().close()
        for link in self.links:
            link.close()


class Node(KafkaBroker):
    """One of several: broker and controller, with a number and a place in the quorum."""

    def __init__(self, cache: Path, number: int, ports: Sequence[int], cluster_id: str, **options: Any) -> None:
        """As for KafkaBroker; `ports` are those of all controllers, in the order of their numbers from 1 on."""
        super().__init__(cache, heap_mb=NODE_HEAP_MB, **options)
        self.start_timeout_s = BROKER_START_TIMEOUT_S
        self.number = number
        self._cluster_id = cluster_id
        controller = ports[number - 1]
        voters = ",".join(f"{voter}@{LOOPBACK}:{port}" for voter, port in enumerate(ports, 1))
        self._properties |= {
            "node.id": str(number),
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{controller}",
            "controller.quorum.voters": voters,
            "default.replication.factor": str(NODES),
            "min.insync.replicas": str(NODES - 1),
            **{f"{topic}.replication.factor": str(NODES) for topic in _INTERNAL_TOPICS},
            "transaction.state.log.min.isr": str(NODES - 1),
            "share.coordinator.state.topic.min.isr": str(NODES - 1),
            # A node that comes back gets its partitions again soon: the default looks each five minutes.
            "leader.imbalance.check.interval.seconds": "2",
            "leader.imbalance.per.broker.percentage": "0",
        }


class Cluster:
    """Three nodes; every topic has a replica on each, and a write needs two of them."""

    def __init__(self, cache: Path, **options: Any) -> None:
        """Nothing is started yet.

        Raises:
            ServerUnavailable: Java or Maven is missing.
        """
        ports = [free_port() for _ in range(NODES)]
        cluster_id = new_cluster_id()
        self.nodes = [Node(cache, number, ports, cluster_id, **options) for number in range(1, NODES + 1)]

    @property
    def bootstrap(self) -> str:
        """Addresses of all nodes."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def description(self) -> str:
        """What it is, for people."""
        return f"{NODES} x {self.nodes[0].description}"

    def __enter__(self) -> Cluster:
        """Start all at once: none answers before there is a majority."""
        try:
            with ThreadPoolExecutor(NODES) as pool:
                list(pool.map(KafkaBroker.start, self.nodes))
            self._eventually(lambda: len(self._metadata().brokers) == NODES, "all nodes are registered")
        except (ServerUnavailable, AssertionError):
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all at once: the last two would wait for each other in vain."""
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(KafkaBroker.kill, self.nodes))
        for node in self.nodes:
            node.close()

    def led_by(self, node: Node, prefix: str) -> int:
        """How many partitions of topics with this prefix a node leads."""
        return sum(
            partition.leader == node.number
            for name, topic in self._metadata().topics.items()
            if name.startswith(prefix)
            for partition in topic.partitions.values()
        )

    def wait_until_in_sync(self) -> None:
        """Wait until every replica is in sync, so that the next node may go."""

        def in_sync() -> bool:
            topics = self._metadata().topics.values()
            return all(len(p.isrs) == NODES for topic in topics for p in topic.partitions.values())

        self._eventually(in_sync, "all replicas are in sync")

    def _admin(self) -> AdminClient:
        """A new client; it has to live until its answers are there."""
        alive = ",".join(node.bootstrap for node in self.nodes if node.pid is not None)
        return AdminClient({"bootstrap.servers": alive, "log_level": 0})

    def _metadata(self) -> Any:
        admin = self._admin()
        return admin.list_topics(timeout=REQUEST_TIMEOUT_S)

    def _eventually(self, condition: Callable[[], bool], text: str) -> None:
        def holds() -> bool:
            try:
                return condition()
            except KafkaException:
                return False  # An election is under way.

        assert wait_until(holds, SETTLED_TIMEOUT_S), f"not within {SETTLED_TIMEOUT_S:.0f} s: {text}"
