"""What the headers say of a body, or over HTTP/2 need not say, against what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest

from tests.asgi_client import Chunks
from tests.gateway.harness import EVENT, Gateway, Handlers, gateway
from tests.virtual_time import VirtualClock, virtual_time

EVENT_BODY = orjson.dumps(EVENT)


def _in_gateway(tmp_path: Path, scenario: Callable[[Gateway], Awaitable[None]]) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path, handlers=Handlers()) as g:
            await scenario(g)

    test()


@pytest.mark.parametrize("body", [b"", EVENT_BODY[:-1]])
def test_a_body_shorter_than_announced_is_refused(body: bytes, tmp_path: Path) -> None:
    """A server may take the rest of it for the next request."""

    async def scenario(g: Gateway) -> None:
        headers = [("content-length", str(len(EVENT_BODY)))]
        answer = await g.live.request("POST", "/v1/events", body=body, headers=headers)
        assert answer.field == "Content-Length"
        assert answer.header("connection") == "close"
        unread = await g.live.request("GET", "/v1/event-streams", body=body, headers=headers)
        assert (unread.status, unread.header("connection")) == (200, "close")
        whole = await g.live.request("POST", "/v1/events", body=EVENT_BODY, headers=headers)
        assert (whole.status, whole.header("connection")) == (200, None)

    _in_gateway(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "path", "key", "repeated", "status"),
    [
        ("POST", "/v1/events", False, [], 401),
        ("POST", "/v1/nothing", True, [], 404),
        ("DELETE", "/v1/events", True, [], 405),
        ("POST", "/v1/events", True, [("idempotency-key", "k")] * 2, 400),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_an_early_answer_waits_for_the_body(
    method: str,
    path: str,
    key: bool,
    repeated: list[tuple[str, str]],
    status: int,
    version: str,
    tmp_path: Path,
) -> None:
    """HTTP/2 need not announce one."""

    async def scenario(g: Gateway) -> None:
        pieces = Chunks([b"x" * 10_000] * 10)
        headers = [("content-length", "100000")] if version == "1.1" else []
        scope_headers = [*headers, *repeated]
        client = g.live if key else g.anonymous
        answer = await client.request(method, path, body=pieces, headers=scope_headers, http_version=version)
        assert (answer.status, pieces.sent_bytes) == (status, 100_000)
        assert answer.header("connection") is None

    _in_gateway(tmp_path, scenario)
