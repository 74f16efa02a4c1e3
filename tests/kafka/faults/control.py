"""A fault that must stop all of Atlas: a control fact of a later version."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.faults_views import until_told
from tests.kafka.faults.raw_topics import Foreign, write
from tests.kafka.faults.scenario import Act, Plan, Scenario, healed
from tests.kafka.faults.site import HEALS_WITHIN_S, until
from tests.kafka.installation import READY_MAX_S, Node

_CONTROL: Final = "atlas.control"
_SAYS: Final = "is unknown to this version"


async def _unknown(act: Act) -> None:
    """Nobody skips it: every process is unready and says why, and so is one that starts anew."""
    site = act.site
    await act.accepted()
    await act.load.idle()
    await healed(site)
    # Later nobody tells what is not told by now.
    await until_told(site.receiver, await site.look(), HEALS_WITHIN_S)
    record = Foreign(_CONTROL, 0, b'{"fact": "key.leased", "id": "cmd_1"}', schema=b"atlas.control/2")
    [place] = await write(site.broker.bootstrap(), [record])
    site.foreign.add(place)
    for node in site.nodes():
        await until(lambda n=node: _says(n, place.offset), f"{node.name} says so", READY_MAX_S)  # type: ignore[misc]  # bound at once
    [verdict, *_] = await site.clients.send(act.probe_operation(1))
    act.expect(verdict.status == 503, f"an event was answered {verdict.status}")
    for node in (site.projector, *site.deliverers):
        await site.kill(node)
    for role in ("projector", "deliverer"):
        await _cannot_start(act, role, place.offset)
    act.more.append(("unready", f"3 processes, and 2 started anew: control record {place.offset} {_SAYS}"))


async def _cannot_start(act: Act, role: str, offset: int) -> None:
    """It ends with one line, for whoever starts it again once it is upgraded."""
    node = act.site.atlas.start(role)
    code = await asyncio.to_thread(node.process.wait, READY_MAX_S)
    [line] = [line for line in node.stderr().splitlines() if line.startswith("atlas: ")]
    act.expect(code == 1 and f"control record {offset} {_SAYS}" in line, f"{role} ended with {code}: {line}")


async def _says(node: Node, offset: int) -> bool:
    answer = node.readyz()
    return answer.status == 503 and f"control record {offset} {_SAYS}" in answer.content.decode()


UNKNOWN: Final = Scenario(
    name="control-unknown",
    about="a fact of a later version is written to the control topic",
    carry_out=_unknown,
    full=Plan(events=300),
    short=Plan(events=20),
    recovers_within_s=0.0,
    heals=False,
)
