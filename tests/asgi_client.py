"""A client that drives an ASGI application directly, as a server would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any
from urllib.parse import unquote

import orjson
from msgspec import Struct

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
Headers = Sequence[tuple[str | bytes, str | bytes]]


class Answer(Struct, frozen=True):
    """A response. `headers` in the order sent, names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)

    def header(self, name: str) -> str | None:
        """The header's value; None when it is not there. Fails when it comes twice."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} comes {len(values)} times"
        return values[0] if values else None

    @property
    def code(self) -> str:
        """`error.code`, after a look at the form of the whole error."""
        body = self.json()
        assert list(body) == ["error"], body
        error = body["error"]
        assert list(error) == ["code", "message", "request_id", "details"], body
        assert error["request_id"] == self.header("x-request-id"), body
        assert isinstance(error["details"], dict), body
        assert isinstance(error["message"], str), body
        code: str = error["code"]
        return code

    @property
    def details(self) -> dict[str, Any]:
        details: dict[str, Any] = self.json()["error"]["details"]
        return details

    @property
    def field(self) -> str | None:
        """`details.field` of a 400."""
        assert (self.status, self.code) == (400, "invalid_request"), self.body
        assert list(self.details) == ["field", "reason"], self.body
        field: str | None = self.details["field"]
        return field


class Chunks:
    """A body sent in pieces. An item that is a coroutine function is awaited before the next piece.

    Args:
        items: what is sent, in order.
        ends: False: the client goes silent after the last piece. None: it hangs up.
    """

    def __init__(
        self, items: Iterable[bytes | Callable[[], Awaitable[None]]], ends: bool | None = True
    ) -> None:
        self._items = iter(items)
        self._ends = ends
        self.sent_bytes = 0
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        for item in self._items:
            if isinstance(item, bytes):
                self.sent_bytes += len(item)
                return {"type": "http.request", "body": item, "more_body": True}
            await item()
        if self._ends is None:
            return {"type": "http.disconnect"}
        if self._ends is False:
            await asyncio.Event().wait()
        self._ends = None
        return {"type": "http.request", "body": b"", "more_body": False}


class AsgiClient:
    """Sends requests to `app`, by default with `key` as the bearer token."""

    def __init__(self, app: App, key: str | None = None) -> None:
        self._app = app
        self.secret = key

    def using(self, key: str | None) -> AsgiClient:
        """The same with another key."""
        return AsgiClient(self._app, key)

    async def get(self, target: str, headers: Headers = ()) -> Answer:
        return await self.request("GET", target, headers=headers)

    async def post(self, target: str, json: object = None, headers: Headers = ()) -> Answer:
        return await self.request("POST", target, json=json, headers=headers)

    async def patch(self, target: str, json: object = None, headers: Headers = ()) -> Answer:
        return await self.request("PATCH", target, json=json, headers=headers)

    async def delete(self, target: str, headers: Headers = ()) -> Answer:
        return await self.request("DELETE", target, headers=headers)

    async def request(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        body: bytes | Chunks | None = None,
        headers: Headers = (),
        http_version: str = "1.1",
    ) -> Answer:
        """One request. `json` None sends no body; `Content-Type` and `Content-Length` are added to bytes.

        Headers given replace those that would be added.
        """
        answer = await self.exchange(
            method, target, json=json, body=body, headers=headers, http_version=http_version
        )
        assert answer is not None, "no answer"
        return answer

    async def exchange(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        body: bytes | Chunks | None = None,
        headers: Headers = (),
        http_version: str = "1.1",
    ) -> Answer | None:
        """Like `request`; None when the application ended without an answer."""
        if json is not None:
            body = orjson.dumps(json)
        sent = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
        own = [(b"host", b"api.atlasevents.dev")]
        if self.secret is not None:
            own.append((b"authorization", b"Bearer " + self.secret.encode()))
        if isinstance(body, bytes):
            own += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        elif body is not None:
            own.append((b"content-type", b"application/json"))
            if http_version.startswith("1"):  # HTTP/2 has no need to say so
                own.append((b"transfer-encoding", b"chunked"))
        given = {name for name, _ in sent}
        if b"content-length" in given:
            given.add(b"transfer-encoding")
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": http_version,
            "method": method,
            "scheme": "https",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(name, value) for name, value in own if name not in given] + sent,
            "client": ("203.0.113.9", 40_000),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }
        pieces = body if isinstance(body, Chunks) else Chunks([body] if body else [])
        return await _exchange(self._app, scope, pieces)


async def _exchange(app: App, scope: MutableMapping[str, Any], pieces: Chunks) -> Answer | None:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, pieces.receive, send)
    if not messages:
        return None
    start, body = messages
    assert start["type"] == "http.response.start"
    assert body["type"] == "http.response.body"
    assert not body.get("more_body", False)
    answer = Answer(
        start["status"],
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
        body["body"],
    )
    _check_form(scope["method"], answer)
    return answer


def _check_form(method: str, answer: Answer) -> None:
    """What holds for every response (API notes, "Every request and response")."""
    request_id = answer.header("x-request-id")
    assert request_id is not None
    assert request_id.startswith("req_")
    assert len(request_id) == 30
    if answer.status == 204:
        assert answer.body == b""
        assert answer.header("content-length") is None
        return
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("content-type") is not None
    if answer.status >= 400 and method != "HEAD" and not answer.body.startswith(b'{"status"'):
        assert answer.code


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
