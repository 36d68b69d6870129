"""What the topics hold of one SKU: its partition's state and records, the settings, its newest inputs; only reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from operations.audit.log import Extents, Log
from operations.inspect.answer import Explanation, Question, Unknown
from operations.inspect.explain import explain
from operations.inspect.found import Found
from schemas import topics

DEAD_LETTERS_READ_MAX = 10_000  # Newest letters per partition: a wrong partition is where a lost fact often went.

_READ = (*topics.KEYED_INPUTS, topics.STOCK_SETTINGS, topics.AVAILABILITY, topics.DEAD_LETTERS, topics.STOCK_STATE)


def explain_sku(
    client_config: Mapping[str, str], topic_name: Callable[[str], str], question: Question, now: datetime
) -> Explanation | Unknown:
    """What there is to say about a SKU, or why there is nothing.

    Raises:
        AuditImpossible: the broker does not answer, or a topic does not exist.
        UnknownFormat: the state was written by a newer program.
    """
    with Log(client_config, topic_name) as log:
        extents = log.extents([topic.name for topic in _READ])
        partitions = len(extents[topics.STOCK_STATE.name])
        found = Found(question.sku, topics.partition_of(question.sku, partitions), partitions)
        _read_outputs(log, extents, found)
        for topic in topics.KEYED_INPUTS:
            its_extent = extents[topic.name][found.partition]
            begin = max(its_extent.start, its_extent.end - question.look_back)
            found.note_extent(topic.name, its_extent.start, begin, its_extent.end)
            for batch in log.read(topic.name, {found.partition: its_extent._replace(start=begin)}):
                found.add_inputs(batch)
        return explain(found, question, now)


def _read_outputs(log: Log, extents: Extents, found: Found) -> None:
    for batch in log.read(topics.STOCK_SETTINGS.name, extents[topics.STOCK_SETTINGS.name]):
        found.add_settings(batch)
    here = found.partition
    for batch in log.read(topics.STOCK_STATE.name, {here: extents[topics.STOCK_STATE.name][here]}):
        found.add_state(batch)
    for batch in log.read(topics.AVAILABILITY.name, {here: extents[topics.AVAILABILITY.name][here]}):
        found.add_published(batch)
    letters = {
        partition: extent._replace(start=max(extent.start, extent.end - DEAD_LETTERS_READ_MAX))
        for partition, extent in extents[topics.DEAD_LETTERS.name].items()
    }
    for batch in log.read(topics.DEAD_LETTERS.name, letters, headers=True):
        found.add_letters(batch)
