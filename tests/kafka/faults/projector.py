"""Faults of the projector: killed when the read model has moved on, and the group's offsets have not."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.kafka.faults.raw_topics import committed
from tests.kafka.faults.scenario import ACCEPTED_WITHIN_S, Act, Plan, Scenario
from tests.kafka.produce_proxy import OFFSET_COMMIT

_GROUP: Final = "atlas-projector"


async def _killed_before_the_offsets(act: Act) -> None:
    """The wire holds the offset commit: what it tells of is in the read model by then."""
    site = act.site
    for _ in range(act.plan.times):
        await site.stop(site.projector)
        await site.start("projector", through_proxy=True)
        await act.accepted()
        site.proxy.hold(key=OFFSET_COMMIT)
        async with asyncio.timeout(ACCEPTED_WITHIN_S):
            await site.proxy.held.wait()
        before = await committed(site.broker.bootstrap(), _GROUP)
        await site.kill(site.projector)
        act.lifted()
        await site.start("projector")
        await act.recovered()
        site.proxy.let_go()
        after = await committed(site.broker.bootstrap(), _GROUP)
        stored = f"{sum(before.values())} at the kill, {sum(after.values())} later"
        act.more.append(("offsets stored", stored))


KILLED: Final = Scenario(
    name="projector-killed",
    about="the projector is killed (-9) between its commit and the offset commit",
    carry_out=_killed_before_the_offsets,
    full=Plan(times=5, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
