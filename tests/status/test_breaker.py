"""`next_attempt_at` of an event's routes while the circuit breaker of their target is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas.core.breaker import HALF_OPEN, OPEN
from atlas.core.facts import DeliveryAttempted, DeliveryParked, FactError
from atlas.core.murmur2 import partition_for
from tests.ingest.harness import LIVE, SHARDS
from tests.ingest.test_single import EVENT, RECEIVED_MS
from tests.status.harness import StatusInstallation, status_installation
from tests.virtual_time import VirtualClock, virtual_time

TARGET = "wf_billing_sync"
PLACE: dict[str, Any] = {"epoch": 0, "event_id": "", "topic": "", "offset": 0, "target": TARGET}
PARKED = DeliveryParked(**PLACE, reason="breaker", at_ms=RECEIVED_MS)
PROBE_MS = RECEIVED_MS + 30_000
PROBE_AT = "2026-05-18T14:22:41.482Z"


def retry(next_attempt_at_ms: int) -> DeliveryAttempted:
    return DeliveryAttempted(
        **PLACE,
        attempt=1,
        outcome="retry_scheduled",
        started_at_ms=RECEIVED_MS,
        completed_at_ms=RECEIVED_MS,
        duration_ms=0,
        next_attempt_at_ms=next_attempt_at_ms,
        error=FactError("upstream_status", "Target answered 503"),
    )


async def shown(atlas: StatusInstallation, event_id: str) -> dict[str, Any]:
    await atlas.projected()
    route: dict[str, Any] = (await atlas.get(event_id))["attempts"][0]
    return route


async def tell(atlas: StatusInstallation, shard: int, **fields: Any) -> None:
    target = atlas.atlas.registry.state.find_target(LIVE.scope, TARGET)
    assert target is not None
    about = {"state": OPEN, "revision": target.revision, "next_probe_at_ms": PROBE_MS}
    await atlas.tell(shard, TARGET, **{**about, **fields})


@virtual_time
async def test_a_parked_route_waits_for_the_probe(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as atlas:
        event_id = await atlas.accepted(EVENT)
        shard = partition_for(event_id.encode(), SHARDS)
        await tell(atlas, shard)
        assert "next_attempt_at" not in await shown(atlas, event_id), "its first attempt may be under way"
        await atlas.deliver(event_id, PARKED)
        parked = {"workflow_id": TARGET, "status": "queued", "attempt": 0}
        assert await shown(atlas, event_id) == {**parked, "next_attempt_at": PROBE_AT}
        await tell(atlas, shard, state=HALF_OPEN, next_probe_at_ms=None)
        assert await shown(atlas, event_id) == parked
        await tell(atlas, shard)
        await tell(atlas, shard, state="closed", next_probe_at_ms=None)
        assert await shown(atlas, event_id) == parked


@pytest.mark.parametrize(
    ("due_ms", "next_attempt_at"),
    [(PROBE_MS - 1, PROBE_AT), (PROBE_MS + 1, "2026-05-18T14:22:41.483Z")],
)
@virtual_time
async def test_a_retry_waits_for_its_time_and_for_the_probe(
    clock: VirtualClock, tmp_path: Path, due_ms: int, next_attempt_at: str
) -> None:
    async with status_installation(clock, tmp_path) as atlas:
        event_id = await atlas.accepted(EVENT)
        await atlas.deliver(event_id, retry(due_ms))
        await tell(atlas, partition_for(event_id.encode(), SHARDS))
        route = await shown(atlas, event_id)
        assert (route["status"], route["next_attempt_at"]) == ("retry_scheduled", next_attempt_at)


@pytest.mark.parametrize("why", ["another shard's", "of the target as it was", "of a claim that is over"])
@virtual_time
async def test_a_breaker_that_does_not_hold_for_the_route_says_nothing(
    clock: VirtualClock, tmp_path: Path, why: str
) -> None:
    async with status_installation(clock, tmp_path) as atlas:
        event_id = await atlas.accepted(EVENT)
        shard = partition_for(event_id.encode(), SHARDS)
        await atlas.deliver(event_id, PARKED)
        if why == "another shard's":
            await tell(atlas, (shard + 1) % SHARDS)
        elif why == "of the target as it was":
            await tell(atlas, shard, revision=0)
        else:
            await tell(atlas, shard, epoch=-1)
        assert "next_attempt_at" not in await shown(atlas, event_id)
