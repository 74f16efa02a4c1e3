"""Worker: the client. Raw connections on uvloop, requests put together before the clock starts.

A job ends after so many requests or seconds, either as fast as `connections` allow (each sends its next
request when it has its answer) or at a steady rate. Any answer but the status expected fails the job.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import count, islice, repeat
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import uvloop
from msgspec import Struct, convert

from scripts.bench_lib.http_stream import Messages
from scripts.bench_lib.worker import say

_CONNECT_MAX_S: Final = 5.0
_JOB_MAX_S: Final = 600.0
_serial = count(time.time_ns())


class Job(Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes:
        keyed: each request gets an idempotency key of its own.
        rate: requests a second; None: as many as the connections carry.
        seconds, requests: the first that is reached ends it.
        events: return event ids with the times of sending.
    """

    url: str
    path: str
    token: str
    body: str
    connections: int
    status: int = 202
    keyed: bool = False
    rate: float | None = None
    seconds: float | None = None
    requests: int | None = None
    events: bool = False


def request_bytes(job: Job) -> Iterator[bytes]:
    """As many requests as are asked for."""
    head = (
        f"POST {job.path} HTTP/1.1\r\nHost: atlas\r\nAuthorization: Bearer {job.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(job.body)}\r\n"
    ).encode()
    if job.keyed:
        made: Iterator[bytes] = (
            b"%bIdempotency-Key: bench-%d\r\n\r\n%b" % (head, next(_serial), job.body.encode())
            for _ in count()
        )
    else:
        made = repeat(head + b"\r\n" + job.body.encode())
    return islice(made, job.requests)


class _Run:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.requests = request_bytes(job)
        self.expected = b"HTTP/1.1 %d" % job.status
        self.idle: deque[_Connection] = deque()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = self.answered = 0
        self.ends_s = float("inf") if job.seconds is None else time.perf_counter() + job.seconds
        self.latencies_s: list[float] = []
        self.events: list[tuple[str, float]] = []

    def next(self, connection: _Connection) -> None:
        """Send this connection's next request, if there is one to send."""
        if time.perf_counter() < self.ends_s:
            request = next(self.requests, None)
            if request is not None:
                self.sent += 1
                connection.send(request)
                return
        self.ends_s = 0.0
        if self.answered == self.sent and not self.done.done():
            self.done.set_result(None)

    def answer(self, connection: _Connection, head: bytes, body: bytes) -> None:
        self.answered += 1
        self.latencies_s.append(time.perf_counter() - connection.sent_s)
        if not head.startswith(self.expected):
            self.fail(head.decode("latin-1") + "\n" + body.decode("latin-1"))
        if self.job.events:
            self.events.append((orjson.loads(body)["id"], connection.sent_at_s))
        if self.job.rate is None:
            self.next(connection)
            return
        self.idle.append(connection)
        if self.ends_s == 0.0 and self.answered == self.sent and not self.done.done():
            self.done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))

    async def at_a_rate(self, rate: float) -> None:
        loop, start_s = asyncio.get_running_loop(), time.perf_counter()
        for number in count():
            wait_s = start_s + number / rate - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not self.idle:
                self.fail("every connection is busy: the rate cannot be kept")
            if self.done.done() or self.ends_s == 0.0:
                return
            loop.call_soon(self.next, self.idle.popleft())


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run, self._messages = run, Messages()
        self.transport: Any = None
        self.sent_s = self.sent_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes) -> None:
        self.sent_s, self.sent_at_s = time.perf_counter(), time.time()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        for head, body in self._messages.feed(data):
            self._run.answer(self, head, body)

    def connection_lost(self, error: Exception | None) -> None:
        self._run.fail(f"the server closed a connection: {error}")


async def carry_out(job: Job) -> dict[str, Any]:
    """Send everything and wait for every answer."""
    at = urlsplit(job.url)
    loop = asyncio.get_running_loop()
    run = _Run(job)
    connections = []
    for _ in range(job.connections):
        async with asyncio.timeout(_CONNECT_MAX_S):
            _, connection = await loop.create_connection(
                lambda: _Connection(run), at.hostname or "", at.port or 0
            )
        connections.append(connection)
    run.ends_s = float("inf") if job.seconds is None else time.perf_counter() + job.seconds
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    if job.rate is None:
        for connection in connections:
            run.next(connection)
    else:
        run.idle.extend(connections)
        await run.at_a_rate(job.rate)
    async with asyncio.timeout(_JOB_MAX_S):
        await run.done
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    for connection in connections:
        connection.transport.close()
    return {
        "requests": run.answered,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "latencies_ms": _percentiles(run.latencies_s),
        "events": run.events,
    }


def _percentiles(latencies_s: list[float]) -> list[float]:
    ordered = sorted(latencies_s) or [0.0]
    return [round(ordered[int(len(ordered) * share)] * 1000, 3) for share in (0.5, 0.95, 0.99)]


def main() -> None:
    """Carry out job after job, each on a loop of its own."""
    say({})
    for line in sys.stdin.buffer:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                say(runner.run(carry_out(convert(orjson.loads(line), Job))))
            except (RuntimeError, OSError) as error:
                say({"failed": str(error)})


if __name__ == "__main__":
    main()
