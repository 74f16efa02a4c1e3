"""The `atlas` command. What a command needs is imported when it runs, so that `atlas --help` is quick.

Exit codes: 0; 1 with one line on stderr when something is not as it must be; 2 for wrong usage.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from atlas.core import limits

SERVERS: Final = ("hypercorn", "uvicorn")
TOKEN_VARIABLE: Final = "ATLAS_OPERATOR_TOKEN"  # noqa: S105  # its name, not a token
URL_DEFAULT: Final = "http://127.0.0.1:8080"


class Failed(click.ClickException):
    """Ends the command with exit code 1 and one line on stderr."""

    def show(self, file: Any = None) -> None:
        click.echo(f"atlas: {self.message}", file=file, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atlas-events", prog_name="atlas")
def main() -> None:
    """Atlas: a self-hosted event pipeline."""


_SERVER: Final = click.option(
    "--server", type=click.Choice(SERVERS), default=SERVERS[0], show_default=True, help="HTTP server."
)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0: any free one."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".atlas"),
    show_default=True,
    help="Log, read model and keys; made if it is not there.",
)
@_SERVER
@click.option(
    "--quota-per-minute",
    type=click.IntRange(1, limits.QUOTA_REQUESTS_PER_MINUTE_MAX),
    default=limits.QUOTA_REQUESTS_PER_MINUTE_DEFAULT,
    show_default=True,
    help="Requests a minute of a workspace without a quota of its own.",
)
@click.option(
    "--quota-burst",
    type=click.IntRange(1, limits.QUOTA_BURST_MAX),
    default=limits.QUOTA_BURST_DEFAULT,
    show_default=True,
    help="Its burst: the size of the bucket.",
)
@click.option("--json", "as_json", is_flag=True, help="Print URL and keys as one line of JSON.")
def dev(
    host: str, port: int, data_dir: Path, server: str, quota_per_minute: int, quota_burst: int, as_json: bool
) -> None:
    """Run all of Atlas in one process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # until the event loop takes them over
        signal.signal(number, _end_quietly)

    from atlas.core.entities import Quota
    from atlas.core.errors import AtlasError
    from atlas.dev import DevOptions, run

    options = DevOptions(
        host=host,
        port=port,
        data_dir=data_dir,
        server=server,
        quota=Quota(quota_per_minute, quota_burst),
        json=as_json,
    )
    try:
        run(options)
    except AtlasError as error:
        raise Failed(str(error)) from error


@main.command()
@_SERVER
@click.option(
    "--keep/--no-keep", default=None, help="Go on serving at the end, until Enter. Default: on a terminal."
)
def demo(server: str, keep: bool | None) -> None:
    """Show Atlas at work on real payloads, in under 30 seconds."""
    from atlas.core.errors import AtlasError
    from atlas.demo import run

    if keep is None:
        keep = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        run(server, keep)
    except AtlasError as error:
        raise Failed(str(error)) from error


def _end_quietly(*_: object) -> NoReturn:
    sys.exit(0)


# --- workspaces


@main.group()
def workspace() -> None:
    """Create, list and limit workspaces of a running Atlas; the operator token is in ATLAS_OPERATOR_TOKEN."""


def _over_http(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--url", default=URL_DEFAULT, show_default=True, help="Where Atlas serves.")(
        command
    )
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(command)


@workspace.command()
@click.argument("name")
@_over_http
def create(name: str, url: str, as_json: bool) -> None:
    """Create a workspace. Its first secret keys are shown, this once."""
    _operate(url, as_json, "create", name)


@workspace.command("list")
@_over_http
def list_(url: str, as_json: bool) -> None:
    """List all workspaces."""
    _operate(url, as_json, "list_all")


@workspace.command()
@click.argument("workspace_id")
@click.option("--environment", type=click.Choice(["live", "test", "both"]), default="both", show_default=True)
@click.option("--requests-per-minute", type=click.IntRange(1, limits.QUOTA_REQUESTS_PER_MINUTE_MAX))
@click.option("--burst", type=click.IntRange(1, limits.QUOTA_BURST_MAX))
@click.option("--default", "to_default", is_flag=True, help="Back to the installation's default.")
@_over_http
def quota(
    workspace_id: str,
    environment: str,
    requests_per_minute: int | None,
    burst: int | None,
    to_default: bool,
    url: str,
    as_json: bool,
) -> None:
    """Set a workspace's quota: both --requests-per-minute and --burst, or --default."""
    given = [number for number in (requests_per_minute, burst) if number is not None]
    if len(given) != (0 if to_default else 2):
        raise click.UsageError("give both --requests-per-minute and --burst, or --default alone")
    environments = ["live", "test"] if environment == "both" else [environment]
    wanted = None if to_default else {"requests_per_minute": requests_per_minute, "burst": burst}
    _operate(url, as_json, "patch", workspace_id, {"quota": dict.fromkeys(environments, wanted)})


@workspace.command()
@click.argument("workspace_id")
@click.option("--undo", is_flag=True, help="Let it in again.")
@_over_http
def suspend(workspace_id: str, undo: bool, url: str, as_json: bool) -> None:
    """Shut a workspace out: its keys open nothing until --undo."""
    _operate(url, as_json, "patch", workspace_id, {"status": "enabled" if undo else "suspended"})


def _operate(url: str, as_json: bool, action: str, *arguments: object) -> None:
    from atlas import workspaces

    _as_operator(lambda token: workspaces.run(url, token, as_json, action, *arguments))


def _as_operator(run: Callable[[str], None]) -> None:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise click.UsageError(f"set {TOKEN_VARIABLE} to the operator token")

    from atlas.core.errors import AtlasError

    try:
        run(token)
    except AtlasError as error:
        raise Failed(str(error)) from error


# --- the read model


@main.command()
@_over_http
def rebuild(url: str, as_json: bool) -> None:
    """Make the read model anew from the log, while Atlas runs."""
    _maintain(url, as_json, "rebuild")


@main.command()
@_over_http
def verify(url: str, as_json: bool) -> None:
    """Compare the read model with one folded from the log; exit code 1 when they differ."""
    _maintain(url, as_json, "verify")


def _maintain(url: str, as_json: bool, action: str) -> None:
    from atlas import maintenance

    _as_operator(lambda token: maintenance.run(url, token, as_json, action))


if __name__ == "__main__":
    main()
