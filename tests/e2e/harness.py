"""Running pipelines as their users run them: processes with an environment, a broker, a Redis, and probes.

What happened is judged from outside only: exit codes, probes, logs, committed offsets and topics.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # public, not marked as exported

from operations.audit.log import Log, LogRecord
from schemas.state import CLAIM_KEY
from schemas.topics import AVAILABILITY, KEYED_INPUTS, STOCK_STATE, Topic
from stockflow.embedded.process import LOOPBACK, OwnedServer, free_port

POLL_INTERVAL_S = 0.05
PROBE_TIMEOUT_S = 2.0
KAFKA_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 90.0
QUIET_TIMEOUT_S = 60.0
LOG_LINES_SHOWN = 80
_FRAME = re.compile(r"\s+(\d+: |at )")


class Ended(AssertionError):
    """A process that should run has ended."""


class Pipeline(OwnedServer):
    """One `stockflow run`: `start` waits for /readyz, `launch` does not; `kill`, `pause` and `resume` are there.

    `exit_code` is how the last run ended, negative for a signal, None while it runs. While something is waited for,
    a process that ends by itself fails the test, unless it `may_end`; one that `is_supervised` is started again.
    `program` is what runs: another one than `stockflow run` for a test that changes it.
    """

    name = "pipeline"
    start_timeout_s = READY_TIMEOUT_S
    stop_timeout_s = 30.0

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.may_end = False
        self.is_supervised = False
        self.program = [sys.executable, "-m", "stockflow", "run"]
        self._environment = {**environment, "STOCKFLOW_METRICS_PORT": str(self.port)}
        self._waits = True
        self._exit_code: int | None = None

    @property
    def description(self) -> str:
        """Which one it is."""
        return f"stockflow run ({self.folder.name})"

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._exit_code if self._process is None else self._process.poll()

    def start(self) -> Pipeline:
        """Start, and wait until it is ready."""
        if self.pid is None:
            self._forget()
        return super().start()

    def launch(self) -> Pipeline:
        """Start without waiting for anything."""
        self._waits = False
        try:
            return self.start()
        finally:
            self._waits = True

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a request to the port of metrics and probes; (0, "") if nobody answers."""
        with closing(http.client.HTTPConnection(LOOPBACK, self.port, timeout=PROBE_TIMEOUT_S)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    @property
    def is_ready(self) -> bool:
        """Whether it owns partitions and is up to date."""
        return self.get("/readyz")[0] == 200

    @property
    def owned(self) -> int:
        """Partitions that it says it owns and has restored; 0 if it does not answer."""
        status, body = self.get("/readyz")
        return int(json.loads(body)["details"]["live"]) if status in (200, 503) else 0

    def metric(self, sample: str) -> float:
        """The value of one sample, named as on the metrics page with its labels; 0 if it is not there."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def log_lines(self) -> list[dict[str, Any]]:
        """All structured log lines, over all runs of this process."""
        found = []
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):  # Bytewax and Python itself also write to stderr.
                entry = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        """All log lines of an event, over all runs of this process."""
        return [line for line in self.log_lines() if line.get("event") == event]

    def _command(self) -> list[str]:
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        return ["/usr/bin/env", *variables, *self.program]

    def _answers(self) -> bool:
        return not self._waits or self.is_ready

    def _forget(self) -> None:
        process = self._process
        super()._forget()
        if process is not None:
            self._exit_code = process.returncode


class Stage:
    """One set of topics on one broker, one Redis, and the processes that work on them."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partitions: int,
        redis_url: str | None,
        folder: Path,
        variables: Mapping[str, str],
    ) -> None:
        self.bootstrap, self.prefix, self.partitions, self.redis_url = bootstrap, prefix, partitions, redis_url
        self.group = f"{prefix}group"
        self.pipelines: list[Pipeline] = []
        self._folder = folder
        self._variables = {
            "STOCKFLOW_BOOTSTRAP_SERVERS": bootstrap,
            "STOCKFLOW_TOPIC_PREFIX": prefix,
            "STOCKFLOW_GROUP_ID": self.group,
            "STOCKFLOW_METRICS_HOST": LOOPBACK,
            **({"STOCKFLOW_REDIS_URL": redis_url} if redis_url else {}),
            **variables,
        }
        self._admin = self.admin()
        self._group = Consumer({**self.client_config, "group.id": self.group, "log_level": 0})  # never joins

    @property
    def client_config(self) -> dict[str, Any]:
        """How tools reach the broker."""
        return {"bootstrap.servers": self.bootstrap}

    def topic(self, name: str) -> str:
        """The broker's name of a registered topic."""
        return self.prefix + name

    # Processes

    def pipeline(self, **variables: str) -> Pipeline:
        """One more process with further settings (names without the prefix STOCKFLOW_), not started yet."""
        environment = {**self._variables, **{f"STOCKFLOW_{name}": value for name, value in variables.items()}}
        pipeline = Pipeline(self._folder / f"pipeline-{len(self.pipelines) + 1}", environment)
        self.pipelines.append(pipeline)
        return pipeline

    def stop(self, *pipelines: Pipeline) -> None:
        """SIGTERM; each must end in good order."""
        for pipeline in pipelines:
            pipeline.stop()
        assert [pipeline.exit_code for pipeline in pipelines] == [0] * len(pipelines)

    def eventually(self, condition: Callable[[], bool], text: str, timeout_s: float = QUIET_TIMEOUT_S) -> None:
        """Come back as soon as the condition holds.

        Raises:
            Ended: a process ended by itself that should not.
            AssertionError: the condition did not hold in time.
        """
        deadline = time.monotonic() + timeout_s
        while not _holds(condition):
            for pipeline in self.pipelines:
                if pipeline.exit_code is None or pipeline.exit_code <= 0:
                    continue
                if pipeline.is_supervised:
                    pipeline.launch()
                elif not pipeline.may_end:
                    raise Ended(f"{pipeline.description} ended with {pipeline.exit_code} while waiting: {text}")
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {text}"
            time.sleep(POLL_INTERVAL_S)

    def wait_for_owners(self, *shares: int) -> None:
        """Wait until the running processes hold so many partitions each, in any order."""
        running = [pipeline for pipeline in self.pipelines if pipeline.pid is not None]
        self.eventually(
            lambda: sorted(pipeline.owned for pipeline in running) == sorted(shares),
            f"partitions are shared as {shares}",
        )

    # Topics

    def admin(self) -> AdminClient:
        """A new client; it has to live until its answers are there."""
        return AdminClient({**self.client_config, "log_level": 0})

    def ends(self, topics: Sequence[Topic]) -> dict[tuple[str, int], int]:
        """One past the last offset, by registered topic name and partition."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {(t.name, p): TopicPartition(self.topic(t.name), p) for t in topics for p in range(self.partitions)}
        asked = dict.fromkeys(places.values(), latest)
        futures = self._admin.list_offsets(asked, request_timeout=KAFKA_TIMEOUT_S)
        try:
            found = {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
        except KafkaException:
            self._admin = self.admin()  # An old one goes on asking with the leader epochs from before a restart.
            raise
        return {place: found[tp.topic, tp.partition] for place, tp in places.items()}

    def published(self) -> int:
        """How many availability records there are."""
        return sum(self.ends([AVAILABILITY]).values())

    def claims(self) -> int:
        """How often partitions have been claimed."""
        return sum(1 for record in self.read(STOCK_STATE) if record.key == CLAIM_KEY.encode())

    def wait_for_claim_after(self, count: int) -> None:
        """Wait until there are more claims than so many."""
        self.eventually(lambda: self.claims() > count, "a partition is claimed")

    def behind(self) -> dict[tuple[str, int], int]:
        """Input records that are not committed yet, where there are any."""
        ends = self.ends(KEYED_INPUTS)
        asked = [TopicPartition(self.topic(name), partition) for name, partition in ends]
        committed = self._group.committed(asked, timeout=KAFKA_TIMEOUT_S)
        lag = {place: end - max(0, tp.offset) for (place, end), tp in zip(ends.items(), committed, strict=True)}
        return {place: count for place, count in lag.items() if count}

    def wait_until_committed(self, timeout_s: float = QUIET_TIMEOUT_S) -> None:
        """Wait until every input record is committed."""
        last: dict[tuple[str, int], int] = {}

        def quiet() -> bool:
            nonlocal last
            last = self.behind()
            return not last

        try:
            self.eventually(quiet, "all input is committed", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; behind: {last}") from error

    def wait_for_records(self, count: int, timeout_s: float = QUIET_TIMEOUT_S) -> None:
        """Wait until so many more availability records have come."""
        goal: int | None = None

        def there() -> bool:
            nonlocal goal
            published = self.published()
            goal = published + count if goal is None else goal
            return published >= goal

        self.eventually(there, f"{count} more availability records", timeout_s)

    def delete_before_the_end(self, topic: Topic) -> None:
        """Let a topic forget all records that it has, as retention would."""
        places = [
            TopicPartition(self.topic(name), partition, end) for (name, partition), end in self.ends([topic]).items()
        ]
        for deleted in self._admin.delete_records(places, request_timeout=KAFKA_TIMEOUT_S).values():
            deleted.result()

    def read(self, topic: Topic) -> list[LogRecord]:
        """All records of a topic as it is now, each partition in the order of its log."""
        with Log(self.client_config, self.topic) as log:
            extents = log.extents([topic.name])[topic.name]
            return [record for batch in log.read(topic.name, extents, headers=True) for record in batch]

    def last(self, topic: Topic, like: LogRecord) -> bytes | None:
        """The value that stands last under the key of a record."""
        return [record.value for record in self.read(topic) if record.key == like.key][-1]

    def append(self, topic: Topic, *records: LogRecord) -> None:
        """Write records once more behind all others, as a writer does that has lost its right to."""
        producer = Producer({**self.client_config, "log_level": 0})
        for record in records:
            producer.produce(self.topic(topic.name), key=record.key, value=record.value, partition=record.partition)
        assert producer.flush(KAFKA_TIMEOUT_S) == 0

    def newest(self, sku: str, location: str) -> dict[str, Any] | None:
        """The newest availability record of a key, or None."""
        key, found = f"{sku}|{location}".encode(), None
        for record in self.read(AVAILABILITY):
            if record.key == key and record.value is not None:
                found = json.loads(record.value)
        return found

    # The end

    def close(self) -> None:
        """End all processes at once."""
        for pipeline in self.pipelines:
            pipeline.kill()
        self._group.close()

    def logs(self) -> list[tuple[str, str]]:
        """The end of each process's log, for the report of a failure."""
        return [(f"log of {pipeline.folder.name}", _told(pipeline)) for pipeline in self.pipelines]


def _holds(condition: Callable[[], bool]) -> bool:
    """Whether it holds; a broker that is being restarted answers later."""
    try:
        return condition()
    except KafkaException:
        return False


def _told(pipeline: Pipeline) -> str:
    """The last lines of a log without the frames of Rust's backtraces, which would hide everything else."""
    lines = pipeline.log_tail(10 * LOG_LINES_SHOWN).splitlines()
    return "\n".join([line for line in lines if not _FRAME.match(line)][-LOG_LINES_SHOWN:])
