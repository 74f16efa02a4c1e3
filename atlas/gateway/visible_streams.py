"""Which streams a caller can see: those of its workspace and environment that its key's scope holds."""

from __future__ import annotations

from collections.abc import Collection

from atlas.core.entities import Stream
from atlas.core.errors import ApiError
from atlas.gateway.call import Principal
from atlas.runtime.registry import Registry


async def visible_streams(
    registry: Registry, principal: Principal, names: Collection[str]
) -> dict[str, Stream]:
    """Those of `names` that exist and that the caller may see, archived ones included.

    A name that the fold does not know may just have been made elsewhere: then the end of the control
    topic is waited for, once. A name outside the key's scope is not looked up at all, so that not even
    the time it takes tells whether there is such a stream.

    Raises:
        Unavailable: the control log cannot be read now.
    """
    scope, key = principal.scope, principal.key
    known = registry.state.streams.get(scope, {})
    allowed = names if key.streams is None else [name for name in names if key.allows(name)]
    if not all(name in known for name in allowed):
        await registry.catch_up()
        known = registry.state.streams.get(scope, {})
    return {name: known[name] for name in allowed if name in known}


def stream_not_found(name: str) -> ApiError:
    """The 404 for a stream that is not there, or archived, or not this caller's: always the same."""
    return ApiError("stream_not_found", f"No stream {name!r} in this workspace and environment.")
