"""The end of a long run: recomputation, topic and Redis say the same, and nothing was told twice or went back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from operations.audit import audit
from operations.audit.log import AuditImpossible, Log, LogRecord
from schemas.topics import AVAILABILITY, DEAD_LETTERS
from tests.e2e.harness import Stage
from tests.e2e.load import utc_now
from tests.e2e.verdict import letter_problems, version_problems
from tests.soak.load import Load

EQUAL_TIMEOUT_S = 600.0
SHOWN = 10


def problems_of(stage: Stage, load: Load, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """What is wrong at rest; nothing at all is the only good answer. Also what the comparison covered, for people.

    An audit that differs is repeated for a while, since the view may still be catching up.
    """
    deadline = time.monotonic() + EQUAL_TIMEOUT_S
    while True:
        say("audit: recomputing everything from the log")
        try:
            report = audit(stage.client_config, stage.topic, stage.redis_url, utc_now())
        except AuditImpossible as error:
            if time.monotonic() > deadline:
                return [f"audit: {error}"], []
            continue
        if report.equal or time.monotonic() > deadline:
            break
    problems = [f"audit: {text}" for text in report.differences[:SHOWN]]
    if report.differences_total > len(problems):
        problems.append(f"audit: {report.differences_total:,} differences in all")
    if report.events != load.delivered:
        problems.append(f"the log holds {report.events:,} events, {load.delivered:,} were sent")
    if report.outcomes["duplicate"] != load.repeats:
        problems.append(f"{report.outcomes['duplicate']:,} repeats are in the log, {load.repeats:,} were sent")
    covered = [f"{report.events:,} events, {report.keys:,} keys, {report.redis_keys or 0:,} in Redis"]
    covered += [", ".join(f"{name} {count:,}" for name, count in report.outcomes.items())]
    covered += [f"note: {note}" for note in report.notes[:SHOWN]]
    say("versions: reading the availability topic")
    problems += version_problems(_records(stage, AVAILABILITY.name), late_records=True)[:SHOWN]
    say("dead letters: comparing each with what was sent")
    problems += letter_problems(_records(stage, DEAD_LETTERS.name), load.refused, stage.prefix)[:SHOWN]
    covered.append(f"{len(load.refused):,} refused records, each once in the dead letters, byte for byte")
    return problems, covered


def _records(stage: Stage, topic: str) -> Iterator[LogRecord]:
    """All records of a topic, a batch in memory at a time."""
    with Log(stage.client_config, stage.topic) as log:
        for batch in log.read(topic, log.extents([topic])[topic], headers=topic == DEAD_LETTERS.name):
            yield from batch
