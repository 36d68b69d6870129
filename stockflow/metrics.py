"""Every metric stockflow exports, with its meaning, in one place; read at scrape time, so no event pays for it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dataflows.keep_balances import BalanceStats
from schemas.events import type_name
from schemas.topics import AVAILABILITY, NETWORK_AVAILABILITY, STOCK_STATE
from sinks.latency import BUCKETS_S, LANES, LaneLatencies, Latencies
from sinks.publisher import Publisher
from sinks.redis_view import RedisView
from sources.commits import Commits
from sources.kafka import SourceStats
from stock.alerts import KINDS
from stock.ledger import DEAD_LETTER, OUTCOMES
from stockflow import __version__


@dataclass(frozen=True)
class Measured:
    """Where the numbers live. They belong to other threads: reading them may see a moment in between."""

    balances: BalanceStats
    source: SourceStats
    publisher: Publisher
    commits: Commits
    views: tuple[RedisView, ...]
    visible: LaneLatencies
    clock: Callable[[], float]
    topic_of: dict[str, str]
    partitions: int


class PipelineCollector(Collector):
    """Turns the pipeline's own counts into metric families. Names are stored in dashboards and alerts."""

    def __init__(self, measured: Measured) -> None:
        self._m = measured

    def collect(self) -> Iterator[Metric]:
        """All families, one scrape."""
        yield from self._events()
        yield from self._latency()
        yield from self._partitions()
        yield from self._outputs()
        yield from self._redis()
        build = InfoMetricFamily("stockflow_build", "Versions of this process")
        build.add_metric(
            [],
            {"version": __version__, "python": platform.python_version(), "bytewax": version("bytewax")},
        )
        yield build

    def _events(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "stockflow_events", "Input records by type and outcome", labels=["type", "outcome"]
        )
        for kind, counts in self._m.balances.events.items():
            for outcome, count in zip(OUTCOMES, counts, strict=True):
                if count:
                    events.add_metric([type_name(kind), outcome], count)
        if self._m.balances.refused:
            events.add_metric(["refused", OUTCOMES[DEAD_LETTER]], self._m.balances.refused)
        yield events
        letters = CounterMetricFamily("stockflow_dead_letters", "Records sent to the dead letters", labels=["reason"])
        for reason, count in list(self._m.publisher.stats.letters_by_reason.items()):
            letters.add_metric([reason], count)
        yield letters

    def _latency(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "stockflow_update_latency_seconds",
            "From the input record's timestamp to the stage: applied per event, the others per record and lane",
            labels=["stage", "lane"],
        )
        _add(family, "applied", "", self._m.balances.applied)
        for stage, latencies in (("acknowledged", self._m.publisher.acknowledged), ("visible", self._m.visible)):
            for lane, of_lane in zip(LANES, latencies.by_lane, strict=True):
                _add(family, stage, lane, of_lane)
        yield family

    def _partitions(self) -> Iterator[Metric]:
        source, now = self._m.source, self._m.clock()
        owned = GaugeMetricFamily(
            "stockflow_partitions", "Partitions by state of ownership; all: how many there are", labels=["state"]
        )
        owned.add_metric(["owned"], source.owned)
        owned.add_metric(["live"], source.live)
        owned.add_metric(["catching_up"], source.catching_up)
        owned.add_metric(["all"], self._m.partitions)
        yield owned
        lag = GaugeMetricFamily("stockflow_lag_events", "Input records not read yet", labels=["topic", "partition"])
        for (topic, partition), count in list(source.lag.items()):
            lag.add_metric([self._m.topic_of.get(topic, topic), str(partition)], count)
        yield lag
        restored = GaugeMetricFamily(
            "stockflow_restore_records", "State records read for a partition being restored", labels=["partition"]
        )
        for partition, count in list(source.restoring.items()):
            restored.add_metric([str(partition)], count)
        yield restored
        yield GaugeMetricFamily(
            "stockflow_commit_age_seconds",
            "Since the sending of the last acknowledged commit; 0 while nothing is owned",
            value=self._m.commits.age_s(now),
        )
        commits = CounterMetricFamily("stockflow_commits", "Answers to commits", labels=["result"])
        commits.add_metric(["acknowledged"], self._m.commits.stats.commits)
        commits.add_metric(["failed"], self._m.commits.stats.failures)
        yield commits
        yield GaugeMetricFamily(
            "stockflow_turn_age_seconds", "Since the worker last took a turn", value=max(0.0, now - source.turn_at)
        )

    def _outputs(self) -> Iterator[Metric]:
        publisher, outlets = self._m.publisher, list(self._m.publisher.outlets.values())
        published = CounterMetricFamily(
            "stockflow_records_published", "Records sent, by topic and lane", labels=["topic", "lane"]
        )
        for lane, count in publisher.stats.records_by_lane.items():
            published.add_metric([AVAILABILITY.name, lane], count)
        for lane, count in publisher.stats.networks_by_lane.items():
            published.add_metric([NETWORK_AVAILABILITY.name, lane], count)
        published.add_metric([STOCK_STATE.name, "state"], publisher.stats.state_records)
        yield published
        yield GaugeMetricFamily(
            "stockflow_unacknowledged_records",
            "Records sent and not acknowledged",
            value=sum(outlet.backlog for outlet in outlets),
        )
        yield CounterMetricFamily(
            "stockflow_foreign_writes",
            "Stretches of our own output partitions that somebody else wrote",
            value=publisher.stats.foreign_writes,
        )
        yield GaugeMetricFamily(
            "stockflow_balances", "Balances held", value=sum(len(outlet.ledger) for outlet in outlets)
        )
        yield CounterMetricFamily(
            "stockflow_counts_too_old",
            "Counts not applied because movements after them are no longer remembered one by one",
            value=sum(outlet.ledger.counts_too_old for outlet in outlets),
        )
        yield GaugeMetricFamily(
            "stockflow_orders_remembered",
            "Holds and order lines held, open or closed",
            value=sum(len(outlet.ledger.commitments) for outlet in outlets),
        )
        yield GaugeMetricFamily(
            "stockflow_facts_remembered",
            "Ids held to recognise repeats (about 200 bytes each)",
            value=sum(len(outlet.ledger.recent.ids) for outlet in outlets),
        )
        yield from self._alerts()
        yield GaugeMetricFamily(
            "stockflow_rule_changes_pending",
            "Rule changes whose keys have not all been looked at, over partitions",
            value=sum(outlet.sweeping for outlet in outlets),
        )

    def _alerts(self) -> Iterator[Metric]:
        outlets = list(self._m.publisher.outlets.values())
        told = CounterMetricFamily("stockflow_alerts", "Alerts that readers were told of", labels=["kind", "state"])
        for (kind, state), count in list(self._m.publisher.stats.alerts.items()):
            told.add_metric([kind, state], count)
        yield told
        open_ = GaugeMetricFamily("stockflow_alerts_open", "Alerts that are open", labels=["kind"])
        for kind in KINDS:
            count = sum(outlet.ledger.alerts.open_by_kind.get(kind, 0) for outlet in outlets)
            if count:
                open_.add_metric([kind], count)
        yield open_
        yield CounterMetricFamily(
            "stockflow_alerts_left_out",
            "Times that an alert was not opened because there were so many of its kind in its partition",
            value=sum(outlet.ledger.alerts.left_out for outlet in outlets),
        )
        counted = CounterMetricFamily(
            "stockflow_counted_units",
            "Sums over counts that could be compared: units expected, and units off. Accuracy is 1 - off / expected",
            labels=["figure"],
        )
        for at, figure in enumerate(("expected", "off")):
            counted.add_metric([figure], sum(outlet.ledger.counted_units[at] for outlet in outlets))
        yield counted

    def _redis(self) -> Iterator[Metric]:
        views = [view.stats for view in self._m.views]
        connected = all(stats.connected for stats in views)
        yield GaugeMetricFamily("stockflow_redis_connected", "1 while Redis answers", value=int(connected))
        yield GaugeMetricFamily(
            "stockflow_redis_backlog_keys",
            "Keys whose newest record is not in Redis yet",
            value=sum(stats.backlog for stats in views),
        )
        yield CounterMetricFamily(
            "stockflow_redis_writes", "Fields written to Redis", value=sum(stats.writes for stats in views)
        )
        yield CounterMetricFamily(
            "stockflow_redis_refused_older",
            "Writes refused because Redis had a newer version",
            value=sum(stats.refused_older for stats in views),
        )
        yield CounterMetricFamily(
            "stockflow_redis_resyncs", "Partitions read again into Redis", value=sum(stats.resyncs for stats in views)
        )
        yield CounterMetricFamily(
            "stockflow_redis_errors", "Failed attempts to reach Redis", value=sum(stats.errors for stats in views)
        )


def _add(family: HistogramMetricFamily, stage: str, lane: str, latencies: Latencies) -> None:
    total, buckets = 0, []
    for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], list(latencies.counts), strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([stage, lane], buckets, latencies.sum_s)


def registry_for(measured: Measured) -> CollectorRegistry:
    """A registry with the pipeline's metrics and nothing else."""
    registry = CollectorRegistry()
    registry.register(PipelineCollector(measured))
    return registry
