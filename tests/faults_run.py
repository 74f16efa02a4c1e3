"""A run: load on a real Atlas that is killed (-9) at random moments, again and again, healed and rebuilt."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from tests.faults_client import Clients
from tests.faults_load import Load
from tests.faults_log import copy_log, read_log
from tests.faults_receiver import Receiver
from tests.faults_routes import ROUTES, TEMPERS, alarms, set_up
from tests.faults_server import KILLED, SERVERS, Server
from tests.faults_views import Views, shown, until_nothing_is_open, until_told, whole_views
from tests.invariants_history import History, LogRecord, Reading
from tests.invariants_log import reading_of

#: From the last start to the last client's answer, the last retry, the last outcome.
HEALS_WITHIN_S: Final = 30.0
REBUILDS_WITHIN_S: Final = 60.0
#: A start takes half a second.
_START_KILL_MAX_S: Final = 1.0
#: It ends within milliseconds when nothing is under way.
_STOP_KILL_MAX_S: Final = 0.1
_QUIET_MAX_S: Final = 0.3
#: Nothing that Atlas logs says this unless something is broken.
_ALARMS: Final = ("Traceback", "request_failed", "internal_error", "Task exception")


class Moment(Enum):
    """When a process is killed."""

    LOAD = "under load"
    START = "around start-up"
    STOP = "while it stops"
    IDLE = "while idle"


_MOMENTS: Final = (Moment.LOAD, Moment.START, Moment.LOAD, Moment.STOP, Moment.LOAD, Moment.IDLE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        up_s: how long a process lives after it announced itself, on average.
        clients: that work at the same time.
    """

    seed: int
    kills: int
    up_s: float
    clients: int = 10


@dataclass
class Run:
    """What came of a plan.

    Attributes:
        starts_s: from each start that was not cut short to the announcement.
        faults: what was not as it must be, besides the invariants.
    """

    plan: Plan
    killed: dict[Moment, int] = field(default_factory=lambda: dict.fromkeys(Moment, 0))
    starts_s: list[float] = field(default_factory=list)
    rebuild_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)


class Faults:
    """Carries out one plan in a directory of its own.

    Args:
        say: told of each step.
    """

    def __init__(self, directory: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self._directory, self._plan, self._say = directory, plan, say
        self._chance = random.Random(plan.seed)
        self._run = Run(plan)
        self._readings: list[Reading] = []
        self._secrets: dict[str, str] = {}

    async def run(self) -> Run:
        """Do all of it.

        Raises:
            AssertionError: Atlas cannot be started, or does not answer.
        """
        receiver = Receiver(TEMPERS, random.Random(self._chance.getrandbits(64)))
        with Server(self._directory) as server:
            server.start("hypercorn")
            announced = await server.ready()
            clients = Clients(announced.url, announced.keys)
            try:
                async with receiver:
                    self._secrets = await set_up(clients, receiver)
                    await self._kill_again_and_again(server, clients)
                    healed_s = await self._healed(server, clients)
                    before = await self._views(clients)
                    await until_told(receiver, before, HEALS_WITHIN_S)
                    told = len(receiver.notices)
                    records = await self._rebuild(server, clients, before)
                    if len(receiver.notices) > told:
                        self._run.faults.append("a read model made anew told of outcomes again")
            finally:
                await clients.close()
            self._run.starts_s = server.starts_s
            self._run.faults += clients.faults + alarms(server.stderr(), _ALARMS)
        self._run.history = History(
            tries=clients.tries,
            polls=clients.polls,
            readings=self._readings,
            records=records,
            shown=shown(before),
            arrivals=receiver.arrivals,
            notices=receiver.notices,
            secrets=self._secrets,
            healed_s=healed_s,
            heals_within_s=HEALS_WITHIN_S,
        )
        return self._run

    # -- kills --------------------------------------------------------------------------------

    async def _kill_again_and_again(self, server: Server, clients: Clients) -> None:
        load = Load(clients, self._chance, self._plan.clients)
        moments = [_MOMENTS[number % len(_MOMENTS)] for number in range(self._plan.kills)]
        self._chance.shuffle(moments)
        try:
            for moment in moments:
                while not await self._kill(server, load, moment):
                    pass  # it had stopped before the kill came
                self._say(f"kill {sum(self._run.killed.values())} of {self._plan.kills}: {moment.value}")
            await server.ready()
        finally:
            gave_up = await load.finish(HEALS_WITHIN_S)
        if gave_up:
            self._run.faults.append(f"{gave_up} clients without an answer after {HEALS_WITHIN_S} s")

    async def _kill(self, server: Server, load: Load, moment: Moment) -> bool:
        """Let it live, kill it, start the next at once; whether the kill came in time."""
        await self._live_until(server, load, moment)
        code = server.kill()
        snapshot = self._snapshot()
        server.start(self._chance.choice(SERVERS))
        load.go_on()
        self._readings.append(reading_of(await asyncio.to_thread(_read_and_remove, snapshot)))
        if code != KILLED and (moment, code) != (Moment.STOP, 0):
            self._run.faults.append(f"it ended by itself with {code}, {moment.value}")
        self._run.killed[moment] += code == KILLED
        return code == KILLED

    async def _live_until(self, server: Server, load: Load, moment: Moment) -> None:
        if moment is Moment.START and server.starts > 1:
            await asyncio.sleep(self._chance.uniform(0.0, _START_KILL_MAX_S))
            return
        await server.ready()
        await asyncio.sleep(self._chance.uniform(0.0, 2 * self._plan.up_s))
        if moment is Moment.STOP:
            server.ask_to_stop()
            await asyncio.sleep(self._chance.uniform(0.0, _STOP_KILL_MAX_S))
        elif moment is Moment.IDLE:
            async with asyncio.timeout(HEALS_WITHIN_S):
                await load.idle()
            await asyncio.sleep(self._chance.uniform(0.0, _QUIET_MAX_S))

    def _snapshot(self) -> Path:
        return copy_log(self._directory / "data", self._directory / f"log-{len(self._readings)}")

    # -- afterwards ---------------------------------------------------------------------------

    async def _healed(self, server: Server, clients: Clients) -> float | None:
        """Seconds from the last start until nothing was open; None: not within the bound."""
        self._say("healing")
        try:
            async with asyncio.timeout_at(server.started_s + HEALS_WITHIN_S):
                await until_nothing_is_open(clients, ROUTES)
        except TimeoutError:
            return None
        return time.monotonic() - server.started_s

    async def _views(self, clients: Clients) -> Views:
        return await whole_views(clients, ROUTES, self._run.faults)

    async def _rebuild(self, server: Server, clients: Clients, before: Views) -> list[LogRecord]:
        """Delete the read model and compare what a new one says; returns the log in between."""
        self._say("rebuilding")
        if code := await server.stop():
            self._run.faults.append(f"SIGTERM: exit code {code}")
        records = _read_and_remove(self._snapshot())
        for path in (self._directory / "data").glob("read-model.db*"):
            path.unlink()
        server.start("hypercorn")
        await server.ready()
        with suppress(TimeoutError):  # what is missing then, differs
            async with asyncio.timeout(REBUILDS_WITHIN_S):
                await until_nothing_is_open(clients, ROUTES)
        self._run.rebuild_s = time.monotonic() - server.started_s
        after = await self._views(clients)
        changed = [each for each in {**before, **after} if before.get(each) != after.get(each)]
        if changed:
            example = f"{before.get(changed[0])} and then {after.get(changed[0])}"
            self._run.faults.append(f"{len(changed)} events differ after a rebuild: {example}")
        if await server.stop():
            self._run.faults.append("SIGTERM after the rebuild: not a clean end")
        return records


def _read_and_remove(snapshot: Path) -> list[LogRecord]:
    records = read_log(snapshot)
    shutil.rmtree(snapshot.parent)
    return records
