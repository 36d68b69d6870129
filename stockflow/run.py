"""Wiring of `stockflow run`: settings in, one running pipeline out; the only place where its parts meet."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from bytewax.testing import run_main
from confluent_kafka import KafkaException

from dataflows.availability import build
from dataflows.keep_balances import BalanceContext, BalanceStats
from operations.topics import KafkaUnreachable, start_problems
from schemas.state import UnknownFormat
from schemas.topics import (
    AVAILABILITY,
    DEAD_LETTERS,
    KEYED_INPUTS,
    NETWORK_AVAILABILITY,
    RESERVATION_VERDICTS,
    STOCK_ALERTS,
    STOCK_SETTINGS,
    STOCK_STATE,
)
from sinks.latency import LaneLatencies
from sinks.publisher import OutputTopics, Pace, Publisher
from sinks.redis_view import RedisView
from sinks.view_store import NETWORK_MARKER_PREFIX, NETWORK_PREFIX, RedisStore, ViewStore
from sinks.view_sync import KafkaTopicReader
from sources.claims import refuse_changed_partitions
from sources.commits import Commits
from sources.kafka import EventsReader, SourceOptions, SourceStats
from sources.ranges import KafkaRanges
from sources.restore import RestoreFailed, Restorer
from sources.settings_topic import SettingsTopic, SettingsUnreachable
from stock.policies import Policies
from stockflow import __version__, logs
from stockflow.health import CannotListen, HealthServer, Verdict
from stockflow.metrics import Measured, registry_for
from stockflow.settings import Settings
from stockflow.tracing import BatchSpans, CannotTrace, open_spans

FINE, FAILED = 0, 1
STALLED_S = 30.0  # A worker that took no turn for this long makes no progress; its longest wait is 10 s.
VIEW_FLUSH_TIMEOUT_S = 3.0
NETWORK_GATHER_S = 0.01  # Each writing takes the interpreter from the worker, and availability is what is waited for.
DYING_TIMEOUT_S = 2.0
KAFKA_LOG_INTERVAL_S = 10.0  # Per client and kind of message.
# Almost nothing here is cyclic, while every batch makes thousands of objects: look for cycles seldom, and among the new
# objects only. With all that a process remembers, a look at everything stands still for seconds.
GC_THRESHOLD = 50_000
_ADVICE: Mapping[type, str] = {UnknownFormat: "start a stockflow that is at least as new as the one that wrote it"}

log = logs.get("stockflow.run")


def run(settings: Settings) -> int:
    """Run the pipeline until SIGTERM or SIGINT (exit code 0), or until it cannot go on safely (1).

    After a failed delivery or a lost lease the process ends at once by `os._exit`, since every further moment could
    send records that it has no right to send.
    """
    logs.configure(settings.log_level)
    logs.standard("kafka").addFilter(logs.Sparse(KAFKA_LOG_INTERVAL_S, time.monotonic))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_early)
    log.info(
        "starting",
        version=__version__,
        bootstrap_servers=settings.bootstrap_servers,
        redis_url=logs.mask_url(settings.redis_url),
        group_id=settings.group_id,
    )
    try:
        around = real_surroundings(settings)
        pipeline = Pipeline(settings, _checked_partitions(settings), around)
        pipeline.start()
    except (
        *(NotReady, KafkaUnreachable, SettingsUnreachable, CannotListen, KafkaException),
        *(RestoreFailed, UnknownFormat, CannotTrace),
    ) as error:
        log.error("cannot_start", error=str(error), advice=_ADVICE.get(type(error)))
        return FAILED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pipeline.request_stop())
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.callbacks.append(look_once)
    try:
        run_main(build(pipeline.reader, pipeline.context, pipeline.publisher))  # type: ignore[no-untyped-call]
    except BaseException as error:  # noqa: BLE001 - whatever it is, nothing more may be produced
        _die(error)
    pipeline.stop()
    log.info("stopped")
    return FINE


def look_once(phase: str, _info: object) -> None:
    """A callback of the garbage collector: what outlives one look for cycles is not looked at again."""
    if phase == "stop":
        gc.freeze()


class NotReady(Exception):
    """Topics are not as the guarantees need them; the text says what to do."""


@dataclass(frozen=True)
class Surroundings:
    """What a process takes from the machine it runs on; a simulated machine brings its own.

    Attributes:
        writer: this process, unique per start.
        clock: monotonic seconds.
        wall_us: microseconds since 1970.
        die: ends the process at once; never returns.
        log: a named structured logger.
        view_store, network_store: where the Redis views of availability and of networks stand.
        aside: does what the worker must not wait for.
        spans: tells a collector of batches; None if nobody asked for it.
    """

    writer: str
    clock: Callable[[], float]
    wall_us: Callable[[], int]
    die: Callable[[BaseException], NoReturn]
    log: Callable[[str], Any]
    view_store: ViewStore
    network_store: ViewStore
    aside: Executor
    spans: BatchSpans | None = None


def real_surroundings(settings: Settings) -> Surroundings:
    """This machine, and the Redis and the collector of the settings.

    Raises:
        CannotTrace: spans are asked for, but cannot be made.
    """
    writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    stores = (
        RedisStore(settings.redis_url),
        RedisStore(settings.redis_url, NETWORK_PREFIX, NETWORK_MARKER_PREFIX),
    )
    spans = None
    if settings.export_spans:
        spans = open_spans(__version__, writer, settings.group_id, time.monotonic, logs.get("stockflow.tracing"))
    aside = ThreadPoolExecutor(1, "aside")
    return Surroundings(writer, time.monotonic, _wall_us, _die, logs.get, *stores, aside, spans)


class Pipeline:
    """The parts of one running process, connected."""

    def __init__(self, settings: Settings, partitions: int, around: Surroundings) -> None:
        client: dict[str, Any] = {**settings.client_config(), "logger": logs.standard("kafka")}
        availability, letters = settings.topic(AVAILABILITY.name), settings.topic(DEAD_LETTERS.name)
        state, verdicts = settings.topic(STOCK_STATE.name), settings.topic(RESERVATION_VERDICTS.name)
        network, alerts = settings.topic(NETWORK_AVAILABILITY.name), settings.topic(STOCK_ALERTS.name)
        inputs = tuple(settings.topic(topic.name) for topic in KEYED_INPUTS)
        lease_s = settings.lease_ms / 1000
        policies, visible, balances = Policies(), LaneLatencies(), BalanceStats()
        self._clock, self._spans = around.clock, around.spans
        self.settings_topic = SettingsTopic(client, settings.topic(STOCK_SETTINGS.name), policies, around.wall_us)
        self.commits = Commits(inputs, lease_s)
        self.view = RedisView(
            around.view_store,
            KafkaTopicReader(client, availability, clock=around.clock),
            clock=around.clock,
            observe=lambda mark, now_ms: visible.observe(mark, now_ms * 1000),
            log=around.log("stockflow.redis"),
            wall=lambda: around.wall_us() / 1e6,
        )
        self.network_view = RedisView(
            around.network_store,
            KafkaTopicReader(client, network, clock=around.clock),
            gather_s=NETWORK_GATHER_S,
            gather_above=0,
            clock=around.clock,
            log=around.log("stockflow.redis"),
            wall=lambda: around.wall_us() / 1e6,
        )
        self.publisher = Publisher(
            client,
            OutputTopics(availability, letters, state, verdicts, network, alerts),
            Pace(
                settings.routine_interval_ms / 1000,
                settings.commit_interval_ms / 1000,
                lease_s,
                settings.linger_ms / 1000,
            ),
            self.view,
            self.network_view,
            self.commits,
            KafkaRanges(client, around.clock),
            around.writer,
            around.clock,
            around.wall_us,
            around.log("stockflow.publisher"),
            settings.cloudevents_headers,
        )
        self.context = BalanceContext(
            policies,
            {name: position for position, name in enumerate(inputs)},
            partitions,
            settings.facts_remembered,
            balances,
            around.wall_us,
            around.die,
            settings.trace_context,
            settings.node_order,
            settings.thresholds(),
            around.spans,
        )
        self.reader = EventsReader(
            SourceOptions(
                client,
                inputs,
                partitions,
                settings.group_id,
                settings.group_protocol,
                settings.accept_lost_input,
            ),
            self.settings_topic,
            Restorer(
                client,
                state,
                availability,
                letters,
                network,
                self.publisher.claim,
                around.writer,
                partitions,
                around.aside,
            ),
            self.publisher,
            lambda: balances.handled,
            self.context.new_ledger,
            self.commits,
            around.die,
            around.clock,
            around.log("stockflow.source"),
        )
        self._ready_lag_max = settings.ready_lag_max
        measured = Measured(
            balances,
            self.reader.stats,
            self.publisher,
            self.commits,
            (self.view, self.network_view),
            visible,
            around.clock,
            {settings.topic(topic.name): topic.name for topic in KEYED_INPUTS},
            partitions,
        )
        self._health = HealthServer(
            settings.metrics_host,
            settings.metrics_port,
            registry_for(measured),
            lambda: alive(self.reader.stats, around.clock()),
            lambda: ready(self.reader.stats, self._ready_lag_max),
            settings.metrics_token,
        )

    def start(self) -> None:
        """Open the port, read the settings to their end, connect the view.

        Raises:
            CannotListen: the port is taken.
            SettingsUnreachable: the settings topic could not be read.
        """
        self._health.start()
        self.settings_topic.read_to_end(self._clock)
        self.view.start()
        self.network_view.start()
        self.reader.stats.turn_at = self._clock()

    def request_stop(self) -> None:
        """Ask for an orderly end; safe in a signal handler."""
        self.reader.stop_requested = True

    def stop(self) -> None:
        """Let the views write what they have, and the collector have what waits for it, then close the port."""
        self.view.stop(VIEW_FLUSH_TIMEOUT_S)
        self.network_view.stop(VIEW_FLUSH_TIMEOUT_S)
        if self._spans is not None:
            self._spans.close()
        self._health.close()


def alive(source: SourceStats, now: float) -> Verdict:
    """Whether the worker makes progress: it takes a turn every few milliseconds, restoring or idle."""
    age_s = now - source.turn_at
    if age_s > STALLED_S:
        return Verdict(False, f"the worker took no turn for {age_s:.0f} s", {"turn_age_s": round(age_s, 1)})
    return Verdict(True, "the worker makes progress", {"turn_age_s": round(age_s, 3)})


def ready(source: SourceStats, lag_max: int) -> Verdict:
    """Whether this process owns partitions, has restored them and is close behind its inputs."""
    lag = sum(source.lag.values())
    details = {"owned": source.owned, "live": source.live, "catching_up": source.catching_up, "lag": lag}
    if source.owned == 0:
        return Verdict(False, "owns no partition yet", details)
    if source.live < source.owned:
        return Verdict(False, "is restoring partitions", details)
    if lag > lag_max:
        return Verdict(False, f"is {lag} records behind, more than {lag_max}", details)
    return Verdict(True, "owns partitions and is up to date", details)


def _checked_partitions(settings: Settings) -> int:
    """The topics' common partition count, once everything that the guarantees rest on is as it must be.

    Raises:
        NotReady: it is not.
        KafkaUnreachable: no broker answers.
        RestoreFailed, UnknownFormat: the state is not of these topics, or not to be understood.
    """
    check = start_problems(settings.client_config(), settings.topic)
    for warning in check.warnings:
        log.warning("topics_unchecked", detail=warning)
    if check.problems or check.partitions is None:
        raise NotReady("; ".join(check.problems) or "the topics share no partition count")
    refuse_changed_partitions(settings.client_config(), settings.topic(STOCK_STATE.name), check.partitions)
    return check.partitions


def _leave_early(*_: object) -> NoReturn:
    """End before anything is owned or sent.

    The first process of a container never sees a signal that it has no handler for: it would run until it is killed.
    """
    log.info("stopped", before="the start was through")
    logs.flush()
    os._exit(FINE)


def _wall_us() -> int:
    return time.time_ns() // 1000


def _die(error: BaseException) -> NoReturn:
    """End at once: no destructor may flush what this process has no right to send any more."""
    last_resort = threading.Timer(DYING_TIMEOUT_S, os._exit, [FAILED])  # should a blocked stdout hold the last words
    last_resort.daemon = True
    last_resort.start()
    cause = error
    while isinstance(cause.__cause__, BaseException):  # A bare KafkaError can stand there, which is none.
        cause = cause.__cause__
    log.critical("fatal", error=f"{type(cause).__name__}: {cause}", advice=_ADVICE.get(type(cause)), exc_info=cause)
    logs.flush()
    os._exit(FAILED)
