"""The file of the SQLite read model: kept, or made anew as another generation."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from atlas.adapters.sqlite_driver import corruption_marker
from atlas.adapters.sqlite_generations import linked
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.adapters.sqlite_schema import SCHEMA_VERSION
from atlas.core.errors import StoreUnavailable
from tests.conformance.read_model_samples import changes, delivered, event, lifecycle, opened

#: Room for the header and the schema at the beginning of a file.
SCHEMA_BYTES = 32 * 4096


def put(path: Path, content: bytes) -> Path:
    """A generation of that content; returns its file."""
    file = path.with_name("read_model.bad.db")
    put_file(file, content)
    path.symlink_to(file.name)
    return file


def put_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def unlink(path: Path) -> None:
    path.unlink()


def is_marked(path: Path) -> bool:
    return corruption_marker(path.resolve()).exists()


def left(path: Path) -> list[str]:
    """The directory's files but the link and what is linked."""
    return [file.name for file in path.parent.iterdir() if file not in (path, path.resolve())]


def spoil(path: Path) -> None:
    """Damage all but the pages of header and schema, which an open reads."""
    content = path.read_bytes()
    assert len(content) > SCHEMA_BYTES
    path.write_bytes(content[:SCHEMA_BYTES] + b"\xa5" * (len(content) - SCHEMA_BYTES))


BOTH = pytest.mark.parametrize("threads", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read_model.db"


@BOTH
async def test_a_file_is_kept_as_it_was(path: Path, threads: bool) -> None:
    async with opened(path, threads=threads) as store:
        await store.apply(changes([event(1, delivered())]))
        before = await store.progress(), await store.digest()
    async with opened(path, threads=threads) as store:
        assert store.made_anew is None
        assert (await store.progress(), await store.digest()) == before
        await store.apply(changes([event(2)], 1))


async def test_every_new_store_is_another_incarnation(path: Path) -> None:
    async with opened(path) as one, opened(None) as other:
        assert (await one.progress()).incarnation != (await other.progress()).incarnation


@BOTH
@pytest.mark.parametrize(
    "rubbish", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 9_000]
)
async def test_a_damaged_file_is_made_anew(path: Path, threads: bool, rubbish: bytes) -> None:
    file = put(path, rubbish)
    put_file(file.with_name(file.name + "-wal"), rubbish)
    async with opened(path, threads=threads) as store:
        assert store.made_anew
        assert (await store.progress()).positions == {}
        await store.apply(changes([event(1)]))
    async with opened(path, threads=threads) as store:
        assert store.made_anew is None
        assert await store.get(event(1).key) == event(1)
    assert left(path) == []


async def test_a_file_that_is_no_generation_is_made_anew(path: Path) -> None:
    put_file(path, b"of an older version")
    put_file(path.with_name(path.name + "-wal"), b"its log")
    async with opened(path) as store:
        assert store.made_anew == "it is no generation"
        await store.apply(changes([event(1)]))
    assert linked(path)
    assert left(path) == []


@BOTH
async def test_a_link_that_is_gone_is_made_anew_at_once(path: Path, threads: bool) -> None:
    async with opened(path, threads=threads) as store:
        await store.apply(changes([event(1)]))
        before = await store.progress()
        assert await store.wait_past({lifecycle(0): 1}, 0)
        unlink(path)
        after = await store.progress()
        assert after.incarnation != before.incarnation
        assert after.positions == {}
        assert not await store.wait_past({lifecycle(0): 1}, 0)
        await store.apply(changes([event(2)]))
    async with opened(path, threads=threads) as store:
        assert (await store.progress()).incarnation == after.incarnation
        assert await store.get(event(1).key) is None
    assert left(path) == []


@BOTH
@pytest.mark.parametrize("version", [0, SCHEMA_VERSION ^ 2])
async def test_a_file_of_another_version_is_made_anew(path: Path, threads: bool, version: int) -> None:
    async with opened(path, threads=threads) as store:
        await store.apply(changes([event(1)]))
        incarnation = (await store.progress()).incarnation
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    async with opened(path, threads=threads) as store:
        assert store.made_anew == f"schema version {version}, not {SCHEMA_VERSION}"
        progress = await store.progress()
        assert progress.positions == {}
        assert progress.incarnation != incarnation


@BOTH
async def test_damage_found_while_open_makes_the_file_anew_at_the_next_start(
    path: Path, threads: bool
) -> None:
    async with opened(path, threads=threads) as store:
        await store.apply(changes([event(number, delivered()) for number in range(500)]))
    spoil(path)
    store = await open_read_model(path, inline=not threads)
    assert store.made_anew is None
    with pytest.raises(StoreUnavailable):
        await store.digest()
    await store.close()
    assert is_marked(path)
    async with opened(path, threads=threads) as store:
        assert store.made_anew
        assert await store.get(event(1).key) is None
    assert left(path) == []


@BOTH
async def test_a_path_that_cannot_be_opened_is_unavailable_and_left_alone(
    tmp_path: Path, threads: bool
) -> None:
    with pytest.raises(StoreUnavailable):  # a directory
        await open_read_model(tmp_path, inline=not threads)


@BOTH
async def test_a_full_disk_refuses_batches_until_there_is_room(path: Path, threads: bool) -> None:
    def limit_pages(connection: sqlite3.Connection) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    async with opened(path, threads=threads) as store:
        await store.apply(changes([event(1)]))
        await store._driver.write(limit_pages)
        before = await store.progress(), await store.digest()
        many = [event(number, delivered(), scope=("ws_new", "live")) for number in range(2_000)]
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.apply(changes(many, 1))
        assert (await store.progress(), await store.digest()) == before
        await store._driver.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
        await store.apply(changes(many, 1))
        assert await store.get(many[-1].key) == many[-1]


@BOTH
async def test_a_writer_elsewhere_is_waited_for_within_bounds(
    path: Path, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.adapters.sqlite_driver.BUSY_TIMEOUT_S", 0.05)
    async with opened(path, threads=threads) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.apply(changes([event(1)]))
        assert await store.get(event(1).key) is None  # readers do not wait
        other.execute("ROLLBACK")
        other.close()
        await store.apply(changes([event(1)]))
