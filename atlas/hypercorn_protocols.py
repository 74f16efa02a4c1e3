"""HTTP/1.1 and HTTP/2 as hypercorn speaks them, without what lets a request harm others on its connection.

hypercorn 0.18 raises in the middle of a connection where a request's method or path is not ASCII, or missing;
so ends what else is under way there, and the error quotes what was received. A web socket and HTTP/2 by way
of an upgrade have such cases of their own. A server may ignore the offer of an upgrade (RFC 9110, 7.8), which
Atlas does; HTTP/2 is spoken with prior knowledge (RFC 9113, 3.3). And it drops a whole HTTP/2 connection when
more of a body comes for a stream that is answered already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import h2.errors
import h2.events
import h11
from hypercorn.events import Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Request
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

_BAD_REQUEST: Final = 400
_SERVER_ERRORS: Final = 500
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
#: Before the path of a target in absolute form (RFC 9112, 3.2.2).
_ABSOLUTE: Final = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


class Protocols(ProtocolWrapper):
    """The protocol of a connection: HTTP/1.1 until the client is found to speak HTTP/2."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.protocol = Http1(*self._shared())

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            data = error.data
        else:
            return
        self.protocol = Http2(*self._shared())
        await self.protocol.initiate()
        await self.protocol.handle(RawData(data=data))

    def _shared(self) -> tuple[Any, ...]:
        return (
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.state,
            self.ssl,
            self.client,
            self.server,
            self.send,
        )


class Http1(H11Protocol):
    """A connection that speaks HTTP/1.1; h11 has checked the characters of each head."""

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        self.stream = _stream(self, STREAM_ID)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=_path(request.target),
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _send_error_response(self, status_code: int) -> None:
        # Of what the client did wrong, a coding that h11 does not know among it.
        await super()._send_error_response(_BAD_REQUEST if status_code >= _SERVER_ERRORS else status_code)


class Http2(H2Protocol):
    """A connection that speaks HTTP/2."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.streams = _Streams()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        headers = [*_readable(request.headers)]
        found = dict(headers)
        if _METHOD(found.get(b":method", b"")) is None or b":path" not in found:
            # RFC 9113, 8.1.1: a malformed request is an error of its stream alone.
            self.connection.reset_stream(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        if found[b":method"].upper() == b"CONNECT":  # hypercorn would open a web socket
            headers = [(name, b"TUNNEL" if name == b":method" else value) for name, value in headers]
        request.headers = headers
        await super()._create_stream(request)


class _Answered:
    """Takes what a client sends to a stream that has been answered: nobody wants it."""

    async def handle(self, event: object) -> None:
        pass


_ANSWERED: Final = _Answered()


class _Streams(dict[int, Any]):
    """The open streams of a connection by id. hypercorn looks the others up too, and would fail."""

    def __missing__(self, stream_id: int) -> _Answered:
        return _ANSWERED


def _stream(protocol: Http1, stream_id: int) -> HTTPStream:
    return HTTPStream(
        protocol.app,
        protocol.config,
        protocol.context,
        protocol.task_group,
        protocol.ssl,
        protocol.client,
        protocol.server,
        protocol.stream_send,
        stream_id,
    )


def _readable(headers: Iterable[Any]) -> Iterable[tuple[bytes, bytes]]:
    for name, value in headers:
        yield (bytes(name), _path(bytes(value)) if name == b":path" else bytes(value))


def _path(target: bytes) -> bytes:
    """The path and query of a target, in ASCII."""
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :]
        target = target if target.startswith(b"/") else b"/" + target
    return target if target.isascii() else b"".join(b"%c" % c if c < 128 else b"%%%02X" % c for c in target)
