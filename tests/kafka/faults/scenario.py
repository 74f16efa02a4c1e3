"""A scenario: a fault under load, then recovery unaided, and what came of it.

The common part: load begins; the scenario brings its faults about, and after each waits until events are
accepted and delivered again and every node is ready; the load ends; nothing stays open; four sources are
compared. What a scenario itself does is one function.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.faults_client import Operation
from tests.faults_ledger import became, durations
from tests.faults_load import Load
from tests.faults_routes import ROUTES, alarms
from tests.faults_views import shown, until_nothing_is_open, until_told
from tests.invariants_history import OK, History, Violation
from tests.invariants_notices import deleted_events
from tests.kafka.faults.memory import Memory
from tests.kafka.faults.site import HEALS_WITHIN_S, PROBE, Site, until

#: What a process may take; 110 MB is usual.
RESIDENT_BYTES_MAX: Final = 400 * 1024 * 1024
ACCEPTED_WITHIN_S: Final = 60.0
#: Enough to meet every shard nearly always.
_PROBES: Final = 20
#: Nothing that Atlas logs says this unless something is broken.
_ALARMS: Final = ("request_failed", "internal_error", "Task exception", "never retrieved")
_MB: Final = 1_000_000


@dataclass(frozen=True)
class Plan:
    """How much of it: how often the fault comes, how long it lasts, events accepted before each, and by how
    many clients.
    """

    times: int = 1
    lasts_s: float = 0.0
    events: int = 100
    clients: int = 10


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One fault.

    Attributes:
        about: what happens, in one line.
        recovers_within_s: from the end of the fault until events are accepted and delivered again.
        heals: else the site is of no use afterwards.
    """

    name: str
    about: str
    carry_out: Callable[[Act], Awaitable[None]]
    full: Plan
    short: Plan
    recovers_within_s: float
    heals: bool = True


class Act:
    """A scenario being carried out, as its function sees it.

    Attributes:
        more: what the ledger shows besides.
    """

    def __init__(self, scenario: Scenario, plan: Plan, site: Site, load: Load, say: Callable[[str], None]):
        self.scenario, self.plan, self.site, self.load, self.say = scenario, plan, site, load, say
        self.recoveries_s: list[float] = []
        self.more: list[tuple[str, str]] = []
        self._probes = 0
        self._lifted_s = 0.0

    async def accepted(self, events: int | None = None) -> None:
        """Wait until so many more events were accepted, by the plan unless told."""
        tries = self.site.clients.tries
        seen, missing = len(tries), self.plan.events if events is None else events

        async def enough() -> bool:
            nonlocal seen, missing
            missing -= sum(each.outcome == OK for each in tries[seen:])
            seen = len(tries)
            return missing <= 0

        await until(enough, "events are accepted", ACCEPTED_WITHIN_S)

    async def last(self) -> None:
        """Let the fault last as long as planned; what goes on meanwhile is the point."""
        await asyncio.sleep(self.plan.lasts_s)

    def lifted(self) -> None:
        """The fault is over: the time of recovery begins."""
        self._lifted_s = time.monotonic()

    async def recovered(self) -> None:
        """Wait until a batch of events is accepted and delivered, and every node is ready."""
        ids = await self.probe()
        for event_id in ids:
            await until(lambda e=event_id: self._ended(e), f"{event_id} ends", HEALS_WITHIN_S)  # type: ignore[misc]  # bound at once
        await self.site.ready()
        took_s = time.monotonic() - self._lifted_s
        self.recoveries_s.append(took_s)
        self.say(f"{self.scenario.name}: recovered {took_s:.1f} s after the fault")

    async def probe(self, count: int = _PROBES) -> list[str]:
        """Send new events until they are accepted, as clients do; returns their ids."""
        operation = self.probe_operation(count)
        while True:
            verdicts = await self.site.clients.send(operation)
            if all(verdict.outcome == OK for verdict in verdicts):
                return [verdict.event_id for verdict in verdicts if verdict.event_id is not None]
            await asyncio.sleep(self.site.chance.uniform(0.05, 0.2))

    def probe_operation(self, count: int) -> Operation:
        """New events with keys, in one batch."""
        name = f"{self.scenario.name}-probe"
        first, self._probes = self._probes, self._probes + count
        numbers = range(first, self._probes)
        return Operation(
            environment="live",
            client=f"live/{name}",
            sequence=first,
            events=[_probe(name, number) for number in numbers],
            keys=[f"{name}-{number}" for number in numbers],
            batch=True,
            own_keys=True,
        )

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.site.faults.append(f"{self.scenario.name}: {otherwise}")

    async def _ended(self, event_id: str) -> bool:
        event = await self.site.clients.look(self.scenario.name, "live", event_id)
        return event is not None and event["status"] in ("delivered", "failed")


def _probe(name: str, number: int) -> dict[str, Any]:
    return {
        "stream": PROBE,
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {"by": name, "number": number},
    }


@dataclass
class Result:
    """What came of a scenario.

    Attributes:
        history: of this scenario alone; `violations` are of all that the site has seen.
    """

    scenario: Scenario
    history: History
    violations: Sequence[Violation]
    faults: list[str]
    recoveries_s: Sequence[float]
    refused: int
    peaks_bytes: dict[str, int]
    more: list[tuple[str, str]] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """Everything that is not as it must be."""
        late = [took for took in self.recoveries_s if took > self.scenario.recovers_within_s]
        return [
            *map(str, self.violations),
            *self.faults,
            *(f"recovery took {took:.1f} s of {self.scenario.recovers_within_s:.0f} s" for took in late),
            *(
                f"{name} took {size // _MB} MB of memory"
                for name, size in self.peaks_bytes.items()
                if size > RESIDENT_BYTES_MAX
            ),
        ]

    def ledger(self) -> list[tuple[str, str]]:
        """What to show, line by line."""
        healed_s = self.history.healed_s
        peaks = [f"{name} {size // _MB} MB" for name, size in self.peaks_bytes.items()]
        times, bound_s = len(self.recoveries_s), self.scenario.recovers_within_s
        return [
            ("scenario", f"{self.scenario.name}: {self.scenario.about}"),
            *became(self.history, self.violations),
            ("refused", f"{self.refused:,} answers 503, each with Retry-After"),
            ("recovery", f"{durations(self.recoveries_s)} of {times}; bound {bound_s:.0f} s"),
            ("healed", "never" if healed_s is None else f"{healed_s:.1f} s after the load's end"),
            ("memory, at most", ", ".join(peaks)),
            *self.more,
            ("invariants broken", str(len(self.violations))),
            ("other faults", str(len(self.faults))),
        ]


async def run(site: Site, scenario: Scenario, plan: Plan, say: Callable[[str], None]) -> Result:
    """Carry out one scenario on a site that is well.

    Raises:
        AssertionError: something that must come did not come in time.
    """
    clients, start = site.clients, _Mark(site)
    load = Load(clients, site.chance, plan.clients, f"{scenario.name}-")
    act = Act(scenario, plan, site, load, say)
    async with Memory(site.processes) as memory:
        try:
            await scenario.carry_out(act)
        finally:
            gave_up = await load.finish(HEALS_WITHIN_S)
        act.expect(not gave_up, f"{gave_up} clients without an answer")
        healed_s = await healed(site) if scenario.heals else 0.0
    await site.read()
    fresh = await site.look() if scenario.heals else {}
    history = site.history(healed_s)
    gone = deleted_events(history.records, history.deleted)
    kept = {event_id: views for event_id, views in fresh.items() if event_id not in gone}
    await until_told(site.receiver, kept, HEALS_WITHIN_S)
    violations = site.judge(history)
    site.faults += clients.faults[start.faults :]
    hangs = clients.hangs[start.hangs :]
    act.expect(not hangs, f"{len(hangs)} calls without an answer in time: {hangs[:3]}")
    own = replace(
        history,
        tries=clients.tries[start.tries :],
        records=[record for place, record in site.records.items() if place not in start.records],
        shown=shown(fresh),
        arrivals=site.receiver.arrivals[start.arrivals :],
    )
    printed = "".join(text[len(start.stderr.get(name, "")) :] for name, text in site.stderr().items())
    faults = [*site.faults, *alarms(printed, _ALARMS)]
    site.faults = []
    refused = clients.refused - start.refused
    return Result(scenario, own, violations, faults, act.recoveries_s, refused, memory.peaks_bytes, act.more)


class _Mark:
    """How far everything was when a scenario began."""

    def __init__(self, site: Site) -> None:
        self.tries, self.arrivals = len(site.clients.tries), len(site.receiver.arrivals)
        self.faults, self.hangs = len(site.clients.faults), len(site.clients.hangs)
        self.refused, self.stderr = site.clients.refused, site.stderr()
        self.records = set(site.records)


async def healed(site: Site) -> float | None:
    """Seconds until nothing was open; None: not within the bound."""
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(HEALS_WITHIN_S):
            await until_nothing_is_open(site.clients, ROUTES)
    except TimeoutError:
        return None
    return time.monotonic() - began_s
