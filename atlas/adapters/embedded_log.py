"""The embedded log: adapter of the `Log` and `Acceptor` ports over one SQLite file.

Group commit: while one transaction is being made durable, requests collect; the next takes them all.
A request past its deadline is told so while its group goes on: it is then in doubt, and may be sent
again with its key. With `threads=False` everything runs inline on the event loop, for simulations.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from atlas.adapters.embedded_group import Coordinator
from atlas.adapters.embedded_reader import EmbeddedReader
from atlas.adapters.embedded_store import Accept, Append, EmbeddedStore, Group, Topic, unpack
from atlas.adapters.embedded_tail import Tail, to_record
from atlas.core.errors import LogError, LogUnavailable, OffsetOutOfRange, UnknownTopic
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.clock import Clock
from atlas.ports.log import Member, NewRecord, Reader, Record, TopicPartition

#: A caller waits this long for its group, then gets `LogUnavailable`.
DEADLINE_S: Final = 10.0
#: Bytes of records waiting to be committed; past it an append is refused at once.
OUTSTANDING_BYTES_MAX: Final = 64 * 1024 * 1024
#: One read of the file returns about this much, at most.
READ_BYTES_MAX: Final = 1024 * 1024
_SWEEP_S: Final = 0.25
_READERS: Final = 2

T = TypeVar("T")


class _Task:
    """Something else for the writer to do between groups."""

    def __init__(self, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        self.work, self.done = work, done


class _Request:
    def __init__(self, content: Append | Accept, size: int, done: asyncio.Future[Any]) -> None:
        self.content, self.size, self.done = content, size, done


_Item = _Task | _Request


class EmbeddedLog:
    """See the module. Make one with `open`; one process owns the file."""

    def __init__(self, store: EmbeddedStore, shards: int, clock: Clock, threads: bool) -> None:
        self._store = store
        self._shards = shards
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._topics = dict(store.topics)
        self._ends = {topic.name: list(topic.ends) for topic in self._topics.values()}
        self._tail = Tail()
        self._readers: set[EmbeddedReader] = set()
        self._coordinator = Coordinator(clock, lambda name: len(self._topic(name).ends))
        self._outstanding_bytes = 0
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._sweeping = False
        self._closed = False
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._read_connections: list[sqlite3.Connection] = []
        if threads:
            self._pool = ThreadPoolExecutor(_READERS, "atlas-log-read")
            self._writer = threading.Thread(target=self._write, name="atlas-log-write", daemon=True)
            self._writer.start()

    @classmethod
    async def open(cls, path: Path, clock: Clock, *, shards: int = 4, threads: bool = True) -> Self:
        """Open or create the log at `path`, and finish what a crash interrupted.

        Raises:
            LogUnavailable: the file cannot be opened.
        """
        try:
            store = EmbeddedStore(path, clock.now_ms)
        except sqlite3.Error as error:
            raise LogUnavailable(f"the log's file cannot be opened: {error}") from error
        log = cls(store, shards, clock, threads)
        for topic in store.topics.values():
            for partition, start in enumerate(topic.starts):
                if start:
                    await log._delete_below(topic, partition, start)
        return log

    @property
    def shards(self) -> int:
        return self._shards

    @property
    def newest_timestamp_ms(self) -> int:
        """Time of the newest record: the floor of the clock at start."""
        return self._store.last_timestamp_ms

    # -- writing ------------------------------------------------------------------------------

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        found = self._topic(topic, partition)
        offset: int = await self._submit(Append(found, partition, records), _size(records))
        return offset

    async def accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        items = [(self._topic(c.topic, c.partition), c) for c in candidates]
        size = _size([c.record for c in candidates])
        outcomes: list[Outcome] = await self._submit(Accept(items), size)
        return outcomes

    async def find(self, dedup_key: bytes, payload_hash: bytes) -> Outcome | None:
        stored = (await self._task(lambda: self._store.find_keys([dedup_key]))).get(dedup_key)
        if stored is None:
            return None
        if stored[0] != payload_hash:
            return Outcome(Verdict.CONFLICT)
        return Outcome(Verdict.REPLAYED, stored[1])

    async def create_topic(self, topic: str, partitions: int, retention_ms: int | None) -> None:
        made = await self._task(lambda: self._store.create_topic(topic, partitions, retention_ms))
        self._topics[topic] = made
        self._ends.setdefault(topic, list(made.ends))

    async def delete_records(self, source: TopicPartition, before_offset: int) -> None:
        topic = self._topic(*source)
        before = min(before_offset, self._ends[source.topic][source.partition])
        if before <= topic.starts[source.partition]:
            return
        await self._task(lambda: self._store.set_start(topic, source.partition, before))
        topic.starts[source.partition] = before
        await self._delete_below(topic, source.partition, before)

    async def expire_keys(self) -> None:
        """Drop idempotency keys whose bucket is over, in bounded steps."""
        while await self._task(self._store.expire_keys_step):
            pass

    async def store_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Used by the group's members."""
        rows = list(offsets.items())
        await self._task(lambda: self._store.store_offsets(group, topic, rows))

    async def committed(self, group: str, source: TopicPartition) -> int | None:
        return await self._task(lambda: self._store.stored_offset(group, source))

    async def check(self) -> None:
        await self._task(self._store.probe)

    async def join(self, group: str, topic: str) -> Member:
        return self._coordinator.join(group, topic, self)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writer is not None and self._pool is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._writer.join)
            self._pool.shutdown()
        for db in self._read_connections:
            db.close()
        self._store.close()

    async def _delete_below(self, topic: Topic, partition: int, before_offset: int) -> None:
        while await self._task(lambda: self._store.delete_step(topic, partition, before_offset)):
            pass

    async def _submit(self, content: Append | Accept, size: int) -> Any:
        if self._outstanding_bytes + size > OUTSTANDING_BYTES_MAX:
            raise LogUnavailable("too much is waiting to be written")
        self._outstanding_bytes += size
        done: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(_Request(content, size, done))
        return await done

    async def _task(self, work: Callable[[], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Task(work, done))
        return await done

    def _enqueue(self, item: _Item) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed")
        self._deadlines.append((self._loop.time() + DEADLINE_S, item.done))
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep)
        self._queue.put(item)
        if self._writer is None:
            self._loop.call_soon(self._write_inline)

    def _sweep(self) -> None:
        """Fail waiters past their deadline; their group goes on."""
        now = self._loop.time()
        while self._deadlines and (self._deadlines[0][1].done() or self._deadlines[0][0] <= now):
            _, done = self._deadlines.popleft()
            if not done.done():
                done.set_exception(LogUnavailable("the log did not answer in time"))
        self._sweeping = bool(self._deadlines)
        if self._sweeping:
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            items, stop = [first], False
            while not self._queue.empty():
                more = self._queue.get_nowait()
                if more is None:
                    stop = True
                    break
                items.append(more)
            self._loop.call_soon_threadsafe(self._settle, *self._process(items))
            if stop:
                return

    def _write_inline(self) -> None:
        items: list[_Item] = []
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is not None:
                items.append(item)
        if items and not self._closed:
            self._settle(*self._process(items))

    def _process(self, items: list[_Item]) -> tuple[list[_Item], list[Any], Group | None]:
        """On the writer: one transaction for all appends, then each task in one of its own."""
        requests = [item for item in items if isinstance(item, _Request)]
        tasks = [item for item in items if isinstance(item, _Task)]
        group: Group | None = None
        results: list[Any]
        try:
            group = self._store.commit([request.content for request in requests]) if requests else None
            results = list(group.results) if group else []
        except Exception as error:  # noqa: BLE001  # whatever it was, each waiter must be told
            results = [_as_log_error(error)] * len(requests)
        for task in tasks:
            try:
                results.append(task.work())
            except Exception as error:  # noqa: BLE001  # as above
                results.append(_as_log_error(error))
        return [*requests, *tasks], results, group

    def _settle(self, items: list[_Item], results: list[Any], group: Group | None) -> None:
        """Back on the loop: publish what is durable, wake readers, answer the waiters."""
        for run in group.committed if group else ():
            source = TopicPartition(run.topic.name, run.partition)
            self._ends[run.topic.name][run.partition] = run.base_offset + len(run.records)
            self._tail.add(source, run)
            for reader in self._readers:
                reader.appended(source)
        for item, result in zip(items, results, strict=True):
            if isinstance(item, _Request):
                self._outstanding_bytes -= item.size
            if item.done.done():
                continue
            if isinstance(result, LogError):
                item.done.set_exception(type(result)(*result.args))
            else:
                item.done.set_result(result)
        while self._deadlines and self._deadlines[0][1].done():
            self._deadlines.popleft()

    # -- reading ------------------------------------------------------------------------------

    def reader(self) -> Reader:
        made = EmbeddedReader(self, self._readers.discard)
        self._readers.add(made)
        return made

    async def fetch(self, source: TopicPartition, offset: int) -> Record:
        start, end = self.bounds(source) or (0, 0)
        if not start <= offset < end:
            raise OffsetOutOfRange(f"{source} holds {start} to {end}, not {offset}")
        records = self.tail(source, offset, 1) or await self.read_file(source, offset, 1)
        if not records or records[0].offset != offset:
            raise OffsetOutOfRange(f"{source} no longer holds {offset}")
        return records[0]

    async def start_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {source: bounds[0] for source in sources if (bounds := self.bounds(source))}

    async def end_offsets(self, sources: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {source: bounds[1] for source in sources if (bounds := self.bounds(source))}

    async def offset_at(self, source: TopicPartition, timestamp_ms: int) -> int:
        topic = self._topic(*source)
        start, end = self.bounds(source) or (0, 0)
        sql = (
            "SELECT base_offset FROM batch WHERE topic_id = ? AND partition = ? AND timestamp_ms >= ?"
            " ORDER BY base_offset LIMIT 1"
        )
        rows = await self._query(sql, (topic.id, source.partition, timestamp_ms))
        return max(start, rows[0][0]) if rows else end

    def bounds(self, source: TopicPartition) -> tuple[int, int] | None:
        """Start and end offset; None for an unknown partition."""
        ends = self._ends.get(source.topic)
        if ends is None or not 0 <= source.partition < len(ends):
            return None
        return self._topics[source.topic].starts[source.partition], ends[source.partition]

    def tail(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record] | None:
        """Records kept in memory, or None."""
        return self._tail.read(source, offset, records_max)

    async def read_file(self, source: TopicPartition, offset: int, records_max: int) -> Sequence[Record]:
        """Records from the file, about `READ_BYTES_MAX` of them at most."""
        topic = self._topic(*source)
        end = self._ends[source.topic][source.partition]
        sql = (
            "SELECT base_offset, timestamp_ms, body FROM batch WHERE topic_id = ?1 AND partition = ?2"
            " AND base_offset >= COALESCE((SELECT MAX(base_offset) FROM batch WHERE topic_id = ?1"
            " AND partition = ?2 AND base_offset <= ?3), ?3) AND base_offset < ?4 ORDER BY base_offset"
        )
        args = (topic.id, source.partition, offset, end)
        found: list[Record] = []
        for base_offset, timestamp_ms, body in await self._query(sql, args, records_max):
            skip = max(0, offset - base_offset)
            for index, (key, value, headers) in enumerate(unpack(body)[skip:], base_offset + skip):
                found.append(to_record(index, timestamp_ms, NewRecord(value, key, headers)))
            if len(found) >= records_max:
                break
        return found[:records_max]

    async def _query(self, sql: str, args: Sequence[object], records_max: int = 1) -> list[tuple[Any, ...]]:
        work = functools.partial(self._query_now, sql, args, records_max)
        try:
            if self._pool is None:
                return work()
            async with asyncio.timeout(DEADLINE_S):
                return await self._loop.run_in_executor(self._pool, work)
        except (sqlite3.Error, TimeoutError, RuntimeError) as error:
            raise LogUnavailable(f"the log's file cannot be read: {error}") from error

    def _query_now(self, sql: str, args: Sequence[object], records_max: int) -> list[tuple[Any, ...]]:
        db = getattr(self._local, "db", None)
        if db is None:
            uri = f"{self._store.path.absolute().as_uri()}?mode=ro"
            db = self._local.db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._read_connections.append(db)
        rows: list[tuple[Any, ...]] = []
        size = records = 0
        cursor = db.execute(sql, args)
        for row in cursor:
            rows.append(row)
            if len(row) == 3:
                size += len(row[2])
                records += 1
            if size >= READ_BYTES_MAX or records >= records_max:
                break
        cursor.close()
        return rows

    def _topic(self, name: str, partition: int = 0) -> Topic:
        topic = self._topics.get(name)
        if topic is None or not 0 <= partition < len(topic.ends):
            raise UnknownTopic(f"no topic {name!r} with a partition {partition}")
        return topic


def _size(records: Sequence[NewRecord]) -> int:
    return sum(len(record.value or b"") for record in records)


def _as_log_error(error: Exception) -> LogError:
    return error if isinstance(error, LogError) else LogUnavailable(f"{type(error).__name__}: {error}")
