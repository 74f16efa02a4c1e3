"""hypercorn on a socket that listens already, with the bounds that it does not keep by itself.

A connection may be idle for `keep_alive_timeout`, and that is all the time a request's head has to arrive:
hypercorn stops the clock when it has one. Of what hypercorn 0.18 leaves open, this closes:

- a connection whose client has left, which it keeps until the idle time is over, or for ever where an
  answer over HTTP/2 was under way;
- one that speaks HTTP/2 and asks for nothing, or takes back what it asked for, which it keeps for ever.

What of a request it cannot read is in `hypercorn_protocols`; whatever else it should fail at ends that
connection, and is written down without what was received.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import structlog
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr, wrap_app

from atlas.hypercorn_protocols import Protocols

log_line = structlog.get_logger()


async def serve(app: Any, config: Config, sock: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; requests under way then get `config.graceful_timeout` to end.

    hypercorn's own `worker_serve` has no place to name `Connection`.
    """
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await Connection(wrapped, asyncio.get_running_loop(), config, context, {}, reader, writer)

    server = await asyncio.start_server(connected, backlog=config.backlog, sock=sock)
    try:
        await stop.wait()
    finally:
        await context.terminated.set()
        server.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=config.graceful_timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class Connection(TCPServer):
    """One connection; to await it is to serve it to its end."""

    def __init__(
        self,
        app: AppWrapper,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        super().__init__(app, loop, config, context, state, reader, writer)
        self._client_left = False
        self._clock_runs = True

    async def run(self) -> None:
        """Serve it; hypercorn's own has no place to name `Protocols`."""
        sock = self.writer.get_extra_info("socket")
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            async with TaskGroup(self.loop) as group:
                self._task_group = group
                self.protocol = Protocols(
                    self.app, self.config, self.context, group, ConnectionState(self.state), False, client,
                    server, self.protocol_send,
                )  # fmt: skip
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass
        except Exception as error:  # it must not reach asyncio's log, values and all
            log_line.error("connection broke off", exc_info=error)
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Called with what is to be sent, and with changes between idle and busy."""
        if isinstance(event, Updated):
            if self._client_left:
                return  # whatever ends now was the last
            self._clock_runs = event.idle
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        try:
            while not self.reader.at_eof():
                try:
                    data = await self.reader.read(MAX_RECV)
                except OSError:
                    break
                await self.protocol.handle(RawData(data))
                await self._keep_bounds_of_http_2()
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        """Whatever is under way may end: without this a task would wait for ever, and the socket with it."""
        self._client_left = True
        await self.protocol.handle(Closed())
        spoken = self.protocol.protocol
        if isinstance(spoken, H2Protocol):  # answers wait for their bytes to be sent, which none will be
            for buffer in list(spoken.stream_buffers.values()):
                await buffer.close()
        await self.idle_task.stop()

    async def _keep_bounds_of_http_2(self) -> None:
        spoken = self.protocol.protocol
        if not isinstance(spoken, H2Protocol):
            return
        if spoken.idle and not self._clock_runs:
            await self.protocol_send(Updated(idle=True))
