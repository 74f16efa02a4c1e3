"""Name look-ups that cannot hold other targets up.

`getaddrinfo` blocks, has no deadline and may take half a minute against a dead name server. The loops'
own thread pools have four to six threads, so a handful of dead names would stop every look-up of the
process, and their threads would hold up its exit. Here a look-up has a daemon thread of its own, one per
name, up to a bound; it is given up after a deadline, and a name that failed is not asked again at once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUP_DEADLINE_S: Final = 5.0
LOOKUPS_MAX: Final = 64

#: How long a failure is remembered, and of how many names.
FAILURE_TTL_S: Final = 2.0
FAILURES_MAX: Final = 1_024


def system_addresses(host: str) -> list[str]:
    """Addresses of a name by the system's resolver (hosts file, DNS); none when there are none. Blocks."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except (OSError, UnicodeError):  # UnicodeError: an empty or over-long label
        return []
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in infos]


class ThreadResolver(AbstractResolver):
    """Resolves as aiohttp asks. aiohttp keeps the answers.

    Args:
        deadline_s: what one look-up may take.
        lookups_max: threads at a time.
        look_up: called in a thread of its own; must not raise.
    """

    def __init__(
        self,
        deadline_s: float = LOOKUP_DEADLINE_S,
        lookups_max: int = LOOKUPS_MAX,
        look_up: Callable[[str], list[str]] = system_addresses,
    ) -> None:
        self._look_up_blocking = look_up
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._slots = asyncio.Semaphore(lookups_max)
        self._running: dict[str, asyncio.Future[list[str]]] = {}
        self._failed_until_s: dict[str, float] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a name.

        Raises:
            OSError: there is none, or none was found in time.
        """
        addresses: list[str] = []
        now_s = self._loop.time()
        if self._failed_until_s.get(host, now_s) <= now_s:
            addresses = await self._look_up(host)
            if not addresses:
                self._remember_failure(host)
        if not addresses:
            raise OSError(None, "the name could not be resolved")
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Nothing to release: threads still waiting are daemons, their answers are dropped."""

    async def _look_up(self, host: str) -> list[str]:
        """Addresses, none when there are none, or when the deadline has passed."""
        try:
            async with asyncio.timeout(self._deadline_s):
                if host not in self._running:
                    await self._slots.acquire()
                    self._start(host)
                # Shared by all who ask for this name meanwhile; one who gives up leaves it running.
                return await asyncio.shield(self._running[host])
        except TimeoutError:
            return []

    def _start(self, host: str) -> None:
        """Ask in a thread of its own. The slot taken is given back when the thread is through."""
        answer: asyncio.Future[list[str]] = self._loop.create_future()

        def settle(addresses: list[str]) -> None:
            del self._running[host]
            self._slots.release()
            answer.set_result(addresses)

        def ask() -> None:
            addresses = self._look_up_blocking(host)
            try:
                self._loop.call_soon_threadsafe(settle, addresses)
            except RuntimeError:  # the loop has been closed
                pass

        self._running[host] = answer
        threading.Thread(target=ask, name="atlas-resolve", daemon=True).start()

    def _remember_failure(self, host: str) -> None:
        if len(self._failed_until_s) >= FAILURES_MAX:
            del self._failed_until_s[next(iter(self._failed_until_s))]
        self._failed_until_s[host] = self._loop.time() + FAILURE_TTL_S


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
