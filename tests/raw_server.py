"""A target that answers with whatever bytes a test wants, on loopback, and the sender it is tried with."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from atlas.adapters.http_sender import HttpSender
from atlas.core.addresses import LOOPBACK
from atlas.ports.sender import DeliveryRequest, DeliveryResult

#: Long enough for any answer on loopback, however busy the machine; a test that waits for it fails.
GENEROUS_MS: Final = 20_000
#: For tests in which the time does run out.
SHORT_MS: Final = 200
NOW_MS: Final = 784_111_777_000  # Sun, 06 Nov 1994 08:49:37 GMT

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)

#: Answers one request. It may close the writer, and then no more is read.
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """What arrived, and what is still connected."""

    def __init__(self, answer: Answer, reads: bool) -> None:
        self.answer = answer
        self.reads = reads
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._arrived = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def connected(self) -> int:
        return len(self._handlers)

    async def all_closed(self) -> None:
        """Returns when every connection so far has been closed by the client."""
        async with asyncio.timeout(10):
            while self._handlers:
                await asyncio.wait(set(self._handlers))

    async def arrived(self, count: int) -> None:
        """Returns when this many requests have arrived."""
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            while not writer.is_closing():
                if self.reads:
                    self.requests.append(await _request(reader))
                async with self._arrived:
                    self._arrived.notify_all()
                await self.answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client hung up
        except asyncio.CancelledError:
            pass  # stop() did it; asyncio's streams would log it as an error
        finally:
            self._handlers.discard(task)
            writer.close()

    async def stop(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._handlers:
            task.cancel()
        await self.all_closed()
        await server.wait_closed()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


@asynccontextmanager
async def serve(
    answer: Answer, tls: ssl.SSLContext | None = None, reads: bool = True
) -> AsyncIterator[RawServer]:
    """A target. One that does not read answers as soon as it is connected to."""
    raw = RawServer(answer, reads)
    server = await asyncio.start_server(raw.handle, "127.0.0.1", 0, ssl=tls, backlog=1_024)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        await raw.stop(server)


def says(*answers: bytes, then_close: bool = False) -> Answer:
    """One answer after the other, the last of them for ever."""
    left = list(answers)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        if then_close:
            writer.close()

    return answer


def says_then_hangs(data: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await reader.read()  # until the client hangs up
        writer.close()

    return answer


def plain(status: str, *headers: str, body: bytes = b"") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


@asynccontextmanager
async def no_faults() -> AsyncIterator[None]:
    """Fails when anything is left to the loop's exception handler: lost errors, what was not closed."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield
    gc.collect()
    assert faults == []


@asynccontextmanager
async def a_sender() -> AsyncIterator[HttpSender]:
    async with no_faults():
        sender = HttpSender(FixedClock(), LOOPBACK)
        try:
            yield sender
        finally:
            await sender.close()


async def post(sender: HttpSender, url: str, timeout_ms: int = GENEROUS_MS) -> DeliveryResult:
    headers = {"Content-Type": "application/json"}
    return await sender.send(DeliveryRequest(url, headers, b'{"a":1}', timeout_ms))


async def answer_to(sender: HttpSender, data: bytes) -> DeliveryResult:
    """What the sender makes of a target that says this and closes."""
    async with serve(says(data, then_close=True)) as target:
        return await post(sender, target.url)
