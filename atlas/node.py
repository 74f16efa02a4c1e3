"""One process of Atlas on Kafka: `atlas gateway`, `atlas projector`, `atlas deliverer`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import orjson
import structlog
from msgspec import Struct

from atlas import lifetime
from atlas.bootstrap import (
    Atlas,
    DataDirectory,
    KafkaSettings,
    Options,
    Role,
    lock_gateway,
    lock_projector,
    open_on_kafka,
)
from atlas.core.addresses import Network
from atlas.core.entities import Quota
from atlas.core.tokens import digest
from atlas.dev import installed
from atlas.installation_secrets import master_key, operator_token
from atlas.runtime.patience import patiently
from atlas.runtime.telemetry import Metrics, configure_logging

log_line = structlog.get_logger()


class NodeOptions(Struct, frozen=True, kw_only=True):
    """What the command line sets.

    Attributes:
        host, port: of the API, or of the paths for operators.
        port_flag: what sets the port.
        first_workspace: make the workspace `default` if there is none, and print its keys.
        supervised: end when stdin does: whoever started this process is gone then.
    """

    role: Role
    kafka: KafkaSettings
    data_dir: Path
    host: str
    port: int
    port_flag: str
    server: str
    quota: Quota = Options().quota
    topics_max: int = Options().topics_max
    allow_networks: tuple[Network, ...] = ()
    json: bool = False
    first_workspace: bool = False
    supervised: bool = False


def run(options: NodeOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        AtlasError: with one line for people.
    """
    lifetime.run(lambda stop: _main(options, stop))


async def _main(options: NodeOptions, stop: asyncio.Event) -> None:
    metrics = Metrics()
    log_lines = configure_logging(metrics)
    if options.supervised:
        _end_with_stdin()
    try:
        async with contextlib.AsyncExitStack() as held:
            serve = await lifetime.unless_stopped(stop, _start(options, metrics, held))
            if serve is not None:
                await serve(stop)  # what is under way may end: only the start is cut off
    finally:
        log_lines.close()


async def _start(
    options: NodeOptions, metrics: Metrics, held: contextlib.AsyncExitStack
) -> Callable[[asyncio.Event], Awaitable[None]]:
    """Start all of it; returns what serves until its event is set."""
    # First of all: a gateway that cannot serve must not supersede another one's key index.
    address = held.enter_context(lifetime.Address(options.host, options.port, options.port_flag))
    token = await _own(options, held)
    installation = Options(
        master_key=b"" if options.role is Role.PROJECTOR else _master_key(options),
        operator_token_digest=digest(token),
        quota=options.quota,
        topics_max=options.topics_max,
        allow_networks=options.allow_networks,
        roles=options.role,
    )
    atlas = await patiently(lambda: open_on_kafka(options.kafka, options.data_dir, installation, metrics))
    held.push_async_callback(atlas.close)
    await atlas.start(patient=True)
    say = await _announcement(options, atlas, address.url, token)
    return lambda stop: lifetime.serve_until_stopped(atlas, address, options.server, stop, say)


async def _own(options: NodeOptions, held: contextlib.AsyncExitStack) -> str:
    """Own what the role alone may write, for as long as this process lives; a gateway's operator token.

    A projector waits for its turn; a second gateway is refused, for its key index is another's.
    """
    directory = held.enter_context(DataDirectory(options.data_dir, shared=True)).path
    if options.role is Role.PROJECTOR:
        held.enter_context(await lock_projector(directory, _standing_by))
    if options.role is Role.GATEWAY:
        held.enter_context(lock_gateway(directory))
        return operator_token(directory)
    return ""


def _master_key(options: NodeOptions) -> bytes:
    return master_key(options.data_dir, make=options.role is Role.GATEWAY)


async def _announcement(options: NodeOptions, atlas: Atlas, url: str, token: str) -> Callable[[], None]:
    """What to say, and how, once this process serves."""
    if options.first_workspace:
        running = await installed(atlas, options.data_dir, url, token)
        return lambda: lifetime.say(msgspec.json.encode(running).decode() + "\n")
    role = str(options.role.name).lower()
    if options.json:
        return lambda: lifetime.say(orjson.dumps({"role": role, "url": url}).decode() + "\n")
    return lambda: lifetime.say(f"atlas {role} serves at {url}\n")


def _standing_by(why: str) -> None:
    log_line.info("projector stands by", reason=why)


def _end_with_stdin() -> None:
    """As if SIGTERM came when whoever holds the other end of stdin is gone."""
    stdin = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 4_096):
            asyncio.get_running_loop().remove_reader(stdin)
            os.kill(os.getpid(), signal.SIGTERM)

    asyncio.get_running_loop().add_reader(stdin, readable)
