"""Records that no shop should send: each is put aside with its reason, untouched, and the flow goes on."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from schemas.topics import STOCK_SETTINGS
from tests.e2e.harness import Stage
from tests.e2e.load import (
    KIB,
    ODD_HEADERS,
    SPOILED,
    Record,
    Sending,
    giant,
    poison,
    spoiled,
    stories,
    stranger,
    utc_now,
    with_extras,
)
from tests.e2e.verdict import settle

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_poison_among_good_events_is_put_aside_once_and_stops_nothing(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """One record in a hundred is spoiled, some are huge, over two kills: every letter is there once, byte for byte."""
    on = stage()
    load = sending(on)

    def spoil(chance: random.Random, number: int, partitions: int) -> Record:
        size = chance.choice((0, 0, 0, 0, 200 * KIB, 900 * KIB))
        return giant(number, size) if size else poison(chance, number, partitions)

    load.start(stories(seed=31, partitions=on.partitions, spoil=spoil), per_second=300)
    pipeline = on.pipeline()
    for _ in range(2):
        pipeline.start()
        on.wait_for_records(150)
        pipeline.kill()
    pipeline.start()
    report = settle(on, load)
    assert len(load.refused) >= 10
    assert report.outcomes["reported_dead_letter"] == report.outcomes["dead_letter"] == len(load.refused)


def test_each_kind_of_bad_record_is_refused_with_its_reason_and_odd_good_ones_count(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """The whole table, giants and strangers, with odd keys and headers; unknown fields and foreign keys do no harm."""
    on = stage()
    load = sending(on)
    on.pipeline().start()
    for number in range(2):
        for place, case in enumerate(SPOILED):
            load.send(spoiled(case, 10 * place + number))
    for number, size in enumerate((64 * KIB, 200 * KIB, 900 * KIB, 1_000 * KIB)):
        load.send(giant(1_000 + number, size))
        load.send(stranger(2_000 + number, on.partitions))
    for number, key in enumerate((None, b"", b"another key", b"\xff\x00")):
        load.send(with_extras(3_000 + number, on.partitions, key))
    report = settle(on, load)
    assert report.outcomes["applied"] == 4
    assert report.outcomes["dead_letter"] == 2 * len(SPOILED) + 8


SETTINGS_CASES: tuple[tuple[str, str, str, bytes | dict[str, object]], ...] = (
    ("not JSON", "not_json", "policy:bad-1", b"{"),
    ("a scope nobody knows", "bad_field", "policy:bad-2", {"scope": {"colour": "red"}}),
    ("a value nobody knows", "bad_field", "policy:bad-3", {"values": {"colour": 3}}),
    ("a period without a zone", "bad_field", "policy:bad-4", {"valid_until": "2030-01-01T00:00:00"}),
    ("a wrong key", "bad_field", "policy:bad-other", {}),
    ("a negative value", "bad_field", "policy:bad-6", {"values": {"safety_stock": -1}}),
    ("a type nobody knows", "unknown_type", "policy:bad-7", {"type": "policy.setting"}),
    ("a fact", "wrong_topic", "policy:bad-8", {"type": "pos.sale"}),
    ("no id", "missing_field", "policy:bad-9", {"id": ...}),
    ("empty value", "empty", "policy:bad-10", b""),
    ("said in the future", "in_future", "policy:bad-11", {"occurred_at": "2999-01-01T00:00:00Z"}),
    ("an id too long", "limit", "policy:bad-12", {"id": "x" * 257}),
)


def test_refused_settings_change_nothing_and_are_put_aside(
    stage: Callable[..., Stage], sending: Callable[[Stage], Sending]
) -> None:
    """Bad policies beside good ones, before the start and while it runs: each is in the dead letters."""
    on = stage()
    load = sending(on)
    half = len(SETTINGS_CASES) // 2
    for number, (_, reason, key, content) in enumerate(SETTINGS_CASES):
        if number == half:
            on.pipeline().start()
            load.start(stories(seed=32, partitions=on.partitions), per_second=100)
            on.wait_for_records(20)
            load.stop()
        value = content if isinstance(content, bytes) else policy(key, content)
        load.send(Record(STOCK_SETTINGS.name, key.encode(), value, refused_as=reason, headers=ODD_HEADERS))
    settle(on, load)


def policy(key: str, changes: dict[str, object]) -> bytes:
    """A policy that counts under its key unless it is changed; `...` leaves a field out."""
    plain = {
        "type": "policy.set",
        "id": f"set {key}",
        "source": "planning",
        "occurred_at": utc_now().isoformat(),
        "policy": key.removeprefix("policy:").replace("other", "5"),
        "scope": {},
        "values": {"safety_stock": 3},
    }
    return msgspec.json.encode({name: value for name, value in {**plain, **changes}.items() if value is not ...})
