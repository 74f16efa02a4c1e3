"""A read model that another process writes: not there yet, exchanged, of another version, damaged."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from atlas.adapters.sqlite_follower import follow_read_model
from atlas.adapters.sqlite_generations import linked, sweep, turn
from atlas.adapters.sqlite_read_model import SqliteReadModel, open_read_model, open_shadow
from atlas.adapters.sqlite_schema import SCHEMA_VERSION
from atlas.core.errors import StoreUnavailable
from atlas.ports.read_model import Changes
from tests.conformance.read_model_samples import changes, delivered, event, lifecycle, opened

#: For what another thread does at once.
AT_ONCE_S = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read_model.db"


@pytest.fixture
async def reader(path: Path) -> AsyncIterator[SqliteReadModel]:
    store = follow_read_model(path)
    yield store
    await store.close()


def link(path: Path, file: str, content: bytes | None = None) -> Path:
    """Make `path` a link to a file, perhaps of that content; returns the file."""
    if content is not None:
        path.with_name(file).write_bytes(content)
    path.unlink(missing_ok=True)
    path.symlink_to(file)
    return path.with_name(file)


def contents(path: Path) -> dict[str, bytes]:
    """Of the database that is linked, and of its WAL."""
    file = path.resolve()
    return {end: file.with_name(file.name + end).read_bytes() for end in ("", "-wal")}


def files(path: Path) -> set[str]:
    """The databases that are there, and the link."""
    return {file.name.removesuffix("-wal").removesuffix("-shm") for file in path.parent.iterdir()}


async def exchange(path: Path, *events: int) -> None:
    """Another generation, with these events, in the place of what is there."""
    shadow, file = await open_shadow(path, inline=True)
    for position, number in enumerate(events):
        await shadow.apply(changes([event(number)], position))
    await shadow.close()
    turn(path, file)


async def test_it_is_unavailable_until_it_is_there(path: Path, reader: SqliteReadModel) -> None:
    with pytest.raises(StoreUnavailable, match="not there yet"):
        await reader.progress()
    with pytest.raises(StoreUnavailable, match="not there yet"):
        await reader.wait_past({lifecycle(0): 1}, AT_ONCE_S)
    async with opened(path) as writer:
        assert (await reader.progress()).positions == {}
        await writer.apply(changes([event(1)]))
        assert await reader.wait_past({lifecycle(0): 1}, AT_ONCE_S)
        assert await reader.get(event(1).key) == event(1)


async def test_it_is_read_while_nobody_writes_it(path: Path, reader: SqliteReadModel) -> None:
    async with opened(path, threads=True) as writer:
        await writer.apply(changes([event(1)]))
    assert await reader.get(event(1).key) == event(1)
    async with opened(path, threads=True) as writer:
        await writer.apply(changes([event(2)], 1))
        assert await reader.get(event(2).key) == event(2)


async def test_it_never_writes(path: Path) -> None:
    async with opened(path, threads=True) as writer:
        await writer.apply(changes([event(1)]))
        reader = follow_read_model(path)
        before = contents(path)
        with pytest.raises(StoreUnavailable, match="only be read"):
            await reader.apply(Changes())
        assert await reader.get(event(1).key) == event(1)
        await reader.close()
        assert contents(path) == before
        with pytest.raises(StoreUnavailable, match="closed"):
            await reader.progress()


async def test_the_last_to_close_leaves_the_log_of_a_killed_writer(path: Path) -> None:
    async with opened(path) as store:
        await store.apply(changes([event(1)]))
        killed = contents(path)
    copy = path.with_name("copy.db")
    link(copy, "copy.1.db", killed[""]).with_name("copy.1.db-wal").write_bytes(killed["-wal"])
    reader = follow_read_model(copy)
    assert await reader.get(event(1).key) == event(1)
    await reader.close()
    assert contents(copy) == killed


async def test_an_exchanged_store_is_read_at_once(path: Path, reader: SqliteReadModel) -> None:
    async with opened(path) as writer:
        await writer.apply(changes([event(1)]))
        before = await reader.progress()
        await exchange(path, 2, 3)
        after = await reader.progress()
        assert after.incarnation != before.incarnation
        assert after.positions == {lifecycle(0): 2}
        assert set(await reader.load([event(n).key for n in (1, 2, 3)])) == {event(2).key, event(3).key}
        await writer.apply(changes([event(4)], 2))  # the writer goes on with it too
        assert await reader.get(event(4).key) == event(4)


async def test_what_was_reached_in_another_store_counts_for_nothing(
    path: Path, reader: SqliteReadModel
) -> None:
    async with opened(path) as writer:
        await writer.apply(changes([event(1)]))
        await writer.apply(changes([event(2)], 1))
        for store in (reader, writer):
            assert await store.wait_past({lifecycle(0): 2}, AT_ONCE_S)
        await exchange(path, 3)
        for store in (reader, writer):
            assert not await store.wait_past({lifecycle(0): 2}, 0)
        wait = asyncio.ensure_future(reader.wait_past({lifecycle(0): 2}, AT_ONCE_S))
        await asyncio.sleep(0)
        await exchange(path, 3, 4)
        assert await wait


async def test_a_read_under_way_ends_on_the_store_it_began_on(path: Path, reader: SqliteReadModel) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slowly(connection: sqlite3.Connection) -> list[int]:
        connection.execute("BEGIN")
        [[before]] = connection.execute("SELECT count(*) FROM events")
        began.set()
        assert go_on.wait(AT_ONCE_S)
        [[after]] = connection.execute("SELECT count(*) FROM events")
        connection.execute("COMMIT")
        return [before, after]

    async with opened(path) as writer:
        await writer.apply(changes([event(1)]))
        slow = asyncio.ensure_future(reader._driver.read(slowly))
        assert await asyncio.to_thread(began.wait, AT_ONCE_S)
        await exchange(path, 2, 3)
        assert (await reader.counts())["events"] == 2
        sweep(path)
        go_on.set()
        assert await slow == [1, 1]
        assert linked(path) is not None
        assert files(path) == {path.name, linked(path)}


async def test_a_store_of_another_version_is_unavailable_and_left_alone(
    path: Path, reader: SqliteReadModel
) -> None:
    async with opened(path) as writer:
        await writer.apply(changes([event(1, delivered())]))
    other = SCHEMA_VERSION ^ 2
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {other}")
    connection.close()
    with pytest.raises(StoreUnavailable, match=f"another version: {other}, not {SCHEMA_VERSION}"):
        await reader.progress()
    async with opened(path):  # the projector of this version comes
        assert (await reader.progress()).positions == {}


async def test_a_damaged_store_is_unavailable_until_it_is_made_anew(
    path: Path, reader: SqliteReadModel
) -> None:
    link(path, "read_model.bad.db", b"not a database at all" * 100)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await reader.progress()
    store = await open_read_model(path)
    assert store.made_anew
    assert (await reader.progress()).positions == {}
    await store.close()


async def test_a_link_that_leads_nowhere_is_unavailable(path: Path, reader: SqliteReadModel) -> None:
    link(path, "read_model.gone.db")
    with pytest.raises(StoreUnavailable):
        await reader.progress()
    assert files(path) == {path.name}


async def test_many_exchanges_under_reading_never_show_a_mixture(path: Path, reader: SqliteReadModel) -> None:
    """Each generation holds as many events as its position says."""
    done = asyncio.Event()

    def look(connection: sqlite3.Connection) -> tuple[int, int]:
        connection.execute("BEGIN")
        [[events]] = connection.execute("SELECT count(*) FROM events")
        [[position]] = connection.execute("SELECT coalesce(max(next_offset), 0) FROM positions")
        connection.execute("COMMIT")
        return events, position

    async def read() -> set[tuple[int, int]]:
        seen = set()
        while not done.is_set():
            with suppress(StoreUnavailable):  # exchanged again and again while it is opened
                seen.add(await reader._driver.read(look))
        return seen

    async with opened(path), asyncio.TaskGroup() as group:
        reading = [group.create_task(read()) for _ in range(4)]
        try:
            for count in range(1, 25):
                await exchange(path, *range(count))
                sweep(path)
                if count % 3 == 0:  # else it is exchanged while it is being opened
                    assert (await reader.counts())["events"] == count
            assert await reader.wait_past({lifecycle(0): 24}, AT_ONCE_S)
        finally:
            done.set()
    for task in reading:
        assert all(events == position for events, position in task.result())
        assert len(task.result()) > 1
