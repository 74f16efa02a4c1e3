"""The control fold of a process: proposals are decided once, and a busy topic does not make it unready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from atlas.core.commands import DeleteTarget, PatchStream, RequestRebuild, encode_command
from atlas.core.errors import ApiError
from atlas.core.facts import CONTROL_SCHEMA, CONTROL_TOPIC, SCHEMA_HEADER
from atlas.ports.log import NewRecord
from atlas.runtime.registry import CONFIRM_MAX_S, CONTROL
from tests.simulation import SCOPE, Simulation
from tests.virtual_time import VirtualClock, pass_time, virtual_time


@virtual_time
async def test_a_steady_flow_of_commands_keeps_it_ready(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.stream("orders", [])
        for days in range(int(CONFIRM_MAX_S * 10 * 2)):
            patch = PatchStream(
                **sim.command(),
                workspace_id=SCOPE[0],
                environment=SCOPE[1],
                name="orders",
                retention_days=days % 90 + 1,
            )
            await sim.registry.propose(patch)
            assert sim.registry.not_ready() is None
            await pass_time(0.1)


@virtual_time
async def test_of_two_who_propose_one_name_the_first_in_the_log_wins(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        made = await asyncio.gather(*(sim.stream("orders", []) for _ in range(5)), return_exceptions=True)
        refused = [answer for answer in made if isinstance(answer, ApiError)]
        assert [error.code for error in refused] == ["already_exists"] * 4
        assert len(sim.registry.state.streams[SCOPE]) == 1


KNOWN = encode_command(RequestRebuild(id="cmd_1", at_ms=0, job_id="rbd_1"))


@virtual_time
@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (b'{"command":"from.the.future","id":"c"}', CONTROL_SCHEMA),
        (b"[" * 10_000, CONTROL_SCHEMA),
        (b"", CONTROL_SCHEMA),
        (None, CONTROL_SCHEMA),
        (KNOWN, b"atlas.control/2"),
        (KNOWN, None),
    ],
)
async def test_a_control_record_of_a_newer_version_makes_it_unready(
    clock: VirtualClock, tmp_path: Path, value: bytes | None, schema: bytes | None
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        headers = () if schema is None else ((SCHEMA_HEADER, schema),)
        await sim.log.append(CONTROL_TOPIC, 0, [NewRecord(value, None, headers)])
        await pass_time(1)
        assert "unknown to this version" in (sim.registry.not_ready() or "")
        with pytest.raises(ApiError) as refused:
            await sim.stream("orders", [])
        assert refused.value.code == "service_unavailable"


@virtual_time
async def test_what_is_refused_leaves_no_record(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        (before,) = (await sim.log.end_offsets([CONTROL])).values()
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: sim.stream("orders", []),
            lambda: sim.stream("other", ["wf_missing"]),
            lambda: sim.workflow("wf_a"),
            lambda: sim.registry.propose(DeleteTarget(**sim.scoped("wf_missing"))),
        ]
        for ask in asked:
            with pytest.raises(ApiError):
                await ask()
        assert (await sim.log.end_offsets([CONTROL]))[CONTROL] == before
        await sim.registry.propose(DeleteTarget(**sim.scoped("wf_a")))
        assert sim.registry.state.streams[SCOPE]["orders"].default_routes == ()
