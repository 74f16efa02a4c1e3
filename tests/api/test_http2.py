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
from tests.http_client import DEADLINE_S, Client, check_form
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

    def together(self, *heads: HeaderList) -> list[_Collected]:
        """What comes of requests without a body, all of them sent in one piece."""
        answers = []
        for head in heads:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, head, end_stream=True)
            answers.append(_Collected(stream_id))
        first, *others = answers
        while not all(answer.ended for answer in answers):
            self._exchange(first, *others)
        return answers

    def _exchange(self, *answers: _Collected) -> None:
        self._socket.sendall(self._h2.data_to_send())
        data = self._socket.recv(65_536)
        assert data, "the connection was closed"
        for event in self._h2.receive_data(data):
            for answer in answers:
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
        self.ended = self.was_reset = False

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
            self.was_reset = isinstance(event, h2.events.StreamReset)


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


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({":path": "/v1/events/\u00e9"}, 404),
        ({":path": "/v1/\u2603?a=\u00e9"}, 404),
        ({":path": "http://a/v1/events/evt_1"}, 404),
        ({":path": "*"}, 404),
        ({":method": "G\u00c9T"}, 0),
        ({":method": ""}, 0),
        ({":method": "GET /"}, 0),
        ({":method": "CONNECT", ":path": None, ":scheme": None}, 0),
        ({":method": "CONNECT", ":protocol": "websocket", "sec-websocket-version": "13"}, 405),
    ],
    ids=repr,
)
def test_a_request_that_cannot_be_read_ends_its_own_stream_alone(
    clients: tuple[Http2, Client], changed: dict[str, str | None], status: int
) -> None:
    spoken, live = clients
    fields: dict[str, str | None] = {
        ":method": "GET",
        ":scheme": "http",
        ":authority": "a",
        ":path": "/v1/events",
        "authorization": f"Bearer {live.token}",
    }
    good = [(name, value) for name, value in fields.items() if value is not None]
    bad = [(name, value) for name, value in {**fields, **changed}.items() if value is not None]
    bad.sort(key=lambda field: not field[0].startswith(":"))
    before, broken, after = spoken.together(good, bad, good)
    assert (before.status, after.status) == (200, 200)
    assert (broken.status, broken.was_reset) == (status, not status)
    if status:
        check_form(Answer(broken.status, broken.headers, broken.body))
    answered(live.post("/v1/events", EVENT), 202)
