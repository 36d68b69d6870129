"""Times as whole microseconds since 1970, the core's only unit of time; never reads a clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of a timezone-aware time, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def moment(us: int | None) -> datetime | None:
    """The UTC time of microseconds since 1970; None stays None."""
    return None if us is None else EPOCH + timedelta(microseconds=us)
