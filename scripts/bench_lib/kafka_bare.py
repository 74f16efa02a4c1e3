"""Worker: `KAFKA_BARE BOOTSTRAP`: what one Python process can do with aiokafka and nothing around it.

Records are those that Atlas makes of the bench's event, with their keys and headers, put together before.
Asked for so many seconds of

* `queues`: waiters that each hand a record to its partition's queue and wait for the acknowledgement, one
  batch of each partition under way (`create_batch`, `send_batch`), idempotent;
* `batches`: the same without waiters, every batch as large as Atlas makes one;
* `defaults`: waiters that each call `send_and_wait` of a producer with default settings,

it answers with the rate and its CPU time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from itertools import cycle
from typing import Any, Final

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from atlas.core.acceptance import Circumstances, accept
from atlas.core.entities import Stream
from atlas.core.event_requests import read_event
from atlas.core.facts import EVENT_SCHEMA, LIFECYCLE_TOPIC, SCHEMA_HEADER
from scripts.bench_lib.event import EVENT, STREAM
from scripts.bench_lib.worker import say

TOPIC: Final = "bench.bare"
PARTITIONS: Final = 6
#: As Atlas's producer makes them.
BATCH_BYTES: Final = 256 * 1024
_WAITERS: Final = 256
_RECORDS: Final = 600
_HEADERS: Final = [(SCHEMA_HEADER, EVENT_SCHEMA)]
_REQUEST_MAX_S: Final = 30.0

Pair = tuple[bytes, bytes]


def records() -> list[Pair]:
    """Keys and values, as Atlas appends them."""
    stream = Stream(
        id="stm_bench",
        workspace_id="ws_01M852ACDMJDWZG9C1F4PEHFC4",
        environment="live",
        name=STREAM,
        description=None,
        retention_days=14,
        default_routes=(),
        created_at_ms=0,
    )
    event = read_event(EVENT)
    now = Circumstances(int(time.time() * 1000), 1, PARTITIONS)
    made = (accept(event, stream, None, lambda: os.urandom(10), now) for _ in range(_RECORDS))
    return [(one.record_key, one.value) for one in made]


class _Queues:
    """A queue for each partition in front of `send_batch`."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._queues: list[deque[tuple[Pair, asyncio.Future[None]]]] = [deque() for _ in range(PARTITIONS)]
        self._busy = [False] * PARTITIONS
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, partition: int, pair: Pair) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[partition].append((pair, done))
        if not self._busy[partition]:
            self._busy[partition] = True
            task = asyncio.create_task(self._drain(partition))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await done

    async def _drain(self, partition: int) -> None:
        queue = self._queues[partition]
        while queue:
            batch, waiting, size_bytes = self._producer.create_batch(), [], 0
            while queue and size_bytes < BATCH_BYTES:
                (key, value), done = queue.popleft()
                batch.append(timestamp=None, key=key, value=value, headers=_HEADERS)
                waiting.append(done)
                size_bytes += len(value)
            batch.close()
            await (await self._producer.send_batch(batch, TOPIC, partition=partition))
            for done in waiting:
                done.set_result(None)
        self._busy[partition] = False


async def queues(producer: Any, seconds: float) -> int:
    """Records acknowledged."""
    pairs = records()
    queue = _Queues(producer)

    async def wait_for_each(number: int, ends_s: float) -> int:
        sent = 0
        for partition, pair in zip(cycle(range(PARTITIONS)), cycle(pairs), strict=False):
            await queue.send((partition + number) % PARTITIONS, pair)
            sent += 1
            if time.perf_counter() >= ends_s:
                break
        return sent

    ends_s = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(wait_for_each(number, ends_s) for number in range(_WAITERS))))


async def batches(producer: Any, seconds: float) -> int:
    """Records acknowledged."""
    pairs = records()

    async def fill_and_send(partition: int, ends_s: float) -> int:
        sent = 0
        while time.perf_counter() < ends_s:
            batch, size_bytes = producer.create_batch(), 0
            for key, value in cycle(pairs):
                batch.append(timestamp=None, key=key, value=value, headers=_HEADERS)
                size_bytes += len(value)
                sent += 1
                if size_bytes >= BATCH_BYTES:
                    break
            batch.close()
            await (await producer.send_batch(batch, TOPIC, partition=partition))
        return sent

    ends_s = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(fill_and_send(number, ends_s) for number in range(PARTITIONS))))


async def defaults(producer: Any, seconds: float) -> int:
    """Records acknowledged."""
    pairs = records()

    async def wait_for_each(ends_s: float) -> int:
        sent = 0
        for key, value in cycle(pairs):
            await producer.send_and_wait(TOPIC, value, key=key, headers=_HEADERS)
            sent += 1
            if time.perf_counter() >= ends_s:
                break
        return sent

    ends_s = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(wait_for_each(ends_s) for _ in range(_WAITERS))))


async def getmany(bootstrap: str) -> dict[str, Any]:
    """Read every event and fact of the installation with `getmany`, each record's value decoded."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        topics = [name for name in await consumer.topics() if name.startswith("atlas.live.")]
        sources = [TopicPartition(name, n) for name in (LIFECYCLE_TOPIC, *topics) for n in range(PARTITIONS)]
        ends = {source: end for source, end in (await consumer.end_offsets(sources)).items() if end}
        started_s, cpu_s, count = time.perf_counter(), time.process_time(), 0
        consumer.assign(sources)
        while ends:
            for source, found in (await consumer.getmany(timeout_ms=1_000)).items():
                for record in found:
                    orjson.loads(record.value)
                count += len(found)
                if found and found[-1].offset + 1 >= ends.get(source, 0):
                    ends.pop(source, None)
        seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        return {"records": count, "seconds": seconds, "cpu_s": cpu_s}


def _producer(way: str, bootstrap: str) -> Any:
    if way == "defaults":
        return AIOKafkaProducer(bootstrap_servers=bootstrap)
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=2 * BATCH_BYTES
    )


async def _create_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        async with asyncio.timeout(_REQUEST_MAX_S):
            await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    finally:
        await admin.close()


_WAYS: Final = {"queues": queues, "batches": batches, "defaults": defaults}


async def _measure(bootstrap: str, way: str, seconds: float) -> dict[str, float]:
    async with _producer(way, bootstrap) as producer:
        await producer.send_and_wait(TOPIC, b"")  # connected, and it knows the topic
        started_s, cpu_s = time.perf_counter(), time.process_time()
        count = await _WAYS[way](producer, seconds)
        taken_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {"records": count, "rate": count / taken_s, "cpu_us": cpu_s / count * 1e6}


def main() -> None:
    """Do what each line asks for, on a loop of its own."""
    bootstrap = sys.argv[1]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_create_topic(bootstrap))
    say({"record_bytes": sum(len(key) + len(value) for key, value in records()) / _RECORDS})
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            say(runner.run(_measure(bootstrap, asked["way"], asked["seconds"])))


if __name__ == "__main__":
    main()
