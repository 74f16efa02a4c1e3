"""What both servers must do for Atlas below HTTP: let connections go, and bound what they take in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import h2.config
import h2.connection
import pytest

from atlas.serve import bind, serve
from tests.api.atlas_process import SERVERS

MANY: Final = 20
GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class App:
    """Answers 200, but not to `/wait` before it is let go on."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            self.asked.set()
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(app: App, server: str) -> AsyncIterator[int]:
    """The port. At the end the server must stop."""
    sock = bind("127.0.0.1", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(serve(app, sock, server, stop))
    try:
        yield sock.getsockname()[1]
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)
        sock.close()


async def asked(port: int, request: bytes, answer_ends: bytes = b"ok") -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    if answer_ends:
        await asyncio.wait_for(reader.readuntil(answer_ends), 10)
    return writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def only_this_is_left(tasks: set[asyncio.Task[Any]]) -> None:
    """Returns when no other task runs; a connection that is kept has one or more."""
    async with asyncio.timeout(10):
        while left := asyncio.all_tasks() - tasks:
            await asyncio.wait(left)


def http_2(*requests: bytes, take_back: bool = False) -> bytes:
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    for path in requests:
        stream_id = connection.get_next_available_stream_id()
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]
        connection.send_headers(stream_id, head, end_stream=True)
        if take_back:
            connection.reset_stream(stream_id)
    return connection.data_to_send()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", GET, GET + b"GET / HT"])
async def test_a_connection_ends_with_its_client(server: str, request_bytes: bytes) -> None:
    async with served(App(), server) as port:
        await hang_up(await asked(port, GET))
        before = asyncio.all_tasks()
        for _ in range(MANY):
            await hang_up(await asked(port, request_bytes, b"ok" if GET in request_bytes else b""))
        await only_this_is_left(before)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("request_bytes", [GET.replace(b"/", b"/wait", 1), http_2(b"/wait")])
async def test_a_connection_ends_after_an_answer_to_nobody(server: str, request_bytes: bytes) -> None:
    if server == "uvicorn" and request_bytes.startswith(b"PRI"):
        return  # does not speak it
    app = App()
    async with served(app, server) as port:
        await hang_up(await asked(port, GET))
        before = asyncio.all_tasks()
        writer = await asked(port, request_bytes, b"")
        await asyncio.wait_for(app.asked.wait(), 10)
        await hang_up(writer)
        app.go_on.set()
        await only_this_is_left(before)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_client_that_sends_no_more_still_gets_its_answer(server: str) -> None:
    app = App()
    async with served(app, server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/", b"/wait", 1))
        await asyncio.wait_for(app.asked.wait(), 10)
        app.go_on.set()
        writer.write_eof()
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        await hang_up(writer)


@pytest.mark.parametrize("request_bytes", [http_2(), http_2(b"/wait", take_back=True), http_2(b"/")])
async def test_http_2_that_asks_for_nothing_is_idle(
    request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.serve.KEEP_ALIVE_S", 0.1)
    app = App()
    app.go_on.set()
    async with served(app, "hypercorn") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        await asyncio.wait_for(reader.read(), 10)
        await hang_up(writer)
