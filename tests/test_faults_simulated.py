"""Faults at the ports, one by one and at random: what is accepted always ends, once, and is written down."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from atlas.adapters.aes_secret_box import AesSecretBox
from atlas.core.commands import CreateWorkflow
from atlas.core.entities import SealedSecret, Workflow, secret_context
from atlas.ports.sender import DeliveryResult
from atlas.runtime.attempt import NOT_MADE
from tests.sim_faults import FaultySimulation
from tests.simulation import SCOPE, SECRET, Sent
from tests.virtual_time import VirtualClock, virtual_time


@pytest.fixture(autouse=True)
def _few_log_lines() -> Iterator[None]:
    """Thousands of expected failures, each with its traceback, would take most of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@virtual_time
async def test_a_secret_that_does_not_open_is_a_failed_attempt(clock: VirtualClock, tmp_path: Path) -> None:
    """The wrong master key: the route ends with a reason, and other targets notice nothing."""
    async with FaultySimulation(clock, tmp_path) as sim:
        foreign = AesSecretBox(bytes(32), sim.random.randbytes)
        sealed = SealedSecret(foreign.seal(SECRET, secret_context(*SCOPE, "wf_locked")))
        locked = Workflow(
            id="wf_locked",
            workspace_id=SCOPE[0],
            environment=SCOPE[1],
            url="http://wf_locked",
            secrets=(sealed,),
            created_at_ms=clock.now_ms(),
            max_in_flight=1,
            retry_schedule_seconds=(1,),
        )
        await sim.registry.propose(CreateWorkflow(**sim.command(), workflow=locked))
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_locked", "wf_a"])
        process = sim.process()
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "failed", 30)
        for event_id in ids:
            routes = (await sim.event(event_id)).routes
            assert [(r.status, r.error_message, r.attempt) for r in routes] == [
                ("failed", NOT_MADE, 2),
                ("delivered", None, 1),
            ]
        assert {s.url for s in sim.sender.sent} == {"http://wf_a"}
        assert process.engine.in_flight() == process.engine.queued == 0


@virtual_time
async def test_a_sender_that_raises_costs_one_attempt(clock: VirtualClock, tmp_path: Path) -> None:
    async with FaultySimulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", max_in_flight=1, retry_schedule_seconds=(1,) * 3)
        await sim.stream("orders", ["wf_a"])
        sim.process()

        async def raise_once(sent: Sent) -> DeliveryResult:
            if sent.attempt == 1:
                raise RuntimeError("a bug")
            return DeliveryResult(http_status=200)

        sim.sender.targets["http://wf_a"] = raise_once
        ids = await sim.accept("orders", 5)
        await sim.until_status(ids, "delivered", 30)
        assert sorted(s.attempt for s in sim.sender.sent) == [1] * 5 + [2] * 5
        assert not sim.unhandled
