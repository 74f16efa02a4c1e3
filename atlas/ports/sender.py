"""Sending one delivery over HTTP."""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

UPSTREAM_TIMEOUT: Final = "upstream_timeout"
UPSTREAM_STATUS: Final = "upstream_status"
UPSTREAM_UNREACHABLE: Final = "upstream_unreachable"
UPSTREAM_TLS: Final = "upstream_tls"
UPSTREAM_BLOCKED: Final = "upstream_blocked"
UPSTREAM_GONE: Final = "upstream_gone"


class DeliveryRequest(Struct, frozen=True, gc=False):
    """One attempt. The body is sent as it is: it is what was signed.

    `url` and the target's own headers have passed `atlas.core.targets`. `timeout_ms` is for all of it,
    from the name look-up to the end of the answer.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    timeout_ms: int


class DeliveryResult(Struct, frozen=True, gc=False, kw_only=True):
    """What came of one attempt. It succeeded exactly when `error_code` is None.

    `http_status` is set whenever a status line was read, also on a failure. `error_message` is for
    people and holds no address, secret or header. `response_body` is the first 4 KiB of the answer,
    bytes that are not UTF-8 replaced; None without an answer. `retry_after_s` is what a 429 or 503 asked
    for, from now. `address` is the one dialled, or the one refused. `connect_ms` (name look-up and TCP)
    and `tls_ms` are None on a connection used before; `first_byte_ms` runs from the start to the end of
    the answer's header.
    """

    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    response_body: str | None = None
    retry_after_s: float | None = None
    address: str | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None


class Sender(Protocol):
    """Guarantees of every adapter:

    * `send` never raises for anything a target does, and ends by `timeout_ms`.
    * Success is a 2xx answer within the timeout, whole, or longer than the sender is willing to read.
      Redirects are not followed: a 3xx is a failure.
    * No address that the guard refuses is dialled, whatever the URL says and its name resolves to.
    * One POST per `send`: nothing is resent behind the caller's back. No cookies, no proxies.
    """

    async def send(self, request: DeliveryRequest) -> DeliveryResult:
        """Make one attempt and say what came of it. Cancelling it closes its connection."""

    async def close(self) -> None:
        """Release all connections; sends under way must have ended. Nothing can be sent afterwards."""
