"""The faults of a long run and what each of them took; one process is never touched, the other one has to suffer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from stockflow.embedded import KafkaBroker, RedisServer
from tests.e2e.harness import Ended, Pipeline

LOOK_S = 0.2
HEAL_TIMEOUT_S = 900.0  # Refilling Redis with a million records takes long on a machine that is shared.
LAG_HEALED = 500  # Records unread at both processes together, less than a second of load.


@dataclass
class Fault:
    """One fault: when it began and was healed (seconds since the load began), and seconds that its steps took."""

    name: str
    began_s: float
    healed_s: float = 0.0
    took_s: dict[str, float] = field(default_factory=dict)
    balances: int = 0


class NotHealed(AssertionError):
    """The system did not recover in time."""


@dataclass
class Victims:
    """What faults act upon. `survivor` is only watched."""

    broker: KafkaBroker
    store: RedisServer
    survivor: Pipeline
    victim: Pipeline
    partitions: int
    pause_s: float = 5.0
    down_s: float = 10.0

    def strike(self, fault: Fault, stopping: threading.Event) -> None:
        """Do one fault and come back when all is well again; what it took is noted in it.

        Raises:
            NotHealed: it is not, for a long time.
            Ended: a process ended that nobody had ended.
        """
        begun = time.monotonic()
        try:
            FAULTS[fault.name](self, fault, stopping)
            self.wait("everything is well again", self.is_well)
        finally:
            fault.took_s["all"] = time.monotonic() - begun
            fault.healed_s = fault.began_s + fault.took_s["all"]

    def is_well(self) -> bool:
        """Whether the partitions are shared by both, everything is read and Redis has it all."""
        shares = [one.owned for one in (self.survivor, self.victim)]
        if sum(shares) != self.partitions or min(shares) == 0:
            return False
        for one in (self.survivor, self.victim):
            status, text = one.get("/metrics")
            found = lines(text)
            if status != 200 or not found["stockflow_redis_connected"] or found["stockflow_redis_backlog_keys"]:
                return False
            if sum(value for name, value in found.items() if name.startswith("stockflow_lag_events{")) > LAG_HEALED:
                return False
        return True

    def wait(self, text: str, condition: Callable[[], bool]) -> float:
        """Come back as soon as the condition holds; the seconds it took."""
        begun = time.monotonic()
        while not condition():
            for one in (self.survivor, self.victim):
                if (one.exit_code or 0) > 0:
                    raise Ended(f"{one.description} ended with {one.exit_code} while waiting: {text}")
            if time.monotonic() - begun > HEAL_TIMEOUT_S:
                raise NotHealed(f"not within {HEAL_TIMEOUT_S:.0f} s: {text}")
            time.sleep(LOOK_S)
        return time.monotonic() - begun

    def kill(self, fault: Fault, stopping: threading.Event) -> None:
        """kill -9; the other process takes over everything; later it comes back and gets its share again."""
        self.victim.kill()
        fault.took_s["takeover"] = self.wait("a takeover", lambda: self.survivor.owned == self.partitions)
        stopping.wait(self.pause_s)
        self._come_back(fault)

    def rolling_restart(self, fault: Fault, stopping: threading.Event) -> None:
        """SIGTERM, an end in good order, and at once a start."""
        begun = time.monotonic()
        self.victim.stop()
        if self.victim.exit_code != 0:
            raise Ended(f"{self.victim.description} ended with {self.victim.exit_code} after SIGTERM")
        fault.took_s["end"] = time.monotonic() - begun
        self._come_back(fault)

    def pause(self, fault: Fault, stopping: threading.Event) -> None:
        """SIGSTOP for less than the lease."""
        self.victim.pause()
        stopping.wait(self.pause_s)
        self.victim.resume()

    def pause_broker(self, fault: Fault, stopping: threading.Event) -> None:
        """SIGSTOP of the broker for less than the lease: nobody gets an answer."""
        self.broker.pause()
        stopping.wait(self.pause_s)
        self.broker.resume()

    def restart_redis(self, fault: Fault, stopping: threading.Event) -> None:
        """Redis is killed, away for a while, and comes back empty."""
        keys = self._redis_keys()
        self.store.kill()
        stopping.wait(self.down_s)
        self.store.start()
        fault.took_s["refill"] = self.wait("Redis is full again", lambda: self._redis_keys() >= keys)

    def wipe_redis(self, fault: Fault, stopping: threading.Event) -> None:
        """FLUSHALL while everything runs."""
        keys = self._redis_keys()
        with redis.Redis.from_url(self.store.url) as client:
            client.flushall()
        fault.took_s["refill"] = self.wait("Redis is full again", lambda: self._redis_keys() >= keys)

    def _come_back(self, fault: Fault) -> None:
        begun = time.monotonic()
        self.victim.launch()
        self.wait("the restarted process is ready", lambda: self.victim.is_ready)
        fault.took_s["ready"] = time.monotonic() - begun
        self.wait(
            "both have a share",
            lambda: self.victim.owned + self.survivor.owned == self.partitions and self.survivor.owned > 0,
        )
        fault.took_s["shared"] = time.monotonic() - begun
        fault.balances = int(lines(self.victim.get("/metrics")[1]).get("stockflow_balances", 0))

    def _redis_keys(self) -> int:
        with redis.Redis.from_url(self.store.url, socket_timeout=30) as client:
            try:
                return int(client.dbsize())  # type: ignore[arg-type]
            except redis.RedisError:
                return -1


FAULTS: dict[str, Callable[[Victims, Fault, threading.Event], None]] = {
    "kill": Victims.kill,
    "wipe redis": Victims.wipe_redis,
    "pause": Victims.pause,
    "rolling restart": Victims.rolling_restart,
    "restart redis": Victims.restart_redis,
    "pause broker": Victims.pause_broker,
}


def lines(text: str) -> dict[str, float]:
    """The samples of a metrics page by their whole names."""
    pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("stockflow_"))
    return {name: float(value) for name, _, value in pairs}
