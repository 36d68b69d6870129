"""Which trace context in a record's headers is one, by the W3C's recommendation, and what of it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.traces import TRACESTATE_BYTES_MAX, ids_of, is_sampled, trace_in

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NEWER = b"cc" + PARENT[2:]


@pytest.mark.parametrize(
    ("text", "value", "valid"),
    [
        ("sampled", PARENT, True),
        ("not sampled", PARENT[:-1] + b"0", True),
        ("flags of the future", PARENT[:-2] + b"ff", True),
        ("a later version", NEWER, True),
        ("a later version with more behind it", NEWER + b"-what.the=future-will_be", True),
        ("a later version with more, unseparated", NEWER + b"0", False),
        ("a later version that goes on for ever", NEWER + b"-" + b"x" * 300, False),
        ("version 00 with more behind it", PARENT + b"-01", False),
        ("version ff", b"ff" + PARENT[2:], False),
        ("capital letters", PARENT.upper(), False),
        ("a trace of zeros", b"00-" + b"0" * 32 + PARENT[35:], False),
        ("a span of zeros", PARENT[:36] + b"0" * 16 + b"-01", False),
        ("too short", PARENT[:-1], False),
        ("a line end", PARENT + b"\n", False),
        ("empty", b"", False),
        ("null", None, False),
        ("any bytes", b"\xff\x00", False),
    ],
)
def test_context_goes_on_if_it_is_valid(text: str, value: bytes | None, valid: bool) -> None:
    """Byte for byte, and otherwise not at all."""
    assert trace_in([("a", b"b"), ("traceparent", value)]) == ([("traceparent", value)] if valid else None), text


@pytest.mark.parametrize(
    ("text", "headers", "found"),
    [
        ("with its state", [("tracestate", b"a=1"), ("traceparent", PARENT)], [b"a=1"]),
        ("as much state as must go on", [("traceparent", PARENT), ("tracestate", b"a" * TRACESTATE_BYTES_MAX)], None),
        ("more state than that", [("traceparent", PARENT), ("tracestate", b"a" * (TRACESTATE_BYTES_MAX + 1))], []),
        ("no state", [("traceparent", PARENT), ("tracestate", b"")], []),
        ("null for a state", [("traceparent", PARENT), ("tracestate", None)], []),
        ("names in capitals are others", [("traceparent", PARENT), ("Tracestate", b"a=1")], []),
    ],
)
def test_state_goes_on_with_its_context(text: str, headers: list[tuple[str, Any]], found: list[bytes] | None) -> None:
    """Within bounds: outputs do not swell by what producers send."""
    states = [b"a" * TRACESTATE_BYTES_MAX] if found is None else found
    assert trace_in(headers) == [("traceparent", PARENT), *(("tracestate", state) for state in states)], text


def test_state_alone_is_no_context() -> None:
    """Nor is nothing."""
    assert trace_in([("tracestate", b"a=1")]) is None
    assert trace_in([]) is None


def test_last_of_several_contexts_counts() -> None:
    """A relay appends its own behind that of the producer."""
    other = PARENT.replace(b"4bf9", b"0001")
    assert trace_in([("traceparent", PARENT), ("traceparent", other)]) == [("traceparent", other)]


@pytest.mark.parametrize(("flags", "sampled"), [(b"00", False), (b"01", True), (b"02", False), (b"ff", True)])
def test_flag_says_whether_a_trace_is_recorded(flags: bytes, sampled: bool) -> None:
    """The last bit, whatever the others come to mean."""
    assert is_sampled([("traceparent", PARENT[:-2] + flags)]) is sampled


def test_ids_are_numbers() -> None:
    """Of the trace and of the span."""
    assert ids_of([("traceparent", PARENT)]) == (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7)
