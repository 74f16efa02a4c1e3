"""The one error tree.

    AtlasError
    ├── ApiError                    what a caller of the HTTP API is told; carries code, status, details
    │   ├── InvalidRequest          400 invalid_request, with the dotted path of the first thing wrong
    │   └── Unavailable             503 service_unavailable, with Retry-After
    ├── LogError                    raised by every adapter of the Log port
    │   ├── LogUnavailable          the append did not happen, or nobody can tell: try again
    │   ├── OffsetOutOfRange        the position is below the log's start, or beyond its end
    │   ├── TopicRefused            there cannot be such a topic
    │   └── UnknownTopic
    ├── StoreUnavailable            the read model cannot answer or take a batch now
    ├── StaleWriter                 a fenced write lost against a newer one: stop, do not retry
    ├── DataDirectoryInUse          another process owns the data directory
    └── DataDirectoryUnusable       it, or a file in it, cannot be made, read or written

Adapters translate their vendor's exceptions into these, once, beside the client; nothing above an
adapter catches a vendor's exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Every `error.code` that a response can carry, with its HTTP status (reference, "Error handling",
#: and the table of the API notes). The tests hold the documents and the code to this one table.
HTTP_STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "authentication_failed": 401,
    "permission_denied": 403,
    "stream_not_found": 404,
    "event_not_found": 404,
    "workflow_not_found": 404,
    "endpoint_not_found": 404,
    "key_not_found": 404,
    "workspace_not_found": 404,
    "replay_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "duplicate_event": 409,
    "already_exists": 409,
    "not_replayable": 409,
    "stream_limit_reached": 409,
    "endpoint_limit_reached": 409,
    "replay_limit_reached": 409,
    "payload_expired": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "rate_limit_exceeded": 429,
    "internal_error": 500,
    "service_unavailable": 503,
}

# What a caller sent may be a megabyte of key or path; an answer that quotes it should not be.
FIELD_PATH_CHARS_MAX: Final = 512
MESSAGE_CHARS_MAX: Final = 1_000


class AtlasError(Exception):
    """Root of everything Atlas raises on purpose."""


class ApiError(AtlasError):
    """An answer other than success, in the reference's form.

    Args:
        code: stable, safe to switch on; a key of `HTTP_STATUS_BY_CODE`.
        message: for people; may change; cut at `MESSAGE_CHARS_MAX`.
        details: always an object in the answer.
        headers: extra response headers, names in lower case.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = message[:MESSAGE_CHARS_MAX]
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = HTTP_STATUS_BY_CODE[code]
        self.message = message
        self.details: Mapping[str, object] = details or {}
        self.headers: Mapping[str, str] = headers or {}


class InvalidRequest(ApiError):
    """400 `invalid_request`.

    Args:
        field: dotted path to the first thing wrong, a header's or parameter's name, or None when
            the body as a whole is wrong; cut at `FIELD_PATH_CHARS_MAX`.
        reason: what is wrong with it, for people.
    """

    def __init__(self, field: str | None, reason: str) -> None:
        field = field[:FIELD_PATH_CHARS_MAX] if field else field
        where = f"{field}: " if field else ""
        super().__init__("invalid_request", f"{where}{reason}", {"field": field, "reason": reason})
        self.field = field
        self.reason = reason


class Unavailable(ApiError):
    """503 `service_unavailable`: the log cannot take it, or an answer would be a guess.

    Args:
        reason: for people.
        retry_after_s: whole seconds, at least 1 (RFC 9110, 10.2.3).
    """

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(
            "service_unavailable",
            reason,
            {"retry_after_ms": retry_after_s * 1000},
            {"retry-after": str(retry_after_s)},
        )


class LogError(AtlasError):
    """Root of what an adapter of the Log port raises."""


class LogUnavailable(LogError):
    """The log cannot take or serve this now. An append that raised this may still land."""


class OffsetOutOfRange(LogError):
    """The position lies below the log's start, or beyond its end: the log has lost what was read of it."""


class TopicRefused(LogError):
    """There cannot be such a topic: the brokers refuse it, or somebody else made it with other partitions."""


class UnknownTopic(LogError):
    """No such topic, or it has been deleted."""


class StoreUnavailable(AtlasError):
    """The read model cannot answer, or cannot take a batch, now."""


class StaleWriter(AtlasError):
    """A fenced write found a newer one: this writer was replaced and must stop."""


class DataDirectoryInUse(AtlasError):
    """Another process owns this data directory."""


class DataDirectoryUnusable(AtlasError):
    """The data directory, or a file in it, cannot be made, read or written."""
