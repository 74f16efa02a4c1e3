"""The composition root: the one place that names adapters."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import os
import random
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from atlas.adapters.aes_secret_box import MASTER_KEY_BYTES, AesSecretBox
from atlas.adapters.data_dir import (
    DataDirectory,
    lock_gateway,
    lock_projector,
    read_or_create_private,
    write_private,
)
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.http_sender import HttpSender
from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSecurity, KafkaSettings
from atlas.adapters.sqlite_follower import follow_read_model
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.adapters.system_clock import SystemClock
from atlas.core.addresses import Network
from atlas.core.entities import Quota
from atlas.core.errors import Unavailable
from atlas.core.facts import CONTROL_TOPIC, LIFECYCLE_TOPIC
from atlas.core.ids import IdSource
from atlas.core.limits import QUOTA_BURST_DEFAULT, QUOTA_REQUESTS_PER_MINUTE_DEFAULT, TOPICS_MAX_DEFAULT
from atlas.gateway.app import build_app, build_operations_app
from atlas.gateway.call import CommonServices, Services
from atlas.ports.acceptor import Acceptor
from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.ports.sender import Sender
from atlas.runtime.attempt import Attempter
from atlas.runtime.engine import Engine
from atlas.runtime.newest_record import newest_timestamp_ms
from atlas.runtime.readiness import Readiness
from atlas.runtime.registry import Registry
from atlas.runtime.shard_owner import OwnerServices
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from atlas.runtime.topics import TopicReconciler
from atlas.runtime.trimmer import LIFECYCLE_RETENTION_MS
from consumers.deliverer import Deliverer
from consumers.projector import Projector

#: What whoever starts Atlas over a data directory needs of it, without naming an adapter.
__all__ = [
    "MASTER_KEY_BYTES",
    "Atlas",
    "DataDirectory",
    "KafkaSecurity",
    "KafkaSettings",
    "Options",
    "Role",
    "World",
    "lock_gateway",
    "lock_projector",
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
_LOG_FILE: Final = "log.db"
_READ_MODEL_FILE: Final = "read-model.db"
_KEYS_FILE: Final = "keys.db"

log_line = structlog.get_logger()


class Role(enum.Flag):
    """What a process does. On the embedded log one process does all of it."""

    GATEWAY = enum.auto()
    PROJECTOR = enum.auto()
    DELIVERER = enum.auto()
    ALL = GATEWAY | PROJECTOR | DELIVERER


class Options(Struct, frozen=True, kw_only=True):
    """What differs between installations and processes.

    Attributes:
        quota: for workspaces without one of their own.
        master_key: `MASTER_KEY_BYTES` bytes; signing secrets are sealed with it. A projector needs none.
        operator_token_digest: SHA-256, hex; only a gateway needs one.
        topics_max: streams of all workspaces together, archived ones included; past it none is created.
        allow_networks: networks that the address guard refuses and deliveries may go to all the same.
    """

    master_key: bytes = b""
    operator_token_digest: str = ""
    quota: Quota = Quota(QUOTA_REQUESTS_PER_MINUTE_DEFAULT, QUOTA_BURST_DEFAULT)
    topics_max: int = TOPICS_MAX_DEFAULT
    allow_networks: tuple[Network, ...] = ()
    roles: Role = Role.ALL


class World(Struct, frozen=True, kw_only=True):
    """Everything outside: a simulation brings its own."""

    clock: Clock
    entropy: Callable[[int], bytes] = os.urandom
    uniform01: Callable[[], float] = random.random
    sender: Sender | None = None
    threads: bool = True


class KeepingAcceptor(Acceptor, Protocol):
    """An acceptor that keeps keys, and so has to forget them."""

    async def expire_keys(self) -> None:
        """Drop keys whose time is over; called now and then."""

    async def close(self) -> None:
        """Finish what is under way."""


class Beneath(Struct, frozen=True, kw_only=True):
    """What a process stands on; `acceptor` only where events are taken."""

    log: Log
    read_model: ReadModel
    acceptor: KeepingAcceptor | None = None


class Atlas:
    """One process of Atlas: all of it, or some of its roles.

    Attributes:
        app: the ASGI application: the whole API, or the paths for operators alone.
        deliverer, projector: None in a process that is none.
    """

    def __init__(self, options: Options, world: World, beneath: Beneath, metrics: Metrics) -> None:
        self.options, self.world, self.metrics = options, world, metrics
        self.log, self.read_model, self._acceptor = beneath.log, beneath.read_model, beneath.acceptor
        self.registry = Registry(self.log, world.clock)
        self.supervisor = Supervisor(world.clock, metrics)
        self.ids = IdSource(world.entropy, world.clock.now_ms)
        self.readiness = Readiness(
            self.log, self.registry, self.read_model, self.supervisor, world.clock, metrics
        )
        self.projector: Projector | None = None
        self.deliverer: Deliverer | None = None
        self.sender: Sender | None = None
        if Role.PROJECTOR in options.roles:
            self.projector = Projector(self.log, self.read_model, self.registry, world.clock, metrics)
        if Role.DELIVERER in options.roles:
            self.sender = world.sender or HttpSender(world.clock, options.allow_networks)
            self.deliverer = Deliverer(self._owner_services(self.sender))
        self.app: Any = self._gateway() if Role.GATEWAY in options.roles else self._operations()

    @classmethod
    async def open(
        cls, data_dir: Path, options: Options, world: World | None = None, metrics: Metrics | None = None
    ) -> Atlas:
        """Open the embedded log and the read model in `data_dir`, which this process must own.

        Raises:
            LogUnavailable: the log cannot be opened.
            StoreUnavailable: the read model cannot be opened.
        """
        world = _prepared(world)
        async with AsyncExitStack() as opened:
            log = await EmbeddedLog.open(
                data_dir / _LOG_FILE, world.clock, shards=EMBEDDED_SHARDS, threads=world.threads
            )
            opened.push_async_callback(log.close)
            if isinstance(world.clock, SystemClock):
                world.clock.floor(log.newest_timestamp_ms)
            await _provide_topics(log)
            path = data_dir / _READ_MODEL_FILE if world.threads else None
            read_model = await open_read_model(path, entropy=world.entropy)
            opened.push_async_callback(read_model.close)
            beneath = Beneath(log=log, read_model=read_model, acceptor=log)
            atlas = cls(options, world, beneath, metrics or Metrics())
            opened.pop_all()  # from here on they are the application's to close
            return atlas

    @classmethod
    async def open_on_kafka(
        cls, kafka: KafkaSettings, data_dir: Path, options: Options, metrics: Metrics | None = None
    ) -> Atlas:
        """Connect to Kafka, and open what the process's roles keep in `data_dir`.

        A gateway must own its key index there, a projector the read model; others only read that.

        Raises:
            LogUnavailable: Kafka, or the key index, cannot be used now.
            LogError: the cluster holds an installation that does not fit these settings.
            StoreUnavailable: the read model cannot be opened.
        """
        world = _prepared(None)
        async with AsyncExitStack() as opened:
            log = await KafkaLog.open(kafka, world.clock)
            opened.push_async_callback(log.close)
            await _provide_topics(log)
            beside = (
                data_dir / f"kafka-{log.cluster_id}"
            )  # what was made from one log says nothing of another
            beside.mkdir(mode=0o700, exist_ok=True)
            if isinstance(world.clock, SystemClock):
                world.clock.floor(await newest_timestamp_ms(log))
            acceptor = None
            if Role.GATEWAY in options.roles:
                acceptor = await KafkaAcceptor.open(log, beside / _KEYS_FILE, world.clock)
                opened.push_async_callback(acceptor.close)
            path = beside / _READ_MODEL_FILE
            read_model: ReadModel
            if Role.PROJECTOR in options.roles:
                read_model = await open_read_model(path, entropy=world.entropy)
            else:
                read_model = follow_read_model(path)
            opened.push_async_callback(read_model.close)
            beneath = Beneath(log=log, read_model=read_model, acceptor=acceptor)
            atlas = cls(options, world, beneath, metrics or Metrics())
            opened.pop_all()
            return atlas

    async def start(self, *, patient: bool = False) -> None:
        """Fold the control log, then start whatever runs in the background.

        Args:
            patient: wait for a log that is away, however long.

        Raises:
            Unavailable: the control log cannot be folded.
        """
        self.supervisor.start("control fold", self.registry.run)
        await self._fold_control(patient)
        self.supervisor.start("progress", self.readiness.run)
        if self._acceptor is not None:
            self.supervisor.start("topics", TopicReconciler(self.log, self.registry).run)
            self.supervisor.start("idempotency", self._expire_keys)
        if (projector := self.projector) is not None:
            self.readiness.consumer("projector", projector.lag_records, projector.position)
            self.supervisor.start("projector", projector.run)
        if (deliverer := self.deliverer) is not None:
            self.readiness.queue("deliveries", lambda: deliverer.engine.queued)
            self.readiness.queue("attempts", lambda: deliverer.engine.in_flight())
            self.readiness.consumer("deliverer", deliverer.lag_records, deliverer.position)
            self.readiness.also(deliverer.checks)
            self.supervisor.start("deliverer", deliverer.run)

    async def drain(self) -> None:
        """Start no delivery any more, and give those under way `DRAIN_S` to end; the API goes on."""
        if self.deliverer is not None:
            await self.deliverer.drain(DRAIN_S)

    async def close(self) -> None:
        """Release everything. What is cut off is repeated at the next start."""
        async with AsyncExitStack() as last:
            last.push_async_callback(self.log.close)
            last.push_async_callback(self.read_model.close)
            if self._acceptor is not None:
                last.push_async_callback(self._acceptor.close)
            if self.sender is not None:
                last.push_async_callback(self.sender.close)
            last.push_async_callback(self.supervisor.stop)

    async def stop(self) -> None:
        """Drain, then close."""
        try:
            await self.drain()
        finally:
            await self.close()

    async def _fold_control(self, patient: bool) -> None:
        """Wait for the end of the control log, however long it is, as long as the fold gets on."""
        while True:
            position = self.registry.position
            try:
                return await self.registry.catch_up()
            except Unavailable as error:
                if self.registry.position == position and not (patient and self.registry.failure is None):
                    raise Unavailable(self.registry.not_ready() or error.message) from error

    def _gateway(self) -> Any:
        assert self._acceptor is not None, "a gateway takes events"
        world, options = self.world, self.options
        services = Services(
            clock=world.clock,
            ids=self.ids,
            entropy=world.entropy,
            registry=self.registry,
            acceptor=self._acceptor,
            log=self.log,
            read_model=self.read_model,
            secret_box=AesSecretBox(options.master_key, world.entropy),
            metrics=self.metrics,
            quota_default=options.quota,
            topics_max=options.topics_max,
        )
        return build_app(
            services,
            operator_token_digest=options.operator_token_digest,
            readiness=self.readiness.report,
        )

    def _operations(self) -> Any:
        services = CommonServices(
            clock=self.world.clock,
            ids=self.ids,
            registry=self.registry,
            metrics=self.metrics,
            quota_default=self.options.quota,
        )
        return build_operations_app(services, self.readiness.report)

    def _owner_services(self, sender: Sender) -> OwnerServices:
        world = self.world
        secret_box = AesSecretBox(self.options.master_key, world.entropy)
        attempter = Attempter(self.log, sender, secret_box, world.clock, world.uniform01, self.metrics)
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
        assert self._acceptor is not None
        while True:
            await self._acceptor.expire_keys()
            await asyncio.sleep(_EXPIRE_KEYS_EVERY_S)


def _prepared(world: World | None) -> World:
    """The world given, or the real one; with threads the interpreter is set up for them."""
    world = world or World(clock=SystemClock(_step_refused))
    if world.threads:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _share_arenas()
    return world


async def _provide_topics(log: Log) -> None:
    """The two topics that every installation has; whichever process comes first makes them."""
    await log.create_topic(CONTROL_TOPIC, 1, None)
    await log.create_topic(LIFECYCLE_TOPIC, log.shards, LIFECYCLE_RETENTION_MS)


def _step_refused(step_s: float) -> None:
    log_line.warning("clock step refused", step_s=step_s)


def _share_arenas() -> None:
    """Glibc gives each thread an arena of its own, and memory freed in one is no use to another.

    Measured after 20,000 deliveries: 154 MiB with the default, 135 MiB with one arena.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
