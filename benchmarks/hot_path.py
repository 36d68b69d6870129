"""What the worker's thread spends per event, stage by stage, without servers: seconds to run, and hardly any noise.

The real code takes in batches as the source makes them (with a backlog portions of a run of one partition) while a
clock of our own moves on as if events came at a given rate. Kafka is a list: what it costs to consume and to produce
is not in here. The figures are CPU time of this thread, so other programs on the machine disturb them little.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from benchmarks.full_mix import make_full
from benchmarks.workload import Batches, Options, make
from dataflows.keep_balances import BalanceContext, BalanceStats, KeepBalances
from dataflows.tracing import Tracing
from schemas.topics import KEYED_INPUTS
from sinks.outlet import Delivered, Outlet, OutletStats
from sources.arrivals import Arrival, Batch, CaughtUp, Opened
from sources.kafka import FETCH_PARTITION_BYTES, TURN_MESSAGES
from sources.restore import Restored
from sources.runs import Run, Runs
from stock.policies import Policies
from stockflow.tracing import BatchSpans

EVENT_BYTES = 208  # Of the plain mix.
CUT_INTERVAL_S = 0.2
START_US = 1_790_000_000_000_000
STAGES = ("decode and apply", "publish", "publish after the interval", "acknowledge", "cut")


class FakeMessage:
    """A consumed record or a delivery report."""

    __slots__ = ("_headers", "_key", "_offset", "_timestamp", "_topic", "_value")

    def __init__(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        offset: int,
        timestamp: tuple[int, int],
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        self._headers = headers
        self._topic, self._key, self._value = topic, key, value
        self._offset, self._timestamp = offset, timestamp

    def topic(self) -> str:
        """Its topic."""
        return self._topic

    def key(self) -> bytes:
        """Its key."""
        return self._key

    def value(self) -> bytes:
        """Its value."""
        return self._value

    def offset(self) -> int:
        """Its offset."""
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        """Kind and milliseconds."""
        return self._timestamp

    def headers(self) -> list[tuple[str, bytes]] | None:
        """Its trace context, if any."""
        return self._headers

    def error(self) -> None:
        """None: it is a record."""


class Lists:
    """Kafka's place: takes records and reports each as delivered when asked to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, Sequence[tuple[str, bytes | None]], Delivered]] = []
        self._next: dict[tuple[str, int], int] = defaultdict(int)
        self.counts: dict[str, int] = defaultdict(int)

    def availability(
        self, partition: int, records: Sequence[tuple[str, bytes]], done: Delivered, headers: object = ()
    ) -> None:
        """Take availability records."""
        self.sent.append(("availability", partition, records, done))

    def network(
        self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered, headers: object = ()
    ) -> None:
        """Take network records."""
        self.sent.append(("network", partition, records, done))

    def verdicts(
        self, partition: int, records: Sequence[tuple[str, bytes]], done: Delivered, headers: object = ()
    ) -> None:
        """Take answers to requests."""
        self.sent.append(("verdicts", partition, records, done))

    def alert(self, partition: int, sku: str, value: bytes, done: Delivered) -> None:
        """Take an alert."""
        self.sent.append(("alert", partition, [(sku, value)], done))

    def state(self, partition: int, records: Sequence[tuple[str, bytes | None]], done: Delivered) -> None:
        """Take state records."""
        self.sent.append(("state", partition, records, done))

    def dead_letter(self, *_: Any) -> None:
        """There are none."""
        raise AssertionError("the workload has no bad events")

    def failed(self, *_: Any) -> None:
        """There are none."""
        raise AssertionError("lists do not fail")

    def reports(self) -> list[tuple[Delivered, list[FakeMessage]]]:
        """Delivery reports for everything taken since the last call."""
        sent, self.sent = self.sent, []
        reports = []
        for topic, partition, records, done in sent:
            first = self._next[topic, partition]
            self._next[topic, partition] = first + len(records)
            self.counts[topic] += len(records)
            messages = [FakeMessage(topic, key.encode(), b"", first + i, (1, 0)) for i, (key, _) in enumerate(records)]
            reports.append((done, messages))
        return reports


class Loop:
    """The worker's loop over fake ends, with a stop-watch per stage."""

    def __init__(
        self,
        shape: Options,
        routine_interval_s: float,
        traced: float = 0.0,
        trace_context: bool = True,
        tracing: Tracing | None = None,
    ) -> None:
        self.now = 1_000.0
        self._traced, self._tracing = traced, tracing
        self.spent = dict.fromkeys(STAGES, 0.0)
        self._partitions = shape.partitions
        topics = {topic.name: number for number, topic in enumerate(KEYED_INPUTS)}
        self._context = BalanceContext(
            Policies(),
            topics,
            shape.partitions,
            500_000,
            BalanceStats(),
            self.wall_us,
            _die,
            trace_context,
            tracing=tracing,
        )
        self._steps = [KeepBalances(self._context) for _ in range(shape.partitions)]
        self.lists = Lists()
        self._outlets: list[Outlet] = []
        for partition, step in enumerate(self._steps):
            restored = Restored(partition, 1, generation=1)
            ledger, _ = self._context.new_ledger(restored)
            changes, _ = step.on_batch([Opened(restored, ledger, (0,) * len(KEYED_INPUTS))])
            [change] = changes
            assert change.opened is not None
            outlet = Outlet(
                wire=self.lists,
                partition=partition,
                epoch=1,
                generation=1,
                ledger=change.opened[1],
                next_offsets=(0, 0, 0),
                shown=set(),
                tail_starts=(0, 0),
                known_letters=set(),
                on_published=_published,
                routine_interval_s=routine_interval_s,
                stats=OutletStats(),
            )
            self._outlets.append(outlet)
            step.on_batch([CaughtUp(1)])
            outlet.caught_up()

    def wall_us(self) -> int:
        """Our own clock, in microseconds since 1970."""
        return START_US + int(self.now * 1e6)

    def run(self, batches: Batches, rate: float, spread: int) -> int:
        """Take in all events, as if so many came per second; the number of them."""
        total = 0
        for turn in _turns(batches, self._partitions, spread, self.wall_us, self._traced):
            self.now += sum(len(run.messages) for run in turn) / rate
            self._serve()
            for run in turn:
                arrivals: list[Arrival] = [Batch(run.epoch, run.messages, run.more)]
                with self._timed("decode and apply"):
                    [change], _ = self._steps[run.partition].on_batch(arrivals)
                with self._timed("publish"):
                    outlet = self._outlets[run.partition]
                    if change.traces:
                        outlet.traces.remember(change.traces)
                    outlet.publish(self.now, self.wall_us(), change.more)
                    if change.traced_batch is not None and self._tracing is not None:
                        self._tracing.processed(run.partition, change.traced_batch, self.wall_us())
                total += len(run.messages)
        for _ in range(3):
            self.now += 1.0
            self._serve()
        return total

    def _serve(self) -> None:
        reports = self.lists.reports()
        with self._timed("acknowledge"):
            for done, messages in reports:
                for message in messages:
                    done(None, message)  # type: ignore[arg-type]
        for outlet in self._outlets:
            with self._timed("publish after the interval"):
                outlet.publish_due(self.now, self.wall_us())
            with self._timed("cut"):
                outlet.cut_ready()
                if outlet.cut_due(self.now, CUT_INTERVAL_S):
                    outlet.cut(self.now)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.spent[stage] += time.thread_time() - start


def _turns(
    batches: Batches, partitions: int, spread: int, wall_us: Callable[[], int], traced: float
) -> Iterator[list[Run]]:
    """The events in turns as large as the source makes them, from `spread` partitions at a time."""
    queues: dict[int, list[FakeMessage]] = {partition: [] for partition in range(partitions)}
    stamp = (1, wall_us() // 1_000)
    for (topic, partition), messages in batches.items():
        queues[partition] += [
            FakeMessage(topic, message["key"], message["value"], offset, stamp, _context_of(offset, traced))
            for offset, message in enumerate(messages, _offsets[topic, partition])
        ]
        _offsets[topic, partition] += len(messages)
    each = FETCH_PARTITION_BYTES // EVENT_BYTES if spread == 1 else TURN_MESSAGES // spread
    longest, runs = max(len(queue) for queue in queues.values()), Runs()
    for at in range(0, longest, each):
        for first in range(0, partitions, spread):
            for partition in range(first, min(partitions, first + spread)):
                if messages := queues[partition][at : at + each]:
                    runs.add(Run(partition, 1, messages))  # type: ignore[arg-type]
            while runs:
                yield list(runs.take(TURN_MESSAGES))


def _context_of(offset: int, traced: float) -> list[tuple[str, bytes]] | None:
    """A context for so large a share of the records, evenly spread over a log."""
    if int((offset + 1) * traced) == int(offset * traced):
        return None
    return [("traceparent", f"00-{offset + 1:032x}-{offset + 1:016x}-01".encode())]


_offsets: dict[tuple[str, int], int] = defaultdict(int)


def _published(*_: Any) -> None:
    """What the view and the metrics do with a record is not measured here."""


def _die(error: BaseException) -> NoReturn:
    raise error


def _spans() -> BatchSpans:
    """Spans as in a pipeline, for an exporter that drops them; that thread's work is not measured here."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return BatchSpans(provider.get_tracer("stockflow"), provider, "stockflow", time.monotonic, None)


def main() -> int:
    """Measure and show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--rate", type=float, default=50_000, help="events per second of the clock that is played")
    options.add_argument("--spread", type=int, default=1, help="partitions per turn: with a backlog one, else many")
    options.add_argument("--skew", type=float, default=0.0, help="0: all SKUs sell alike; 1: Zipf")
    options.add_argument("--routine-interval-ms", type=int, default=250)
    options.add_argument("--full-mix", action="store_true", help="every kind of event instead of the plain mix")
    options.add_argument("--traced", type=float, default=0.0, help="share of events that carry a trace context")
    options.add_argument("--trace-context", choices=("on", "off"), default="on", help="as STOCKFLOW_TRACE_CONTEXT")
    options.add_argument("--spans", action="store_true", help="make spans, which are exported to nowhere")
    options.add_argument("--profile", action="store_true", help="show where the time goes, by cProfile, instead")
    chosen = options.parse_args()
    shape = Options(chosen.events, chosen.balances, skew=chosen.skew)
    workload = (make_full if chosen.full_mix else make)(shape, START_US + 1_000_000_000)
    tracing = _spans() if chosen.spans else None
    loop = Loop(shape, chosen.routine_interval_ms / 1_000, chosen.traced, chosen.trace_context == "on", tracing)
    loop.run(workload.openings, chosen.rate, chosen.spread)
    before = dict(loop.lists.counts)
    loop.spent = dict.fromkeys(STAGES, 0.0)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    if chosen.profile:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(loop.run, workload.events, chosen.rate, chosen.spread)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(45)
        return 0
    total = loop.run(workload.events, chosen.rate, chosen.spread)

    sent = {topic: count - before.get(topic, 0) for topic, count in loop.lists.counts.items()}
    table = Table(
        title=f"CPU of the worker's thread, {total:,} events at {chosen.rate:,.0f}/s, without Kafka and Redis"
    )
    for title in ("stage", "us per event", "us per record"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    records = {"publish": sent["availability"], "acknowledge": sum(sent.values()), "cut": sent["state"]}
    for stage, seconds in loop.spent.items():
        per_record = f"{seconds / records[stage] * 1e6:.2f}" if stage in records else ""
        table.add_row(stage, f"{seconds / total * 1e6:.2f}", per_record)
    table.add_row("in all", f"{sum(loop.spent.values()) / total * 1e6:.2f}", "", style="bold")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count / total:.2f} {topic} records per event" for topic, count in sent.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
