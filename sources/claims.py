"""Whether the state is of as many partitions as the topics have: asked once, before a process joins the group.

Each takeover asks for its own partition (`sources.restore`). But a partition that was just added has no state which
could tell, and must not be claimed beside older ones that could; so a start looks at one that has. It only reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from schemas.state import CLAIM_KEY, Claim, decode_claim
from sources.bounds import extent
from sources.restore import PartitionsChanged, RestoreFailed

READ_TIMEOUT_S = 60.0  # For the part of one partition up to its claim, some hundred thousand records at most.
ANSWER_TIMEOUT_S = 10.0


def refuse_changed_partitions(
    client_config: Mapping[str, str],
    state_topic: str,
    partitions: int,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Nothing, if the first partition with a claim was claimed with this partition count, or before it was kept.

    Raises:
        PartitionsChanged: it was claimed with another one.
        RestoreFailed: it could not be read.
        UnknownFormat: a newer program claimed it.
    """
    consumer = Consumer(
        {
            **client_config,
            "group.id": "stockflow-claim-reader",  # never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        for partition in range(partitions):
            claim = _newest_claim(consumer, state_topic, partition, partitions, clock)
            if claim is not None:
                if claim.partitions not in (None, partitions):
                    assert claim.partitions is not None
                    raise PartitionsChanged(f"{state_topic} partition {partition}", claim.partitions, partitions)
                return
    finally:
        consumer.close()


def _newest_claim(
    consumer: Consumer, topic: str, partition: int, fine: int, clock: Callable[[], float]
) -> Claim | None:
    """The newest claim of a partition, or the first that is fine: then there is no need to read on."""
    place = TopicPartition(topic, partition, OFFSET_BEGINNING)
    deadline = clock() + READ_TIMEOUT_S
    low, high = extent(consumer, place, ANSWER_TIMEOUT_S, deadline, clock)
    if low == high:
        return None
    newest: Claim | None = None
    consumer.assign([place])
    while clock() < deadline:
        for message in consumer.consume(1_000, 0.1):
            error, value = message.error(), message.value()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return newest
                raise KafkaException(error)
            if message.key() == CLAIM_KEY.encode() and value is not None:
                newest = decode_claim(value)
                if newest.partitions == fine:
                    return newest
    raise RestoreFailed(f"{topic} partition {partition} was not read to its end within {READ_TIMEOUT_S:.0f} s")
