"""Records of `stock-state.v1`: their envelope, their keys for the partition itself, and the commit's metadata.

An envelope is one format byte, the writer's generation as four big-endian bytes, then the packed content.
"""

from __future__ import annotations

import msgspec

from stock.ledger import JOURNAL_PREFIX, OUTCOMES, OUTCOMES_KEY, decode_totals

# Stored. Changing these needs a migration.
FORMAT = 1
CLAIM_KEY = "|claim"
GENERATION_MAX = 2**21 - 1  # Versions stay below 2^53: Lua and JavaScript compare doubles.
COUNTER_MAX = 2**32 - 1

__all__ = [
    "CLAIM_KEY",
    "COUNTER_MAX",
    "FORMAT",
    "GENERATION_MAX",
    "JOURNAL_PREFIX",
    "OUTCOMES_KEY",
    "Claim",
    "CommitMetadata",
    "Outcomes",
    "UnknownFormat",
    "decode_claim",
    "decode_metadata",
    "decode_outcomes",
    "encode_claim",
    "encode_metadata",
    "open_envelope",
    "seal",
]


class UnknownFormat(Exception):
    """A state record was written by a newer stockflow, or is none; nothing may be overwritten."""


class Claim(msgspec.Struct, frozen=True):
    """Who owns a partition from here on; `writer` is unique per process start.

    `partitions` is how many the topics had when it was written: a SKU's state stands in the partition that this
    number gave it. None in claims from before it was kept.
    """

    generation: int
    writer: str
    partitions: int | None = None


class Outcomes(msgspec.Struct, frozen=True):
    """Totals by outcome of one partition, and per keyed input the next offset that they stand for."""

    totals: dict[str, int]
    positions: list[int]


class CommitMetadata(msgspec.Struct, frozen=True, array_like=True):
    """What travels with a committed position: from where the tails of our outputs must be read after a restart."""

    format: int
    generation: int
    availability: int
    dead_letters: int
    network: int | None = None  # None in metadata from before there was this output: its tail begins at the log's start


def seal(generation: int) -> bytes:
    """The envelope's five bytes that go in front of the packed content."""
    return bytes((FORMAT,)) + generation.to_bytes(4, "big")


def open_envelope(value: bytes) -> tuple[int, bytes]:
    """Generation and packed content of a state record.

    Raises:
        UnknownFormat: another format than this program writes.
    """
    if len(value) < 5 or value[0] != FORMAT:
        raise UnknownFormat(f"state record of format {value[0] if value else 'none'}, this program knows {FORMAT}")
    return int.from_bytes(value[1:5], "big"), value[5:]


def encode_claim(claim: Claim) -> bytes:
    """The value of a claim record."""
    return seal(claim.generation) + msgspec.json.encode(claim)


def decode_claim(value: bytes) -> Claim:
    """The claim in a claim record.

    Raises:
        UnknownFormat: another format than this program writes.
    """
    _, packed = open_envelope(value)
    try:
        return msgspec.json.decode(packed, type=Claim)
    except msgspec.DecodeError as error:
        raise UnknownFormat(f"claim record cannot be read: {error}") from error


def decode_outcomes(value: bytes) -> Outcomes:
    """The outcome totals in the `|outcomes` record of a partition.

    Raises:
        UnknownFormat: another format than this program writes.
    """
    _, packed = open_envelope(value)
    totals = decode_totals(packed)
    return Outcomes(dict(zip(OUTCOMES, totals.by_outcome, strict=True)), totals.positions)


def encode_metadata(generation: int, availability: int, dead_letters: int, network: int | None = None) -> str:
    """Commit metadata as short text (Kafka stores at most about 4,000 bytes of it)."""
    return msgspec.json.encode(CommitMetadata(1, generation, availability, dead_letters, network)).decode()


def decode_metadata(text: str | None) -> CommitMetadata | None:
    """The metadata of a committed position, or None where it is absent or not ours."""
    if not text:
        return None
    try:
        metadata = msgspec.json.decode(text, type=CommitMetadata)
    except msgspec.DecodeError:
        return None
    return metadata if metadata.format == 1 else None
