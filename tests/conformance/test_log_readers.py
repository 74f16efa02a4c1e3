"""What every adapter of the `Log` port promises to readers."""

from __future__ import annotations

import asyncio

import pytest

from atlas.core.errors import OffsetOutOfRange
from atlas.ports.log import TopicPartition
from tests.conformance.log_deployments import (
    AT_ONCE_S,
    SHORT_S,
    Deployment,
    drain,
    numbered,
    on_every_log,
    records,
    values,
)


@on_every_log
async def test_poll_returns_what_is_there(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(5))
    reader = d.log.reader()
    reader.assign({source: 2})
    [batch] = await reader.poll(100, AT_ONCE_S)
    assert (batch.source, batch.next_offset, batch.gap_from) == (source, 5, None)
    assert values(batch.records) == [b"2", b"3", b"4"]
    assert reader.position(source) == 5
    assert await reader.poll(100, 0) == []


@on_every_log
async def test_poll_with_nothing_to_read_ends_after_its_time(d: Deployment) -> None:
    topic = await d.topic()
    reader = d.log.reader()
    assert await reader.poll(1, SHORT_S) == []
    reader.assign({TopicPartition(topic, 0): 0})
    started_s = d.clock.monotonic_s()
    assert await reader.poll(1, SHORT_S) == []
    assert d.clock.monotonic_s() - started_s >= SHORT_S * 0.9  # timers have a resolution
    assert reader.position(TopicPartition(topic, 0)) == 0


@on_every_log
async def test_every_reader_is_woken_by_an_append(d: Deployment) -> None:
    topic = await d.topic(2)
    readers = [d.log.reader() for _ in range(3)]
    for reader in readers:
        reader.assign({TopicPartition(topic, p): 0 for p in range(2)})
    for partition in (1, 0):
        started_s = d.clock.monotonic_s()
        waiting = [asyncio.create_task(reader.poll(10, AT_ONCE_S * 5)) for reader in readers]
        await asyncio.sleep(0)
        await d.log.append(topic, partition, records("wake"))
        for [batch] in await asyncio.gather(*waiting):
            assert batch.source.partition == partition
            assert values(batch.records) == [b"wake"]
        assert d.clock.monotonic_s() - started_s < AT_ONCE_S


@on_every_log
async def test_an_answer_comes_with_the_record_visible(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    reader = d.log.reader()
    reader.assign({source: 0})
    for number in range(20):
        offset = await d.log.append(topic, 0, [numbered(1, number)[0]])
        assert await d.log.end_offsets([source]) == {source: offset + 1}
        assert (await d.log.fetch(source, offset)).value == b"%d" % number
        [batch] = await reader.poll(10, 0)
        assert [record.offset for record in batch.records] == [offset]


@on_every_log
async def test_polls_are_bounded_and_in_order(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    for first in range(0, 2_000, 40):
        await d.log.append(topic, 0, numbered(40, first))
    await d.reopen()
    for records_max in (1, 7, 333, 5_000):
        reader = d.log.reader()
        reader.assign({source: 1_500})
        expected = 1_500
        while batches := await reader.poll(records_max, 0):
            [batch] = batches
            assert 0 < len(batch.records) <= records_max
            assert [r.offset for r in batch.records] == list(range(expected, batch.next_offset))
            expected = batch.next_offset
        assert expected == 2_000
        await reader.close()


@on_every_log
async def test_partitions_take_turns(d: Deployment) -> None:
    topic = await d.topic(3)
    for partition, count in ((0, 500), (1, 1), (2, 40)):
        await d.log.append(topic, partition, numbered(count))
    await d.reopen()
    reader = d.log.reader()
    reader.assign({TopicPartition(topic, p): 0 for p in range(3)})
    seen: list[int] = []
    for turn in range(5):
        seen += [batch.source.partition for batch in await reader.poll(10, 0)]
        await d.log.append(topic, 0, numbered(20, 500 + turn * 20))  # never done with
    assert set(seen[:3]) == {0, 1, 2}
    assert seen.count(0) <= 3


@on_every_log
async def test_assign_moves_and_keeps_the_others(d: Deployment) -> None:
    topic = await d.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for partition in range(2):
        await d.log.append(topic, partition, numbered(4))
    reader = d.log.reader()
    reader.assign({first: 0, second: 0})
    await drain(reader)
    reader.assign({first: 3})
    assert (reader.position(first), reader.position(second)) == (3, 4)
    [batch] = await drain(reader)
    assert (batch.source, values(batch.records)) == (first, [b"3"])


@on_every_log
async def test_an_unassigned_partition_is_not_read(d: Deployment) -> None:
    topic = await d.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    reader = d.log.reader()
    reader.assign({first: 0, second: 0})
    reader.unassign([first, TopicPartition("nobody", 9)])
    for partition in range(2):
        await d.log.append(topic, partition, numbered(4))
    assert {batch.source for batch in await drain(reader)} == {second}
    with pytest.raises(KeyError):
        reader.position(first)


@on_every_log
async def test_a_move_during_a_poll_holds(d: Deployment) -> None:
    """The owner of a shard moves its reader while another task of its own waits in poll."""
    topic = await d.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for partition in range(2):
        await d.log.append(topic, partition, numbered(50))
    await d.reopen()  # so that a poll has to wait for the disk
    for turns in range(8):
        reader = d.log.reader()
        reader.assign({first: 20, second: 0})
        polling = asyncio.create_task(reader.poll(1_000, AT_ONCE_S))
        for _ in range(turns):
            await asyncio.sleep(0)
        if polling.done():
            break
        reader.assign({first: 10})
        reader.unassign([second])
        batches = await polling + await drain(reader)
        offsets = [record.offset for batch in batches for record in batch.records]
        assert {batch.source for batch in batches} == {first}
        assert offsets == list(range(10, 50))
        await reader.close()


@on_every_log
async def test_a_cancelled_poll_loses_nothing(d: Deployment) -> None:
    topic = await d.topic(2)
    for partition in range(2):
        await d.log.append(topic, partition, numbered(400))
    await d.reopen()
    reader = d.log.reader()
    reader.assign({TopicPartition(topic, p): 0 for p in range(2)})
    seen: dict[int, list[int]] = {0: [], 1: []}
    for turn in range(400):
        polling = asyncio.create_task(reader.poll(20, AT_ONCE_S))
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        polling.cancel()
        [result] = await asyncio.gather(polling, return_exceptions=True)
        if not isinstance(result, BaseException):
            for batch in result:
                seen[batch.source.partition] += [record.offset for record in batch.records]
    for batch in await drain(reader):
        seen[batch.source.partition] += [record.offset for record in batch.records]
    assert seen == {0: list(range(400)), 1: list(range(400))}


@on_every_log
async def test_a_reader_overtaken_by_retention_is_told_once(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(100))
    behind, ahead = d.log.reader(), d.log.reader()
    behind.assign({source: 10})
    ahead.assign({source: 80})
    await d.log.delete_records(source, 60)
    [first, *later] = await drain(behind, 15)
    assert (first.gap_from, first.records[0].offset, first.next_offset) == (10, 60, 75)
    assert [batch.gap_from for batch in later] == [None] * len(later)
    assert all(batch.gap_from is None for batch in await drain(ahead))


@on_every_log
async def test_a_gap_up_to_the_end_is_told_without_records(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(10))
    await d.log.delete_records(source, 10)
    reader, at_the_end = d.log.reader(), d.log.reader()
    reader.assign({source: 4})
    at_the_end.assign({source: 10})
    [batch] = await reader.poll(10, AT_ONCE_S)
    assert (list(batch.records), batch.gap_from, batch.next_offset) == ([], 4, 10)
    assert await at_the_end.poll(10, 0) == []
    await d.log.append(topic, 0, records("next"))
    for one in (reader, at_the_end):
        [batch] = await one.poll(10, AT_ONCE_S)
        assert (batch.gap_from, values(batch.records)) == (None, [b"next"])


@on_every_log
async def test_retention_during_polls_shows_every_record_or_a_gap(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    for first in range(0, 3_000, 30):
        await d.log.append(topic, 0, numbered(30, first))
    await d.reopen()
    reader = d.log.reader()
    reader.assign({source: 0})

    async def trim() -> None:
        for before in range(0, 2_900, 100):
            await d.log.delete_records(source, before)

    trimming = asyncio.create_task(trim())
    expected = 0
    while expected < 3_000:
        for batch in await reader.poll(50, AT_ONCE_S):
            offsets = [record.offset for record in batch.records]
            skipped = offsets[0] if offsets else batch.next_offset
            assert batch.gap_from == (expected if skipped > expected else None)
            assert offsets == list(range(skipped, batch.next_offset))
            expected = batch.next_offset
    await trimming


@on_every_log
async def test_a_position_beyond_the_end_is_told_and_others_are_read(d: Deployment) -> None:
    topic = await d.topic(2)
    beyond, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await d.log.append(topic, 0, numbered(3))
    await d.log.append(topic, 1, numbered(2))
    reader = d.log.reader()
    reader.assign({beyond: 4})
    with pytest.raises(OffsetOutOfRange):
        await reader.poll(10, AT_ONCE_S)
    reader.assign({beyond: 3, other: 0})
    [batch] = await reader.poll(10, AT_ONCE_S)
    assert (batch.source, values(batch.records)) == (other, [b"0", b"1"])
    await d.log.append(topic, 0, numbered(1, 3))
    [batch] = await reader.poll(10, AT_ONCE_S)
    assert (batch.source, values(batch.records)) == (beyond, [b"3"])
    await reader.close()
