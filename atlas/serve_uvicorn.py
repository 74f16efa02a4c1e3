"""uvicorn's HTTP/1.1 connection, with the bounds that it does not keep, and deaf to offers of an upgrade.

uvicorn 0.54 takes headers without end, and waits for them as long as the client likes. And httptools takes
what follows a head that offers an upgrade for the other protocol's: the request's body would be lost, or
read as the next request. A server may ignore the offer (RFC 9110, 7.8), and so the head is read once more,
without it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from atlas.core.limits import HEAD_BYTES_MAX, HEAD_DEADLINE_S

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
#: What a line of the head has beside its name and value.
_LINE_EXTRA_BYTES: Final = 4
#: The same in the request line, with its version and the empty line at the end.
_FRAME_BYTES: Final = len("  HTTP/1.1\r\n\r\n")


class _TooLarge(Exception):
    """The head is complete, and too large."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._offered = False
        #: Came since the last whole head, piece of a body or end of one; and in the call under way.
        self._pending_bytes = 0
        self._chunk_bytes = 0
        self._progress = False
        self._heads = 0
        self._heads_seen = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._chunk_bytes = len(data)
        self._progress = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooLarge):
                self._refuse_too_large()
            else:
                self.send_400_response("Invalid HTTP request received.")
            return
        if self._progress:
            self._pending_bytes = 0
            return
        self._pending_bytes += len(data)
        if self._pending_bytes > HEAD_BYTES_MAX:  # of a head, or of what follows the last chunk of a body
            self._refuse_too_large()

    def on_headers_complete(self) -> None:
        if self._pending_bytes + self._chunk_bytes > HEAD_BYTES_MAX and self._head_bytes() > HEAD_BYTES_MAX:
            raise _TooLarge
        self._progress = True
        self._offered = self.parser.should_upgrade()
        if not self._offered:
            self._heads += 1
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = True
        if not self._offered:
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse it; from a head that offers an upgrade on, with a new parser that does not see the offer."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                head = self._head_without_offer()
                self._offered = False
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
                data = data[offer.args[0] :]
            else:
                return

    def _head_without_offer(self) -> bytes:
        """The head as it came, but for `Upgrade`.

        Raises:
            HttpParserError: the method is CONNECT, which asks for a tunnel: nothing behind it is HTTP.
        """
        method = self.scope["method"] = self.parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise httptools.HttpParserError("CONNECT")
        version = self.parser.get_http_version()
        kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(
            [b"%b %b HTTP/%b" % (method.encode(), self.url, version.encode()), *kept, b"", b""]
        )

    def _head_bytes(self) -> int:
        lines = sum(len(name) + len(value) + _LINE_EXTRA_BYTES for name, value in self.headers)
        return len(self.parser.get_method()) + len(self.url) + _FRAME_BYTES + lines

    def _refuse_too_large(self) -> None:
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _check_head(self) -> None:
        """Close when no head was completed since the last look, and nothing else is to wait for.

        One timer a connection, which no request touches: what has to come within `HEAD_DEADLINE_S` is
        given up at most twice as late.
        """
        if self.transport.is_closing():
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None until the first request
        waits = self.timeout_keep_alive_task is None and (cycle is None or cycle.response_complete)
        if waits and self._heads == self._heads_seen:
            self.transport.close()
            return
        self._heads_seen = self._heads if waits else -1
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._check_head)
