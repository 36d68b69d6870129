"""W3C trace context in a record's headers: which is valid, and what of it goes on; never who made it or what for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
TRACEPARENT_BYTES_MAX = 256  # Version 00 has 55; a later one may append something, but no producer may swell outputs.
TRACESTATE_BYTES_MAX = 512  # So much the standard wants to be handed on; what is longer may be left out.

# Ids of zeros only are none. Version 00 has nothing behind the flags, a later one may, and ff is no version.
_IDS_AND_FLAGS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rb"00" + _IDS_AND_FLAGS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS_AND_FLAGS + rb"(?:-[\x20-\x7e]*)?")

Trace = list[tuple[str, bytes]]  # the headers as they go on: `traceparent`, maybe `tracestate`


def trace_in(headers: Iterable[tuple[str, Any]]) -> Trace | None:
    """The trace context among a record's headers, or None if there is no valid one.

    Of several `traceparent` the last counts: whoever relays a record appends its own.
    """
    parent = state = None
    for name, value in headers:
        if name == TRACEPARENT:
            parent = value
        elif name == TRACESTATE:
            state = value
    if not isinstance(parent, bytes) or len(parent) > TRACEPARENT_BYTES_MAX or not _TRACEPARENT.fullmatch(parent):
        return None
    if not isinstance(state, bytes) or not 0 < len(state) <= TRACESTATE_BYTES_MAX:
        return [(TRACEPARENT, parent)]
    return [(TRACEPARENT, parent), (TRACESTATE, state)]


def is_sampled(trace: Trace) -> bool:
    """Whether whoever began the trace records it."""
    return int(trace[0][1][53:55], 16) & 1 == 1


def ids_of(trace: Trace) -> tuple[int, int]:
    """The numbers of the trace and of the span that the record was sent in."""
    parent = trace[0][1]
    return int(parent[3:35], 16), int(parent[36:52], 16)
