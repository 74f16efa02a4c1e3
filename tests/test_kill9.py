"""kill -9 at random moments under load: nothing answered is lost, nothing is doubled, everything ends."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.faults_ledger import ledger
from tests.faults_run import Faults, Moment, Plan
from tests.invariants import check

KILLS: Final = 20


def say(line: str) -> None:
    """pytest shows it when the test fails."""
    sys.stdout.write(line + "\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    say(f"the same choices again: scripts/faults --kills {KILLS} --seed {seed}")
    run = await Faults(tmp_path, Plan(seed=seed, kills=KILLS, up_s=0.4), say).run()
    violations = check(run.history)
    for line in ledger(run, violations):
        say(": ".join(line))
    assert sum(run.killed.values()) == KILLS
    assert all(run.killed[moment] for moment in Moment)
    assert [str(violation) for violation in violations] == []
    assert run.faults == []
    assert len(run.history.tries) > 500, "too little happened to show anything"
