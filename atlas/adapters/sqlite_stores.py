"""Read models beside the one in use, in SQLite: adapter of the `Stores` port over generations of its file.

A snapshot is a read transaction that stays open: while it is, the WAL cannot start over, and grows by what
is written meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from atlas.adapters import sqlite_digest, sqlite_queries
from atlas.adapters.sqlite_driver import AiosqliteDriver, InlineDriver, SqliteDriver
from atlas.adapters.sqlite_generations import discard, linked, sweep, turn
from atlas.adapters.sqlite_read_model import WHOLE_STORE_TIMEOUT_S, SqliteReadModel, open_shadow
from atlas.core.errors import StoreUnavailable
from atlas.ports.read_model import Comparison, Progress
from atlas.ports.stores import Shadow


class SqliteStores:
    """See the module.

    Args:
        link: the read model in use, which this process writes.
        entropy: n -> n random bytes, for incarnations.
        inline: no threads.
    """

    def __init__(
        self, link: Path, *, entropy: Callable[[int], bytes] = os.urandom, inline: bool = False
    ) -> None:
        self._link, self._entropy, self._inline = link, entropy, inline

    async def shadow(self) -> SqliteShadow:
        """See the port."""
        store, file = await open_shadow(self._link, entropy=self._entropy, inline=self._inline)
        return SqliteShadow(store, file, self._link, self._inline)

    async def snapshot(self) -> SqliteSnapshot:
        """See the port."""
        name = linked(self._link)
        if name is None:
            raise StoreUnavailable("the read model is not there")
        file = self._link.with_name(name)
        driver: SqliteDriver
        driver = InlineDriver(file) if self._inline else await AiosqliteDriver.follow(file, readers=1)
        try:
            return SqliteSnapshot(driver, await driver.read(_begin))
        except BaseException:
            await driver.close()
            raise


def _begin(connection: sqlite3.Connection) -> Progress:
    connection.execute("BEGIN")
    return sqlite_queries.progress(connection)


class SqliteShadow:
    """A generation that is not linked."""

    def __init__(self, store: SqliteReadModel, file: Path, link: Path, inline: bool) -> None:
        self.store, self.file, self._link, self._inline = store, file, link, inline
        self._is_linked = False

    async def take_over(self) -> None:
        """See the port."""
        await self.store.close()
        try:
            turn(self._link, self.file)
        except OSError as error:
            raise StoreUnavailable(f"read model: {error}") from error
        self._is_linked = True

    async def discard(self) -> None:
        """See the port."""
        await self.store.close()
        remove = partial(sweep, self._link) if self._is_linked else partial(discard, self.file)
        with suppress(OSError):  # the next start removes it
            # A file of gigabytes takes its time to go.
            if self._inline:
                remove()
            else:
                await asyncio.to_thread(remove)


class SqliteSnapshot:
    """A read transaction on the generation that was linked."""

    def __init__(self, driver: SqliteDriver, progress: Progress) -> None:
        self.progress, self._driver = progress, driver

    async def compare(self, shadow: Shadow) -> Comparison:
        """See the port."""
        assert isinstance(shadow, SqliteShadow)
        file = shadow.file

        def job(live: sqlite3.Connection) -> Comparison:
            rebuilt = sqlite3.connect(file, isolation_level=None)
            try:
                rebuilt.execute("BEGIN")
                return sqlite_digest.compare(live, rebuilt)
            finally:
                rebuilt.close()

        return await self._driver.read(job, WHOLE_STORE_TIMEOUT_S)

    async def close(self) -> None:
        """See the port."""
        await self._driver.close()
