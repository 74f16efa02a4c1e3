"""Faults of deliverers: killed at the worst moment, paused past their session, and their group in a storm."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from tests.invariants_history import Arrival
from tests.kafka.faults.scenario import Act, Plan, Scenario
from tests.kafka.faults.site import HEALS_WITHIN_S, Site, until
from tests.kafka.installation import READY_MAX_S, SHARDS, Node

_GROUP: Final = "atlas-deliverer"
_LIFECYCLE: Final = "atlas.lifecycle"
#: Of the storm's members: they must be gone when the storm is.
_SESSION_MS: Final = 6_000
_HEARTBEAT_MS: Final = 500
_STORM_EVERY_S: Final = 1.0


async def _killed_before_the_outcome(act: Act) -> None:
    """The receiver kills it when it has the whole request and has answered nothing."""
    for _ in range(act.plan.times):
        await act.accepted()
        [deliverer] = act.site.deliverers
        cut = await _kill_on_request(act.site, deliverer)
        await act.site.kill(deliverer)
        await act.site.start("deliverer")
        act.lifted()
        await act.recovered()
        await _made_again(act, cut)


async def _made_again(act: Act, cut: Arrival) -> None:
    """The attempt that was cut off comes once more, under its number and id."""
    attempt = (cut.event_id, cut.target, cut.attempt)
    ids: list[str] = []

    async def came() -> bool:
        arrivals = act.site.receiver.arrivals
        ids[:] = [a.delivery_id for a in arrivals if (a.event_id, a.target, a.attempt) == attempt]
        return len(ids) > 1

    await until(came, "the attempt cut off is made again", HEALS_WITHIN_S)
    act.expect(set(ids) == {cut.delivery_id}, f"the attempt cut off was made again under another id: {ids}")


async def _kill_on_request(site: Site, deliverer: Node) -> Arrival:
    """Kill it within its next request; returns that."""
    cut: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()

    def kill(arrival: Arrival) -> None:
        if not cut.done():
            os.kill(deliverer.process.pid, signal.SIGKILL)
            cut.set_result(arrival)

    site.receiver.on_request = kill
    async with asyncio.timeout(READY_MAX_S):
        return await cut


async def _two(act: Act) -> None:
    """One killed, the other paused past its session while a third takes all over, then woken."""
    site = act.site
    for _ in range(act.plan.times):
        first = site.deliverers[0]
        second = await site.start("deliverer")
        await site.claimed(second, SHARDS // 2)
        await act.accepted()
        second.pause()
        await site.kill(first)
        site.deliverers.remove(second)  # nobody asks it whether it is ready
        third = await site.start("deliverer")
        await site.claimed(third)
        await act.accepted()
        second.resume()
        site.deliverers.append(second)
        act.lifted()
        await act.recovered()
        await site.claimed(second, SHARDS // 2 + 1)  # it has shards again
        await site.stop(second)


async def _storm(act: Act) -> None:
    """Members that do nothing come and go, every second; what they hold meanwhile nobody delivers."""
    await act.accepted()
    claims = act.site.deliverers[0].claims()
    async with asyncio.timeout(act.plan.lasts_s + READY_MAX_S):
        deadline_s = asyncio.get_running_loop().time() + act.plan.lasts_s
        joined = 0
        while asyncio.get_running_loop().time() < deadline_s:
            await _come_and_go(act.site.broker.bootstrap())
            joined += 1
    act.lifted()
    act.more.append(("storm", f"{joined} members came and went"))
    act.more.append(("claims", f"{act.site.deliverers[0].claims() - claims}"))
    await act.recovered()


async def _come_and_go(bootstrap: str) -> None:
    member = AIOKafkaConsumer(
        _LIFECYCLE,
        bootstrap_servers=bootstrap,
        group_id=_GROUP,
        enable_auto_commit=False,
        session_timeout_ms=_SESSION_MS,
        heartbeat_interval_ms=_HEARTBEAT_MS,
        partition_assignment_strategy=[type("Sticky", (StickyPartitionAssignor,), {})],
    )
    starting = asyncio.create_task(member.start())
    try:
        await asyncio.wait([starting], timeout=_STORM_EVERY_S)
        await asyncio.sleep(_STORM_EVERY_S / 2)
    finally:
        await asyncio.wait([starting])
        await member.stop()
    starting.result()


KILLED: Final = Scenario(
    name="deliverer-killed",
    about="the deliverer is killed (-9) between an HTTP call and its outcome's fact",
    carry_out=_killed_before_the_outcome,
    full=Plan(times=5, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
TWO: Final = Scenario(
    name="two-deliverers",
    about="of two deliverers one is killed (-9), the other paused past its session and woken",
    carry_out=_two,
    full=Plan(times=3, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
STORM: Final = Scenario(
    name="rebalance-storm",
    about="members of the deliverers' group come and go every second",
    carry_out=_storm,
    full=Plan(lasts_s=60.0, events=300),
    short=Plan(lasts_s=4.0, events=50),
    recovers_within_s=30.0,
)
