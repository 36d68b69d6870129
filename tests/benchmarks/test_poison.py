"""The spoiled records of the benchmark are refused, each for its reason, and one in a hundred is one."""

from __future__ import annotations

import pytest

from benchmarks.poison import EACH, POISON, spoiled
from benchmarks.workload import Options, make
from schemas.events import Refusal, check_names, decode
from stock.events import StockFact

NOW_US = 1_790_000_000_000_000
LATER_US = NOW_US + 86_400_000_000 * 365


@pytest.mark.parametrize(("reason", "value"), POISON, ids=range(len(POISON)))
def test_every_spoiled_record_is_refused(reason: str, value: bytes) -> None:
    """On each input topic, if only by its name; on the sales' for the reason that is named."""
    for topic in range(3):
        found = decode(topic, value, LATER_US)
        if isinstance(found, StockFact):
            found = check_names(found.sku, found.location)
        assert isinstance(found, Refusal)
        assert topic != 0 or found.reason == reason, found


def test_one_record_in_a_hundred_is_spoiled() -> None:
    """The good ones stay as they are and in order."""
    clean = make(Options(events=20_000, balances=100, partitions=3), NOW_US).events
    mixed, count = spoiled(clean)
    assert abs(count * EACH - sum(map(len, mixed.values()))) < EACH * len(mixed)
    values = {value for _, value in POISON}
    assert {p: [m for m in messages if m["value"] not in values] for p, messages in mixed.items()} == clean
