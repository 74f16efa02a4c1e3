"""`atlas replay`: a bulk replay asked for over HTTP, and watched until it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click
import orjson

from atlas.client.http import Client
from atlas.jobs_over_http import Job, Kind, safe_id, watch

_REPLAY: Final = Kind(
    command="replay",
    path="/v1/replays",
    title="Replaying",
    unit="events",
    past=lambda replay: replay["replayed"] + replay["skipped"],
    total=lambda replay: replay["matched"],
    can_be_stopped=True,
)


def run(
    url: str,
    key: str,
    as_json: bool,
    criteria: Mapping[str, Any],
    watched: str | None = None,
    cancelled: str | None = None,
) -> None:
    """Start a replay, or take up one, show how far it is, and print what came of it.

    Args:
        criteria: the body that starts one; not sent when one is to be watched or cancelled.

    Raises:
        Refused: the server does not do it.
        Unreachable: no server there.
        AtlasError, click.exceptions.Exit: as `watch`.
    """

    async def ask(client: Client) -> Job:
        if cancelled is not None:
            return (await client.post(f"{_REPLAY.path}/{safe_id(cancelled)}/cancel", {})).value
        if watched is not None:
            return await _REPLAY.look(client, watched)
        return await _REPLAY.start(client, dict(criteria))

    replay = watch(_REPLAY, url, key, ask, quiet=as_json)
    if as_json:
        click.echo(orjson.dumps(replay))
        return
    click.echo(
        f"{replay['id']} {replay['status']}: {replay['matched']:,} events matched, "
        f"{replay['replayed']:,} replayed, {replay['skipped']:,} skipped."
    )
