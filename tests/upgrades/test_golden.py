"""State of every released format restores, to the same numbers and the same memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.state import (
    CLAIM_KEY,
    Claim,
    CommitMetadata,
    decode_claim,
    decode_metadata,
    encode_claim,
    open_envelope,
    seal,
)
from stock.ledger import JOURNAL_PREFIX, OUTCOMES_KEY, check_packed
from stock.recent import Chunk
from tests.upgrades.golden import FOLDER, PRESENT, facts_of, history, later, read, restored

FORMATS = sorted(FOLDER.glob("format-*"))


def plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value))


def content(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Packed values by key without the claim, and what is expected."""
    sealed, expected = read(folder)
    return {key: open_envelope(value)[1] for key, value in sealed.items() if key != CLAIM_KEY}, expected


def test_the_present_format_has_golden_files() -> None:
    """What is written today must be readable for as long as it may stand on a topic."""
    assert PRESENT in FORMATS


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_state_of_every_format_restores(folder: Path) -> None:
    """Balances, holds, order lines, ids, movements and totals are what they were, then and after more facts."""
    records, expected = content(folder)
    told = restored(records, expected["offsets"])
    assert plain(facts_of(told.ledger)) == expected["restored"]
    assert plain(later(told)) == expected["later"]


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_the_golden_files_hold_every_kind_of_record(folder: Path) -> None:
    """Both kinds of journal records, counted balances and others, published and not, holds, order lines, totals."""
    records, expected = content(folder)
    levels = {msgspec.msgpack.decode(v, type=Chunk).level for k, v in records.items() if k.startswith(JOURNAL_PREFIX)}
    assert levels == {0, 1}
    assert OUTCOMES_KEY in records
    for kind in ("|\x1fhold\x1f", "|\x1forder\x1f"):
        assert any(kind in key for key in records), kind
    balances = [one["balance"] for one in expected["restored"]["balances"].values()]
    count, flags, digest = 6, 5, 13
    assert {balance[count] is None for balance in balances} == {True, False}
    assert {bool(balance[digest]) for balance in balances} == {True, False}
    assert len({balance[flags] for balance in balances}) >= 3


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_claims_and_commits_of_every_format_are_read(folder: Path) -> None:
    """Also the claims from before they kept the partition count."""
    sealed, expected = read(folder)
    assert decode_claim(sealed[CLAIM_KEY]) == Claim(**expected["claim"])
    metadata = expected["metadata"]
    assert decode_metadata(metadata["text"]) == CommitMetadata(*metadata["values"])


def test_a_claim_without_a_partition_count_is_read() -> None:
    """As version 0.1 first wrote it, byte for byte."""
    old = seal(3) + b'{"generation":3,"writer":"host-1/42"}'
    assert decode_claim(old) == Claim(3, "host-1/42", None)


def test_an_older_program_reads_the_claims_of_this_one() -> None:
    """It knows two fields and leaves the third alone, so a rollback works."""

    class OldClaim(msgspec.Struct, frozen=True):
        generation: int
        writer: str

    _, packed = open_envelope(encode_claim(Claim(7, "w", 12)))
    assert msgspec.json.decode(packed, type=OldClaim) == OldClaim(7, "w")


def test_the_present_encoder_writes_what_the_golden_files_hold() -> None:
    """Byte for byte; a difference is a new format, with a new number and files of its own."""
    records, expected = content(PRESENT)
    told = history()
    assert told.records == records
    assert told.offsets == expected["offsets"]


def test_released_golden_files_are_never_overwritten() -> None:
    """The script refuses, says why, and leaves every byte."""
    folder = PRESENT
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.upgrades.golden"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "stays as it is" in " ".join(done.stderr.split())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_record_cut_short_is_told_from_a_whole_one() -> None:
    """Every truncation of every record is refused by a named error; whole ones are not."""
    records, _ = content(PRESENT)
    for key, packed in records.items():
        check_packed(key, packed)
        step = max(1, len(packed) // 200)
        for length in range(0, len(packed), step):
            with pytest.raises(ValueError):  # noqa: PT011  # msgspec's errors are such
                check_packed(key, packed[:length])


@pytest.mark.parametrize(
    ("text", "key", "packed"),
    [
        ("other things behind it", "S|L", None),
        ("a key of no balance", "S", b""),
        ("a balance of fewer inputs", "S|L", msgspec.msgpack.encode([[1, 2], 0])),
        ("totals of fewer outcomes", OUTCOMES_KEY, msgspec.msgpack.encode([[1], [0, 0, 0, 0]])),
        ("a chunk of fewer inputs", f"{JOURNAL_PREFIX}1", msgspec.msgpack.encode([1, 0, [0, -1], [0], []])),
        ("text", "S|L", msgspec.msgpack.encode("hello")),
    ],
)
def test_content_of_another_shape_is_refused(text: str, key: str, packed: bytes | None) -> None:
    """Well-formed, but not what a ledger can take back."""
    if packed is None:
        packed = content(PRESENT)[0]["SKU-1|DC-1"] + b"\x00"
    with pytest.raises(ValueError):  # noqa: PT011  # msgspec's errors are such
        check_packed(key, packed)
