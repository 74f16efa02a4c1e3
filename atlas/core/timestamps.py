"""Times on the wire: RFC 3339. Exact, in integers; never the current time.

What is read (API notes): a date, `T`, a time, 0-9 fraction digits, and `Z` or an offset `+hh:mm`. As
RFC 3339 allows, `t` and `z` may be lower case (they come back in upper case) and `-00:00` is UTC. Not
read, although ISO 8601 knows them: a space for the `T`, a comma, `+0200`, `+02`, week dates. A leap second
(`:60`) is refused: it would come back in UTC as it was given, and few languages' standard libraries,
Python's among them, could read it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from atlas.core.errors import InvalidRequest
from atlas.core.limits import MS_MAX, YEAR_MAX, YEAR_MIN

_CLOCK: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
#: What nearly everybody sends: UTC, and a day that every month has. Valid as it stands.
_COMMON: Final = re.compile(
    rf"(?:19[7-9]|[2-9][0-9][0-9])[0-9]-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])T{_CLOCK}(?:\.[0-9]{{1,9}})?Z"
).fullmatch
_GENERAL: Final = re.compile(
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[Tt]({_CLOCK})(\.[0-9]{{1,9}})?"
    r"(?:[Zz]|([+-])((?:[01][0-9]|2[0-3])):([0-5][0-9]))"
).fullmatch

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - naive on purpose: all arithmetic here is in UTC
_SECOND: Final = timedelta(seconds=1)
_NOT_A_TIME: Final = "must be an RFC 3339 time with Z or an offset, such as 2026-05-18T14:22:11Z"
_NOT_IN_RANGE: Final = f"must lie in the years {YEAR_MIN} to {YEAR_MAX}, in UTC"
_MILLIS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))


def parse_occurred_at(text: str, field: str = "occurred_at") -> str:
    """The time in UTC with `Z`, with the fraction digits it was given.

    Raises:
        InvalidRequest: no such time, no offset, or a year outside 1970-9999 in UTC.
    """
    if _COMMON(text) is not None:
        return text
    moment, fraction = _parse(text, field)
    return f"{moment.isoformat()}{fraction}Z"


def parse_filter_time(text: str, field: str | None = None) -> int:
    """A time as milliseconds since the epoch, rounded up, within the year 9999.

    Events are received at whole milliseconds, so rounding up is exact both for "at or after" and for
    "before" the time.

    Args:
        text: RFC 3339 with `Z` or an offset.
        field: the query parameter, for the error.

    Raises:
        InvalidRequest: as for `parse_occurred_at`.
    """
    moment, fraction = _parse(text, field)
    digits = fraction[1:].ljust(9, "0")
    return min((moment - _EPOCH) // _SECOND * 1000 + -(-int(digits) // 1_000_000), MS_MAX)


def format_ms(ms: int) -> str:
    """Milliseconds since the epoch as `2026-05-18T14:22:11.482Z`; up to the end of the year 9999."""
    return _second(ms // 1000) + _MILLIS[ms % 1000]


def format_s(ms: int) -> str:
    """Milliseconds since the epoch as `2026-05-18T14:22:11Z`, the fraction cut off."""
    return _second(ms // 1000) + "Z"


def _parse(text: str, field: str | None) -> tuple[datetime, str]:
    """The moment in UTC, in whole seconds, and the fraction as it was written, with its dot."""
    match = _GENERAL(text)
    if match is None:
        raise InvalidRequest(field, _NOT_A_TIME)
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}")
    except ValueError:
        raise InvalidRequest(field, _NOT_A_TIME) from None
    if sign is not None:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        try:
            moment = moment - offset if sign == "+" else moment + offset
        except OverflowError:
            raise InvalidRequest(field, _NOT_IN_RANGE) from None
    if moment.year < YEAR_MIN:
        raise InvalidRequest(field, _NOT_IN_RANGE)
    return moment, fraction or ""


@lru_cache(maxsize=64)
def _second(s: int) -> str:
    return datetime.fromtimestamp(s, UTC).isoformat()[:19]
