"""`atlas rebuild` and `atlas verify`: asked for over HTTP, and watched until they are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import click
import orjson

from atlas.client.http import Client
from atlas.core.errors import AtlasError
from atlas.jobs_over_http import Job, progress_bar, until_ended

_PATHS: Final = {"rebuild": "/admin/v1/rebuilds", "verify": "/admin/v1/verify"}


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


def _watched(url: str, token: str, action: str, as_json: bool) -> Job:
    with progress_bar("records", disable=as_json) as bar:
        task = bar.add_task("Folding the log", total=None)

        def show(job: Job) -> None:
            bar.update(task, completed=job["records_folded"], total=job["records_total"] or None)

        return asyncio.run(_asked_for(url, token, _PATHS[action], show))


async def _asked_for(url: str, token: str, path: str, show: Callable[[Job], None]) -> Job:
    async with Client(url, token) as client:
        return await until_ended(client, path, (await client.post(path, {})).value, show)


def _tell(differences: list[dict[str, Any]], as_json: bool) -> None:
    where = {"live": "only in the read model", "rebuilt": "only in the log", "both": "not the same"}
    for each in differences:
        key = " ".join(str(part) for part in each["key"])
        line = f"{each['table']:<12} {each['scope'] or '-'} {key}: {where[each['where']]}"
        click.echo(line, err=as_json)
