"""What runs on the server after it was asked for, watched from the shell until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import click
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.client.http import Client, Refused, Unreachable
from atlas.core.errors import AtlasError

#: Looks in vain are further and further apart, up to this.
LOOK_EVERY_S: Final = 0.25
LOOK_EVERY_MAX_S: Final = 5.0
#: How long looks may be in vain, all of them. A job outlives its server: one that is started again on a
#: long log answers 503 for minutes.
PATIENCE_S: Final = 300.0
#: As every shell says of what SIGINT ended.
INTERRUPTED: Final = 130

_COME_AGAIN: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

Job = dict[str, Any]


class Kind(Struct, frozen=True):
    """A kind of jobs.

    Attributes:
        command: what asks for one.
        path: one is at its id below.
        title: of the bar, with so many of so many `unit`.
        past: how many of them a job is through.
        total: and of how many; 0 until that is known.
        can_be_stopped: with `--cancel`.
    """

    command: str
    path: str
    title: str
    unit: str
    past: Callable[[Job], int]
    total: Callable[[Job], int]
    can_be_stopped: bool = False

    async def start(self, client: Client, body: object) -> Job:
        """Ask for one; raises as the client."""
        return (await client.post(self.path, body)).value

    async def look(self, client: Client, job_id: str) -> Job:
        """The one that somebody named; raises as the client."""
        return await client.get(f"{self.path}/{safe_id(job_id)}")

    def hint(self, job_id: str) -> str:
        """How to see it again."""
        stop = f", `atlas {self.command} --cancel {job_id}` stops it" if self.can_be_stopped else ""
        return f"`atlas {self.command} --watch {job_id}` shows it{stop}"


def watch(kind: Kind, url: str, token: str, ask: Callable[[Client], Awaitable[Job]], *, quiet: bool) -> Job:
    """Show how far a job is until it has ended, and return it as it is then.

    Args:
        ask: asks for it, or finds one that was asked for.
        quiet: without a bar.

    Raises:
        Refused: the server does not do it.
        Unreachable: no server there.
        AtlasError: nobody can tell any more how far it is.
        click.exceptions.Exit: on Ctrl-C; the job goes on, and how to see it again has been said.
    """
    latest: Job = {}
    bar = _progress_bar(kind.unit, disable=quiet)
    task = bar.add_task(kind.title, total=None)

    def show(job: Job) -> None:
        if not latest:
            bar.start()
        latest.update(job)
        bar.update(task, completed=kind.past(job), total=kind.total(job) or None)

    async def to_its_end() -> None:
        async with Client(url, token) as client:
            job = await ask(client)
            await until_ended(lambda: kind.look(client, job["id"]), job, show)

    try:
        try:
            asyncio.run(to_its_end())
        finally:
            if latest:
                bar.stop()
    except KeyboardInterrupt:
        if not latest:
            raise
        click.echo(f"{latest['id']} goes on; {kind.hint(latest['id'])}.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (Refused, Unreachable) as error:
        if not latest:
            raise
        why = str(error).rstrip(".")
        raise AtlasError(f"{why}; {latest['id']} may go on: {kind.hint(latest['id'])}") from error
    return latest


async def until_ended(look: Callable[[], Awaitable[Job]], job: Job, show: Callable[[Job], None]) -> Job:
    """Look at the job again and again, and show it each time, until its status is another than `running`.

    Args:
        look: the job as it is now.
        job: as it was when it was asked for.

    Raises:
        Refused: it will not be shown, however often one asks.
        Refused, Unreachable: all looks for `PATIENCE_S` were in vain.
    """
    now_s = asyncio.get_running_loop().time
    pause_s, answered_at_s = LOOK_EVERY_S, now_s()
    while job["status"] == "running":
        show(job)
        await asyncio.sleep(pause_s)
        try:
            job = await look()
        except (Refused, Unreachable) as error:
            if _is_final(error) or now_s() - answered_at_s >= PATIENCE_S:
                raise
            pause_s = min(2 * pause_s, LOOK_EVERY_MAX_S)
        else:
            pause_s, answered_at_s = LOOK_EVERY_S, now_s()
    show(job)
    return job


def safe_id(given: str) -> str:
    """An id is letters, digits and _; anything else names nothing, and must not change the path."""
    return "".join(c for c in given if c.isascii() and (c.isalnum() or c == "_")) or "_"


def _is_final(error: Refused | Unreachable) -> bool:
    """A server that cannot tell now may be about to start, and the job goes on all the same."""
    return (
        isinstance(error, Refused)
        and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        and error.status not in _COME_AGAIN
    )


def _progress_bar(unit: str, disable: bool) -> Progress:
    """A bar on stderr that leaves nothing behind, with so many of so many `unit`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=disable)
