"""Worker: `REBUILD DIRECTORY EVENTS [KAFKA]`: a log of so many delivered events, projected again and again.

The log is an embedded one in the directory, or Kafka at that address.

Asked `{"do": "project"}` it folds the whole log into a new read model, with nothing else running; asked
`{"do": "raw"}` it puts the very rows that came of it into a new file with the same tables and pragmas, by
plain `executemany`, as many events to a transaction as the projector takes; asked `{"do": "getmany"}` it
reads all of Kafka's records and decodes them, no more. All answer with the seconds.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from msgspec.structs import replace

from atlas.bootstrap import (
    MASTER_KEY_BYTES,
    Atlas,
    KafkaSettings,
    Options,
    Role,
    open_embedded,
    open_on_kafka,
)
from atlas.core.acceptance import Acceptance, Circumstances, accept
from atlas.core.commands import CreateStream
from atlas.core.entities import Stream
from atlas.core.event_requests import read_event
from atlas.core.facts import (
    EVENT_SCHEMA,
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    SHARD_KEY,
    DeliveryAttempted,
    LifecycleFact,
    ShardClaimed,
    encode,
)
from atlas.core.limits import STREAMS_MAX
from atlas.core.tokens import digest
from atlas.first_workspace import ensure_first_workspace
from atlas.ports.log import NewRecord, TopicPartition
from atlas.runtime.telemetry import Metrics, configure_logging
from atlas.runtime.topics import provide_topic
from scripts.bench_lib.event import EVENT, STREAM
from scripts.bench_lib.kafka_bare import getmany
from scripts.bench_lib.worker import say

_OPTIONS: Final = Options(master_key=bytes(MASTER_KEY_BYTES), operator_token_digest=digest("operator"))
_TARGET: Final = "wf_bench"
_READ_MODEL: Final = "read-model.db"
_FILL_EVENTS: Final = 500
#: Events of one transaction of the raw limit: the projector takes 2,000 records, half of them facts here.
_RAW_EVENTS: Final = 1_000
_REBUILD_MAX_S: Final = 600.0
_TABLES: Final = {"events": "id", "routes": "event_id", "attempts": "event_id", "terms": "id"}


async def _open(directory: Path, kafka: str | None, role: Role) -> Atlas:
    options = replace(_OPTIONS, roles=role)
    if kafka is None:
        return await open_embedded(directory, options)
    return await open_on_kafka(
        KafkaSettings(bootstrap=kafka, replication=1, min_insync=1), directory, options
    )


async def fill(directory: Path, events: int, kafka: str | None) -> None:
    """Make the log: each event with one route and one attempt that delivered it."""
    atlas = await _open(directory, kafka, Role.GATEWAY)
    try:
        await atlas.start()
        stream = await _stream(atlas, directory)
        epochs = [
            await _append(atlas, shard, [ShardClaimed(owner="bench", at_ms=0)], SHARD_KEY)
            for shard in range(atlas.log.shards)
        ]
        for _ in range(0, events, _FILL_EVENTS):
            made = _accepted(atlas, stream, min(_FILL_EVENTS, events))
            for shard, accepted in enumerate(made):
                records = [
                    NewRecord(a.value, a.record_key, ((SCHEMA_HEADER, EVENT_SCHEMA),)) for a in accepted
                ]
                if records:
                    offset = await atlas.log.append(stream.topic, shard, records)
                    facts = [_delivered(stream, a, offset + i, epochs[shard]) for i, a in enumerate(accepted)]
                    await _append(atlas, shard, facts, b"event")
    finally:
        await atlas.close()


async def _stream(atlas: Atlas, directory: Path) -> Stream:
    workspace = await ensure_first_workspace(atlas, directory)
    stream = Stream(
        id=atlas.ids.new("stm_"),
        workspace_id=workspace.workspace_id,
        environment="live",
        name=STREAM,
        description=None,
        retention_days=14,
        default_routes=(),
        created_at_ms=atlas.world.clock.now_ms(),
    )
    made = CreateStream(id=atlas.ids.new("cmd_"), at_ms=0, stream=stream, streams_max=STREAMS_MAX)
    await atlas.registry.propose(made)
    await provide_topic(atlas.log, stream)
    return replace(stream, default_routes=(_TARGET,))  # there is no such workflow: nobody delivers here


def _accepted(atlas: Atlas, stream: Stream, events: int) -> list[list[Acceptance]]:
    now = Circumstances(atlas.world.clock.now_ms(), atlas.registry.position, atlas.log.shards)
    checked = read_event(EVENT)
    made: list[list[Acceptance]] = [[] for _ in range(atlas.log.shards)]
    for _ in range(events):
        accepted = accept(checked, stream, None, atlas.ids.entropy80, now)
        made[accepted.partition].append(accepted)
    return made


def _delivered(stream: Stream, accepted: Acceptance, offset: int, epoch: int) -> DeliveryAttempted:
    return DeliveryAttempted(
        epoch=epoch,
        event_id=accepted.record_key.decode(),
        topic=stream.topic,
        offset=offset,
        target=_TARGET,
        attempt=1,
        outcome="delivered",
        started_at_ms=1,
        completed_at_ms=2,
        duration_ms=1,
        http_status=204,
        response_body="",
        address="127.0.0.1",
    )


async def _append(atlas: Atlas, shard: int, facts: list[Any], key: bytes) -> int:
    headers = ((SCHEMA_HEADER, LIFECYCLE_SCHEMA),)
    typed: list[LifecycleFact] = facts
    records = [NewRecord(encode(fact), key, headers) for fact in typed]
    return await atlas.log.append(LIFECYCLE_TOPIC, shard, records)


async def project(directory: Path, kafka: str | None) -> dict[str, Any]:
    """Fold the log into a new read model."""
    atlas = await _open(directory, kafka, Role.PROJECTOR)
    try:
        started_s, cpu_s = time.perf_counter(), time.process_time()
        await atlas.start()
        streams = [s for by_name in atlas.registry.state.streams.values() for s in by_name.values()]
        topics = [LIFECYCLE_TOPIC, *(stream.topic for stream in streams)]
        sources = [TopicPartition(topic, shard) for topic in topics for shard in range(atlas.log.shards)]
        ends = await atlas.log.end_offsets(sources)
        if not await atlas.read_model.wait_past(ends, _REBUILD_MAX_S):
            raise RuntimeError("the rebuild did not end")
        seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        return {"seconds": seconds, "cpu_s": cpu_s, "rows": await atlas.read_model.counts()}
    finally:
        await atlas.close()


def raw(directory: Path) -> dict[str, Any]:
    """Put the rows of the read model into a new file."""
    target = directory / "raw.db"
    [path] = directory.rglob(_READ_MODEL)
    with sqlite3.connect(path) as source:
        ddl = [sql for (sql,) in source.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        batches = _batches(source)
    connection = sqlite3.connect(target, isolation_level=None)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -16384"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        for statement in ddl:
            connection.execute(statement)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            for table, rows in batch.items():
                marks = ",".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608  # our own tables
            connection.execute("COMMIT")
        return {"seconds": time.perf_counter() - started_s, "cpu_s": time.process_time() - cpu_s}
    finally:
        connection.close()


def _batches(source: sqlite3.Connection) -> list[dict[str, list[Any]]]:
    """All rows, in the order and the portions in which they came."""
    ids = [row for (row,) in source.execute("SELECT id FROM events ORDER BY offset, partition")]
    number = {event_id: index // _RAW_EVENTS for index, event_id in enumerate(ids)}
    batches: list[dict[str, list[Any]]] = [{} for _ in range(-(-len(ids) // _RAW_EVENTS))]
    for table, column in _TABLES.items():
        cursor = source.execute(f"SELECT {column}, * FROM {table}")  # noqa: S608  # our own tables
        for event_id, *row in cursor:
            batches[number[event_id]].setdefault(table, []).append(row)
    return batches


def main() -> None:
    """Make the log, then do what each line asks for."""
    directory, events = Path(sys.argv[1]), int(sys.argv[2])
    kafka = sys.argv[3] if len(sys.argv) > 3 else None
    configure_logging(Metrics())  # what is said besides the answers goes to stderr
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fill(directory, events, kafka))
        say({})
        for line in sys.stdin.buffer:
            wanted = orjson.loads(line)["do"]
            if wanted == "getmany" and kafka is not None:
                say(runner.run(getmany(kafka)))
                continue
            for leftover in directory.rglob("raw.db*" if wanted == "raw" else f"{_READ_MODEL}*"):
                leftover.unlink()
            say(runner.run(project(directory, kafka)) if wanted == "project" else raw(directory))


if __name__ == "__main__":
    main()
