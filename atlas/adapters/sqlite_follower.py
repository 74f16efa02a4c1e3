"""The SQLite read model for processes that only read the file which another process writes.

The file may not be there yet, and may be exchanged for another generation at any moment: reads under way
then end on the old one, the next ones are of the new. Nothing is written, not even a checkpoint.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from atlas.adapters.sqlite_driver import AiosqliteDriver, SqliteDriver
from atlas.adapters.sqlite_generations import LinkedDriver, linked
from atlas.adapters.sqlite_read_model import SqliteReadModel
from atlas.adapters.sqlite_schema import SCHEMA_VERSION
from atlas.core.errors import StoreUnavailable

#: Exchanges that may come between looking where the link leads and having that open, one after the other.
_TRIES: Final = 3


def follow_read_model(link: Path) -> SqliteReadModel:
    """A read model that another process writes. Whether it is there shows when it is asked.

    Every method raises `StoreUnavailable` while there is no file, or one of another version of Atlas;
    `apply` always does.
    """
    return SqliteReadModel(LinkedDriver(link, lambda: _open_linked(link)))


async def _open_linked(link: Path) -> tuple[str, SqliteDriver]:
    for _ in range(_TRIES):
        name = linked(link)
        if name is None:
            raise StoreUnavailable("the read model is not there yet")
        try:
            driver = await _open(link.with_name(name))
        except StoreUnavailable:
            if linked(link) == name:
                raise
            continue  # it went while it was being opened
        # Files are removed after the link was turned: what was read just now was whole.
        if linked(link) == name:
            return name, driver
        await driver.close()
    raise StoreUnavailable("the read model is being exchanged")


async def _open(file: Path) -> SqliteDriver:
    driver = await AiosqliteDriver.follow(file)
    try:
        version = await driver.read(_version)
        if version != SCHEMA_VERSION:
            raise StoreUnavailable(f"the read model is of another version: {version}, not {SCHEMA_VERSION}")
    except BaseException:
        await driver.close()
        raise
    return driver


def _version(connection: sqlite3.Connection) -> int:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
