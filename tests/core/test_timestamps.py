from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.errors import InvalidRequest
from atlas.core.timestamps import format_ms, format_s, parse_filter_time, parse_occurred_at

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given_text", "utc"),
    [
        ("2026-05-18T14:22:11Z", "2026-05-18T14:22:11Z"),
        ("2026-05-18T14:22:11.482Z", "2026-05-18T14:22:11.482Z"),
        ("2026-05-18T14:22:11.000000000Z", "2026-05-18T14:22:11.000000000Z"),
        ("2026-05-18T14:22:11.123456789+02:00", "2026-05-18T12:22:11.123456789Z"),
        ("2026-05-18t14:22:11z", "2026-05-18T14:22:11Z"),
        ("2026-05-18T14:22:11-00:00", "2026-05-18T14:22:11Z"),
        ("2026-12-31T23:30:00-01:00", "2027-01-01T00:30:00Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("2026-05-31T00:00:00.5Z", "2026-05-31T00:00:00.5Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ("2026-05-18T00:00:00+23:59", "2026-05-17T00:01:00Z"),
    ],
)
def test_occurred_at_comes_back_in_utc(given_text: str, utc: str) -> None:
    assert parse_occurred_at(given_text) == utc


REFUSED = [
    "",
    "2026-05-18",
    "2026-05-18T14:22:11",
    "2026-05-18T14:22Z",
    "2026-05-18 14:22:11Z",
    "2026-05-18T14:22:11.Z",
    "2026-05-18T14:22:11.1234567890Z",
    "2026-05-18T14:22:11,5Z",
    "2026-05-18T14:22:11+0200",
    "2026-05-18T14:22:11+02",
    "2026-05-18T14:22:11+24:00",
    "2026-05-18T14:22:11+02:60",
    "2026-05-18T14:22:11 02:00",
    "2026-05-18T14:22:60Z",
    "2016-12-31T23:59:60Z",
    "2026-05-18T24:00:00Z",
    "2026-05-18T14:60:11Z",
    "2026-00-18T14:22:11Z",
    "2026-13-18T14:22:11Z",
    "2026-05-00T14:22:11Z",
    "2026-04-31T14:22:11Z",
    "2025-02-29T00:00:00Z",
    "2026-W21-1T14:22:11Z",
    "20260518T142211Z",
    "2026-05-18T14:22:11Z\n",
    " 2026-05-18T14:22:11Z",
    "2026-05-18T14:22:11Z\0",
    "٢٠٢٦-05-18T14:22:11Z",
    "1779114131",
    "+12026-05-18T14:22:11Z",
    "0000-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1969-12-31T23:59:59.999999999Z",
    "1970-01-01T00:59:59+01:00",
    "9999-12-31T23:59:59-00:01",
    "0001-01-01T00:00:00+01:00",
    "10000-01-01T00:00:00Z",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_occurred_at(text)
    assert caught.value.field == "occurred_at"
    with pytest.raises(InvalidRequest) as caught:
        parse_filter_time(text, "received_after")
    assert caught.value.field == "received_after"


# Two days from either end, so that every offset's local time is a date too.
moments = st.integers(2 * 86_400, 253_402_300_800 - 2 * 86_400).map(lambda s: EPOCH + timedelta(seconds=s))
offsets = st.none() | st.integers(-23 * 60 - 59, 23 * 60 + 59)


@given(moments, offsets, st.text("0123456789", max_size=9))
def test_any_time_at_any_offset(at: datetime, offset_min: int | None, digits: str) -> None:
    """`at` in UTC, written at an offset, is `at` again, and the same number of milliseconds."""
    zone = UTC if offset_min is None else timezone(timedelta(minutes=offset_min))
    local = at.astimezone(zone).isoformat()
    fraction = f".{digits}" if digits else ""
    text = f"{local[:19]}{fraction}{'Z' if offset_min is None else local[19:]}"
    utc = f"{at.isoformat()[:19]}{fraction}Z"
    assert parse_occurred_at(text) == utc
    nanos = (at - EPOCH) // timedelta(seconds=1) * 10**9 + int(digits.ljust(9, "0"))
    assert parse_filter_time(text) == -(-nanos // 10**6)


@given(st.text("0123456789-:.TZ+", max_size=32))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_occurred_at(parse_occurred_at(text)) == parse_occurred_at(text)
    except InvalidRequest:
        pass


def test_filter_times_are_rounded_up() -> None:
    assert parse_filter_time("1970-01-01T00:00:01.482Z") == 1_482
    assert parse_filter_time("1970-01-01T00:00:01.482000001Z") == 1_483
    assert parse_filter_time("1970-01-01T00:00:01.9999Z") == 2_000


@given(st.integers(0, 253_402_300_799_999))
def test_formatting_and_parsing_agree(ms: int) -> None:
    assert parse_filter_time(format_ms(ms)) == ms
    assert parse_filter_time(format_s(ms)) == ms // 1000 * 1000
    assert parse_occurred_at(format_ms(ms)) == format_ms(ms)


def test_forms_of_the_reference() -> None:
    ms = parse_filter_time("2026-05-18T14:22:11.482Z")
    assert format_ms(ms) == "2026-05-18T14:22:11.482Z"
    assert format_s(ms) == "2026-05-18T14:22:11Z"
    assert format_ms(0) == "1970-01-01T00:00:00.000Z"
