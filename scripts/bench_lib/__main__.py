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

from scripts.bench_lib import (
    backlog,
    batches,
    end_to_end,
    filters,
    kafka_batches,
    kafka_parts,
    latency,
    memory,
    projection,
    singles,
)
from scripts.bench_lib.plan import FULL, QUICK, Plan
from scripts.bench_lib.report import Row, add, show, table

Measurements = dict[str, Callable[[Plan, Path], list[Row]]]

MEASUREMENTS: Final[Measurements] = {
    "singles": singles.measure,
    "batches": batches.measure,
    "latency": latency.measure,
    "projection": projection.measure,
    "end-to-end": end_to_end.measure,
    "memory": memory.measure,
    "filters": filters.measure,
}
ON_KAFKA: Final[Measurements] = {
    "singles": kafka_parts.singles,
    "batches": kafka_batches.measure,
    "latency": latency.measure_on_kafka,
    "projection": kafka_parts.projection,
}
OF_DELIVERIES: Final[Measurements] = {
    "deliveries": end_to_end.measure_deliveries,
    "end-to-end": end_to_end.measure_on_both,
    "latency": latency.measure_rates,
    "fairness": backlog.measure_fairness,
    "parked": backlog.measure_memory,
}
_WIDTH: Final = 180


@click.command()
@click.option("--kafka", is_flag=True, help="On Kafka, each part its own process, with a broker for it.")
@click.option("--deliver", is_flag=True, help="Deliveries, on both logs.")
@click.option("--quick", is_flag=True, help="Smaller sizes and fewer rounds: about a minute in all.")
@click.option(
    "--only",
    type=click.Choice(list(MEASUREMENTS | OF_DELIVERIES)),
    multiple=True,
    help="Only this one; repeatable.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="Where the data goes meanwhile: put it on the disk that counts.",
)
def main(kafka: bool, deliver: bool, quick: bool, only: tuple[str, ...], directory: Path) -> None:
    """Measure Atlas against the raw limits of this machine, in one run, and print a table."""
    if kafka and deliver:
        raise click.UsageError("--deliver measures on both logs: leave --kafka away")
    measurements, of = MEASUREMENTS, ""
    if kafka:
        measurements, of = ON_KAFKA, " on Kafka"
    elif deliver:
        measurements, of = OF_DELIVERIES, ", deliveries"
    if missing := [name for name in only if name not in measurements]:
        raise click.UsageError(f"measured elsewhere: {', '.join(missing)}")
    status = Console(stderr=True)
    out = Console(width=None if Console().is_terminal else _WIDTH)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    made = table(
        f"Atlas{of} on {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load before {load}" + (", --quick" if quick else "")
    )
    started_s = time.perf_counter()
    broken = False
    for name in only or measurements:
        with status.status(f"{name} ..."):
            try:
                rows = measurements[name](QUICK if quick else FULL, directory)
            except (RuntimeError, OSError) as error:
                rows, broken = [Row(name=name, result="broken", met=False, raw=str(error))], True
        add(made, rows)
    show(out, made)
    out.print(f"{time.perf_counter() - started_s:.0f} s in all")
    sys.exit(1 if broken else 0)


main()
