"""Asking again, ever more slowly, what a port cannot answer now.

The log or the read model being away is no reason to give up a shard: whoever asks for its sake waits, and
`/readyz` says what is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from atlas.core.errors import LogUnavailable, StoreUnavailable

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

T = TypeVar("T")
log_line = structlog.get_logger()


def backoff_s(tries: int) -> float:
    """How long to wait after so many tries (from 0) that were in vain."""
    return BACKOFF_S[min(tries, len(BACKOFF_S) - 1)]


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer. What else is raised than that the port is away goes on."""
    tries = 0
    while True:
        try:
            return await ask()
        except (LogUnavailable, StoreUnavailable) as error:
            if tries == 0:
                log_line.warning("asked again until it answers", error=str(error))
            await asyncio.sleep(backoff_s(tries))
            tries += 1
