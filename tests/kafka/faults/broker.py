"""Faults of the broker: killed and started again, paused."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.kafka.faults.scenario import Act, Plan, Scenario


async def _killed(act: Act) -> None:
    broker = act.site.broker
    for _ in range(act.plan.times):
        await act.accepted()
        await act.site.read()
        await asyncio.to_thread(broker.kill)
        await act.last()
        await asyncio.to_thread(broker.start)
        act.lifted()
        await act.recovered()


async def _paused(act: Act) -> None:
    broker = act.site.broker
    for _ in range(act.plan.times):
        await act.accepted()
        refused = act.site.clients.refused
        await asyncio.to_thread(broker.pause)
        await act.last()
        broker.resume()
        act.lifted()
        await act.recovered()
        if act.plan.lasts_s > _DEADLINE_S:
            act.expect(act.site.clients.refused > refused, "nobody was told 503 while the log was away")


#: A gateway answers within this, if only with 503.
_DEADLINE_S: Final = 10.0
KILLED: Final = Scenario(
    name="broker-killed",
    about="the broker is killed (-9) and started again under load",
    carry_out=_killed,
    full=Plan(times=5, lasts_s=2.0, events=500),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
PAUSED: Final = Scenario(
    name="broker-paused",
    about="the broker is paused (SIGSTOP) under load",
    carry_out=_paused,
    full=Plan(times=2, lasts_s=20.0, events=500),
    short=Plan(lasts_s=3.0, events=50),
    recovers_within_s=30.0,
)
