"""`atlas rebuild` and `atlas verify`: asked for over HTTP, and watched until they are done."""

from __future__ import annotations

from typing import Any, Final

import click
import orjson

from atlas.client.http import Client
from atlas.core.errors import AtlasError
from atlas.jobs_over_http import Job, Kind, watch
from atlas.terminal import printable

_PATHS: Final = {"rebuild": "/admin/v1/rebuilds", "verify": "/admin/v1/verify"}


def run(url: str, token: str, as_json: bool, action: str, watched: str | None = None) -> None:
    """Have it done, show how far it is, and print what came of it; with `as_json` the answer itself.

    Args:
        action: `rebuild` or `verify`.
        watched: one that was asked for before; nothing is asked for now.

    Raises:
        Refused: the server does not do it.
        Unreachable: no server there.
        AtlasError: it failed, or the verification found a difference; or as `watch`.
        click.exceptions.Exit: as `watch`.
    """
    kind = _kind(action)

    async def ask(client: Client) -> Job:
        return await (kind.start(client, {}) if watched is None else kind.look(client, watched))

    job = watch(kind, url, token, ask, quiet=as_json)
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


def _kind(action: str) -> Kind:
    return Kind(
        command=action,
        path=_PATHS[action],
        title="Folding the log",
        unit="records",
        past=lambda job: int(job["records_folded"]),
        total=lambda job: int(job["records_total"]),
    )


def _tell(differences: list[dict[str, Any]], as_json: bool) -> None:
    where = {"live": "only in the read model", "rebuilt": "only in the log", "both": "not the same"}
    for each in differences:
        key = " ".join(str(part) for part in each["key"])
        line = f"{each['table']:<12} {each['scope'] or '-'} {key}: {where[each['where']]}"
        click.echo(printable(line), err=as_json)
