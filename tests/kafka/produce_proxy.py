"""A TCP proxy before a broker that can hold requests of one kind back on the wire, or lose their answers.

What it holds it still delivers once it is let go, when whoever sent it is long gone, as a network may.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Final, Self

from scripts.kafka_lib.broker import free_port

#: Kafka protocol guide, "API keys".
PRODUCE: Final = 0
OFFSET_COMMIT: Final = 8


class ProduceProxy:
    """Forwards `port` to `upstream_port`; use it as an async context manager.

    Attributes:
        held: set once a request is held.
        answered: response frames to requests that had been held.
        swallowed: set once an answer was lost.
    """

    def __init__(self, port: int, upstream_port: int) -> None:
        self.port, self._upstream_port = port, upstream_port
        self.held, self.swallowed = asyncio.Event(), asyncio.Event()
        self._held_key: int | None = None
        self._swallowed_key: int | None = None
        self.answered: asyncio.Queue[bytes] = asyncio.Queue()
        self._text = b""
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    def hold(self, text: bytes = b"", key: int = PRODUCE) -> None:
        """Let no request of this kind through from now on that has this in it, in a record say."""
        self.held.clear()
        self._text, self._held_key = text, key
        self._open.clear()

    def let_go(self) -> None:
        """Deliver what is held, and hold nothing."""
        self._held_key = None
        self._open.set()

    def swallow(self, key: int = PRODUCE) -> None:
        """Let requests with this API key through, and lose the answers to those that come from now on."""
        self.swallowed.clear()
        self._swallowed_key = key

    def answer(self) -> None:
        """Lose nothing more."""
        self._swallowed_key = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:  # the broker is away
            writer.close()
            return
        # Kept: a writer nobody refers to closes its connection, and the answer to come is lost.
        self._writers += [writer, upstream_writer]
        late: set[int] = set()
        lost: set[int] = set()
        requests = asyncio.create_task(self._forward_requests(reader, upstream_writer, late, lost))
        responses = asyncio.create_task(self._forward_responses(upstream_reader, writer, late, lost))
        for task in (requests, responses):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward_requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, late: set[int], lost: set[int]
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await _frame(reader)
                key, _, correlation = struct.unpack(">hhi", frame[4:12])
                if key == self._swallowed_key:
                    lost.add(correlation)
                if key == self._held_key and self._text in frame:
                    late.add(correlation)
                    self.held.set()
                    await self._open.wait()
                upstream.write(frame)
                await upstream.drain()

    async def _forward_responses(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, late: set[int], lost: set[int]
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await _frame(upstream)
                correlation = struct.unpack(">i", frame[4:8])[0]
                if correlation in late:
                    self.answered.put_nowait(frame)
                if correlation in lost:
                    self.swallowed.set()
                    continue
                with contextlib.suppress(ConnectionError):
                    writer.write(frame)


def proxied(port: int, proxy_port: int) -> dict[str, str]:
    """Settings of a broker that listens on `port` too, and tells those who come there to use the proxy."""
    usual = "PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
    return {
        "listeners": f"{usual},PROXIED://127.0.0.1:{port}",
        "advertised.listeners": f"{usual},PROXIED://127.0.0.1:{proxy_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
    }


def two_ports() -> tuple[int, int]:
    """For the broker's second listener and for the proxy."""
    first = free_port()
    second = free_port()
    while second == first:
        second = free_port()
    return first, second


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size, "big"))
