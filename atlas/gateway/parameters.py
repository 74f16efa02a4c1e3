"""Query parameters under the rules of the API notes: each known, each once, each of good form."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from atlas.core.errors import InvalidRequest
from atlas.core.ids import is_id
from atlas.core.limits import PAGE_DEFAULT, PAGE_MAX, PAGE_MIN
from atlas.gateway.call import Call

_DIGITS: Final = re.compile("[1-9][0-9]{0,2}").fullmatch


def refuse_parameters(call: Call) -> None:
    """For a path that takes none.

    Raises:
        InvalidRequest: naming the first one.
    """
    for name, _ in call.query():
        raise unknown_parameter(name)


def parameters(call: Call, known: Container[str], prefix: str | None = None) -> dict[str, str]:
    """The query's parameters by name.

    Args:
        call: the request.
        known: names allowed.
        prefix: names that start with it are allowed too.

    Raises:
        InvalidRequest: one is unknown, or comes twice.
    """
    values: dict[str, str] = {}
    for name, value in call.query():
        if name not in known and not (prefix and name.startswith(prefix)):
            raise unknown_parameter(name)
        if name in values:
            raise InvalidRequest(name, "the parameter is given more than once")
        if "\0" in value or "\0" in name:
            raise InvalidRequest(name, "must not hold U+0000")
        values[name] = value
    return values


def unknown_parameter(name: str) -> InvalidRequest:
    """The 400 for a parameter that the path does not know."""
    return InvalidRequest(name, "is an unknown query parameter")


def page_limit(values: dict[str, str]) -> int:
    """`limit`, or its default.

    Raises:
        InvalidRequest: not a whole number within its bounds.
    """
    text = values.get("limit")
    if text is None:
        return PAGE_DEFAULT
    if _DIGITS(text) is None or not PAGE_MIN <= int(text) <= PAGE_MAX:
        raise InvalidRequest("limit", f"must be a whole number from {PAGE_MIN} to {PAGE_MAX}")
    return int(text)


def page_cursor(values: dict[str, str], prefix: str) -> str | None:
    """`cursor`: the id after which the page starts, any well-formed one of that prefix.

    Raises:
        InvalidRequest: it is none.
    """
    text = values.get("cursor")
    if text is not None and not is_id(prefix, text):
        raise InvalidRequest("cursor", f"must be the next_cursor of a page: an id that starts with {prefix}")
    return text
