"""What is true of every request, whatever it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from atlas.core.errors import LogUnavailable, OffsetOutOfRange, StoreUnavailable, UnknownTopic
from atlas.gateway.call import Call, Reply, json_reply
from tests.asgi_client import AsgiClient
from tests.gateway.harness import EVENT, Gateway, Handlers, gateway
from tests.virtual_time import VirtualClock, virtual_time

#: Every path that needs a workspace's key, with the methods it knows.
PATHS = {
    "/v1/events": {"GET", "HEAD", "OPTIONS", "POST"},
    "/v1/events/batch": {"OPTIONS", "POST"},
    "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A": {"GET", "HEAD"},
    "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A/payload": {"GET", "HEAD"},
    "/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A/attempts": {"GET", "HEAD"},
    "/v1/event-streams": {"GET", "HEAD", "POST"},
    "/v1/event-streams/orders-prod": {"DELETE", "GET", "HEAD", "PATCH"},
    "/v1/api-keys": {"GET", "HEAD", "POST"},
    "/v1/api-keys/key_01HX9YQK2T7V3M4ZB6F5N0WJ1A": {"DELETE"},
    "/v1/api-keys/key_01HX9YQK2T7V3M4ZB6F5N0WJ1A/rotate": {"POST"},
    "/v1/workflows": {"GET", "HEAD", "POST"},
    "/v1/workflows/wf_billing_sync": {"DELETE", "GET", "HEAD", "PATCH"},
    "/v1/workflows/wf_billing_sync/rotate-secret": {"POST"},
    "/v1/workflows/wf_billing_sync/disable": {"POST"},
    "/v1/workflows/wf_billing_sync/reactivate": {"POST"},
}
ADMIN_PATHS = {
    "/admin/v1/workspaces": {"GET", "HEAD", "POST"},
    "/admin/v1/workspaces/ws_4F9KQ2C7Z1": {"GET", "HEAD", "PATCH"},
}
OPEN_PATHS = ("/healthz", "/readyz", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


@virtual_time
async def test_every_response_carries_its_own_request_id(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        ids = [(await g.live.get(path)).header("x-request-id") for path in [*PATHS, *OPEN_PATHS, "/nowhere"]]
        assert len(set(ids)) == len(ids)


@virtual_time
async def test_methods_a_path_does_not_know(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        everything = [(g.live, p, m) for p, m in PATHS.items()]
        everything += [(g.operator, p, m) for p, m in ADMIN_PATHS.items()]
        everything += [(g.anonymous, p, {"GET", "HEAD"}) for p in OPEN_PATHS]
        for client, path, known in everything:
            for method in METHODS:
                answer = await client.request(method, path)
                assert (answer.status == 405) is (method not in known), (method, path)
                if answer.status == 405:
                    assert method == "HEAD" or answer.code == "method_not_allowed"
                    assert set((answer.header("allow") or "").split(", ")) == known


@virtual_time
async def test_paths_that_lead_nowhere(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for client, path in [
            (g.anonymous, "/"),
            (g.anonymous, "/nowhere"),
            (g.anonymous, "/healthz/"),
            (g.anonymous, "/v1"),
            (g.live, "/v1/"),
            (g.live, "/v1/nowhere"),
            (g.live, "/v1/events/"),
            (g.live, "/v1/event-streams/"),
            (g.live, "/v1/event-streams/a/b"),
            (g.live, "//v1/events"),
            (g.live, "/v1/workflows/wf_a/reactivate/"),
            (g.live, "/V1/events"),
            (g.operator, "/admin/v1/nowhere"),
        ]:
            answer = await client.get(path)
            assert (answer.status, answer.code) == (404, "not_found"), path
            assert answer.header("location") is None
        assert g.counted("unknown", "GET", "404") == 13


@virtual_time
async def test_nothing_is_told_of_paths_to_those_who_may_not_ask(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for path in ["/v1/nowhere", "/v1/events", "/admin/v1/nowhere", "/admin/v1/workspaces"]:
            assert (await g.anonymous.request("PUT", path)).status == 401


@virtual_time
async def test_unknown_query_parameters_are_refused_everywhere(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for path, methods in {**PATHS, **ADMIN_PATHS, **{path: {"GET"} for path in OPEN_PATHS}}.items():
            client = g.operator if path.startswith("/admin") else g.live
            for method in methods - {"HEAD", "OPTIONS"}:
                if path.startswith("/v1/events"):
                    continue  # their handlers' own tests
                answer = await client.request(method, f"{path}?verbose=1", json={})
                assert answer.field == "verbose", (method, path)


@pytest.mark.parametrize("query", ["%ff=1", "limit=%ff", "\xff=1", "limit=%ed%a0%80"])
def test_a_query_that_is_not_utf8(query: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            assert (await g.live.get(f"/v1/event-streams?{query}")).field is None

    test()


@virtual_time
async def test_queries_are_decoded_in_order(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        answer = await g.live.get("/v1/events?b=1+2&a=%C3%A9&b=&c&d=x%26y;z")
        assert answer.json()["query"] == [["b", "1 2"], ["a", "é"], ["b", ""], ["c", ""], ["d", "x&y;z"]]


@virtual_time
async def test_head_is_get_without_the_body(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        get = await g.live.get("/v1/event-streams/orders-prod")
        head = await g.live.request("HEAD", "/v1/event-streams/orders-prod")
        assert (head.status, head.body) == (200, b"")
        assert head.header("content-length") == str(len(get.body))
        missing = await g.live.request("HEAD", "/v1/event-streams/nowhere")
        assert (missing.status, missing.body) == (404, b"")


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (("authorization", "Bearer x"), "Authorization"),
        (("idempotency-key", "a"), "Idempotency-Key"),
        (("content-type", "application/json"), "Content-Type"),
        (("content-length", "3"), "Content-Length"),
        (("transfer-encoding", "chunked"), "Transfer-Encoding"),
    ],
)
def test_a_repeated_header_that_matters(header: tuple[str, str], field: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path, handlers=Handlers()) as g:
            answer = await g.anonymous.post("/v1/events", headers=[header, header])
            assert answer.field == field
            assert (await g.anonymous.get("/healthz", headers=[header, header])).field == field

    test()


@virtual_time
async def test_other_headers_may_come_twice(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        twice = [("accept", "text/html"), ("x-forwarded-for", "192.0.2.1")] * 2
        assert (await g.live.get("/v1/events", headers=twice)).status == 200


@virtual_time
async def test_lengths_that_could_smuggle_a_request(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        both = [("content-length", "2"), ("transfer-encoding", "chunked")]
        assert (
            await g.live.request("POST", "/v1/events", body=b"{}", headers=both)
        ).field == "Content-Length"
        for length in ["-1", "+2", "0x2", "2, 2", "", " 2", "\xb2", "9" * 5_000]:
            answer = await g.live.request(
                "POST", "/v1/events", body=b"{}", headers=[("content-length", length)]
            )
            assert answer.field == "Content-Length"


@virtual_time
async def test_what_adapters_raise_becomes_503(clock: VirtualClock, tmp_path: Path) -> None:
    handlers = Handlers()
    async with gateway(clock, tmp_path, handlers=handlers) as g:
        for error in [LogUnavailable("secret"), UnknownTopic("secret"), StoreUnavailable("secret")]:
            handlers.answer = _raising(error)
            answer = await g.live.post("/v1/events", EVENT)
            assert (answer.status, answer.code) == (503, "service_unavailable")
            assert answer.header("retry-after") == "1"
            assert answer.details == {"retry_after_ms": 1000}
            assert b"secret" not in answer.body


@pytest.mark.parametrize("error", [OffsetOutOfRange("pay-load"), KeyError("pay-load"), RecursionError()])
def test_a_bug_has_the_right_form_and_one_line_in_the_log(error: Exception, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        handlers = Handlers()
        async with gateway(clock, tmp_path, handlers=handlers) as g:
            handlers.answer = _raising(error)
            with structlog.testing.capture_logs() as lines:
                answer = await g.live.post("/v1/events", {**EVENT, "data": {"pay-load": 1}})
            assert (answer.status, answer.code) == (500, "internal_error")
            assert answer.header("x-ratelimit-remaining") is not None
            (line,) = lines
            assert line["log_level"] == "error"
            assert line["request_id"] == answer.header("x-request-id")
            assert line["route"] == "/v1/events"
            assert type(error).__name__ in line["exception"]
            assert "in fail" in line["exception"]
            text = orjson.dumps(line).decode()
            assert "pay-load" not in text
            assert "atlas_live" not in text

    test()


@virtual_time
async def test_the_causes_of_a_bug_are_logged_without_their_values(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async def fail(call: Call) -> Reply:
        try:
            raise KeyError("pay-load")
        except KeyError as error:
            raise ValueError("pay-load") from error

    handlers = Handlers()
    handlers.answer = fail
    async with gateway(clock, tmp_path, handlers=handlers) as g:
        with structlog.testing.capture_logs() as lines:
            await g.live.post("/v1/events", EVENT)
    assert "builtins.ValueError\ncaused by\n" in lines[0]["exception"]
    assert lines[0]["exception"].endswith("builtins.KeyError")
    assert "pay-load" not in lines[0]["exception"].replace('KeyError("pay-load")', "").replace(
        'ValueError("pay-load")', ""
    )


def _raising(error: Exception) -> Any:
    async def fail(call: Call) -> Reply:
        raise error

    return fail


@virtual_time
async def test_a_handlers_headers_go_out(clock: VirtualClock, tmp_path: Path) -> None:
    async def replayed(call: Call) -> Reply:
        return json_reply(202, {"id": "evt_"}, ((b"idempotent-replayed", b"true"),))

    handlers = Handlers()
    handlers.answer = replayed
    async with gateway(clock, tmp_path, handlers=handlers) as g:
        answer = await g.live.post("/v1/events", EVENT)
        assert answer.header("idempotent-replayed") == "true"
        assert answer.header("content-type") == "application/json"
        assert answer.header("cache-control") == "no-store"


@virtual_time
async def test_requests_are_counted_by_route_and_never_by_what_a_client_makes_up(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        for name in ("a-b-c", "d-e-f"):
            await g.live.get(f"/v1/event-streams/{name}")
        await g.live.request("BREW", "/v1/events")
        await g.live.request("STEEP", "/v1/events")
        assert g.counted("/v1/event-streams/{name}", "GET", "404") == 2
        assert g.counted("/v1/events", "other", "405") == 2
        text = (await g.anonymous.get("/metrics")).body.decode()
        for made_up in ("a-b-c", "BREW", g.workspace_id):
            assert made_up not in text


@virtual_time
async def test_a_preflight_needs_no_key(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        asked = [
            ("origin", "https://shop.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,idempotency-key"),
        ]
        for path in ("/v1/events", "/v1/events/batch"):
            answer = await g.anonymous.request("OPTIONS", path, headers=asked)
            assert answer.status == 204
            assert answer.header("access-control-allow-origin") == "*"
            assert answer.header("access-control-allow-methods") == "POST"
            allowed = (answer.header("access-control-allow-headers") or "").lower()
            assert set(allowed.split(", ")) == {"authorization", "content-type", "idempotency-key"}
        assert (await g.anonymous.request("OPTIONS", "/v1/workflows", headers=asked)).status == 401


async def _sees(answer_of: AsgiClient, method: str, path: str, **kwargs: Any) -> bool:
    answer = await answer_of.request(method, path, **kwargs)
    origin = answer.header("access-control-allow-origin")
    if origin is not None:
        exposed = (answer.header("access-control-expose-headers") or "").lower().split(", ")
        assert {
            "retry-after",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-request-id",
            "idempotent-replayed",
        } == set(exposed)
    return origin == "*"


@virtual_time
async def test_browsers_see_every_answer_to_a_publishable_key(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        await g.stream("orders-prod")
        key_id, browser = await g.key(kind="publishable", streams=["orders-prod"])
        assert await _sees(browser, "POST", "/v1/events", json=EVENT)
        assert await _sees(browser, "POST", "/v1/events/batch", json={"events": [EVENT]})
        assert await _sees(browser, "POST", "/v1/events", body=b"{")
        assert await _sees(browser, "GET", "/v1/events")
        await g.live.delete(f"/v1/api-keys/{key_id}")
        assert (await browser.post("/v1/events", EVENT)).status == 401
        assert await _sees(browser, "POST", "/v1/events", json=EVENT)


@virtual_time
async def test_no_page_may_read_what_a_secret_key_sees(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        assert not await _sees(g.live, "POST", "/v1/events", json=EVENT)
        assert not await _sees(g.live, "GET", "/v1/events")
        assert not await _sees(g.anonymous, "POST", "/v1/events", json=EVENT)


@virtual_time
async def test_other_kinds_of_connection(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        assert await _messages(g, "websocket", "/v1/events") == [{"type": "websocket.close"}]
        assert await _messages(g, "lifespan", None) == [
            {"type": "lifespan.startup.complete"},
            {"type": "lifespan.shutdown.complete"},
        ]


async def _messages(g: Gateway, kind: str, path: str | None) -> list[Any]:
    sent: list[Any] = []
    incoming = iter([{"type": f"{kind}.startup"}, {"type": f"{kind}.shutdown"}])

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind} if path is None else {"type": kind, "path": path, "headers": [], "root_path": ""}
    await g.app(scope, receive, send)
    return sent
