"""`atlas replay`: a bulk replay asked for over HTTP, and watched until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.client.http import Client, Refused, Unreachable

_PATH: Final = "/v1/replays"
_LOOK_EVERY_S: Final = 0.25
#: Looks in a row that may be in vain: 10 s when nobody listens.
_FAILURES_MAX: Final = 40

Watch = Callable[[dict[str, Any]], None]


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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
    )
    begun: dict[str, Any] = {}
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json)
    task = bar.add_task("Replaying", total=None)

    def show(replay: dict[str, Any]) -> None:
        if not begun:
            bar.start()
        begun.update(replay)
        past = replay["replayed"] + replay["skipped"]
        bar.update(task, completed=past, total=replay["matched"] or None)

    try:
        asyncio.run(_until_ended(url, key, criteria, watch, cancel, show))
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


async def _until_ended(
    url: str, key: str, criteria: Mapping[str, Any], watch: str | None, cancel: str | None, show: Watch
) -> None:
    async with Client(url, key) as client:
        if cancel is not None:
            show((await client.post(f"{_PATH}/{_safe(cancel)}/cancel", {})).value)
            return
        if watch is not None:
            replay = await client.get(f"{_PATH}/{_safe(watch)}")
        else:
            replay = (await client.post(_PATH, dict(criteria))).value
        failures = 0
        while replay["status"] == "running":
            show(replay)
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                replay, failures = await client.get(f"{_PATH}/{replay['id']}"), 0
            except (Refused, Unreachable):  # restarted, perhaps; the replay goes on all the same
                failures += 1
                if failures > _FAILURES_MAX:
                    raise
        show(replay)


def _safe(replay_id: str) -> str:
    """An id is letters, digits and _; anything else names no replay, and must not change the path."""
    return "".join(c for c in replay_id if c.isascii() and (c.isalnum() or c == "_")) or "_"
