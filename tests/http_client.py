"""HTTP/1.1 by hand over sockets: hostile things can be sent, and nothing of an answer is smoothed over.

`Wire` is one connection; `Client` sends requests over one, a new one where the old was closed. Every wait
has a deadline: a server that hangs fails the test. Answers are read strictly, so that one which only a
kind parser would take is a failure too.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import orjson

from tests.asgi_client import Answer

#: For one exchange. Generous: the machine is busy with other tests.
DEADLINE_S: Final = 20.0
_RECEIVE_BYTES: Final = 65_536

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?|)")

Headers = Sequence[tuple[str | bytes, str | bytes]]
Body = bytes | Sequence[bytes]


class NoAnswer(Exception):
    """The server closed the connection before a whole answer."""


class Wire:
    """One connection to a port of this machine."""

    def __init__(self, port: int, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=deadline_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: the server does not read any more.
        """
        self._socket.settimeout(self._deadline_s)
        self._socket.sendall(data)

    def half_close(self) -> None:
        """Nothing more will be sent; answers are still read, also those of a server that has hung up."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def answer(self, method: str = "GET") -> Answer:
        """The next final answer; those before it that only say "go on" are passed over.

        Raises:
            NoAnswer: the connection ended first.
            TimeoutError: nothing came within the deadline.
        """
        ends_s = time.monotonic() + self._deadline_s
        while True:
            status, headers = self._head(ends_s)
            if status >= 200:
                return Answer(status, headers, self._body(method, status, dict(headers), ends_s))

    def interim(self) -> int:
        """The status of the next answer, which has no body.

        Raises:
            NoAnswer, TimeoutError: as `answer`.
        """
        return self._head(time.monotonic() + self._deadline_s)[0]

    def until_closed(self) -> bytes:
        """Everything until the server closes the connection.

        Raises:
            TimeoutError: it does not.
        """
        ends_s = time.monotonic() + self._deadline_s
        while self._receive(ends_s):
            pass
        left, self._unread = self._unread, b""
        return left

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self, ends_s: float) -> tuple[int, list[tuple[str, str]]]:
        status_line, *lines = self._until(b"\r\n\r\n", ends_s).split(b"\r\n")
        found = _STATUS_LINE.fullmatch(status_line)
        assert found, f"not a status line: {status_line!r}"
        headers = []
        for line in lines:
            field = _HEADER.fullmatch(line)
            assert field, f"not a header: {line!r}"
            headers.append((field[1].decode().lower(), field[2].decode()))
        return int(found[1]), headers

    def _body(self, method: str, status: int, headers: dict[str, str], ends_s: float) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            return self._chunks(ends_s)
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]), ends_s)
        assert headers.get("connection") == "close", f"an answer without an end: {headers}"
        return self.until_closed()

    def _chunks(self, ends_s: float) -> bytes:
        whole = b""
        while size := int(self._until(b"\r\n", ends_s), 16):
            whole += self._exactly(size, ends_s)
            assert self._exactly(2, ends_s) == b"\r\n"
        assert self._until(b"\r\n", ends_s) == b"", "trailers"
        return whole

    def _until(self, mark: bytes, ends_s: float) -> bytes:
        while mark not in self._unread:
            self._need(ends_s)
        found, _, self._unread = self._unread.partition(mark)
        return found

    def _exactly(self, count: int, ends_s: float) -> bytes:
        while len(self._unread) < count:
            self._need(ends_s)
        found, self._unread = self._unread[:count], self._unread[count:]
        return found

    def _need(self, ends_s: float) -> None:
        if not self._receive(ends_s):
            raise NoAnswer(f"closed after {self._unread[:200]!r}")

    def _receive(self, ends_s: float) -> bool:
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline passed")
        self._socket.settimeout(left_s)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except ConnectionError:
            return False
        self._unread += data
        return bool(data)


class Client:
    """Sends requests to a port, by default with `token` as the bearer token. Forgotten, it closes itself.

    Args:
        port: on this machine.
        token: a key, or None.
    """

    def __init__(self, port: int, token: str | None = None, deadline_s: float = DEADLINE_S) -> None:
        self._wire: Wire | None = None
        self.port = port
        self.token = token
        self._deadline_s = deadline_s

    def using(self, token: str | None) -> Client:
        """A client of the same port with another token."""
        return Client(self.port, token, self._deadline_s)

    def get(self, target: str | bytes, headers: Headers = ()) -> Answer:
        return self.request("GET", target, headers=headers)

    def post(self, target: str | bytes, json: object = None, headers: Headers = ()) -> Answer:
        return self.request("POST", target, json=json, headers=headers)

    def patch(self, target: str | bytes, json: object = None, headers: Headers = ()) -> Answer:
        return self.request("PATCH", target, json=json, headers=headers)

    def delete(self, target: str | bytes, headers: Headers = ()) -> Answer:
        return self.request("DELETE", target, headers=headers)

    def request(
        self,
        method: str,
        target: str | bytes,
        *,
        json: object = None,
        body: Body | None = None,
        headers: Headers = (),
    ) -> Answer:
        """One request and its answer; a sequence as the body goes out in chunks. See `head` for headers.

        Raises:
            NoAnswer, OSError, TimeoutError: there was no whole answer.
        """
        if json is not None:
            body = orjson.dumps(json)
        wire = self._wire or Wire(self.port, self._deadline_s)
        self._wire = None
        try:
            wire.send(self.head(method, target, body, headers) + content(body))
            answer = wire.answer(method)
        except BaseException:
            wire.close()
            raise
        if answer.header("connection") == "close":
            wire.close()
        else:
            self._wire = wire
        return answer

    def head(
        self, method: str, target: str | bytes, body: Body | None = None, headers: Headers = ()
    ) -> bytes:
        """Everything before the body. Headers that are given replace those that would be added."""
        own: list[tuple[bytes, bytes]] = [(b"Host", b"127.0.0.1:%d" % self.port)]
        if self.token is not None:
            own.append((b"Authorization", b"Bearer " + self.token.encode()))
        if body is not None:
            own.append((b"Content-Type", b"application/json"))
        if isinstance(body, bytes):
            own.append((b"Content-Length", b"%d" % len(body)))
        elif body is not None:
            own.append((b"Transfer-Encoding", b"chunked"))
        sent = [(_bytes(name), _bytes(value)) for name, value in headers]
        given = {name.lower() for name, _ in sent}
        lines = [b"%b %b HTTP/1.1" % (_bytes(method), _bytes(target))]
        lines += [b"%b: %b" % field for field in own if field[0].lower() not in given]
        lines += [b"%b: %b" % field for field in sent]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def content(body: Body | None) -> bytes:
    """A body as it goes over the wire."""
    if body is None or isinstance(body, bytes):
        return body or b""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body if piece) + b"0\r\n\r\n"


def check_form(answer: Answer, method: str = "GET") -> Any:
    """What holds for every answer of Atlas itself (API notes, "Every request and response").

    Returns:
        The body, decoded where it is JSON.
    """
    request_id = answer.header("x-request-id")
    assert request_id is not None, answer
    assert re.fullmatch("req_[0-7][0-9A-HJKMNP-TV-Z]{25}", request_id), answer
    if answer.status == 204 or method == "HEAD":
        assert answer.body == b"", answer
        return None
    assert answer.header("content-length") == str(len(answer.body)), answer
    if answer.header("content-type") != "application/json":
        assert (answer.status, answer.header("content-type")) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        ), answer
        return None
    value = answer.json()
    assert type(value) is dict, answer
    if answer.status >= 400 and "status" not in value:  # /readyz says what is not ready in its own form
        assert answer.code, answer
    return value


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
