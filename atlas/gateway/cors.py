"""CORS for publishable keys: browsers may send events, and nothing else (API notes, "Keys").

Any origin is allowed, because the key is what grants and no cookie is ever looked at. A browser shows an
answer only if it carries these headers, so errors carry them too.
"""

from __future__ import annotations

from typing import Final

from atlas.gateway.call import Reply
from atlas.gateway.replies import Header

_ANY_ORIGIN: Final[Header] = (b"access-control-allow-origin", b"*")
_EXPOSED: Final[Header] = (
    b"access-control-expose-headers",
    b"Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-Request-Id, Idempotent-Replayed",
)

#: On every answer to a publishable key.
CORS_HEADERS: Final = (_ANY_ORIGIN, _EXPOSED)

#: Chromium keeps a preflight's answer for two hours at most.
_PREFLIGHT_MAX_AGE_S: Final = 7_200

#: `Authorization` has to be named: the wildcard does not cover it (Fetch standard, CORS protocol).
PREFLIGHT: Final = Reply(
    204,
    b"",
    (
        _ANY_ORIGIN,
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key"),
        (b"access-control-max-age", b"%d" % _PREFLIGHT_MAX_AGE_S),
    ),
)
