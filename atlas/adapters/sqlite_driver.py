"""How the SQLite read model reaches its file: one port, two drivers.

A job is a synchronous function that gets a `sqlite3.Connection`. A driver runs a job whole, a write in
one transaction; what it returns must not hold on to the connection.

* `AiosqliteDriver`: threads of aiosqlite, one that writes and a few that only read.
* `InlineDriver`: no thread at all, for simulations in virtual time and for the read model in memory.

One job is one hop to a thread. A hop costs about 0.1 ms, and beside a busy event loop every SQLite step
within it up to 5 ms more, because CPython gives the interpreter lock up around each step and has to win
it back (measured: `executemany` of 4,000 rows took 12 ms alone and 6.4 s beside a busy loop; the same rows
in six statements 55 ms). Hence few statements, each with many rows in or all rows out.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import aiosqlite

from atlas.core.errors import StoreUnavailable

#: A read is interrupted after this long.
READ_TIMEOUT_S: Final = 5.0
#: A write is interrupted, and so rolled back, after this long.
WRITE_TIMEOUT_S: Final = 30.0
#: How long another process's write may keep ours waiting.
BUSY_TIMEOUT_S: Final = 5.0
#: What an interrupted job gets to roll back.
GRACE_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 5.0
READERS: Final = 3

_STATEMENTS_CACHED: Final = 256
_WRITER_CACHE_KIB: Final = 8_192
_READER_CACHE_KIB: Final = 1_024
#: 16 MiB of WAL between checkpoints: each costs two fsyncs on the writing thread.
_CHECKPOINT_PAGES: Final = 4_000
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


class StoreCorrupt(StoreUnavailable):
    """The file is no database, or a damaged one."""


class SqliteDriver(Protocol):
    """See the module docstring. Every method may raise `StoreUnavailable`."""

    def generation(self) -> str | None:
        """Name of the file that the next job is for: what another one held means nothing for it."""

    async def write(self, job: Job[T], timeout_s: float = WRITE_TIMEOUT_S) -> T:
        """Run a job in one transaction that takes the write lock first: all of it or nothing."""

    async def read(self, job: Job[T], timeout_s: float = READ_TIMEOUT_S) -> T:
        """Run a job that only reads. Each of its statements sees a snapshot of its own."""

    async def close(self) -> None:
        """Let a running job end, then release everything."""


def in_transaction(connection: sqlite3.Connection, job: Job[T]) -> T:
    """Run the job between BEGIN IMMEDIATE and COMMIT, or ROLLBACK when it or the commit fails."""
    if connection.in_transaction:  # a rollback failed: the disk was gone
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = job(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the first error says more, and the next write tries again
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    return result


def corruption_marker(path: Path) -> Path:
    """A file beside the database that says: found damaged while open, make it anew."""
    return path.with_name(path.name + ".corrupt")


@contextmanager
def _translated(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The lowest byte is the primary code; sqlite3 sets none on errors of its own.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            if path is not None:
                with suppress(OSError):
                    corruption_marker(path).touch()
            raise StoreCorrupt(f"read model: {error}") from error
        raise StoreUnavailable(f"read model: {error}") from error


def _prepare_writer(connection: sqlite3.Connection) -> None:
    # The read model is derived and its positions lie in the same transactions: after a power cut it
    # may have forgotten its newest batches, never part of one.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")


def _prepare_reader(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")


class InlineDriver:
    """Runs jobs on the event loop, with no thread.

    Args:
        path: the file; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._closed = False
        with _translated(path):
            self._connection = sqlite3.connect(
                path or ":memory:",
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                cached_statements=_STATEMENTS_CACHED,
            )
            try:
                _prepare_writer(self._connection)
            except sqlite3.Error:
                self._connection.close()
                raise

    def generation(self) -> str | None:
        """See the port: always the same."""
        return str(self._path)

    async def write(self, job: Job[T], timeout_s: float = WRITE_TIMEOUT_S) -> T:
        """See the port; there is no deadline, for nothing else runs meanwhile."""
        return await self.read(lambda connection: in_transaction(connection, job))

    async def read(self, job: Job[T], timeout_s: float = READ_TIMEOUT_S) -> T:
        """See the port; there is no deadline, for nothing else runs meanwhile."""
        if self._closed:
            raise StoreUnavailable("the read model is closed")
        with _translated(self._path):
            return job(self._connection)

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        self._connection.close()


#: The "statement" that makes a `_JobConnection` run a job.
_RUN_JOB: Final = "-- run the job in the parameters"


class _JobConnection(sqlite3.Connection):
    """Runs a whole job where aiosqlite asks for one statement.

    aiosqlite offers a hop per statement, but makes its connections with any `factory` that
    `sqlite3.connect` takes: that is what carries a transaction over in one hop.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql is not _RUN_JOB:
            return super().execute(sql, parameters)
        [job] = parameters
        return _JobResult(self, job(self))


class _JobResult(sqlite3.Cursor):
    """What a job returned, as the one row of a cursor."""

    def __init__(self, connection: sqlite3.Connection, result: object) -> None:
        super().__init__(connection)
        self._result = result

    def fetchall(self) -> list[Any]:
        return [self._result]


class _Hop(Generic[T]):
    """A job on its way to a thread and back."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job
        self.running = False
        self.abandoned = False

    def __call__(self, connection: sqlite3.Connection) -> T:
        if self.abandoned:
            raise sqlite3.OperationalError("nobody waits for this any more")
        self.running = True
        try:
            return self._job(connection)
        finally:
            self.running = False


class _Thread:
    """One aiosqlite connection, and how many jobs it has to do."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self.waiting = 0

    async def run(self, job: Job[T], timeout_s: float) -> T:
        hop = _Hop(job)
        outcome = asyncio.ensure_future(self._hand_over(hop))
        try:
            await asyncio.wait({outcome}, timeout=timeout_s)
            if not outcome.done():
                hop.abandoned = True
                if hop.running:
                    await self._connection.interrupt()
                await asyncio.wait({outcome}, timeout=GRACE_S)
        finally:
            if not outcome.done():  # cancelled, or stuck: nobody will read how it ends
                hop.abandoned = True
                outcome.add_done_callback(_forget)
        if not outcome.done():
            raise StoreUnavailable(f"read model: no answer within {timeout_s + GRACE_S} s")
        return outcome.result()

    async def _hand_over(self, hop: _Hop[T]) -> T:
        self.waiting += 1
        try:
            rows: Iterable[Any] = await self._connection.execute_fetchall(_RUN_JOB, (hop,))
        finally:
            self.waiting -= 1
        [result] = rows
        return cast(T, result)

    async def interrupt(self) -> None:
        if self.waiting:
            await self._connection.interrupt()

    async def close(self) -> None:
        await self._connection.close()


def _forget(outcome: asyncio.Future[Any]) -> None:
    if not outcome.cancelled():
        outcome.exception()


class AiosqliteDriver:
    """Runs jobs on aiosqlite's threads. Make one with `connect`, or one that only reads with `follow`."""

    def __init__(self, path: Path, writer: _Thread | None, readers: list[_Thread]) -> None:
        self._path = path
        self._writer, self._readers = writer, readers
        self._closed = False

    def generation(self) -> str | None:
        """See the port: always the same."""
        return str(self._path)

    @classmethod
    async def connect(cls, path: Path, readers: int = READERS) -> AiosqliteDriver:
        """Open the file, which is made when it is not there.

        Raises:
            StoreCorrupt: it is no database.
            StoreUnavailable: it cannot be opened now.
        """
        writer, *followers = await _open_threads(path, ["rwc"] + ["ro"] * readers)
        return cls(path, writer, followers)

    @classmethod
    async def follow(cls, path: Path, readers: int = READERS) -> AiosqliteDriver:
        """Open a file that another process writes; nothing is ever written or checkpointed here.

        Raises:
            StoreCorrupt: it is no database.
            StoreUnavailable: it is not there, or cannot be opened now.
        """
        return cls(path, None, await _open_threads(path, ["ro"] * readers))

    async def write(self, job: Job[T], timeout_s: float = WRITE_TIMEOUT_S) -> T:
        """See the port."""
        if self._writer is None:
            raise StoreUnavailable("the read model can only be read here")
        return await self._run(self._writer, lambda connection: in_transaction(connection, job), timeout_s)

    async def read(self, job: Job[T], timeout_s: float = READ_TIMEOUT_S) -> T:
        """See the port."""
        return await self._run(min(self._readers, key=lambda reader: reader.waiting), job, timeout_s)

    async def _run(self, thread: _Thread, job: Job[T], timeout_s: float) -> T:
        if self._closed:
            raise StoreUnavailable("the read model is closed")
        with _translated(self._path):
            return await thread.run(job, timeout_s)

    async def close(self) -> None:
        """See the port. Reads are cut short."""
        if self._closed:
            return
        self._closed = True
        # The writer goes last: the last connection to close folds the WAL into the file.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for reader in self._readers:
                    await reader.interrupt()
                for thread in (*self._readers, self._writer):
                    if thread is not None:
                        await thread.close()


async def _open_threads(path: Path, modes: Sequence[str]) -> list[_Thread]:
    threads: list[_Thread] = []
    try:
        with _translated(path):
            # When aiosqlite fails to connect, its thread ends some time later, perhaps on a loop
            # that is closed by then: so see first whether there is a file to be opened.
            sqlite3.connect(_uri(path, modes[0]), uri=True).close()
            for mode in modes:
                threads.append(_Thread(await _open(_uri(path, mode))))
                if mode == "ro":
                    await threads[-1].run(_prepare_reader, READ_TIMEOUT_S)
                else:
                    await threads[-1].run(_prepare_writer, WRITE_TIMEOUT_S)
    except BaseException:
        for thread in threads:
            await thread.close()
        raise
    return threads


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


async def _open(uri: str) -> aiosqlite.Connection:
    return await aiosqlite.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        cached_statements=_STATEMENTS_CACHED,
        factory=_JobConnection,
    )
