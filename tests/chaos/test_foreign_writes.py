"""A process that sleeps through its own replacement and then sends what it still had: detected and repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from operations.audit.log import LogRecord
from schemas.state import CLAIM_KEY, open_envelope
from schemas.topics import AVAILABILITY, STOCK_STATE
from stockflow.embedded import KafkaBroker, RedisServer
from tests.chaos.rounds import SESSION_MS, ChaosStage, lease_below
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

# What is sent stands in the producer's buffer for so long: enough to be caught asleep with it.
LINGER_MS = 1_000
# Longer than the sleep, against the rule that it ends before the session does: otherwise the lease would silence the
# process when it wakes up, and there would be nothing to detect.
LONG_LEASE_MS = 60_000
BUFFERED_MIN = 5
ATTEMPTS_MAX = 3
VERSION_SHIFT = 32


@pytest.fixture
def stages(
    short_sessions: KafkaBroker,
    fresh_topics: Callable[..., str],
    private_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> Iterator[Callable[[], ChaosStage]]:
    """A function that sets a stage with one partition on the broker with short sessions."""
    with ExitStack() as stack:

        def make() -> ChaosStage:
            prefix = fresh_topics(1, short_sessions.bootstrap)
            made = ChaosStage(short_sessions.bootstrap, prefix, 1, private_redis().url, tmp_path / prefix, {})
            stack.callback(made.close)
            return made

        yield make


def test_records_that_a_sleeper_sends_after_its_replacement_are_followed_by_newer_ones(
    stages: Callable[[], ChaosStage],
) -> None:
    """SIGSTOP with full buffers, takeover, SIGCONT: the late records stand on both topics, and none of them last."""
    for _ in range(ATTEMPTS_MAX):
        if woken_up_behind_a_new_owner(stages(), seed=71):
            return
    pytest.fail(f"in {ATTEMPTS_MAX} attempts no late record came to both topics")


def woken_up_behind_a_new_owner(stage: ChaosStage, seed: int) -> bool:
    """Play the scenario once; whether late records came to both topics. If they did, everything was as it must be."""
    load = Sending(stage.bootstrap, stage.prefix)
    try:
        sleeper = stage.process({"LINGER_MS": str(LINGER_MS), "LEASE_MS": str(LONG_LEASE_MS)})
        sleeper.is_supervised, sleeper.may_end = False, True
        sleeper.start()
        load.start(stories(seed, stage.partitions, items_percent=0), per_second=200)
        stage.wait_for_records(20)
        stage.eventually(
            lambda: sleeper.metric("stockflow_unacknowledged_records") >= BUFFERED_MIN, "records wait in its buffer"
        )
        sleeper.pause()
        heir = stage.process({"LEASE_MS": str(lease_below(SESSION_MS))}).launch()
        stage.eventually(lambda: heir.owned == stage.partitions, "the heir owns the partition")
        stage.wait_for_records(20)
        foreign = heir.metric("stockflow_foreign_writes_total")
        assert foreign == 0
        sleeper.resume()
        load.wait_for_more(100)
        settle(stage, load, late_records=True)
        view, state = stage.read(AVAILABILITY), stage.read(STOCK_STATE)
        late_view, late_state = late(view, view_generation), late(state, state_generation)
        if not late_view or not late_state:
            return False
        stage.eventually(
            lambda: not not_followed(stage.read(AVAILABILITY), late_view, view_generation), "newer records follow"
        )
        stage.eventually(
            lambda: not not_followed(stage.read(STOCK_STATE), late_state, state_generation), "newer state follows"
        )
        assert heir.metric("stockflow_foreign_writes_total") > foreign
        told = {line["topic"] for line in heir.logged("foreign_write")}
        # Letters that waited in its buffer may come late as well.
        assert told >= {stage.topic(AVAILABILITY.name), stage.topic(STOCK_STATE.name)}
        assert heir.pid is not None
        return True
    finally:
        load.close()


Generation = Callable[[LogRecord], int]


def view_generation(record: LogRecord) -> int:
    """Which generation wrote an availability record."""
    return 0 if record.value is None else int(json.loads(record.value)["version"]) >> VERSION_SHIFT


def state_generation(record: LogRecord) -> int:
    """Which generation wrote a state record or made a claim; a deletion does not say."""
    return 0 if record.value is None else open_envelope(record.value)[0]


def late(records: Iterable[LogRecord], generation: Generation) -> list[LogRecord]:
    """Records of one partition that stand behind those of a newer generation."""
    newest, found = 0, []
    for record in records:
        written_by = generation(record)
        if 0 < written_by < newest:
            found.append(record)
        newest = max(newest, written_by)
    return found


def not_followed(records: list[LogRecord], late_ones: list[LogRecord], generation: Generation) -> list[str]:
    """Late records behind which no newer record of their key stands."""
    last = {record.key: record for record in records if record.key != CLAIM_KEY.encode()}
    return [
        f"{record.key!r}@{record.offset}"
        for record in late_ones
        if last[record.key].offset == record.offset
        or (last[record.key].value is not None and generation(last[record.key]) <= generation(record))
    ]
