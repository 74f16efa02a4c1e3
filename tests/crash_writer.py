"""Run by test_log_crash.py as a process of its own, to be killed: writes to a log, says what was answered.

    python crash_writer.py LOG ROUND KEYS

Each answer is one line on stdout, written only after the log gave it:

    appended TOPIC PARTITION OFFSET VALUE
    accepted KEY RESPONSE
    trimmed PARTITION OFFSET
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

import uvloop

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.system_clock import SystemClock
from atlas.ports.acceptor import Candidate
from atlas.ports.log import NewRecord, TopicPartition

PLAIN: Final = "plain"
KEYED: Final = "keyed"
BULK: Final = "bulk"
PARTITIONS: Final = 2


def keyed_candidate(number: int, response: bytes) -> Candidate:
    """The event of that key; its record tells the key and the response that was frozen with it."""
    record = NewRecord(b"%d|%s" % (number, response))
    return Candidate(KEYED, number % PARTITIONS, record, response, b"%016d" % number, b"hash %d" % number)


def say(*words: object) -> None:
    os.write(sys.stdout.fileno(), (" ".join(str(word) for word in words) + "\n").encode())


async def accept_keys(log: EmbeddedLog, name: str, keys_max: int) -> None:
    """New keys, and ones that may be taken: by others at the same time, or before a crash."""
    chance = random.Random(name)
    for turn in count():
        numbers = [chance.randrange(keys_max) for _ in range(chance.randrange(1, 6))]
        candidates = [keyed_candidate(n, f"{name}/{turn}/{n}".encode()) for n in numbers]
        outcomes = await log.accept(candidates)
        for number, outcome in zip(numbers, outcomes, strict=True):
            say("accepted", number, outcome.response.decode())


async def append_values(log: EmbeddedLog, name: str) -> None:
    chance = random.Random(name)
    for turn in count():
        partition = chance.randrange(PARTITIONS)
        values = [f"{name}/{turn}/{n}" for n in range(chance.randrange(1, 40))]
        first = await log.append(PLAIN, partition, [NewRecord(value.encode()) for value in values])
        for offset, value in enumerate(values, first):
            say("appended", PLAIN, partition, offset, value)


async def append_and_trim(log: EmbeddedLog, name: str) -> None:
    source = TopicPartition(BULK, 0)
    for turn in count():
        value = f"{name}/{turn}".encode() * 1_500
        first = await log.append(BULK, 0, [NewRecord(value)] * 12)
        if turn % 3 == 2:
            await log.delete_records(source, first - 6)
            say("trimmed", 0, first - 6)


async def main(arguments: Sequence[str]) -> None:
    path, name, keys_max = Path(arguments[0]), arguments[1], int(arguments[2])
    log = await EmbeddedLog.open(path, SystemClock())
    for topic in (PLAIN, KEYED, BULK):
        await log.create_topic(topic, PARTITIONS, None)
    say("ready")
    await asyncio.gather(
        *(accept_keys(log, f"{name}.{task}", keys_max) for task in range(4)),
        *(append_values(log, f"{name}.a{task}") for task in range(2)),
        append_and_trim(log, f"{name}.t"),
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1:]))
