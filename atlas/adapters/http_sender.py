"""The Sender port over aiohttp.

The guard sits where sockets are made (`socket_factory`): it sees every address that is about to be
dialled, resolved or written as a literal, at every connection. A check of the name, or of what it
resolved to a moment ago, could be got round by a name that changes (DNS rebinding).

aiohttp's own timer is the one deadline. It covers look-up, connection, TLS, request and answer, so that
neither a header nor a body sent a byte at a time runs on.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from aiohttp import (
    AddrInfoType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    hdrs,
)
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import BytesPayload
from yarl import URL

from atlas.adapters.http_outcome import (
    CONNECTION_ERRORS,
    AddressRefused,
    by_broken_answer,
    by_error,
    by_status,
)
from atlas.adapters.resolver import ThreadResolver
from atlas.core.addresses import Network, refusal
from atlas.core.limits import (
    ANSWER_BYTES_MAX,
    ANSWER_FIELD_BYTES_MAX,
    ANSWER_FIELDS_MAX,
    RESPONSE_BODY_BYTES_MAX,
)
from atlas.core.retry_after import http_date_s, retry_after_s
from atlas.ports.clock import Clock
from atlas.ports.sender import (
    UPSTREAM_UNREACHABLE,
    DeliveryRequest,
    DeliveryResult,
)

#: Of an answer longer than the evidence this much is read, so that the connection can be used again;
#: a longer one is cut off.
DRAIN_BYTES_MAX: Final = 65_536

#: Shorter than the five seconds after which common servers close an idle connection: a request must not
#: cross the close on its way, because a POST is not resent.
KEEPALIVE_S: Final = 4.0

DNS_TTL_S: Final = 10

#: Targets whose parsed URL is kept.
URLS_CACHED_MAX: Final = 4_096

#: All that RFC 3986 lets stand in a URL as it is, a % only before two digits.
_ENCODED = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")

_DEFAULT_HEADERS: Final = {hdrs.ACCEPT: "*/*", hdrs.USER_AGENT: f"Atlas/{version('atlas-events')}"}

#: Timeouts of five seconds and more are rounded up to whole seconds by aiohttp, up to this bound.
_NEVER_ROUNDED_S: Final = 3_600.0


_UNUSABLE_URL: Final = DeliveryResult(
    error_code=UPSTREAM_UNREACHABLE, error_message="Target's URL cannot be used"
)


class _Dial:
    """How far one attempt's connection came; times by `perf_counter`, as uvloop's clock has whole ms only."""

    __slots__ = ("address", "connected_at_s", "fresh", "started_at_s", "tls_started_at_s")

    def __init__(self, started_at_s: float) -> None:
        self.started_at_s = started_at_s
        self.address: str | None = None
        self.fresh = False
        self.tls_started_at_s: float | None = None
        self.connected_at_s: float | None = None

    @property
    def in_handshake(self) -> bool:
        return self.tls_started_at_s is not None and self.connected_at_s is None

    @property
    def connect_ms(self) -> float | None:
        """Name look-up and TCP."""
        until_s = self.tls_started_at_s or self.connected_at_s
        return _ms(until_s - self.started_at_s) if self.fresh and until_s is not None else None

    @property
    def tls_ms(self) -> float | None:
        if self.tls_started_at_s is None or self.connected_at_s is None:
            return None
        return _ms(self.connected_at_s - self.tls_started_at_s)


#: The attempt that the running task, or a task or callback started by it, is dialling for. aiohttp
#: hands its hooks no request, and its tracing costs a fifth of the throughput.
_DIAL: ContextVar[_Dial] = ContextVar("dial")


class _Request(ClientRequest):
    """Without Accept-Encoding: what a target answers is kept as it comes, never unpacked."""

    DEFAULT_HEADERS = _DEFAULT_HEADERS


class _Response(ClientResponse):
    async def start(self, connection: Connection) -> ClientResponse:
        dial = _DIAL.get()
        dial.connected_at_s = perf_counter()
        if connection.transport is not None:
            dial.address = connection.transport.get_extra_info("peername", (dial.address,))[0]
        return await super().start(connection)


class _Protocol(ResponseHandler):
    """Bounds an answer as a whole: aiohttp bounds each field and their number, but not their sum."""

    _received_bytes = 0

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be sent."""
        self._received_bytes = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._received_bytes += len(data)
        if self._received_bytes > ANSWER_BYTES_MAX and self.transport is not None:
            self.transport.close()
            self.set_exception(HttpProcessingError(message="Answer is too long"))


class _Connector(TCPConnector):
    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        protocol: type[ResponseHandler] = _Protocol
        self._factory = partial(protocol, loop=self._loop)


class _Context(ssl.SSLContext):
    """Verifies as `ssl.create_default_context` does, and notes when a handshake begins."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        dial = _DIAL.get(None)
        if dial is not None:
            dial.tls_started_at_s = perf_counter()
        return super().wrap_bio(*args, **kwargs)


class HttpSender:
    """See the port for what it guarantees. Construct it inside the event loop that it is used in.

    Args:
        clock: for a `Retry-After` date from a target that does not tell its own time.
        allow: blocks of addresses that the operator opened to deliveries, against the guard.
        resolver: for tests.
        ca_file: certificates (PEM) trusted besides the system's.
        dns_ttl_s: how long an answer of the resolver is used; 0 asks at every connection.
    """

    def __init__(
        self,
        clock: Clock,
        allow: Sequence[Network] = (),
        *,
        resolver: AbstractResolver | None = None,
        ca_file: Path | None = None,
        dns_ttl_s: int = DNS_TTL_S,
    ) -> None:
        self._clock = clock
        self._allow = tuple(allow)
        connector = _Connector(
            limit=0,  # concurrency is bounded per target by the deliverer
            keepalive_timeout=KEEPALIVE_S,
            resolver=resolver or ThreadResolver(),
            use_dns_cache=dns_ttl_s > 0,
            ttl_dns_cache=dns_ttl_s,
            socket_factory=self._socket,
            ssl=_tls_context(ca_file),
        )
        self._session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            request_class=_Request,
            response_class=_Response,
            read_bufsize=DRAIN_BYTES_MAX,
            max_field_size=ANSWER_FIELD_BYTES_MAX,
            max_headers=ANSWER_FIELDS_MAX,
        )

    async def send(self, request: DeliveryRequest) -> DeliveryResult:
        """Make one attempt and say what came of it. Cancelling it closes its connection."""
        dial = _Dial(perf_counter())
        _DIAL.set(dial)
        try:
            url = _url(request.url)
        except ValueError:
            return DeliveryResult(
                error_code=UPSTREAM_UNREACHABLE, error_message="Target's URL cannot be used"
            )
        try:
            response = await self._session.post(
                url,
                data=BytesPayload(request.body),
                headers=request.headers,
                timeout=_timeout(request.timeout_ms),
                allow_redirects=False,
            )
        except CONNECTION_ERRORS as error:
            code, message = by_error(error, request.timeout_ms, dial.in_handshake)
            return DeliveryResult(
                error_code=code,
                error_message=message,
                address=dial.address,
                connect_ms=dial.connect_ms,
                tls_ms=dial.tls_ms,
            )
        return await self._finish(response, dial, request.timeout_ms)

    async def close(self) -> None:
        """Release all connections; sends under way must have ended. Nothing can be sent afterwards."""
        await self._session.close()

    async def _finish(self, response: ClientResponse, dial: _Dial, timeout_ms: int) -> DeliveryResult:
        """Read the evidence and judge the answer."""
        first_byte_ms = _ms(perf_counter() - dial.started_at_s)
        evidence = bytearray()
        try:
            await _read(response, evidence)
            code, message = by_status(response.status)
        except CONNECTION_ERRORS as error:
            code, message = by_broken_answer(response.status, error, timeout_ms)
        finally:
            if not response.closed:  # cut off, broken or cancelled: not to be used again
                response.close()
        return DeliveryResult(
            http_status=response.status,
            error_code=code,
            error_message=message,
            response_body=evidence.decode(errors="replace"),
            retry_after_s=self._retry_after_s(response) if response.status in (429, 503) else None,
            address=dial.address,
            connect_ms=dial.connect_ms,
            tls_ms=dial.tls_ms,
            first_byte_ms=first_byte_ms,
        )

    def _retry_after_s(self, response: ClientResponse) -> float | None:
        asked = response.headers.get(hdrs.RETRY_AFTER)
        if asked is None:
            return None
        # Its own clock may be wrong; the difference is what it means.
        target_now_s = http_date_s(response.headers.get(hdrs.DATE, ""))
        return retry_after_s(asked, self._clock.now_ms() / 1000 if target_now_s is None else target_now_s)

    def _socket(self, addr_info: AddrInfoType) -> socket.socket:
        """The guard: called with each address right before it is dialled.

        Raises:
            AddressRefused: it must not be dialled; no socket is made.
        """
        family, kind, protocol, _, sockaddr = addr_info
        address = str(sockaddr[0])
        dial = _DIAL.get()
        dial.fresh = True
        dial.address = address
        reason = refusal(address, self._allow)
        if reason is not None:
            raise AddressRefused(reason)
        return socket.socket(family=family, type=kind, proto=protocol)


async def _read(response: ClientResponse, evidence: bytearray) -> None:
    """Read the answer's body to its end or to the bound, keeping the start of it in `evidence`."""
    content = response.content
    if content.is_eof():  # it came whole with its header: the usual case
        evidence += content.read_nowait()[:RESPONSE_BODY_BYTES_MAX]
        return
    read_bytes = 0
    while read_bytes <= DRAIN_BYTES_MAX:
        chunk = await content.readany()
        if not chunk:
            return
        read_bytes += len(chunk)
        evidence += chunk[: RESPONSE_BODY_BYTES_MAX - len(evidence)]


@lru_cache(maxsize=4)
def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Reading the system's certificates takes tens of milliseconds."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate, and checks its name
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=URLS_CACHED_MAX)
def _url(url: str) -> URL:
    """Parsing costs as much as signing. A URL that needs no quoting is sent exactly as it was given.

    Raises:
        ValueError: not a URL of a target.
    """
    parsed = URL(url, encoded=_ENCODED.fullmatch(url) is not None)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host or not parsed.port:
        raise ValueError("not an http or https URL with a host")
    return parsed


@lru_cache(maxsize=1_024)
def _timeout(timeout_ms: int) -> ClientTimeout:
    return ClientTimeout(total=timeout_ms / 1000, ceil_threshold=_NEVER_ROUNDED_S)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
