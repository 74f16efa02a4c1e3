"""`/v1/workflows`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from atlas.core.entities import secret_context
from tests.gateway.harness import EVENT, Gateway, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

PATH = "/v1/workflows"
URL = "https://hooks.acme.example/atlas"
TARGET_FIELDS = [
    "url",
    "description",
    "timeout_ms",
    "retry_schedule_seconds",
    "max_in_flight",
    "rate_limit_per_second",
    "headers",
    "status",
    "disabled_reason",
    "disabled_at",
    "breaker",
    "created_at",
]
CLOSED = {"state": "closed", "reason": None, "opened_at": None, "next_probe_at": None}
FIELDS = ["id", "object", "ordered", "filter", *TARGET_FIELDS]


@virtual_time
async def test_a_new_workflow_in_full(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        answer = await g.live.post(PATH, {"id": "wf_billing_sync", "url": URL})
        assert answer.status == 201
        made = answer.json()
        secret = made.pop("secret")
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret[6:], validate=True)) == 32
        assert list(made) == FIELDS
        assert made == {
            "id": "wf_billing_sync",
            "object": "workflow",
            "ordered": False,
            "filter": None,
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
        assert (await g.live.get(f"{PATH}/wf_billing_sync")).json() == made
        assert (await g.live.get(PATH)).json()["data"] == [made]


@virtual_time
async def test_an_id_is_made_when_none_is_given(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.workflow()
        assert made["id"].startswith("wf_")
        assert made["id"] == made["id"].lower()
        await g.stream("orders-prod", default_routes=[made["id"]])
        again = await g.live.post(PATH, {"id": made["id"], "url": URL})
        assert (again.status, again.code) == (409, "already_exists")


GOOD: list[dict[str, Any]] = [
    {"id": "wf_a"},
    {"id": "wf_" + "a" * 60},
    {"timeout_ms": 100},
    {"timeout_ms": 30_000},
    {"retry_schedule_seconds": []},
    {"ordered": True},
    {"retry_schedule_seconds": [1] * 20},
    {"retry_schedule_seconds": [86_400]},
    {"max_in_flight": 1},
    {"max_in_flight": 1_000},
    {"rate_limit_per_second": 1},
    {"rate_limit_per_second": 10_000},
    {"description": "x" * 1_000},
    {"url": "http://192.0.2.1:8080/a?b=c"},
    {"url": "https://a.example/" + "x" * (2_048 - 18)},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"id": "billing"}, "id"),
    ({"id": "wf_"}, "id"),
    ({"id": "wf_" + "a" * 61}, "id"),
    ({"id": "wf_A"}, "id"),
    ({"id": "wf_a\n"}, "id"),
    ({"url": None}, "url"),
    ({"url": ""}, "url"),
    ({"url": "ftp://a.example"}, "url"),
    ({"url": "https://"}, "url"),
    ({"url": "https://user:pw@a.example"}, "url"),
    ({"url": "https://a.example/#x"}, "url"),
    ({"url": "https://a.example/\n"}, "url"),
    ({"url": "https://a.example/" + "x" * (2_049 - 18)}, "url"),
    ({"timeout_ms": 99}, "timeout_ms"),
    ({"timeout_ms": 30_001}, "timeout_ms"),
    ({"retry_schedule_seconds": [1] * 21}, "retry_schedule_seconds"),
    ({"retry_schedule_seconds": [5, 0]}, "retry_schedule_seconds.1"),
    ({"retry_schedule_seconds": [86_401]}, "retry_schedule_seconds.0"),
    ({"max_in_flight": 0}, "max_in_flight"),
    ({"max_in_flight": 1_001}, "max_in_flight"),
    ({"rate_limit_per_second": 0}, "rate_limit_per_second"),
    ({"rate_limit_per_second": 10_001}, "rate_limit_per_second"),
    ({"description": "x" * 1_001}, "description"),
    ({"headers": {"Host": "x"}}, "headers.Host"),
    ({"headers": {"X-Atlas-Signature": "x"}}, "headers.X-Atlas-Signature"),
    ({"headers": {"X-Ok": "a\r\nb"}}, "headers.X-Ok"),
    ({"headers": {f"X-{i}": "x" for i in range(21)}}, "headers"),
    ({"ordered": 1}, "ordered"),
    ({"filter": []}, "filter"),
    ({"status": "disabled"}, "status"),
    ({"secret": "whsec_x"}, "secret"),
]
BAD_FILTER = ({"filter": {"data.a": ["x", {"numeric": [">", "1"]}]}}, "filter.data.a.1.numeric.1")


@virtual_time
async def test_fields_at_their_limits(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for body in GOOD:
            answer = await g.live.post(PATH, {"url": URL, **body})
            assert answer.status == 201, body
            assert {field: answer.json()[field] for field in body} == body
        await g.workflow("wf_patched")
        for body in GOOD:
            if "id" not in body:
                assert (await g.live.patch(f"{PATH}/wf_patched", body)).json().items() >= body.items()


@virtual_time
async def test_fields_past_their_limits_change_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        assert (await g.live.post(PATH, {})).field == "url"
        for body, field in (*BAD, BAD_FILTER):
            assert (await g.live.post(PATH, {"url": URL, **body})).field == field, body
        assert (await g.live.get(PATH)).json()["data"] == []
        await g.workflow("wf_a")
        before = (await g.live.get(f"{PATH}/wf_a")).json()
        for body, field in (*BAD, BAD_FILTER):
            if body != {"url": None}:  # absent, in a patch
                assert (await g.live.patch(f"{PATH}/wf_a", body)).field == field, body
        assert (await g.live.get(f"{PATH}/wf_a")).json() == before


@virtual_time
async def test_patching(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.workflow("wf_a", description="Billing", rate_limit_per_second=5)
        made.pop("secret")
        patches: list[dict[str, Any]] = [
            {},
            {"url": "https://other.example/"},
            {"retry_schedule_seconds": [1, 2]},
            {"description": None, "rate_limit_per_second": None},
            {"timeout_ms": 100, "max_in_flight": 1},
        ]
        for patch in patches:
            made |= patch
            answer = await g.live.patch(f"{PATH}/wf_a", patch)
            assert (answer.status, answer.json()) == (200, made)
        unchanged = dict.fromkeys(["url", "timeout_ms", "retry_schedule_seconds", "max_in_flight", "headers"])
        assert (await g.live.patch(f"{PATH}/wf_a", unchanged)).json() == made


@pytest.mark.parametrize("path", [PATH, "/v1/webhook-endpoints"])
def test_the_scheme_of_a_url_is_stored_in_lower_case(path: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            made = await g.live.post(path, {"url": "HTTP://EXAMPLE.com/Hook"})
            assert (made.status, made.json()["url"]) == (201, "http://EXAMPLE.com/Hook")
            one = f"{path}/{made.json()['id']}"
            await g.live.patch(one, {"url": "HttpS://EXAMPLE.com/Hook"})
            assert (await g.live.get(one)).json()["url"] == "https://EXAMPLE.com/Hook"

    test()


@virtual_time
async def test_header_values_come_back_masked(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        headers = {"Authorization": "Bearer their-token", "X-Team": "billing"}
        answers = [
            await g.live.post(PATH, {"id": "wf_a", "url": URL, "headers": headers}),
            await g.live.get(f"{PATH}/wf_a"),
            await g.live.get(PATH),
            await g.live.patch(f"{PATH}/wf_a", {"headers": {**headers, "X-More": "secret-too"}}),
            await g.live.post(f"{PATH}/wf_a/disable"),
        ]
        for answer in answers:
            for value in (b"their-token", b"billing", b"secret-too"):
                assert value not in answer.body
        assert answers[0].json()["headers"] == {"Authorization": "****", "X-Team": "****"}
        kept = g.registry.state.target((g.workspace_id, "live"), "wf_a")
        assert kept.headers == {**headers, "X-More": "secret-too"}


@virtual_time
async def test_a_masked_value_that_is_sent_back_stays_what_it_was(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path) as g:
        headers = {"Authorization": "Bearer their-token", "X-Team": "billing"}
        await g.live.post(PATH, {"id": "wf_a", "url": URL, "headers": headers})
        shown = (await g.live.get(f"{PATH}/wf_a")).json()["headers"]
        await g.live.patch(f"{PATH}/wf_a", {"headers": {**shown, "X-New": "****"}})
        await g.live.patch(f"{PATH}/wf_a", {"headers": {"authorization": "****", "X-Team": "other"}})
        kept = g.registry.state.target((g.workspace_id, "live"), "wf_a")
        assert kept.headers == {"authorization": "Bearer their-token", "X-Team": "other"}


@virtual_time
async def test_rotating_the_secret(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        first = (await g.workflow("wf_a"))["secret"]
        assert _secrets(g, "wf_a") == [(first, None)]
        answer = await g.live.post(f"{PATH}/wf_a/rotate-secret")
        assert answer.status == 200
        assert list(answer.json()) == [*FIELDS, "secret"]
        second = answer.json()["secret"]
        hour_ms = clock.now_ms() + 3_600_000
        assert _secrets(g, "wf_a") == [(second, None), (first, hour_ms)]
        third = (await g.live.post(f"{PATH}/wf_a/rotate-secret", {"overlap_seconds": 604_800})).json()[
            "secret"
        ]
        assert _secrets(g, "wf_a") == [(third, None), (second, clock.now_ms() + 604_800_000)]
        fourth = (await g.live.post(f"{PATH}/wf_a/rotate-secret", {"overlap_seconds": 0})).json()["secret"]
        assert _secrets(g, "wf_a") == [(fourth, None)]
        assert len({first, second, third, fourth}) == 4
        for overlap in (-1, 604_801):
            answer = await g.live.post(f"{PATH}/wf_a/rotate-secret", {"overlap_seconds": overlap})
            assert answer.field == "overlap_seconds"


def _secrets(g: Gateway, workflow_id: str) -> list[tuple[str, int | None]]:
    """What a deliverer would sign with."""
    workflow = g.registry.state.target((g.workspace_id, "live"), workflow_id)
    context = secret_context(g.workspace_id, "live", workflow_id)
    return [(g.secret_box.open(kept.sealed, context), kept.expires_at_ms) for kept in workflow.secrets]


@virtual_time
async def test_disabling_and_reactivating(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.workflow("wf_a")
        made.pop("secret")
        await pass_time(1.5)
        disabled = await g.live.post(f"{PATH}/wf_a/disable")
        expected = {
            **made,
            "status": "disabled",
            "disabled_reason": "requested",
            "disabled_at": "2026-01-01T00:00:01.500Z",
        }
        assert (disabled.status, disabled.json()) == (200, expected)
        await pass_time(1)
        assert (await g.live.post(f"{PATH}/wf_a/disable")).json() == expected
        assert (await g.live.get(f"{PATH}/wf_a")).json() == expected
        for _ in range(2):
            answer = await g.live.post(f"{PATH}/wf_a/reactivate")
            assert (answer.status, answer.json()) == (200, made)


@virtual_time
async def test_deleting_takes_it_out_of_every_stream(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.workflow("wf_a")
        made.pop("secret")
        await g.workflow("wf_b")
        await g.stream("orders-prod", default_routes=["wf_a", "wf_b"])
        answer = await g.live.delete(f"{PATH}/wf_a")
        assert (answer.status, answer.json()) == (200, made)
        stream = (await g.live.get("/v1/event-streams/orders-prod")).json()
        assert stream["default_routes"] == ["wf_b"]
        routes = (await g.live.post("/v1/events", EVENT)).json()["routes"]
        assert routes == [{"workflow_id": "wf_b", "status": "queued"}]
        for method, path in [
            ("GET", f"{PATH}/wf_a"),
            ("PATCH", f"{PATH}/wf_a"),
            ("DELETE", f"{PATH}/wf_a"),
            ("POST", f"{PATH}/wf_a/rotate-secret"),
            ("POST", f"{PATH}/wf_a/disable"),
            ("POST", f"{PATH}/wf_a/reactivate"),
        ]:
            gone = await g.live.request(method, path)
            assert (gone.status, gone.code) == (404, "workflow_not_found")


@pytest.mark.parametrize("name", ["wf_missing", "wf_", "nonsense", "%00", "%ff", "wf_A"])
def test_workflows_that_are_not_there(name: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            answer = await g.live.get(f"{PATH}/{name}")
            assert (answer.status, answer.code) == (404, "workflow_not_found")

    test()


@virtual_time
async def test_pages_go_by_the_text_of_ids(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for name in ("wf_b", "wf_a", "wf_c_d", "wf_c", "wf_0"):
            await g.workflow(name)
        first = (await g.live.get(f"{PATH}?limit=3")).json()
        assert [w["id"] for w in first["data"]] == ["wf_0", "wf_a", "wf_b"]
        assert first["next_cursor"] == "wf_b"
        rest = (await g.live.get(f"{PATH}?limit=3&cursor=wf_b")).json()
        assert [w["id"] for w in rest["data"]] == ["wf_c", "wf_c_d"]
        assert (rest["has_more"], rest["next_cursor"]) == (False, None)
        for cursor in ("b", "wf_", "wf_" + "a" * 61, "wf_%0A", "wf_a%0A", "stm_01HX9YQK2T7V3M4ZB6F5N0WJ1A"):
            assert (await g.live.get(f"{PATH}?cursor={cursor}")).field == "cursor"


@pytest.mark.parametrize("long", ["k" * 60_000, "\0" * 60_000, "\U0001f600" * 30_000])
def test_a_refusal_is_short_whatever_it_refuses(long: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            quoted = quote(long)
            answers = [await g.live.post(f"{PATH}/wf_a/disable", {long: 1})]
            for path in (PATH, "/v1/event-streams", "/v1/api-keys"):
                answers.append(await g.live.post(path, {long: 1}))
                answers.append(await g.live.get(f"{path}?{quoted}=1"))
                answers.append(await g.live.patch(f"{path}/{quoted}", {}))
                answers.append(await g.live.get(f"{path}/{quoted}"))
            answers.append(await g.operator.get(f"/admin/v1/workspaces/{quoted}"))
            for answer in answers:
                assert 400 <= answer.status < 500
                assert len(answer.body) < 16_000

    test()
