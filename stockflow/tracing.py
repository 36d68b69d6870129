"""Spans of batches for a collector, by OpenTelemetry's SDK, which exports in a thread of its own.

Nothing here may hold up or end the pipeline: what cannot be told in time is left out, and counted in the next span.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from dataflows.tracing import TracedBatch
from schemas.traces import ids_of
from stockflow.logs import Sparse

SPANS_PER_S_MAX = 100  # One with all its links costs some 300 us of CPU with its export: about 3 % of a core.
CLOSE_TIMEOUT_S = 2.0
LOG_INTERVAL_S = 60.0  # A collector that is away is worth a line now and then.


class CannotTrace(Exception):
    """Spans are asked for, but cannot be made; the text says what to do."""


class BatchSpans:
    """One span for each batch in which somebody follows an event, linked to the spans that these were sent in.

    It is the root of a trace of its own: a batch has many parents or none. `processed` is called by the worker's
    thread and `close` by whoever ends the process; both are through within a moment.

    Args:
        tracer, provider: of OpenTelemetry's SDK.
        group_id: of the consumers.
        clock: monotonic seconds.
        log: a structured logger.
    """

    def __init__(self, tracer: Any, provider: Any, group_id: str, clock: Callable[[], float], log: Any) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

        self._tracer, self._provider, self._clock, self._log = tracer, provider, clock, log
        self._root, self._kind, self._sampled = Context(), SpanKind.CONSUMER, TraceFlags(TraceFlags.SAMPLED)
        self._link, self._span_context = Link, SpanContext
        self._same = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.consumer.group.name": group_id,
        }
        self._allowed, self._counted_at = float(SPANS_PER_S_MAX), clock()
        self._left_out = 0
        self._failed = False

    def processed(self, partition: int, batch: TracedBatch, ended_us: int) -> None:
        """Make the span of a batch that is through, unless there were too many lately; never blocks, never raises."""
        if self._failed or not self._may_tell():
            self._left_out += 1
            return
        try:
            self._tell(partition, batch, ended_us)
        except Exception as error:  # noqa: BLE001 - whatever a sampler or the SDK gets wrong, stock goes on
            self._failed = True
            self._log.exception("no_more_spans", error=str(error))

    def close(self) -> None:
        """Export what waits, as far as a moment allows."""
        worker = threading.Thread(target=self._provider.shutdown, name="close-tracing", daemon=True)
        worker.start()
        worker.join(CLOSE_TIMEOUT_S)
        if worker.is_alive():
            self._log.warning("spans_left_behind", waited_s=CLOSE_TIMEOUT_S)

    def _may_tell(self) -> bool:
        now = self._clock()
        self._allowed = min(SPANS_PER_S_MAX, self._allowed + (now - self._counted_at) * SPANS_PER_S_MAX)
        self._counted_at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def _tell(self, partition: int, batch: TracedBatch, ended_us: int) -> None:
        attributes: dict[str, Any] = {
            **self._same,
            "messaging.destination.partition.id": str(partition),
            "messaging.batch.message_count": batch.messages,
            "stockflow.batch.traced": batch.traced,
            "stockflow.batch.refused": batch.refused,
        }
        name = "process"
        if len(batch.topics) == 1:  # Of a batch of several topics the conventions let none stand for all.
            name, attributes["messaging.destination.name"] = f"process {batch.topics[0]}", batch.topics[0]
        if self._left_out:
            attributes["stockflow.batches_left_out"], self._left_out = self._left_out, 0
        links = [
            self._link(self._span_context(trace_id, span_id, True, self._sampled))
            for trace_id, span_id in map(ids_of, batch.traces)
        ]
        span = self._tracer.start_span(
            name, self._root, self._kind, attributes, links, start_time=batch.began_us * 1_000
        )
        span.end(ended_us * 1_000)


def open_spans(version: str, writer: str, group_id: str, clock: Callable[[], float], log: Any) -> BatchSpans:
    """Spans that go to the collector of the environment; the SDK reads its own `OTEL_*` variables.

    Raises:
        CannotTrace: the packages are missing, or one of the variables is of no use.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise CannotTrace(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for spans, but OpenTelemetry is not installed ({error}): "
            "install stockflow[tracing], or set OTEL_SDK_DISABLED=true"
        ) from error
    ours = {"service.name": "stockflow", "service.version": version, "service.instance.id": writer}
    resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(Sparse(LOG_INTERVAL_S, clock, lambda record: record.msg))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    try:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise CannotTrace(f"a variable of OpenTelemetry (OTEL_BSP_*, OTEL_EXPORTER_OTLP_*): {error}") from error
    return BatchSpans(provider.get_tracer("stockflow", version), provider, group_id, clock, log)
