"""The embedded log killed at random moments: nothing answered is lost, and nothing is half there.

Guarantees G1 and G2 (design section 2) on one machine; reliability notes, "gateway killed".
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.system_clock import SystemClock
from atlas.ports.acceptor import Outcome, Verdict
from atlas.ports.log import Record, TopicPartition
from tests.crash_writer import BULK, KEYED, PARTITIONS, PLAIN, keyed_candidate

ROUNDS: Final = 24
#: Few enough that most are sent again after a crash.
KEYS_MAX: Final = 6_000
_WRITER: Final = Path(__file__).with_name("crash_writer.py")


class Heard:
    """What the killed processes said had been answered."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int, int], str] = {}
        self.responses: dict[int, str] = {}
        self.bulk_start = 0
        self.lines = 0

    def line(self, line: str) -> None:
        self.lines += 1
        match line.split():
            case ["appended", topic, partition, offset, value]:
                place = (topic, int(partition), int(offset))
                assert place not in self.values, "an offset was given out twice"
                self.values[place] = value
            case ["accepted", key, response]:
                assert self.responses.setdefault(int(key), response) == response
            case ["trimmed", _, offset]:
                self.bulk_start = int(offset)


def write_and_be_killed(path: Path, number: int, heard: Heard, after_lines: int) -> None:
    """One life of a writer; -9 once it has said so many lines, then whatever else it said before it died."""
    command = [sys.executable, str(_WRITER), str(path), f"r{number}", str(KEYS_MAX)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_WRITER.parent.parent) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(after_lines):
            heard.line(writer.stdout.readline().decode())
        writer.kill()
        for line in writer.stdout:
            if line.endswith(b"\n"):
                heard.line(line.decode())
    assert writer.returncode == -9


async def contents(log: EmbeddedLog, topic: str, partition: int) -> list[Record]:
    source = TopicPartition(topic, partition)
    [start], [end] = (await log.start_offsets([source])).values(), (await log.end_offsets([source])).values()
    reader = log.reader()
    reader.assign({source: start})
    found: list[Record] = []
    while batches := await reader.poll(1_000, 0):
        for batch in batches:
            assert batch.gap_from is None
            found += batch.records
    assert [record.offset for record in found] == list(range(start, end)), "offsets have gaps"
    return found


async def check(path: Path, heard: Heard) -> None:
    log = await EmbeddedLog.open(path, SystemClock(), threads=False)
    for partition in range(PARTITIONS):
        stored = {r.offset: r.value for r in await contents(log, PLAIN, partition)}
        for (_, where, offset), value in heard.values.items():
            if where == partition:
                assert stored[offset] == value.encode()
    await check_keys(log, heard)
    [start] = (await log.start_offsets([TopicPartition(BULK, 0)])).values()
    assert start >= heard.bulk_start
    await contents(log, BULK, 0)
    await log.close()
    check_file(path, start)


async def check_keys(log: EmbeddedLog, heard: Heard) -> None:
    frozen: Counter[tuple[int, str]] = Counter()
    for partition in range(PARTITIONS):
        for record in await contents(log, KEYED, partition):
            assert record.value is not None
            number, _, response = record.value.decode().partition("|")
            frozen[int(number), response] += 1
    assert set(frozen.values()) <= {1}
    in_log = dict(frozen.keys())
    assert len(in_log) == len(frozen), "a key has two records"
    assert heard.responses.items() <= in_log.items()
    again = [keyed_candidate(number, b"sent again") for number in in_log]
    assert await log.accept(again) == [
        Outcome(Verdict.REPLAYED, response.encode()) for response in in_log.values()
    ]
    for free in set(range(0, KEYS_MAX, 50)) - set(in_log):
        one = keyed_candidate(free, b"")
        assert one.dedup_key is not None
        assert await log.find(one.dedup_key, one.payload_hash) is None, "a key without its record"


def check_file(path: Path, bulk_start: int) -> None:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    below = (
        "SELECT COUNT(*) FROM batch JOIN topic ON topic.id = topic_id"
        " WHERE name = ? AND base_offset + records <= ?"
    )
    assert db.execute(below, (BULK, bulk_start)).fetchall() == [(0,)], "a trim was not finished"
    db.close()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    path, heard, chance = tmp_path / "log.db", Heard(), random.Random()
    for number in range(ROUNDS):
        write_and_be_killed(path, number, heard, chance.randrange(3_000))
        if number % 4 == 3:  # not each time: a good close would leave the next life nothing to recover
            asyncio.run(check(path, heard))
    assert len(heard.responses) > 1_000
    assert len(heard.values) > 1_000
    assert heard.bulk_start > 0
