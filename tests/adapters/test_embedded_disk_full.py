"""Disk full (reliability notes): appends are refused, reads go on, nothing is half there, it heals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogUnavailable
from atlas.ports.acceptor import Candidate, Verdict
from atlas.ports.log import NewRecord, TopicPartition

SOURCE = TopicPartition("t", 0)
BLOCK = bytes(10_000)


async def opened(path: Path, *, threads: bool = True) -> EmbeddedLog:
    log = await EmbeddedLog.open(path / "log.db", SystemClock(), threads=threads)
    await log.create_topic("t", 2, None)
    return log


async def limit_pages(log: EmbeddedLog, more: int | None) -> None:
    """Let the file grow by so many pages; None: as it likes. It is a property of the writing connection."""

    def work() -> None:
        db = log._store._db
        [(pages,)] = db.execute("PRAGMA page_count").fetchall()
        limit = 1_000_000_000 if more is None else pages + more
        db.execute(f"PRAGMA max_page_count = {limit}").fetchall()

    await log._writer.task(work)


def keyed(number: int, value: bytes = BLOCK) -> Candidate:
    return Candidate("t", 0, NewRecord(value), b"frozen %d" % number, b"%016d" % number, b"hash")


async def fill(log: EmbeddedLog) -> int:
    """Accept keyed events until there is no room; returns the number of the first one refused."""
    for number in range(10_000):
        try:
            await log.accept([keyed(number)])
        except LogUnavailable:
            return number
    raise AssertionError("it never got full")


@pytest.mark.parametrize("threads", [True, False])
async def test_a_full_disk_refuses_appends_and_serves_reads(tmp_path: Path, threads: bool) -> None:
    log = await opened(tmp_path, threads=threads)
    await limit_pages(log, 60)
    refused = await fill(log)
    assert refused > 0
    with pytest.raises(LogUnavailable):
        await log.append("t", 1, [NewRecord(BLOCK)] * 20)
    with pytest.raises(LogUnavailable):
        await log.check()
    assert await log.end_offsets([SOURCE, TopicPartition("t", 1)]) == {
        SOURCE: refused,
        TopicPartition("t", 1): 0,
    }
    assert [r.offset for r in await log.read_file(SOURCE, 0, 1_000)] == list(range(refused))
    assert (await log.fetch(SOURCE, refused - 1)).value == BLOCK
    assert await log.find(b"%016d" % refused, b"hash") is None
    [replay] = await log.accept([keyed(0)])
    assert (replay.verdict, replay.response) == (Verdict.REPLAYED, b"frozen 0")
    await log.close()


@pytest.mark.parametrize("threads", [True, False])
async def test_it_heals_when_there_is_room_again(tmp_path: Path, threads: bool) -> None:
    log = await opened(tmp_path, threads=threads)
    await limit_pages(log, 60)
    refused = await fill(log)
    await limit_pages(log, None)
    await log.check()
    [outcome] = await log.accept([keyed(refused)])
    assert outcome.verdict is Verdict.APPENDED
    assert await log.append("t", 0, [NewRecord(b"next")]) == refused + 1
    await log.close()
    log = await opened(tmp_path)
    assert len(await log.read_file(SOURCE, 0, 1_000)) == refused + 2
    await log.close()


async def test_retention_makes_room_on_a_full_disk(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await limit_pages(log, 60)
    refused = await fill(log)
    await log.delete_records(SOURCE, refused)
    assert await log.append("t", 0, [NewRecord(BLOCK)]) == refused
    await log.check()
    await log.close()


async def test_an_append_too_big_for_the_room_left_leaves_room_for_a_small_one(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await limit_pages(log, 20)
    with pytest.raises(LogUnavailable):
        await log.append("t", 0, [NewRecord(BLOCK)] * 100)
    assert await log.append("t", 0, [NewRecord(b"small")]) == 0
    await log.close()


async def test_a_group_that_failed_half_way_left_nothing(tmp_path: Path) -> None:
    """It fails after its records were written, its table of keys was made, and the first key was taken."""
    log = await opened(tmp_path)
    await limit_pages(log, 20)
    answers = [
        Candidate("t", 0, NewRecord(b"small"), bytes(size), b"%016d" % size, b"hash")
        for size in (10, 200_000)
    ]
    with pytest.raises(LogUnavailable):
        await log.accept(answers)
    assert await log.find(b"%016d" % 10, b"hash") is None
    await limit_pages(log, None)
    outcomes = await log.accept(answers)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.APPENDED] * 2
    assert await log.end_offsets([SOURCE]) == {SOURCE: 2}
    await log.close()


async def test_a_trim_left_over_that_cannot_be_done_does_not_keep_the_log_from_opening(
    tmp_path: Path,
) -> None:
    log = await opened(tmp_path, threads=False)
    for number in range(3):
        await log.append("t", 0, [NewRecord(b"%d" % number)])
    log._store.set_start(log._store.topics["t"], 0, 2)  # and there it crashed
    log._store._db.execute(
        "CREATE TRIGGER full BEFORE DELETE ON batch BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    await log.close()
    log = await opened(tmp_path)
    assert await log.start_offsets([SOURCE]) == {SOURCE: 2}
    assert (await log.fetch(SOURCE, 2)).value == b"2"
    await log._writer.task(lambda: log._store._db.execute("DROP TRIGGER full"))
    await log.append("t", 0, [NewRecord(b"3")])
    await log.delete_records(SOURCE, 3)
    assert [r.offset for r in await log._file.read(1, 0, 0, 4, 10)] == [3]
    await log.close()


_REAL = """
import asyncio, resource, sys
from pathlib import Path
from atlas.ports.log import NewRecord
from tests.adapters.test_embedded_disk_full import EmbeddedLog, SystemClock
from tests.adapters.test_embedded_disk_full import BLOCK, SOURCE, fill, keyed, opened

async def main(path):
    log = await opened(path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    refused = await fill(log)
    end = (await log.end_offsets([SOURCE]))[SOURCE]
    assert end == refused > 0, (end, refused)
    assert len(await log.read_file(SOURCE, 0, refused)) > 0
    await log.close()
    log = await EmbeddedLog.open(path / "log.db", SystemClock())
    assert (await log.end_offsets([SOURCE]))[SOURCE] == refused
    assert (await log.fetch(SOURCE, refused - 1)).value == BLOCK
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert await log.append("t", 0, [NewRecord(b"next")]) == refused
    [outcome] = await log.accept([keyed(0)])
    assert outcome.response == b"frozen 0", outcome
    await log.close()
    print("healed")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_file_that_the_system_lets_grow_no_further(tmp_path: Path) -> None:
    """The same with the kernel refusing the writes, in a process of its own, across a restart."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _REAL, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("healed\n", 0), done.stderr
