"""The quota as clients meet it (reference, "Rate limits")."""

from __future__ import annotations

from pathlib import Path

from atlas.core.entities import ApiKey, Quota, Workspace
from atlas.gateway.call import Principal
from atlas.gateway.quotas import Quotas
from tests.asgi_client import AsgiClient
from tests.gateway.harness import EVENT, Handlers, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DEFAULT = Quota(1_200, 200)


async def _granted(client: AsgiClient, count: int) -> int:
    answers = [await client.get("/v1/events") for _ in range(count)]
    assert {answer.status for answer in answers} <= {200, 429}
    return sum(answer.status == 200 for answer in answers)


@virtual_time
async def test_the_bucket_as_headers_tell_it(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=DEFAULT, handlers=Handlers()) as g:
        answers = [await g.live.get("/v1/events") for _ in range(200)]
        assert {answer.header("x-ratelimit-limit") for answer in answers} == {"200"}
        remaining = [int(answer.header("x-ratelimit-remaining") or -1) for answer in answers]
        assert remaining == list(range(199, -1, -1))
        answer = await g.live.get("/v1/events")
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
        assert answer.details == {"retry_after_ms": 50}
        assert answer.header("retry-after") == "1"
        assert answer.header("x-ratelimit-limit") == "200"
        assert answer.header("x-ratelimit-remaining") == "0"
        message = answer.json()["error"]["message"]
        assert message == f"Request quota exceeded for workspace {g.workspace_id}."
        await pass_time(1)
        assert await _granted(g.live, 50) == 20


@virtual_time
async def test_retry_after_is_rounded_up_and_enough(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(50, 1), handlers=Handlers()) as g:
        assert await _granted(g.live, 1) == 1
        answer = await g.live.get("/v1/events")
        assert answer.details == {"retry_after_ms": 1_200}
        assert answer.header("retry-after") == "2"
        await pass_time(1.199)
        assert await _granted(g.live, 1) == 0
        await pass_time(0.001)
        assert await _granted(g.live, 2) == 1


@virtual_time
async def test_each_workspace_and_environment_has_its_own(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(60, 5), handlers=Handlers()) as g:
        _, other_live, other_test = await g.workspace("Umbra")
        assert await _granted(g.live, 9) == 5
        _, second_key = await g.key(g.test)
        for client, count in [(g.test, 4), (second_key, 0), (other_live, 5), (other_test, 5)]:
            assert await _granted(client, 9) == count


@virtual_time
async def test_whatever_a_good_key_asks_for_counts(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(60, 6), handlers=Handlers()) as g:
        for method, path, status in [
            ("GET", "/v1/nowhere", 404),
            ("PUT", "/v1/events", 405),
            ("POST", "/v1/event-streams", 400),
            ("HEAD", "/v1/events", 200),
            ("POST", "/v1/events/batch", 200),
        ]:
            assert (await g.live.request(method, path)).status == status
        assert (await g.live.get("/v1/events")).header("x-ratelimit-remaining") == "0"
        for method, path in [("GET", "/v1/nowhere"), ("PUT", "/v1/events"), ("POST", "/v1/events")]:
            assert (await g.live.request(method, path)).status == 429


@virtual_time
async def test_what_nobody_asked_with_a_key_does_not(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(60, 1), handlers=Handlers()) as g:
        for _ in range(5):
            assert (await g.anonymous.get("/v1/events")).status == 401
            assert (await g.anonymous.get("/healthz")).status == 200
            assert (await g.anonymous.request("OPTIONS", "/v1/events")).status == 204
            assert (await g.operator.get("/admin/v1/workspaces")).status == 200
        assert await _granted(g.live, 2) == 1


@virtual_time
async def test_an_operators_change_holds_from_the_next_request(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=DEFAULT, handlers=Handlers()) as g:
        path = f"/admin/v1/workspaces/{g.workspace_id}"
        assert await _granted(g.live, 50) == 50
        small = {"requests_per_minute": 60, "burst": 10}
        answer = await g.operator.patch(path, {"quota": {"live": small}})
        default = {"requests_per_minute": 1_200, "burst": 200}
        assert answer.json()["quota"] == {"live": small, "test": default}
        refused = await g.live.get("/v1/events")
        assert refused.status == 429
        assert refused.header("x-ratelimit-limit") == "10"
        assert refused.details == {"retry_after_ms": 41_000}
        assert await _granted(g.test, 200) == 200
        answer = await g.operator.patch(path, {"quota": {"live": None}})
        assert answer.json()["quota"] == {"live": default, "test": default}
        assert await _granted(g.live, 300) == 150  # what was taken before is not refunded


@virtual_time
async def test_a_refused_event_leaves_its_idempotency_key_free(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(60, 3)) as g:
        await g.stream("orders-prod")
        key = [("idempotency-key", "6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa")]
        assert (await g.live.post("/v1/events", EVENT)).status == 202
        assert (await g.live.post("/v1/events", EVENT)).status == 202
        assert (await g.live.post("/v1/events", EVENT, key)).status == 429
        await pass_time(1)
        answer = await g.live.post("/v1/events", {**EVENT, "data": {"another": 1}}, key)
        assert answer.status == 202
        assert answer.header("idempotent-replayed") is None


@virtual_time
async def test_a_batch_is_one_request(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, quota=Quota(60, 10)) as g:
        await g.stream("orders-prod")
        answer = await g.live.post("/v1/events/batch", {"events": [EVENT] * 100})
        assert answer.json()["accepted"] == 100
        assert answer.header("x-ratelimit-remaining") == "8"


@virtual_time
async def test_idle_buckets_are_dropped_and_busy_ones_kept(clock: VirtualClock) -> None:
    quotas = Quotas(clock, Quota(60, 100))
    for round_ in range(5):
        for number in range(1_024):
            quotas.take(_caller(f"ws_{round_}_{number}"), [])
        quotas.take(_caller("ws_busy"), [])
        await pass_time(1.5)
        assert len(quotas) <= 2 * 1_024 + 1
    headers: list[tuple[bytes, bytes]] = []
    for _ in range(90):
        quotas.take(_caller("ws_busy"), headers)
    for number in range(5_000):
        quotas.take(_caller(f"ws_new_{number}"), [])
    headers.clear()
    quotas.take(_caller("ws_busy"), headers)
    assert dict(headers)[b"x-ratelimit-remaining"] == b"9"


def _caller(workspace_id: str) -> Principal:
    key = ApiKey(
        id="key_",
        workspace_id=workspace_id,
        environment="live",
        kind="secret",
        name=None,
        streams=None,
        prefix="",
        digest="",
        created_at_ms=0,
    )
    return Principal(key, Workspace(id=workspace_id, name="", created_at_ms=0))
