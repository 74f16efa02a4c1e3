"""Worker: a bare aiohttp POST loop, `POSTER URL`: what one process can send at most with this client.

Asked `{"requests": number, "body": text}` it answers with its `rate` a second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import orjson
import uvloop
from aiohttp import ClientSession, TCPConnector

from scripts.bench_lib.worker import say

_CONNECTIONS: Final = 32


async def _send(url: str, requests: int, content: bytes) -> dict[str, Any]:
    left = iter(range(requests))
    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def one_after_the_other() -> None:
            for _ in left:
                async with session.post(url, data=content) as response:
                    await response.read()

        started_s = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(_CONNECTIONS)))
    return {"rate": requests / (time.perf_counter() - started_s)}


def main() -> None:
    """Send as much as each line asks for."""
    say({})
    for line in sys.stdin.buffer:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            asked = orjson.loads(line)
            say(runner.run(_send(sys.argv[1], asked["requests"], asked["body"].encode())))


if __name__ == "__main__":
    main()
