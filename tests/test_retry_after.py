"""Retry-After in both of its forms, and whatever else a target may put there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.retry_after import SECONDS_MAX, http_date_s, retry_after_s

#: The example of RFC 9110, 5.6.7.
AT_S = 784_111_777.0


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_the_three_forms_of_a_date(date: str) -> None:
    assert http_date_s(date) == AT_S
    assert retry_after_s(date, AT_S - 90.5) == 90.5
    assert retry_after_s(date, AT_S + 1) == 0


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("0" * 100 + "7", 7),
        ("0" * 100, 0),
        ("9" * 9, SECONDS_MAX),
        ("1" + "0" * 9, SECONDS_MAX),
        ("9" * 100_000, SECONDS_MAX),
    ],
)
def test_seconds(value: str, expected_s: int) -> None:
    assert retry_after_s(value, AT_S) == expected_s


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.5", "1e3", "soon", "9" * 100_000 + "x", "\uff11"])
def test_what_is_neither(value: str) -> None:
    assert retry_after_s(value, AT_S) is None


date_like = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Sun", "X"]),
    st.integers(0, 99),
    st.sampled_from(["Nov", "Feb", "13"]),
    st.integers(-10, 99_999),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["GMT", "", "-0000", "+9999", "-99999999", "EST"]),
)


@given(st.text(max_size=40) | date_like)
def test_nothing_else_raises_or_is_negative(value: str) -> None:
    waited_s = retry_after_s(value, AT_S)
    assert waited_s is None or waited_s >= 0
