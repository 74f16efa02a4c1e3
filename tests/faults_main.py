"""`scripts/faults`: the kill loop of the test suite, as long and as often as wanted."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from tests.faults_ledger import ledger, table
from tests.faults_run import Faults, Plan
from tests.invariants import check

#: What a start takes of the time between two kills.
_START_S: Final = 0.6
_SHOWN_MAX: Final = 50


@click.command()
@click.option("--kills", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--seed", type=int, default=None, help="Of all choices; a random one unless given.")
@click.option(
    "--seconds",
    type=click.FloatRange(1.0),
    default=200.0,
    show_default=True,
    help="For all the kills together.",
)
@click.option("--clients", type=click.IntRange(5, 200), default=10, show_default=True)
def main(kills: int, seed: int | None, seconds: float, clients: int) -> None:
    """Kill a real `atlas dev` (-9) at random moments under load, and check that nothing is lost or doubled.

    Checks the invariants from four sources - the clients' log, the raw topics, the API, the receivers' log -
    and that a rebuilt read model says the same. Exit code 1 when anything is not as it must be.
    """
    console = Console(highlight=False)
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    console.print(f"seed {seed}")
    up_s = max(0.2, seconds / kills - _START_S)
    plan = Plan(seed=seed, kills=kills, up_s=up_s, clients=clients)
    with tempfile.TemporaryDirectory(prefix="atlas-faults-") as directory:
        run = asyncio.run(Faults(Path(directory), plan, console.print).run())
    violations = check(run.history)
    console.print()
    console.print(table(ledger(run, violations)))
    wrong = [*run.faults, *map(str, violations)]
    for line in wrong[:_SHOWN_MAX]:
        console.print(line, soft_wrap=True, markup=False)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
