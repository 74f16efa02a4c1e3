"""The retry schedule: reference, "Retry behavior"; API notes, "Retries"."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.retry import DEFAULT_SCHEDULE_S, JITTER, RETRY_AFTER_BEYOND_S, retry_delay_ms

JUST_BELOW_1 = 1 - 2**-53


def test_the_default_is_eight_retries_over_a_day() -> None:
    hours = [value / 3600 for value in DEFAULT_SCHEDULE_S]
    assert DEFAULT_SCHEDULE_S[:4] == (30, 60, 300, 900)
    assert hours[4:] == [1, 3, 6, 12]


@given(st.integers(1, len(DEFAULT_SCHEDULE_S)), st.floats(0, 1, exclude_max=True))
def test_each_delay_is_the_schedules_times_one_to_one_and_a_tenth(attempt: int, chance: float) -> None:
    delay_ms = retry_delay_ms(DEFAULT_SCHEDULE_S, attempt, chance)
    base_ms = DEFAULT_SCHEDULE_S[attempt - 1] * 1000
    assert delay_ms is not None
    assert base_ms <= delay_ms <= base_ms * (1 + JITTER)


@pytest.mark.parametrize("schedule", [(), (5,), DEFAULT_SCHEDULE_S])
def test_the_budget_is_the_schedules_length(schedule: tuple[int, ...]) -> None:
    assert retry_delay_ms(schedule, len(schedule) + 1, 0.0) is None
    if schedule:
        assert retry_delay_ms(schedule, len(schedule), 0.0) == schedule[-1] * 1000


@pytest.mark.parametrize(
    ("retry_after_s", "expected_ms"),
    [
        (None, 30_000),
        (10, 30_000),
        (45, 45_000),
        (30 + RETRY_AFTER_BEYOND_S, 3_630_000),
        (30 + RETRY_AFTER_BEYOND_S + 1, 3_630_000),
        (1e9, 3_630_000),
    ],
)
def test_retry_after_lengthens_by_at_most_an_hour(retry_after_s: float | None, expected_ms: int) -> None:
    assert retry_delay_ms(DEFAULT_SCHEDULE_S, 1, 0.0, retry_after_s) == expected_ms


def test_jitter_is_drawn_not_fixed() -> None:
    assert retry_delay_ms((100,), 1, 0.0) == 100_000
    assert retry_delay_ms((100,), 1, 0.5) == 105_000
    assert retry_delay_ms((100,), 1, JUST_BELOW_1) in (109_999, 110_000)
