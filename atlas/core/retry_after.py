"""`Retry-After`: how long a target asks to be left alone (RFC 9110, 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_SECONDS = re.compile(r"[0-9]+")
#: Thirty years. More is taken for as much: to convert a long string of digits costs time that grows with
#: its square, and whoever asks for so long is to be left alone for as long as may be.
SECONDS_MAX: Final = 999_999_999
_DIGITS_MAX: Final = len(str(SECONDS_MAX))


def retry_after_s(value: str, now_s: float) -> float | None:
    """Seconds to wait from now; 0 for a time that has passed, None for what is neither form.

    A number of seconds counts up to `SECONDS_MAX`.

    Args:
        value: seconds, or an HTTP date.
        now_s: unix time by the target's own clock (its `Date`) where it told it, else by ours.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        digits = value.lstrip("0") or "0"
        return float(digits if len(digits) <= _DIGITS_MAX else SECONDS_MAX)
    at_s = http_date_s(value)
    return None if at_s is None else max(0.0, at_s - now_s)


def http_date_s(value: str) -> float | None:
    """Unix time of an HTTP date in any of its three forms (RFC 9110, 5.6.7), or None."""
    try:
        parsed = parsedate_to_datetime(value)
        # HTTP dates are in GMT, also the asctime form that does not say so.
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
