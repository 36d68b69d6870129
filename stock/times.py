"""Times as whole microseconds since 1970, the core's only unit of time; never reads a clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
_FIRST = datetime(1, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
_EXACT_IN_DOUBLE = 2**51  # In microseconds, about 71 years: beyond it a double of seconds may round.
_MICROSECOND = timedelta(microseconds=1)
_UTC, _at_seconds = timezone.utc, datetime.fromtimestamp


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of a timezone-aware time, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def moment(us: int | None) -> datetime | None:
    """The UTC time of microseconds since 1970; None stays None.

    What UTC has no date for (a far zone's first or last hours, a nonsensical timestamp) becomes its first or last.
    """
    if us is None:
        return None
    if 0 <= us < _EXACT_IN_DOUBLE:
        return _at_seconds(us / 1e6, _UTC)  # a quarter faster, and exact in this range
    try:
        return EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return _FIRST if us < 0 else _LAST
