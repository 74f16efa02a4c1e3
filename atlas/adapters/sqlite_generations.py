"""The read model's file is a symbolic link to a generation: `read-model.db` -> `read-model.<prefix>.db`.

A store that is made anew, or rebuilt, is a file of its own that the link is then turned to, in one step.
SQLite is given the real file, so a WAL never meets the database of another generation. Processes that
still read an old one keep what they have open, although its names are gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from atlas.adapters.data_dir import sync_directory
from atlas.adapters.sqlite_driver import READ_TIMEOUT_S, WRITE_TIMEOUT_S, Job, SqliteDriver, T
from atlas.core.errors import StoreUnavailable

_PREFIX_CHARS: Final = 12
#: What a database may have beside it.
_BESIDE: Final = ("-wal", "-shm", ".corrupt")


def linked(link: Path) -> str | None:
    """Name of the file that is linked now; None when there is no link. Costs about a microsecond."""
    try:
        return os.readlink(link)  # noqa: PTH115  # Path.readlink makes a Path: thrice the time, before every job
    except OSError:
        return None


def place_for(link: Path, incarnation: str) -> Path:
    """Where a new generation's file goes; what lies there is removed."""
    file = link.with_name(f"{link.stem}.{incarnation[:_PREFIX_CHARS]}{link.suffix}")
    discard(file)
    return file


def discard(file: Path) -> None:
    """Remove a database and what belongs to it."""
    # The database first: a WAL without it is ignored, it without its WAL would be older than it was.
    for leftover in (file, *(file.with_name(file.name + end) for end in _BESIDE)):
        leftover.unlink(missing_ok=True)


def turn(link: Path, file: Path) -> None:
    """Turn the link to this generation: whoever looks, after a crash too, finds the old one or the new."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)  # of a crash
    fresh.symlink_to(file.name)
    fresh.replace(link)
    sync_directory(link.parent)


def sweep(link: Path) -> None:
    """Remove every generation but the linked one. For the writer alone, while it makes none."""
    kept = linked(link)
    found = sorted(link.parent.glob(f"{link.stem}.*{link.suffix}*"))
    for file in (*found, *(link.with_name(link.name + end) for end in _BESIDE)):
        if kept is None or not file.name.startswith(kept):
            file.unlink(missing_ok=True)


class _Generation:
    def __init__(self, name: str, driver: SqliteDriver) -> None:
        self.name, self.driver = name, driver
        self.jobs = 0


class LinkedDriver:
    """Runs jobs on the generation that is linked; one that is not any more ends what it has begun.

    Args:
        link: looked at before every job.
        open_linked: opens what is linked; returns its name too.
    """

    def __init__(self, link: Path, open_linked: Callable[[], Awaitable[tuple[str, SqliteDriver]]]) -> None:
        self._link, self._open_linked = link, open_linked
        self._generation: _Generation | None = None
        self._retired: dict[_Generation, asyncio.Task[None] | None] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    def generation(self) -> str | None:
        """See the port."""
        return linked(self._link)

    async def ready(self) -> None:
        """Open what is linked now."""
        await self._current()

    async def write(self, job: Job[T], timeout_s: float = WRITE_TIMEOUT_S) -> T:
        """See the port."""
        return await self._run(lambda driver: driver.write(job, timeout_s))

    async def read(self, job: Job[T], timeout_s: float = READ_TIMEOUT_S) -> T:
        """See the port."""
        return await self._run(lambda driver: driver.read(job, timeout_s))

    async def _run(self, run: Callable[[SqliteDriver], Awaitable[T]]) -> T:
        generation = await self._current()
        generation.jobs += 1
        try:
            return await run(generation.driver)
        finally:
            generation.jobs -= 1
            if generation in self._retired:
                self._release(generation)

    async def _current(self) -> _Generation:
        if self._is_current():
            return self._open_one()
        async with self._opening:
            if self._is_current():
                return self._open_one()
            name, driver = await self._open_linked()
            old, self._generation = self._generation, _Generation(name, driver)
            if old is not None:
                self._retired[old] = None
                self._release(old)
            return self._open_one()

    def _is_current(self) -> bool:
        return self._closed or (self._generation is not None and self._generation.name == linked(self._link))

    def _open_one(self) -> _Generation:
        if self._closed or self._generation is None:
            raise StoreUnavailable("the read model is closed")
        return self._generation

    def _release(self, generation: _Generation) -> None:
        if not generation.jobs and self._retired[generation] is None:
            closing = asyncio.ensure_future(generation.driver.close())
            closing.add_done_callback(lambda _: self._retired.pop(generation, None))
            self._retired[generation] = closing

    async def close(self) -> None:
        """See the port. Reads are cut short."""
        self._closed = True
        async with self._opening:
            generation, self._generation = self._generation, None
        if generation is not None:
            await generation.driver.close()
        for retired, closing in list(self._retired.items()):
            await (retired.driver.close() if closing is None else closing)
