"""What a request's body may be, and how long it may take (API notes, "Every request and response")."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from atlas.core.limits import (
    BATCH_BODY_BYTES_MAX,
    BODY_BYTES_MAX,
    BODY_DEADLINE_S,
    DEPTH_MAX,
    DRAIN_BYTES_MAX,
    DRAIN_S_MAX,
)
from atlas.gateway.body import Body
from atlas.gateway.call import Call, Reply, json_reply
from atlas.gateway.deadlines import Deadlines
from tests.asgi_client import Chunks
from tests.gateway.harness import EVENT, Gateway, Handlers, gateway
from tests.virtual_time import VirtualClock, pass_time, settle, virtual_time

MIB = 1024 * 1024


def _sized(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


def _in_gateway(tmp_path: Path, scenario: Callable[[Gateway], Awaitable[None]]) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path, handlers=Handlers()) as g:
            await scenario(g)

    test()


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;x=y"],
)
def test_json_by_any_spelling(content_type: str, tmp_path: Path) -> None:
    async def scenario(g: Gateway) -> None:
        headers = [("content-type", content_type)]
        assert (await g.live.request("POST", "/v1/events", body=b"{}", headers=headers)).status == 200

    _in_gateway(tmp_path, scenario)


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "")],
        [("content-type", "text/plain")],
        [("content-type", "application/jsonp")],
        [("content-type", "application/json, text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "application/vnd.api+json")],
        [("content-type", "\xff")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
    ],
)
def test_other_types_are_415(headers: list[tuple[str, str]], tmp_path: Path) -> None:
    async def scenario(g: Gateway) -> None:
        for path in ("/v1/event-streams", "/v1/api-keys", "/v1/workflows/wf_a/rotate-secret"):
            answer = await g.live.request("POST", path, body=b"{}", headers=headers)
            assert (answer.status, answer.code) == (415, "unsupported_media_type")

    _in_gateway(tmp_path, scenario)


@virtual_time
async def test_a_body_without_a_content_type_is_415(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/event-streams",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {g.live.secret}".encode()), (b"content-length", b"2")],
        }
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await g.app(scope, Chunks([b"{}"]).receive, send)
        assert sent[0]["status"] == 415


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b" ", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b'"x"', None),
        (b"\xff\xfe", None),
        (b"\xef\xbb\xbf{}", None),
        (b'{"name":"\xed\xa0\x80"}', None),
        (b'{"name":"\\ud800"}', None),
        (b'{"name":"a-b","name":"a-b"}', "name"),
        (b'{"name":"a-b","x":{"y":[{"z":1,"z":2}]}}', "x.y.0.z"),
        (b'{"name":NaN}', "name"),
        (b'{"name":-Infinity}', "name"),
        (b'{"name":1e400}', "name"),
        (b'{"name":18446744073709551616}', "name"),
        (b'{"name":-9223372036854775809}', "name"),
        (b'{"name":' + b"9" * 5_000 + b"}", "name"),
        (b'{"name":"a\\u0000b"}', "name"),
        (b'{"name":"abc","color":1}', "color"),
        (b'{"retention_days":1}', "name"),
        (b'{"name":"abc","n\xc3\xa9":1}', "n\u00e9"),
        (b'{"a":' * 200_000, "a." * 63 + "a"),
    ],
)
def test_hostile_json(body: bytes, field: str | None, tmp_path: Path) -> None:
    async def scenario(g: Gateway) -> None:
        answer = await g.live.request("POST", "/v1/event-streams", body=body)
        assert answer.field == field
        assert (await g.live.get("/v1/event-streams")).json()["data"] == []

    _in_gateway(tmp_path, scenario)


@virtual_time
async def test_depth_at_its_limit_and_past_it(clock: VirtualClock, tmp_path: Path) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)

    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        assert (await g.live.request("POST", "/v1/events", body=nested(DEPTH_MAX))).status == 200
        assert (await g.live.request("POST", "/v1/events", body=nested(DEPTH_MAX + 1))).status == 400
        in_batch = b'{"events":[' + nested(DEPTH_MAX) + b"]}"
        assert (await g.live.request("POST", "/v1/events/batch", body=in_batch)).status == 200
        in_batch = b'{"events":[' + nested(DEPTH_MAX + 1) + b"]}"
        assert (await g.live.request("POST", "/v1/events/batch", body=in_batch)).status == 400


@virtual_time
async def test_an_absent_body_where_all_fields_are_optional(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        await g.workflow("wf_a")
        key_id, _ = await g.key()
        for method, path in [
            ("PATCH", "/v1/event-streams/orders-prod"),
            ("PATCH", "/v1/workflows/wf_a"),
            ("POST", "/v1/workflows/wf_a/rotate-secret"),
            ("POST", "/v1/workflows/wf_a/disable"),
            ("POST", "/v1/workflows/wf_a/reactivate"),
            ("POST", f"/v1/api-keys/{key_id}/rotate"),
        ]:
            assert (await g.live.request(method, path)).status in (200, 201), path
            assert (await g.live.request(method, path, json={})).status in (200, 201), path
            assert (await g.live.request(method, path, json={"color": 1})).field == "color", path
        workspace = f"/admin/v1/workspaces/{g.workspace_id}"
        assert (await g.operator.patch(workspace)).status == 200
        assert (await g.operator.patch(workspace, {"color": 1})).field == "color"


@pytest.mark.parametrize(
    ("path", "bytes_max"), [("/v1/events", BODY_BYTES_MAX), ("/v1/events/batch", BATCH_BODY_BYTES_MAX)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_size_at_its_limit_and_past_it(path: str, bytes_max: int, chunked: bool, tmp_path: Path) -> None:
    def body(size: int) -> bytes | Chunks:
        whole = _sized(size)
        return Chunks([whole[:MIB], whole[MIB:]]) if chunked else whole

    async def scenario(g: Gateway) -> None:
        assert (await g.live.request("POST", path, body=body(bytes_max))).status == 200
        answer = await g.live.request("POST", path, body=body(bytes_max + 1))
        assert (answer.status, answer.code) == (413, "payload_too_large")
        assert answer.header("connection") is None
        assert answer.header("x-ratelimit-remaining") is not None

    assert (BODY_BYTES_MAX, BATCH_BODY_BYTES_MAX) == (MIB, 8 * MIB)
    _in_gateway(tmp_path, scenario)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_too_long_is_drained_up_to_a_limit(announced: bool, tmp_path: Path) -> None:
    async def scenario(g: Gateway) -> None:
        headers = [("content-length", str(20 * MIB))] if announced else []
        body = Chunks([b"x" * MIB] * 20)
        answer = await g.live.request("POST", "/v1/events", body=body, headers=headers)
        assert answer.status == 413
        assert body.sent_bytes == DRAIN_BYTES_MAX == 16 * MIB
        assert answer.header("connection") == "close"

    _in_gateway(tmp_path, scenario)


@virtual_time
async def test_draining_does_not_wait_for_ever(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        for body in [Chunks([b"x" * (2 * MIB)], ends=False), Chunks([b"x", lambda: pass_time(1)] * 9)]:
            started_s = clock.monotonic_s()
            answer = await g.live.request(
                "POST", "/v1/events", body=body, headers=[("content-length", str(2 * MIB))]
            )
            assert answer.status == 413
            assert answer.header("connection") == "close"
            assert clock.monotonic_s() - started_s == pytest.approx(DRAIN_S_MAX)
    assert DRAIN_S_MAX == 2


@virtual_time
async def test_a_refused_request_is_read_to_its_end_before_the_answer(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path) as g:
        for client, method, path, status in [
            (g.anonymous, "POST", "/v1/events", 401),
            (g.live, "POST", "/v1/nowhere", 404),
            (g.live, "PUT", "/v1/events", 405),
            (g.live, "GET", "/v1/event-streams", 200),
        ]:
            body = Chunks([b"x" * MIB] * 3)
            answer = await client.request(method, path, body=body)
            assert answer.status == status
            assert body.sent_bytes == 3 * MIB
            assert answer.header("connection") is None


@virtual_time
async def test_http2_has_no_connection_header(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        body = Chunks([b"x" * (2 * MIB)], ends=False)
        answer = await g.live.request("POST", "/v1/events", body=body, http_version="2")
        assert answer.status == 413
        assert answer.header("connection") is None


@pytest.mark.parametrize("drip_s", [None, 1.0])
def test_a_slow_body_is_408(drip_s: float | None, tmp_path: Path) -> None:
    async def wait() -> None:
        await pass_time(drip_s or 0)

    async def scenario(g: Gateway) -> None:
        started_s = g.clock.monotonic_s()
        body = Chunks([b"{"], ends=False) if drip_s is None else Chunks([b" ", wait] * 60)
        answer = await g.live.request("POST", "/v1/events", body=body)
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert g.clock.monotonic_s() - started_s == pytest.approx(BODY_DEADLINE_S)
        assert answer.header("connection") == "close"

    assert BODY_DEADLINE_S == 30
    _in_gateway(tmp_path, scenario)


@virtual_time
async def test_a_body_just_in_time(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        body = Chunks([b"{", lambda: pass_time(BODY_DEADLINE_S - 0.01), b"}"])
        assert (await g.live.request("POST", "/v1/events", body=body)).json()["body"] == {}


@virtual_time
async def test_every_body_has_a_deadline_of_its_own(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:

        async def silent(after_s: float) -> float:
            await pass_time(after_s)
            await g.live.request("POST", "/v1/events", body=Chunks([], ends=False))
            return clock.monotonic_s() - started_s - after_s

        started_s = clock.monotonic_s()
        waits = [0.0, 0.0, 10.0, 29.0, 31.0, 95.0]
        took = await asyncio.gather(*[silent(after_s) for after_s in waits])
        assert took == pytest.approx([30.0] * len(waits))


@virtual_time
async def test_the_time_a_handler_takes_is_not_the_bodys(clock: VirtualClock, tmp_path: Path) -> None:
    async def slow(call: Call) -> Reply:
        await call.json()
        await pass_time(100)
        return json_reply(200, {})

    handlers = Handlers()
    handlers.answer = slow
    async with gateway(clock, tmp_path, handlers=handlers) as g:
        assert (await g.live.post("/v1/events", EVENT)).status == 200


@virtual_time
async def test_shutting_down_is_not_mistaken_for_a_deadline(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        request = asyncio.create_task(
            g.live.exchange("POST", "/v1/events", body=Chunks([b"{"], ends=False)), name="request"
        )
        await settle()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert (await g.live.post("/v1/events", EVENT)).status == 200


@pytest.mark.parametrize("pieces", [[], [b"{"], [b"{", b"}"]])
def test_a_client_that_hangs_up_gets_no_answer(pieces: list[bytes], tmp_path: Path) -> None:
    async def scenario(g: Gateway) -> None:
        assert await g.live.exchange("POST", "/v1/events", body=Chunks(pieces, ends=None)) is None
        assert g.counted("/v1/events", "POST", "client_gone") == 1
        assert await g.anonymous.exchange("POST", "/v1/events", body=Chunks(pieces, ends=None)) is None

    _in_gateway(tmp_path, scenario)


@virtual_time
async def test_a_client_that_is_gone_when_the_answer_comes(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/healthz",
            "query_string": b"",
            "headers": [],
        }

        async def send(message: Any) -> None:
            raise ConnectionResetError

        await g.app(scope, Chunks([]).receive, send)
        assert g.counted("/healthz", "GET", "client_gone") == 1


@virtual_time
async def test_a_body_in_many_pieces_is_put_together(clock: VirtualClock, tmp_path: Path) -> None:
    value = {"a": "x" * 5_000, "b": [1, 2, 3]}
    whole = orjson.dumps(value)
    async with gateway(clock, tmp_path, handlers=Handlers()) as g:
        for size in (1, 7, 4_096):
            pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
            answer = await g.live.request("POST", "/v1/events", body=Chunks([b"", *pieces, b""]))
            assert answer.json()["body"] == value


@virtual_time
async def test_one_piece_is_not_copied(clock: VirtualClock) -> None:
    piece = b"x" * 100
    assert await Body(Chunks([piece]).receive, Deadlines(30)).read(100) is piece
