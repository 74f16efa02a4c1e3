"""What aiohttp raises, and what a target answers, in the terms of the Sender port.

Messages are for the people who own the target. They hold no address (a name of somebody else's inner
network must not be readable through us), no header and no secret.
"""

from __future__ import annotations

import errno
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from atlas.ports.sender import (
    UPSTREAM_BLOCKED,
    UPSTREAM_GONE,
    UPSTREAM_STATUS,
    UPSTREAM_TIMEOUT,
    UPSTREAM_TLS,
    UPSTREAM_UNREACHABLE,
)

#: All that a connection, its peer, or what the peer sends can cause.
CONNECTION_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError)

Outcome = tuple[str | None, str | None]

_SUCCESS: Final[Outcome] = (None, None)

_NOT_HTTP: Final = "Target's answer is not valid HTTP"
_CONNECT_MESSAGES: Final = {
    errno.ECONNREFUSED: "Target refused the connection",
    errno.EHOSTUNREACH: "Target's network cannot be reached",
    errno.ENETUNREACH: "Target's network cannot be reached",
}


class AddressRefused(OSError):
    """Raised in place of opening a socket. An OSError, because that is what the dialler handles."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)
        self.reason = reason


def by_status(status: int) -> Outcome:
    """Code and message of a complete answer; both None for a success."""
    if status < 100:  # three digits, so the parser lets it pass; RFC 9110, 15 does not
        return UPSTREAM_UNREACHABLE, _NOT_HTTP
    if 200 <= status < 300:
        return _SUCCESS
    if status == HTTPStatus.GONE:
        return UPSTREAM_GONE, "Target answered 410 Gone"
    if 300 <= status < 400:
        return UPSTREAM_STATUS, f"Target answered {status}; redirects are not followed"
    return UPSTREAM_STATUS, f"Target answered {status}"


def by_broken_answer(status: int, error: BaseException, timeout_ms: int) -> Outcome:
    """Code and message of an answer whose body did not end as announced.

    A failure stays what its status says. A 2xx is believed only when it is whole: half an answer may
    come from a target that died over its work, and a repeat costs less than a loss.
    """
    if not 200 <= status < 300:
        return by_status(status)
    if isinstance(error, TimeoutError):
        return UPSTREAM_TIMEOUT, f"Target's answer did not end within {duration(timeout_ms)}"
    return UPSTREAM_UNREACHABLE, "Target closed the connection in the middle of its answer"


def by_error(error: BaseException, timeout_ms: int, in_handshake: bool) -> Outcome:
    """Code and message of an attempt that got no answer.

    Args:
        error: one of `CONNECTION_ERRORS`.
        timeout_ms: the time the attempt had.
        in_handshake: TCP was connected and TLS was not yet.
    """
    os_error = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(error, TimeoutError):
        return UPSTREAM_TIMEOUT, f"Target did not respond within {duration(timeout_ms)}"
    if isinstance(os_error, AddressRefused):
        return UPSTREAM_BLOCKED, f"Target's address is not allowed: {os_error.reason}"
    if isinstance(error, aiohttp.InvalidURL):  # http://127.1/, http://2130706433/
        return UPSTREAM_BLOCKED, "Target's address is not allowed: not a canonical IPv4 address"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UPSTREAM_TLS, f"Target's certificate is not valid: {_why(error.certificate_error)}"
    if in_handshake or isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return UPSTREAM_TLS, "TLS handshake with the target failed"
    return UPSTREAM_UNREACHABLE, _unreachable(error, os_error)


def duration(ms: int) -> str:
    """Short, as in the reference's example: `5s`, `1.5s`, `200ms`."""
    return f"{ms / 1000:g}s" if ms >= 1000 else f"{ms}ms"


def _why(error: Exception) -> str:
    return str(getattr(error, "verify_message", "") or "it cannot be verified")


def _unreachable(error: BaseException, os_error: OSError | None) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "Target's name could not be resolved"
    if os_error is not None:
        return _CONNECT_MESSAGES.get(os_error.errno or 0, "Target could not be connected to")
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return _NOT_HTTP
    return "Target closed the connection without an answer"
