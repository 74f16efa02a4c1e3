"""What every adapter of the `Log` port promises: appends, topics, offsets, retention, the end."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from atlas.core.errors import LogUnavailable, OffsetOutOfRange, UnknownTopic
from atlas.ports.log import NewRecord, TopicPartition
from tests.conformance.log_deployments import (
    AT_ONCE_S,
    Deployment,
    numbered,
    on_every_log,
    read_all,
    records,
    values,
)

#: More than any adapter puts into one row, request or read.
MANY = 2_500


# --- append


@on_every_log
async def test_append_returns_the_offset_of_the_first_record(d: Deployment) -> None:
    topic = await d.topic()
    assert await d.log.append(topic, 0, records("a", "b", "c")) == 0
    assert await d.log.append(topic, 0, records("d")) == 3
    assert values(await read_all(d.log, TopicPartition(topic, 0))) == [b"a", b"b", b"c", b"d"]


@on_every_log
async def test_records_come_back_as_they_were_from_memory_and_from_disk(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    sent = [
        NewRecord(b"value", b"key", (("atlas-schema", b"event.1"), ("traceparent", b"\x00\xff"))),
        NewRecord(b""),
        NewRecord(None, b"tombstone"),
        NewRecord(bytes(range(256)) * 1_200, b""),  # over 256 KiB
        NewRecord("\N{SNOWMAN}".encode(), None, (("\N{SNOWMAN}", b""), ("twice", b"1"), ("twice", b"2"))),
    ]
    await d.log.append(topic, 0, sent)
    fresh = await read_all(d.log, source)
    await d.reopen()
    stored = await read_all(d.log, source)
    assert stored == fresh
    assert [NewRecord(record.value, record.key, record.headers) for record in stored] == sent
    assert [record.offset for record in stored] == [0, 1, 2, 3, 4]


@on_every_log
async def test_nothing_appended_is_nothing(d: Deployment) -> None:
    topic = await d.topic()
    await d.log.append(topic, 0, numbered(2))
    assert await d.log.append(topic, 0, []) == 2
    assert await d.log.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 2}


@on_every_log
async def test_a_big_append_stays_in_one_piece_beside_others(d: Deployment) -> None:
    topic = await d.topic()

    async def others() -> None:
        for _ in range(20):
            await d.log.append(topic, 0, records("other"))

    first, *_ = await asyncio.gather(d.log.append(topic, 0, numbered(MANY)), others(), others())
    found = values(await read_all(d.log, TopicPartition(topic, 0)))
    assert found[first : first + MANY] == [b"%d" % number for number in range(MANY)]
    assert found.count(b"other") == 40


@on_every_log
async def test_concurrent_appends_get_exact_offsets(d: Deployment) -> None:
    topic = await d.topic(3)
    chance = random.Random(7)
    landed: dict[TopicPartition, dict[int, bytes]] = {TopicPartition(topic, p): {} for p in range(3)}

    async def producer(name: int) -> None:
        for turn in range(20):
            partition, count = chance.randrange(3), chance.randrange(1, 30)
            own = [f"{name}/{turn}/{number}".encode() for number in range(count)]
            first = await d.log.append(topic, partition, records(*own))
            slots = landed[TopicPartition(topic, partition)]
            for offset, value in enumerate(own, first):
                assert slots.setdefault(offset, value) == value

    await asyncio.gather(*(producer(name) for name in range(16)))
    for _ in range(2):
        for source, slots in landed.items():
            assert sorted(slots) == list(range(len(slots)))
            assert {r.offset: r.value for r in await read_all(d.log, source)} == slots
        await d.reopen()


@on_every_log
async def test_appends_asked_for_in_turn_land_in_turn(d: Deployment) -> None:
    topic = await d.topic()
    offsets = await asyncio.gather(*(d.log.append(topic, 0, [record]) for record in numbered(100)))
    assert offsets == list(range(100))
    found = values(await read_all(d.log, TopicPartition(topic, 0)))
    assert found == [b"%d" % number for number in range(100)]


@on_every_log
async def test_an_append_whose_caller_gave_up_disturbs_no_other(d: Deployment) -> None:
    topic = await d.topic()
    gone = asyncio.create_task(d.log.append(topic, 0, records("gone")))
    await asyncio.sleep(0)
    gone.cancel()
    offset = await d.log.append(topic, 0, records("here"))
    found = await read_all(d.log, TopicPartition(topic, 0))
    assert found[offset].value == b"here"
    assert set(values(found)) <= {b"gone", b"here"}


@on_every_log
async def test_timestamps_are_of_the_append_and_never_fall(d: Deployment) -> None:
    topic = await d.topic()
    before = d.clock.now_ms()
    for _ in range(5):
        await d.log.append(topic, 0, numbered(2))
        await d.tick()
    found = [record.timestamp_ms for record in await read_all(d.log, TopicPartition(topic, 0))]
    assert before <= found[0]
    assert found[-1] <= d.clock.now_ms()
    assert all(earlier <= later for earlier, later in pairwise(found))
    assert found[0] < found[-1]


@on_every_log
async def test_an_unknown_topic_or_partition_is_refused(d: Deployment) -> None:
    topic = await d.topic(2)
    for name, partition in (("nobody", 0), (topic, 2), (topic, -1)):
        with pytest.raises(UnknownTopic):
            await d.log.append(name, partition, records("x"))
    assert set((await d.log.end_offsets(TopicPartition(topic, p) for p in range(2))).values()) == {0}


@on_every_log
async def test_the_log_says_that_it_takes_appends(d: Deployment) -> None:
    await d.log.check()


# --- topics and offsets


@on_every_log
async def test_creating_a_topic_again_keeps_what_it_holds(d: Deployment) -> None:
    topic = await d.topic(2)
    await d.log.append(topic, 1, records("kept"))
    await d.log.create_topic(topic, 2, 86_400_000)
    await asyncio.gather(*(d.log.create_topic(topic, 2, None) for _ in range(5)))
    assert await d.log.append(topic, 1, records("next")) == 1
    await d.reopen()
    await d.log.create_topic(topic, 2, 1)
    assert values(await read_all(d.log, TopicPartition(topic, 1))) == [b"kept", b"next"]


@on_every_log
async def test_a_topic_created_twice_at_once_is_one(d: Deployment) -> None:
    await asyncio.gather(*(d.log.create_topic("at-once", 1, None) for _ in range(8)))
    offsets = await asyncio.gather(*(d.log.append("at-once", 0, [record]) for record in numbered(8)))
    assert sorted(offsets) == list(range(8))


@on_every_log
async def test_offsets_of_unknown_partitions_are_left_out(d: Deployment) -> None:
    topic = await d.topic(2)
    await d.log.append(topic, 1, numbered(3))
    asked = [TopicPartition(topic, p) for p in range(3)] + [TopicPartition("nobody", 0)]
    assert await d.log.start_offsets(asked) == {asked[0]: 0, asked[1]: 0}
    assert await d.log.end_offsets(asked) == {asked[0]: 0, asked[1]: 3}


@on_every_log
async def test_fetch_reads_any_one_record(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(MANY))
    for _ in range(2):
        for offset in (0, 1, MANY // 2, MANY - 1):
            record = await d.log.fetch(source, offset)
            assert (record.offset, record.value) == (offset, b"%d" % offset)
        await d.reopen()


@on_every_log
async def test_fetch_outside_the_log_is_refused(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(10))
    await d.log.delete_records(source, 4)
    for offset in (-1, 0, 3, 10, 11):
        with pytest.raises(OffsetOutOfRange):
            await d.log.fetch(source, offset)
    assert (await d.log.fetch(source, 4)).value == b"4"


@on_every_log
async def test_offset_at_finds_the_first_record_as_young_as_that(d: Deployment) -> None:
    topic = await d.topic(2)
    source = TopicPartition(topic, 1)
    assert await d.log.offset_at(source, 0) == 0
    for turn in range(12):
        await d.log.append(topic, 1, numbered(1 + turn * 3 % 5))
        if turn % 3:
            await d.tick()
    end = (await d.log.end_offsets([source]))[source]
    for start in range(0, end, 2):
        await d.log.delete_records(source, start)
        found = await read_all(d.log, source, start)
        for time_ms in {record.timestamp_ms + step for record in found for step in (-1, 0, 1)}:
            young = [record.offset for record in found if record.timestamp_ms >= time_ms]
            assert await d.log.offset_at(source, time_ms) == (young[0] if young else end)


# --- retention


@on_every_log
async def test_records_deleted_are_gone_and_the_others_stay(d: Deployment) -> None:
    topic = await d.topic(2)
    source, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for partition in range(2):
        for first in range(0, 100, 10):
            await d.log.append(topic, partition, numbered(10, first))
    for before in (7, 3, 50):  # within a batch, back again, at the edge of one
        await d.log.delete_records(source, before)
    for _ in range(2):
        assert await d.log.start_offsets([source, other]) == {source: 50, other: 0}
        assert [r.offset for r in await read_all(d.log, source, 50)] == list(range(50, 100))
        assert len(await read_all(d.log, other)) == 100
        await d.reopen()


@on_every_log
async def test_offsets_go_on_after_everything_was_deleted(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(10))
    await d.log.delete_records(source, 1_000)
    for _ in range(2):
        assert await d.log.start_offsets([source]) == await d.log.end_offsets([source]) == {source: 10}
        await d.reopen()
    assert await d.log.append(topic, 0, records("next")) == 10
    await d.log.delete_records(source, 11)
    await d.reopen()
    assert await d.log.append(topic, 0, records("last")) == 11
    assert values(await read_all(d.log, source, 11)) == [b"last"]


@on_every_log
async def test_times_do_not_fall_after_everything_was_deleted(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(1))
    newest = (await d.log.fetch(source, 0)).timestamp_ms
    await d.log.delete_records(source, 1)
    await d.reopen()
    await d.log.append(topic, 0, numbered(1))
    assert (await d.log.fetch(source, 1)).timestamp_ms >= newest


@on_every_log
async def test_deletions_at_once_leave_the_furthest_start(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(MANY))
    await asyncio.gather(*(d.log.delete_records(source, before) for before in (900, 2_000, 1_500, 10)))
    for _ in range(2):
        assert await d.log.start_offsets([source]) == {source: 2_000}
        await d.reopen()


# --- the end


@on_every_log
async def test_close_under_load_keeps_every_answer(d: Deployment) -> None:
    topic = await d.topic(2)
    answered: dict[tuple[int, int], bytes] = {}
    busy = asyncio.Event()

    async def producer(name: int) -> None:
        for turn in range(1_000_000):
            value = b"%d/%d" % (name, turn)
            try:
                offset = await d.log.append(topic, name % 2, records(value))
            except LogUnavailable:
                return
            answered[name % 2, offset] = value
            if len(answered) == 100:
                busy.set()

    producers = [asyncio.create_task(producer(name)) for name in range(8)]
    await busy.wait()
    async with asyncio.timeout(AT_ONCE_S):
        await asyncio.gather(d.log.close(), d.log.close())
        await asyncio.gather(*producers)
    await d.open()
    stored = {
        (partition, record.offset): record.value
        for partition in range(2)
        for record in await read_all(d.log, TopicPartition(topic, partition))
    }
    assert answered.items() <= stored.items()


@on_every_log
async def test_close_finishes_what_is_under_way(d: Deployment) -> None:
    topic = await d.topic(2)
    source = TopicPartition(topic, 1)
    await d.log.append(topic, 1, numbered(5))
    appends = [asyncio.create_task(d.log.append(topic, 0, [record])) for record in numbered(20)]
    others = [asyncio.create_task(d.log.committed("group", source)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(AT_ONCE_S):
        await d.log.close()
        assert sorted(await asyncio.gather(*appends)) == list(range(20))
        assert await asyncio.gather(*others) == [None] * 3


@on_every_log
async def test_a_closed_log_says_so(d: Deployment) -> None:
    topic = await d.topic()
    source = TopicPartition(topic, 0)
    await d.log.append(topic, 0, numbered(3))
    reader = d.log.reader()
    reader.assign({source: 3})
    waiting = asyncio.create_task(reader.poll(10, AT_ONCE_S * 6))
    await asyncio.sleep(0)
    await d.log.close()
    await d.log.close()
    for call in (
        waiting,
        d.log.append(topic, 0, records("late")),
        d.log.fetch(source, 0),
        d.log.end_offsets([source]),
        d.log.offset_at(source, 0),
        d.log.delete_records(source, 1),
        d.log.create_topic("late", 1, None),
        d.log.committed("group", source),
        d.log.join("group", topic),
        d.log.check(),
        reader.poll(10, 0),
    ):
        with pytest.raises(LogUnavailable):
            await call
