"""The HTTP sender against targets that lie, dribble, hang, flood and hang up: one clean failure each."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from atlas.adapters.http_sender import HttpSender
from atlas.core.limits import (
    ANSWER_BYTES_MAX,
    ANSWER_FIELD_BYTES_MAX,
    ANSWER_FIELDS_MAX,
    RESPONSE_BODY_BYTES_MAX,
)
from atlas.ports.sender import DeliveryRequest
from tests.raw_server import (
    GENEROUS_MS,
    SHORT_MS,
    a_sender,
    answer_to,
    plain,
    post,
    says,
    says_then_hangs,
    serve,
)


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    async with a_sender() as sender:
        yield sender


@pytest.mark.parametrize(
    "received", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_a_target_that_hangs_before_it_answers(sender: HttpSender, received: bytes) -> None:
    async with serve(says_then_hangs(received)) as target:
        result = await post(sender, target.url, SHORT_MS)
        await target.all_closed()
    assert (result.http_status, result.error_code) == (None, "upstream_timeout")
    assert result.error_message == "Target did not respond within 200ms"


async def dribble_header(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        for byte in b"X-Padding: ".ljust(6_000, b"x") + b"\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)


async def dribble_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.0)


async def test_a_header_that_dribbles_is_cut_at_the_deadline(sender: HttpSender) -> None:
    async with serve(dribble_header) as target:
        result = await post(sender, target.url, SHORT_MS)
        await target.all_closed()
    assert (result.http_status, result.error_code) == (None, "upstream_timeout")


async def test_a_body_that_dribbles_is_cut_at_the_deadline(sender: HttpSender) -> None:
    """Also when bytes keep coming: the deadline is for all of it, not for each read."""
    async with serve(dribble_body) as target:
        result = await post(sender, target.url, SHORT_MS)
        await target.all_closed()
    assert (result.http_status, result.error_code) == (200, "upstream_timeout")
    assert result.error_message == "Target's answer did not end within 200ms"
    assert (result.response_body or "").startswith("xxx")


async def test_a_failure_stays_what_its_status_says_when_its_body_never_ends(sender: HttpSender) -> None:
    half = b"HTTP/1.1 503 X\r\nContent-Length: 10\r\nRetry-After: 7\r\n\r\nhalf"
    async with serve(says_then_hangs(half)) as target:
        result = await post(sender, target.url, SHORT_MS)
    assert (result.http_status, result.error_code, result.retry_after_s) == (503, "upstream_status", 7.0)
    assert result.response_body == "half"
    gone = await answer_to(sender, b"HTTP/1.1 410 Gone\r\nContent-Length: 10\r\n\r\nhalf")
    assert gone.error_code == "upstream_gone"


async def test_half_a_2xx_is_no_success(sender: HttpSender) -> None:
    result = await answer_to(sender, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    assert (result.http_status, result.error_code) == (200, "upstream_unreachable")
    assert result.error_message == "Target closed the connection in the middle of its answer"
    assert result.response_body == "half"


class Endless:
    """Sends a gigabyte, or as much of it as anybody takes."""

    bytes_max = 1 << 30

    def __init__(self) -> None:
        self.sent_bytes = 0

    async def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.bytes_max)
        while self.sent_bytes < self.bytes_max:
            writer.write(b"x" * 65_536)
            await writer.drain()
            self.sent_bytes += 65_536


async def test_a_gigabyte_is_cut_off(sender: HttpSender) -> None:
    endless = Endless()
    async with serve(endless) as target:
        result = await post(sender, target.url)
        await target.all_closed()
    assert (result.http_status, result.error_code) == (200, None)
    assert result.response_body == "x" * RESPONSE_BODY_BYTES_MAX
    # What the two kernels' buffers hold is sent without being read.
    assert endless.sent_bytes < 32 << 20


async def test_a_packed_body_is_kept_as_it_came(sender: HttpSender) -> None:
    bomb = gzip.compress(b"\0" * 1_000_000)
    result = await answer_to(sender, plain("200 OK", "Content-Encoding: gzip", body=bomb))
    assert result.error_code is None
    assert result.response_body == bomb.decode(errors="replace")


def fields_of(*lengths: int) -> bytes:
    """An answer whose fields have these lengths, name and value together."""
    fields = [f"X-{n:04}".encode() + b": " + b"x" * (length - 6) for n, length in enumerate(lengths)]
    return b"\r\n".join([b"HTTP/1.1 204 X", *fields, b"\r\n"])


@pytest.mark.parametrize(
    "header",
    [
        fields_of(ANSWER_FIELD_BYTES_MAX),
        fields_of(*[10] * ANSWER_FIELDS_MAX),
        fields_of(*[ANSWER_FIELD_BYTES_MAX - 100] * 16),
    ],
    ids=["a field", "their number", "all of it"],
)
async def test_a_long_header_up_to_its_limits(sender: HttpSender, header: bytes) -> None:
    assert len(header) <= ANSWER_BYTES_MAX
    async with serve(says(header)) as target:
        for _ in range(2):  # each answer has the whole limit, on the same connection too
            assert (await post(sender, target.url)).http_status == 204
        assert target.connections == 1


async def test_an_answer_that_goes_on_past_the_limit_is_cut_off(sender: HttpSender) -> None:
    """Long before its deadline, wherever it is: in the header, or after the body, in its trailer."""
    fields = fields_of(*[ANSWER_FIELD_BYTES_MAX] * 16).removesuffix(b"\r\n\r\n")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    trailer = fields.partition(b"\r\n")[2]
    for data, status in ((fields, None), (chunked + trailer, 200)):
        assert len(data) > ANSWER_BYTES_MAX
        async with serve(says_then_hangs(data)) as target:
            result = await post(sender, target.url)
            await target.all_closed()
        assert (result.http_status, result.error_code) == (status, "upstream_unreachable")


NOT_HTTP = [
    b"garbage\r\n\r\n",
    b"<html><body>HTTP/0.9</body></html>",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",  # a TLS alert: the port speaks TLS
    b"\x00" * 1_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 99999 X\r\n\r\n",
    b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    fields_of(ANSWER_FIELD_BYTES_MAX + 1),
    fields_of(*[10] * (ANSWER_FIELDS_MAX + 1)),
]


@pytest.mark.parametrize("data", NOT_HTTP, ids=lambda data: repr(data[:40]))
async def test_what_is_not_http_is_one_clean_failure(sender: HttpSender, data: bytes) -> None:
    result = await answer_to(sender, data)
    assert result.error_code == "upstream_unreachable"
    assert result.error_message == "Target's answer is not valid HTTP"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"])
async def test_a_close_without_an_answer(sender: HttpSender, data: bytes) -> None:
    result = await answer_to(sender, data)
    assert (result.http_status, result.error_code) == (None, "upstream_unreachable")
    assert result.error_message == "Target closed the connection without an answer"


@pytest.mark.parametrize("reason", [b"", b" ", b" \xff\xfe\xc3\x28", b" \xe2\x82\xac"])
async def test_reason_phrases_do_not_matter(sender: HttpSender, reason: bytes) -> None:
    result = await answer_to(sender, b"HTTP/1.1 200" + reason + b"\r\nContent-Length: 0\r\n\r\n")
    assert result.error_code is None


async def test_bytes_that_are_not_utf_8_are_replaced(sender: HttpSender) -> None:
    result = await answer_to(sender, plain("200 OK", body=b"a\xff\xed\xa0\x80b"))
    assert result.response_body is not None
    assert result.response_body.startswith("a\ufffd")
    result.response_body.encode()  # no lone surrogates


async def test_damaged_answers_never_raise(sender: HttpSender) -> None:
    chance = random.Random(20)
    whole = [
        plain("200 OK", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Set-Cookie: a=b", body=b"hello"),
        plain("503 Busy", "Retry-After: Sun, 06 Nov 1994 08:50:37 GMT"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
    ]
    for _ in range(150):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        result = await answer_to(sender, bytes(data))
        succeeded = result.error_code is None
        assert succeeded == (result.error_message is None), data
        assert not succeeded or 200 <= (result.http_status or 0) < 300, data


async def test_a_large_request_to_a_target_that_answers_without_reading_it(sender: HttpSender) -> None:
    async with serve(says(plain("413 Too Large"), then_close=True), reads=False) as target:
        for _ in range(5):
            result = await sender.send(DeliveryRequest(target.url, {}, b"x" * 1_000_000, GENEROUS_MS))
            assert result.error_code in ("upstream_status", "upstream_unreachable")


@pytest.mark.parametrize(
    "test",
    [
        test_a_header_that_dribbles_is_cut_at_the_deadline,
        test_a_body_that_dribbles_is_cut_at_the_deadline,
        test_a_gigabyte_is_cut_off,
        test_an_answer_that_goes_on_past_the_limit_is_cut_off,
        test_half_a_2xx_is_no_success,
        test_damaged_answers_never_raise,
        test_a_large_request_to_a_target_that_answers_without_reading_it,
    ],
)
def test_the_same_on_uvloop(test: Callable[[HttpSender], Awaitable[None]]) -> None:
    """The loop that Atlas runs on, where it tells from the standard one: tasks, closing, contexts."""

    async def main() -> None:
        async with a_sender() as sender:
            await test(sender)

    uvloop.run(main())
