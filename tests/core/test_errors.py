"""Answers quote what was sent, but never at its full length."""

from __future__ import annotations

import pytest

from atlas.core.errors import FIELD_PATH_CHARS_MAX, MESSAGE_CHARS_MAX, ApiError, InvalidRequest


@pytest.mark.parametrize("extra", [-1, 0, 1, 1_000_000])
def test_a_message_is_cut(extra: int) -> None:
    error = ApiError("not_found", "m" * (MESSAGE_CHARS_MAX + extra))
    assert error.message == "m" * min(MESSAGE_CHARS_MAX, MESSAGE_CHARS_MAX + extra)
    assert str(error) == f"not_found: {error.message}"


@pytest.mark.parametrize("extra", [-1, 0, 1, 1_000_000])
def test_a_field_is_cut_but_not_what_is_wrong_with_it(extra: int) -> None:
    error = InvalidRequest("f" * (FIELD_PATH_CHARS_MAX + extra), "is wrong")
    field = "f" * min(FIELD_PATH_CHARS_MAX, FIELD_PATH_CHARS_MAX + extra)
    assert (error.field, error.details) == (field, {"field": field, "reason": "is wrong"})
    assert error.message == f"{field}: is wrong"


def test_no_field() -> None:
    assert InvalidRequest(None, "is wrong").details == {"field": None, "reason": "is wrong"}
