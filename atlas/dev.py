"""`atlas dev`: everything in one process on the embedded log, from start-up to a bounded end."""

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
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson
import uvloop
from msgspec import Struct
from rich.console import Console

from atlas.bootstrap import Atlas, DataDirectory, Options
from atlas.core.addresses import LOOPBACK
from atlas.core.entities import Quota
from atlas.core.errors import AtlasError
from atlas.core.tokens import digest
from atlas.dev_secrets import master_key, operator_token
from atlas.first_workspace import ensure_first_workspace
from atlas.quickstart import STREAM, Installation, show
from atlas.runtime.telemetry import Metrics, configure_logging
from atlas.serve import bind, serve, url_of

#: From the signal to the end. The log is safe to cut off at any instruction, so that whatever still
#: hangs after that is left behind.
STOP_MAX_S: Final = 4.5
#: How long the announcement waits for the process to be ready; it serves before.
READY_MAX_S: Final = 5.0
#: Connections of clients and to targets; the usual soft limit of 1,024 is soon reached.
OPEN_FILES_MAX: Final = 65_536
#: What `--json` prints, in this order.
JSON_FIELDS: Final = ("url", "workspace_id", "live_secret_key", "test_secret_key", "operator_token")
_POLL_S: Final = 0.05
_INTERRUPTED: Final = 130


class DevOptions(Struct, frozen=True, kw_only=True):
    """What the command line sets."""

    host: str
    port: int
    data_dir: Path
    server: str
    quota: Quota
    json: bool


class Secrets(Struct, frozen=True):
    """Of the installation."""

    master_key: bytes
    operator_token: str


def run(options: DevOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        AtlasError: with one line for people: the data directory is in use, the port is taken, ...
    """
    _raise_open_files()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(DataDirectory(options.data_dir))
            secrets = Secrets(master_key(options.data_dir), operator_token(options.data_dir))
        except OSError as error:
            reason = error.strerror or error
            raise AtlasError(f"cannot use the data directory {options.data_dir}: {reason}") from error
        sock = held.enter_context(_listen(options.host, options.port))
        runner = held.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_main(options, secrets, sock))


async def _main(options: DevOptions, secrets: Secrets, sock: socket.socket) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    installation = Options(
        master_key=secrets.master_key,
        operator_token_digest=digest(secrets.operator_token),
        quota=options.quota,
        allow_networks=LOOPBACK,
    )
    metrics = Metrics()
    log_lines = configure_logging(metrics)
    try:
        atlas = await Atlas.open(options.data_dir, installation, metrics=metrics)
        try:
            await atlas.start()
            workspace = await ensure_first_workspace(atlas, options.data_dir)
            streams = atlas.registry.state.streams.get((workspace.workspace_id, "live"), {})
            running = Installation(
                url=url_of(sock),
                data_dir=str(options.data_dir),
                workspace_id=workspace.workspace_id,
                live_secret_key=workspace.live.secret,
                test_secret_key=workspace.test.secret,
                operator_token=secrets.operator_token,
                step_1_done=STREAM in streams,
            )
            await _serve(atlas, options, sock, stop, lambda: _announce(running, options.json))
        finally:
            await atlas.close()
    finally:
        log_lines.close()


async def _serve(
    atlas: Atlas, options: DevOptions, sock: socket.socket, stop: asyncio.Event, announce: Callable[[], None]
) -> None:
    serving = asyncio.create_task(serve(atlas.app, sock, options.server, stop))
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


def _announce(running: Installation, as_json: bool) -> None:
    if as_json:
        text = orjson.dumps({name: getattr(running, name) for name in JSON_FIELDS}).decode() + "\n"
    else:
        console = Console(highlight=False)
        with console.capture() as captured:
            show(console, running)
        text = captured.get()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever started us does not want to know; nor will Python at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _listen(host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        hint = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        raise AtlasError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has further bounds of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
