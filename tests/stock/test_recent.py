"""The journal of recent facts: chunks, merging, ageing, and what a restart takes back from any remains of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stock import recent as module
from stock.recent import CHUNK_BYTES_MAX, CHUNK_FACTS_MAX, HORIZON_US, MERGE_FAN_IN, Recent, Row
from stock.times import HOUR_US

Topic = dict[int, bytes]  # journal records as they stand on the state topic


def row(offset: int, topic: int = 0, key: str = "SKU|A") -> Row:
    """An applied fact whose id hash is its offset and who moved one unit."""
    return key, topic, 0, offset, 1_000 + offset, offset, 1


def see(recent: Recent, first: int, upto: int, stamp: int = 1, topic: int = 0) -> None:
    """Remember facts of these offsets."""
    for offset in range(first, upto):
        recent.ids.add(1_000 + offset)
        recent.see(row(offset, topic), stamp)


def cut(recent: Recent, topic: Topic, upto: int | None = None) -> list[Row]:
    """Write a cut, or only its first records, and return what it forgot."""
    records, forgotten = recent.cut()
    for number, packed in records[:upto]:
        if packed is None:
            topic.pop(number, None)
        else:
            topic[number] = packed
    return forgotten


def restored(topic: Topic, counts: Callable[[Row], bool] = lambda _: True) -> tuple[Recent, list[Row]]:
    """A new process' journal, and every row it was shown."""
    recent, shown = Recent(4, 1_000_000), []

    def take(one: Row) -> bool:
        shown.append(one)
        return counts(one)

    for _ in recent.restoring(reversed(list(topic.values())), take):
        pass
    return recent, shown


@pytest.fixture
def recent() -> Recent:
    """Nothing remembered yet."""
    return Recent(4, 1_000_000)


def test_a_cut_without_facts_writes_nothing(recent: Recent) -> None:
    """And there is nothing to write before one."""
    assert recent.dirty is False
    assert recent.cut() == ([], [])


def test_facts_of_a_cut_are_one_record(recent: Recent) -> None:
    """In the order of arrival."""
    topic: Topic = {}
    see(recent, 0, 100)
    assert recent.dirty is True
    cut(recent, topic)
    assert (recent.dirty, list(topic)) == (False, [0])
    assert restored(topic)[1] == [row(offset) for offset in range(100)]


def test_a_large_cut_is_several_records(recent: Recent) -> None:
    """Bounded by facts and by bytes, whatever the length of keys."""
    topic: Topic = {}
    see(recent, 0, 2 * CHUNK_FACTS_MAX + 1)
    cut(recent, topic)
    assert list(topic) == [0, 1, 2]
    wide: Topic = {}
    for offset in range(2_000):
        recent.see(row(offset, key="S" * 120 + "ü" * 120), 1)
    cut(recent, wide)
    assert len(wide) == 4
    assert max(map(len, wide.values())) <= CHUNK_BYTES_MAX


def test_chunks_merge_so_that_few_records_hold_many_facts(recent: Recent) -> None:
    """What they replace is deleted after the new one is written, and nothing is lost or doubled."""
    topic: Topic = {}
    for at in range(MERGE_FAN_IN**2 + 3):
        see(recent, 2 * at, 2 * at + 2)
        cut(recent, topic)
    assert len(topic) == 4
    assert restored(topic)[1] == [row(offset) for offset in range(2 * (MERGE_FAN_IN**2 + 3))]


def test_large_chunks_are_left_alone(recent: Recent) -> None:
    """A fact is rewritten a few times only, and no record outgrows its bound."""
    topic: Topic = {}
    for at in range(3 * MERGE_FAN_IN):
        see(recent, 1_000 * at, 1_000 * (at + 1))
        cut(recent, topic)
    assert len(topic) == 3 * MERGE_FAN_IN
    assert max(map(len, topic.values())) <= CHUNK_BYTES_MAX


def test_chunks_of_long_keys_stay_inside_their_bytes(recent: Recent) -> None:
    """They are left alone although they hold few facts."""
    topic: Topic = {}
    for at in range(2 * MERGE_FAN_IN):
        for offset in range(200 * at, 200 * (at + 1)):
            recent.see(row(offset, key="S" * 128 + "|" + "L" * 128), 1)
        cut(recent, topic)
    assert len(topic) == 2 * MERGE_FAN_IN
    assert max(map(len, topic.values())) <= CHUNK_BYTES_MAX


def test_facts_are_forgotten_after_a_day_of_their_topic(recent: Recent) -> None:
    """Ids go, the record is deleted, and the owner of the movement logs gets the rows."""
    topic: Topic = {}
    see(recent, 0, 3, stamp=HOUR_US)
    cut(recent, topic)
    see(recent, 3, 5, stamp=HOUR_US + HORIZON_US)
    assert cut(recent, topic) == []
    assert recent.ids == {1_000, 1_001, 1_002, 1_003, 1_004}
    see(recent, 5, 6, stamp=HOUR_US + HORIZON_US + 1)
    assert cut(recent, topic) == [row(0), row(1), row(2)]
    assert recent.ids == {1_003, 1_004, 1_005}
    assert list(topic) == [1, 2]


def test_a_silent_topic_keeps_its_facts(recent: Recent) -> None:
    """Age is measured on each topic by its own records: nothing newer, nothing forgotten."""
    topic: Topic = {}
    see(recent, 0, 1, stamp=1, topic=1)
    cut(recent, topic)
    for days in range(1, 5):
        see(recent, 10 * days, 10 * days + 1, stamp=days * HORIZON_US)
        assert cut(recent, topic) == []
    see(recent, 100, 101, stamp=2 * HORIZON_US, topic=1)
    assert row(0, topic=1) in cut(recent, topic)


def test_a_record_is_as_young_as_its_youngest_topic(recent: Recent) -> None:
    """One journal record holds facts of several topics: it stays as long as those of the quietest of them."""
    topic: Topic = {}
    see(recent, 0, 1, topic=0)
    see(recent, 1, 2, topic=1)
    assert cut(recent, topic) == []
    see(recent, 2, 3, stamp=3 * HORIZON_US, topic=0)
    assert cut(recent, topic) == []
    see(recent, 3, 4, stamp=3 * HORIZON_US, topic=1)
    assert [forgotten[3] for forgotten in cut(recent, topic)] == [0, 1]


def test_the_number_of_facts_is_bounded() -> None:
    """The oldest chunks go first."""
    recent, topic = Recent(4, 10), {}
    for at in range(0, 20, 4):
        see(recent, at, at + 4)
        forgotten = cut(recent, topic)
    assert forgotten == [row(offset) for offset in range(8, 12)]
    assert recent.ids == {1_000 + offset for offset in range(12, 20)}
    assert len(topic) == 2


def test_numbers_go_on_after_a_restart(recent: Recent) -> None:
    """No record of an earlier process is overwritten by another's facts."""
    topic: Topic = {}
    see(recent, 0, 1)
    cut(recent, topic)
    again, _ = restored(topic)
    see(again, 1, 2)
    cut(again, topic)
    assert list(topic) == [0, 1]


def test_age_is_known_after_a_restart(recent: Recent) -> None:
    """Facts restored age like facts seen."""
    topic: Topic = {}
    see(recent, 0, 1, stamp=1)
    cut(recent, topic)
    again, _ = restored(topic)
    see(again, 1, 2, stamp=HORIZON_US + 2)
    assert cut(again, topic) == [row(0)]


def merge_cut_short(topic: Topic, upto: int) -> None:
    """A crash within the cut that merges: only its first records were written."""
    recent = Recent(4, 1_000_000)
    for at in range(MERGE_FAN_IN - 1):
        see(recent, at, at + 1)
        cut(recent, topic)
    see(recent, MERGE_FAN_IN - 1, MERGE_FAN_IN)
    cut(recent, topic, upto)


@pytest.mark.parametrize("upto", range(1, MERGE_FAN_IN + 3))
def test_a_merge_that_was_cut_short_doubles_nothing(upto: int) -> None:
    """A chunk whose deletion was lost is known to be replaced, and deleted by the next process."""
    topic: Topic = {}
    merge_cut_short(topic, upto)
    again, shown = restored(topic)
    assert shown == [row(offset) for offset in range(MERGE_FAN_IN)]
    see(again, 99, 100)
    cut(again, topic)
    assert restored(topic)[1] == [*shown, row(99)]
    assert len(topic) == 2


def test_a_lost_deletion_is_not_resurrected_by_a_later_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who replaced the replaced one is itself replaced one day; the old chunk must be gone by then."""
    monkeypatch.setattr(module, "MERGE_FAN_IN", 2)
    topic: Topic = {}
    recent = Recent(4, 1_000_000)
    see(recent, 0, 1)
    cut(recent, topic)
    see(recent, 1, 2)
    cut(recent, topic, 2)
    assert sorted(topic) == [0, 1, 2]
    again, _ = restored(topic)
    for at in range(2, 9):
        see(again, at, at + 1)
        cut(again, topic)
    assert restored(topic)[1] == [row(offset) for offset in range(9)]


def test_a_row_without_effect_is_dropped_for_good(recent: Recent) -> None:
    """Its fact is replayed and gets a new row; with both, a later restart would see it twice."""
    topic: Topic = {}
    see(recent, 0, 4)
    cut(recent, topic)
    again, _ = restored(topic, lambda one: one[3] < 2)
    assert again.dirty is True
    see(again, 2, 4)
    cut(again, topic)
    assert restored(topic)[1] == [row(offset) for offset in range(4)]


def test_a_chunk_without_any_effect_is_emptied(recent: Recent) -> None:
    """Nothing of it counts. It is not deleted: a deletion may land after the balances that have its facts again."""
    topic: Topic = {}
    see(recent, 0, 4)
    cut(recent, topic)
    again, _ = restored(topic, lambda _: False)
    cut(again, topic)
    asked: list[Row] = []
    restored(topic, lambda row: not asked.append(row))
    assert (list(topic), asked) == ([0], [])


def test_an_overwritten_chunk_is_written_again(recent: Recent) -> None:
    """Or deleted, if it is none of ours; a number that somebody used is not taken for something else."""
    topic: Topic = {}
    see(recent, 0, 2)
    cut(recent, topic)
    ours = dict(topic)
    topic.update({0: b"foreign", 7: b"foreign"})
    recent.rewrite(0)
    recent.rewrite(7)
    assert recent.dirty is True
    cut(recent, topic)
    assert (topic, recent.dirty) == (ours, False)
    see(recent, 2, 3)
    cut(recent, topic)
    assert sorted(topic) == [0, 8]
