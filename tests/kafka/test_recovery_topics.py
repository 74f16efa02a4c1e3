"""Topics that are not there, are made late, or made anew, and the idempotency index: on a real broker."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from atlas.adapters.kafka_standing import WRITE_POSITIONS_EVERY_S
from atlas.core.entities import Stream
from atlas.core.errors import LogError, LogUnavailable
from atlas.core.facts import FENCE_SCHEMA, SCHEMA_HEADER
from atlas.ports.log import TopicPartition
from tests.conformance.log_deployments import AT_ONCE_S, read_all
from tests.conformance.test_acceptor import appended, replayed
from tests.kafka.events import stream_named, write_down
from tests.kafka.test_recovery import SHARDS, Gateway, Site, accept_unkeyed
from tests.kafka_broker import shared_broker


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_topic_made_anew_begins_at_its_start(site: Site) -> None:
    """Positions and what is known of ends come down with it: keys above a position would be lost."""
    admin = AIOKafkaAdminClient(bootstrap_servers=shared_broker())
    async with site.gateway() as first:
        stream = await site.stream(first)
        for _ in range(9):
            await first.accept(*(site.event(stream, None, n) for n in range(1_000)))
        await _positions(site, first, stream)
        await admin.start()
        await admin.delete_topics([stream.topic])
        await admin.close()
        await _made_again(first, stream)
        await accept_unkeyed(first, site, stream)
        positions = await _positions(site, first, stream)
        ends = await first.log.end_offsets(positions)
        assert all(positions[source] <= end for source, end in ends.items())
        new = [site.event(stream, f"new{n}", n) for n in range(30)]
        assert await first.accept(*new) == [appended(one) for one in new]
        site.copy()
    site.put_back()  # as after a kill -9
    async with site.gateway() as second:
        again = [site.event(stream, f"new{n}", n) for n in range(30)]
        assert await second.accept(*again) == [replayed(one) for one in new]


async def _positions(site: Site, gateway: Gateway, stream: Stream) -> dict[TopicPartition, int]:
    """Those in the file, once they are written: while something is appended, every second."""
    ends_s = asyncio.get_running_loop().time() + WRITE_POSITIONS_EVERY_S * 1.5
    while asyncio.get_running_loop().time() < ends_s:
        await accept_unkeyed(gateway, site, stream)
    with closing(sqlite3.connect(site.index)) as db:
        rows = db.execute("SELECT topic, partition, next_offset FROM position").fetchall()
    return {TopicPartition(*row[:2]): row[2] for row in rows}


async def _made_again(gateway: Gateway, stream: Stream) -> None:
    async with asyncio.timeout(AT_ONCE_S):
        while True:  # brokers forget a topic a little later
            with suppress(LogError):
                await gateway.log.create_topic(stream.topic, SHARDS, None)
                sources = [TopicPartition(stream.topic, shard) for shard in range(SHARDS)]
                if set((await gateway.log.end_offsets(sources)).values()) == {0}:
                    return
            await asyncio.sleep(0)


async def test_a_stream_whose_topic_is_made_late_is_dealt_with_then(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        one = site.event(stream, "k")
        await first.accept(one)
        late = stream_named(site.scope[0], "late")
        await write_down(first.control, late)
        async with site.gateway(site.directory / "other.db") as second:
            assert second.acceptor.not_ready() is None
            assert await second.accept(site.event(stream, "k")) == [replayed(one)]
            await second.log.create_topic(late.topic, SHARDS, None)
            keyed = site.event(late, "late")
            async with asyncio.timeout(AT_ONCE_S):
                while True:
                    try:
                        assert await second.accept(keyed) == [appended(keyed)]
                    except LogUnavailable as error:
                        assert "being shut out" in str(error)  # noqa: PT017  # other refusals are wrong
                        await asyncio.sleep(0)
                        continue
                    break
            sources = [TopicPartition(late.topic, shard) for shard in range(SHARDS)]
            found = [record for source in sources for record in await read_all(second.log, source)]
            fences = [record for record in found if (SCHEMA_HEADER, FENCE_SCHEMA) in record.headers]
            assert len(fences) == SHARDS


async def test_a_topic_made_late_is_owed_across_a_restart(site: Site) -> None:
    async with site.gateway() as first:
        stream = await site.stream(first)
        await first.accept(site.event(stream, "k"))
        sender = first.log.producer.current
        late = stream_named(site.scope[0], "late")
        await write_down(first.control, late)
        keyed = site.event(late, "late")
        source = TopicPartition(late.topic, keyed.partition)
        index = site.directory / "other.db"
        async with site.gateway(index) as second:
            assert second.acceptor.not_ready() is None
        await first.log.create_topic(late.topic, SHARDS, None)
        async with site.gateway(index) as third:
            assert third.acceptor.not_ready() is None
            with pytest.raises(LogUnavailable):  # as if it had been held on the wire until now
                await first.log.producer.submit(source, [keyed.record], sender)
            assert await third.accept(keyed) == [appended(keyed)]
