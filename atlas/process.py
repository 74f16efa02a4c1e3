"""One process of Atlas: its roles, over the ports. `atlas.bootstrap` brings the adapters."""

from __future__ import annotations

import asyncio
import enum
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from msgspec import Struct

from atlas.core.addresses import Network
from atlas.core.entities import Quota
from atlas.core.errors import Unavailable
from atlas.core.ids import IdSource
from atlas.core.limits import QUOTA_BURST_DEFAULT, QUOTA_REQUESTS_PER_MINUTE_DEFAULT, TOPICS_MAX_DEFAULT
from atlas.gateway.app import build_app, build_operations_app
from atlas.gateway.call import CommonServices, Services
from atlas.ports.acceptor import Acceptor
from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.ports.secret_box import SecretBox
from atlas.ports.sender import Sender
from atlas.ports.stores import Stores
from atlas.runtime.attempt import Attempter
from atlas.runtime.engine import Engine
from atlas.runtime.owner_services import OwnerServices
from atlas.runtime.producer_log import ProducerLog
from atlas.runtime.readiness import Readiness
from atlas.runtime.registry import Registry
from atlas.runtime.sealed import check_master_key
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from atlas.runtime.topics import TopicReconciler
from consumers.deliverer import Deliverer
from consumers.keeper import Keeper
from consumers.projector import Projector

#: How long attempts under way may take to end when Atlas stops; SIGTERM to exit is 5 s in all.
DRAIN_S: Final = 2.5
_EXPIRE_KEYS_EVERY_S: Final = 600.0


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

    def not_ready(self) -> str | None:
        """Why keyed events are refused now; None when they are taken."""

    async def expire_keys(self) -> None:
        """Drop keys whose time is over; called now and then."""

    async def close(self) -> None:
        """Finish what is under way."""


#: Opens the acceptor once the control log is folded to its end.
OpenAcceptor = Callable[[ProducerLog], Awaitable[KeepingAcceptor]]


class Beneath(Struct, frozen=True, kw_only=True):
    """What a process stands on.

    Attributes:
        stores: where the read model is written, to make it anew beside itself.
        open_acceptor: where events are taken.
        sender: where they are sent.
        secret_box: where there is either.
    """

    log: Log
    read_model: ReadModel
    secret_box: SecretBox | None = None
    stores: Stores | None = None
    open_acceptor: OpenAcceptor | None = None
    sender: Sender | None = None


class Atlas:
    """One process of Atlas: all of it, or some of its roles.

    Attributes:
        app: the ASGI application: the whole API, or the paths for operators alone; there once it is started.
        deliverer, projector: None in a process that is none.
    """

    def __init__(self, options: Options, world: World, beneath: Beneath, metrics: Metrics) -> None:
        self.options, self.world, self.metrics = options, world, metrics
        self.log, self.read_model, self.sender = beneath.log, beneath.read_model, beneath.sender
        self._secret_box, self._open_acceptor = beneath.secret_box, beneath.open_acceptor
        self._acceptor: KeepingAcceptor | None = None
        self.app: Any = None
        self.registry = Registry(self.log, world.clock)
        self.supervisor = Supervisor(world.clock, metrics)
        self.ids = IdSource(world.entropy, world.clock.now_ms)
        self.readiness = Readiness(
            self.log, self.registry, self.read_model, self.supervisor, world.clock, metrics
        )
        self.projector: Projector | None = None
        self.deliverer: Deliverer | None = None
        if Role.PROJECTOR in options.roles:
            self.projector = Projector(self.log, self.read_model, self.registry, world.clock, metrics)
        self.keeper = self._keeper(beneath.stores)
        if self.sender is not None:
            self.deliverer = Deliverer(self._owner_services(self.sender))

    async def start(self, *, patient: bool = False) -> None:
        """Fold the control log, then start whatever runs in the background.

        Args:
            patient: wait for a log that is away, however long.

        Raises:
            Unavailable: the control log cannot be folded.
            AtlasError: the master key is another installation's.
        """
        self.supervisor.start("control fold", self.registry.run)
        await self._fold_control(patient)
        if self._secret_box is not None:
            check_master_key(self.registry.state, self._secret_box)
        if self._open_acceptor is None:
            self.app = self._operations()
        else:
            producers = ProducerLog(self.registry, self.ids, self.world.clock)
            self._acceptor = await self._open_acceptor(producers)
            self.readiness.also(self._takes_keys)
            self.app = self._gateway(self._acceptor)
        self.supervisor.start("progress", self.readiness.run)
        if self._acceptor is not None:
            self.supervisor.start("topics", TopicReconciler(self.log, self.registry).run)
            self.supervisor.start("idempotency", self._expire_keys)
        if (projector := self.projector) is not None:
            self.readiness.consumer("projector", projector.lag_records, projector.position)
            self.supervisor.start("projector", projector.run)
        if self.keeper is not None:
            self.supervisor.start("keeper", self.keeper.run)
        if (deliverer := self.deliverer) is not None:
            self.readiness.queue("deliveries", lambda: deliverer.engine.queued)
            self.readiness.queue("attempts", lambda: deliverer.engine.in_flight())
            self.metrics.breakers_open.set_function(lambda: deliverer.engine.breakers_open())
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

    def _keeper(self, stores: Stores | None) -> Keeper | None:
        if self.projector is None or stores is None:
            return None
        return Keeper(self.log, self.read_model, stores, self.projector, self.registry, self.world.clock)

    async def _takes_keys(self) -> dict[str, str]:
        assert self._acceptor is not None
        return {"idempotency": self._acceptor.not_ready() or "ok"}

    def _gateway(self, acceptor: Acceptor) -> Any:
        assert self._secret_box is not None
        world, options = self.world, self.options
        services = Services(
            clock=world.clock,
            ids=self.ids,
            entropy=world.entropy,
            registry=self.registry,
            acceptor=acceptor,
            log=self.log,
            read_model=self.read_model,
            secret_box=self._secret_box,
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
        assert self._secret_box is not None
        world = self.world
        attempter = Attempter(self.log, sender, self._secret_box, world.clock, world.uniform01, self.metrics)
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
