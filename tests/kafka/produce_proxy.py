"""A TCP proxy before a broker that can hold produce requests back on the wire.

What it holds it still delivers once it is let go, when whoever sent it is long gone, as a network may.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Final, Self

from scripts.kafka_lib.broker import free_port

_PRODUCE_KEY: Final = 0


class ProduceProxy:
    """Forwards `port` to `upstream_port`; use it as an async context manager.

    Attributes:
        held: set once a produce request is held.
        answered: response frames to requests that had been held.
    """

    def __init__(self, port: int, upstream_port: int) -> None:
        self.port, self._upstream_port = port, upstream_port
        self.held = asyncio.Event()
        self.answered: asyncio.Queue[bytes] = asyncio.Queue()
        self._text = b""
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    def hold(self, text: bytes) -> None:
        """Let no produce request through from now on that has this in a record."""
        self._text = text
        self._open.clear()

    def let_go(self) -> None:
        """Deliver what is held, and hold nothing."""
        self._open.set()

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
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        # Kept: a writer nobody refers to closes its connection, and the answer to come is lost.
        self._writers += [writer, upstream_writer]
        late: set[int] = set()
        requests = asyncio.create_task(self._forward_requests(reader, upstream_writer, late))
        responses = asyncio.create_task(self._forward_responses(upstream_reader, writer, late))
        for task in (requests, responses):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward_requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, late: set[int]
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await _frame(reader)
                key, _, correlation = struct.unpack(">hhi", frame[4:12])
                if key == _PRODUCE_KEY and self._text in frame and not self._open.is_set():
                    late.add(correlation)
                    self.held.set()
                    await self._open.wait()
                upstream.write(frame)
                await upstream.drain()

    async def _forward_responses(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, late: set[int]
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await _frame(upstream)
                if struct.unpack(">i", frame[4:8])[0] in late:
                    self.answered.put_nowait(frame)
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
