"""Who is let in, and what they may do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas.core.commands import CreateKey, RevokeKey, encode_command
from atlas.core.errors import LogUnavailable
from atlas.core.facts import CONTROL_SCHEMA, CONTROL_TOPIC, SCHEMA_HEADER
from atlas.core.tokens import make_key
from atlas.gateway.keys import new_key
from atlas.ports.log import NewRecord, TopicPartition
from atlas.runtime.registry import CONFIRM_MAX_S
from tests.asgi_client import Answer, AsgiClient
from tests.gateway.harness import EVENT, OPERATOR_TOKEN, Gateway, Handlers, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

NOBODYS = make_key("live", "secret", b"n" * 20)


def _refused(answer: Answer) -> bool:
    assert answer.header("www-authenticate") == ("Bearer" if answer.status == 401 else None)
    assert answer.status != 401 or answer.code == "authentication_failed"
    assert answer.status != 401 or answer.header("x-ratelimit-limit") is None
    return answer.status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {NOBODYS}",
        NOBODYS,
        f"Bearer{NOBODYS}",
        f"Bearer\t{NOBODYS}",
        f"Bearer {NOBODYS[:-1]}{'0' if NOBODYS[-1] != '0' else '1'}",
        f"Bearer {NOBODYS} {NOBODYS}",
        f"Bearer {NOBODYS}, Bearer {NOBODYS}",
        f"Bearer {NOBODYS.upper()}",
        "Bearer atlas_live_sk_9f4c2c1e6b8a4d2bb7e6c0a8d3f1e5c2",
        f"Bearer {OPERATOR_TOKEN}",
        f"Bearer {NOBODYS}",
        "Bearer \xff\xfe",
        "Bearer " + "a" * 8_000,
    ],
)
def test_what_lets_nobody_in(authorization: str | None, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path, handlers=Handlers()) as g:
            headers = [] if authorization is None else [("authorization", authorization)]
            answer = await g.anonymous.get("/v1/events", headers=headers)
            assert _refused(answer)
            assert NOBODYS.encode() not in answer.body
            if authorization != f"Bearer {OPERATOR_TOKEN}":
                assert _refused(await g.anonymous.get("/admin/v1/workspaces", headers=headers))

    test()


@virtual_time
async def test_the_schemes_case_does_not_matter(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        _, client = await g.key()
        for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
            answer = await g.anonymous.get(
                "/v1/events", headers=[("authorization", f"{scheme} {client.secret}")]
            )
            assert answer.status == 200


@virtual_time
async def test_a_workspaces_key_does_not_open_admin_and_the_operators_not_v1(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        assert _refused(await g.live.get("/admin/v1/workspaces"))
        assert _refused(await g.live.post("/admin/v1/workspaces", {"name": "Mine"}))
        assert _refused(await g.operator.get("/v1/events"))
        assert (await g.operator.get("/admin/v1/workspaces")).header("x-ratelimit-limit") is None


@virtual_time
async def test_a_bad_checksum_is_refused_before_any_look_up(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        looked = _count_looks(g)
        assert _refused(await g.anonymous.using(NOBODYS[:-8] + "00000000").get("/v1/events"))
        assert looked == []
        assert _refused(await g.anonymous.using(NOBODYS).get("/v1/events"))
        assert looked == [1]


def _count_looks(g: Gateway) -> list[int]:
    looked: list[int] = []
    catch_up = g.registry.catch_up

    async def counted() -> None:
        looked.append(1)
        await catch_up()

    g.registry.catch_up = counted  # type: ignore[method-assign]  # the registry as it is, counted
    return looked


@virtual_time
async def test_a_key_made_elsewhere_a_moment_ago_opens(clock: VirtualClock, tmp_path: Path) -> None:
    """Its record is in the control log, and not folded here yet."""
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        key, secret = new_key(g.services, (g.workspace_id, "live"), "secret", clock.now_ms())
        command = CreateKey(id="cmd_elsewhere", at_ms=clock.now_ms(), key=key)
        record = NewRecord(encode_command(command), headers=((SCHEMA_HEADER, CONTROL_SCHEMA),))
        elsewhere = asyncio.create_task(g.services.log.append(CONTROL_TOPIC, 0, [record]))
        answer = await g.anonymous.using(secret).get("/v1/events")
        assert answer.json()["key"] == key.id
        await elsewhere


@virtual_time
async def test_revoking_holds_from_the_next_request(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        key_id, client = await g.key()
        assert (await client.get("/v1/events")).status == 200
        assert (await g.live.delete(f"/v1/api-keys/{key_id}")).status == 200
        assert _refused(await client.get("/v1/events"))


@virtual_time
async def test_a_rotated_key_lives_until_the_overlap_ends(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        for body, overlap_s in [(None, 3_600), ({"overlap_seconds": 7_200}, 7_200)]:
            key_id, old = await g.key()
            made = (await g.live.post(f"/v1/api-keys/{key_id}/rotate", body)).json()
            new = g.anonymous.using(made["secret"])
            await pass_time(overlap_s - 0.001)
            assert (await old.get("/v1/events")).status == 200
            await pass_time(0.001)
            assert _refused(await old.get("/v1/events"))
            assert (await new.get("/v1/events")).status == 200


@virtual_time
async def test_no_overlap_ends_the_old_key_at_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        key_id, old = await g.key()
        answer = await g.live.post(f"/v1/api-keys/{key_id}/rotate", {"overlap_seconds": 0})
        assert answer.status == 201
        assert _refused(await old.get("/v1/events"))


@virtual_time
async def test_a_suspended_workspace(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        other_id, other_live, other_test = await g.workspace("Umbra")
        patch = await g.operator.patch(f"/admin/v1/workspaces/{other_id}", {"status": "suspended"})
        assert patch.json()["status"] == "suspended"
        for client in (other_live, other_test):
            answer = await client.post("/v1/events", EVENT)
            assert (answer.status, answer.code) == (403, "permission_denied")
            assert answer.header("x-ratelimit-remaining") == answer.header("x-ratelimit-limit")
        assert (await g.live.post("/v1/events", EVENT)).status == 200
        await g.operator.patch(f"/admin/v1/workspaces/{other_id}", {"status": "enabled"})
        assert (await other_live.post("/v1/events", EVENT)).status == 200


@virtual_time
async def test_a_gateway_that_cannot_confirm_the_control_log_refuses(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        _break_control(g)
        await pass_time(CONFIRM_MAX_S - 1)
        assert (await g.live.get("/v1/events")).status == 200
        await pass_time(2)
        for client, path in [(g.live, "/v1/events"), (g.operator, "/admin/v1/workspaces")]:
            answer = await client.get(path)
            assert (answer.status, answer.code) == (503, "service_unavailable")
            assert answer.header("retry-after") is not None
        assert _refused(await g.anonymous.get("/v1/events"))
        assert _refused(await g.anonymous.using("atlas_live_sk_typo").get("/v1/events"))
        assert (await g.anonymous.get("/healthz")).status == 200


def _break_control(g: Gateway) -> None:
    async def away(sources: Any) -> dict[TopicPartition, int]:
        raise LogUnavailable("a fault at the port")

    g.log.end_offsets = away  # type: ignore[method-assign]  # a fault at the port


#: What each kind of key may do: (method, path) -> full secret, scoped secret, publishable.
PERMISSIONS = {
    ("POST", "/v1/events"): (True, True, True),
    ("POST", "/v1/events/batch"): (True, True, True),
    ("GET", "/v1/events"): (True, True, False),
    ("HEAD", "/v1/events"): (True, True, False),
    ("GET", "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"): (True, True, False),
    ("GET", "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A/payload"): (True, True, False),
    ("GET", "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A/attempts"): (True, True, False),
    ("GET", "/v1/event-streams"): (True, True, False),
    ("GET", "/v1/event-streams/orders-prod"): (True, True, False),
    ("POST", "/v1/event-streams"): (True, False, False),
    ("PATCH", "/v1/event-streams/orders-prod"): (True, False, False),
    ("DELETE", "/v1/event-streams/orders-prod"): (True, False, False),
    ("POST", "/v1/api-keys"): (True, False, False),
    ("GET", "/v1/api-keys"): (True, False, False),
    ("DELETE", "/v1/api-keys/key_01HX9YQK2T7V3M4ZB6F5N0WJ1A"): (True, False, False),
    ("POST", "/v1/api-keys/key_01HX9YQK2T7V3M4ZB6F5N0WJ1A/rotate"): (True, False, False),
    ("POST", "/v1/workflows"): (True, False, False),
    ("GET", "/v1/workflows"): (True, False, False),
    ("GET", "/v1/workflows/wf_a"): (True, False, False),
    ("PATCH", "/v1/workflows/wf_a"): (True, False, False),
    ("DELETE", "/v1/workflows/wf_a"): (True, False, False),
    ("POST", "/v1/workflows/wf_a/rotate-secret"): (True, False, False),
    ("POST", "/v1/workflows/wf_a/disable"): (True, False, False),
    ("POST", "/v1/workflows/wf_a/reactivate"): (True, False, False),
    ("POST", "/v1/webhook-endpoints"): (True, False, False),
    ("GET", "/v1/webhook-endpoints"): (True, False, False),
    ("GET", "/v1/webhook-endpoints/we_a"): (True, False, False),
    ("PATCH", "/v1/webhook-endpoints/we_a"): (True, False, False),
    ("DELETE", "/v1/webhook-endpoints/we_a"): (True, False, False),
    ("POST", "/v1/webhook-endpoints/we_a/rotate-secret"): (True, False, False),
    ("POST", "/v1/webhook-endpoints/we_a/disable"): (True, False, False),
    ("POST", "/v1/webhook-endpoints/we_a/reactivate"): (True, False, False),
    ("GET", "/v1/webhook-endpoints/we_a/deliveries"): (True, False, False),
}


@virtual_time
async def test_what_each_kind_of_key_may_do(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        await g.stream("orders-prod")
        _, scoped = await g.key(streams=["orders-prod"])
        _, browser = await g.key(kind="publishable", streams=["orders-prod"])
        clients: list[tuple[AsgiClient, int]] = [(browser, 2), (scoped, 1), (g.live, 0)]
        for client, kind in clients:
            for (method, path), permitted in PERMISSIONS.items():
                answer = await client.request(method, path)
                assert (answer.status == 403) is not permitted[kind], (method, path, answer.status)
                if answer.status == 403:
                    assert method == "HEAD" or answer.code == "permission_denied"
                    assert answer.header("x-ratelimit-limit") is not None


@virtual_time
async def test_a_scoped_key_sees_its_streams_and_no_others(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for name in ("audit-prod", "orders-prod", "users-prod"):
            await g.stream(name)
        _, scoped = await g.key(streams=["orders-prod", "users-prod"])
        listed = (await scoped.get("/v1/event-streams")).json()["data"]
        assert [stream["name"] for stream in listed] == ["orders-prod", "users-prod"]
        assert (await scoped.get("/v1/event-streams/orders-prod")).status == 200
        hidden, absent = [
            await scoped.get(f"/v1/event-streams/{name}") for name in ("audit-prod", "nobody-prod")
        ]
        assert hidden.status == absent.status == 404
        assert hidden.code == absent.code == "stream_not_found"
        other = await scoped.post("/v1/events", {**EVENT, "stream": "audit-prod"})
        assert (other.status, other.code) == (404, "stream_not_found")
        assert (await scoped.post("/v1/events", EVENT)).status == 202


@virtual_time
async def test_a_key_revoked_elsewhere_stops_working_here(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        key_id, client = await g.key()
        revoke = RevokeKey(
            id="cmd_elsewhere",
            at_ms=clock.now_ms(),
            workspace_id=g.workspace_id,
            environment="live",
            key_id=key_id,
        )
        await g.registry.propose(revoke)
        assert _refused(await client.get("/v1/events"))
