"""`atlas config`: every setting, the value in force, and where that came from."""

from __future__ import annotations

import os
from typing import Any, Final

import click
import orjson
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atlas.settings import SECRETS, SETTINGS, Setting
from atlas.terminal import printable

_SOURCES: Final = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT: "default",
}
MASKED: Final = "********"
#: Nothing is cut off or wrapped, however narrow the terminal: it is to be searched.
_WIDTH: Final = 160
_COLUMNS: Final = ("setting", "variable", "value", "source", "used by")


def show(context: click.Context, as_json: bool) -> None:
    """Print it on stdout.

    Args:
        context: of the command, which has every setting as an option.
    """
    rows = [*(_row(context, setting) for setting in SETTINGS), *_secrets(context.params["data_dir"])]
    if as_json:
        click.echo(orjson.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows]).decode())
        return
    table = Table(*_COLUMNS[:-1], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else Text(printable(str(cell))) for cell in row[:-1]))
    Console(highlight=False, width=_WIDTH).print(table)


def _row(context: click.Context, setting: Setting) -> tuple[Any, ...]:
    source = context.get_parameter_source(setting.parameter)
    value = context.params[setting.parameter]
    if source is ParameterSource.DEFAULT:
        defaults = {command: setting.default_for(command) for command in setting.used_by}
        value = setting.default
        if len(set(map(str, defaults.values()))) > 1:
            value = ", ".join(f"{default} ({command})" for command, default in defaults.items())
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = None if value is None else str(value)
    where = _SOURCES.get(source, "default") if source is not None else "default"
    return (setting.flag, setting.variable, text, where, ", ".join(setting.used_by))


def _secrets(data_dir: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for variable, secret in SECRETS.items():
        path = data_dir / secret.file if secret.file else None
        value: str | None = MASKED
        source = "environment"
        if not os.environ.get(variable):
            made = path is not None and path.exists()
            value, source = (MASKED, str(path)) if made else (None, "not set")
        rows.append(("", variable, value, source, ", ".join(secret.used_by)))
    return rows
