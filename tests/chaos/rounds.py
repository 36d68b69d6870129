"""Kill rounds: a process dies at a named point under load, others take over, and everything must be equal again.

The number of a round is its seed: the point, the company, the settings and the load all follow from it.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from operations import topics
from operations.audit.log import LogRecord
from schemas.topics import AVAILABILITY
from stockflow.embedded.process import ServerUnavailable
from tests.chaos.failpoints import (
    BY_NAME,
    LAST_WORDS,
    NAMES,
    NEEDS_A_REVOKE,
    NEEDS_A_TAIL,
    ONCE_PER_PARTITION,
    Failpoint,
)
from tests.chaos.watch import RedisWatch
from tests.e2e.harness import Pipeline, Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

# A dead member's partitions are free after a session; short, since every round waits for one.
HEARTBEAT_MS = 300
SESSION_MS = 2_500
PARTITIONS = 3
ROUNDS_PER_STAGE = 6  # Short logs make quick verdicts.
COMPANY_MAX = 2
REACH_TIMEOUT_S = 15.0
LOAD_PER_SECOND = 80
RECORDS_AFTERWARDS = 15
TOPIC_ATTEMPTS_MAX = 5
LINGERS_MS = (0, 0, 0, 3, 20, 60)
# What may end a process that a busy machine let wait too long; it is started again, as a supervisor would.
MAY_BE_FATAL = ("SourceFailed: the lease is over", "NewerClaim: ", "DeliveryFailed: ")


@dataclass(frozen=True)
class Plan:
    """What happens in a round. `company`: so many processes own partitions before; `pace`: settings of the new ones."""

    seed: int
    point: Failpoint
    company: int
    per_second: int
    poison_percent: int
    pace: Mapping[str, str]


def plan(seed: int, name: str | None = None) -> Plan:
    """The plan of a round; of the named point if it is given, else of one that the seed chooses.

    Any run of as many rounds as there are points has each once.
    """
    chance = random.Random(seed)
    when, _, seam = (name or NAMES[_shuffled(seed // len(NAMES))[seed % len(NAMES)]]).partition(":")
    # In company the victim might have no part in what is asked of it.
    company = 0 if seam in NEEDS_A_REVOKE | NEEDS_A_TAIL else chance.choice((0, 0, 1, 1, COMPANY_MAX))
    calls_max = 1 if company and seam in ONCE_PER_PARTITION else BY_NAME[seam].calls_max
    count = 1 if chance.random() < 0.3 else chance.randint(1, calls_max)
    return Plan(
        seed,
        Failpoint(when, seam, count, chance.choice(LINGERS_MS)),
        company=company,
        per_second=chance.choice((LOAD_PER_SECOND // 2, LOAD_PER_SECOND, 2 * LOAD_PER_SECOND)),
        poison_percent=5 if seam == "dead_letter" else chance.choice((1, 1, 5)),
        pace={
            "COMMIT_INTERVAL_MS": str(200 if seam in NEEDS_A_TAIL else chance.choice((20, 100, 200))),
            "ROUTINE_INTERVAL_MS": str(chance.choice((0, 50, 250))),
        },
    )


def _shuffled(number: int) -> list[int]:
    order = list(range(len(NAMES)))
    random.Random(number).shuffle(order)
    return order


@dataclass
class Outcome:
    """What a round came to. `problems` is empty if all was equal; `reached` says whether the death was at the point."""

    seed: int
    point: str
    company: int
    reached: bool = False
    restarts: int = 0
    records: int = 0
    seconds: float = 0.0
    reach_s: float = 0.0
    takeover_s: float = 0.0
    verdict_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    verdict: str = "equal"

    def line(self) -> str:
        """One line of the record."""
        return json.dumps(asdict(self))


class FailingPipeline(Pipeline):
    """A `stockflow run` that dies at a failpoint, if it is given one."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder, environment)
        self.is_supervised = True
        self._starts_told = 1

    def new_restarts(self) -> int:
        """How often it was started again since this was asked last."""
        starts, told = max(1, len(self.logged("starting"))), self._starts_told
        self._starts_told = starts
        return starts - told

    def _command(self) -> list[str]:
        command = super()._command()
        at = command.index("-m")
        return [*command[:at], "-m", "tests.chaos.failing", "run"]

    @property
    def died_at(self) -> str | None:
        """Which point it says it died at."""
        if self.exit_code != -signal.SIGKILL or not self.log_file.exists():
            return None
        last = [line for line in self.log_tail().splitlines() if line.startswith(LAST_WORDS)]
        return last[-1].removeprefix(LAST_WORDS) if last else None


class ChaosStage(Stage):
    """A stage whose processes come and go in great number."""

    pipelines: list[FailingPipeline]  # type: ignore[assignment]  # all of them are made here
    _made = 0

    def process(self, variables: Mapping[str, str], kill: Failpoint | None = None) -> FailingPipeline:
        """One more process, not started yet, with settings by their names without the prefix."""
        environment = {**self._variables, **{f"STOCKFLOW_{name}": value for name, value in variables.items()}}
        if kill is not None:
            environment["CHAOS_KILL"] = str(kill)
        self._made += 1
        pipeline = FailingPipeline(self._folder / f"process-{self._made}", environment)
        self.pipelines.append(pipeline)
        return pipeline

    @property
    def running(self) -> list[FailingPipeline]:
        """The processes that are alive."""
        return [pipeline for pipeline in self.pipelines if pipeline.pid is not None]

    def forget_the_dead(self) -> None:
        """Let go of processes that have ended."""
        for pipeline in self.pipelines:
            if pipeline.pid is None:
                pipeline.kill()  # collects what is left of it
        self.pipelines = self.running

    def all_owned(self) -> bool:
        """Whether every partition is owned and restored."""
        return sum(pipeline.owned for pipeline in self.running) == self.partitions


class Rounds:
    """Rounds on one broker and one Redis database, one after the other; every few rounds the topics are new.

    The database is emptied for each new stage: nobody else may use it.
    """

    def __init__(
        self,
        bootstrap: str,
        redis_url: str,
        folder: Path,
        session_ms: int = SESSION_MS,
        reach_timeout_s: float = REACH_TIMEOUT_S,
    ) -> None:
        self._bootstrap, self._redis_url, self._folder = bootstrap, redis_url, folder
        self._reach_timeout_s = reach_timeout_s
        self._lease_ms = lease_below(session_ms)
        self._open: ExitStack | None = None
        self._rounds = 0

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End the stage: its processes, its topics."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def play(self, planned: Plan) -> Outcome:
        """One round, judged at its end; a stage with a violation is not used again."""
        begun = time.monotonic()
        outcome = Outcome(planned.seed, str(planned.point), planned.company)
        if self._open is None or self._rounds >= ROUNDS_PER_STAGE:
            self._new_stage(planned.seed)
        self._rounds += 1
        stage, load, watch = self._stage, self._load, self._watch
        try:
            self._play(planned, outcome)
        except (AssertionError, KafkaException, ServerUnavailable, redis.RedisError, OSError) as error:
            outcome.problems += (str(error) or repr(error)).splitlines()
        outcome.problems += watch.problems
        outcome.problems += unexpected_ends(stage)
        outcome.restarts = sum(pipeline.new_restarts() for pipeline in stage.pipelines)
        outcome.records = len(load.sent)
        outcome.seconds = round(time.monotonic() - begun, 2)
        if outcome.problems:
            outcome.verdict = "violation"
            self._keep_logs(planned.seed)
            self.leave()
        else:
            stage.forget_the_dead()
        return outcome

    def _play(self, planned: Plan, outcome: Outcome) -> None:
        stage, load, begun = self._stage, self._load, time.monotonic()
        leaves_a_tail = planned.point.seam in NEEDS_A_TAIL
        if leaves_a_tail:
            stage.stop(*stage.running)
        self._gather(1 if leaves_a_tail else planned.company, planned.pace)
        victim = stage.process(planned.pace, planned.point)
        victim.is_supervised, victim.may_end = False, True
        fresh = stage.process(planned.pace)
        # Without items: the watch takes the null of a delisted SKU for a value that was lost.
        records = stories(planned.seed, PARTITIONS, poison_percent=planned.poison_percent, items_percent=0)
        load.start(records, planned.per_second)
        if leaves_a_tail:
            stage.wait_for_records(RECORDS_AFTERWARDS)
            stage.running[0].kill()
        victim.launch()
        if planned.point.seam in NEEDS_A_REVOKE:
            stage.eventually(lambda: victim.owned > 0 or victim.pid is None, "the victim owns partitions")
            fresh.launch()
        self._wait_for_death(victim)
        outcome.reached = victim.died_at == str(planned.point)
        victim.kill()
        outcome.reach_s = round(time.monotonic() - begun, 2)
        if planned.point.seam not in NEEDS_A_REVOKE:
            fresh.launch()
        stage.eventually(lambda: fresh.owned > 0 and stage.all_owned(), "others own all partitions, a fresh one too")
        load.wait_for_more(RECORDS_AFTERWARDS)
        outcome.takeover_s = round(time.monotonic() - begun - outcome.reach_s, 2)
        settle(stage, load)
        seen = self._watch.seen()  # Before the topic is read: a hold that ends in between is told on both.
        outcome.problems += not_on_the_topic(seen, stage.read(AVAILABILITY))
        outcome.verdict_s = round(time.monotonic() - begun - outcome.reach_s - outcome.takeover_s, 2)

    def _gather(self, company: int, pace: Mapping[str, str]) -> None:
        """So many processes own all partitions when the victim comes; those there are too many end in good order."""
        stage = self._stage
        running = stage.running
        stage.stop(*running[company:])
        missing = company - len(running)
        for _ in range(missing):
            stage.process(pace).launch()
        if missing > 0:
            stage.eventually(stage.all_owned, "the company owns all partitions")

    def _wait_for_death(self, victim: Pipeline) -> None:
        deadline = time.monotonic() + self._reach_timeout_s
        self._stage.eventually(lambda: victim.pid is None or time.monotonic() > deadline, "the victim dies")

    def _new_stage(self, seed: int) -> None:
        self.leave()
        self._rounds = 0
        prefix = f"chaos-{seed}-{random.randrange(16**6):06x}-"
        with ExitStack() as stack:
            stack.callback(delete_topics, self._bootstrap, prefix)
            make_topics(self._bootstrap, prefix)
            with redis.Redis.from_url(self._redis_url) as client:
                client.flushdb()
            variables = {"STOCKFLOW_LEASE_MS": str(self._lease_ms)}
            self._stage = ChaosStage(
                self._bootstrap, prefix, PARTITIONS, self._redis_url, self._folder / prefix, variables
            )
            stack.callback(self._stage.close)
            self._load = Sending(self._bootstrap, prefix)
            stack.callback(self._load.close)
            self._watch = stack.enter_context(RedisWatch(self._redis_url))
            self._open = stack.pop_all()

    def _keep_logs(self, seed: int) -> None:
        """What the processes said, beside the record."""
        kept = self._folder / f"violation-{seed}"
        kept.mkdir(parents=True, exist_ok=True)
        for name, text in self._stage.logs():
            (kept / f"{name}.txt").write_text(text, encoding="utf-8")


def lease_below(session_ms: int) -> int:
    """The longest lease that such sessions allow."""
    return session_ms - HEARTBEAT_MS


def unexpected_ends(stage: Stage) -> list[str]:
    """What ended a process by itself that no fault explains."""
    return [
        f"{pipeline.folder.name}: {line['error']}"
        for pipeline in stage.pipelines
        for line in pipeline.logged("fatal")
        if not line["error"].startswith(MAY_BE_FATAL)
    ]


def not_on_the_topic(seen: Mapping[tuple[str, str], set[int]], records: Iterable[LogRecord]) -> list[str]:
    """What Redis has shown that the topic does not have: key and version."""
    told: dict[tuple[str, str], set[int]] = defaultdict(set)
    for record in records:
        if record.value is not None:
            content = json.loads(record.value)
            told[content["sku"], content["location"]].add(content["version"])
    return [
        f"redis: {key} had versions {versions - told[key]}" for key, versions in seen.items() if versions - told[key]
    ]


def make_topics(bootstrap: str, prefix: str) -> None:
    """All topics of a stage; a broker that has other things to do is asked again.

    Raises:
        KafkaUnreachable: for so many times.
    """
    for attempt in range(TOPIC_ATTEMPTS_MAX):
        try:
            topics.ensure({"bootstrap.servers": bootstrap}, lambda name: prefix + name, PARTITIONS, replication=-1)
        except topics.KafkaUnreachable:
            if attempt == TOPIC_ATTEMPTS_MAX - 1:
                raise
        else:
            return


def delete_topics(bootstrap: str, prefix: str) -> None:
    """Remove what a stage had on the broker."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for deleted in admin.delete_topics(names, operation_timeout=10).values() if names else ():
        deleted.result()
