"""Traces through a running process: contexts from a real topic to real outputs, and spans at a real collector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from schemas.topics import AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY, RESERVATION_VERDICTS, Topic
from stock.events import ReservationRequested, StockFact, WmsReceipt
from tests.collector import collecting, values
from tests.e2e.harness import Stage
from tests.e2e.load import Record, Sending, Sent, record_of, utc_now

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

TRACES = 12


def saying(sku: str, id: str) -> dict[str, Any]:
    return {"id": id, "source": "wms", "occurred_at": utc_now(), "sku": sku, "location": "STORE-A"}


def parent(number: int) -> bytes:
    return f"00-{number:032x}-{number:016x}-01".encode()


def followed(event: StockFact, number: int) -> Record:
    """An event whose trace is known by its number."""
    return replace(record_of(event), headers=(("traceparent", parent(number)), ("tracestate", b"shop=1")))


def contexts(on: Stage, topic: Topic) -> list[dict[str, Any]]:
    """Of each record, the context in its headers."""
    wanted = ("traceparent", "tracestate")
    return [{n: v for n, v in record.headers or () if n in wanted} for record in on.read(topic)]


def test_traces_go_through_to_the_outputs_and_to_the_collector(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Receipts, a request and a refused record are followed, others are not; an orderly stop tells what waits."""
    with collecting() as collector:
        on = stage(partitions=1)
        load = sending(on)
        pipeline = on.pipeline()
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "NO_PROXY": "127.0.0.1"}
        # A schedule that this test does not live to see: what arrives, the end has sent.
        variables |= {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_SERVICE_NAME": "stock-test"}
        pipeline.program = ["/usr/bin/env", *(f"{k}={v}" for k, v in variables.items()), *pipeline.program]
        pipeline.start()

        sent: list[Sent] = []
        receipts = [WmsReceipt(**saying(f"SKU-{number}", f"r-{number}"), units=5) for number in range(2 * TRACES)]
        for number, receipt in enumerate(receipts):
            load.send(followed(receipt, number + 1) if number < TRACES else record_of(receipt), sent)
        on.eventually(lambda: on.published() == len(receipts), "all receipts are published")
        own = {"reservation": "R", "units": 1, "mode": "ship"}
        load.send(followed(ReservationRequested(**saying("SKU-20", "q"), **own), 100), sent)
        load.send(replace(followed(receipts[0], 200), value=b"not json"), sent)
        on.eventually(lambda: len(contexts(on, RESERVATION_VERDICTS)) == 1, "the request is answered")
        on.eventually(lambda: len(contexts(on, DEAD_LETTERS)) == 1, "the other record is refused")
        on.wait_until_committed()
        on.stop(pipeline)

        def said(number: int) -> dict[str, Any]:
            return {"traceparent": parent(number), "tracestate": b"shop=1"}

        for topic in (AVAILABILITY, NETWORK_AVAILABILITY):
            found = contexts(on, topic)
            assert [one for one in found if one] == [*(said(number + 1) for number in range(TRACES)), said(100)]
            assert found.count({}) == TRACES
        assert contexts(on, RESERVATION_VERDICTS) == [said(100)]
        assert contexts(on, DEAD_LETTERS) == [said(200)]

        links = [int.from_bytes(link.trace_id, "big") for span in collector.spans for link in span.links]
        assert sorted(links) == [*range(1, TRACES + 1), 100, 200]
        told = [values(span.attributes) for span in collector.spans]
        assert sum(one["stockflow.batch.traced"] for one in told) == len(links)
        assert sum(one["stockflow.batch.refused"] for one in told) == 1
        assert {one["messaging.consumer.group.name"] for one in told} == {on.group}
        assert {resource["service.name"] for resource in collector.resources} == {"stock-test"}
        assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 0 for span in collector.spans)


def test_collector_that_nobody_answers_for_is_no_reason_to_stop(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Events are applied and committed, and the end is in good order."""
    on = stage(partitions=1)
    load = sending(on)
    pipeline = on.pipeline()
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "NO_PROXY=127.0.0.1", "OTEL_BSP_SCHEDULE_DELAY=20")
    pipeline.program = ["/usr/bin/env", *variables, *pipeline.program]
    pipeline.start()
    for number in range(TRACES):
        load.send(followed(WmsReceipt(**saying(f"SKU-{number}", f"r-{number}"), units=5), number + 1))
    on.eventually(lambda: on.published() == TRACES, "all receipts are published")
    refusals = "Transient error"
    on.eventually(lambda: any(refusals in str(line.get("event")) for line in pipeline.log_lines()), "the log says so")
    on.wait_until_committed()
    on.stop(pipeline)
    assert sum(refusals in str(line.get("event")) for line in pipeline.log_lines()) == 1
