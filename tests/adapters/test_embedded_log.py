"""What the embedded log alone promises: fsync before the answer, short steps, deadlines, limits."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from pathlib import Path

import pytest

from atlas.adapters.embedded_batches import BATCH_BYTES_MAX, BATCH_RECORDS_MAX
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.embedded_store import DELETE_BYTES_MAX, DELETE_ROWS_MAX, LARGE_BYTES, EmbeddedStore
from atlas.adapters.embedded_tail import Tail
from atlas.adapters.embedded_writer import DEADLINE_S, OUTSTANDING_BYTES_MAX
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogUnavailable
from atlas.ports.acceptor import Candidate, Verdict
from atlas.ports.log import NewRecord, TopicPartition
from tests.adapters.tracing import traced
from tests.virtual_time import VirtualClock, pass_time, virtual_time

SOURCE = TopicPartition("t", 0)


async def opened(path: Path, *, threads: bool = True) -> EmbeddedLog:
    log = await EmbeddedLog.open(path / "log.db", SystemClock(), threads=threads)
    await log.create_topic("t", 4, None)
    return log


def rows(path: Path, sql: str) -> list[tuple[int, ...]]:
    db = sqlite3.connect(f"{(path / 'log.db').as_uri()}?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


# --- durable before the answer


@pytest.mark.parametrize("threads", [True, False])
async def test_what_was_answered_is_committed(tmp_path: Path, threads: bool) -> None:
    """Read through another connection in the very callback in which the answer arrives."""
    log = await opened(tmp_path, threads=threads)
    seen: list[tuple[int, int]] = []

    def answered(done: asyncio.Task[int]) -> None:
        [(stored,)] = rows(tmp_path, "SELECT COALESCE(SUM(records), 0) FROM batch")
        seen.append((done.result(), stored))

    appends = []
    for number in range(60):
        append = asyncio.create_task(log.append("t", 0, [NewRecord(b"%d" % number)]))
        append.add_done_callback(answered)
        appends.append(append)
        if number % 7 == 0:
            await append
    await asyncio.gather(*appends)
    await asyncio.sleep(0)
    assert len(seen) == 60
    assert all(stored > offset for offset, stored in seen)
    await log.close()


@pytest.mark.parametrize("keyed", [True, False])
async def test_an_accepted_event_and_its_key_are_committed_as_one(tmp_path: Path, keyed: bool) -> None:
    log = await opened(tmp_path, threads=False)
    key = bytes(16) if keyed else None
    with traced(log) as trace:
        await log.accept([Candidate("t", 0, NewRecord(b"value"), b"frozen", key, b"hash")])
    [transaction] = trace.transactions
    statements = [sql for sql, _ in transaction]
    assert keyed or len(statements) == 1
    assert statements[-1] == "COMMIT" or not keyed
    assert sum(sql.startswith("INSERT INTO batch ") for sql in statements) == 1
    assert sum(sql.startswith("INSERT INTO idempotency_") for sql in statements) == int(keyed)
    await log.close()


async def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """In WAL mode `synchronous=FULL` (2) syncs the WAL before COMMIT returns; NORMAL would not."""
    log = await opened(tmp_path)
    store: EmbeddedStore = log._store
    [(mode,)] = await log._writer.task(lambda: store._db.execute("PRAGMA journal_mode").fetchall())
    [(synchronous,)] = await log._writer.task(lambda: store._db.execute("PRAGMA synchronous").fetchall())
    assert (mode, synchronous) == ("wal", 2)
    await log.close()


async def test_what_waits_shares_one_transaction(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    with traced(log) as trace:
        await asyncio.gather(*(log.append("t", n % 4, [NewRecord(b"%d" % n)]) for n in range(400)))
    assert len(trace.transactions) == 1
    assert sum(trace.changes("INSERT INTO batch")) == 4
    await log.close()


async def test_a_group_that_fails_for_whatever_reason_leaves_nothing(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    await log.accept([Candidate("t", 1, NewRecord(b"before"), b"frozen", b"j" * 16, b"hash")])
    good = Candidate("t", 0, NewRecord(b"good"), b"frozen", b"k" * 16, b"hash")
    bad = Candidate("t", 0, NewRecord(b"bad"), None, b"l" * 16, b"hash")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(LogUnavailable):
        await log.accept([good, bad])
    assert await log.find(b"k" * 16, b"hash") is None
    [outcome] = await log.accept([good])
    assert outcome.verdict is Verdict.APPENDED
    assert await log.end_offsets([SOURCE]) == {SOURCE: 1}
    await log.close()


# --- rows


async def test_rows_are_bounded(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.append("t", 0, [NewRecord(b"")] * BATCH_RECORDS_MAX)
    await log.append("t", 1, [NewRecord(b"")] * (BATCH_RECORDS_MAX + 1))
    await log.append("t", 2, [NewRecord(bytes(BATCH_BYTES_MAX // 2))] * 2)
    await log.append("t", 3, [NewRecord(bytes(BATCH_BYTES_MAX // 2 + 1))] * 2)
    found = rows(tmp_path, "SELECT partition, base_offset, records FROM batch ORDER BY 1, 2")
    assert found == [(0, 0, 1_000), (1, 0, 1_000), (1, 1_000, 1), (2, 0, 2), (3, 0, 1), (3, 1, 1)]
    await log.close()


async def test_sqlite_keeps_no_large_rows_in_its_statements(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    await log.append("t", 0, [NewRecord(bytes(LARGE_BYTES - 100))])
    [(length,)] = rows(tmp_path, "SELECT length(body) FROM batch")
    at_most = bytes(2 * LARGE_BYTES - 100 - length)
    with traced(log) as trace:
        await log.append("t", 1, [NewRecord(at_most)])
        await log.append("t", 2, [NewRecord(at_most + b"\0")])
    kept, *forgotten = trace.statements("INSERT INTO batch")
    assert "WHERE" not in kept
    assert [sql.partition(" WHERE ")[2] for sql in forgotten] == ["1", "0"]
    assert len(forgotten[-1]) < 200
    assert rows(tmp_path, "SELECT partition, length(body) FROM batch WHERE partition > 0") == [
        (1, LARGE_BYTES),
        (2, LARGE_BYTES + 1),
    ]
    await log.close()


async def test_reading_from_memory_and_from_the_file_are_the_same(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    for first in range(0, 300, 10):
        await log.append(
            "t", 0, [NewRecord(b"%d" % n, b"k", (("h", b"v"),)) for n in range(first, first + 10)]
        )
    for offset in (0, 5, 10, 294, 299):
        for limit in (1, 3, 10, 1_000):
            kept = log.tail(SOURCE, offset, limit)
            assert kept is not None
            assert kept == await log.read_file(SOURCE, offset, limit)
            assert len(kept) == min(limit, 300 - offset)
    await log.close()


async def test_memory_at_the_tail_is_bounded(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    log._tail = Tail(bytes_max=10_000)
    for number in range(100):
        await log.append("t", number % 2, [NewRecord(b"%d" % number)] * 10)
    assert log._tail._bytes <= 10_000
    assert log.tail(SOURCE, 0, 10) is None
    assert log.tail(SOURCE, 499, 10) is not None
    reader = log.reader()
    reader.assign({SOURCE: 0})
    seen = []
    while batches := await reader.poll(37, 0):
        seen += [record.offset for batch in batches for record in batch.records]
    assert seen == list(range(500))
    await log.close()


# --- retention never holds appends up


async def test_a_big_partition_is_trimmed_in_small_steps_between_appends(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    block = [NewRecord(bytes(32_000))] * 8
    for _ in range(80):  # 20 MB in rows of 256 kB
        await log.append("t", 1, block)
    sizes = {row[0]: row[1] for row in rows(tmp_path, "SELECT seq, length(body) FROM batch")}
    with traced(log) as trace:
        appended = await trace.append_beside(log.delete_records(TopicPartition("t", 1), 600))
    dropped = [[int(seq) for seq in re.findall(r"\d+", sql)] for sql in trace.statements("DELETE FROM batch")]
    assert sum(len(step) for step in dropped) == 75
    assert max(sum(sizes[seq] for seq in step) for step in dropped) <= DELETE_BYTES_MAX
    assert trace.tasks_between_appends_max() == 1
    assert appended >= len(dropped) > 15
    await log.close()


async def test_many_small_rows_are_trimmed_in_small_steps(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    for number in range(2 * DELETE_ROWS_MAX + 10):
        await log.append("t", 0, [NewRecord(b"%d" % number)])
    with traced(log) as trace:
        await log.delete_records(SOURCE, 2 * DELETE_ROWS_MAX)
        assert trace.changes("DELETE FROM batch") == [DELETE_ROWS_MAX, DELETE_ROWS_MAX]
        await log.delete_records(SOURCE, 2 * DELETE_ROWS_MAX + 1)
    assert rows(tmp_path, "SELECT COUNT(*), MIN(base_offset) FROM batch") == [(9, 2 * DELETE_ROWS_MAX + 1)]
    await log.close()


async def test_trimming_all_partitions_at_once_still_lets_appends_through(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    block = [NewRecord(bytes(32_000))] * 8
    for number in range(60):
        await log.append("t", 1 + number % 3, block)
    with traced(log) as trace:
        await trace.append_beside(*(log.delete_records(TopicPartition("t", p), 160) for p in range(1, 4)))
    assert len(trace.changes("DELETE FROM batch")) >= 15
    assert trace.tasks_between_appends_max() == 1
    await log.close()


async def test_a_step_looks_at_what_it_may_drop_only(tmp_path: Path) -> None:
    """The last step of a trim once read the rest of the partition to find out that it was the last."""
    log = await opened(tmp_path, threads=False)
    for number in range(300):
        await log.append("t", 0, [NewRecord(b"%d" % number)])
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    log._store._db.set_progress_handler(step, 10)
    await log.delete_records(SOURCE, 2)
    log._store._db.set_progress_handler(None, 10)
    assert 0 < steps < 30
    await log.close()


async def test_a_trim_that_a_crash_cut_off_is_finished_at_the_next_start(tmp_path: Path) -> None:
    log = await opened(tmp_path, threads=False)
    for number in range(3 * DELETE_ROWS_MAX):
        await log.append("t", 0, [NewRecord(b"%d" % number)])
    topic = log._store.topics["t"]
    log._store.set_start(topic, 0, 700)
    log._store.delete_step(topic, 0, 700)
    await log.close()
    assert rows(tmp_path, "SELECT MIN(base_offset) FROM batch") == [(DELETE_ROWS_MAX,)]
    log = await opened(tmp_path)
    assert await log.start_offsets([SOURCE]) == {SOURCE: 700}
    assert rows(tmp_path, "SELECT MIN(base_offset) FROM batch") == [(700,)]
    await log.close()


# --- time


@pytest.mark.parametrize("trimmed", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
def test_times_do_not_fall_with_the_clock(tmp_path: Path, trimmed: bool, reopened: bool) -> None:
    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        log = await EmbeddedLog.open(tmp_path / "log.db", clock, threads=False)
        await log.create_topic("t", 1, None)
        await log.append("t", 0, [NewRecord(b"x")])
        newest_ms = clock.now_ms()
        if trimmed:
            await log.delete_records(SOURCE, 1)
        clock.jump(-86_400)
        if reopened:
            await log.close()
            log = await EmbeddedLog.open(tmp_path / "log.db", clock, threads=False)
        assert log.newest_timestamp_ms == newest_ms
        await log.append("t", 0, [NewRecord(b"y")])
        assert (await log.fetch(SOURCE, 1)).timestamp_ms == newest_ms
        assert await log.offset_at(SOURCE, newest_ms + 1) == 2
        await log.close()

    scenario()


# --- deadlines and limits


async def stuck(log: EmbeddedLog) -> threading.Event:
    """A disk that takes its time: the writer waits for the event returned, and everything waits for it."""
    reached, released = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        released.wait()

    holding = asyncio.create_task(log._writer.task(wait))
    holding.add_done_callback(lambda done: done.exception())  # its deadline passes too
    await asyncio.to_thread(reached.wait)
    return released


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.adapters.embedded_writer.DEADLINE_S", 0.05)


async def test_a_caller_past_its_deadline_is_told_while_its_group_goes_on(
    tmp_path: Path, impatient: None
) -> None:
    log = await opened(tmp_path)
    released = await stuck(log)
    with pytest.raises(LogUnavailable, match="in time"):
        await log.accept([Candidate("t", 0, NewRecord(b"v"), b"first", bytes(16), b"hash")])
    released.set()
    [outcome] = await log.accept([Candidate("t", 0, NewRecord(b"v"), b"second", bytes(16), b"hash")])
    assert (outcome.verdict, outcome.response) == (Verdict.REPLAYED, b"first")
    assert await log.end_offsets([SOURCE]) == {SOURCE: 1}
    await log.close()


async def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    released = await stuck(log)
    half = [NewRecord(bytes(OUTSTANDING_BYTES_MAX // 2))]
    waiting = [asyncio.create_task(log.append("t", p, half)) for p in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="too much"):
        await log.append("t", 2, [NewRecord(b"x")])
    released.set()
    assert await asyncio.gather(*waiting) == [0, 0]
    assert await log.append("t", 2, [NewRecord(b"x")]) == 0
    await log.close()


@virtual_time
async def test_simulated_waiters_leave_no_timer_behind(clock: VirtualClock, tmp_path: Path) -> None:
    log = await EmbeddedLog.open(tmp_path / "log.db", clock, threads=False)
    await log.create_topic("t", 1, None)
    await log.append("t", 0, [NewRecord(b"x")])
    await pass_time(DEADLINE_S * 2)
    assert await log.append("t", 0, [NewRecord(b"y")]) == 1
    await log.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
