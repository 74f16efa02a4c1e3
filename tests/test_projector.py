"""The projector against whatever a topic can hold: nothing stops it, nothing foreign gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from atlas.core.facts import (
    EVENT_SCHEMA,
    FENCE_SCHEMA,
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    DeliveryAttempted,
    DeliveryClosed,
    encode,
)
from atlas.core.ids import id_time_ms
from atlas.core.timestamps import format_ms
from atlas.ports.log import NewRecord, TopicPartition
from consumers.projector import Projector
from tests.simulation import SCOPE, Simulation, answer_down
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time

EVENT_HEADERS = ((SCHEMA_HEADER, EVENT_SCHEMA),)
FACT_HEADERS = ((SCHEMA_HEADER, LIFECYCLE_SCHEMA),)
EVENT_ID = "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
RECEIVED_AT = format_ms(id_time_ms(EVENT_ID))


def event(**changes: Any) -> bytes:
    return orjson.dumps(
        {
            "id": EVENT_ID,
            "workspace_id": SCOPE[0],
            "environment": SCOPE[1],
            "stream": "orders",
            "type": "foreign.event",
            "occurred_at": "2026-01-01T00:00:00Z",
            "received_at": RECEIVED_AT,
            "data": {},
            "actor": None,
            "metadata": None,
            "ordering_key": None,
            "idempotency_key": None,
            "payload_hash": None,
            "routes": [],
            "control_offset": 0,
        }
        | changes
    )


#: As `atlas.adapters.kafka_fence` writes it.
FENCE = NewRecord(b'{"type":"log.fence"}', b"fence", ((SCHEMA_HEADER, FENCE_SCHEMA),))

POISON_EVENTS = [
    pytest.param(NewRecord(None, b"k", EVENT_HEADERS), id="tombstone"),
    pytest.param(NewRecord(b"", None, EVENT_HEADERS), id="empty"),
    pytest.param(NewRecord(b"\xff\xfe not json", None, EVENT_HEADERS), id="not UTF-8"),
    pytest.param(NewRecord(b"[1, 2]", None, EVENT_HEADERS), id="not an object"),
    pytest.param(NewRecord(event(), None), id="no schema header"),
    pytest.param(NewRecord(event(), None, ((SCHEMA_HEADER, b"atlas.event/2"),)), id="a future version"),
    pytest.param(NewRecord(event(workspace_id="ws_other"), None, EVENT_HEADERS), id="another workspace"),
    pytest.param(NewRecord(event(environment="test"), None, EVENT_HEADERS), id="another environment"),
    pytest.param(NewRecord(event(stream="other"), None, EVENT_HEADERS), id="another stream"),
    pytest.param(NewRecord(event(id="evt_short"), None, EVENT_HEADERS), id="malformed id"),
    pytest.param(NewRecord(event(received_at="yesterday"), None, EVENT_HEADERS), id="malformed time"),
    pytest.param(
        NewRecord(event(received_at="2026-01-01T00:00:00.000Z"), None, EVENT_HEADERS), id="other time"
    ),
    pytest.param(NewRecord(event(id="evt_7" + "Z" * 25), None, EVENT_HEADERS), id="a year past 9999"),
    pytest.param(NewRecord(event(control_offset="x"), None, EVENT_HEADERS), id="wrong type"),
    pytest.param(NewRecord(event(metadata={"a": 1}), None, EVENT_HEADERS), id="wrong nested type"),
    pytest.param(NewRecord(b"[" * 100_000, None, EVENT_HEADERS), id="deep"),
]


@pytest.mark.parametrize("record", POISON_EVENTS)
def test_poison_on_an_event_topic_is_quarantined_and_passed(record: NewRecord, tmp_path: Path) -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with Simulation(clock, tmp_path) as sim:
            await sim.workflow("wf_a")
            stream = await sim.stream("orders", ["wf_a"])
            sim.process()
            await pass_time(1)
            for shard in range(sim.shards):
                await sim.log.append(stream.topic, shard, [record])
            ids = await sim.accept("orders", 10)
            await sim.until_status(ids, "delivered", 10)
            assert await sim.read_model.get((*SCOPE, EVENT_ID)) is None
            assert (await sim.read_model.counts())["quarantine"] == sim.shards
            assert sim.metrics.registry.get_sample_value(
                "atlas_quarantined_records_total", {"consumer": "atlas-projector"}
            ) == float(sim.shards)
            assert {sent.event_id for sent in sim.sender.sent} == set(ids)
            assert all(status.restarts == 0 for status in sim.supervisor.statuses())

    run_virtual(scenario)


@virtual_time
async def test_a_fence_between_events_is_nothing_to_readers(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        stream = await sim.stream("orders", ["wf_a"])
        sim.process()
        await pass_time(1)
        for shard in range(sim.shards):
            await sim.log.append(stream.topic, shard, [FENCE])
        ids = await sim.accept("orders", 10)
        await sim.until_status(ids, "delivered", 10)
        assert (await sim.read_model.counts())["quarantine"] == 0
        for consumer in ("atlas-projector", "atlas-deliverer"):
            value = sim.metrics.registry.get_sample_value(
                "atlas_quarantined_records_total", {"consumer": consumer}
            )
            assert not value


def attempted(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "epoch": 0,
        "event_id": EVENT_ID,
        "topic": "atlas.live.ws_sim.orders",
        "offset": 0,
        "target": "wf_a",
        "attempt": 1,
        "outcome": "delivered",
        "started_at_ms": 1,
        "completed_at_ms": 1,
        "duration_ms": 0,
    } | changes
    return encode(DeliveryAttempted(**fields))


FOREIGN_FACTS = [
    pytest.param(lambda offset: NewRecord(None, None, FACT_HEADERS), id="tombstone"),
    pytest.param(lambda offset: NewRecord(b"{}", None, FACT_HEADERS), id="no fact"),
    pytest.param(lambda offset: NewRecord(b'{"fact":"from.the.future"}', None, FACT_HEADERS), id="unknown"),
    pytest.param(lambda offset: NewRecord(attempted(), None), id="no schema header"),
    pytest.param(lambda offset: NewRecord(attempted(epoch=2**53), None, FACT_HEADERS), id="a bogus epoch"),
    pytest.param(
        lambda offset: NewRecord(attempted(topic="no.such.topic"), None, FACT_HEADERS), id="no topic"
    ),
    pytest.param(lambda offset: NewRecord(attempted(offset=10**9), None, FACT_HEADERS), id="far ahead"),
    pytest.param(lambda offset: NewRecord(attempted(), None, FACT_HEADERS), id="no such event"),
    pytest.param(
        lambda offset: NewRecord(attempted(topic="atlas.control"), None, FACT_HEADERS), id="the control topic"
    ),
    pytest.param(
        lambda offset: NewRecord(attempted(topic="atlas.lifecycle", offset=3), None, FACT_HEADERS),
        id="a fact about a fact to come",
    ),
    pytest.param(
        lambda offset: NewRecord(attempted().replace(b'"attempt":1', b'"attempt":99999999999999999999'), None,
                                 FACT_HEADERS),
        id="a number no store holds",
    ),
]  # fmt: skip


@pytest.mark.parametrize("make", FOREIGN_FACTS)
def test_foreign_facts_change_nothing_and_stop_nobody(
    make: Callable[[int], NewRecord], tmp_path: Path
) -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with Simulation(clock, tmp_path) as sim:
            await sim.workflow("wf_a")
            await sim.stream("orders", ["wf_a"])
            sim.process()
            await pass_time(1)
            for shard in range(sim.shards):
                await sim.log.append(LIFECYCLE_TOPIC, shard, [make(0)])
            ids = await sim.accept("orders", 10)
            await sim.until_status(ids, "delivered", 10)
            assert len(sim.sender.sent) == len(ids)
            assert all(status.restarts == 0 for status in sim.supervisor.statuses())
            await check_rebuild(sim)

    run_virtual(scenario)


@virtual_time
async def test_the_first_record_of_an_id_stays(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        stream = await sim.stream("orders", ["wf_a"])
        sim.process()
        await pass_time(1)
        first = NewRecord(event(type="the.first", routes=["wf_a"]), None, EVENT_HEADERS)
        second = NewRecord(event(type="the.second", routes=["wf_a"]), None, EVENT_HEADERS)
        await sim.log.append(stream.topic, 0, [first])
        await sim.until_status([EVENT_ID], "delivered", 10)
        await sim.log.append(stream.topic, 0, [second, first])
        await pass_time(5)
        assert (await sim.event(EVENT_ID)).type == "the.first"
        assert len(sim.sender.sent) == 1
        await check_rebuild(sim)


@virtual_time
async def test_retention_closes_what_is_open_and_both_sides_forget(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=(86_400,) * 5)
        sim.sender.targets["http://wf_a"] = answer_down
        stream = await sim.stream("orders", ["wf_a"], retention_days=1)
        await sim.stream("kept", ["wf_a"], retention_days=3)
        sim.process()
        old = await sim.accept("orders", 5)
        kept = await sim.accept("kept", 5)
        await pass_time(86_400 + 200)
        new = await sim.accept("orders", 5)
        await sim.folded()
        for event_id in old:
            assert await sim.read_model.get((*SCOPE, event_id)) is None
        for event_id in [*kept, *new]:
            assert await sim.read_model.get((*SCOPE, event_id)) is not None
        sources = [TopicPartition(stream.topic, shard) for shard in range(sim.shards)]
        starts = await sim.log.start_offsets(sources)
        assert sum(starts.values()) == len(old)
        facts = await sim.every_fact()
        closed = {
            fact.event_id
            for fact in facts
            if isinstance(fact, DeliveryClosed) and fact.error.code == "payload_expired"
        }
        assert closed <= set(old)
        assert closed | {s.event_id for s in sim.sender.sent if s.attempt > 1} >= set(old)
        await check_rebuild(sim)


@virtual_time
async def test_projectors_of_a_group_share_the_shards(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path, shards=4) as sim:
        await sim.supervisor.stop("projector")
        for name in ("one", "two"):
            projector = Projector(sim.log, sim.read_model, sim.registry, clock, sim.metrics, alone=False)
            sim.supervisor.start(name, projector.run)
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        ids = await sim.accept("orders", 40)
        await sim.until_status(ids, "delivered", 60)
        await sim.supervisor.stop("one")
        ids = await sim.accept("orders", 40)
        await sim.until_status(ids, "delivered", 60)
        assert all(status.restarts == 0 for status in sim.supervisor.statuses())
        await sim.supervisor.stop("two")
        await check_rebuild(sim)
