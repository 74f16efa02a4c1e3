"""The life of a process that serves: from its signals to a bounded end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Self, TypeVar

import uvloop

from atlas.bootstrap import Atlas
from atlas.core.errors import AtlasError
from atlas.serve import bind, listen, serve, url_of

#: From the signal to the end. The log is safe to cut off at any instruction, so that whatever still
#: hangs after that is left behind.
STOP_MAX_S: Final = 4.5
#: How long the announcement waits for the process to be ready; it serves before.
READY_MAX_S: Final = 5.0
#: Connections of clients and to targets; the usual soft limit of 1,024 is soon reached.
OPEN_FILES_MAX: Final = 65_536
_POLL_S: Final = 0.05
_INTERRUPTED: Final = 130

T = TypeVar("T")


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main` on an event loop of its own; the event it gets is set by SIGTERM and SIGINT."""
    _raise_open_files()

    async def until_stopped() -> None:
        stop = asyncio.Event()
        _on_signals(stop)
        await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped())


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of it; None when `stop` is set before it is done: then it is cancelled."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        stopping.cancel()
        doing.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


class Address:
    """An address that this process has before anything else, so that a start that cannot end well ends at
    once; clients are refused until it listens.

    Args:
        option: what sets the port, for the error.

    Raises:
        AtlasError: with one line for people.
    """

    def __init__(self, host: str, port: int, option: str = "--port") -> None:
        self._where, self._option = f"{host}:{port}", option
        with self._told():
            self._sock = bind(host, port)
        self.url: Final = url_of(self._sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def listen(self) -> socket.socket:
        """Let clients in.

        Raises:
            AtlasError: with one line for people: two were started at the same time.
        """
        with self._told():
            return listen(self._sock)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = f"; choose another with {self._option}" if error.errno == errno.EADDRINUSE else ""
            raise AtlasError(f"cannot listen on {self._where}: {error.strerror or error}{hint}") from error


async def serve_until_stopped(
    atlas: Atlas, address: Address, server: str, stop: asyncio.Event, announce: Callable[[], None]
) -> None:
    """Serve; announce it once a request is answered; drain and end when `stop` is set."""
    sock = address.listen()
    serving = asyncio.create_task(serve(atlas.app, sock, server, stop))
    announcing = asyncio.create_task(_announce_when_ready(atlas, sock, announce))
    announcing.add_done_callback(lambda task: stop.set() if _failed(task) else None)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    announcing.cancel()
    stopping.cancel()
    # Deliveries drain beside the server: requests under way may still be answered meanwhile.
    await asyncio.gather(serving, atlas.drain())
    if announcing.done() and not announcing.cancelled():
        announcing.result()


def say(text: str) -> None:
    """Print it on stdout, whether or not anybody reads there."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever started us does not want to know; nor will Python at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _announce_when_ready(atlas: Atlas, sock: socket.socket, announce: Callable[[], None]) -> None:
    """Speak only once a request from outside is answered, and, if that is soon, once all is ready."""
    await _answers(sock)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_MAX_S):
            while atlas.registry.not_ready():  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(_POLL_S)
            while (await atlas.readiness.report())["status"] != "ready":  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(_POLL_S)
    # What start-up made stays: the collector need not look at it again and again. The slowest of 16,000
    # requests took 30 to 75 ms without this, 16 to 44 ms with it; higher thresholds changed nothing.
    gc.collect()
    gc.freeze()
    announce()


async def _answers(sock: socket.socket) -> None:
    host, port = url_of(sock).removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: atlas\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


def _failed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal asks for an end, a timer enforces it; another SIGINT is an end at once."""

    def asked(number: int) -> None:
        if stop.is_set():
            if number == signal.SIGINT:
                os._exit(_INTERRUPTED)
            return
        stop.set()
        guard = threading.Timer(STOP_MAX_S, os._exit, [0])
        guard.daemon = True
        guard.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has further bounds of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
