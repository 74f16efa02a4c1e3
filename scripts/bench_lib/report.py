"""What is shown: one line a figure."""

from __future__ import annotations

from msgspec import Struct
from rich.console import Console
from rich.table import Table


class Row(Struct, frozen=True, kw_only=True):
    """One figure.

    Attributes:
        goal: in words, empty when it is shown for orientation.
        result: what is held against the goal, as text.
        met: None without a goal.
        raw: the figures it comes from.
    """

    name: str
    result: str
    goal: str = ""
    met: bool | None = None
    raw: str = ""


def table(title: str) -> Table:
    """An empty table."""
    made = Table(title=title, title_justify="left", show_lines=False)
    made.add_column("measured")
    made.add_column("goal", justify="right")
    made.add_column("result", justify="right")
    made.add_column("")
    made.add_column("raw figures", overflow="fold")
    return made


def add(to: Table, rows: list[Row]) -> None:
    """Rows of one measurement, and a line below them."""
    for row in rows:
        mark = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        to.add_row(row.name, row.goal, row.result, mark, row.raw)
    to.add_section()


def show(console: Console, made: Table) -> None:
    """To the terminal, or as plain text into a file or pipe."""
    console.print(made)
