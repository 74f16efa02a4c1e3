"""Bodies at their limits and past them, over real HTTP; one that is too slow, in virtual time."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import orjson
import pytest

from atlas.core.limits import (
    BATCH_BODY_BYTES_MAX,
    BATCH_ENVELOPE_DEPTH,
    BODY_BYTES_MAX,
    BODY_DEADLINE_S,
    CONTAINERS_MAX,
    DEPTH_MAX,
    DRAIN_BYTES_MAX,
)
from atlas.core.strict_json import read
from atlas.ports.log import TopicPartition
from tests.api.atlas_process import EVENT, answered, create_stream, every_page, refused
from tests.asgi_client import Chunks
from tests.gateway.harness import SHARDS, gateway
from tests.http_client import Client, Wire, check_form, content
from tests.virtual_time import VirtualClock, virtual_time

LIMITS: Final = [("/v1/events", BODY_BYTES_MAX), ("/v1/events/batch", BATCH_BODY_BYTES_MAX)]
BODIES: Final = {"/v1/events": orjson.dumps(EVENT), "/v1/events/batch": orjson.dumps({"events": [EVENT]})}


def padded(target: str, size: int) -> bytes:
    """A good body of this many bytes: spaces are JSON too."""
    return BODIES[target].ljust(size)


def pieces(body: bytes, size: int = 50_000) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(("target", "bytes_max"), LIMITS)
def test_a_body_at_its_limit_and_one_past_it(acme: Client, target: str, bytes_max: int) -> None:
    create_stream(acme)
    answered(acme.request("POST", target, body=padded(target, bytes_max)), 202)
    answered(acme.request("POST", target, body=pieces(padded(target, bytes_max))), 202)
    over = padded(target, bytes_max + 1)
    refused(acme.request("POST", target, body=over), 413, "payload_too_large")
    refused(acme.request("POST", target, body=pieces(over)), 413, "payload_too_large")
    assert len(every_page(acme, "/v1/events")) == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("target", BODIES)
def test_a_client_that_sends_everything_first_sees_the_413(acme: Client, target: str, chunked: bool) -> None:
    """`Client` reads nothing before it has sent all: without the drain it would see a reset connection."""
    body = padded(target, DRAIN_BYTES_MAX)
    answer = acme.request("POST", target, body=pieces(body) if chunked else body)
    refused(answer, 413, "payload_too_large")
    # A connection whose body was read to its end goes on; one that was not says so.
    assert answer.header("connection") in (None, "close")
    assert answered(acme.get("/v1/events"), 200)["data"] == []


def test_a_body_that_is_announced_and_never_comes(acme: Client) -> None:
    with Wire(acme.port) as single, Wire(acme.port) as batch:
        for wire, target in ((single, "/v1/events"), (batch, "/v1/events/batch")):
            wire.send(acme.head("POST", target, b"", [("Content-Length", str(10**12))]))
        for wire in (single, batch):
            answer = wire.answer()
            refused(answer, 413, "payload_too_large")
            assert answer.header("connection") == "close"
            assert wire.until_closed() == b""


def test_a_refusal_that_needs_no_body_is_seen_after_a_big_one(acme: Client) -> None:
    body = padded("/v1/events", BODY_BYTES_MAX)
    refused(acme.using(None).request("POST", "/v1/events", body=body), 401, "authentication_failed")
    refused(acme.request("POST", "/v1/nothing", body=body), 404, "not_found")
    refused(acme.request("PUT", "/v1/events", body=body), 405, "method_not_allowed")
    answer = acme.request("GET", "/v1/events", body=body)
    assert answered(answer, 200)["data"] == []


def test_a_body_in_many_small_pieces(acme: Client) -> None:
    create_stream(acme)
    body = BODIES["/v1/events"]
    with Wire(acme.port) as wire:
        wire.send(acme.head("POST", "/v1/events", [body]))
        for start in range(len(body)):
            wire.send(b"1\r\n%b\r\n" % body[start : start + 1])
        wire.send(b"0\r\n\r\n")
        answered(wire.answer(), 202)


def test_expect_100_continue(acme: Client) -> None:
    create_stream(acme)
    body = BODIES["/v1/events"]
    with Wire(acme.port) as wire:
        wire.send(acme.head("POST", "/v1/events", body, [("Expect", "100-continue")]))
        interim = wire.interim()
        assert interim == 100
        wire.send(body)
        answered(wire.answer(), 202)


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_client_that_hangs_up_in_its_body_appends_nothing(acme: Client, cut: int) -> None:
    create_stream(acme)
    body = BODIES["/v1/events"]
    with Wire(acme.port) as wire:
        wire.send(acme.head("POST", "/v1/events", body) + body[:cut])
        wire.half_close()
        wire.until_closed()
    assert answered(acme.get("/v1/events"), 200)["data"] == []


def test_a_client_that_resets_the_connection_harms_nobody(acme: Client) -> None:
    create_stream(acme)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", acme.port)) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            reset.sendall(acme.head("POST", "/v1/events", BODIES["/v1/events"]) + b'{"stream"')
    assert answered(acme.get("/v1/events"), 200)["data"] == []


def test_requests_sent_all_at_once_are_answered_in_order(acme: Client) -> None:
    create_stream(acme)
    body = BODIES["/v1/events"]
    with Wire(acme.port) as wire:
        one = acme.head("POST", "/v1/events", body) + body
        two = acme.head("GET", "/v1/nothing")
        three = acme.head("POST", "/v1/events", [body]) + content([body])
        wire.send((one + two + three) * 5)
        statuses = []
        for _ in range(15):
            answer = wire.answer()
            check_form(answer)
            statuses.append(answer.status)
    assert statuses == [202, 404, 202] * 5
    assert len(every_page(acme, "/v1/events")) == 10


# --- how much JSON


def test_as_many_containers_as_are_allowed_and_one_more(acme: Client) -> None:
    body = b'{"events":[' + b",".join([b"[]"] * (CONTAINERS_MAX - 2)) + b"]}"
    error = refused(acme.request("POST", "/v1/events/batch", body=body), 400, "invalid_request")
    assert error["details"]["field"] == "events", "only the number of events is wrong"
    body = body.replace(b"[]", b"[{}]", 1)
    error = refused(acme.request("POST", "/v1/events/batch", body=body), 400, "invalid_request")
    assert error["details"] == {
        "field": None,
        "reason": f"the body holds more than {CONTAINERS_MAX:,} objects and arrays",
    }


def test_brackets_in_strings_are_no_containers() -> None:
    text = "[{" * CONTAINERS_MAX + '\\"[\\\\'
    body = orjson.dumps({"events": [text, {"[": text}]})
    assert read(body, envelope_depth=BATCH_ENVELOPE_DEPTH).value == orjson.loads(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_at_its_limit_and_one_past_it(acme: Client, opening: bytes) -> None:
    create_stream(acme)
    closing = b"]" if opening == b"[" else b"}"

    def event(depth: int) -> bytes:
        nested = opening * depth + (b"" if opening == b"[" else b"1") + closing * depth
        return orjson.dumps(EVENT).replace(b'"total_cents":4299', b'"deep":' + nested)

    deepest = DEPTH_MAX - 2  # the event and its data are two
    answered(acme.request("POST", "/v1/events", body=event(deepest)), 202)
    batch = b'{"events":[%b]}'
    sent = answered(acme.request("POST", "/v1/events/batch", body=batch % event(deepest)), 202)
    assert sent["accepted"] == 1
    for target, body in (
        ("/v1/events", event(deepest + 1)),
        ("/v1/events/batch", batch % event(deepest + 1)),
    ):
        refused(acme.request("POST", target, body=body), 400, "invalid_request")


# --- too slow


@virtual_time
async def test_a_body_that_takes_too_long_is_a_408(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        topic = f"atlas.live.{g.workspace_id}.orders-prod"
        partitions = [TopicPartition(topic, shard) for shard in range(SHARDS)]
        await g.stream("orders-prod")
        before = await g.log.end_offsets(partitions)
        for target, body in BODIES.items():
            started_s = clock.monotonic_s()
            slow = Chunks([body[:-1]], ends=False)
            answer = await g.live.request("POST", target, body=slow)
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert clock.monotonic_s() - started_s == pytest.approx(BODY_DEADLINE_S)
            assert answer.header("connection") == "close"
        assert await g.log.end_offsets(partitions) == before
        made_after = await g.live.post("/v1/events", EVENT)
        assert made_after.status == 202
