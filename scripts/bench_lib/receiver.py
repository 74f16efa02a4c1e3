"""Worker: the target of deliveries. Answers 204 with as little work as Python allows, and notes arrivals.

Asked `{"take": true}` it gives back what has arrived since: the number and, if asked for with `{"note":
true}` before, each event's id with the time of its arrival; always the `last` body.

`RECEIVER hangs` never answers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import uvloop

from scripts.bench_lib.http_stream import Messages
from scripts.bench_lib.worker import on_requests, say

_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_ID_AT: Final = len(b'{"id":"')
_ID_CHARS: Final = len("evt_") + 26


class Arrivals:
    """What has arrived."""

    def __init__(self, hangs: bool) -> None:
        self.hangs = hangs
        self.count = 0
        self.noting = False
        self.noted: list[tuple[str, float]] = []
        self.last = b""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        noted = self.noted if request.get("take") else []
        if "note" in request:
            self.noting, self.noted = request["note"], []
        answer = {"count": self.count, "noted": noted, "last": self.last.decode()}
        if request.get("take"):
            self.count, self.noted = 0, []
        return answer


class _Connection(asyncio.Protocol):
    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals, self._messages = arrivals, Messages()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        arrivals = self._arrivals
        for _, body in self._messages.feed(data):
            arrivals.count += 1
            arrivals.last = body
            if arrivals.noting:
                arrivals.noted.append((body[_ID_AT : _ID_AT + _ID_CHARS].decode(), time.time()))
            if not arrivals.hangs:
                self._transport.write(_ANSWER)


async def _main() -> None:
    arrivals, stop = Arrivals(sys.argv[1:] == ["hangs"]), asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(arrivals), "127.0.0.1", 0)
    on_requests(arrivals.answer, stop)
    port = server.sockets[0].getsockname()[1]
    say({"url": f"http://127.0.0.1:{port}/hook"})
    await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
