"""`scripts/faults`: the faults of the test suite, as long and as often as wanted."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from scripts.kafka_lib.broker import Broker, NoBroker
from tests.faults_ledger import ledger, table
from tests.faults_run import Faults, Plan
from tests.invariants import check
from tests.kafka.faults.catalog import SCENARIOS
from tests.kafka.faults.scenario import Result, run
from tests.kafka.faults.site import Site
from tests.kafka.produce_proxy import proxied, two_ports

KILL_LOOP: Final = "kill-loop"
KILLS: Final = 100
SECONDS: Final = 200.0
#: With --short.
_KILLS_SHORT: Final = 20
_SECONDS_SHORT: Final = 20.0
#: What a start takes of the time between two kills.
_START_S: Final = 0.6
_SHOWN_MAX: Final = 50

console = Console(highlight=False)


@click.command()
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...", type=click.Choice([KILL_LOOP, *SCENARIOS]))
@click.option("--list", "listing", is_flag=True, help="Only say which scenarios there are.")
@click.option("--short", is_flag=True, help="Each as short as in the test suite.")
@click.option("--seed", type=int, default=None, help="Of all choices; a random one unless given.")
@click.option("--kills", type=click.IntRange(1, 10_000), default=None, help=f"Of the kill loop; {KILLS}.")
@click.option(
    "--seconds",
    type=click.FloatRange(1.0),
    default=None,
    help="For all kills of the kill loop together; 200.",
)
@click.option(
    "--clients", type=click.IntRange(5, 200), default=10, show_default=True, help="Of the kill loop."
)
def main(
    scenarios: Sequence[str],
    listing: bool,
    short: bool,
    seed: int | None,
    kills: int | None,
    seconds: float | None,
    clients: int,
) -> None:
    """Bring faults about in a real Atlas under load, and check that nothing is lost or doubled.

    SCENARIOS are those to run; all of them unless some are named. The kill loop kills (-9) an `atlas dev` at
    random moments; the others run every part as a process of its own on a Kafka broker that they start.

    Checks the invariants from four sources - the clients' log, the raw topics, the API, the receivers' log.
    Exit code 1 when anything is not as it must be.
    """
    if listing:
        console.print(table([(KILL_LOOP, "atlas dev is killed (-9) at random moments"), *_about()]))
        return
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    console.print(f"seed {seed}")
    wrong = 0
    for name in scenarios or (KILL_LOOP, *SCENARIOS):
        console.print(f"\n{name}", style="bold")
        if name == KILL_LOOP:
            kills = kills or (_KILLS_SHORT if short else KILLS)
            seconds = seconds or (_SECONDS_SHORT if short else SECONDS)
            wrong += _kill_loop(seed, kills, seconds, clients)
        else:
            wrong += _on_kafka(name, short, seed)
    sys.exit(1 if wrong else 0)


def _about() -> list[tuple[str, str]]:
    return [(scenario.name, scenario.about) for scenario in SCENARIOS.values()]


def _kill_loop(seed: int, kills: int, seconds: float, clients: int) -> int:
    up_s = max(0.2, seconds / kills - _START_S)
    plan = Plan(seed=seed, kills=kills, up_s=up_s, clients=clients)
    with tempfile.TemporaryDirectory(prefix="atlas-faults-") as directory:
        made = asyncio.run(Faults(Path(directory), plan, console.print).run())
    violations = check(made.history)
    return _show(ledger(made, violations), [*made.faults, *map(str, violations)])


def _on_kafka(name: str, short: bool, seed: int) -> int:
    try:
        result = asyncio.run(_scenario(name, short, seed))
    except (NoBroker, AssertionError) as error:
        console.print(f"{name}: {error}", markup=False)
        return 1
    return _show(result.ledger(), result.wrong())


async def _scenario(name: str, short: bool, seed: int) -> Result:
    """On a broker and an installation of its own."""
    scenario = SCENARIOS[name]
    ports = two_ports()
    with tempfile.TemporaryDirectory(prefix="atlas-faults-") as directory:
        broker = Broker(Path(directory) / "kafka", overrides=proxied(*ports))
        try:
            async with Site(Path(directory) / "atlas", broker, ports, seed) as site:
                return await run(site, scenario, scenario.short if short else scenario.full, console.print)
        finally:
            broker.stop()


def _show(lines: Sequence[tuple[str, str]], wrong: Sequence[str]) -> int:
    """Print a ledger and what is wrong; returns how much that is."""
    console.print(table(lines))
    for line in wrong[:_SHOWN_MAX]:
        console.print(line, soft_wrap=True, markup=False)
    return len(wrong)


if __name__ == "__main__":
    main()
