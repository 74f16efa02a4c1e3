"""One HTTP request as a handler sees it, and what handlers are given to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from msgspec import Struct

from atlas.core.answers import Page
from atlas.core.entities import ApiKey, Quota, Scope, Workspace
from atlas.core.ids import IdSource
from atlas.core.limits import TOPICS_MAX_DEFAULT
from atlas.core.strict_json import Text
from atlas.ports.acceptor import Acceptor
from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.ports.secret_box import SecretBox
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics


class Principal(Struct, frozen=True):
    """Who asks: a live key of a workspace that is not suspended."""

    key: ApiKey
    workspace: Workspace

    @property
    def scope(self) -> Scope:
        """Workspace and environment: all that this caller can ever see."""
        return (self.key.workspace_id, self.key.environment)


class Reply(Struct, frozen=True):
    """What goes out. Header names in lower case; the front adds the common headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Call(Protocol):
    """One authenticated request, as the front hands it to a handler."""

    @property
    def request_id(self) -> str:
        """`req_<ULID>`."""

    @property
    def principal(self) -> Principal:
        """The caller; for operators' and open paths there is none and this must not be read."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """Parts of the path named by the route, percent-decoded."""

    def query(self) -> list[tuple[str, str]]:
        """Query parameters in order, decoded, repeats included.

        Raises:
            InvalidRequest: they are not UTF-8.
        """

    def header(self, name: bytes) -> bytes | None:
        """A header's value by lower-case name (the front has refused repeats of those that matter)."""

    async def json(self) -> dict[str, Any]:
        """The body under all rules of the API notes (type, size, time, strict JSON, top level).

        Raises:
            ApiError: 400, 408, 413 or 415.
        """

    async def json_text(self) -> Text:
        """`json` and the same serialized compactly.

        Raises:
            ApiError: as `json`.
        """

    async def json_or_empty(self) -> dict[str, Any]:
        """Like `json`, but an absent body is `{}`."""


Handler = Callable[[Call], Awaitable[Reply]]


class CommonServices(Struct, frozen=True, kw_only=True):
    """What every request needs, whatever the process serves."""

    clock: Clock
    ids: IdSource
    registry: Registry
    metrics: Metrics
    quota_default: Quota


class Services(CommonServices, frozen=True, kw_only=True):
    """The ports and folds that the handlers of the API use."""

    entropy: Callable[[int], bytes]
    acceptor: Acceptor
    log: Log
    read_model: ReadModel
    secret_box: SecretBox
    topics_max: int = TOPICS_MAX_DEFAULT


def json_reply(status: int, value: object, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """A reply whose body is `value` as JSON."""
    return Reply(status, orjson.dumps(value), headers)


def list_reply(items: Sequence[Mapping[str, Any]], limit: int) -> Reply:
    """A page. `items` holds up to one more than `limit`: that is how `has_more` is known."""
    page, has_more = items[:limit], len(items) > limit
    cursor = page[-1]["id"] if has_more else None
    shown: Page[Mapping[str, Any]] = {
        "object": "list",
        "data": page,
        "has_more": has_more,
        "next_cursor": cursor,
    }
    return json_reply(200, shown)
