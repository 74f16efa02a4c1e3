"""Webhook endpoints in virtual time: what they are told, once, whatever happens to the owner of the shard."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from atlas.core.commands import DisableTarget, ReactivateTarget
from atlas.core.facts import OUTCOME_TYPES
from atlas.core.ids import id_time_ms
from atlas.ports.sender import DeliveryResult
from tests.simulation import (
    DOWN,
    GONE,
    OK,
    SCOPE,
    Sent,
    Simulation,
    answer_down,
    answer_ok,
)
from tests.test_replays import ask
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time


def told(sim: Simulation, endpoint: str = "we_all") -> list[dict[str, Any]]:
    """The bodies an endpoint was sent, in order."""
    return [orjson.loads(sent.body) for sent in sim.sent_to(endpoint)]


def kinds(sim: Simulation, endpoint: str = "we_all") -> list[str]:
    return [body["type"] for body in told(sim, endpoint)]


@virtual_time
async def test_the_three_outcomes_and_their_bodies(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all")
        await sim.workflow("wf_a", retry_schedule_seconds=(60,))
        await sim.stream("orders", ["wf_a"])
        sim.process()
        answers = iter([DOWN, OK, DOWN, DOWN])

        async def answer(_: Sent) -> DeliveryResult:
            return next(answers)

        sim.sender.targets["http://wf_a"] = answer
        (delivered,) = await sim.accept("orders")
        await sim.until_status([delivered], "delivered")
        (failed,) = await sim.accept("orders")
        await sim.until_status([failed], "failed")
        await sim.until(lambda: len(told(sim)) == 4, 10)

        expected = [
            ("event.retry_scheduled", delivered, 1),
            ("event.delivered", delivered, 2),
            ("event.retry_scheduled", failed, 1),
            ("event.failed", failed, 2),
        ]
        bodies = told(sim)
        assert [(b["type"], b["data"]["event_id"], b["data"]["attempt"]) for b in bodies] == expected
        for body, sent in zip(bodies, sim.sent_to("we_all"), strict=True):
            assert list(body) == ["id", "type", "created_at", "data"]
            assert body["id"] == sent.delivery_id
            data = body["data"]
            assert list(data)[:5] == ["event_id", "stream", "workflow_id", "attempt", "latency_ms"]
            assert (data["stream"], data["workflow_id"]) == ("orders", "wf_a")
        assert list(bodies[3]["data"]) == [*list(bodies[0]["data"]), "error"]
        assert bodies[3]["data"]["error"] == {
            "code": "webhook_delivery_failed",
            "message": "Target answered 503",
        }
        assert "error" not in bodies[2]["data"]
        assert len({body["id"] for body in bodies}) == 4
        assert bodies[1]["data"]["latency_ms"] >= 60_000


@virtual_time
async def test_delivered_is_told_once_when_the_last_route_acknowledged(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all", event_types=("event.delivered",))
        for target in ("wf_a", "wf_b", "wf_c"):
            await sim.workflow(target, retry_schedule_seconds=(300,))
        await sim.stream("orders", ["wf_a", "wf_b", "wf_c"])
        sim.sender.targets["http://wf_b"] = answer_down
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "retried")
        await pass_time(100)
        assert told(sim) == []
        sim.sender.targets["http://wf_b"] = answer_ok
        await sim.until_status([event_id], "delivered")
        await sim.until(lambda: len(told(sim)) == 1, 10)
        assert told(sim)[0]["data"] | {"latency_ms": 0} == {
            "event_id": event_id,
            "stream": "orders",
            "workflow_id": "wf_b",
            "attempt": 2,
            "latency_ms": 0,
        }


@virtual_time
async def test_an_endpoint_is_told_what_it_wants_and_of_its_streams(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.workflow("wf_a", retry_schedule_seconds=())
        for name in ("orders", "audit"):
            await sim.stream(name, ["wf_a"])
        await sim.endpoint("we_failed", event_types=("event.failed",))
        await sim.endpoint("we_audit", streams=("audit",))
        sim.process()
        ids = [*await sim.accept("orders"), *await sim.accept("audit")]
        await sim.until_status(ids, "delivered")
        sim.sender.targets["http://wf_a"] = answer_down
        more = [*await sim.accept("orders"), *await sim.accept("audit")]
        await sim.until_status(more, "failed")
        await sim.until(lambda: len(told(sim, "we_failed")) == 2, 10)
        await sim.until(lambda: len(told(sim, "we_audit")) == 2, 10)
        assert {body["data"]["event_id"] for body in told(sim, "we_failed")} == set(more)
        assert kinds(sim, "we_audit") == ["event.delivered", "event.failed"]
        assert {body["data"]["stream"] for body in told(sim, "we_audit")} == {"audit"}


@virtual_time
async def test_notices_are_retried_under_one_id_and_cause_no_further_ones(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all", retry_schedule_seconds=(30, 60))
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://we_all"] = answer_down
        sim.process()
        (event_id,) = await sim.accept("orders")
        await pass_time(600)
        sent = sim.sent_to("we_all")
        assert [each.attempt for each in sent] == [1, 2, 3]
        assert len({(each.delivery_id, each.body) for each in sent}) == 1
        assert (await sim.event(event_id)).status == "delivered"
        made = await sim.read_model.deliveries(SCOPE, "we_all", None, 10)
        assert [(each.attempt.attempt, each.attempt.status) for each in made] == [
            (1, "retry_scheduled"),
            (2, "retry_scheduled"),
            (3, "failed"),
        ]
        assert [each.attempt for each in await sim.attempts(event_id)] == [1]


@virtual_time
async def test_gone_disables_an_endpoint_until_it_is_reactivated(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all")
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])

        async def gone(_: Sent) -> DeliveryResult:
            return GONE

        sim.sender.targets["http://we_all"] = gone
        sim.process()
        await sim.accept("orders")
        await sim.until(lambda: sim.registry.state.endpoints[SCOPE]["we_all"].status == "disabled", 10)
        ids = await sim.accept("orders", 3)
        await sim.until_status(ids, "delivered")
        await pass_time(60)
        assert len(told(sim)) == 1
        sim.sender.targets["http://we_all"] = answer_ok
        await sim.registry.propose(ReactivateTarget(**sim.scoped("we_all")))
        ids = await sim.accept("orders", 2)
        await sim.until(lambda: len(told(sim)) == 3, 10)


@virtual_time
async def test_a_route_closed_without_an_attempt_is_told_as_failed(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all")
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        await sim.registry.propose(DisableTarget(**sim.scoped("wf_a"), reason="requested"))
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "failed")
        await sim.until(lambda: bool(told(sim)), 10)
        (body,) = told(sim)
        assert (body["type"], body["data"]["attempt"]) == ("event.failed", 0)
        assert body["data"]["error"]["message"] == "The workflow is disabled."


@virtual_time
async def test_a_replay_closed_before_an_attempt_is_an_outcome_of_its_own(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all", event_types=("event.failed",))
        await sim.workflow("wf_a", retry_schedule_seconds=(), max_in_flight=1, timeout_ms=30_000)
        await sim.stream("orders", ["wf_a"])
        sim.sender.targets["http://wf_a"] = answer_down
        sim.process()
        (event_id,) = await sim.accept("orders")
        await sim.until_status([event_id], "failed")

        async def slowly(_: Sent) -> DeliveryResult:
            await pass_time(20)
            return OK

        sim.sender.targets["http://wf_a"] = slowly
        await sim.accept("orders")  # takes the one place there is
        await pass_time(1)
        await ask(sim, event_id, "wf_a")
        await sim.until_status([event_id], "processing")
        await sim.registry.propose(DisableTarget(**sim.scoped("wf_a"), reason="requested"))
        await sim.until_status([event_id], "failed")
        await sim.until(lambda: len(told(sim)) == 2, 60)
        of_it = [body for body in told(sim) if body["data"]["event_id"] == event_id]
        reasons = [body["data"]["error"]["message"] for body in of_it]
        assert reasons == ["Target answered 503", "The workflow is disabled."]
        assert len({body["id"] for body in of_it}) == 2
        await check_rebuild(sim)


@virtual_time
async def test_a_rebuilt_read_model_sends_nothing_again(clock: VirtualClock, tmp_path: Path) -> None:
    async with Simulation(clock, tmp_path) as sim:
        await sim.endpoint("we_all")
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        ids = await sim.accept("orders", 20)
        await sim.until_status(ids, "delivered")
        await sim.until(lambda: len(told(sim)) == 20, 10)
        await sim.folded()
        await check_rebuild(sim)
        await pass_time(120)
        assert len(told(sim)) == 20


@pytest.mark.parametrize("seed", range(6))
def test_one_notice_for_each_outcome_whatever_happens_to_the_owners(seed: int, tmp_path: Path) -> None:
    async def scenario(clock: VirtualClock) -> None:
        chance = random.Random(seed)
        async with Simulation(clock, tmp_path, seed=seed) as sim:
            await sim.endpoint("we_all", retry_schedule_seconds=(1,) * 20)

            async def flaky(_: Sent) -> DeliveryResult:
                await pass_time(chance.uniform(0, 0.3))
                return DOWN if chance.random() < 0.4 else OK

            for target in ("wf_a", "wf_b"):
                await sim.workflow(target, retry_schedule_seconds=(1, 2))
                sim.sender.targets[f"http://{target}"] = flaky
            sim.sender.targets["http://we_all"] = flaky
            await sim.stream("orders", ["wf_a", "wf_b"])
            sim.process("first")
            sim.process("second")
            ids: list[str] = []
            for _ in range(12):
                ids += await sim.accept("orders", 4)
                await pass_time(chance.uniform(0, 2))
                victim = chance.choice(sim.processes)
                if chance.random() < 0.5:
                    sim.processes.remove(victim)
                    await victim.kill()
                    sim.process()
                else:
                    victim.pause()
                    await pass_time(chance.uniform(0, 40))
                    victim.resume()
            await pass_time(600)
            await expect_one_notice_for_each_outcome(sim, ids)

    run_virtual(scenario)


async def expect_one_notice_for_each_outcome(sim: Simulation, ids: list[str]) -> None:
    """By what the events' own attempts say."""
    wanted: Counter[tuple[str, str, str, int]] = Counter()
    for event_id in ids:
        state = await sim.event(event_id)
        assert state.status in {"delivered", "failed"}
        for attempt in await sim.attempts(event_id):
            if attempt.status != "delivered":
                kind = "event.failed" if attempt.status == "failed" else "event.retry_scheduled"
                wanted[kind, event_id, attempt.target, attempt.attempt] += 1
        if state.status == "delivered":
            last = max(
                await sim.attempts(event_id), key=lambda a: a.offset if a.status == "delivered" else -1
            )
            wanted["event.delivered", event_id, last.target, last.attempt] += 1
    bodies: dict[str, bytes] = {}
    for sent in sim.sent_to("we_all"):
        assert bodies.setdefault(sent.delivery_id, sent.body) == sent.body, "one delivery, two bodies"
    got = Counter(
        (b["type"], b["data"]["event_id"], b["data"]["workflow_id"], b["data"]["attempt"])
        for b in map(orjson.loads, bodies.values())
    )
    assert got == wanted
    assert {kind for kind, *_ in got} == set(OUTCOME_TYPES)
    assert all(id_time_ms(event_id) > 0 for event_id in ids)
