"""`atlas up`: gateway, projector and deliverers on Kafka, each a process, under one supervisor."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from atlas import lifetime
from atlas.core.errors import AtlasError
from atlas.dev import announce
from atlas.quickstart import Installation
from atlas.runtime.patience import backoff_s
from atlas.runtime.telemetry import Metrics, configure_logging

#: From the signal to the children's end; each of them ends within `lifetime.STOP_MAX_S`.
CHILDREN_STOP_MAX_S: Final = lifetime.STOP_MAX_S - 0.5
#: A process that ran this long was healthy: its next failure starts from the shortest pause.
STABLE_S: Final = 30.0
#: The gateway's holds keys.
_FIRST_LINE_BYTES_MAX: Final = 64 * 1024

log_line = structlog.get_logger()


class UpOptions(Struct, frozen=True, kw_only=True):
    """What the command line sets.

    Attributes:
        gateway, projector: arguments of each command.
        deliverers: of each of them.
        addresses: that they will listen at: host, port, and what sets the port.
    """

    gateway: Sequence[str]
    projector: Sequence[str]
    deliverers: Sequence[Sequence[str]]
    addresses: Sequence[tuple[str, int, str]]
    json: bool


def run(options: UpOptions) -> None:
    """Run until SIGTERM or SIGINT, or until the gateway cannot even start.

    Raises:
        AtlasError: it could not.
    """
    lifetime.run(lambda stop: _main(options, stop))


async def _main(options: UpOptions, stop: asyncio.Event) -> None:
    log_lines = configure_logging(Metrics())
    try:
        await lifetime.unless_stopped(stop, _run(options))
    except BaseExceptionGroup as several:
        known = several.subgroup(AtlasError)
        if known is None:
            raise
        raise known.exceptions[0] from None  # a child has said why, or we do
    finally:
        log_lines.close()


async def _run(options: UpOptions) -> None:
    # A gateway that comes up while another part cannot would supersede another installation's key index.
    for host, port, option in options.addresses:
        with lifetime.Address(host, port, option):
            pass
    gateway = Child("gateway", ["gateway", *options.gateway, "--first-workspace"])
    projector = Child("projector", ["projector", *options.projector])
    deliverers = [
        Child(f"deliverer {number}", ["deliverer", *arguments])
        for number, arguments in enumerate(options.deliverers, 1)
    ]
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.keep())
        group.create_task(gateway.keep())
        installation = await gateway.first_line()  # it makes the master key that deliverers need
        for child in deliverers:
            group.create_task(child.keep())
        for child in (projector, *deliverers):
            line = await child.first_line()
            log_line.info("process serves", process=child.name, url=msgspec.json.decode(line)["url"])
        announce(msgspec.json.decode(installation, type=Installation), options.json)


class Child:
    """One process, started again whenever it ends. It ends with us: its stdin is a pipe that we hold."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name, self._arguments = name, arguments
        self._line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def first_line(self) -> bytes:
        """What it first said on stdout.

        Raises:
            AtlasError: it ended before it said anything; why is on stderr.
        """
        return await asyncio.shield(self._line)

    async def keep(self) -> None:
        """Run it for ever; cancelled, it is told to end, and waited for."""
        loop, tries = asyncio.get_running_loop(), 0
        while True:
            started_s = loop.time()
            code = await self._run()
            if not self._line.done():
                self._line.set_exception(AtlasError(f"the {self.name} did not start (exit code {code})"))
            tries = 0 if loop.time() - started_s >= STABLE_S else tries + 1
            log_line.error("process ended, started again", process=self.name, exit_code=code)
            await asyncio.sleep(backoff_s(tries))

    async def _run(self) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "atlas.cli", *self._arguments, "--json", "--supervised",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_FIRST_LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C is for us; we tell them
        )  # fmt: skip
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                if not self._line.done():
                    self._line.set_result(line)
            return await process.wait()
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, and see to it."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(CHILDREN_STOP_MAX_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
