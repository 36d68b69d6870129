"""One audit from the first read to the report; reads only, and never asks the pipeline itself.

The outputs are read first, close to the moment that the caller names, because holds end by the clock; the inputs
after them, up to the ends seen at the start. The pipeline should be at rest: whatever it has not yet read or
published is reported as a difference.

Some horizons of the pipeline are not modelled: a repeat that comes after the dedup horizon, a count older than what
the movement log still holds, and a request for a line whose promise the pipeline has forgotten show as differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

import polars as pl

from operations.audit.alerts import PublishedAlerts, compare_alerts
from operations.audit.answers import Answers
from operations.audit.compare import DecodeOutcomes, compare_outcomes, compare_topic, compare_view
from operations.audit.expected import dates_between, expected_records
from operations.audit.inputs import DeadLetters, Inputs
from operations.audit.log import AuditImpossible, Extents, Log, Progress
from operations.audit.networks import VIEW_PREFIX as NETWORK_PREFIX
from operations.audit.networks import PublishedNetworks, compare_networks
from operations.audit.published import Published, read_view
from operations.audit.recompute import Moment, Recomputed, recompute
from operations.audit.report import AuditReport, Findings
from schemas import topics
from schemas.records import micros
from schemas.state import OUTCOMES_KEY, decode_outcomes
from stock.doubts import Thresholds

SETTLE_S = 2.0  # A hold that ends this close to the moment of reading may be seen open or ended.

_SAME_PARTITIONS = (
    *topics.KEYED_INPUTS,
    topics.AVAILABILITY,
    topics.NETWORK_AVAILABILITY,
    topics.RESERVATION_VERDICTS,
    topics.STOCK_ALERTS,
    topics.DEAD_LETTERS,
    topics.STOCK_STATE,
)


def audit(
    client_config: Mapping[str, str],
    topic_name: Callable[[str], str],
    redis_url: str | None,
    now: datetime,
    progress: Progress | None = None,
    decode_outcomes: DecodeOutcomes = decode_outcomes,
    exact_ends: bool = True,
    thresholds: Thresholds | None = None,
) -> AuditReport:
    """Recompute every balance from the input log and compare it with the topic and with Redis.

    Args:
        client_config: librdkafka properties of the cluster.
        topic_name: the broker's name of a registered topic.
        redis_url: where the view is; None leaves it out of the comparison.
        now: the time, timezone-aware, that decides which holds are open.
        progress: called with a label, the records done and the records to do.
        decode_outcomes: reads the stored outcomes of a partition: the state topic's own codec.
        exact_ends: whether the broker's answers about end offsets can be relied on; not so with the demo's
            memory-only one.
        thresholds: from when on something is worth an alert, as the pipeline is set.

    Returns:
        Counts and differences; `equal` is the verdict.

    Raises:
        AuditImpossible: Kafka or Redis cannot be read completely.
    """
    begun = time.monotonic()
    findings = Findings()
    with Log(client_config, topic_name, exact_ends) as log:
        extents = log.extents([topic.name for topic in (*_SAME_PARTITIONS, topics.STOCK_SETTINGS)])
        partitions = _partitions(extents)
        published = Published(partitions, findings)
        for batch in log.read(topics.AVAILABILITY.name, extents[topics.AVAILABILITY.name], progress):
            published.add(batch)
        networks = PublishedNetworks(partitions, findings)
        for batch in log.read(topics.NETWORK_AVAILABILITY.name, extents[topics.NETWORK_AVAILABILITY.name], progress):
            networks.add(batch)
        alerts = PublishedAlerts(partitions, findings)
        for batch in log.read(topics.STOCK_ALERTS.name, extents[topics.STOCK_ALERTS.name], progress):
            alerts.add(batch)
        view = None if redis_url is None else read_view(redis_url, progress)
        network_view = None if redis_url is None else read_view(redis_url, progress, NETWORK_PREFIX)
        latest = SETTLE_S + time.monotonic() - begun
        dead = DeadLetters(topic_name, findings)
        letters = extents[topics.DEAD_LETTERS.name]
        for batch in log.read(topics.DEAD_LETTERS.name, letters, progress, headers=True):
            dead.add(batch)
        outcomes = _outcomes(log, extents, progress)
        answers = Answers(findings)
        for batch in log.read(topics.RESERVATION_VERDICTS.name, extents[topics.RESERVATION_VERDICTS.name], progress):
            answers.add(batch)
        inputs = Inputs(partitions, dead, answers, findings)
        for batch in log.read(topics.STOCK_SETTINGS.name, extents[topics.STOCK_SETTINGS.name], progress):
            inputs.add_settings(batch)
        for topic in topics.KEYED_INPUTS:
            for batch in log.read(topic.name, extents[topic.name], progress):
                inputs.add_facts(batch)
    dead.report_unmatched(extents)
    now_us = micros(now)
    moment = Moment(now_us - int(SETTLE_S * 1_000_000), now_us + int(latest * 1_000_000))
    recomputed = recompute(inputs.facts(), moment)
    settings, items = inputs.settings(), inputs.items()
    dates = dates_between(settings, moment.earliest_us, moment.latest_us)
    rows = [expected_records(recomputed.balances, settings, items, at) for at in (moment.earliest_us, *dates)]
    compare_topic(pl.concat(rows), published.columns(), findings)
    whole = all(extent.start == 0 for extent in extents[topics.STOCK_ALERTS.name].values())
    alerts_open = compare_alerts(
        pl.concat(rows), recomputed, settings, moment, alerts, thresholds or Thresholds(), partitions, whole, findings
    )
    if not dates:
        compare_networks(recomputed, settings, items, moment.earliest_us, networks.by_key(), findings)
    published.report_stale()
    answers.report_unanswered(recomputed.requests)
    answers.report_contradictions()
    for text in recomputed.problems:
        findings.add("verdicts", text)
    if view is not None:
        entries = published.entries()
        compare_view(entries, view, entries.keys() if dates else recomputed.in_flux, findings)
    if network_view is not None:
        network_entries = networks.entries()
        skus_in_flux = {sku for sku, _ in recomputed.in_flux}
        flux = {key for key in network_entries.keys() | network_view.keys() if key[0] in skus_in_flux}
        compare_view(network_entries, network_view, network_entries.keys() if dates else flux, findings)
    reported = compare_outcomes(outcomes, decode_outcomes, extents, dead, recomputed, inputs, findings)
    return AuditReport(
        events=inputs.facts_read,
        settings=inputs.settings_read,
        keys=recomputed.balances.filter(alternative=0).height,
        outcomes=_counts(recomputed, dead, extents, reported),
        redis_keys=None if view is None else len(view),
        differences=findings.kept,
        differences_by_kind=dict(findings.by_kind),
        notes=_notes(extents, recomputed),
        alerts_open=alerts_open,
    )


def _partitions(extents: Extents) -> int:
    """How many partitions every topic has."""
    counts = {topic.name: len(extents[topic.name]) for topic in _SAME_PARTITIONS}
    if len(set(counts.values())) != 1:
        raise AuditImpossible(f"topics differ in their number of partitions: {counts}")
    return counts[topics.AVAILABILITY.name]


def _outcomes(log: Log, extents: Extents, progress: Progress | None) -> dict[int, bytes]:
    """The newest stored outcomes of each partition."""
    found: dict[int, bytes] = {}
    for batch in log.read(topics.STOCK_STATE.name, extents[topics.STOCK_STATE.name], progress):
        for record in batch:
            if record.key == OUTCOMES_KEY.encode() and record.value is not None:
                found[record.partition] = record.value
    return found


def _counts(recomputed: Recomputed, dead: DeadLetters, extents: Extents, reported: Mapping[str, int]) -> dict[str, int]:
    return {
        "applied": sum(recomputed.applied.values()),
        "duplicate": sum(recomputed.duplicates.values()),
        "dead_letter": sum(dead.counts(extents).values()),
        **{f"reported_{outcome}": count for outcome, count in reported.items()},
    }


def _notes(extents: Extents, recomputed: Recomputed) -> list[str]:
    notes = [
        f"{topic.name}[{partition}] starts at offset {extent.start}: what was before it is gone from the log"
        for topic in (*topics.KEYED_INPUTS, topics.STOCK_ALERTS)
        for partition, extent in extents[topic.name].items()
        if extent.start > 0
    ]
    if recomputed.in_flux:
        notes.append(
            f"{len(recomputed.in_flux)} keys had a hold that ended or goods that were due while they were read"
        )
    return notes
