"""Spans of batches: what a collector gets to know, and that nothing about it can hold up or end the pipeline."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dataflows.tracing import LINKS_MAX, TracedBatch
from stockflow.embedded.process import LOOPBACK
from stockflow.tracing import CLOSE_TIMEOUT_S, SPANS_PER_S_MAX, BatchSpans, CannotTrace, open_spans
from tests.collector import Collector, collecting, values

EXPORTS_END_S = 60.0
TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
CONTEXT = [("traceparent", f"00-{TRACE:032x}-{SPAN:016x}-01".encode())]
BATCH = TracedBatch(1_790_000_000_000_000, 700, 2, ("sales",), 3, (CONTEXT,) * 3)


class Log:
    """Notes the events it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.events.append(event)

    def exception(self, event: str, **_: object) -> None:
        self.events.append(event)


class Clock:
    """Goes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    with collecting() as found:
        at(monkeypatch, found.address)
        yield found


@pytest.fixture(autouse=True)
def no_filters_stay() -> Iterator[None]:
    """What one test makes quiet is loud for the next."""
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    before = list(logger.filters)
    yield
    logger.filters = before


@pytest.fixture(autouse=True)
def no_exports_go_on() -> Iterator[None]:
    """What one test leaves behind does not try again, with log lines and random pauses, during others."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(EXPORTS_END_S)
        assert not thread.is_alive(), thread.name


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("NO_PROXY", LOOPBACK)


def opened(clock: Any = time.monotonic, log: Any = None) -> BatchSpans:
    return open_spans("1.2.3", "host-1", "the-group", clock, log or Log())


def test_collector_is_told_of_a_batch_with_links_to_its_events(collector: Collector) -> None:
    """By OpenTelemetry's conventions for messaging; the span belongs to no trace of an event, but is linked to them."""
    spans = opened()
    spans.processed(7, BATCH, BATCH.began_us + 1_500)
    spans.close()
    [span] = collector.spans
    assert (span.name, span.kind, span.parent_span_id) == ("process sales", span.SPAN_KIND_CONSUMER, b"")
    assert span.start_time_unix_nano == BATCH.began_us * 1_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000
    assert values(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": "the-group",
        "messaging.destination.name": "sales",
        "messaging.destination.partition.id": "7",
        "messaging.batch.message_count": 700,
        "stockflow.batch.traced": 3,
        "stockflow.batch.refused": 2,
    }
    assert [(link.trace_id, link.span_id) for link in span.links] == [
        (TRACE.to_bytes(16, "big"), SPAN.to_bytes(8, "big"))
    ] * 3
    assert span.trace_id != span.links[0].trace_id


def test_all_links_of_a_batch_arrive(collector: Collector) -> None:
    """The SDK's own limit is wider."""
    spans = opened()
    spans.processed(0, TracedBatch(1, 900, 0, ("a", "b"), 800, (CONTEXT,) * LINKS_MAX), 2)
    spans.close()
    [span] = collector.spans
    assert (len(span.links), span.dropped_links_count) == (LINKS_MAX, 0)
    assert span.name == "process", "of two topics none stands for both"
    assert "messaging.destination.name" not in values(span.attributes)


@pytest.mark.parametrize(
    ("text", "variables", "name"),
    [
        ("by default", {}, "stockflow"),
        ("as OpenTelemetry's variables say", {"OTEL_SERVICE_NAME": "stock-eu"}, "stock-eu"),
        ("by its attributes", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=x,deployment.environment=test"}, "x"),
    ],
)
def test_spans_name_their_service(
    text: str, variables: dict[str, str], name: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And which process of it."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    spans = opened()
    spans.processed(0, BATCH, BATCH.began_us)
    spans.close()
    [resource] = collector.resources
    assert (resource["service.name"], resource["service.version"]) == (name, "1.2.3"), text
    assert resource["service.instance.id"] == "host-1"
    assert ("deployment.environment" in resource) is ("OTEL_RESOURCE_ATTRIBUTES" in variables)


def test_spans_are_bounded_by_time_and_say_what_is_left_out(collector: Collector) -> None:
    """Whatever is followed, they cost some percent of a core at most."""
    clock = Clock()
    spans = opened(clock)
    for _ in range(SPANS_PER_S_MAX + 40):
        spans.processed(0, BATCH, BATCH.began_us)
    clock.now += 2.5 / SPANS_PER_S_MAX
    for _ in range(3):
        spans.processed(0, BATCH, BATCH.began_us)
    spans.close()
    left_out = [values(span.attributes).get("stockflow.batches_left_out") for span in collector.spans]
    assert left_out == [None] * SPANS_PER_S_MAX + [40, None]


def test_collector_that_is_away_costs_the_pipeline_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More spans than are kept, and an end that waits a moment only."""
    with socket.socket() as silent:
        silent.bind((LOOPBACK, 0))
        silent.listen(8)  # it takes connections and never answers
        at(monkeypatch, f"http://{LOOPBACK}:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "60")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        log = Log()
        spans = opened(log=log)
        began = time.thread_time()
        for _ in range(SPANS_PER_S_MAX):
            spans.processed(0, BATCH, BATCH.began_us)
        assert time.thread_time() - began < 1.0
        began = time.monotonic()
        spans.close()
        assert CLOSE_TIMEOUT_S <= time.monotonic() - began < CLOSE_TIMEOUT_S + 1.5
        assert log.events == ["spans_left_behind"]


def test_fault_of_the_sdk_ends_the_spans_and_nothing_else() -> None:
    """It is logged once."""

    class Broken:
        def start_span(self, *_: object, **__: object) -> None:
            raise RuntimeError("a sampler's bug")

    log = Log()
    spans = BatchSpans(Broken(), None, "g", time.monotonic, log)
    for _ in range(3):
        spans.processed(0, BATCH, BATCH.began_us)
    assert log.events == ["no_more_spans"]


def test_useless_variable_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OpenTelemetry's own words."""
    at(monkeypatch, "http://localhost:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(CannotTrace, match=r"OTEL_BSP_\*.*max_queue_size"):
        opened()


def test_start_without_the_packages_is_refused_with_what_to_do() -> None:
    """Before a broker is asked for anything; without the variable nobody misses them."""
    program = "import sys; sys.modules['opentelemetry'] = None; from stockflow.cli import main; main()"
    variables = ["STOCKFLOW_BOOTSTRAP_SERVERS=127.0.0.1:1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"]
    command = ["/usr/bin/env", *variables, sys.executable, "-c", program, "run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "install stockflow[tracing], or set OTEL_SDK_DISABLED=true" in ended.stdout
