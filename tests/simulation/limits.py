"""Limits of the program, made so small that what happens beyond them happens in a run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

SMALL_LIMITS: tuple[tuple[str, str, float], ...] = (
    ("sinks.publisher", "IN_FLIGHT_MAX", 6),
    ("sinks.outlet", "GATHERED_MAX", 4),
    ("sources.kafka", "BATCH_MESSAGES", 3),
    ("sources.kafka", "BACKLOG_MESSAGES", 9),
    ("sources.kafka", "BACKLOG", 12),
    ("sources.kafka", "TURN_MESSAGES", 2),
    ("sources.restore", "SLICE_MESSAGES", 4),
    ("sources.restore", "SLICE_MESSAGES_ALONE", 4),
    ("sources.filling", "FILL_PORTIONS", 1),
    ("stock.portions", "PORTION", 3),
    ("sinks.outlet", "SWEEP_KEYS", 1),
    ("sinks.publisher", "SWEEP_PORTIONS", 1),
    ("sinks.outlet", "COMPLETE_INTERVAL_S", 0.5),
    ("stock.ledger", "ACTIVE_MAX", 2),
    ("stock.network", "LOCATIONS_SUMMED_MAX", 4),
    ("stock.network", "PACKED_FROM", 2),
    ("stock.recent", "MERGE_FAN_IN", 3),
    ("stock.recent", "CHUNK_FACTS_MAX", 25),
    ("sinks.redis_view", "RECORDS_PER_TRIP", 2),
    ("sinks.view_sync", "BATCH_RECORDS_MAX", 3),
)


@contextmanager
def small_limits() -> Iterator[None]:
    """While this is open, the program meets its limits all the time."""
    real = [(importlib.import_module(module), name, value) for module, name, value in SMALL_LIMITS]
    before = [getattr(module, name) for module, name, _ in real]
    for module, name, value in real:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(real, before, strict=True):
            setattr(module, name, value)
