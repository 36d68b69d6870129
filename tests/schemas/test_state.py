"""State records: envelope, claims, totals, and what travels with a commit."""

from __future__ import annotations

import pytest

from schemas.state import (
    COUNTER_MAX,
    FORMAT,
    GENERATION_MAX,
    OUTCOMES_KEY,
    Claim,
    CommitMetadata,
    UnknownFormat,
    decode_claim,
    decode_metadata,
    decode_outcomes,
    encode_claim,
    encode_metadata,
    open_envelope,
    seal,
)
from tests.stock.facts import fact, told


@pytest.mark.parametrize("generation", [0, 1, 255, 256, GENERATION_MAX])
def test_an_envelope_carries_generation_and_content(generation: int) -> None:
    """Any content, also none."""
    for content in (b"", b"\x00\xff", b"x" * 1_000):
        assert open_envelope(seal(generation) + content) == (generation, content)


@pytest.mark.parametrize(
    "value", [b"", b"\x01", b"\x01\x00\x00\x00", b"\x02\x00\x00\x00\x01x", b'{"json":1}'], ids=repr
)
def test_another_format_is_never_guessed(value: bytes) -> None:
    """A newer program's state must not be overwritten by an older one."""
    with pytest.raises(UnknownFormat, match=f"this program knows {FORMAT}"):
        open_envelope(value)


def test_a_claim_names_generation_and_writer() -> None:
    """In an envelope of its own generation."""
    claim = Claim(7, "host-1/42")
    assert decode_claim(encode_claim(claim)) == claim
    assert open_envelope(encode_claim(claim))[0] == 7


@pytest.mark.parametrize("value", [seal(1) + b"{}", seal(1) + b"nonsense", b"\x09" + b"x" * 20], ids=repr)
def test_an_unreadable_claim_is_an_unknown_format(value: bytes) -> None:
    """Whoever wrote it may own the partition."""
    with pytest.raises(UnknownFormat):
        decode_claim(value)


def test_totals_are_read_by_name() -> None:
    """For the audit and for people."""
    sale = fact("pos.sale", 1, 1)
    desk = told(sale, sale, fact("wms.count", 5, 3))
    desk.ledger.refuse(0, 2)
    packed = dict(desk.ledger.flush())[OUTCOMES_KEY]
    assert packed is not None
    outcomes = decode_outcomes(seal(3) + packed)
    assert outcomes.totals == {"applied": 2, "duplicate": 1, "absorbed": 0, "echo": 0, "dead_letter": 1}
    assert outcomes.positions == [3, 1, 0, 0]


def test_commit_metadata_is_short_text() -> None:
    """Kafka keeps at most about 4,000 bytes of it."""
    text = encode_metadata(GENERATION_MAX, 2**63 - 1, 2**63 - 1)
    assert len(text) < 100
    assert decode_metadata(text) == CommitMetadata(1, GENERATION_MAX, 2**63 - 1, 2**63 - 1)


@pytest.mark.parametrize("text", [None, "", "hello", "[]", "[2,1,1,1]", '{"format":1}', "[1,1]", '[1,"a",1,1]'])
def test_metadata_of_others_is_not_ours(text: str | None) -> None:
    """Then the tails are read from their start."""
    assert decode_metadata(text) is None


def test_versions_stay_exact_in_a_double() -> None:
    """Lua and JavaScript compare doubles."""
    assert GENERATION_MAX << 32 | COUNTER_MAX == 2**53 - 1
