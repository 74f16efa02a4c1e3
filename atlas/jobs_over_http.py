"""What runs on the server after it was asked for, watched from the shell until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.client.http import Client, Refused, Unreachable

_LOOK_EVERY_S: Final = 0.25
#: Looks in a row that may be in vain: 10 s when nobody listens.
_FAILURES_MAX: Final = 40

Job = dict[str, Any]


def progress_bar(unit: str, disable: bool) -> Progress:
    """A bar on stderr that leaves nothing behind, with so many of so many `unit`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=disable)


async def until_ended(client: Client, path: str, job: Job, show: Callable[[Job], None]) -> Job:
    """Look at the job again and again, and show it each time, until its status is another than `running`.

    Args:
        path: of its kind; the job is at its id below.
        job: as it was when it was asked for.

    Raises:
        Refused, Unreachable: too many looks in a row were in vain.
    """
    failures = 0
    while job["status"] == "running":
        show(job)
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            job, failures = await client.get(f"{path}/{job['id']}"), 0
        except (Refused, Unreachable):  # restarted, perhaps; the job goes on all the same
            failures += 1
            if failures > _FAILURES_MAX:
                raise
    show(job)
    return job


def safe_id(given: str) -> str:
    """An id is letters, digits and _; anything else names nothing, and must not change the path."""
    return "".join(c for c in given if c.isascii() and (c.isalnum() or c == "_")) or "_"
