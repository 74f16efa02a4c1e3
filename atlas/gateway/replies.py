"""Answers that are not a handler's: errors in the reference's form, and what every response carries."""

from __future__ import annotations

from typing import Final

import orjson

from atlas.core import answers
from atlas.core.errors import ApiError
from atlas.gateway.call import Reply

Header = tuple[bytes, bytes]

JSON_TYPE: Final[Header] = (b"content-type", b"application/json")
#: Answers hold secrets and what changes from one moment to the next: nothing between us and the client
#: may keep them.
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_NO_CONTENT: Final = 204


def error_object(error: ApiError, request_id: str) -> answers.ErrorObject:
    """The value of `error` in an answer (reference, "Error handling")."""
    return {
        "code": error.code,
        "message": error.message,
        "request_id": request_id,
        "details": error.details,
    }


def error_reply(error: ApiError, request_id: str) -> Reply:
    """The whole answer of a request that failed."""
    headers = tuple(
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()
    )
    body: answers.ErrorAnswer = {"error": error_object(error, request_id)}
    return Reply(error.status, orjson.dumps(body), headers)


def response_headers(request_id: str, reply: Reply, extra: list[Header]) -> list[Header]:
    """Everything above the body; `extra` is what the front adds for this caller."""
    if reply.status == _NO_CONTENT:  # has no content to speak of (RFC 9110, 8.6)
        return [(b"x-request-id", request_id.encode()), *extra, *reply.headers]
    headers = [
        (b"x-request-id", request_id.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        NO_STORE,
        *extra,
    ]
    if reply.headers:
        headers += reply.headers
        if any(name == b"content-type" for name, _ in reply.headers):
            return headers
    headers.append(JSON_TYPE)
    return headers
