"""Filters over HTTP: `routes` of a 202 are those that the event takes, and stay what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas.gateway.routes import Routes
from tests.gateway.harness import EVENT, Gateway, gateway
from tests.virtual_time import VirtualClock, virtual_time

PATH = "/v1/events"
LARGE = {"data.total_cents": [{"numeric": [">=", 10_000]}]}


def routes(event: dict[str, Any]) -> list[str]:
    return [route["workflow_id"] for route in event["routes"]]


async def sent(g: Gateway, total_cents: int, **more: Any) -> list[str]:
    answer = await g.live.post(PATH, {**EVENT, "data": {"total_cents": total_cents}, **more})
    assert answer.status == 202
    return routes(answer.json())


@virtual_time
async def test_only_routes_that_match_are_in_the_202(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        assert (await g.workflow("wf_large", filter=LARGE))["filter"] == LARGE
        await g.workflow("wf_paid", filter={"type": [{"prefix": "order.p"}]})
        await g.workflow("wf_all")
        await g.stream("orders-prod", default_routes=["wf_large", "wf_paid", "wf_all"])
        assert await sent(g, 5) == ["wf_all"]
        assert await sent(g, 10_000) == ["wf_large", "wf_all"]
        assert await sent(g, 5, type="order.paid") == ["wf_paid", "wf_all"]
        events = [{**EVENT, "data": {"total_cents": cents}} for cents in (1, 10_000)]
        batch = (await g.live.post(f"{PATH}/batch", {"events": events})).json()["data"]
        assert [routes(item["event"]) for item in batch] == [["wf_all"], ["wf_large", "wf_all"]]


@virtual_time
async def test_a_changed_filter_is_in_force_at_once_and_changes_no_event(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.workflow("wf_a", filter=LARGE)
        await g.stream("orders-prod", default_routes=["wf_a"])
        key = [("Idempotency-Key", "k")]
        body = {**EVENT, "data": {"total_cents": 5}}
        first = await g.live.post(PATH, body, key)
        assert routes(first.json()) == []
        for patch, filter_, expected in (
            ({"filter": {"type": ["user.made"]}}, {"type": ["user.made"]}, []),
            ({"description": "x"}, {"type": ["user.made"]}, []),
            ({"filter": {}}, {}, ["wf_a"]),
            ({"filter": LARGE}, LARGE, []),
            ({"filter": None}, None, ["wf_a"]),
        ):
            assert (await g.live.patch("/v1/workflows/wf_a", patch)).json()["filter"] == filter_
            assert (await g.live.get("/v1/workflows/wf_a")).json()["filter"] == filter_
            assert await sent(g, 5) == expected
        again = await g.live.post(PATH, body, key)
        assert (again.status, again.body) == (202, first.body)


@virtual_time
async def test_a_workflow_made_anew_under_its_id_has_its_own_filter(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.workflow("wf_a", filter=LARGE)
        await g.stream("orders-prod", default_routes=["wf_a"])
        assert await sent(g, 5) == []
        await g.live.delete("/v1/workflows/wf_a")
        await g.workflow("wf_a")
        await g.live.patch("/v1/event-streams/orders-prod", {"default_routes": ["wf_a"]})
        assert await sent(g, 5) == ["wf_a"]
        await g.workflow("wf_b", filter=LARGE)
        await g.live.patch("/v1/event-streams/orders-prod", {"default_routes": ["wf_a", "wf_b"]})
        assert await sent(g, 5) == ["wf_a"]


@virtual_time
async def test_a_batch_sent_again_gets_the_routes_of_the_first(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.workflow("wf_a", filter=LARGE)
        await g.stream("orders-prod", default_routes=["wf_a"])
        events = [{**EVENT, "data": {"total_cents": cents}} for cents in (1, 10_000)]
        events.append({**events[0], "idempotency_key": "own"})
        key = [("Idempotency-Key", "batch")]
        first = (await g.live.post(f"{PATH}/batch", {"events": events}, key)).json()["data"]
        assert [routes(item["event"]) for item in first] == [[], ["wf_a"], []]
        await g.live.patch("/v1/workflows/wf_a", {"filter": None})
        again = (await g.live.post(f"{PATH}/batch", {"events": events}, key)).json()["data"]
        assert again == first
        other = await g.live.post(f"{PATH}/batch", {"events": events}, [("Idempotency-Key", "other")])
        assert [routes(item["event"]) for item in other.json()["data"]] == [["wf_a"], ["wf_a"], []]


@virtual_time
async def test_filters_are_made_ready_again_only_when_they_are_others(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path) as g:
        for target in ("wf_a", "wf_b"):
            await g.workflow(target, filter=LARGE)
        await g.stream("orders-prod", default_routes=["wf_a", "wf_b"])
        stream = g.registry.state.streams[(g.workspace_id, "live")]["orders-prod"]
        known = Routes(g.registry)
        ready = known.ready(stream)
        assert ready is not None
        await g.workspace("Other")
        await g.live.patch("/v1/workflows/wf_a", {"url": "https://elsewhere.acme.example"})
        assert known.ready(stream) is ready
        await g.live.patch("/v1/workflows/wf_a", {"filter": {"type": ["a.b"]}})
        assert known.ready(stream) is not ready
        await g.live.patch("/v1/workflows/wf_a", {"filter": {}})
        await g.live.patch("/v1/workflows/wf_b", {"filter": None})
        assert known.ready(stream) is None
