"""Faults on real Kafka with real processes, each once and short: nothing is lost, nothing doubled, all ends.

`scripts/faults` runs the same scenarios at full length.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import pytest
import pytest_asyncio

from tests.kafka.faults.catalog import SCENARIOS
from tests.kafka.faults.scenario import run
from tests.kafka.faults.site import Site
from tests.kafka.produce_proxy import proxied, two_ports
from tests.kafka_broker import own_broker

#: What they send is delivered as it comes: a backlog would be measured as recovery.
CLIENTS: Final = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


def say(line: str) -> None:
    """pytest shows it when the test fails."""
    sys.stdout.write(line + "\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One installation for all of these scenarios: each leaves it well."""
    ports = two_ports()
    broker = own_broker(tmp_path_factory.mktemp("broker"), proxied(*ports))
    seed = random.SystemRandom().getrandbits(32)
    say(f"seed {seed}")
    try:
        async with Site(tmp_path_factory.mktemp("atlas"), broker, ports, seed) as made:
            yield made
    finally:
        broker.stop()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_is_lost_and_nothing_doubled(site: Site, name: str) -> None:
    scenario = SCENARIOS[name]
    result = await run(site, scenario, replace(scenario.short, clients=CLIENTS), say)
    for line in result.ledger():
        say(": ".join(line))
    assert result.wrong() == []
