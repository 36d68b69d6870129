"""Dead letters: key, value and headers as they came, why they were refused, and where from."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from schemas.dead_letters import OVERHEAD_BYTES, Header, fitting, headers_for, origin
from schemas.events import DETAIL_LENGTH_MAX, Refusal
from schemas.topics import DEAD_LETTER_BYTES_MAX, INPUT_BYTES_MAX

AT = datetime(2026, 11, 22, 10, 15, 0, 123_456, tzinfo=timezone.utc)
REFUSAL = Refusal("bad_field", "units ≥ 1")
OURS = [
    ("dead-letter.reason", b"bad_field"),
    ("dead-letter.detail", "units ≥ 1".encode()),
    ("dead-letter.topic", b"pos-sales.v1"),
    ("dead-letter.partition", b"3"),
    ("dead-letter.offset", b"123456789012"),
    ("dead-letter.at", b"2026-11-22T10:15:00.123+00:00"),
]


def headers(refusal: Refusal = REFUSAL) -> list[Header]:
    """Our own headers of a dead letter."""
    return headers_for(refusal, "pos-sales.v1", 3, 123_456_789_012, AT)


def size_of(key: bytes | None, value: bytes | None, headers: list[Header]) -> int:
    """Bytes of a record without Kafka's framing."""
    return len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(text or b"") for name, text in headers)


ORIGINALS: list[Any] = [
    pytest.param([], id="none"),
    pytest.param([("trace", b"\x00\xff"), ("trace", b"again"), ("", None)], id="any bytes, repeated, empty, null"),
    pytest.param(OURS, id="of an earlier dead letter that was replayed"),
]


@pytest.mark.parametrize("original", ORIGINALS)
def test_own_headers_stay_and_ours_follow(original: list[Header]) -> None:
    """Numbers are decimal text."""
    assert headers() == OURS
    assert fitting(b"key", b"value", original, headers()) == (b"key", b"value", [*original, *OURS])


def test_a_long_detail_is_cut() -> None:
    """A header is no place for a novel."""
    cut = dict(headers(Refusal("bad_field", "x" * 9_999)))["dead-letter.detail"]
    assert cut == b"x" * DETAIL_LENGTH_MAX


def test_a_detail_that_is_no_text_is_replaced() -> None:
    """Half a surrogate can be named in an error, but not sent."""
    assert dict(headers(Refusal("bad_field", "a\ud800b")))["dead-letter.detail"] == b"a?b"


def test_whatever_fits_an_input_topic_goes_on_byte_for_byte() -> None:
    """The largest value there is, with headers of its own."""
    own: list[Header] = [("x" * 100, b"y" * 30_000)]
    value = b"v" * INPUT_BYTES_MAX
    assert fitting(b"key", value, own, OURS) == (b"key", value, [*own, *OURS])


@pytest.mark.parametrize("value", [None, b""])
def test_nothing_stays_nothing(value: bytes | None) -> None:
    """A null value and an empty one are told apart."""
    assert fitting(None, value, [], OURS) == (None, value, OURS)
    assert fitting(value, None, [], OURS) == (value, None, OURS)


def test_a_decompressed_giant_is_cut_and_says_so() -> None:
    """Its beginning, its whole length, and together no more than the topic takes."""
    value = b"v" * (3 * DEAD_LETTER_BYTES_MAX)
    own: list[Header] = [("trace", b"\xff")]
    key, kept, told = fitting(b"key", value, own, OURS)
    whole = len(value) + len(b"key") + len(b"trace\xff") + 10
    assert key == b"key"
    assert told == [*own, *OURS, ("dead-letter.truncated", str(whole).encode())]
    assert kept is not None
    assert kept == value[: len(kept)]
    size = size_of(key, kept, told)
    assert DEAD_LETTER_BYTES_MAX - 2 * OVERHEAD_BYTES < size < DEAD_LETTER_BYTES_MAX - OVERHEAD_BYTES // 2


GIANT = 3 * DEAD_LETTER_BYTES_MAX
GIANTS: list[Any] = [
    pytest.param(b"k" * GIANT, b"value", [("own", b"x")], True, id="a key"),
    pytest.param(b"k" * GIANT, None, [("own", b"x")], True, id="a key without a value"),
    pytest.param(b"k" * GIANT, b"v" * GIANT, [("own", b"x")], True, id="key and value"),
    pytest.param(b"key", b"value", [("own", b"x" * GIANT)], False, id="a header"),
    pytest.param(b"key", b"value", [("n" * GIANT, None)], False, id="the name of a header"),
    pytest.param(b"key", b"value", [("ü" * (DEAD_LETTER_BYTES_MAX * 2 // 3), b"")], False, id="a name in many bytes"),
    pytest.param(None, None, [("own", b"")] * (GIANT // 8), False, id="very many headers"),
    pytest.param(b"k" * GIANT, b"v" * GIANT, [("own", b"x" * GIANT)], False, id="all of it"),
    pytest.param(b"k" * (GIANT // 6), b"v" * (GIANT // 6), [("own", b"x" * (GIANT // 6))], False, id="only together"),
]


@pytest.mark.parametrize(("key", "value", "own", "kept"), GIANTS)
def test_whatever_a_giant_is_made_of_its_letter_can_be_sent(
    key: bytes | None, value: bytes | None, own: list[Header], kept: bool
) -> None:
    """Beginnings of key and value stay; headers of its own stay if they leave room, and ours stay always."""
    short_key, short_value, told = fitting(key, value, own, OURS)
    whole = len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(text or b"") + 10 for name, text in own)
    assert told == [*(own if kept else []), *OURS, ("dead-letter.truncated", str(whole).encode())]
    assert size_of(short_key, short_value, told) < DEAD_LETTER_BYTES_MAX - OVERHEAD_BYTES // 2
    assert origin(told) == ("pos-sales.v1", 3, 123_456_789_012)
    for short, full in ((short_key, key), (short_value, value)):
        assert (short is None) == (full is None)
        if short is not None and full is not None:
            assert short == full[: len(short)]
            assert len(short) == len(full) or len(short) > DEAD_LETTER_BYTES_MAX // 3


def test_a_dead_letter_tells_where_it_came_from() -> None:
    """Topic, partition and offset; of a letter that was refused again, the last time."""
    assert origin(headers()) == ("pos-sales.v1", 3, 123_456_789_012)
    again = headers_for(REFUSAL, "wms-movements.v1", 1, 7, AT)
    assert origin(fitting(None, None, headers(), again)[2]) == ("wms-movements.v1", 1, 7)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        [("dead-letter.topic", b"t")],
        [*OURS, ("dead-letter.offset", None)],
        [*OURS, ("dead-letter.offset", b"x")],
        [*OURS, ("dead-letter.topic", b"\xff")],
    ],
    ids=["no headers", "empty", "incomplete", "a null", "no number", "no text"],
)
def test_a_stranger_has_no_origin(found: list[Header] | None) -> None:
    """What somebody else put on the topic is not taken for one of ours."""
    assert origin(found) is None
