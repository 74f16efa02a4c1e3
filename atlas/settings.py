"""Every setting of every command: one table, from which the options, `atlas config` and its checks are made.

A flag wins over its environment variable, and that over the default. An empty variable is as good as none; an
empty flag is refused, for a shell makes it of a variable that is not set. Secrets are never flags: a command
line can be read by everybody on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import click
from msgspec import Struct

from atlas.core import limits
from atlas.core.targets import PORT_MAX

SERVERS: Final = ("hypercorn", "uvicorn")
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
#: What `atlas replay` opens the API with; no setting of a process.
API_KEY_VARIABLE: Final = "ATLAS_API_KEY"
TOKEN_VARIABLE: Final = "ATLAS_OPERATOR_TOKEN"  # noqa: S105  # its name, not a token
MASTER_KEY_VARIABLE: Final = "ATLAS_MASTER_KEY"
KAFKA_PASSWORD_VARIABLE: Final = "ATLAS_KAFKA_PASSWORD"  # noqa: S105  # its name, not a password

#: Where the processes without the API show how they are.
PROJECTOR_OPS_PORT: Final = 8081
DELIVERER_OPS_PORT: Final = 8082


class _Option(click.Option):
    """Refuses the empty text: as a path it is the current directory, as a host every address."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The value as its type has it."""
        if value == "":
            raise click.BadParameter("is empty", ctx=ctx, param=self)
        return super().type_cast_value(ctx, value)


class _Brokers(click.ParamType):  # type: ignore[type-arg]  # not generic in every click
    """HOST:PORT, or several with commas."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself, which the Kafka client takes."""
        for address in value.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= PORT_MAX):
                self.fail(f"{address!r} is not HOST:PORT", param, ctx)
        return value


_FILE: Final = click.Path(exists=True, dir_okay=False, readable=True)
_PORT: Final = click.IntRange(0, PORT_MAX)


class Setting(Struct, frozen=True, kw_only=True):
    """One setting.

    Attributes:
        name: of the flag, without its dashes; the variable is made of it.
        used_by: the commands that have it.
        kind: a click type; None for text.
        default: None: there is none; a callable is given the command's name.
    """

    name: str
    help: str
    used_by: tuple[str, ...]
    kind: Any = None
    default: Any = None
    is_flag: bool = False
    required: bool = False

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "ATLAS_" + self.name.upper().replace("-", "_")

    @property
    def parameter(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")

    def default_for(self, command: str) -> Any:
        """The default of that command."""
        return self.default(command) if callable(self.default) else self.default

    def option(self, command: str) -> click.Option:
        """As an option of that command; `config` takes every setting and requires none."""
        default = self.default_for(command)
        given = {} if default is None else {"default": default}
        return _Option(
            [self.flag],
            type=self.kind,
            is_flag=self.is_flag,
            required=self.required and command != "config",
            envvar=self.variable,
            show_envvar=True,
            show_default=not self.is_flag,
            help=self.help,
            **given,
        )


class Networks(click.ParamType[Any]):
    """Networks in CIDR notation, with commas between."""

    name = "cidr,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The networks; a value converted before stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)


_KAFKA: Final = ("gateway", "projector", "deliverer", "up")
_API: Final = ("dev", "gateway", "up")
_ALL: Final = ("dev", *_KAFKA)


def _ops_port(command: str) -> int:
    return DELIVERER_OPS_PORT if command == "deliverer" else PROJECTOR_OPS_PORT


SETTINGS: Final = (
    Setting(
        name="kafka",
        kind=_Brokers(),
        required=True,
        used_by=_KAFKA,
        help="Brokers to begin with: HOST:PORT, or several with commas.",
    ),
    Setting(
        name="kafka-shards",
        kind=click.IntRange(1, 10_000),
        default=6,
        used_by=_KAFKA,
        help="Partitions of every event topic; fixed when the installation is made.",
    ),
    Setting(
        name="kafka-replication",
        kind=click.IntRange(1, 15),
        default=3,
        used_by=_KAFKA,
        help="Copies of each partition; fewer where there are fewer brokers (it says what that costs).",
    ),
    Setting(
        name="kafka-min-insync",
        kind=click.IntRange(1, 15),
        default=2,
        used_by=_KAFKA,
        help="Copies that must hold an event before it counts as accepted.",
    ),
    Setting(
        name="kafka-tls",
        is_flag=True,
        default=False,
        used_by=_KAFKA,
        help="Encrypt connections to the brokers.",
    ),
    Setting(
        name="kafka-ca-file",
        kind=_FILE,
        used_by=_KAFKA,
        help="PEM bundle that the brokers' certificates are checked by.",
    ),
    Setting(
        name="kafka-cert-file",
        kind=_FILE,
        used_by=_KAFKA,
        help="PEM certificate, with its chain, that the brokers know this process by.",
    ),
    Setting(
        name="kafka-key-file",
        kind=_FILE,
        used_by=_KAFKA,
        help="Its key (PEM, not encrypted), unless that lies in the same file.",
    ),
    Setting(
        name="kafka-sasl-mechanism",
        kind=click.Choice(SASL_MECHANISMS),
        default="PLAIN",
        used_by=_KAFKA,
        help=f"With --kafka-username; the password is in {KAFKA_PASSWORD_VARIABLE}.",
    ),
    Setting(name="kafka-username", used_by=_KAFKA, help="User of the brokers (SASL)."),
    Setting(
        name="data-dir",
        kind=click.Path(file_okay=False, path_type=Path),
        default=Path(".atlas"),
        used_by=_ALL,
        help="What lies beside the log: read model, key index, keys (with `atlas dev` the log too).",
    ),
    Setting(name="host", default="127.0.0.1", used_by=_API, help="Address to listen on."),
    Setting(name="port", kind=_PORT, default=8080, used_by=_API, help="Port of the API; 0: any free one."),
    Setting(
        name="server",
        kind=click.Choice(SERVERS),
        default=SERVERS[0],
        used_by=_ALL,
        help="HTTP server: hypercorn speaks HTTP/2 too, uvicorn is faster behind a proxy.",
    ),
    Setting(
        name="quota-per-minute",
        kind=click.IntRange(1, limits.QUOTA_REQUESTS_PER_MINUTE_MAX),
        default=limits.QUOTA_REQUESTS_PER_MINUTE_DEFAULT,
        used_by=_API,
        help="Requests a minute of a workspace without a quota of its own.",
    ),
    Setting(
        name="quota-burst",
        kind=click.IntRange(1, limits.QUOTA_BURST_MAX),
        default=limits.QUOTA_BURST_DEFAULT,
        used_by=_API,
        help="Its burst: the size of the bucket.",
    ),
    Setting(
        name="topics-max",
        kind=click.IntRange(1, 100_000),
        default=limits.TOPICS_MAX_DEFAULT,
        used_by=_API,
        help="Streams of all workspaces together, archived ones included; past it none is created.",
    ),
    Setting(
        name="ops-host",
        default="127.0.0.1",
        used_by=("projector", "deliverer", "up"),
        help="Address of /healthz, /readyz and /metrics.",
    ),
    Setting(
        name="ops-port",
        kind=_PORT,
        default=_ops_port,
        used_by=("projector", "deliverer", "up"),
        help="Port of /healthz, /readyz and /metrics; 0: any free one. `up` numbers its parts from here on.",
    ),
    Setting(
        name="allow-networks",
        kind=Networks(),
        used_by=("deliverer", "up"),
        help="Networks (CIDR, with commas) that deliveries may go to though they are private.",
    ),
    Setting(
        name="deliverers",
        kind=click.IntRange(1, 64),
        default=1,
        used_by=("up",),
        help="Deliverer processes to start; they share the shards.",
    ),
)


class Secret(Struct, frozen=True):
    """A setting that the environment alone may hold.

    Attributes:
        file: in the data directory; used when the variable is not set, and made when it is not there.
    """

    help: str
    used_by: tuple[str, ...]
    file: str = ""


SECRETS: Final = {
    MASTER_KEY_VARIABLE: Secret(
        "Seals signing secrets; 64 hexadecimal digits.", ("dev", "gateway", "deliverer", "up"), "master.key"
    ),
    TOKEN_VARIABLE: Secret("Opens /admin/v1.", _API, "operator.token"),
    KAFKA_PASSWORD_VARIABLE: Secret("Password of --kafka-username.", _KAFKA),
}


def settings_of(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: give the command its options, in the order of the table."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        chosen = [s for s in SETTINGS if command in s.used_by or command == "config"]
        params = getattr(function, "__click_params__", [])
        # click shows what was added last first.
        function.__click_params__ = params + [s.option(command) for s in reversed(chosen)]  # type: ignore[attr-defined]  # as click's own decorators do
        return function

    return decorate
