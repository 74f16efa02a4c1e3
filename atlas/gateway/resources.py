"""A resource: one path, what may be done to it, and who may do it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from prometheus_client import Counter

from atlas.core.limits import BODY_BYTES_MAX
from atlas.gateway.auth import Access
from atlas.gateway.call import Handler

#: Methods that get a label of their own; the rest of what a client can make up shares one.
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Area(enum.Enum):
    """Whose a path is, and so what lets one in."""

    OPEN = "open"
    OPERATOR = "operator"
    WORKSPACE = "workspace"


class Operation(Struct, frozen=True):
    """A method of a resource.

    Attributes:
        access: what a workspace's key must be allowed; without meaning elsewhere.
        body_bytes_max: past it, 413.
        envelope_depth: outer levels of the body that its depth limit does not count.
    """

    handler: Handler
    access: Access = Access.FULL
    body_bytes_max: int = BODY_BYTES_MAX
    envelope_depth: int = 0


class Resource:
    """One path.

    Args:
        template: as routes write it; also its label in metrics.
        area: see `Area`.
        operations: by method; GET answers HEAD too.
        preflight: whether OPTIONS is answered for browsers, without a key.
    """

    def __init__(
        self, template: str, area: Area, operations: Mapping[str, Operation], *, preflight: bool = False
    ) -> None:
        self.template = template
        self.area = area
        self.operations = operations
        self.preflight = preflight
        self._counts: dict[tuple[str, object], Counter] = {}

    @property
    def allow(self) -> str:
        """The value of `Allow`."""
        head = ["HEAD"] if "GET" in self.operations else []
        return ", ".join(sorted([*self.operations, *head, *(["OPTIONS"] if self.preflight else [])]))

    def count(self, requests: Counter, method: str, status: int | str) -> None:
        """Count an answered request; the metric's child is looked up once for each method and status."""
        counter = self._counts.get((method, status))
        if counter is None:
            if method not in _KNOWN_METHODS:
                method = "other"
            counter = self._counts[method, status] = requests.labels(self.template, method, str(status))
        counter.inc()
