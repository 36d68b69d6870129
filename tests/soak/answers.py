"""When each fact's availability record can be read: its latency from the time it was due; never asks the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import msgspec
from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from hdrh.histogram import HdrHistogram

from stockflow.embedded.process import wait_until

LATENCY_US_MAX = 300_000_000
DIGITS = 2  # An error of at most a percent.
GIVEN_UP_S = 180.0  # A fact that no record has named for so long was conflated with a newer one of its key.
SWEEP_S = 10.0
SLOT_S = 10.0


class _Cause(msgspec.Struct):
    id: str


class _Record(msgspec.Struct):
    lane: str
    cause: _Cause | None = None


class Slot:
    """The latencies of the facts that fell due within ten seconds: all, and those of urgent records alone."""

    def __init__(self) -> None:
        self.all = HdrHistogram(1, LATENCY_US_MAX, DIGITS)
        self.urgent = HdrHistogram(1, LATENCY_US_MAX, DIGITS)


class Answers:
    """Reads the availability topic from its end on; `slots` holds latencies by ten seconds since `begin`.

    A fact counts when the first record names it as its cause, from the time it was due. Where one record stands for
    several facts of a key, only the newest is named; `conflated` counts the others.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int, due: dict[str, float]) -> None:
        self.begin = time.monotonic()
        self.slots: dict[int, Slot] = {}
        self.answered = self.conflated = self.records = 0
        self._due = due
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "soak-reader", "fetch.wait.max.ms": 100, "log_level": 0}
        )
        self._places = [TopicPartition(topic, partition, OFFSET_END) for partition in range(partitions)]
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Begin at the end of the topic; nothing that is published from now on is missed."""
        self._consumer.assign(self._places)
        assert wait_until(self._at_end, 30), "the reader of the availability topic does not start"
        self.begin = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the reading; what went wrong in it fails here."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        self.conflated += len(self._due)
        self.check()

    def check(self) -> None:
        """Do nothing while the reading goes on."""
        if self._failure is not None:
            raise AssertionError("the reader of the availability topic failed") from self._failure

    def percentiles(self, numbers: Iterable[int]) -> dict[str, float]:
        """Milliseconds over some slots together; without facts in them nothing."""
        total = Slot()
        for number in numbers:
            if number in self.slots:
                total.all.add(self.slots[number].all)
                total.urgent.add(self.slots[number].urgent)
        return percentiles(total)

    def _at_end(self) -> bool:
        self._consumer.poll(0.1)
        return all(
            (self._consumer.get_watermark_offsets(place, cached=True) or (0, -1))[1] >= 0 for place in self._places
        )

    def _run(self) -> None:
        decode, swept = msgspec.json.Decoder(_Record).decode, time.monotonic()
        try:
            while not self._stop.is_set():
                first = self._consumer.poll(0.1)
                now = time.monotonic()
                if now - swept > SWEEP_S:
                    swept = now
                    self._give_up(now - GIVEN_UP_S)
                if first is None:
                    continue
                for message in (first, *self._consumer.consume(1_000, 0)):
                    value = message.value()
                    if message.error() is None and value is not None:
                        self._take(decode(value), now)
        except Exception as error:  # noqa: BLE001 - told by `stop`, in the thread that can fail the run
            self._failure = error

    def _take(self, record: _Record, now: float) -> None:
        self.records += 1
        due = None if record.cause is None else self._due.pop(record.cause.id, None)
        if due is None:
            return
        self.answered += 1
        slot = self.slots.setdefault(int((due - self.begin) / SLOT_S), Slot())
        us = max(1, int((now - due) * 1e6))
        slot.all.record_value(us)
        if record.lane == "urgent":
            slot.urgent.record_value(us)

    def _give_up(self, before: float) -> None:
        # A copy is made at once; a list of the items is not, and the load goes on adding to them.
        for id in [id for id, due in self._due.copy().items() if due < before]:
            self.conflated += self._due.pop(id, None) is not None


def percentiles(slot: Slot) -> dict[str, float]:
    """Milliseconds at p50 and p99, and how many; what was not seen is left out."""
    found: dict[str, float] = {}
    for name, histogram in (("", slot.all), ("urgent_", slot.urgent)):
        if count := histogram.get_total_count():
            found[f"{name}count"] = count
            for quantile in (50, 99):
                found[f"{name}p{quantile}_ms"] = histogram.get_value_at_percentile(quantile) / 1e3
    return found
