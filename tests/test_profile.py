"""`conftest.py` is read before hypothesis looks for its settings."""

from __future__ import annotations

from hypothesis import settings


def test_no_property_has_a_deadline() -> None:
    """The machine may be busy with other tests."""
    assert settings().deadline is None
