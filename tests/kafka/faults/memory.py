"""How much memory processes take while a fault is on."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from typing import Final

SAMPLE_EVERY_S: Final = 0.5
_KIB: Final = 1_024


class Memory:
    """Samples the resident set of processes, by name; use it as an async context manager.

    Attributes:
        peaks_bytes: the largest seen of each.
    """

    def __init__(self, processes: Callable[[], dict[str, int]]) -> None:
        self.peaks_bytes: dict[str, int] = {}
        self._processes = processes
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Memory:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _sample(self) -> None:
        while True:
            named = self._processes()
            sizes = await asyncio.to_thread(resident_bytes, named.values())
            for name, pid in named.items():
                self.peaks_bytes[name] = max(self.peaks_bytes.get(name, 0), sizes.get(pid, 0))
            await asyncio.sleep(SAMPLE_EVERY_S)


def resident_bytes(pids: Iterable[int]) -> dict[int, int]:
    """Of those processes that there are."""
    ps = ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))]
    shown = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return {int(pid): int(size) * _KIB for pid, size in map(str.split, shown.splitlines())}
