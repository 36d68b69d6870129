"""One run: shops that tell facts, processes that work, and everything that goes wrong, all from one seed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec

from schemas.events import Refusal, decode_setting
from schemas.records import moment
from schemas.state import CLAIM_KEY, open_envelope
from schemas.topics import (
    AVAILABILITY,
    DEAD_LETTERS,
    KEYED_INPUTS,
    NETWORK_AVAILABILITY,
    POS_SALES,
    STOCK_SETTINGS,
    STOCK_STATE,
    TOPICS,
    partition_of,
)
from stock.events import (
    ItemSet,
    PosSale,
    ReservationCreated,
    ReservationRenewed,
    ReservationRequested,
    StockFact,
    WmsAdjustment,
    WmsReceipt,
)
from stockflow.settings import Settings
from tests.oracle import Delisted, Fact, Removed, Setting
from tests.simulation.clients import LEASE_S, Host, Troubles
from tests.simulation.commits import unsaid
from tests.simulation.endings import go_in_order
from tests.simulation.kafka import Broker, Group, Timeline
from tests.simulation.limits import small_limits
from tests.simulation.process import Process, simulated_clients
from tests.simulation.redis import SimRedis
from tests.simulation.verdict import judge, shows_only_what_the_topic_has
from tests.strategies import START, Entry, SeededChoice, Storyteller, World, skus_of_partition, to_wire

SESSION_S = 6.0
# Longer than any time here until a foreign write is answered, as the real hour is; what was there at rest is answered.
COMPACTION_LAG_S = 60.0
RETENTION_S = 30.0
REST_TIMEOUT_S = 90.0
POISON = (
    b'{"type":"pos.sale",',
    b"",
    None,
    b'{"type":"pos.sold","id":"x"}',
    b"[1,2]",
    b'{"type":"pos.sale","id":"p","source":"s","occurred_at":"2026-11-22T10:00:00Z","sku":"S","location":"L","units":0}',
)


@dataclass(frozen=True)
class Plan:
    """What a seed decides at its beginning: how large the world is and which troubles come often."""

    partitions: int
    processes: int
    rounds: int
    narrow: bool
    small_limits: bool
    protocol: str
    routine_interval_ms: int
    troubles: Troubles
    weights: dict[str, int]


@dataclass
class Told:
    """Everything that was told, as the judge needs it."""

    facts: list[tuple[int, Fact]] = field(default_factory=list)  # with the order of its append
    placed: list[tuple[int, Fact]] = field(default_factory=list)  # the same, with their partition
    items: list[tuple[int, Fact]] = field(default_factory=list)  # with their partition
    settings: list[Setting] = field(default_factory=list)
    refused_settings: dict[tuple[str, int, int], bytes | None] = field(default_factory=dict)
    poison: dict[tuple[str, int, int], tuple[bytes | None, bytes | None]] = field(default_factory=dict)


class Simulation:
    """A run from its seed to its verdict. `run` gives the violations; `timeline.history` tells the story."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.timeline = Timeline(seed)
        self.plan = plan_of(self.timeline)
        topics = tuple(topic.name for topic in KEYED_INPUTS)
        self.group = Group(self.timeline, topics, self.plan.partitions, SESSION_S, self.plan.protocol == "classic")
        compacted = [(topic.name, topic.cleanup == "compact") for topic in TOPICS]
        start_ms = int(START.timestamp() * 1000)
        self.broker = Broker(self.timeline, compacted, self.plan.partitions, self.group, start_ms)
        self.redis = SimRedis(self.timeline)
        self.told = Told()
        self.problems: list[str] = []
        self.hosts: dict[str, Host] = {}
        self.processes: list[Process] = []
        self.max_skew_s = 0.0
        self._number = 0
        self._rested_at = 0.0
        self._flips = 0
        self._renewals = 0
        self._last_units = 0
        self._stories = self._tellers()
        self._wanted = self.plan.processes
        self._watch_redis()
        self._heartbeat()

    def run(self) -> list[str]:
        """Everything that the seed has in store; the violations come back."""
        chance = self.timeline.chance
        with ExitStack() as stack:
            stack.enter_context(simulated_clients(self.hosts))
            if self.plan.small_limits:
                stack.enter_context(small_limits())
            names, weights = list(self.plan.weights), list(self.plan.weights.values())
            for round_number in range(self.plan.rounds):
                self._supervise()
                for name in chance.choices(names, weights, k=2):
                    getattr(self, name)()
                self._work(chance.randint(1, 6))
                self._note_misdeeds()
                if self.problems:
                    return self.problems
                if chance.random() < 0.03 and round_number > 10:
                    if not self.come_to_rest():
                        return self.problems
                    self.problems += judge(self)
            if self.come_to_rest():
                self.problems += judge(self)
                if not self.problems:
                    go_in_order(self)
            self._note_misdeeds()
        return self.problems

    def counts(self) -> dict[str, int]:
        """How much happened, for the sum over seeds."""
        return {
            "facts": len(self.told.facts),
            "processes": self._number,
            "claims": [r.key for _, r in self.broker.appended[STOCK_STATE.name]].count(CLAIM_KEY.encode()),
            "virtual seconds": int(self.timeline.now),
        }

    def _note_misdeeds(self) -> None:
        """What a process may not do is noticed when it does it, and told at the end of the round."""
        for host in self.hosts.values():
            self.problems += host.misdeeds
            host.misdeeds = []

    # The world goes on

    def _supervise(self) -> None:
        """Ended processes are replaced, sooner or later."""
        for process in [process for process in self.processes if process.ended]:
            self.processes.remove(process)
            self.problems += [f"{process.host.name} has a bug: {text}" for text in process.log.bugs]
            if process.is_bug and not process.log.bugs:
                self.problems.append(f"{process.host.name} ended with {process.ended}")
        while len(self.processes) < self._wanted and self.timeline.percent(40):
            self.start()

    def start(self) -> None:
        """One process more, on a host of its own."""
        self._number += 1
        host = Host(f"p{self._number}", self.timeline, self.broker, self.plan.troubles)
        host.skew_s = self._skew()
        self.hosts[host.name] = host
        if self.timeline.percent(15):
            host.crash_in = self.timeline.chance.randint(1, 120)
        self.timeline.tell(f"{host.name}: starts, clock {host.skew_s:+.1f} s")
        settings = Settings(
            group_id="group",
            group_protocol=self.plan.protocol,
            lease_ms=int(LEASE_S * 1000),
            routine_interval_ms=self.plan.routine_interval_ms,
            kafka={"client.id": host.name},
            count_variance_units=1,
            count_variance_percent=10,
            alert_unclaimed_s=20,
            alert_hold_s=60,
            alert_allocation_s=40,
        )
        pending_max = 4 if self.plan.small_limits else None
        process = Process(host, self.redis, settings, pending_max)
        host.on_commit = lambda committed: self.problems.extend(unsaid(self, process, committed))
        self.processes.append(process)

    def _skew(self) -> float:
        skew = self.timeline.chance.choice((0, 0, 0, 0, 0.5, -0.5, 30, -30, 600))
        self.max_skew_s = max(self.max_skew_s, skew)
        return float(skew)

    def _work(self, turns: int) -> None:
        chance = self.timeline.chance
        for _ in range(turns):
            runnable = [p for p in self.processes if not p.ended and not p.host.is_stopped]
            if not runnable:
                self.timeline.advance(0.1)
                continue
            chance.choice(runnable).turn()
            if chance.random() < 0.2:
                self.timeline.advance(chance.choice((0.001, 0.02, 0.2)))

    def _heartbeat(self) -> None:
        if not self.broker.is_down:
            self.group.tick()
        self.timeline.later(0.3, self._heartbeat)

    # What shops tell

    def _tellers(self) -> list[Storyteller]:
        tellers = []
        for partition in range(self.plan.partitions):
            skus = skus_of_partition(partition, self.plan.partitions, 1 if self.plan.narrow else 3)
            world = World(
                skus=skus,
                locations=("STORE-A",) if self.plan.narrow else ("STORE-A", "STORE-B", "DC-1"),
                ticks_ms=(0, 1, 5, 20) if self.plan.narrow else (0, 0, 5, 50, 300),
                settings_percent=20 if self.plan.narrow else 6,
                null_settings=True,
            )
            tellers.append(Storyteller(SeededChoice(self.seed * 100 + partition), world))
        return tellers

    def facts(self) -> None:
        """Some facts more."""
        for _ in range(self.timeline.chance.randint(1, 5)):
            self._fact()

    def _fact(self) -> None:
        story = self.timeline.chance.choice(self._stories)
        now = START + timedelta(seconds=self.timeline.now)
        story.clock = max(story.clock, now)
        message: Entry = story.next().message
        if self.plan.narrow and self.timeline.percent(60):
            # There and back again: the numbers return to what an older record says that is still in flight.
            self._flips += 1
            sku = story.world.skus[0]
            message = WmsAdjustment(
                id=f"flip-{self._flips}", source="flip", occurred_at=now, sku=sku, location="STORE-A",
                units=1 if self._flips % 2 else -1, reason="there and back",
            )  # fmt: skip
        ahead_s = (story.clock - now).total_seconds()
        if ahead_s > 0:
            self.timeline.advance(ahead_s)
        self.append(message)

    def append(self, message: Entry) -> None:
        """Tell a fact or a setting."""
        topic, key, value = to_wire(message)
        if isinstance(message, StockFact):
            partition = partition_of(message.sku, self.plan.partitions)
            record = self.broker.append(topic, partition, key.encode(), value, (), "shop")
            fact = Fact(topic, record.offset, message, moment(record.timestamp_ms * 1_000))
            self.told.facts.append((record.order, fact))
            self.told.placed.append((partition, fact))
        elif isinstance(message, ItemSet | Delisted):
            partition = partition_of(message.sku, self.plan.partitions)
            record = self.broker.append(topic, partition, key.encode(), value, (), "master data")
            self.told.items.append((partition, Fact(topic, record.offset, message)))
        else:
            # All settings stand in one partition: the order of two for one key is the order of their log.
            record = self.broker.append(topic, 0, key.encode(), value, (), "planning")
            if value is not None and isinstance(decode_setting(key.encode(), value), Refusal):
                self.told.refused_settings[topic, 0, record.offset] = value
                self.told.settings.append(Removed(key))  # a refused setting ends what stood under its key
            else:
                self.told.settings.append(message)  # type: ignore[arg-type]

    def poison(self) -> None:
        """Something that nobody can read."""
        chance = self.timeline.chance
        topic = chance.choice(KEYED_INPUTS[:3]).name
        key = chance.choice((None, b"\xff key", b"SKU-1"))
        self.append_poison(topic, chance.randrange(self.plan.partitions), key, chance.choice(POISON))

    def stranger(self) -> None:
        """A sale in a partition that is not its SKU's."""
        if self.plan.partitions == 1:
            return
        sku = self.timeline.chance.choice(self._stories).world.skus[0]
        sale = PosSale(id="stranger", source="till", occurred_at=START, sku=sku, location="STORE-A", units=1)
        value = msgspec.json.encode(sale)
        partition = (partition_of(sku, self.plan.partitions) + 1) % self.plan.partitions
        self.append_poison(POS_SALES.name, partition, sku.encode(), value)

    def append_poison(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Append something that is no fact of its partition."""
        record = self.broker.append(topic, partition, key, value, (("trace", b"\x00\xff"),), "shop")
        self.told.poison[topic, partition, record.offset] = (key, value)

    def refused_setting(self) -> None:
        record = self.broker.append(STOCK_SETTINGS.name, 0, b"policy:p-9", b'{"type":"policy.set"}', (), "planning")
        self.told.refused_settings[STOCK_SETTINGS.name, 0, record.offset] = record.value

    def renewal(self) -> None:
        late_s = self.timeline.chance.choice((0.0, 0.2, 0.9))
        renewed = self.hold()
        self.timeline.later(late_s, lambda: self.append(renewed))

    def hold(self) -> ReservationRenewed:
        """A hold with a near end; what renews it just before that comes back, and is not told yet."""
        self._renewals += 1
        sku = self.timeline.chance.choice(self._stories).world.skus[0]
        now = START + timedelta(seconds=self.timeline.now)
        end = now + timedelta(seconds=self.timeline.chance.choice((0.3, 1.0, 3.0)))
        saying: dict[str, Any] = {
            "source": "renewals", "sku": sku, "location": "STORE-A", "reservation": f"X-{self._renewals}",
        }  # fmt: skip
        self.append(
            ReservationCreated(
                id=f"c-{self._renewals}", occurred_at=now, units=1, mode="ship", expires_at=end, **saying
            )
        )
        return ReservationRenewed(
            id=f"r-{self._renewals}", occurred_at=now + timedelta(milliseconds=1),
            expires_at=end + timedelta(seconds=self.timeline.chance.choice((5, 20, 3_600))), **saying,
        )  # fmt: skip

    def last_unit(self) -> None:
        """Several want the only unit of a SKU, now and a while later, when whoever got it may have it no more.

        While nobody is there to answer, they queue up; some ask again under another id.
        """
        self._last_units += 1
        number, chance = self._last_units, self.timeline.chance
        now = START + timedelta(seconds=self.timeline.now)
        said: dict[str, Any] = {"sku": f"LAST-{number}", "location": "STORE-A", "units": 1}
        self.append(WmsReceipt(id=f"last-{number}", source="wms/STORE-A", occurred_at=now, **said))
        for shopper in range(chance.randint(2, 5)):
            ends_s = chance.choice((0.3, 1.0, 3.0, 60.0))
            for attempt in range(chance.choice((1, 1, 2))):
                wait_s = chance.choice((0.0, 0.0, 0.2, 0.7, 2.0, 4.0))
                name = f"L-{number}-{shopper}"
                self.timeline.later(wait_s, partial(self._want, f"{name}-{attempt}", name, ends_s, said))

    def _want(self, id: str, reservation: str, ends_s: float, said: dict[str, Any]) -> None:
        now = START + timedelta(seconds=self.timeline.now)
        own: dict[str, Any] = {
            "reservation": reservation,
            "mode": "ship",
            "expires_at": now + timedelta(seconds=ends_s),
        }
        self.append(ReservationRequested(id=id, source="last", occurred_at=now, **said, **own))

    # What goes wrong

    def _any_host(self) -> Host | None:
        alive = [process.host for process in self.processes if not process.ended]
        return self.timeline.chance.choice(alive) if alive else None

    def quiet(self) -> None:
        self.timeline.advance(self.timeline.chance.choice((0.05, 0.3, 0.3, 1.5)))

    def crash(self) -> None:
        host = self._any_host()
        if host is not None and host.crash_in is None:
            host.crash_in = self.timeline.chance.choice((1, 2, 3, 5, 8, 13, 30, 60))

    def kill_all(self) -> None:
        """Every process dies at once."""
        self.timeline.tell("all processes are killed")
        for process in self.processes:
            process.host.kill()
        self.processes.clear()

    def blackout(self) -> None:
        """Nobody is there for a while, and much is told."""
        self.kill_all()
        for _ in range(self.timeline.chance.randint(6, 16)):
            self.facts()
            if self.timeline.percent(40):
                self.poison()

    def sigterm(self) -> None:
        running = [process for process in self.processes if not process.ended and not process.host.is_stopped]
        if running:
            process = self.timeline.chance.choice(running)
            self.timeline.tell(f"{process.host.name}: is asked to stop")
            process.ask_to_stop()

    def scale(self) -> None:
        self._wanted = self.timeline.chance.randint(1, 3)
        while len(self.processes) < self._wanted:
            self.start()

    def stop_and_go(self) -> None:
        """SIGSTOP, for less or more than a lease and a session; then it goes on with what it had."""
        host = self._any_host()
        if host is None or host.is_stopped:
            return
        seconds = self.timeline.chance.choice((0.5, 3.0, LEASE_S + 1, SESSION_S + 1.5, SESSION_S + 4))
        self.timeline.tell(f"{host.name}: stopped for {seconds:.1f} s")
        host.is_stopped = True
        self.timeline.later(seconds, lambda: self._go_on(host))

    def _go_on(self, host: Host) -> None:
        host.is_stopped = False
        if host.is_alive:
            self.timeline.tell(f"{host.name}: goes on")
            for producer in host.producers:
                producer.woken()

    def fence(self) -> None:
        """The coordinator puts out a member that is well and does not hear of it soon."""
        host = self._any_host()
        if host is not None and self.group.knows(host.name):
            self.timeline.tell(f"group: {host.name} is put out, though it is well")
            self.group.leave(host.name)

    def cut_off(self) -> None:
        host = self._any_host()
        if host is None or host.is_cut_off:
            return
        seconds = self.timeline.chance.choice((0.3, 2.0, SESSION_S + 2))
        self.timeline.tell(f"{host.name}: cut off for {seconds:.1f} s")
        host.is_cut_off = True

        def heal() -> None:
            host.is_cut_off = False
            self.timeline.tell(f"{host.name}: connected again")

        self.timeline.later(seconds, heal)

    def broker_restart(self) -> None:
        if self.broker.is_down:
            return
        seconds = self.timeline.chance.choice((0.5, 2.0))
        self.timeline.tell(f"broker: down for {seconds:.1f} s")
        self.broker.is_down = True

        def heal() -> None:
            self.broker.is_down = False
            self.group.hear_all()
            self.timeline.tell("broker: up")

        self.timeline.later(seconds, heal)

    def clock_jump(self) -> None:
        host = self._any_host()
        if host is not None:
            host.skew_s = self._skew()
            self.timeline.tell(f"{host.name}: clock is now {host.skew_s:+.1f} s off")

    def compaction(self) -> None:
        """The broker's cleaner runs; it keeps deletions for far longer than anybody needs to read them."""
        before = max(self.timeline.now - COMPACTION_LAG_S, self._rested_at)
        gone = sum(
            log.compact(before, log.topic != STOCK_STATE.name, self.timeline.now)
            for log in self.broker.logs.values()
            if log.compacted
        )
        if gone:
            self.timeline.tell(f"broker: compacts {gone} records away")

    def letters_retention(self) -> None:
        for partition in range(self.plan.partitions):
            self.broker.logs[DEAD_LETTERS.name, partition].forget(self.timeline.now - RETENTION_S)

    def foreign_write(self) -> None:
        self.write_late(self.timeline.chance.choice(LATE_TOPICS))

    def write_late(self, topic: str) -> None:
        """A fenced writer's record arrives long after the takeover: state, or what was published, as it once was."""
        chance = self.timeline.chance
        partition = chance.randrange(self.plan.partitions)
        state = self.broker.logs[STOCK_STATE.name, partition].records
        newest = max((generation_of(r.value) for r in state if r.key == CLAIM_KEY.encode() and r.value), default=0)
        generation = generation_of if topic == STOCK_STATE.name else version_generation_of
        fenced = [
            record
            for record in self.broker.logs[topic, partition].records
            if record.value is not None and record.key != CLAIM_KEY.encode() and generation(record.value) < newest
        ]
        if fenced:
            record = chance.choice(fenced)
            self.broker.append(topic, partition, record.key, record.value, record.headers, "a fenced writer")
            self.timeline.tell(f"a fenced writer's {record.key!r} arrives on {topic}/{partition}")

    def redis_trouble(self) -> None:
        chance, redis = self.timeline.chance, self.redis
        trouble = chance.choice(("down", "wiped", "restart", "failover", "OOM", "READONLY", "slow"))
        self.timeline.tell(f"redis: {trouble}")
        if trouble == "wiped":
            redis.wipe()
        elif trouble == "restart":
            redis.restart()
        elif trouble == "failover":
            redis.fail_over()
        else:
            redis.is_down = trouble == "down"
            redis.is_slow = trouble == "slow"
            redis.refuses = trouble if trouble in ("OOM", "READONLY") else None
            if trouble == "READONLY":
                redis.generation += 1
            self.timeline.later(chance.choice((0.3, 2.0, 5.0)), self._heal_redis)

    def _heal_redis(self) -> None:
        if self.redis.is_down:
            self.redis.restart()
        self.redis.is_down = self.redis.is_slow = False
        self.redis.refuses = None

    def _watch_redis(self) -> None:
        """The view never shows what the topic does not have."""

        def watch(key: str, location: str, old: bytes | None, new: bytes | None) -> None:
            problem = shows_only_what_the_topic_has(self, key, location, old, new)
            if problem is not None:
                self.problems.append(problem)

        self.redis.watch = watch

    # The end

    def come_to_rest(self) -> bool:
        """All faults heal, everything is read, published and committed; False if that does not happen in time."""
        timeline = self.timeline
        timeline.tell("all faults heal")
        self.broker.is_down = False
        self.group.hear_all()
        self._heal_redis()
        self.calm_down()
        deadline = timeline.now + REST_TIMEOUT_S
        calm_since: float | None = None
        # Longer than a lease: who is idle has to keep it.
        while calm_since is None or timeline.now < calm_since + LEASE_S + 1:
            if timeline.now > deadline:
                self.problems.append(f"no rest within {REST_TIMEOUT_S:.0f} s: {self._unrest()}")
                return False
            self._supervise()
            self.calm_down()
            while len(self.processes) < max(1, self._wanted):
                self.start()
                self.calm_down()
            for process in self.processes:
                if not process.ended:
                    process.turn()
            if self.problems:
                return False
            timeline.advance(0.02 if calm_since is None else 0.1)
            if self._unrest():
                calm_since = None
            elif calm_since is None:
                calm_since = timeline.now
        timeline.tell("at rest")
        self._rested_at = timeline.now
        self._trouble_again()
        return True

    def calm_down(self) -> None:
        """No more troubles for those who run, and clocks that agree with the latest that any had."""
        for process in self.processes:
            host = process.host
            if host.is_stopped:
                self._go_on(host)
            host.is_cut_off = False
            host.crash_in = None
            host.skew_s = self.max_skew_s
            host.troubles = NO_TROUBLES

    def _trouble_again(self) -> None:
        for process in self.processes:
            process.host.troubles = self.plan.troubles

    def _unrest(self) -> str:
        """What is not done yet, or nothing."""
        for (topic, partition), log in self.broker.logs.items():
            if topic in self.group.topics and self.group.positions.get((topic, partition), (0, ""))[0] < log.end:
                return f"{topic}/{partition} is not committed to its end {log.end}"
        for process in self.processes:
            if process.ended:
                return f"{process.host.name} has ended: {process.ended}"
            if not process.resting:
                return f"{process.host.name} has work under way"
            if not process.view_is_current:
                return f"{process.host.name} has not written all to Redis"
        owned = sum(len(process.pipeline.publisher.outlets) for process in self.processes)
        if owned != self.plan.partitions:
            return f"{owned} of {self.plan.partitions} partitions are open"
        return ""


def generation_of(value: bytes) -> int:
    """Who wrote a state record."""
    return open_envelope(value)[0]


def version_generation_of(value: bytes) -> int:
    """Who wrote an availability record."""
    version: int = msgspec.json.decode(value)["version"]
    return version >> 32


LATE_TOPICS = (STOCK_STATE.name, AVAILABILITY.name, NETWORK_AVAILABILITY.name)
NO_TROUBLES = Troubles(0, 0, 0, 0, 0, 0)

_EVENTS: dict[str, int] = {
    "facts": 60,
    "poison": 4,
    "stranger": 1,
    "refused_setting": 1,
    "last_unit": 2,
    "renewal": 4,
    "quiet": 16,
    "crash": 7,
    "sigterm": 1,
    "scale": 2,
    "stop_and_go": 3,
    "cut_off": 2,
    "fence": 1,
    "blackout": 1,
    "broker_restart": 1,
    "clock_jump": 1,
    "compaction": 2,
    "letters_retention": 1,
    "foreign_write": 2,
    "redis_trouble": 4,
}
# Each seed leans towards some of these: faults that come in clusters find what evenly spread ones do not.
_LEANINGS: tuple[dict[str, int], ...] = (
    {},
    {"crash": 25},
    {"stop_and_go": 15, "crash": 4},
    {"scale": 10, "sigterm": 6},
    {"cut_off": 10, "stop_and_go": 6},
    {"fence": 12, "scale": 4},
    {"blackout": 8, "crash": 40, "poison": 12, "quiet": 30, "last_unit": 10},
    {"redis_trouble": 25},
    {"renewal": 20, "crash": 14, "quiet": 30},
    {"poison": 30, "crash": 14, "stranger": 10},
    {"clock_jump": 10, "renewal": 10},
    {"compaction": 12, "stop_and_go": 8, "quiet": 30},
    {"foreign_write": 20, "crash": 12, "compaction": 4},
    {"poison": 20, "letters_retention": 10, "crash": 10, "stranger": 10},
)


def plan_of(timeline: Timeline) -> Plan:
    """What kind of world a seed makes."""
    chance = timeline.chance
    leaning = chance.choice(_LEANINGS)
    troubles = Troubles()
    if chance.random() < 0.3:
        troubles = replace(troubles, slow=15, lost_answer=10)
    if chance.random() < 0.15:
        troubles = replace(troubles, failed=chance.choice((0.6, 4)), nowhere=chance.choice((0.5, 4)))
    if leaning.get("poison", 0) > 10:  # dead letters on a slow way, or on none
        troubles = replace(troubles, slow=30, lost_answer=10, nowhere=max(troubles.nowhere, 1))
    return Plan(
        partitions=chance.choice((1, 1, 2, 3)),
        processes=chance.choice((1, 1, 2, 2, 3)),
        rounds=chance.choice((40, 70, 110)),
        narrow=chance.random() < 0.4,
        small_limits=chance.random() < 0.3 or leaning.get("blackout", 0) > 1,  # long replays, to die in
        protocol="classic" if chance.random() < 0.15 else "consumer",
        routine_interval_ms=chance.choice((0, 100, 250, 1_000)),
        troubles=troubles,
        weights={**_EVENTS, **leaning},
    )
