"""The HTTP sender against targets on loopback that behave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from atlas.adapters.http_sender import DRAIN_BYTES_MAX, HttpSender
from atlas.core.limits import RESPONSE_BODY_BYTES_MAX
from atlas.ports.sender import DeliveryRequest
from tests.raw_server import GENEROUS_MS, OK, a_sender, answer_to, plain, post, says, says_then_hangs, serve


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    async with a_sender() as sender:
        yield sender


async def test_what_goes_over_the_wire(sender: HttpSender) -> None:
    async with serve(says(OK)) as target:
        url = f"http://127.0.0.1:{target.port}/a/../b%2Fc?sig=a%2Fb+c&x=~"
        request = DeliveryRequest(
            url, {"Content-Type": "application/json", "webhook-id": "whd_1"}, b"\x00\xff{}", GENEROUS_MS
        )
        await sender.send(request)
    head, _, body = target.requests[0].partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    assert line == "POST /a/../b%2Fc?sig=a%2Fb+c&x=~ HTTP/1.1"
    headers = dict(field.split(": ", 1) for field in fields)
    assert headers.pop("User-Agent").startswith("Atlas/")
    assert headers == {
        "Host": f"127.0.0.1:{target.port}",
        "Content-Type": "application/json",
        "webhook-id": "whd_1",
        "Accept": "*/*",
        "Content-Length": "4",
    }
    assert body == b"\x00\xff{}"


async def test_a_success(sender: HttpSender) -> None:
    async with serve(says(OK)) as target:
        result = await post(sender, target.url)
    assert (result.http_status, result.error_code, result.error_message) == (200, None, None)
    assert (result.response_body, result.address, result.retry_after_s) == ("ok", "127.0.0.1", None)
    assert result.connect_ms is not None
    assert result.tls_ms is None
    assert result.first_byte_ms is not None
    assert 0 < result.connect_ms <= result.first_byte_ms


async def test_a_connection_is_used_again_and_none_is_left_behind(sender: HttpSender) -> None:
    async with serve(says(OK)) as target:
        results = [await post(sender, target.url) for _ in range(3)]
        assert (target.connections, len(target.requests)) == (1, 3)
        assert [result.connect_ms is None for result in results] == [False, True, True]
        assert {result.address for result in results} == {"127.0.0.1"}
        await sender.close()
        await target.all_closed()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_success(sender: HttpSender, status: int) -> None:
    result = await answer_to(sender, plain(f"{status} X"))
    assert (result.http_status, result.error_code) == (status, None)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (301, "upstream_status", "Target answered 301; redirects are not followed"),
        (307, "upstream_status", "Target answered 307; redirects are not followed"),
        (304, "upstream_status", "Target answered 304; redirects are not followed"),
        (400, "upstream_status", "Target answered 400"),
        (404, "upstream_status", "Target answered 404"),
        (410, "upstream_gone", "Target answered 410 Gone"),
        (500, "upstream_status", "Target answered 500"),
        (503, "upstream_status", "Target answered 503"),
        (999, "upstream_status", "Target answered 999"),
    ],
)
async def test_every_other_status_is_a_failure(
    sender: HttpSender, status: int, code: str, message: str
) -> None:
    async with serve(says(OK)) as elsewhere:
        result = await answer_to(sender, plain(f"{status} X", f"Location: {elsewhere.url}"))
        assert (result.http_status, result.error_code, result.error_message) == (status, code, message)
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("status", "headers", "expected_s"),
    [
        (429, ["Retry-After: 120"], 120.0),
        (503, ["Retry-After: 0"], 0.0),
        (503, ["Retry-After: Sun, 06 Nov 1994 08:50:37 GMT"], 60.0),
        (503, ["Retry-After: Sunday, 06-Nov-94 08:50:37 GMT"], 60.0),
        (503, ["Retry-After: Sun Nov  6 08:50:37 1994"], 60.0),
        (503, ["Retry-After: Sun, 06 Nov 1994 08:00:00 GMT"], 0.0),
        # the target's clock is ahead of ours by an hour: what counts is the difference
        (503, ["Retry-After: Sun, 06 Nov 1994 09:50:07 GMT", "Date: Sun, 06 Nov 1994 09:49:37 GMT"], 30.0),
        (503, ["Retry-After: Sun, 06 Nov 1994 08:50:37 GMT", "Date: nonsense"], 60.0),
        (503, ["Retry-After: soon"], None),
        (503, ["Retry-After: -1"], None),
        (503, ["Retry-After: 1.5"], None),
        (503, ["Retry-After: " + "9" * 5_000], 999_999_999.0),
        (503, ["Retry-After:"], None),
        (503, [], None),
        (500, ["Retry-After: 120"], None),
        (200, ["Retry-After: 120"], None),
        (301, ["Retry-After: 120"], None),
    ],
)
async def test_retry_after(
    sender: HttpSender, status: int, headers: list[str], expected_s: float | None
) -> None:
    assert (await answer_to(sender, plain(f"{status} X", *headers))).retry_after_s == expected_s


@pytest.mark.parametrize(
    "length", [0, 1, RESPONSE_BODY_BYTES_MAX, RESPONSE_BODY_BYTES_MAX + 1, DRAIN_BYTES_MAX]
)
async def test_the_first_4_kib_are_kept_and_the_connection_used_again(
    sender: HttpSender, length: int
) -> None:
    body = random.Random(length).randbytes(length).hex().encode()[:length]
    async with serve(says(plain("200 OK", body=body))) as target:
        for _ in range(2):
            result = await post(sender, target.url)
            assert result.error_code is None
            assert (result.response_body or "").encode() == body[:RESPONSE_BODY_BYTES_MAX]
        assert target.connections == 1


async def test_cookies_are_not_kept(sender: HttpSender) -> None:
    async with serve(says(plain("200 OK", "Set-Cookie: a=b; Path=/"))) as target:
        await post(sender, target.url)
        await post(sender, target.url)
    assert len(target.requests) == 2
    assert b"cookie" not in target.requests[1].lower()


async def test_proxies_of_the_environment_are_ignored(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serve(says(OK)) as target:
        assert (await post(sender, target.url)).error_code is None


async def test_a_refused_port(sender: HttpSender) -> None:
    async with serve(says(OK)) as target:
        url = target.url
    result = await post(sender, url)
    assert (result.error_code, result.error_message) == (
        "upstream_unreachable",
        "Target refused the connection",
    )
    assert (result.address, result.response_body) == ("127.0.0.1", None)


@pytest.mark.parametrize("url", ["", "http://", "nonsense", "http://[::1", "http://h:99999/", "ftp://h/"])
async def test_what_is_no_url_is_a_failed_result_too(sender: HttpSender, url: str) -> None:
    result = await post(sender, url)
    assert (result.error_code, result.error_message) == (
        "upstream_unreachable",
        "Target's URL cannot be used",
    )


async def test_a_cancelled_send_closes_its_connection(sender: HttpSender) -> None:
    async with serve(says_then_hangs(b"")) as target:
        task = asyncio.create_task(post(sender, target.url))
        await target.arrived(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await target.all_closed()


async def test_a_target_that_hangs_delays_no_other(sender: HttpSender) -> None:
    async with serve(says_then_hangs(b"")) as hanging, serve(says(OK)) as target:
        stuck = [asyncio.create_task(post(sender, hanging.url)) for _ in range(150)]
        await hanging.arrived(150)
        assert (await post(sender, target.url)).error_code is None
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


@pytest.mark.parametrize(
    "test",
    [
        test_what_goes_over_the_wire,
        test_a_success,
        test_a_connection_is_used_again_and_none_is_left_behind,
        test_a_refused_port,
        test_a_cancelled_send_closes_its_connection,
        test_a_target_that_hangs_delays_no_other,
    ],
)
def test_the_same_on_uvloop(test: Callable[[HttpSender], Awaitable[None]]) -> None:
    """The loop that Atlas runs on, where it tells from the standard one: tasks, closing, contexts."""

    async def main() -> None:
        async with a_sender() as sender:
            await test(sender)

    uvloop.run(main())
