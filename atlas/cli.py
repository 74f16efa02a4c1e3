"""The `atlas` command. What a command needs is imported when it runs, so that `atlas --help` is quick.

Exit codes: 0; 1 with one line on stderr when something is not as it must be; 2 for wrong usage; 130 when
Ctrl-C ended the watching of what goes on.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import click
from click.core import ParameterSource

from atlas.core import limits
from atlas.settings import API_KEY_VARIABLE, SERVERS, TOKEN_VARIABLE, settings_of
from atlas.terminal import printable

URL_DEFAULT: Final = "http://127.0.0.1:8080"


class Failed(click.ClickException):
    """Ends the command with exit code 1 and one line on stderr."""

    def show(self, file: Any = None) -> None:
        click.echo(f"atlas: {printable(self.message)}", file=file, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atlas-events", prog_name="atlas")
@click.pass_context
def main(context: click.Context) -> None:
    """Atlas: a self-hosted event pipeline."""
    # What imports make stays: looking through it for garbage took a fifth of the start.
    gc.disable()
    context.call_on_close(gc.enable)


# --- what runs Atlas

_JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print where it serves as a line of JSON."
)
_SUPERVISED: Final = click.option("--supervised", is_flag=True, hidden=True)


@main.command()
@settings_of("dev")
@click.option("--json", "as_json", is_flag=True, help="Print URL and keys as one line of JSON.")
def dev(quota_per_minute: int, quota_burst: int, as_json: bool, **given: Any) -> None:
    """Run all of Atlas in one process, on the embedded log."""
    _end_quietly_until_the_loop_runs()
    from atlas.core.entities import Quota
    from atlas.dev import DevOptions, run

    options = DevOptions(quota=Quota(quota_per_minute, quota_burst), json=as_json, **given)
    _or_fail(lambda: run(options))


@main.command()
@settings_of("gateway")
@_JSON
@_SUPERVISED
@click.option("--first-workspace", is_flag=True, hidden=True)
def gateway(**given: Any) -> None:
    """Run the gateway on Kafka: the HTTP API.

    It takes events, and answers from the read model, which a projector on the same machine keeps in the same
    --data-dir. One gateway runs over a data directory: its key index there is what makes retries safe.
    """
    _node("gateway", given)


@main.command()
@settings_of("projector")
@_JSON
@_SUPERVISED
def projector(**given: Any) -> None:
    """Run the projector on Kafka: it folds the log into the read model.

    The read model is a file in --data-dir, so that the gateway, the deliverers and all projectors over it
    must run on one machine for now. A second projector stands by, and takes over when the first one ends.
    """
    _node("projector", given)


@main.command()
@settings_of("deliverer")
@_JSON
@_SUPERVISED
def deliverer(**given: Any) -> None:
    """Run a deliverer on Kafka: it delivers events to their targets.

    As many as you like; they share the shards. Retries that wait lie in the read model, so that each must
    run on the projector's machine for now, with the same --data-dir.
    """
    _node("deliverer", given)


@main.command()
@settings_of("up")
@click.option("--json", "as_json", is_flag=True, help="Print URL and keys as one line of JSON.")
def up(as_json: bool, deliverers: int, **given: Any) -> None:
    """Run all of Atlas on Kafka, each part its own process, on one machine.

    Parts that end are started again. On this machine's own addresses deliveries are allowed, as with
    `atlas dev`.
    """
    _end_quietly_until_the_loop_runs()
    from atlas.node_options import up_options
    from atlas.up import run

    options = up_options(given, deliverers=deliverers, as_json=as_json)
    _or_fail(lambda: run(options))


@main.command()
@settings_of("config")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def config(context: click.Context, /, as_json: bool, **_given: Any) -> None:
    """Show every setting: its value in force, and where that came from. Secrets are masked."""
    from atlas.config_report import show

    show(context, as_json)


def _node(command: str, given: dict[str, Any]) -> None:
    _end_quietly_until_the_loop_runs()
    from atlas.node import run
    from atlas.node_options import node_options

    options = node_options(command, given)
    _or_fail(lambda: run(options))


@main.command()
@click.option(
    "--server", type=click.Choice(SERVERS), default=SERVERS[0], show_default=True, help="HTTP server."
)
@click.option(
    "--keep/--no-keep", default=None, help="Go on serving at the end, until Enter. Default: on a terminal."
)
def demo(server: str, keep: bool | None) -> None:
    """Show Atlas at work on real payloads, in under 30 seconds."""
    from atlas.demo import run

    if keep is None:
        keep = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    _or_fail(lambda: run(server, keep))


def _or_fail(work: Callable[[], None]) -> None:
    from atlas.core.errors import AtlasError

    gc.enable()
    try:
        work()
    except AtlasError as error:
        raise Failed(str(error)) from error


def _end_quietly_until_the_loop_runs() -> None:
    """Whoever is ended while it starts has done nothing wrong; the log and all else bear being cut off."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_quietly)


def _end_quietly(*_: object) -> NoReturn:
    # Not an exception: where it was raised in a callback of an import, Python only wrote it down.
    os._exit(0)


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

    _or_fail(lambda: run(token))


# --- deliveries

_WATCH: Final = click.option("--watch", metavar="ID", help="Start nothing: show how far this one is.")


@main.command()
@click.option("--stream", help="Events of this stream.")
@click.option("--type", "event_type", help="Events of this type.")
@click.option("--status", type=click.Choice(["delivered", "failed"]), help="What ended so, and nothing else.")
@click.option("--workflow", "workflow_ids", multiple=True, help="Routes to this workflow; repeatable.")
@click.option("--received-after", help="RFC 3339, inclusive.")
@click.option("--received-before", help="RFC 3339, exclusive.")
@click.option(
    "--rate",
    "rate_per_second",
    type=click.IntRange(limits.REPLAY_RATE_MIN, limits.REPLAY_RATE_MAX),
    default=limits.REPLAY_RATE_DEFAULT,
    show_default=True,
    help="Events a second, at most.",
)
@_WATCH
@click.option("--cancel", metavar="ID", help="Start nothing: stop this one.")
@_over_http
@click.pass_context
def replay(
    context: click.Context,
    /,
    event_type: str | None,
    workflow_ids: tuple[str, ...],
    watch: str | None,
    cancel: str | None,
    url: str,
    as_json: bool,
    **criteria: Any,
) -> None:
    """Deliver many events again, with the secret key in ATLAS_API_KEY.

    Without options: every event that has ended. Ctrl-C leaves it running.
    """
    from atlas import replaying

    _refuse_beside_an_id(context)
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise click.UsageError(f"set {API_KEY_VARIABLE} to a secret key")
    criteria |= {"type": event_type, "workflow_ids": list(workflow_ids) or None}
    given = {name: value for name, value in criteria.items() if value is not None}
    _or_fail(lambda: replaying.run(url, key, as_json, given, watch, cancel))


def _refuse_beside_an_id(context: click.Context) -> None:
    """What says which events are meant would be passed over, or somebody watches what they mean to stop."""
    about = context.params.keys() - {"url", "as_json"}
    given = {name for name in about if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given & {"watch", "cancel"} and len(given) > 1:
        raise click.UsageError("--watch and --cancel start nothing: give one of them, and no other option")


# --- the read model


@main.command()
@_WATCH
@_over_http
def rebuild(watch: str | None, url: str, as_json: bool) -> None:
    """Make the read model anew from the log, while Atlas runs. Ctrl-C leaves it running."""
    _maintain(url, as_json, "rebuild", watch)


@main.command()
@_WATCH
@_over_http
def verify(watch: str | None, url: str, as_json: bool) -> None:
    """Compare the read model with one folded from the log; exit code 1 when they differ.

    Ctrl-C leaves it running.
    """
    _maintain(url, as_json, "verify", watch)


def _maintain(url: str, as_json: bool, action: str, watch: str | None) -> None:
    from atlas import maintenance

    _as_operator(lambda token: maintenance.run(url, token, as_json, action, watch))


if __name__ == "__main__":
    main()
