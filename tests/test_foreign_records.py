"""What foreign clients write to our topics decides nothing: facts of a later version, copies of records."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    SHARD_KEY,
    DeliveryClosed,
    FactError,
    ShardClaimed,
    decode_event,
    encode,
)
from atlas.ports.log import NewRecord, TopicPartition
from atlas.runtime.copies import LATE_MS, FirstRecords
from tests.simulation import Simulation, answer_down, answer_ok
from tests.virtual_time import VirtualClock, pass_time, virtual_time

#: Of a version that there is not yet.
LATER = ((SCHEMA_HEADER, b"atlas.lifecycle/2"),)


@virtual_time
async def test_a_fact_of_a_later_version_decides_nothing_at_a_takeover(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        first = sim.process()
        await sim.until_status(await sim.accept("orders", 1), "delivered")
        await first.kill()
        [event_id] = await sim.accept("orders", 1)
        await sim.folded()
        [epoch] = [offset for offset, fact in (await sim.facts())[0] if isinstance(fact, ShardClaimed)]
        state = await sim.event(event_id)
        closed = DeliveryClosed(
            epoch=epoch,
            event_id=event_id,
            topic=state.topic,
            offset=state.offset,
            target="wf_a",
            error=FactError(code="target_deleted", message="The target was deleted."),
            at_ms=clock.now_ms(),
        )
        await sim.log.append(LIFECYCLE_TOPIC, 0, [NewRecord(encode(closed), event_id.encode(), LATER)])
        sim.process()
        await sim.until_status([event_id], "delivered")


@virtual_time
async def test_a_claim_of_a_later_version_takes_no_shard_away(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        await sim.until_status(await sim.accept("orders", 1), "delivered")
        claim = ShardClaimed(owner="another", at_ms=clock.now_ms())
        await sim.log.append(LIFECYCLE_TOPIC, 0, [NewRecord(encode(claim), SHARD_KEY, LATER)])
        await pass_time(5)
        records = await sim.records(TopicPartition(LIFECYCLE_TOPIC, 0))
        claims = [
            each for each in records if each.key == SHARD_KEY and b"shard.claimed" in (each.value or b"")
        ]
        assert len(claims) == 2, "its own first one, and the foreign one"


@virtual_time
async def test_a_copy_above_the_checkpoint_does_not_disturb_the_route_of_the_first(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(30, 30, 30))
        sim.sender.targets["http://wf_a"] = answer_down
        stream = await sim.stream("orders", ["wf_a"])
        first = sim.process()
        [event_id] = await sim.accept("orders", 1)
        await sim.until_status([event_id], "retried")
        await pass_time(5)
        await first.kill()
        [record] = await sim.records(TopicPartition(stream.topic, 0))
        await sim.log.append(stream.topic, 0, [NewRecord(record.value, record.key, record.headers)])
        sim.process()
        await pass_time(40)
        sim.sender.targets["http://wf_a"] = answer_ok
        await sim.until_status([event_id], "delivered")
        made = [sent.attempt for sent in sim.sender.sent]
        assert made == list(range(1, len(made) + 1))


@virtual_time
async def test_a_copy_of_what_was_read_too_long_ago_to_remember_is_known_by_its_age(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        stream = await sim.stream("orders", [])
        [event_id] = await sim.accept("orders", 1)
        await sim.folded()
        source = TopicPartition(stream.topic, 0)
        [record] = await sim.records(source)
        event = decode_event(record.value or b"")
        late = replace(record, offset=record.offset + 1, timestamp_ms=record.timestamp_ms + LATE_MS + 1)
        knows_nothing = FirstRecords(sim.read_model, 0, since_ms=0)
        await knows_nothing.learn([(late, event)])
        assert not knows_nothing.is_first(event_id, stream.topic, late.offset)
        first = replace(late, offset=record.offset)
        knows_nothing = FirstRecords(sim.read_model, 0, since_ms=0)
        await knows_nothing.learn([(first, event)])
        assert knows_nothing.is_first(event_id, stream.topic, first.offset), "late, yet the first"


@virtual_time
async def test_first_attempts_do_not_wait_for_a_store_that_is_away(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path, shards=1) as sim:
        stream = await sim.stream("orders", [])
        [event_id] = await sim.accept("orders", 1)
        [record] = await sim.records(TopicPartition(stream.topic, 0))
        await sim.read_model.close()
        firsts = FirstRecords(sim.read_model, 0, since_ms=clock.now_ms() + 1)
        await firsts.learn([(record, decode_event(record.value or b""))])
        assert firsts.is_first(event_id, stream.topic, record.offset)
