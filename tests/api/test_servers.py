"""What both servers must do for Atlas below HTTP: let connections go, and bound what they take in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import h2.config
import h2.connection
import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from atlas.core.limits import HEAD_BYTES_MAX, HEAD_DEADLINE_S
from atlas.serve import bind, listen, serve
from atlas.serve_uvicorn import HttpProtocol
from tests.api.atlas_process import EVENT, SERVERS, answered, create_stream, every_page, refused
from tests.http_client import Client, Wire, content
from tests.virtual_time import VirtualClock, pass_time, virtual_time

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
    sock = listen(bind("127.0.0.1", 0))
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
    connection = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
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


@pytest.mark.parametrize(
    "request_bytes",
    [
        http_2(b"/", b"/\xff"),
        http_2(b"/\xff", b"/"),
        GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n\r\n"),
        GET.replace(
            b"\r\n\r\n",
            b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        ),
    ],
)
async def test_a_connection_with_a_bad_request_ends_with_its_client(request_bytes: bytes) -> None:
    async with served(App(), "hypercorn") as port:
        await hang_up(await asked(port, GET))
        before = asyncio.all_tasks()
        for _ in range(MANY):
            await hang_up(await asked(port, request_bytes))
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


def a_head(size_bytes: int) -> bytes:
    start = GET.removesuffix(b"\r\n") + b"X-A: a\r\n" * 100 + b"X-B: "
    return start + b"b" * (size_bytes - len(start) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_of_the_largest_size(server: str, before: bytes) -> None:
    async with served(App(), server) as port:
        await hang_up(await asked(port, before + a_head(HEAD_BYTES_MAX), b"ok" if not before else b"okHTTP"))


async def test_a_head_one_byte_too_large() -> None:
    """uvicorn; hypercorn looks only when it would have to read on."""
    async with served(App(), "uvicorn") as port:
        await hang_up(await asked(port, a_head(HEAD_BYTES_MAX + 1), b"HTTP/1.1 431 "))
        await hang_up(await asked(port, GET + a_head(HEAD_BYTES_MAX + 1), b"HTTP/1.1 431 "))


CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS: Final = {
    "headers": (GET.removesuffix(b"\r\n"), b"X-A: a\r\n" * 1_000),
    "one header": (GET.removesuffix(b"\r\n") + b"X-A: ", b"a" * 10_000),
    "a target": (b"GET /", b"a" * 10_000),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: a\r\n" * 1_000),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("case", ENDLESS)
async def test_a_head_without_end(server: str, case: str) -> None:
    start, more = ENDLESS[case]

    async def send() -> None:
        writer.write(start)
        for _ in range(20_000_000 // len(more)):
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0)

    async with served(App(), server) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send(), 10)
        writer.transport.abort()


class Transport(asyncio.Transport):
    """The server's end of a connection, as far as it looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def connected() -> tuple[HttpProtocol, Transport]:
    config = uvicorn.Config(App(), loop="none", ws="none", log_config=None, timeout_keep_alive=75)
    protocol, transport = HttpProtocol(config, ServerState(), {}), Transport()
    protocol.connection_made(transport)
    return protocol, transport


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost"])
def test_uvicorn_gives_a_head_so_much_time(sent: bytes) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        protocol, transport = connected()
        protocol.data_received(sent)
        await pass_time(HEAD_DEADLINE_S - 0.1)
        assert not transport.is_closing()
        await pass_time(0.2)
        assert transport.is_closing()
        protocol.connection_lost(None)

    test()


@virtual_time
async def test_uvicorn_gives_the_next_head_as_much(clock: VirtualClock) -> None:
    protocol, transport = connected()
    for _ in range(5):
        protocol.data_received(GET)
        await pass_time(HEAD_DEADLINE_S * 2)
        assert not transport.is_closing()
    for count in range(100):  # so slowly that neither clock runs out by itself
        if transport.is_closing():
            break
        protocol.data_received(GET[count : count + 1])
        await pass_time(1)
    assert transport.is_closing()
    assert count <= HEAD_DEADLINE_S * 2
    protocol.connection_lost(None)


@virtual_time
async def test_uvicorn_waits_for_answers(clock: VirtualClock) -> None:
    protocol, transport = connected()
    protocol.data_received(GET.replace(b"/", b"/wait", 1))
    await pass_time(HEAD_DEADLINE_S * 5)
    assert not transport.is_closing()
    protocol.connection_lost(None)
    for task in protocol.tasks:
        task.cancel()


OFFER: Final = [
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
]
BODY: Final = orjson.dumps(EVENT)


@pytest.mark.parametrize("offer", [OFFER, [("Connection", "keep-alive, upgrade"), ("Upgrade", "foo/2")]])
@pytest.mark.parametrize("body", [BODY, [BODY[:9], BODY[9:]]], ids=["length", "chunks"])
def test_a_post_that_offers_an_upgrade_just_works(
    acme: Client, offer: list[tuple[str, str]], body: bytes | list[bytes]
) -> None:
    """Java's client offers one on every new connection."""
    create_stream(acme)
    whole = acme.head("POST", "/v1/events", body, offer) + content(body)
    split = acme.head("POST", "/v1/events", body, offer).index(b"Upgrade")
    end_of_head = whole.index(b"\r\n\r\n") + 4
    for cuts in ([], [end_of_head], [split, end_of_head + 5], [end_of_head - 1], [end_of_head + 1]):
        with Wire(acme.port) as wire:
            for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                wire.send(whole[start:end])
            answered(wire.answer(), 202)
            wire.send(whole + acme.head("GET", "/v1/events"))
            answered(wire.answer(), 202)
            answered(wire.answer(), 200)
    assert len(every_page(acme, "/v1/events")) == 10


def test_a_body_is_not_the_next_request(acme: Client) -> None:
    create_stream(acme)
    hidden = acme.head("POST", "/v1/events", BODY) + BODY
    with Wire(acme.port) as wire:
        wire.send(acme.head("POST", "/v1/events", hidden, OFFER))
        wire.send(hidden)
        refused(wire.answer(), 400, "invalid_request")
        wire.send(acme.head("GET", "/v1/events"))
        assert answered(wire.answer(), 200)["data"] == []


def test_many_offers_at_once(acme: Client) -> None:
    count = 1_000
    with Wire(acme.port) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n" * count)
        for _ in range(count):
            answered(wire.answer(), 200)


def test_a_tunnel_is_refused(acme: Client) -> None:
    with Wire(acme.port) as wire:
        wire.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + GET)
        assert 400 <= wire.answer().status < 500
