"""A request's body: bounded in bytes and in time, whatever the server in front of us does (security notes).

A body over its limit is read a little further before the 413, and one that nobody asked for before its
answer: a client that is still writing when the connection closes may never see why.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from atlas.core.errors import ApiError, AtlasError, InvalidRequest
from atlas.core.limits import BODY_DEADLINE_S, DRAIN_BYTES_MAX, DRAIN_S_MAX
from atlas.gateway.deadlines import Deadlines


class ClientGone(AtlasError):
    """The client closed the connection: there is nobody to answer."""


class Body:
    """The body of one request, read once or drained.

    Args:
        receive: of the ASGI request.
        deadlines: shared by all bodies, `BODY_DEADLINE_S` each.
    """

    __slots__ = (
        "_announced_bytes", "_deadlines", "_expected", "_finished", "_given_up", "_read_bytes", "_receive",
    )  # fmt: skip

    def __init__(self, receive: Receive, deadlines: Deadlines) -> None:
        self._receive = receive
        self._deadlines = deadlines
        self._announced_bytes = 0
        self._expected = False
        self._finished = False
        self._given_up = False
        self._read_bytes = 0

    def announced(self, length_bytes: int | None) -> None:
        """The headers speak of a body, of this length (None: they do not say)."""
        self._announced_bytes = length_bytes or 0
        self._expected = length_bytes != 0

    @property
    def is_pending(self) -> bool:
        """Whether the client may still be sending what the headers spoke of."""
        return self._expected and (not self._finished or self._is_short)

    @property
    def _is_short(self) -> bool:
        """Fewer bytes than announced: the server took them for something else, or the client hung up."""
        return self._read_bytes < self._announced_bytes

    async def read(self, bytes_max: int) -> bytes:
        """All of it.

        Raises:
            ApiError: 408 after `BODY_DEADLINE_S`, 413 past `bytes_max`, 400 when it ends early.
            ClientGone: the client did not wait.
        """
        body = None
        if self._announced_bytes <= bytes_max:
            task = self._deadlines.start()
            try:
                body = await self._collect(bytes_max)
            except asyncio.CancelledError:
                if self._deadlines.expired(task):
                    self._given_up = True
                    raise _too_slow() from None
                raise
            finally:
                self._deadlines.stop(task)
        if body is None:
            await self.drain()
            raise ApiError("payload_too_large", f"A body may have at most {bytes_max:,} bytes here.")
        if self._is_short:
            raise InvalidRequest("Content-Length", "announces more bytes than the body has")
        return body

    async def drain(self) -> None:
        """Throw away what is left: up to `DRAIN_BYTES_MAX` of the body in all, for `DRAIN_S_MAX`, once.

        Raises:
            ClientGone: the client did not wait.
        """
        if self._given_up:
            return
        self._given_up = True
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                while not self._finished and self._read_bytes < DRAIN_BYTES_MAX:
                    await self._next()
        except TimeoutError:
            return

    async def _collect(self, bytes_max: int) -> bytes | None:
        """The body, or None once it is too long. One chunk, the usual case, is not copied."""
        first = b""
        whole: bytearray | None = None
        while not self._finished:
            chunk = await self._next()
            if self._read_bytes > bytes_max:
                return None
            if not first:
                first = chunk
            elif chunk:
                if whole is None:
                    whole = bytearray(first)
                whole += chunk
        return first if whole is None else bytes(whole)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self._finished = True
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        self._read_bytes += len(chunk)
        if not message.get("more_body", False):
            self._finished = True
        return chunk


def _too_slow() -> ApiError:
    return ApiError("request_timeout", f"The body did not arrive within {BODY_DEADLINE_S:.0f} seconds.")
