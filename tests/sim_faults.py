"""Faults at the ports: a log and a read model that fail as real ones do, and a simulation over them.

Everything is off until a scenario turns it on in `Faults`; `heal` turns everything off again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import structlog
from msgspec import Struct

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.sqlite_read_model import SqliteReadModel, open_read_model
from atlas.core.errors import AtlasError, LogUnavailable, StoreUnavailable
from atlas.ports.log import Member, NewRecord, Reader
from atlas.ports.read_model import Changes, ReadModel
from tests.simulation import Simulation
from tests.virtual_time import VirtualClock, pass_time


class Faults(Struct):
    """What may go wrong now; the first six are probabilities of each call.

    Attributes:
        append_refused: raises, and nothing was appended.
        append_in_doubt: raises, although it was appended.
        append_late: raises, and is appended seconds later, after others.
        read_fails: any other call to the log raises.
        store_fails: any call to the read model raises; of `apply`, half have been applied.
        commit_fails: the group's offsets are not stored.
        log_away: every call to the log raises.
        store_away: every call to the read model raises.
        store_broken: every question about waiting routes raises what no port raises.
        log_slow_s: every append, and every read of a reader, takes up to this long.
        store_slow_s: every call to the read model takes up to this long.
    """

    append_refused: float = 0.0
    append_in_doubt: float = 0.0
    append_late: float = 0.0
    read_fails: float = 0.0
    store_fails: float = 0.0
    commit_fails: float = 0.0
    log_away: bool = False
    store_away: bool = False
    store_broken: bool = False
    log_slow_s: float = 0.0
    store_slow_s: float = 0.0

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        for name in self.__struct_fields__:
            setattr(self, name, type(getattr(self, name))())


class FaultyLog:
    """The log as a process reaches it. `accept` never fails: producers are not what is tested here."""

    _PLAIN = frozenset({"accept", "shards", "newest_timestamp_ms", "close"})

    def __init__(self, inner: EmbeddedLog, faults: Faults, chance: random.Random) -> None:
        self._inner, self._faults, self._chance = inner, faults, chance
        self._late: set[asyncio.Task[int]] = set()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        faults, chance = self._faults, self._chance
        await self.slow()
        if faults.log_away or chance.random() < faults.append_refused:
            raise LogUnavailable("refused by the test")
        if chance.random() < faults.append_late:
            task = asyncio.create_task(self._append_late(topic, partition, records))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            raise LogUnavailable("late by the test")
        offset = await self._inner.append(topic, partition, records)
        if chance.random() < faults.append_in_doubt:
            raise LogUnavailable("in doubt by the test")
        return offset

    async def _append_late(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        await pass_time(self._chance.uniform(0, 5))
        return await self._inner.append(topic, partition, records)

    async def join(self, group: str, topic: str, alone: bool = False) -> Member:
        self.fail()
        return cast("Member", _FaultyMember(await self._inner.join(group, topic, alone), self))

    def reader(self) -> Reader:
        return cast("Reader", _FaultyReader(self._inner.reader(), self))

    def fail(self, extra: float = 0.0) -> None:
        """Raise, if it is to be."""
        if self._faults.log_away or self._chance.random() < max(extra, self._faults.read_fails):
            raise LogUnavailable("away by the test")

    async def slow(self) -> None:
        """Take time."""
        if self._faults.log_slow_s:
            await pass_time(self._chance.uniform(0, self._faults.log_slow_s))

    def commit_fails(self) -> float:
        return self._faults.commit_fails

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in self._PLAIN:
            return found

        async def call(*args: Any) -> Any:
            self.fail()
            return await found(*args)

        return call


class _FaultyReader:
    def __init__(self, inner: Reader, log: FaultyLog) -> None:
        self._inner, self._log = inner, log

    async def poll(self, records_max: int, timeout_s: float) -> Any:
        self._log.fail()
        await self._log.slow()
        return await self._inner.poll(records_max, timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _FaultyMember:
    """Setting `beating` reaches the member itself."""

    def __init__(self, inner: Member, log: FaultyLog) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_log", log)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        self._log.fail(self._log.commit_fails())
        await self._inner.commit(offsets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


class FaultyReadModel:
    """The read model, which can be exchanged while everybody goes on using it."""

    def __init__(self, inner: SqliteReadModel, faults: Faults, chance: random.Random) -> None:
        self.inner, self._faults, self._chance = inner, faults, chance
        self._dropped: list[SqliteReadModel] = []

    async def apply(self, changes: Changes) -> None:
        """May raise after it was applied: the projector was killed before it heard of it."""
        await self._fail(0.5)
        await self.inner.apply(changes)
        await self._fail(0.5)

    async def copy(self) -> SqliteReadModel:
        """A copy as it is now."""
        made = await open_read_model(None)
        await made._driver.read(lambda target: self._copy_to(target))
        return made

    def _copy_to(self, target: Any) -> None:
        source: Any = self.inner._driver
        source._connection.backup(target)

    def exchange(self, other: SqliteReadModel) -> None:
        """From here on everybody has another store."""
        self._dropped.append(self.inner)
        self.inner = other

    async def close(self) -> None:
        for store in (*self._dropped, self.inner):
            await store.close()

    async def wait_past(self, positions: Any, timeout_s: float) -> bool:
        """In steps, as whoever waits on an exchanged store would wait in vain."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            await self._fail()
            left_s = max(0.0, deadline_s - loop.time())
            if await self.inner.wait_past(positions, min(left_s, 0.5)):
                return True
            if left_s <= 0:
                return False

    async def _fail(self, share: float = 1.0) -> None:
        faults, chance = self._faults, self._chance
        if faults.store_slow_s:
            await pass_time(chance.uniform(0, faults.store_slow_s))
        if faults.store_away or chance.random() < faults.store_fails * share:
            raise StoreUnavailable("by the test")

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            await self._fail()
            if self._faults.store_broken and name in ("waiting_for", "upcoming", "targets_waiting"):
                raise RuntimeError("a bug")
            return await getattr(self.inner, name)(*args)

        return call


class FaultySimulation(Simulation):
    """A simulation whose processes reach the log and the read model through faults.

    Attributes:
        faults: what goes wrong now.
        unhandled: exceptions of tasks and callbacks that nobody took.
    """

    def __init__(self, clock: VirtualClock, directory: Path, *, seed: int = 0, shards: int = 2) -> None:
        super().__init__(clock, directory, seed=seed, shards=shards)
        self.faults = Faults()
        self.chance = random.Random(f"faults {seed}")
        self.unhandled: list[str] = []

    def reach_log(self, log: EmbeddedLog) -> EmbeddedLog:
        return cast("EmbeddedLog", FaultyLog(log, self.faults, self.chance))

    async def open_read_model(self) -> ReadModel:
        inner = await open_read_model(None, entropy=self.random.randbytes)
        return cast("ReadModel", FaultyReadModel(inner, self.faults, self.chance))

    async def __aexit__(self, *exception: object) -> None:
        await super().__aexit__(*exception)
        structlog.reset_defaults()

    @property
    def store(self) -> FaultyReadModel:
        """The read model, with its handles."""
        return cast("FaultyReadModel", self.read_model)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Thousands of expected failures, each with its traceback, would take most of the time.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        loop.set_exception_handler(lambda _, context: self.unhandled.append(repr(context)))
        return await super().__aenter__()

    async def kill_projector(self) -> None:
        """SIGKILL of the projector."""
        await self.supervisor.stop("projector")

    async def try_to(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do what may fail, as a client would that gets 4xx or 503."""
        try:
            await act()
        except AtlasError:
            pass

    def left_over(self) -> dict[str, object]:
        """What is still in memory of living processes although everything is quiet; to be empty."""
        found: dict[str, object] = {}
        for process in self.processes:
            engine = process.engine
            found |= {
                f"{process.name} queued": engine.queued,
                f"{process.name} queued bytes": engine._queued_bytes,
                f"{process.name} here": len(engine._here),
                f"{process.name} in flight": engine.in_flight(),
                f"{process.name} lanes": [
                    lane.key
                    for lane in engine._lanes.values()
                    if lane.queue or lane.in_flight or lane.spilled
                ],
            }
            for owner in process.deliverer.owners():
                waiting, name = owner.waiting, f"{process.name} shard {owner.shard}"
                found |= {
                    f"{name} timers": len(waiting._timers),
                    f"{name} timed": len(waiting._timed),
                    f"{name} overlay": len(waiting._overlay),
                    f"{name} refilling": [*waiting._refilling, *waiting._closing._under_way],
                    f"{name} lines": [*waiting.lines._open, *waiting.lines._going, *waiting.lines._wanted],
                    f"{name} tasks": len(waiting._tasks),
                    f"{name} open": owner._undecided.open_count(),
                    f"{name} facts": len(owner._facts._queue),
                }
        gc.collect()
        found["unhandled"] = self.unhandled
        return {name: value for name, value in found.items() if value}
