"""`atlas replay`: a bulk replay asked for over HTTP, and watched until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
import orjson

from atlas.client.http import Client
from atlas.jobs_over_http import Job, progress_bar, safe_id, until_ended

_PATH: Final = "/v1/replays"


def run(
    url: str,
    key: str,
    as_json: bool,
    criteria: Mapping[str, Any],
    watch: str | None = None,
    cancel: str | None = None,
) -> None:
    """Start a replay, or take up one, show how far it is, and print what came of it.

    Args:
        criteria: the body that starts one; not sent with `watch` or `cancel`, which name one.

    Raises:
        Refused: the server does not do it.
        Unreachable: no server there.
    """
    begun: Job = {}
    bar = progress_bar("events", disable=as_json)
    task = bar.add_task("Replaying", total=None)

    def show(replay: Job) -> None:
        if not begun:
            bar.start()
        begun.update(replay)
        past = replay["replayed"] + replay["skipped"]
        bar.update(task, completed=past, total=replay["matched"] or None)

    try:
        asyncio.run(_ended(url, key, criteria, watch, cancel, show))
    except KeyboardInterrupt:
        if not begun:
            raise
        bar.stop()
        said = f"{begun['id']} goes on; --watch {begun['id']} shows it, --cancel {begun['id']} stops it."
        click.echo(said, err=True)
        return
    finally:
        if begun:
            bar.stop()
    if as_json:
        click.echo(orjson.dumps(begun))
        return
    click.echo(
        f"{begun['id']} {begun['status']}: {begun['matched']:,} events matched, "
        f"{begun['replayed']:,} replayed, {begun['skipped']:,} skipped."
    )


async def _ended(
    url: str,
    key: str,
    criteria: Mapping[str, Any],
    watch: str | None,
    cancel: str | None,
    show: Callable[[Job], None],
) -> None:
    async with Client(url, key) as client:
        if cancel is not None:
            show((await client.post(f"{_PATH}/{safe_id(cancel)}/cancel", {})).value)
            return
        if watch is not None:
            replay = await client.get(f"{_PATH}/{safe_id(watch)}")
        else:
            replay = (await client.post(_PATH, dict(criteria))).value
        await until_ended(client, _PATH, replay, show)
