"""`/v1/webhook-endpoints`: what is particular to them; the rest is as for workflows, and held to it here."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import pytest

from atlas.core.entities import secret_context
from atlas.core.limits import ENDPOINTS_MAX, STREAMS_MAX
from tests.gateway.harness import Gateway, gateway
from tests.gateway.test_workflows import BAD as BAD_TARGETS
from tests.gateway.test_workflows import CLOSED, TARGET_FIELDS
from tests.gateway.test_workflows import GOOD as GOOD_TARGETS
from tests.virtual_time import VirtualClock, pass_time, virtual_time

PATH: Final = "/v1/webhook-endpoints"
URL: Final = "https://hooks.acme.example/atlas"
UNKNOWN: Final = "we_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
OUTCOMES: Final = ["event.delivered", "event.failed", "event.retry_scheduled"]
FIELDS: Final = ["id", "object", "event_types", "streams", *TARGET_FIELDS]
VERBS: Final = ("rotate-secret", "disable", "reactivate")


async def endpoint(g: Gateway, **fields: object) -> dict[str, Any]:
    answer = await g.live.post(PATH, {"url": URL, **fields})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    return made


@virtual_time
async def test_a_new_endpoint_in_full(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await endpoint(g)
        secret = made.pop("secret")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert list(made) == FIELDS
        assert made == {
            "id": made["id"],
            "object": "webhook_endpoint",
            "event_types": OUTCOMES,
            "streams": None,
            "url": URL,
            "description": None,
            "timeout_ms": 5_000,
            "retry_schedule_seconds": [30, 60, 300, 900, 3_600, 10_800, 21_600, 43_200],
            "max_in_flight": 32,
            "rate_limit_per_second": None,
            "headers": {},
            "status": "enabled",
            "disabled_reason": None,
            "disabled_at": None,
            "breaker": CLOSED,
            "created_at": "2026-01-01T00:00:00.000Z",
        }
        assert (await g.live.get(f"{PATH}/{made['id']}")).json() == made
        assert (await g.live.get(PATH)).json()["data"] == [made]


#: What holds of a target's fields holds of both kinds; ids of endpoints are never the caller's.
_GOOD: Final = [
    *(body for body in GOOD_TARGETS if not body.keys() & {"id", "ordered"}),
    {"event_types": ["event.failed"]},
    {"event_types": OUTCOMES},
    {"event_types": OUTCOMES[::-1]},
    {"streams": ["orders-prod"]},
    {"streams": ["orders-prod", "audit-prod"]},
]
_BAD: Final = [
    *((body, field) for body, field in BAD_TARGETS if "id" not in body),
    ({"id": UNKNOWN}, "id"),
    ({"event_types": []}, "event_types"),
    ({"event_types": [*OUTCOMES, "event.failed"]}, "event_types"),
    ({"event_types": ["event.failed", "event.failed"]}, "event_types.1"),
    ({"event_types": ["event.failed", "event.accepted"]}, "event_types.1"),
    ({"event_types": "event.failed"}, "event_types"),
    ({"streams": []}, "streams"),
    ({"streams": ["orders-prod", "orders-prod"]}, "streams.1"),
    ({"streams": ["orders-prod", "elsewhere"]}, "streams.1"),
    ({"streams": ["Orders"]}, "streams.0"),
    ({"streams": [f"stream-{number}" for number in range(STREAMS_MAX + 1)]}, "streams"),
    ({"default_routes": []}, "default_routes"),
]


async def with_streams(g: Gateway) -> None:
    for name in ("orders-prod", "audit-prod"):
        await g.stream(name)
    await g.stream("elsewhere", g.test)


@virtual_time
async def test_fields_at_their_limits(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await with_streams(g)
        patched = (await endpoint(g))["id"]
        for body in _GOOD:
            made = await endpoint(g, **body)
            assert {field: made[field] for field in body} == body
            assert (await g.live.patch(f"{PATH}/{patched}", body)).json().items() >= body.items()
            assert (await g.live.delete(f"{PATH}/{made['id']}")).status == 200


@virtual_time
async def test_fields_past_their_limits_change_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await with_streams(g)
        assert (await g.live.post(PATH, {})).field == "url"
        for body, field in _BAD:
            assert (await g.live.post(PATH, {"url": URL, **body})).field == field, body
        assert (await g.live.get(PATH)).json()["data"] == []
        path = f"{PATH}/{(await endpoint(g))['id']}"
        before = (await g.live.get(path)).json()
        for body, field in _BAD:
            if body != {"url": None}:  # absent, in a patch
                assert (await g.live.patch(path, body)).field == field, body
        assert (await g.live.get(path)).json() == before


@virtual_time
async def test_patching_says_what_changes_and_nothing_else(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await with_streams(g)
        made = await endpoint(g, streams=["orders-prod"], description="Outcomes", rate_limit_per_second=5)
        made.pop("secret")
        patches: list[dict[str, Any]] = [
            {},
            {"event_types": ["event.failed"]},
            {"streams": ["audit-prod"], "timeout_ms": 100},
            {"streams": None},
            {"description": None, "rate_limit_per_second": None},
        ]
        for patch in patches:
            made |= patch
            answer = await g.live.patch(f"{PATH}/{made['id']}", patch)
            assert (answer.status, answer.json()) == (200, made)
        unchanged = dict.fromkeys(["url", "event_types", "timeout_ms", "headers"])
        assert (await g.live.patch(f"{PATH}/{made['id']}", unchanged)).json() == made


@virtual_time
async def test_twenty_in_an_environment_whatever_the_others_have(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        first = (await endpoint(g))["id"]
        for _ in range(ENDPOINTS_MAX - 1):
            await endpoint(g)
        refused = await g.live.post(PATH, {"url": URL})
        assert (refused.status, refused.code) == (409, "endpoint_limit_reached")
        _, other, _ = await g.workspace("Umbra")
        for client in (g.test, other):
            assert (await client.post(PATH, {"url": URL})).status == 201
        assert (await g.live.post(f"{PATH}/{first}/disable")).status == 200
        assert (await g.live.post(PATH, {"url": URL})).status == 409, "a disabled one counts"
        assert (await g.live.delete(f"{PATH}/{first}")).status == 200
        await endpoint(g)


@virtual_time
async def test_rotating_the_secret(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await endpoint(g)
        path = f"{PATH}/{made['id']}/rotate-secret"
        answer = await g.live.post(path)
        assert (answer.status, list(answer.json())) == (200, [*FIELDS, "secret"])
        second = answer.json()["secret"]
        hour_ms = clock.now_ms() + 3_600_000
        assert _secrets(g, made["id"]) == [(second, None), (made["secret"], hour_ms)]
        third = (await g.live.post(path, {"overlap_seconds": 0})).json()["secret"]
        assert _secrets(g, made["id"]) == [(third, None)]
        assert len({made["secret"], second, third}) == 3
        for overlap in (-1, 604_801, 1.5, "0"):
            assert (await g.live.post(path, {"overlap_seconds": overlap})).field == "overlap_seconds"


def _secrets(g: Gateway, endpoint_id: str) -> list[tuple[str, int | None]]:
    """What a deliverer would sign with."""
    kept = g.registry.state.target((g.workspace_id, "live"), endpoint_id)
    context = secret_context(g.workspace_id, "live", endpoint_id)
    return [(g.secret_box.open(each.sealed, context), each.expires_at_ms) for each in kept.secrets]


@virtual_time
async def test_disabling_and_reactivating(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await endpoint(g)
        made.pop("secret")
        path = f"{PATH}/{made['id']}"
        await pass_time(1.5)
        off = {"status": "disabled", "disabled_reason": "requested"}
        expected = {**made, **off, "disabled_at": "2026-01-01T00:00:01.500Z"}
        assert (await g.live.post(f"{path}/disable")).json() == expected
        await pass_time(1)
        assert (await g.live.post(f"{path}/disable")).json() == expected
        for _ in range(2):
            assert (await g.live.post(f"{path}/reactivate")).json() == made
        for verb in ("disable", "reactivate"):
            assert (await g.live.post(f"{path}/{verb}", {"reason": "x"})).field == "reason"
            assert (await g.live.post(f"{path}/{verb}?now=1")).field == "now"


@pytest.mark.parametrize("name", [UNKNOWN, UNKNOWN.lower(), "we_", "wf_a", "nonsense", "%00", "%ff"])
def test_endpoints_that_are_not_there(name: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            await g.workflow("wf_a")
            asked = [(method, name) for method in ("GET", "PATCH", "DELETE")]
            asked += [("POST", f"{name}/{verb}") for verb in VERBS] + [("GET", f"{name}/deliveries")]
            for method, rest in asked:
                answer = await g.live.request(method, f"{PATH}/{rest}")
                assert (answer.status, answer.code) == (404, "endpoint_not_found"), (method, rest)
            assert (await g.live.get("/v1/workflows/wf_a")).json()["status"] == "enabled"

    test()


@virtual_time
async def test_anothers_is_as_unknown_as_nobodys(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await endpoint(g)
        _, other, _ = await g.workspace("Umbra")
        asked = [(method, "") for method in ("GET", "PATCH", "DELETE")]
        asked += [("POST", f"/{verb}") for verb in VERBS] + [("GET", "/deliveries")]
        for client in (g.test, other):
            assert (await client.get(PATH)).json()["data"] == []
            for method, rest in asked:
                hidden, unknown = [
                    await client.request(method, f"{PATH}/{each}{rest}") for each in (made["id"], UNKNOWN)
                ]
                assert (hidden.status, hidden.code) == (404, "endpoint_not_found")
                said = hidden.json()["error"]["message"].replace(made["id"], UNKNOWN)
                assert said == unknown.json()["error"]["message"]
        made.pop("secret")
        assert (await g.live.get(f"{PATH}/{made['id']}")).json() == made, "nothing was changed"


@virtual_time
async def test_pages_go_by_age(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        ids = []
        for _ in range(5):
            ids.append((await endpoint(g))["id"])
            await pass_time(1)
        first = (await g.live.get(f"{PATH}?limit=3")).json()
        assert ([each["id"] for each in first["data"]], first["next_cursor"]) == (ids[:3], ids[2])
        rest = (await g.live.get(f"{PATH}?limit=3&cursor={ids[2]}")).json()
        assert ([each["id"] for each in rest["data"]], rest["next_cursor"]) == (ids[3:], None)
        for bad in ("cursor=we_", "cursor=wf_a", "limit=0", "limit=101", "status=enabled"):
            assert (await g.live.get(f"{PATH}?{bad}")).field == bad.partition("=")[0]
