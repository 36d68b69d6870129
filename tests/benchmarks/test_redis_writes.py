"""The view's writes are compared with the server's own benchmark program, and neither is fast by writing less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import redis_writes
from benchmarks.redis_writes import REFERENCE, VIEW, NothingToCompareWith
from stockflow.embedded import RedisServer


def test_both_write_every_record(private_redis: Callable[..., RedisServer]) -> None:
    """Each turn ends with as many keys as records, which the measurement itself insists on."""
    try:
        program = redis_writes.reference_program()
    except NothingToCompareWith as error:
        pytest.skip(str(error))
    rounds = redis_writes.measure(private_redis(), program, 2_000, 2, 0)
    assert [sorted(one) for one in rounds] == [[REFERENCE, VIEW]] * 2
    assert min(rate for one in rounds for rate in one.values()) > 0


def test_a_program_that_fails_is_told(private_redis: Callable[..., RedisServer]) -> None:
    """Its rate is not taken from nothing."""
    with pytest.raises(NothingToCompareWith, match="ended with 1"):
        redis_writes.by_the_reference(private_redis(), "false", 2_000)
