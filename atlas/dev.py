"""`atlas dev`: everything in one process on the embedded log."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import orjson
from msgspec import Struct
from rich.console import Console

from atlas import lifetime
from atlas.bootstrap import Atlas, DataDirectory, Options, open_embedded
from atlas.core.addresses import LOOPBACK
from atlas.core.entities import Quota
from atlas.core.tokens import digest
from atlas.first_workspace import ensure_first_workspace
from atlas.installation_secrets import master_key, operator_token
from atlas.quickstart import STREAM, Installation, show
from atlas.runtime.telemetry import Metrics, configure_logging

#: What `--json` prints, in this order.
JSON_FIELDS: Final = ("url", "workspace_id", "live_secret_key", "test_secret_key", "operator_token")


class DevOptions(Struct, frozen=True, kw_only=True):
    """What the command line sets."""

    host: str
    port: int
    data_dir: Path
    server: str
    quota: Quota
    topics_max: int
    json: bool


class Secrets(Struct, frozen=True):
    """Of the installation."""

    master_key: bytes
    operator_token: str


def run(options: DevOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        AtlasError: with one line for people: the data directory is in use, the port is taken, ...
    """
    with contextlib.ExitStack() as held:
        held.enter_context(DataDirectory(options.data_dir))
        secrets = Secrets(master_key(options.data_dir), operator_token(options.data_dir))
        address = held.enter_context(lifetime.Address(options.host, options.port))
        lifetime.run(lambda stop: _main(options, secrets, address, stop))


async def _main(
    options: DevOptions, secrets: Secrets, address: lifetime.Address, stop: asyncio.Event
) -> None:
    installation = Options(
        master_key=secrets.master_key,
        operator_token_digest=digest(secrets.operator_token),
        quota=options.quota,
        topics_max=options.topics_max,
        allow_networks=LOOPBACK,
    )
    metrics = Metrics()
    log_lines = configure_logging(metrics)
    try:
        atlas = await open_embedded(options.data_dir, installation, metrics=metrics)
        try:
            await atlas.start()
            running = await installed(atlas, options.data_dir, address.url, secrets.operator_token)
            await lifetime.serve_until_stopped(
                atlas, address, options.server, stop, lambda: announce(running, options.json)
            )
        finally:
            await atlas.close()
    finally:
        log_lines.close()


async def installed(atlas: Atlas, data_dir: Path, url: str, token: str) -> Installation:
    """What a newcomer needs to know of this installation; its first workspace is made if need be."""
    workspace = await ensure_first_workspace(atlas, data_dir)
    streams = atlas.registry.state.streams.get((workspace.workspace_id, "live"), {})
    return Installation(
        url=url,
        data_dir=str(data_dir),
        workspace_id=workspace.workspace_id,
        live_secret_key=workspace.live.secret,
        test_secret_key=workspace.test.secret,
        operator_token=token,
        step_1_done=STREAM in streams,
    )


def announce(running: Installation, as_json: bool) -> None:
    """Print it, for people or for scripts."""
    if as_json:
        text = orjson.dumps({name: getattr(running, name) for name in JSON_FIELDS}).decode() + "\n"
    else:
        console = Console(highlight=False)
        with console.capture() as captured:
            show(console, running)
        text = captured.get()
    lifetime.say(text)
