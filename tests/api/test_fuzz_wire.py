"""Requests that no HTTP library would send, as bytes, to both servers.

What a server's own parser refuses it answers itself (400, 431), or hangs up; what it lets in is answered in
the right form. Each case says what may come; nothing may be appended, and nobody else may notice.
"""

from __future__ import annotations

import time
from typing import Final

import pytest

from tests.api.atlas_process import EVENT, answered, create_stream
from tests.http_client import Client, NoAnswer, Wire, check_form
from tests.processes import Dev

POST: Final = b"POST /v1/events HTTP/1.1\r\nHost: a\r\n"
GET: Final = b"GET /v1/events HTTP/1.1\r\nHost: a\r\n"
TYPE: Final = b"Content-Type: application/json\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
END: Final = b"\r\n"
KEY: Final = b"Authorization: Bearer @\r\n"

#: Case -> bytes; `@` becomes a live key. Each is sent, and then the connection is half closed.
BAD_REQUESTS: Final = {
    "line ends": b"\r\n\r\n",
    "no version": b"GET /v1/events\r\n\r\n",
    "spaces": b"GET  /v1/events  HTTP/1.1\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes": bytes(range(256)),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "SMTP": b"EHLO a\r\nMAIL FROM:<a@b>\r\n",
    "raw UTF-8 in the target": GET.replace(b"events", "\u00e9v\u00e9nements".encode()) + KEY + END,
    "NUL in the target": GET.replace(b"events", b"ev\0ents") + KEY + END,
    "a target of 200 KB": GET.replace(b"events", b"a" * 200_000) + KEY + END,
    "no name of a header": GET + KEY + b": a\r\n\r\n",
    "a space before the colon": GET + KEY + b"X-A : b\r\n\r\n",
    "a header on two lines": GET + KEY + b"X-A: b\r\n c\r\n\r\n",
    "NUL in a header": GET + KEY + b"X-A: a\0b\r\n\r\n",
    "line feeds alone": GET.replace(b"\r", b"") + KEY.replace(b"\r", b"") + b"\n",
    "HTTP/3.0": GET.replace(b"1.1", b"3.0") + KEY + END,
    "HTTP/1.9": GET.replace(b"1.1", b"1.9") + KEY + END,
    "no host": b"GET /v1/events HTTP/1.1\r\n" + KEY + END,
    "two hosts": GET + KEY + b"Host: b\r\n\r\n",
    "two keys": GET + KEY + KEY + END,
    "two idempotency keys": POST + KEY + TYPE + b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    "two types": POST + KEY + TYPE + TYPE + b"Content-Length: 2\r\n\r\n{}",
    "lengths that differ": POST + KEY + TYPE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "lengths in a list": POST + KEY + TYPE + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": POST + KEY + TYPE + b"Content-Length: -2\r\n\r\n{}",
    "a signed length": POST + KEY + TYPE + b"Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": POST + KEY + TYPE + b"Content-Length: 0x2\r\n\r\n{}",
    "an empty length": POST + KEY + TYPE + b"Content-Length: \r\n\r\n{}",
    "a length of 5,000 digits": POST + KEY + TYPE + b"Content-Length: " + b"1" * 5_000 + b"\r\n\r\n{}",
    "a length and chunks": POST + KEY + TYPE + CHUNKED + b"Content-Length: 7\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked twice": POST + KEY + TYPE + CHUNKED + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "an unknown coding": POST + KEY + TYPE + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "an unknown coding, chunked": POST + KEY + TYPE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a size of a chunk that is none": POST + KEY + TYPE + CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a negative size of a chunk": POST + KEY + TYPE + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a huge size of a chunk": POST + KEY + TYPE + CHUNKED + b"\r\nFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": POST + KEY + TYPE + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
    "no last chunk": POST + KEY + TYPE + CHUNKED + b"\r\n2\r\n{}\r\n",
    "a body that ends early": POST + KEY + TYPE + b"Content-Length: 20\r\n\r\n{}",
    "headers that end early": POST + KEY + TYPE,
    "bytes after the body": POST + KEY + TYPE + b"Content-Length: 2\r\n\r\n{}garbage",
    "HTTP/1.0 without a length": POST.replace(b"1.1", b"1.0") + KEY + TYPE + b"\r\n{}",
    "an expectation nobody knows": POST + KEY + TYPE + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n" + KEY + END,
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n" + KEY + END,
    "an unknown method": GET.replace(b"GET", b"BREW") + KEY + END,
    "a method in lower case": POST.replace(b"POST", b"post") + KEY + TYPE + b"Content-Length: 2\r\n\r\n{}",
    "200 KB of headers": GET + KEY + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 100) for i in range(2_000)) + END,
    "one header of 1 MB": GET + KEY + b"X-A: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "3,000 headers": GET + KEY + b"".join(b"X-%d: a\r\n" % i for i in range(3_000)) + END,
    "the same header 2,000 times": GET + KEY + b"X-A: a\r\n" * 2_000 + END,
    "an upgrade to a web socket": GET + KEY + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "an upgrade to a web socket of no version": GET + KEY + b"Connection: Upgrade\r\n"
    b"Upgrade: websocket\r\n\r\n",
    "HTTP/2 and garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    "HTTP/2 and an endless header": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    + b"\xff\xff\xff\1\4\0\0\0\1"
    + b"\0" * 5_000,
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request(dev: Dev, acme: Client, case: str) -> None:
    create_stream(acme)
    sent = BAD_REQUESTS[case].replace(b"@", (acme.token or "").encode())
    with Wire(acme.port) as wire:
        try:
            wire.send(sent)
            wire.half_close()
            answer = wire.answer()
        except (NoAnswer, ConnectionError):
            pass  # it hung up, which is an answer too
        else:
            assert answer.status < 500, answer
            if answer.header("x-request-id") is not None:
                check_form(answer)
    assert answered(acme.get("/v1/events"), 200)["data"] == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
def test_an_http_1_0_client(acme: Client, method: str) -> None:
    for connection in (b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"):
        with Wire(acme.port) as wire:
            wire.send(method.encode() + b" /v1/nothing HTTP/1.0\r\n" + connection + END)
            answer = wire.answer(method)
            check_form(answer, method)
            assert answer.status == 401


@pytest.mark.parametrize("settings", [b"AAMAAABkAAQAoAAAAAIAAAAA", b"!!!", b""])
def test_an_upgrade_to_http_2(acme: Client, settings: bytes) -> None:
    """Java's client asks for it on every new connection."""
    with Wire(acme.port) as wire:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " + settings
        wire.send(acme.head("GET", "/v1/events").removesuffix(END) + upgrade + END + END)
        answered(wire.answer(), 200)


def test_an_offer_of_a_web_socket_is_not_taken(acme: Client) -> None:
    with Wire(acme.port) as wire:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: \xff\r\n"
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        wire.send(acme.head("GET", "/v1/events").removesuffix(END) + upgrade + key + END)
        answered(wire.answer(), 200)


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ],
)
def test_nothing_is_read_after_a_body_whose_end_nobody_can_tell(acme: Client, framing: bytes) -> None:
    create_stream(acme)
    with Wire(acme.port) as wire:
        head = acme.head("POST", "/v1/events").removesuffix(END)
        wire.send(head + TYPE + framing + b"\r\n0\r\n\r\n" + acme.head("GET", "/healthz"))
        assert wire.answer().status == 400
        assert wire.until_closed() == b""


@pytest.mark.parametrize("before", [b"http://a", b"HTTP://127.0.0.1:8080", b"https://a"])
def test_a_target_in_absolute_form(acme: Client, before: bytes) -> None:
    with Wire(acme.port) as wire:
        wire.send(acme.head("GET", "/v1/events").replace(b"/v1", before + b"/v1", 1))
        assert answered(wire.answer(), 200)["data"] == []


def test_slow_clients_hold_nobody_up(acme: Client) -> None:
    """Connections that sent half a request, or ask for answers that they do not read."""
    create_stream(acme)
    body = b'{"stream":"orders-prod"'
    halves = [
        b"",
        b"GET /v1",
        GET,
        POST + TYPE,
        acme.head("POST", "/v1/events", body, [("Content-Length", "99")]),
    ]
    wires = [Wire(acme.port) for _ in range(100)]
    try:
        for number, wire in enumerate(wires):
            wire.send(halves[number % len(halves)] + (body if number % len(halves) == 4 else b""))
        for wire in wires[:5]:
            wire.close()
        deaf = Wire(acme.port)
        wires.append(deaf)
        deaf.send(acme.head("GET", "/metrics") * 300)
        for _ in range(20):
            started_s = time.monotonic()
            answered(acme.post("/v1/events", EVENT), 202)
            assert time.monotonic() - started_s < 5
    finally:
        for wire in wires:
            wire.close()
    assert len(answered(acme.get("/v1/events"), 200)["data"]) == 20


def test_a_request_a_byte_at_a_time(acme: Client) -> None:
    body = b'{"name":"orders-prod"}'
    with Wire(acme.port) as wire:
        for byte in acme.head("POST", "/v1/event-streams", body) + body:
            wire.send(bytes([byte]))
        answered(wire.answer(), 201)
