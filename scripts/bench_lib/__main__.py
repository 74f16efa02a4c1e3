"""Command line of `scripts/bench`."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from scripts.bench_lib import batches, end_to_end, latency, memory, projection, singles
from scripts.bench_lib.plan import FULL, QUICK, Plan
from scripts.bench_lib.report import Row, add, show, table

MEASUREMENTS: Final[dict[str, Callable[[Plan, Path], list[Row]]]] = {
    "singles": singles.measure,
    "batches": batches.measure,
    "latency": latency.measure,
    "projection": projection.measure,
    "end-to-end": end_to_end.measure,
    "memory": memory.measure,
}
_WIDTH: Final = 180


@click.command()
@click.option("--quick", is_flag=True, help="Smaller sizes and fewer rounds: under a minute in all.")
@click.option(
    "--only", type=click.Choice(list(MEASUREMENTS)), multiple=True, help="Only this one; repeatable."
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="Where the data goes meanwhile: put it on the disk that counts.",
)
def main(quick: bool, only: tuple[str, ...], directory: Path) -> None:
    """Measure Atlas against the raw limits of this machine, in one run, and print a table."""
    status = Console(stderr=True)
    out = Console(width=None if Console().is_terminal else _WIDTH)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    made = table(
        f"Atlas on {os.cpu_count()} cores, Python {platform.python_version()}, load before {load}"
        + (", --quick" if quick else "")
    )
    started_s = time.perf_counter()
    broken = False
    for name in only or MEASUREMENTS:
        with status.status(f"{name} ..."):
            try:
                rows = MEASUREMENTS[name](QUICK if quick else FULL, directory)
            except (RuntimeError, OSError) as error:
                rows, broken = [Row(name=name, result="broken", met=False, raw=str(error))], True
        add(made, rows)
    show(out, made)
    out.print(f"{time.perf_counter() - started_s:.0f} s in all")
    sys.exit(1 if broken else 0)


main()
