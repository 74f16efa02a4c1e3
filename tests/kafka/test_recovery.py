"""An idempotency index that is lost, old or another's: keys are kept all the same, on a real broker."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from atlas.adapters.embedded_keys import BUCKET_MS, KEY_LIFETIME_MS
from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_index import KeyIndex
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.entities import Scope, Stream
from atlas.core.errors import LogUnavailable
from atlas.core.facts import EVENT_SCHEMA, FENCE_SCHEMA, SCHEMA_HEADER
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.clock import Clock
from atlas.ports.log import NewRecord, Record, TopicPartition
from tests.conformance.log_deployments import AT_ONCE_S, read_all
from tests.conformance.test_acceptor import CONFLICT, appended, replayed
from tests.kafka.control import Control
from tests.kafka.events import event, stream_named, write_down
from tests.kafka.namespace import NamespacedLog
from tests.kafka_broker import shared_broker

SHARDS = 3
NOBODY = "another gateway has opened an idempotency index"


class LateClock:
    """The machine's clock, some time later."""

    def __init__(self, later_ms: int) -> None:
        self._clock, self._later_ms = SystemClock(), later_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._later_ms

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()


@dataclass
class Gateway:
    acceptor: KafkaAcceptor
    control: Control
    log: KafkaLog

    async def accept(self, *candidates: Candidate) -> list[Outcome]:
        return await self.acceptor.accept(candidates)


class Site:
    """A workspace of its own on the shared broker."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.index = directory, directory / "keys.db"
        self.name = uuid.uuid4().hex[:12]
        self.scope: Scope = (f"ws_{self.name}", "live")
        self._settings = KafkaSettings(bootstrap=shared_broker(), shards=SHARDS)

    @asynccontextmanager
    async def gateway(
        self, index: Path | None = None, clock: Clock | None = None, *, wait: bool = True
    ) -> AsyncIterator[Gateway]:
        clock = clock or SystemClock()
        log = await KafkaLog.open(self._settings, clock)
        try:
            control = await Control.open(NamespacedLog(log, f"recovery-{self.name}-"), clock)
            acceptor = await KafkaAcceptor.open(log, index or self.index, clock, control.producers)
            try:
                if wait:
                    async with asyncio.timeout(AT_ONCE_S * 2):
                        await acceptor.recovered()
                yield Gateway(acceptor, control, log)
            finally:
                await acceptor.close()
                await control.close()
        finally:
            await log.close()

    async def stream(self, gateway: Gateway, name: str = "orders") -> Stream:
        made = stream_named(self.scope[0], name)
        await gateway.log.create_topic(made.topic, SHARDS, None)
        await write_down(gateway.control, made)
        return made

    def event(
        self, stream: Stream, key: str | None, number: int = 0, of_batch: int | None = None, ago_ms: int = 0
    ) -> Candidate:
        return event(stream, key, number, shards=SHARDS, of_batch=of_batch, ago_ms=ago_ms)

    async def events(self, gateway: Gateway, stream: Stream) -> list[Record]:
        sources = [TopicPartition(stream.topic, shard) for shard in range(SHARDS)]
        found = [record for source in sources for record in await read_all(gateway.log, source)]
        return [record for record in found if (SCHEMA_HEADER, FENCE_SCHEMA) not in record.headers]

    def delete(self) -> None:
        for path in self.directory.glob("keys.db*"):
            path.unlink()

    def copy(self, to: str = "copy") -> None:
        """As a backup would: one consistent state, also while a gateway runs."""
        with (
            closing(sqlite3.connect(self.index)) as db,
            closing(sqlite3.connect(self.directory / to)) as copy,
        ):
            db.backup(copy)

    def put_back(self, name: str = "copy") -> None:
        self.delete()
        shutil.copy(self.directory / name, self.index)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def opening(logs: Sequence[Any]) -> dict[str, int]:
    """What the last opening found to do."""
    line = next(one for one in reversed(logs) if one["event"] == "idempotency index up to the log")
    return {name: line[name] for name in ("producers_fenced", "keys_restored")}


async def test_a_deleted_index_is_brought_back(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        batch = [site.event(stream, f"k{n}", n) for n in range(1_200)]
        unkeyed = site.event(stream, None)
        await first.accept(*batch, unkeyed)
    site.delete()
    with capture_logs() as logs:
        async with site.gateway() as second:
            again = [site.event(stream, f"k{n}", n) for n in range(1_200)]
            assert await second.accept(*again) == [replayed(one) for one in batch]
            assert await second.accept(site.event(stream, "k7", 8)) == [CONFLICT]
            new = site.event(stream, "new")
            assert await second.accept(new) == [appended(new)]
            assert len(await site.events(second, stream)) == 1_202
    assert opening(logs) == {"producers_fenced": 1, "keys_restored": 1_200}


async def test_a_clean_restart_has_nothing_to_do(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        await first.accept(*[site.event(stream, f"k{n}" if n % 2 else None, n) for n in range(50)])
    with capture_logs() as logs:
        async with site.gateway() as second:
            ends = await second.log.end_offsets(TopicPartition(stream.topic, n) for n in range(SHARDS))
    assert opening(logs) == {"producers_fenced": 0, "keys_restored": 0}
    assert sum(ends.values()) == 50
    with closing(sqlite3.connect(site.index)) as db:
        found = db.execute("SELECT topic, partition, next_offset FROM position").fetchall()
    assert {TopicPartition(*row[:2]): row[2] for row in found} == ends


@pytest.mark.parametrize("running", [False, True])
async def test_an_index_put_back_from_a_copy_is_brought_up(site: Site, running: bool) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        early = site.event(stream, "early")
        late = site.event(stream, "late")
        await first.accept(early)
        if running:
            site.copy()
            await first.accept(late)
    if not running:
        site.copy()
        async with site.gateway() as between:
            await between.accept(late)
    site.put_back()
    with capture_logs() as logs:
        async with site.gateway() as last:
            for one, key in [(early, "early"), (late, "late")]:
                assert await last.accept(site.event(stream, key)) == [replayed(one)]
                assert await last.accept(site.event(stream, key, 1)) == [CONFLICT]
            assert len(await site.events(last, stream)) == 2
    assert opening(logs)["producers_fenced"] == 1
    # Of the copy made while running it may be that `early` is reserved there, and its doubt settled first.
    assert opening(logs)["keys_restored"] in ({1, 2} if running else {1})


async def test_keys_of_batches_come_back_in_their_own_namespace(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        derived = [site.event(stream, "K", n, of_batch=n) for n in range(3)]
        sent = site.event(stream, "K/1", 7)
        assert await first.accept(*derived, sent) == [appended(one) for one in (*derived, sent)]
    site.delete()
    async with site.gateway() as second:
        again = [site.event(stream, "K", n, of_batch=n) for n in range(3)]
        assert await second.accept(*again) == [replayed(one) for one in derived]
        assert await second.accept(site.event(stream, "K/1", 7)) == [replayed(sent)]
        free = site.event(stream, "K/0", 7)
        assert await second.accept(free) == [appended(free)]


async def test_foreign_records_stop_nothing(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        before, after = site.event(stream, "before"), site.event(stream, "after")
        await first.accept(before)
        value = json.loads(before.record.value or b"")
        forged = [
            {**value, "payload_hash": "no hex"},
            {**value, "payload_hash": None},
            {**value, "idempotency_key": "not the one in the id"},
            {**value, "idempotency_key": None},
            {**value, "stream": "another"},
            {**value, "received_at": "9999-12-31T23:59:59.999Z"},
            {**value, "from": "a later version", "routes": "?"},
        ]
        headers = ((SCHEMA_HEADER, EVENT_SCHEMA),)
        odd = [
            NewRecord(None),
            NewRecord(None, b"tombstone", headers),
            NewRecord(b"", None, headers),
            NewRecord(b"\xff\x00", None, headers),
            NewRecord(b'{"id":"\\ud800"}', None, headers),
            NewRecord(before.record.value, None, ((SCHEMA_HEADER, b"atlas.event/2"),)),
            *(NewRecord(json.dumps(each).encode(), None, headers) for each in forged),
        ]
        for shard in range(SHARDS):
            await first.log.append(stream.topic, shard, odd)
        await first.accept(after)
    site.delete()
    with capture_logs() as logs:
        async with site.gateway() as second:
            assert await second.accept(site.event(stream, "before")) == [replayed(before)]
            assert await second.accept(site.event(stream, "after")) == [replayed(after)]
    assert opening(logs)["keys_restored"] == 2


async def test_two_gateways_with_an_index_each_are_one_too_many(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        one = site.event(stream, "k")
        await first.accept(one)
        assert first.acceptor.not_ready() is None
        async with site.gateway(site.directory / "other.db") as second:
            assert await second.accept(site.event(stream, "k")) == [replayed(one)]
            late = site.event(stream, "late")
            await second.accept(late)
            await first.control.registry.stands_at_end()
            assert NOBODY in (first.acceptor.not_ready() or "")
            for keyed in (site.event(stream, "k"), site.event(stream, "other")):
                with pytest.raises(LogUnavailable, match=NOBODY):
                    await first.accept(keyed)
                with pytest.raises(LogUnavailable, match=NOBODY):
                    await first.acceptor.find(keyed.dedup_key or b"", keyed.payload_hash)
            await accept_unkeyed(first, site, stream)
            assert second.acceptor.not_ready() is None
    async with site.gateway() as again:  # the first index once more: it learns what the other one took
        assert await again.accept(site.event(stream, "late")) == [replayed(late)]
        assert len([r for r in await site.events(again, stream) if b'"late"' in (r.value or b"")]) == 1


async def accept_unkeyed(gateway: Gateway, site: Site, stream: Stream) -> None:
    """Its producer was shut out, so what it sends next may fail, once for each partition."""
    for _ in range(SHARDS + 1):
        try:
            assert (await gateway.accept(site.event(stream, None)))[0].verdict is Verdict.APPENDED
        except LogUnavailable:
            continue
        return
    pytest.fail("events without a key are refused")


async def test_while_the_log_is_read_keyed_events_are_refused_and_others_go_on(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        one = site.event(stream, "k")
        await first.accept(one)
    site.delete()
    async with site.gateway(wait=False) as second:
        with pytest.raises(LogUnavailable, match="not been compared"):
            await second.accept(site.event(stream, "k"))
        with pytest.raises(LogUnavailable, match="not been compared"):
            await second.accept(site.event(stream, None), site.event(stream, "k"))
        unkeyed = site.event(stream, None)
        assert await second.accept(unkeyed) == [appended(unkeyed)]
        await second.acceptor.recovered()
        assert second.acceptor.not_ready() is None
        assert await second.accept(site.event(stream, "k")) == [replayed(one)]


async def test_a_stream_made_while_running_is_in_the_index_from_its_start(site: Site) -> None:
    async with site.gateway() as first:
        await site.stream(first)
        later = await site.stream(first, "later")
        one = site.event(later, "k")
        await first.accept(one)
        site.copy()
    site.put_back()  # never closed, as after a crash
    with capture_logs() as logs:
        async with site.gateway() as second:
            assert await second.accept(site.event(later, "k")) == [replayed(one)]
    assert opening(logs)["producers_fenced"] == 1


async def test_keys_brought_back_live_as_long_as_they_would_have(site: Site) -> None:
    ages_ms = [0, BUCKET_MS, KEY_LIFETIME_MS - 60_000, KEY_LIFETIME_MS + 60_000]
    async with site.gateway() as first:
        stream = await site.stream(first)
        old = [site.event(stream, f"k{age}", ago_ms=age) for age in ages_ms]
        await first.accept(*old)
    site.delete()
    async with site.gateway() as second:
        outcomes = await second.accept(*[site.event(stream, f"k{age}") for age in ages_ms])
        assert outcomes[:3] == [replayed(one) for one in old[:3]]
        assert outcomes[3].verdict is Verdict.APPENDED
    for later_ms, left in [(BUCKET_MS * 2, [True, True, False]), (KEY_LIFETIME_MS + BUCKET_MS, [False] * 3)]:
        index = KeyIndex(site.index, LateClock(later_ms).now_ms)
        while index.expire_step():
            pass
        assert [bool(index.find([one.dedup_key or b""])) for one in old[:3]] == left
        index.close()


async def test_an_index_of_a_log_that_was_lost_is_read_up_from_the_start(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        one = site.event(stream, "k")
        await first.accept(one)
    with closing(sqlite3.connect(site.index)) as db, db:
        [(table,)] = db.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'idempotency_*[0-9]'")
        db.execute(f"DELETE FROM {table}")  # our own table
        db.execute("UPDATE position SET next_offset = 1000000")
    async with site.gateway() as second:
        assert await second.accept(site.event(stream, "k")) == [replayed(one)]


async def test_while_keys_cannot_be_written_no_more_are_taken_and_those_taken_are_kept(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        before = site.event(stream, "before")
        await first.accept(before)
        with closing(sqlite3.connect(site.index)) as db:
            db.execute("BEGIN IMMEDIATE")  # nobody else can write for as long
            one = site.event(stream, "k")
            assert await first.accept(one) == [appended(one)]
            refused = 0
            async with asyncio.timeout(AT_ONCE_S * 2):
                while not refused:
                    try:
                        await first.accept(site.event(stream, f"{uuid.uuid4()}"))
                    except LogUnavailable as error:
                        assert "cannot be written" in str(error)  # noqa: PT017  # other refusals are wrong
                        refused += 1
            for again in (before, one):  # what is taken is answered by the index, or from memory
                assert await first.acceptor.find(again.dedup_key or b"", again.payload_hash) == replayed(
                    again
                )
            db.execute("ROLLBACK")
        async with asyncio.timeout(AT_ONCE_S * 2):
            while True:
                try:
                    assert await first.accept(site.event(stream, "k")) == [replayed(one)]
                except LogUnavailable:
                    await asyncio.sleep(0)
                    continue
                break
    async with site.gateway() as second:
        assert await second.accept(site.event(stream, "k")) == [replayed(one)]
