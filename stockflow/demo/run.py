"""The demo from start to verdict: servers, topics, pipeline, a shopping day, audit; every child ends with it.

It reads no environment and connects to nothing but the servers that it has started.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from confluent_kafka import KafkaException
from redis import RedisError
from rich.console import Console

from operations.audit import AuditImpossible, AuditReport, audit, render
from operations.topics import TopicsRefused, ensure
from schemas.topics import AVAILABILITY
from stockflow.demo.observe import Scrape, StatusWatch
from stockflow.demo.pipeline import Pipeline, PipelineFailed
from stockflow.demo.replay import Replay, Sender, SendingFailed
from stockflow.demo.shopping import NoShoppingData, Shopping, plan, read_lines
from stockflow.demo.show import Figures, Screen, summary
from stockflow.embedded import KafkaBroker, RedisServer, ServerUnavailable, TansuBroker
from stockflow.embedded.process import free_port
from stockflow.settings import PREFIX, Settings

EVENTS_MIN = 500  # Fewer leave nothing to see.
LOOK_EVERY_S = 0.2
SCRAPE_EVERY_S = 1.0
LATENCY_WINDOW = 5  # Scrapes over which the live percentiles are taken.
SETTLED_LOOKS = 3  # Scrapes in a row without lag and without change, before everything counts as done.
STALLED_S_MAX = 60.0  # Without any progress for so long, the pipeline is not going to catch up.
GROUP_SESSION_MS = 45_000  # Longer than the pipeline's lease; nobody is killed in the demo.

# Tansu has classic groups only and, with longer sessions, takes half a minute to form one; the lease has to end first.
_WITH_TANSU: Mapping[str, object] = {
    "group_protocol": "classic",
    "lease_ms": 4_000,
    "kafka": {"session.timeout.ms": "6000", "heartbeat.interval.ms": "1000"},
}

OK, FAILED, WRONG_USE = 0, 1, 2


@dataclass(frozen=True)
class DemoOptions:
    """What can be chosen.

    Attributes:
        events: about how many events to send.
        speed: shopping seconds per real second; None lets the sending run at about 950 events/s on average.
        seed: another seed is another day.
        keep_running: leave everything running after the replay, until Ctrl-C.
        partitions: of every topic.
        cache: folder for what is downloaded once (the broker's jars).
        environment: what the pipeline inherits besides its settings; names of stockflow's own are left out.
    """

    events: int = 60_000
    speed: float | None = None
    seed: int = 7
    keep_running: bool = False
    partitions: int = 12
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "stockflow")
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": os.defpath})


class NotSettled(RuntimeError):
    """The pipeline stopped making progress before it had processed everything."""


def demo(options: DemoOptions, console: Console) -> int:
    """Run the demo and print its verdict; blocks for about two minutes by default.

    Returns:
        0 if recomputation, availability topic and Redis are equal, 1 if not or if anything failed or was
        interrupted (the text says what, and what to do), 2 for options that make no sense.
    """
    if options.events < EVENTS_MIN or (options.speed is not None and options.speed <= 0):
        console.print(f"[red]--events must be at least {EVENTS_MIN}, and --speed greater than 0.[/]")
        return WRONG_USE
    folder = Path(tempfile.mkdtemp(prefix="stockflow-demo-"))
    log_file = folder / "pipeline.log"
    code = FAILED
    with _terminable(), ExitStack() as stack:
        stack.callback(console.show_cursor)
        try:
            code = _Demo(options, console, log_file, stack).run()
        except KeyboardInterrupt:
            console.print("[yellow]Interrupted: stopping everything. Nothing was verified.[/]")
        except _FAILURES as error:
            console.print(f"[bold red]The demo failed:[/] {type(error).__name__}")
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            console.print(_advice(error, log_file), markup=False, highlight=False, soft_wrap=True)
        finally:
            with _undisturbed():
                stack.close()
    if code == OK or not log_file.exists():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"The pipeline's log is kept in {log_file}", soft_wrap=True, highlight=False)
    return code


class _Demo:
    """One run; what it starts, it hands to the stack before it starts it."""

    def __init__(self, options: DemoOptions, console: Console, log_file: Path, stack: ExitStack) -> None:
        self._options = options
        self._console = console
        self._log_file = log_file
        self._stack = stack

    def run(self) -> int:
        options, console = self._options, self._console
        shopping = self._plan()
        redis = RedisServer()
        broker = _broker(options.cache, console)
        self._stack.callback(redis.close)
        self._stack.callback(broker.close)
        with console.status("starting broker and Redis"):
            redis.start()
            broker.start()
        servers = f"{broker.description} at {broker.bootstrap}, {redis.description} at {redis.url}"
        console.print(f"Using {servers}", highlight=False, soft_wrap=True)
        settings = Settings(
            bootstrap_servers=broker.bootstrap,
            redis_url=redis.url,
            group_id="stockflow-demo",
            partitions=options.partitions,
            metrics_host="127.0.0.1",
            metrics_port=free_port(),
            **({} if isinstance(broker, KafkaBroker) else _WITH_TANSU),  # type: ignore[arg-type]
        )
        ensure(settings.client_config(), settings.topic, settings.partitions, settings.replication)
        sender = Sender(settings.client_config(), settings.topic_prefix, settings.partitions)
        now = datetime.fromtimestamp(time.time(), tz=timezone.utc)
        for setting in shopping.settings:
            sender.send(setting, now)
        sender.finish()
        pipeline = Pipeline(_environment(options, settings), settings.metrics_port, self._log_file)
        self._stack.callback(pipeline.close)
        with console.status("starting the pipeline"):
            pipeline.start()
            pipeline.wait_ready()
        watch = StatusWatch(settings.client_config(), settings.topic(AVAILABILITY.name), settings.partitions)
        self._stack.callback(watch.close)
        scrape = self._play(shopping, sender, pipeline, watch)
        if options.keep_running:
            self._keep_running(settings, pipeline, watch)
            scrape = pipeline.scrape() or scrape
        with console.status("stopping the pipeline"):
            pipeline.stop()
        watch.catch_up()
        report = self._audit(settings, isinstance(broker, KafkaBroker))
        sent = Counter(planned.type for planned in shopping.events)
        console.print(summary(scrape, sent, watch.keys, watch.statuses, watch.flip_count, servers))
        console.print(render(report))
        if report.equal:
            return OK
        console.print(
            f"That is a bug in stockflow or in its audit: --seed {options.seed} repeats the same events. "
            "Please report the differences together with the pipeline's log.",
            highlight=False,
            soft_wrap=True,
        )
        return FAILED

    def _plan(self) -> Shopping:
        options = self._options
        with self._console.status("planning the shopping day"):
            shopping = plan(read_lines(), options.events, options.seed, options.speed)
        keys = len({(planned.key, planned.fields.get("location")) for planned in shopping.events})
        self._console.print(
            f"A shopping day with seed {options.seed}: {len(shopping.events):,} events for {keys:,} SKUs at stores, "
            f"sent within {shopping.sending_s:,.0f} s ({shopping.speed:,.0f} times as fast as in the shops)",
            highlight=False,
            soft_wrap=True,
        )
        return shopping

    def _play(self, shopping: Shopping, sender: Sender, pipeline: Pipeline, watch: StatusWatch) -> Scrape:
        """Send the day, then wait until all of it is processed and the last hold has ended."""
        replay = Replay(sender, shopping.events)
        self._stack.callback(replay.join, 5.0)
        self._stack.callback(replay.halt)
        before = sender.sent
        with Screen(self._console, len(shopping.events)) as screen:
            replay.start()
            began = time.monotonic()
            gauge = _Gauge(began)
            calm = 0
            while True:
                watch.look()
                now = time.monotonic()
                if gauge.is_due(now):
                    pipeline.check()
                    sent = replay.sent - before
                    gauge.add(now, sent, pipeline.scrape())
                    holds_left = now - began <= shopping.last_expiry_s() + 1
                    done = not replay.is_alive() and not holds_left and gauge.is_calm(sent)
                    calm = calm + 1 if done else 0
                    if calm >= SETTLED_LOOKS:
                        return gauge.last
                    if not holds_left and not replay.is_alive() and now - gauge.progressed_at > STALLED_S_MAX:
                        raise NotSettled(
                            f"{sent:,} events were sent, {gauge.last.processed:,} processed, lag {gauge.last.lag}; "
                            f"nothing has moved for {STALLED_S_MAX:.0f} s.\n{pipeline.log_tail()}"
                        )
                    phase = "shopping" if replay.is_alive() else "last holds run out" if holds_left else "settling"
                    screen.show(gauge.figures(phase, began, sent, len(shopping.events), watch))
                if not replay.is_alive() and replay.error is not None:
                    raise replay.error
                time.sleep(LOOK_EVERY_S)

    def _keep_running(self, settings: Settings, pipeline: Pipeline, watch: StatusWatch) -> None:
        """Say where everything is and wait for Ctrl-C."""
        sku = watch.flips[0].sku if watch.flips else "SKU"
        port = settings.redis_url.rsplit(":", 1)[1].split("/")[0]
        self._console.print(
            "\nEverything keeps running until Ctrl-C; then it is stopped and checked.\n"
            f"  Kafka    {settings.bootstrap_servers}   topic {settings.topic(AVAILABILITY.name)}\n"
            f"  Redis    {settings.redis_url}   redis-cli -p {port} HGETALL availability:{sku}\n"
            f"  metrics  {pipeline.metrics_url}\n"
            f"  log      {self._log_file}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        try:
            while True:
                pipeline.check()
                watch.look()
                time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            self._console.print("Stopping, then checking. Ctrl-C once more skips the check.")

    def _audit(self, settings: Settings, exact_ends: bool) -> AuditReport:
        with self._console.status("checking the result from the log") as status:
            return audit(
                settings.client_config(),
                settings.topic,
                settings.redis_url,
                datetime.fromtimestamp(time.time(), tz=timezone.utc),
                lambda label, done, total: status.update(f"checking the result: {label} {done:,}/{total:,}"),
                exact_ends=exact_ends,
                thresholds=settings.thresholds(),
            )


class _Gauge:
    """Turns readings of counters into rates; one reading a second."""

    def __init__(self, began: float) -> None:
        self.last = Scrape()
        self.progressed_at = began
        self._next_at = began
        self._readings: deque[tuple[float, int, Scrape]] = deque(maxlen=LATENCY_WINDOW + 1)

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next reading."""
        return now >= self._next_at

    def add(self, now: float, sent: int, scrape: Scrape | None) -> None:
        """Take a reading; a pipeline that did not answer is as it was."""
        self._next_at = now + SCRAPE_EVERY_S
        scrape = scrape or self.last
        if (scrape.processed, scrape.lag) != (self.last.processed, self.last.lag):
            self.progressed_at = now
        self.last = scrape
        self._readings.append((now, sent, scrape))

    def is_calm(self, sent: int) -> bool:
        """Whether there is no lag, every event has an outcome, and no record was published since the reading before."""
        if len(self._readings) < 2:
            return False
        before = self._readings[-2][2]
        return self.last.lag == 0 and self.last.processed >= sent and before.publications == self.last.publications

    def figures(self, phase: str, began: float, sent: int, planned: int, watch: StatusWatch) -> Figures:
        """What to show."""
        first_at, first_sent, first = self._readings[0]
        last_at = self._readings[-1][0]
        seconds = max(last_at - first_at, 1e-9)
        buckets = self.last.latency.get("acknowledged urgent")
        earlier = first.latency.get("acknowledged urgent")
        recent = buckets if buckets is None or earlier is None else buckets.since(earlier)
        many = len(self._readings) > 1
        return Figures(
            phase=phase,
            elapsed_s=last_at - began,
            sent=sent,
            planned=planned,
            sent_rate=(sent - first_sent) / seconds if many else 0.0,
            processed_rate=(self.last.processed - first.processed) / seconds if many else 0.0,
            published_rate=(self.last.publications - first.publications) / seconds if many else 0.0,
            lag=self.last.lag,
            latency_p50_s=recent.quantile(0.5) if recent else None,
            latency_p99_s=recent.quantile(0.99) if recent else None,
            dead_letters=int(sum(self.last.dead_letters.values())),
            statuses=watch.statuses,
            flips=list(watch.flips),
            flip_count=watch.flip_count,
        )


_FAILURES = (
    ServerUnavailable,
    PipelineFailed,
    SendingFailed,
    NotSettled,
    NoShoppingData,
    AuditImpossible,
    TopicsRefused,
    KafkaException,
    RedisError,
    OSError,
)


def _broker(cache: Path, console: Console) -> KafkaBroker | TansuBroker:
    """Real Kafka with sessions longer than the pipeline's lease; where it cannot be had, Tansu, and why."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        return KafkaBroker(cache, session_ms=GROUP_SESSION_MS, progress=say)
    except ServerUnavailable as no_kafka:
        try:
            substitute = TansuBroker()
        except ServerUnavailable as no_tansu:
            raise ServerUnavailable(f"{no_kafka}\n{no_tansu}") from None
        say(f"{no_kafka}. Using {substitute.description} instead: fine for a look, slower than Kafka.")
        return substitute


def _advice(error: BaseException, log_file: Path) -> str:
    """What to do about a failure."""
    if isinstance(error, NoShoppingData):
        return "Then start the demo again."
    if isinstance(error, ServerUnavailable):
        return "Install what is missing, or free memory and ports on this machine, and start the demo again."
    if isinstance(error, NotSettled | PipelineFailed):
        return f"Read the pipeline's log ({log_file}); a slow machine may manage --events 20000."
    return "Start the demo again; if it fails in the same way, try --events 20000 and read the pipeline's log."


def _environment(options: DemoOptions, settings: Settings) -> dict[str, str]:
    """The pipeline's environment: what it inherits without anybody else's settings of stockflow, and its own."""
    inherited = {name: value for name, value in options.environment.items() if not name.startswith(PREFIX)}
    own = {
        "BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "REDIS_URL": settings.redis_url,
        "GROUP_ID": settings.group_id,
        "TOPIC_PREFIX": settings.topic_prefix,
        "PARTITIONS": str(settings.partitions),
        "METRICS_HOST": settings.metrics_host,
        "METRICS_PORT": str(settings.metrics_port),
        "GROUP_PROTOCOL": settings.group_protocol,
        "LEASE_MS": str(settings.lease_ms),
        **{"KAFKA__" + name.upper().replace(".", "_"): value for name, value in settings.kafka.items()},
    }
    return {**inherited, "PYTHONUNBUFFERED": "1", **{PREFIX + name: value for name, value in own.items()}}


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo like Ctrl-C: children must not outlive it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _signals({signal.SIGTERM: interrupt}):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No second Ctrl-C interrupts the stopping, which takes seconds at most."""
    with _signals({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextmanager
def _signals(handlers: Mapping[signal.Signals, object]) -> Iterator[None]:
    """Handlers for a while; only the main thread may have any, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
