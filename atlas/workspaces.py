"""`atlas workspace`: the operators' API from the shell, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.table import Table

from atlas.client.http import Client
from atlas.jobs_over_http import safe_id
from atlas.terminal import printable

_PATH: Final = "/admin/v1/workspaces"
_PAGE_MAX: Final = 100


def run(url: str, token: str, as_json: bool, action: str, *arguments: Any) -> None:
    """Do one thing and print what came of it: a table, or with `as_json` the answer itself.

    Args:
        action: `create` (name), `list_all`, or `patch` (workspace id, body).

    Raises:
        Refused: the server did not do it.
        Unreachable: no server there.
    """
    do = _ACTIONS[action]

    async def once() -> dict[str, Any]:
        async with Client(url, token) as client:
            return await do(client, *arguments)

    answer = asyncio.run(once())
    if as_json:
        click.echo(orjson.dumps(answer))
    elif action == "list_all":
        _show_table(answer["data"])
    else:
        _show_one(answer)


async def _create(client: Client, name: str) -> dict[str, Any]:
    return (await client.post(_PATH, {"name": name})).value


async def _patch(client: Client, workspace_id: str, body: dict[str, Any]) -> dict[str, Any]:
    return (await client.request("PATCH", f"{_PATH}/{safe_id(workspace_id)}", body)).value


async def _list_all(client: Client) -> dict[str, Any]:
    """All pages as one."""
    data: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await client.get(f"{_PATH}?limit={_PAGE_MAX}{cursor}")
        data += page["data"]
        if not page["has_more"]:
            return {**page, "data": data, "next_cursor": None}
        cursor = f"&cursor={page['next_cursor']}"


_ACTIONS: Final[Mapping[str, Callable[..., Awaitable[dict[str, Any]]]]] = {
    "create": _create,
    "list_all": _list_all,
    "patch": _patch,
}


def _show_table(workspaces: Iterable[dict[str, Any]]) -> None:
    table = Table("id", "name", "status", "live quota", "test quota", "created", box=None, pad_edge=False)
    for each in workspaces:
        quotas = (_quota(each["quota"][environment]) for environment in ("live", "test"))
        table.add_row(each["id"], printable(each["name"]), each["status"], *quotas, each["created_at"])
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1_000  # for whatever reads it: one workspace a line, nothing cut
    console.print(table)


def _show_one(workspace: dict[str, Any]) -> None:
    rows = [(field, workspace[field]) for field in ("id", "name", "status")]
    rows += [(f"{environment} quota", _quota(quota)) for environment, quota in workspace["quota"].items()]
    rows += [(f"{key['environment']} secret key", key["secret"]) for key in workspace.get("keys", [])]
    for name, text in rows:
        click.echo(f"{name:<16} {printable(text)}")
    if workspace.get("keys"):
        click.echo("The keys are shown this once: keep them.")


def _quota(quota: dict[str, int]) -> str:
    return f"{quota['requests_per_minute']}/min, burst {quota['burst']}"
