"""Counts of latencies in fixed buckets, cheap enough for every record; never a metrics library."""

from __future__ import annotations

from bisect import bisect_left

# Seconds. Fine where the promise lies (milliseconds), coarse where only an outage ends up.
BUCKETS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0,
)  # fmt: skip


class Latencies:
    """One histogram: `counts[i]` observations up to `BUCKETS_S[i]`, the last of them above all."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count one latency, or several that are equal; below zero (another machine's clock) counts as zero."""
        if seconds < 0:
            seconds = 0.0
        self.counts[bisect_left(BUCKETS_S, seconds)] += times
        self.sum_s += seconds * times


LANES = ("routine", "urgent")


class LaneLatencies:
    """Latencies of availability records by lane, from the oldest input behind each to some stage.

    A mark carries what must be known later about a record in one number: its input's timestamp and its lane.
    """

    __slots__ = ("by_lane",)

    def __init__(self) -> None:
        self.by_lane = (Latencies(), Latencies())

    @staticmethod
    def mark(since_us: int, urgent: bool) -> int:
        """The mark of a record; `since_us` is 0 if no input is behind it."""
        return since_us << 1 | urgent

    def observe(self, mark: int, now_us: int) -> None:
        """Count one record as having reached the stage now; records without an input behind them are not counted."""
        since_us = mark >> 1
        if since_us:
            self.by_lane[mark & 1].observe((now_us - since_us) / 1e6)
