"""Moments that Spark hands over, as Python's datetimes in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_micros(microseconds: int) -> datetime:
    """Return the moment so many microseconds after 1970, in UTC; exact, where a float would lose the last digit."""
    return _EPOCH + timedelta(microseconds=microseconds)


def as_utc(moment: datetime) -> datetime:
    """Return a time that came with a collected row in UTC.

    Such a time is naive and in the zone of this machine. Sums of it go wrong where the clocks change, and sent back to
    Spark it loses which pass it means of the hour that they repeat; in UTC neither happens.
    """
    return moment.astimezone(UTC)
