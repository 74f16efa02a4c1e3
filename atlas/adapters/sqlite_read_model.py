"""The read model in SQLite: adapter of the `ReadModel` port.

On a file it uses aiosqlite's threads; in memory it runs inline on the event loop, with no thread, and so
in virtual time. The file, a generation that `sqlite_generations` links, is derived data: one that is
damaged, or whose tables are of another version, is made anew under a new incarnation, and the projector
folds the log into it again. One process at a time opens it so; others follow (`sqlite_follower`).
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from atlas.adapters import sqlite_breakers, sqlite_bulk, sqlite_digest, sqlite_health, sqlite_queries
from atlas.adapters.sqlite_driver import (
    WRITE_TIMEOUT_S,
    AiosqliteDriver,
    InlineDriver,
    SqliteDriver,
    StoreCorrupt,
    corruption_marker,
)
from atlas.adapters.sqlite_generations import LinkedDriver, discard, linked, place_for, sweep, turn
from atlas.adapters.sqlite_pages import page_of_events
from atlas.adapters.sqlite_writes import BatchWriter, UnknownSchema, ensure_schema, note_jobs
from atlas.core.breaker import Breaker
from atlas.core.errors import StoreUnavailable
from atlas.core.health import TargetHealth
from atlas.core.notices import NoticeState
from atlas.core.projection import AttemptState, EventState
from atlas.core.replays import BulkProgress
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import (
    Changes,
    EventKey,
    EventQuery,
    Jobs,
    JobState,
    Line,
    NoticeAttempt,
    NoticeKey,
    Progress,
    Scope,
    ShardBreaker,
    Waiting,
)

#: How often `wait_past` looks for what another process has applied.
POLL_S: Final = 0.025
#: A trim of very many events takes a minute (about 50 us each).
TRIM_TIMEOUT_S: Final = 300.0
#: The digest and the counts read every row.
WHOLE_STORE_TIMEOUT_S: Final = 600.0
_INCARNATION_BYTES: Final = 16


def _of_target(shard: int, scope: Scope, target: str) -> dict[str, Any]:
    return {"shard": shard, "workspace_id": scope[0], "environment": scope[1], "target": target}


class SqliteReadModel:
    """See the port. Make one with `open_read_model`.

    Attributes:
        made_anew: why the file that was there had to go; None when it was kept, or there was none.
    """

    def __init__(self, driver: SqliteDriver, made_anew: str | None = None) -> None:
        self.made_anew = made_anew
        self._driver = driver
        self._writer = BatchWriter()
        self._generation = driver.generation()
        self._reached: dict[TopicPartition, int] = {}
        self._applied = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def progress(self) -> Progress:
        """See the port."""
        return await self._driver.read(sqlite_queries.progress)

    async def load(self, keys: Sequence[EventKey]) -> dict[EventKey, EventState]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_queries.load(connection, keys))

    async def load_notices(self, keys: Sequence[NoticeKey]) -> dict[NoticeKey, NoticeState]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_queries.load_notices(connection, keys))

    async def deliveries(
        self, scope: Scope, endpoint: str, after: str | None, limit: int
    ) -> builtins.list[NoticeAttempt]:
        """See the port."""
        return await self._driver.read(
            lambda connection: sqlite_queries.deliveries(connection, scope, endpoint, after, limit)
        )

    async def target_health(
        self, scope: Scope, target: str, since_ms: int, errors_max: int, latencies_max: int
    ) -> TargetHealth:
        """See the port."""
        asked = (scope, target, since_ms, errors_max, latencies_max)
        return await self._driver.read(lambda connection: sqlite_health.target_health(connection, *asked))

    async def bulk_replays(self, scope: Scope) -> dict[str, BulkProgress]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_bulk.of(connection, scope))

    async def breakers(self, scope: Scope, shard: int | None = None) -> dict[str, Breaker]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_breakers.of(connection, scope, shard))

    async def breakers_of(self, shard: int) -> builtins.list[ShardBreaker]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_breakers.of_shard(connection, shard))

    async def apply(self, changes: Changes) -> None:
        """See the port."""
        self._notice_exchange()
        writer, timeout_s = self._writer, TRIM_TIMEOUT_S if changes.trims else WRITE_TIMEOUT_S
        try:
            await self._driver.write(lambda connection: writer.apply(connection, changes), timeout_s)
        except BaseException:
            writer.forget()
            raise
        self._reach(self._generation, {one.source: one.next_offset for one in changes.advances})
        self._applied.set()
        self._applied = asyncio.Event()

    async def get(self, key: EventKey) -> EventState | None:
        """See the port."""
        return (await self.load([key])).get(key)

    async def attempts(self, key: EventKey) -> builtins.list[AttemptState]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_queries.attempts(connection, key))

    async def list(self, query: EventQuery) -> builtins.list[EventState]:
        """See the port; `routes` are left empty."""
        return await self._driver.read(lambda connection: page_of_events(connection, query))

    # -- waiting for the projection

    async def wait_past(self, positions: Mapping[TopicPartition, int], timeout_s: float) -> bool:
        """See the port. Batches applied through this object wake at once; others within `POLL_S`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not self._has_reached(positions):
            applied = self._applied
            await self._look()
            if self._has_reached(positions):
                break
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, POLL_S)):
                    await applied.wait()
        return True

    def _notice_exchange(self) -> None:
        """A store that was exchanged may be behind the one before, and gives numbers of its own."""
        if (generation := self._driver.generation()) != self._generation:
            self._generation = generation
            self._reached = {}
            self._writer = BatchWriter()

    def _has_reached(self, positions: Mapping[TopicPartition, int]) -> bool:
        self._notice_exchange()
        return all(self._reached.get(source, 0) >= offset for source, offset in positions.items())

    def _reach(self, generation: str | None, positions: Mapping[TopicPartition, int]) -> None:
        self._notice_exchange()
        if generation != self._generation:
            return
        for source, offset in positions.items():
            self._reached[source] = max(offset, self._reached.get(source, 0))

    async def _look(self) -> None:
        """Read the positions; all who wait share one reading."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._read_positions())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    async def _read_positions(self) -> None:
        generation = self._driver.generation()
        self._reach(generation, await self._driver.read(sqlite_queries.positions))

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # those who wait get it; perhaps nobody waits any more

    # -- routes that wait or are open

    async def waiting_for(self, shard: int, scope: Scope, target: str, until_ms: int, limit: int) -> Waiting:
        """See the port."""
        asked = {**_of_target(shard, scope, target), "until_ms": until_ms}
        return await self._waiting(sqlite_queries.WAITING_FOR, limit, **asked)

    async def upcoming(self, shard: int, after_ms: int, until_ms: int, limit: int) -> Waiting:
        """See the port."""
        return await self._waiting(
            sqlite_queries.UPCOMING, limit, shard=shard, after_ms=after_ms, until_ms=until_ms
        )

    async def targets_waiting(self, shard: int, until_ms: int) -> set[tuple[str, str, str]]:
        """See the port."""
        return await self._driver.read(
            lambda connection: sqlite_queries.targets_waiting(connection, shard, until_ms)
        )

    async def targets_in_line(self, shard: int) -> set[tuple[str, str, str]]:
        """See the port."""
        return await self._driver.read(lambda connection: sqlite_queries.targets_in_line(connection, shard))

    async def lines(self, shard: int, limit: int) -> Waiting:
        """See the port."""
        return await self._waiting(sqlite_queries.LINES, limit, shard=shard)

    async def next_in_line(self, line: Line, limit: int) -> Waiting:
        """See the port."""
        return await self._waiting(
            sqlite_queries.NEXT_IN_LINE, limit, **_of_target(line.shard, line.scope, line.target),
            topic=line.topic, ordering_key=line.ordering_key,
        )  # fmt: skip

    async def in_line(self, shard: int, scope: Scope, target: str, limit: int, heads: bool) -> Waiting:
        """See the port."""
        sql = sqlite_queries.HEADS if heads else sqlite_queries.IN_LINE
        return await self._waiting(sql, limit, **_of_target(shard, scope, target))

    async def open_below(self, source: TopicPartition, before_offset: int, limit: int) -> Waiting:
        """See the port."""
        return await self._waiting(
            sqlite_queries.OPEN_BELOW,
            limit,
            shard=source.partition,
            topic=source.topic,
            before_offset=before_offset,
        )

    async def _waiting(self, sql: str, limit: int, **parameters: object) -> Waiting:
        # A negative LIMIT is none at all to SQLite.
        asked = {**parameters, "limit": max(0, limit)}
        return await self._driver.read(lambda connection: sqlite_queries.waiting(connection, sql, asked))

    async def oldest_overdue_ms(self, now_ms: int) -> int:
        """See the port."""
        due_ms = await self._driver.read(sqlite_queries.oldest_due_ms)
        return 0 if due_ms is None else max(0, now_ms - due_ms)

    # -- the store as a whole

    async def counts(self) -> dict[str, int]:
        """See the port. Reads an index of every table: for now and then."""
        return await self._driver.read(sqlite_queries.counts, WHOLE_STORE_TIMEOUT_S)

    async def digest(self) -> str:
        """See the port."""
        return await self._driver.read(sqlite_digest.digest, WHOLE_STORE_TIMEOUT_S)

    async def jobs(self) -> Jobs:
        """See the port."""
        return await self._driver.read(sqlite_queries.jobs)

    async def note_jobs(self, states: Sequence[JobState], position: int | None = None) -> None:
        """See the port."""
        await self._driver.write(lambda connection: note_jobs(connection, states, position))

    async def close(self) -> None:
        """See the port."""
        await self._driver.close()


async def open_read_model(
    path: Path | None, *, entropy: Callable[[int], bytes] = os.urandom, inline: bool = False
) -> SqliteReadModel:
    """Open the read model, made anew when it has to be.

    Args:
        path: the file; None keeps everything in memory, with no thread.
        entropy: n -> n random bytes, for the incarnation.
        inline: no thread for a file either.

    Raises:
        StoreUnavailable: the file cannot be opened now.
    """
    if path is None:
        return SqliteReadModel(await _open(None, entropy(_INCARNATION_BYTES).hex(), inline=True))
    opening = _Opening(path, entropy, inline)
    driver = LinkedDriver(path, opening.open_linked)
    await driver.ready()
    sweep(path)
    return SqliteReadModel(driver, opening.made_anew)


async def open_shadow(
    link: Path, *, entropy: Callable[[int], bytes] = os.urandom, inline: bool = False
) -> tuple[SqliteReadModel, Path]:
    """A new generation that is not linked: a store of its own, and its file. For the writer alone.

    Close it, then turn the link to its file, or discard that; the writer's next start does so too.

    Raises:
        StoreUnavailable: it cannot be made now.
    """
    try:
        file, driver = await _Opening(link, entropy, inline).make_unlinked()
    except OSError as error:
        raise StoreUnavailable(f"read model: {error}") from error
    return SqliteReadModel(driver), file


class _Opening:
    """Opens the generation that is linked, or makes a new one and links that.

    Attributes:
        made_anew: why the one before had to go, if it had to.
    """

    def __init__(self, link: Path, entropy: Callable[[int], bytes], inline: bool) -> None:
        self._link, self._entropy, self._inline = link, entropy, inline
        self.made_anew: str | None = None

    async def open_linked(self) -> tuple[str, SqliteDriver]:
        """For `LinkedDriver`."""
        try:
            name = linked(self._link)
            if name is None:
                self.made_anew = "it is no generation" if self._link.exists() else None
                return await self._make()
            file = self._link.with_name(name)
            if corruption_marker(file).exists():
                self.made_anew = "found damaged while it was open"
                return await self._make()
            try:
                return name, await _open(file, self._incarnation(), self._inline)
            except (StoreCorrupt, UnknownSchema) as error:
                self.made_anew = str(error)
            return await self._make()
        except OSError as error:
            raise StoreUnavailable(f"read model: {error}") from error

    async def _make(self) -> tuple[str, SqliteDriver]:
        if self._link.is_dir():
            raise StoreUnavailable(f"read model: {self._link} is a directory")
        file, driver = await self.make_unlinked()
        try:
            turn(self._link, file)
        except BaseException:
            await driver.close()
            discard(file)
            raise
        return file.name, driver

    async def make_unlinked(self) -> tuple[Path, SqliteDriver]:
        """A new generation beside the linked one."""
        incarnation = self._incarnation()
        file = place_for(self._link, incarnation)
        return file, await _open(file, incarnation, self._inline)

    def _incarnation(self) -> str:
        return self._entropy(_INCARNATION_BYTES).hex()


async def _open(path: Path | None, incarnation: str, inline: bool) -> SqliteDriver:
    driver: SqliteDriver
    driver = InlineDriver(path) if path is None or inline else await AiosqliteDriver.connect(path)
    try:
        await driver.write(lambda connection: ensure_schema(connection, incarnation))
    except BaseException:
        await driver.close()
        raise
    return driver
