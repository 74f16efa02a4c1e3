"""Serving the ASGI application with hypercorn or uvicorn, on a socket that listens already."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final

import uvicorn
from hypercorn.config import Config

from atlas import serve_hypercorn
from atlas.core.limits import HEAD_BYTES_MAX
from atlas.serve_uvicorn import HttpProtocol

SERVERS: Final = ("hypercorn", "uvicorn")
#: How long requests under way may take to end when the server stops.
GRACEFUL_S: Final = 2
#: After that they are cut off; a server that does not end even then is left alone after this long.
CUT_OFF_S: Final = 0.5
KEEP_ALIVE_S: Final = 75.0
_BACKLOG: Final = 1024
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # read from a socket, not bound


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address; clients are refused until it listens.

    Raises:
        OSError: somebody listens there, or the address is not ours, or none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    except TypeError as error:  # what is not UTF-8, as the command line may give it
        sock.close()
        raise OSError("not a host name") from error
    sock.setblocking(False)
    return sock


def listen(sock: socket.socket) -> socket.socket:
    """Clients may connect from here on; they are served once the server runs.

    Raises:
        OSError: somebody else has had the same address, and listens.
    """
    sock.listen(_BACKLOG)
    return sock


def url_of(sock: socket.socket) -> str:
    """Base URL at which this machine reaches a bound socket."""
    host, port = sock.getsockname()[:2]
    host = _ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(app: Any, sock: socket.socket, server: str, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then accept nothing new, and end within `GRACEFUL_S` + 2 x `CUT_OFF_S`.

    Requests under way get `GRACEFUL_S` to end; clients that hold connections open do not hold this up.
    """
    running = asyncio.create_task(
        _uvicorn(app, sock, stop) if server == "uvicorn" else _hypercorn(app, sock, stop)
    )
    stopping = asyncio.create_task(stop.wait())
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(_is_no_cut_off)
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await asyncio.wait({running}, timeout=GRACEFUL_S + CUT_OFF_S)
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running}, timeout=CUT_OFF_S)
    if running.done() and not running.cancelled():
        running.result()


def _is_no_cut_off(record: logging.LogRecord) -> bool:
    """Both servers log a request that is cut off at the end as if it were a bug, traceback and all."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


async def _hypercorn(app: Any, sock: socket.socket, stop: asyncio.Event) -> None:
    config = Config()
    config.graceful_timeout = GRACEFUL_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.backlog = _BACKLOG
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    await serve_hypercorn.serve(app, config, sock, stop)


async def _uvicorn(app: Any, sock: socket.socket, stop: asyncio.Event) -> None:
    config = uvicorn.Config(
        app,
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=_BACKLOG,
    )
    server = uvicorn.Server(config)
    stopping = asyncio.create_task(_stop_uvicorn(server, stop))
    try:
        await server._serve([sock])  # noqa: SLF001  # serve() would take the signals from us
    finally:
        stopping.cancel()


async def _stop_uvicorn(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
