"""Replays of events whose payload, or whose whole record, is past retention; and of what nobody can show."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from atlas.core.errors import ApiError, Unavailable
from atlas.core.facts import LIFECYCLE_TOPIC, DeliveryAttempted, event_topic
from atlas.core.murmur2 import partition_for
from atlas.gateway.call import Reply
from atlas.ports.log import TopicPartition
from atlas.status.replays import EventReplays
from tests.ingest.harness import LIVE, SHARDS, FakeCall
from tests.ingest.test_single import EVENT
from tests.status.harness import StatusInstallation, status_installation
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DAY_S = 86_400.0


async def delivered(status: StatusInstallation) -> str:
    """The id of an event, all of whose routes have ended."""
    event_id = await status.accepted(EVENT)
    now_ms = status.atlas.clock.now_ms()
    fact = DeliveryAttempted(
        epoch=0,
        event_id="",
        topic="",
        offset=0,
        target="wf_billing_sync",
        attempt=1,
        outcome="delivered",
        started_at_ms=now_ms,
        completed_at_ms=now_ms,
        duration_ms=0,
    )
    await status.deliver(event_id, fact, replace(fact, target="wf_search_index"))
    await status.projected()
    return event_id


async def ask(status: StatusInstallation, event_id: str) -> Reply:
    """What the API does."""
    handler = EventReplays(status.atlas.services, status.handlers)
    return await handler.replay(FakeCall(path_params={"event_id": event_id}))


async def lifecycle_end(status: StatusInstallation) -> int:
    sources = [TopicPartition(LIFECYCLE_TOPIC, shard) for shard in range(SHARDS)]
    return sum((await status.atlas.log.end_offsets(sources)).values())


@virtual_time
async def test_a_payload_that_the_log_dropped(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await delivered(status)
        topic = event_topic(LIVE.key.environment, LIVE.key.workspace_id, "orders-prod")
        source = TopicPartition(topic, partition_for(event_id.encode(), SHARDS))
        await status.atlas.log.delete_records(source, 1)
        before = await lifecycle_end(status)
        with pytest.raises(ApiError) as refused:
            await ask(status, event_id)
        assert (refused.value.code, refused.value.status) == ("payload_expired", 410)
        assert await lifecycle_end(status) == before, "nothing was asked for"


@virtual_time
async def test_an_event_past_retention_is_not_there(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await delivered(status)
        await status.atlas.retain("orders-prod", 1)
        await pass_time(DAY_S)
        with pytest.raises(ApiError) as refused:
            await ask(status, event_id)
        assert (refused.value.code, refused.value.status) == ("event_not_found", 404)


@virtual_time
async def test_a_replay_that_cannot_be_shown_yet_was_asked_for(clock: VirtualClock, tmp_path: Path) -> None:
    """The projector is away: 503 and not 202, and what was asked for happens when it is back."""
    async with status_installation(clock, tmp_path) as status:
        event_id = await delivered(status)
        await status.stop_projecting()
        before = await lifecycle_end(status)
        with pytest.raises(Unavailable):
            await ask(status, event_id)
        assert await lifecycle_end(status) == before + 1
        status.project()
        await status.projected()
        assert (await status.get(event_id))["status"] == "processing"
