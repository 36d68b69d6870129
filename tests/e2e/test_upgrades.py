"""State that a program does not understand, and topics that have grown: it ends, says why, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # public, not marked as exported

from operations.audit.log import LogRecord
from schemas.state import CLAIM_KEY, decode_claim, decode_metadata
from schemas.topics import AVAILABILITY, DEAD_LETTERS, KEYED_INPUTS, STOCK_STATE, TOPICS
from tests.e2e.harness import KAFKA_TIMEOUT_S, Pipeline, Stage
from tests.e2e.load import Sending, stories
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

OUTPUTS = (STOCK_STATE, AVAILABILITY, DEAD_LETTERS)


@pytest.fixture
def stopped(stage: Callable[..., Stage], sending: Callable[[Stage], Sending]) -> Callable[[int], tuple[Stage, Sending]]:
    """A function that lets a process work on so many partitions for a while, and stops it in good order."""

    def work(partitions: int) -> tuple[Stage, Sending]:
        on = stage(partitions=partitions)
        load = sending(on)
        pipeline = on.pipeline().start()
        load.start(stories(seed=51, partitions=partitions), per_second=200)
        on.wait_for_records(50)
        load.stop()
        on.wait_until_committed()
        on.stop(pipeline)
        return on, load

    return work


def in_order(records: list[LogRecord]) -> list[LogRecord]:
    """Records by partition and offset: partitions are read side by side, in no order among each other."""
    return sorted(records, key=lambda record: (record.partition, record.offset))


def refused(on: Stage) -> str:
    """What a process says before it ends by itself; it must have written nothing at all."""
    before = [in_order(on.read(topic)) for topic in OUTPUTS]
    pipeline: Pipeline = on.pipeline()
    pipeline.may_end = True
    pipeline.launch()
    on.eventually(lambda: pipeline.exit_code is not None, "it ends")
    assert pipeline.exit_code == 1
    assert [in_order(on.read(topic)) for topic in OUTPUTS] == before
    (said,) = pipeline.logged("fatal") + pipeline.logged("cannot_start")
    return f"{said['error']} {said.get('advice')}"


def test_state_that_is_not_understood_stops_a_process_before_it_writes(
    stopped: Callable[[int], tuple[Stage, Sending]],
) -> None:
    """A record cut short, which can be repaired, then a newer format: exit code 1 with what to do, no record more."""
    on, load = stopped(1)
    newest = {record.key: record for record in on.read(STOCK_STATE) if record.value is not None}
    victim = next(record for key, record in newest.items() if key is not None and not key.startswith(b"|"))
    assert victim.value is not None
    assert victim.key is not None

    on.append(STOCK_STATE, victim._replace(value=victim.value[:-2]))
    said = refused(on)
    assert (
        f"{on.topic(STOCK_STATE.name)} partition 0: the state record of {victim.key.decode()!r} cannot be read" in said
    )
    assert "append a null under its key" in said

    on.append(STOCK_STATE, victim)
    pipeline = on.pipeline().start()
    settle(on, load)
    on.stop(pipeline)

    on.append(STOCK_STATE, victim._replace(value=b"\x02" + victim.value[1:]))
    said = refused(on)
    assert f"{on.topic(STOCK_STATE.name)} partition 0, key {victim.key!r}" in said
    assert "format 2, this program knows 1" in said
    assert "start a stockflow that is at least as new as the one that wrote it" in said


def test_topics_that_have_grown_stop_a_process_before_it_writes(
    stopped: Callable[[int], tuple[Stage, Sending]],
) -> None:
    """All topics of a prefix were given a third partition: SKUs would be looked for where their state is not."""
    on, _ = stopped(2)
    claims = [decode_claim(r.value) for r in on.read(STOCK_STATE) if r.key == CLAIM_KEY.encode() and r.value]
    assert {claim.partitions for claim in claims} == {2}
    admin, names = on.admin(), [on.topic(topic.name) for topic in TOPICS if topic.role != "settings"]
    for grown in admin.create_partitions([NewPartitions(name, 3) for name in names]).values():
        grown.result(KAFKA_TIMEOUT_S)
    on.eventually(
        lambda: all(len(admin.list_topics(name).topics[name].partitions) == 3 for name in names), "all have grown"
    )
    said = refused(on)
    assert "its state was written while the topics had 2 partitions, now they have 3" in said
    assert "STOCKFLOW_TOPIC_PREFIX" in said


def test_commit_metadata_of_a_newer_program_only_makes_a_start_longer(
    stopped: Callable[[int], tuple[Stage, Sending]],
) -> None:
    """Tails are read from the start of their logs then: nothing is told twice, and versions go on rising."""
    on, load = stopped(2)
    consumer = Consumer({**on.client_config, "group.id": on.group, "log_level": 0})  # never joins
    asked = [TopicPartition(on.topic(topic.name), p) for topic in KEYED_INPUTS for p in range(2)]
    committed = consumer.committed(asked, timeout=KAFKA_TIMEOUT_S)
    assert any(decode_metadata(place.metadata) is not None for place in committed)
    newer = [TopicPartition(tp.topic, tp.partition, tp.offset, '[2,1,{"tails":[9,9]}]') for tp in committed]
    consumer.commit(offsets=newer, asynchronous=False)
    consumer.close()
    load.start(stories(seed=52, partitions=2), per_second=200)
    on.pipeline().start()
    on.wait_for_records(50)
    settle(on, load)
