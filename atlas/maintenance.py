"""`atlas rebuild` and `atlas verify`: asked for over HTTP, and watched until they are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.client.http import Client, Refused, Unreachable
from atlas.core.errors import AtlasError

_PATHS: Final = {"rebuild": "/admin/v1/rebuilds", "verify": "/admin/v1/verify"}
_LOOK_EVERY_S: Final = 0.25
#: Looks in a row that may be in vain: 10 s when nobody listens.
_FAILURES_MAX: Final = 40

Watch = Callable[[dict[str, Any]], None]


def run(url: str, token: str, as_json: bool, action: str) -> None:
    """Have it done, show how far it is, and print what came of it; with `as_json` the answer itself.

    Args:
        action: `rebuild` or `verify`.

    Raises:
        Refused: the server does not do it.
        Unreachable: no server there.
        AtlasError: it failed, or the verification found a difference.
    """
    job = _watched(url, token, action, as_json)
    if as_json:
        click.echo(orjson.dumps(job))
    if job["status"] == "failed":
        raise AtlasError(f"{job['id']} failed: {job['error']}")
    if action == "rebuild":
        said = f"The read model is new, from {job['records_folded']:,} records."
    else:
        said = f"The read model equals the log: {job['live_digest']}"
        if not job["equal"]:
            _tell(job["differences"], as_json)
            raise AtlasError("the read model differs from the log; `atlas rebuild` makes it anew")
    if not as_json:
        click.echo(said)


def _watched(url: str, token: str, action: str, as_json: bool) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("Folding the log", total=None)

        def show(job: dict[str, Any]) -> None:
            bar.update(task, completed=job["records_folded"], total=job["records_total"] or None)

        return asyncio.run(_until_done(url, token, action, show))


async def _until_done(url: str, token: str, action: str, show: Watch) -> dict[str, Any]:
    path = _PATHS[action]
    async with Client(url, token) as client:
        job = (await client.post(path, {})).value
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


def _tell(differences: list[dict[str, Any]], as_json: bool) -> None:
    where = {"live": "only in the read model", "rebuilt": "only in the log", "both": "not the same"}
    for each in differences:
        key = " ".join(str(part) for part in each["key"])
        line = f"{each['table']:<12} {each['scope'] or '-'} {key}: {where[each['where']]}"
        click.echo(line, err=as_json)
