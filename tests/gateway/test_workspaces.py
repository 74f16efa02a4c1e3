"""`/admin/v1/workspaces`, and that workspaces and environments never meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.asgi_client import AsgiClient
from tests.gateway.harness import EVENT, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

PATH = "/admin/v1/workspaces"
FIELDS = ["id", "object", "name", "status", "quota", "created_at"]


@virtual_time
async def test_a_new_workspace_in_full(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        answer = await g.operator.post(PATH, {"name": "Umbra"})
        assert answer.status == 201
        made = answer.json()
        keys = made.pop("keys")
        quota = {"requests_per_minute": 1_200_000, "burst": 100_000}
        assert list(made) == FIELDS
        assert made == {
            "id": made["id"],
            "object": "workspace",
            "name": "Umbra",
            "status": "enabled",
            "quota": {"live": quota, "test": quota},
            "created_at": "2026-01-01T00:00:00.000Z",
        }
        assert [(key["kind"], key["environment"], key["streams"]) for key in keys] == [
            ("secret", "live", None),
            ("secret", "test", None),
        ]
        for key in keys:
            client = g.anonymous.using(key["secret"])
            listed = (await client.get("/v1/api-keys")).json()["data"]
            assert listed == [{field: value for field, value in key.items() if field != "secret"}]
        assert (await g.operator.get(f"{PATH}/{made['id']}")).json() == made
        assert made in (await g.operator.get(PATH)).json()["data"]


@virtual_time
async def test_what_cannot_be_created(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for body, field in [
            ({}, "name"),
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": 5}, "name"),
            ({"name": "x", "id": "ws_A"}, "id"),
        ]:
            assert (await g.operator.post(PATH, body)).field == field
        assert len((await g.operator.get(PATH)).json()["data"]) == 1
        assert (await g.operator.post(PATH, {"name": "x" * 100})).status == 201


@virtual_time
async def test_what_cannot_be_patched(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        path = f"{PATH}/{g.workspace_id}"
        before = (await g.operator.get(path)).json()
        bad: list[tuple[dict[str, Any], str]] = [
            ({"status": "gone"}, "status"),
            ({"name": "x"}, "name"),
            ({"quota": {"live": {"burst": 5}}}, "quota.live.requests_per_minute"),
            ({"quota": {"live": {"requests_per_minute": 0, "burst": 5}}}, "quota.live.requests_per_minute"),
            ({"quota": {"test": {"requests_per_minute": 5, "burst": 0}}}, "quota.test.burst"),
            ({"quota": {"live": {"requests_per_minute": 5, "burst": 1_000_001}}}, "quota.live.burst"),
            ({"quota": {"staging": None}}, "quota.staging"),
        ]
        for body, field in bad:
            assert (await g.operator.patch(path, body)).field == field, body
        assert (await g.operator.get(path)).json() == before
        missing = await g.operator.patch(f"{PATH}/ws_MISSING", {"status": "suspended"})
        assert (missing.status, missing.code) == (404, "workspace_not_found")
        missing = await g.operator.get(f"{PATH}/ws_MISSING")
        assert (missing.status, missing.code) == (404, "workspace_not_found")


@virtual_time
async def test_pages(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for name in "abc":
            await pass_time(0.001)
            await g.workspace(name)
        first = (await g.operator.get(f"{PATH}?limit=3")).json()
        assert [w["name"] for w in first["data"]] == ["Acme", "a", "b"]
        rest = (await g.operator.get(f"{PATH}?limit=3&cursor={first['next_cursor']}")).json()
        assert [w["name"] for w in rest["data"]] == ["c"]
        assert len((await g.operator.get(f"{PATH}?cursor=ws_0")).json()["data"]) == 4
        for cursor in ("", "Acme", "ws_", "ws_a", "ws_" + "A" * 27):
            assert (await g.operator.get(f"{PATH}?cursor={cursor}")).field == "cursor"


async def _furnish(client: AsgiClient, mark: str) -> tuple[str, ...]:
    """One of each, all with names of its own; returns the paths by which its owner reaches them."""
    workflow = (await client.post("/v1/workflows", {"url": "https://a.example", "description": mark})).json()
    await client.post("/v1/event-streams", {"name": mark, "description": mark})
    key = (await client.post("/v1/api-keys", {"kind": "secret", "name": mark, "streams": [mark]})).json()
    return f"/v1/workflows/{workflow['id']}", f"/v1/event-streams/{mark}", f"/v1/api-keys/{key['id']}"


@virtual_time
async def test_nobody_sees_or_touches_anothers(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        _, other_live, other_test = await g.workspace("Umbra")
        clients = [g.live, g.test, other_live, other_test]
        marks = [f"canary-{number}" for number in range(4)]
        owned = [await _furnish(client, mark) for client, mark in zip(clients, marks, strict=True)]
        for me, client in enumerate(clients):
            seen = b""
            for path in ("/v1/workflows", "/v1/event-streams", "/v1/api-keys"):
                seen += (await client.get(path)).body
            assert marks[me].encode() in seen
            for other, paths in enumerate(owned):
                if other == me:
                    continue
                assert marks[other].encode() not in seen
                workflow, stream, key = paths
                for method, path in [
                    ("GET", workflow),
                    ("PATCH", workflow),
                    ("DELETE", workflow),
                    ("POST", f"{workflow}/disable"),
                    ("POST", f"{workflow}/rotate-secret"),
                    ("GET", stream),
                    ("PATCH", stream),
                    ("DELETE", stream),
                    ("DELETE", key),
                    ("POST", f"{key}/rotate"),
                ]:
                    answer = await client.request(method, path)
                    assert answer.status == 404, (method, path)
                sent = await client.post("/v1/events", {**EVENT, "stream": marks[other]})
                assert (sent.status, sent.code) == (404, "stream_not_found")
                route = {"name": "stolen", "default_routes": [workflow.rpartition("/")[2]]}
                assert (await client.post("/v1/event-streams", route)).field == "default_routes.0"
                scoped = {"kind": "secret", "streams": [marks[other]]}
                assert (await client.post("/v1/api-keys", scoped)).field == "streams.0"
        for client, paths in zip(clients, owned, strict=True):
            for path in paths[:2]:
                assert (await client.get(path)).status == 200


@virtual_time
async def test_the_same_names_in_every_environment(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        _, other_live, _ = await g.workspace("Umbra")
        for client in (g.live, g.test, other_live):
            await g.workflow("wf_a", client)
            await g.stream("orders-prod", client, default_routes=["wf_a"])
        await g.test.delete("/v1/workflows/wf_a")
        await g.test.delete("/v1/event-streams/orders-prod")
        for client in (g.live, other_live):
            assert (await client.get("/v1/workflows/wf_a")).status == 200
            stream = (await client.get("/v1/event-streams/orders-prod")).json()
            assert stream["default_routes"] == ["wf_a"]
