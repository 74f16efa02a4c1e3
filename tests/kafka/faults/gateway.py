"""Faults of the gateway: killed when its record is in the log and nobody knows, or is still under way."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Final

from tests.invariants_history import OK
from tests.kafka.faults.scenario import ACCEPTED_WITHIN_S, Act, Plan, Scenario
from tests.kafka.faults.site import Site

#: Kafka protocol guide, "Error codes".
_INVALID_PRODUCER_EPOCH: Final = 47


async def _killed_before_the_reply(act: Act) -> None:
    """The wire loses the acknowledgements: what was appended is never answered."""
    site = act.site
    for _ in range(act.plan.times):
        await site.stop(site.gateway)
        await site.start("gateway", through_proxy=True)
        await act.accepted()
        site.proxy.swallow()
        async with asyncio.timeout(ACCEPTED_WITHIN_S):
            await site.proxy.swallowed.wait()
        await site.kill(site.gateway)
        site.proxy.answer()
        unheard = await _unheard(site)
        act.more.append(("appended, unanswered", f"{unheard} events at the kill"))
        act.expect(unheard > 0, "nothing was in the log that nobody had been told of")
        act.lifted()
        await site.start("gateway")
        await act.recovered()


async def _killed_with_a_produce_on_the_wire(act: Act) -> None:
    """The wire holds a produce back, until another gateway has taken its key over."""
    site = act.site
    for _ in range(act.plan.times):
        await site.stop(site.gateway)
        await site.start("gateway", through_proxy=True)
        await act.accepted()
        await act.load.idle()
        operation = act.probe_operation(1)
        site.proxy.hold(f"{operation.keys[0]}".encode())
        first = asyncio.create_task(site.clients.send(operation))
        async with asyncio.timeout(ACCEPTED_WITHIN_S):
            await site.proxy.held.wait()
        await site.kill(site.gateway)
        await first
        act.load.go_on()
        act.lifted()
        await site.start("gateway")
        await act.recovered()
        [verdict] = await site.clients.send(operation)
        act.expect(verdict.outcome == OK, f"the key is not to be had again: {verdict}")
        site.proxy.let_go()
        async with asyncio.timeout(ACCEPTED_WITHIN_S):
            codes = list(_error_codes(await site.proxy.answered.get()))
        act.expect(codes == [_INVALID_PRODUCER_EPOCH], f"the late produce was answered {codes}")
        [again] = await site.clients.send(operation)
        act.expect(again.answer == verdict.answer, "the key's answer has changed")


async def _unheard(site: Site) -> int:
    """Events in the log that no client has been told of yet."""
    told = {each.logical for each in site.clients.tries if each.outcome == OK}
    found = await site.read()
    return sum(record.logical not in told for record in found.values() if record.is_event)


def _error_codes(frame: bytes) -> Iterator[int]:
    """Of a response to a produce request for one partition (protocol guide, Produce, version 3 and later)."""
    name_bytes = struct.unpack(">h", frame[12:14])[0]
    yield struct.unpack(">h", frame[14 + name_bytes + 8 : 14 + name_bytes + 10])[0]


KILLED: Final = Scenario(
    name="gateway-killed",
    about="the gateway is killed (-9) between an append and its reply",
    carry_out=_killed_before_the_reply,
    full=Plan(times=5, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
HELD: Final = Scenario(
    name="produce-held",
    about="a produce is held on the wire while another gateway takes its key over",
    carry_out=_killed_with_a_produce_on_the_wire,
    full=Plan(times=5, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
