"""Random faults against the Redis view: whatever happened, once it ends the view is the topic."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from sinks import redis_view
from sinks.redis_view import RedisView
from sinks.view_store import Change, Marker, StoreUnavailable
from sinks.view_sync import Batch
from stockflow.embedded.process import wait_until
from tests.sinks.fake_redis_store import FakeRedisStore

PARTITION = 0
SEEDS = range(16)


class Server:
    """What several connections share: data, a replica that lags behind, and faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"server {seed}")
        self.lock = threading.Lock()
        self.data = FakeRedisStore()
        self.replica: tuple[dict[str, bytes], dict[int, Marker]] = ({}, {})
        self.incarnation = 0
        self.down = False
        self.failure_rate = self.random.choice([0.0, 0.02])

    def replicate(self) -> None:
        with self.lock:
            self.replica = dict(self.data.values), dict(self.data.markers)

    def fail_over(self) -> None:
        with self.lock:
            self.incarnation += 1
            self.data.values, self.data.markers = dict(self.replica[0]), dict(self.replica[1])

    def wipe(self) -> None:
        with self.lock:
            self.data.values.clear()
            self.data.markers.clear()


class Connection(FakeRedisStore):
    """A `ViewStore` whose calls may fail before, while or after they take effect."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.incarnation = -1

    def connect(self) -> None:
        self.incarnation = self.server.incarnation
        super().connect()

    def write(self, changes: Sequence[Change]) -> int:
        with self.server.lock:
            self._check()
            self.values, self.markers = self.server.data.values, self.server.data.markers
            refused = sum(super(Connection, self).write([change]) for change in changes)
            self._check()
            return refused

    def read_markers(self, partitions: Sequence[int]) -> dict[int, Marker | None]:
        with self.server.lock:
            self.markers = self.server.data.markers
            return super().read_markers(partitions)

    def move_markers(self, markers: Mapping[int, Marker]) -> set[int]:
        with self.server.lock:
            self.markers = self.server.data.markers
            others = super().move_markers(markers)
            self._check()
            return others

    def _check(self) -> None:
        server = self.server
        lost = self.incarnation != server.incarnation
        if not self.connected or lost or server.down or server.random.random() < server.failure_rate:
            raise StoreUnavailable("Fault: random")


class Topic:
    """A log that is sometimes compacted and sometimes cannot be read."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"topic {seed}")
        self.log: list[tuple[str, bytes | None, int]] = []
        self.failure_rate = 0.05

    def read(self, partition: int, offset: int | None) -> Iterator[Batch]:
        records = self.log[offset or 0 :]
        newest = {key: at for key, _, at in records}
        left = [record for record in records if newest[record[0]] == record[2] or self.random.random() < 0.5]
        while left:
            if self.random.random() < self.failure_rate:
                raise ConnectionError("random")
            time.sleep(self.random.random() * 0.002)  # Deliveries overtake a slow reading.
            size = self.random.randint(0, 5)
            yield left[:size]
            left = left[size:]

    def truth(self) -> dict[str, bytes]:
        newest = {key: value for key, value, _ in self.log}
        return {key: value for key, value in newest.items() if value is not None}


@pytest.mark.parametrize("seed", SEEDS)
def test_view_is_the_topic_once_faults_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages, failovers to a lagging replica, wipes, takeovers and overflows leave no difference behind."""
    for name, fast in {"MARK_INTERVAL_S": 0.01, "BACKOFF_S_MIN": 0.001, "BACKOFF_S_MAX": 0.005}.items():
        monkeypatch.setattr(redis_view, name, fast)
    monkeypatch.setattr(redis_view, "RECORDS_PER_TRIP", 4)
    choice = random.Random(seed)
    server, topic = Server(seed), Topic(seed)
    pending_max = choice.choice([5, 20, 1_000])
    views = [RedisView(Connection(server), topic, pending_max=pending_max) for _ in range(2)]
    for view in views:
        view.start()
    keys = [f"S-{i}|x" for i in range(choice.choice([3, 30, 300]))]
    fault_rates = [0.03, 0.06, choice.choice([0.0, 0.02]), 0.03, 0.04]
    generation, owner = 1, views[0]
    owner.own(PARTITION, generation)
    for offset in range(300):
        faults = [server.fail_over, server.replicate, server.wipe, None, "takeover"]
        fault = choice.choices([*faults, "none"], [*fault_rates, 1 - sum(fault_rates)])[0]
        if fault is None:
            server.down = not server.down
        elif fault == "takeover":
            generation += 1
            owner.disown(PARTITION)
            owner = choice.choice(views)
            owner.own(PARTITION, generation)
        elif callable(fault):
            fault()
        value = None if choice.random() < 0.25 else b'{"version":%d}' % (generation << 32 | offset)
        key = choice.choice(keys)
        topic.log.append((key, value, offset))
        owner.delivered(PARTITION, key, value, offset, 0)
        if choice.random() < 0.3:
            time.sleep(choice.random() * 0.004)  # Lets the views' threads run; nothing is expected of it.
    server.down, server.failure_rate, topic.failure_rate = False, 0.0, 0.0
    end = Marker(generation, len(topic.log))
    settled = wait_until(lambda: server.data.markers.get(PARTITION) == end and server.data.values == topic.truth(), 15)
    for view in views:
        view.stop(5)
    assert server.data.values == topic.truth(), f"seed {seed}"
    assert settled, f"seed {seed}"
