"""Lists of what the control plane holds: sorted by id, a page at a time (API notes, "Lists")."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, gt, lt
from typing import Any, Final, Protocol, TypeVar

from atlas.core.limits import PAGE_MAX
from atlas.gateway.call import Call, Reply, list_reply
from atlas.gateway.parameters import page_cursor, page_limit, parameters

PARAMETERS: Final = frozenset({"limit", "cursor"})
_by_id: Final = attrgetter("id")


class Identified(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str:
        """Unique in the list."""


T = TypeVar("T", bound=Identified)

#: The `cursor` among a query's parameters; raises InvalidRequest when it is no id of the right form.
CursorOf = Callable[[dict[str, str]], str | None]


def cursor_with(prefix: str) -> CursorOf:
    """A cursor that is `prefix` and a ULID."""
    return lambda values: page_cursor(values, prefix)


def page(
    call: Call,
    cursor_of: CursorOf,
    items: Iterable[T],
    view: Callable[[T], Mapping[str, Any]],
    *,
    newest_first: bool = False,
) -> Reply:
    """The page that `limit` and `cursor` ask for, ascending by id unless `newest_first`.

    Raises:
        InvalidRequest: a parameter is unknown or not of its form.
    """
    values = parameters(call, PARAMETERS)
    limit, cursor = page_limit(values), cursor_of(values)
    choose, comes_after = (heapq.nlargest, lt) if newest_first else (heapq.nsmallest, gt)
    after = items if cursor is None else (item for item in items if comes_after(item.id, cursor))
    chosen = choose(min(limit, PAGE_MAX) + 1, after, key=_by_id)
    return list_reply([view(item) for item in chosen], limit)
