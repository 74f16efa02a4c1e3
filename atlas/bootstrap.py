"""The composition root: the one place that names adapters."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec import Struct

from atlas.adapters.aes_secret_box import MASTER_KEY_BYTES, AesSecretBox
from atlas.adapters.data_dir import DataDirectory, read_or_create_private, write_private
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.http_sender import HttpSender
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.adapters.sqlite_stores import SqliteStores
from atlas.adapters.system_clock import SystemClock
from atlas.core.addresses import Network
from atlas.core.entities import Quota
from atlas.core.errors import Unavailable
from atlas.core.facts import CONTROL_TOPIC, LIFECYCLE_TOPIC
from atlas.core.ids import IdSource
from atlas.core.limits import QUOTA_BURST_DEFAULT, QUOTA_REQUESTS_PER_MINUTE_DEFAULT
from atlas.gateway.app import build_app
from atlas.gateway.call import Services
from atlas.ports.clock import Clock
from atlas.ports.read_model import ReadModel
from atlas.ports.sender import Sender
from atlas.ports.stores import Stores
from atlas.runtime.attempt import Attempter
from atlas.runtime.engine import Engine
from atlas.runtime.readiness import Readiness
from atlas.runtime.registry import Registry
from atlas.runtime.shard_owner import OwnerServices
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from atlas.runtime.topics import TopicReconciler
from atlas.runtime.trimmer import LIFECYCLE_RETENTION_MS
from consumers.deliverer import Deliverer
from consumers.keeper import Keeper
from consumers.projector import Projector

#: What whoever starts Atlas over a data directory needs of it, without naming an adapter.
__all__ = [
    "MASTER_KEY_BYTES",
    "Atlas",
    "DataDirectory",
    "Options",
    "World",
    "read_or_create_private",
    "write_private",
]

#: From glibc's malloc.h.
_M_ARENA_MAX: Final = -8
#: Shards of an embedded log; fixed when it is made.
EMBEDDED_SHARDS: Final = 4
#: How long attempts under way may take to end when Atlas stops; SIGTERM to exit is 5 s in all.
DRAIN_S: Final = 2.5
_EXPIRE_KEYS_EVERY_S: Final = 600.0
#: How long a thread may keep the interpreter from another. A commit of the log's writer thread beside a
#: busy event loop takes 11 ms with Python's default of 5 ms, and 1.6 ms with this (measured).
SWITCH_INTERVAL_S: Final = 0.0005

log_line = structlog.get_logger()


class Options(Struct, frozen=True, kw_only=True):
    """What differs between installations.

    Attributes:
        quota: for workspaces without one of their own.
        master_key: `MASTER_KEY_BYTES` bytes; signing secrets are sealed with it.
        allow_networks: networks that the address guard refuses and deliveries may go to all the same.
        consumers: run the projector and the deliverer too.
    """

    master_key: bytes
    operator_token_digest: str
    quota: Quota = Quota(QUOTA_REQUESTS_PER_MINUTE_DEFAULT, QUOTA_BURST_DEFAULT)
    allow_networks: tuple[Network, ...] = ()
    consumers: bool = True


class World(Struct, frozen=True, kw_only=True):
    """Everything outside: a simulation brings its own."""

    clock: Clock
    entropy: Callable[[int], bytes] = os.urandom
    uniform01: Callable[[], float] = random.random
    sender: Sender | None = None
    threads: bool = True


class Atlas:
    """All of Atlas over the embedded log, in one process.

    Attributes:
        app: the ASGI application.
    """

    def __init__(
        self,
        options: Options,
        world: World,
        log: EmbeddedLog,
        read_model: ReadModel,
        metrics: Metrics,
        stores: Stores | None = None,
    ) -> None:
        self.options, self.world, self.log, self.read_model = options, world, log, read_model
        self.metrics = metrics
        self.registry = Registry(log, world.clock)
        self.supervisor = Supervisor(world.clock, self.metrics)
        self.secret_box = AesSecretBox(options.master_key, world.entropy)
        self.sender = world.sender or HttpSender(world.clock, options.allow_networks)
        self.ids = IdSource(world.entropy, world.clock.now_ms)
        self.services = Services(
            clock=world.clock,
            ids=self.ids,
            entropy=world.entropy,
            registry=self.registry,
            acceptor=log,
            log=log,
            read_model=read_model,
            secret_box=self.secret_box,
            metrics=self.metrics,
            quota_default=options.quota,
        )
        self.readiness = Readiness(log, self.registry, read_model, self.supervisor, world.clock, self.metrics)
        self.projector = Projector(log, read_model, self.registry, world.clock, self.metrics)
        self.keeper = (
            Keeper(log, read_model, stores, self.projector, self.registry, world.clock) if stores else None
        )
        self.deliverer = Deliverer(self._owner_services())
        self.app: Any = build_app(
            self.services,
            operator_token_digest=options.operator_token_digest,
            readiness=self.readiness.report,
        )

    @classmethod
    async def open(
        cls, data_dir: Path, options: Options, world: World | None = None, metrics: Metrics | None = None
    ) -> Atlas:
        """Open the log and the read model in `data_dir`, which this process must own.

        Raises:
            LogUnavailable: the log cannot be opened.
            StoreUnavailable: the read model cannot be opened.
        """
        world = world or World(clock=SystemClock(_step_refused))
        if world.threads:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            _share_arenas()
        async with AsyncExitStack() as opened:
            log = await EmbeddedLog.open(
                data_dir / "log.db", world.clock, shards=EMBEDDED_SHARDS, threads=world.threads
            )
            opened.push_async_callback(log.close)
            if isinstance(world.clock, SystemClock):
                world.clock.floor(log.newest_timestamp_ms)
            await log.create_topic(CONTROL_TOPIC, 1, None)
            await log.create_topic(LIFECYCLE_TOPIC, log.shards, LIFECYCLE_RETENTION_MS)
            path = data_dir / "read-model.db" if world.threads else None
            read_model = await open_read_model(path, entropy=world.entropy)
            opened.push_async_callback(read_model.close)
            stores = SqliteStores(path, entropy=world.entropy) if path else None
            atlas = cls(options, world, log, read_model, metrics or Metrics(), stores)
            opened.pop_all()  # from here on they are the application's to close
            return atlas

    async def start(self) -> None:
        """Fold the control log, then start whatever runs in the background."""
        self.supervisor.start("control fold", self.registry.run)
        await self._fold_control()
        self.supervisor.start("topics", TopicReconciler(self.log, self.registry).run)
        self.supervisor.start("idempotency", self._expire_keys)
        self.supervisor.start("progress", self.readiness.run)
        self.readiness.queue("deliveries", lambda: self.deliverer.engine.queued)
        self.readiness.queue("attempts", lambda: self.deliverer.engine.in_flight())
        if self.options.consumers:
            self.readiness.consumer("projector", self.projector.lag_records, self.projector.position)
            self.readiness.consumer("deliverer", self.deliverer.lag_records, self.deliverer.position)
            self.readiness.also(self.deliverer.checks)
            self.supervisor.start("projector", self.projector.run)
            if self.keeper is not None:
                self.supervisor.start("keeper", self.keeper.run)
            self.supervisor.start("deliverer", self.deliverer.run)

    async def drain(self) -> None:
        """Start no delivery any more, and give those under way `DRAIN_S` to end; the API goes on."""
        await self.deliverer.drain(DRAIN_S)

    async def close(self) -> None:
        """Release everything. What is cut off is repeated at the next start."""
        async with AsyncExitStack() as last:
            last.push_async_callback(self.log.close)
            last.push_async_callback(self.read_model.close)
            last.push_async_callback(self.sender.close)
            last.push_async_callback(self.supervisor.stop)

    async def stop(self) -> None:
        """Drain, then close."""
        try:
            await self.drain()
        finally:
            await self.close()

    async def _fold_control(self) -> None:
        """Wait for the end of the control log, however long it is, as long as the fold gets on."""
        while True:
            position = self.registry.position
            try:
                return await self.registry.catch_up()
            except Unavailable as error:
                if self.registry.position == position:
                    raise Unavailable(self.registry.not_ready() or error.message) from error

    def _owner_services(self) -> OwnerServices:
        world = self.world
        attempter = Attempter(
            self.log, self.sender, self.secret_box, world.clock, world.uniform01, self.metrics
        )
        engine = Engine(self.registry, attempter, world.clock, lambda: self.ids.new("cmd_"))
        return OwnerServices(
            log=self.log,
            read_model=self.read_model,
            registry=self.registry,
            engine=engine,
            clock=world.clock,
            metrics=self.metrics,
        )

    async def _expire_keys(self) -> None:
        while True:
            await self.log.expire_keys()
            await asyncio.sleep(_EXPIRE_KEYS_EVERY_S)


def _step_refused(step_s: float) -> None:
    log_line.warning("clock step refused", step_s=step_s)


def _share_arenas() -> None:
    """Glibc gives each thread an arena of its own, and memory freed in one is no use to another.

    Measured after 20,000 deliveries: 154 MiB with the default, 135 MiB with one arena.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
