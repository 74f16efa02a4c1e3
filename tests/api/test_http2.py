"""HTTP/2 with prior knowledge, which hypercorn speaks on the same port: the same rules, the same form."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import h2.config
import h2.connection
import h2.events
import orjson
import pytest

from atlas.core.limits import BODY_BYTES_MAX
from tests.api.atlas_process import EVENT, answered, create_stream, every_page, refused, running
from tests.asgi_client import Answer
from tests.http_client import DEADLINE_S, Client
from tests.processes import Dev

HeaderList = list[tuple[str, str]]
BODY: Final = orjson.dumps(EVENT)


class Http2:
    """One connection; one request at a time. It checks nothing of what it sends."""

    def __init__(self, port: int, token: str | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._token = token

    def request(self, method: str, path: str, body: bytes = b"", headers: HeaderList | None = None) -> Answer:
        stream_id = self._h2.get_next_available_stream_id()
        sent = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
        if self._token:
            sent.append(("authorization", f"Bearer {self._token}"))
        if body:
            sent.append(("content-type", "application/json"))
        self._h2.send_headers(stream_id, [*sent, *(headers or [])], end_stream=not body)
        answer = _Collected(stream_id)
        while body and not answer.ended:
            size = min(
                self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size, len(body)
            )
            if size:
                self._h2.send_data(stream_id, body[:size], end_stream=size == len(body))
                body = body[size:]
            else:
                self._exchange(answer)
        while not answer.ended:
            self._exchange(answer)
        return Answer(answer.status, answer.headers, answer.body)

    def _exchange(self, answer: _Collected) -> None:
        self._socket.sendall(self._h2.data_to_send())
        data = self._socket.recv(65_536)
        assert data, "the connection was closed"
        for event in self._h2.receive_data(data):
            answer.take(event)
            if isinstance(event, h2.events.DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def close(self) -> None:
        self._socket.close()


class _Collected:
    def __init__(self, stream_id: int) -> None:
        self._stream_id = stream_id
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.ended = False

    def take(self, event: h2.events.Event) -> None:
        if getattr(event, "stream_id", None) != self._stream_id:
            assert not isinstance(event, h2.events.ConnectionTerminated), event
        elif isinstance(event, h2.events.ResponseReceived):
            fields = [(str(name), str(value)) for name, value in event.headers]
            self.status = int(fields[0][1])
            self.headers = fields[1:]
        elif isinstance(event, h2.events.DataReceived):
            self.body += event.data
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self.ended = True


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    # hypercorn logs a traceback when it is sent what HTTP/2 does not allow.
    with running(tmp_path_factory.mktemp("http2"), faults=True) as process:
        yield process


@pytest.fixture
def clients(dev: Dev, acme: Client) -> Iterator[tuple[Http2, Client]]:
    create_stream(acme)
    spoken = Http2(dev.port, acme.token)
    yield spoken, acme
    spoken.close()


def test_the_same_rules(clients: tuple[Http2, Client]) -> None:
    spoken, live = clients
    keyed = [("idempotency-key", "k")]
    first = spoken.request("POST", "/v1/events", BODY, keyed)
    answered(first, 202)
    assert spoken.request("POST", "/v1/events", BODY, keyed).body == first.body
    assert live.post("/v1/events", EVENT, [("Idempotency-Key", "k")]).body == first.body
    answered(spoken.request("POST", "/v1/events", BODY.ljust(BODY_BYTES_MAX)), 202)
    over = BODY.ljust(BODY_BYTES_MAX + 1)
    refused(spoken.request("POST", "/v1/events", over), 413, "payload_too_large")
    refused(spoken.request("POST", "/v1/events", b"{"), 400, "invalid_request")
    refused(spoken.request("GET", "/v1/events/%00"), 404, "event_not_found")
    refused(spoken.request("BREW", "/v1/events"), 405, "method_not_allowed")
    refused(spoken.request("GET", "/v1/events", headers=[*keyed, *keyed]), 400, "invalid_request")
    assert len(every_page(live, "/v1/events")) == 2


@pytest.mark.parametrize("length", [[], [("content-length", "300000")]], ids=["no length", "length"])
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/events", [("authorization", "Bearer no")], 401),
        ("POST", "/v1/nothing", [], 404),
        ("PUT", "/v1/events", [], 405),
        ("POST", "/v1/events", [("idempotency-key", "k")] * 2, 400),
    ],
)
def test_an_early_answer_ends_no_other_stream(
    dev: Dev,
    clients: tuple[Http2, Client],
    method: str,
    path: str,
    headers: HeaderList,
    status: int,
    length: HeaderList,
) -> None:
    """The body of the one refused comes when the refusal is decided."""
    _, live = clients
    spoken = Http2(dev.port, None if status == 401 else live.token)
    try:
        for _ in range(3):
            answer = spoken.request(method, path, b"x" * 300_000, [*headers, *length])
            assert answer.status == status
            assert spoken.request("GET", "/healthz").status == 200
    finally:
        spoken.close()


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "3")],
        [("content-length", "x")],
        [("transfer-encoding", "chunked")],
        [("connection", "close")],
        [("X-Upper", "a")],
        [("x-a", "a\r\nb: c")],
        [("x-a", "a\0b")],
        [(":path", "/v1/api-keys")],
        [("", "a")],
        [("x-a", "a" * 100_000)],
        [("cookie", "a=b"), ("cookie", "c=d")],
    ],
    ids=lambda headers: repr(headers)[:30],
)
def test_odd_headers_do_no_harm(clients: tuple[Http2, Client], headers: HeaderList) -> None:
    spoken, live = clients
    try:
        answer = spoken.request("POST", "/v1/events", BODY, headers)
    except (AssertionError, OSError):
        pass  # it hung up
    else:
        assert answer.status < 500
    assert len(every_page(live, "/v1/events")) <= 1
    answered(live.post("/v1/events", EVENT), 202)
