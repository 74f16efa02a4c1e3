"""A small client of the HTTP API, for the command line and the demo. Every wait has an end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from msgspec import Struct

from atlas.core.errors import AtlasError

#: For one request, from connecting to the end of the answer.
TIMEOUT_S: Final = 15.0
CONNECTIONS_MAX: Final = 32


class Unreachable(AtlasError):
    """No whole answer came from the server."""


class Refused(AtlasError):
    """An answer other than success; carries the status and the reference's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code = status, code


class NotJson(AtlasError):
    """What is to be sent cannot be: text that is not UTF-8, as the command line may give it."""


class Answer(Struct, frozen=True):
    """One answer. `headers` by lower-case name; `value` is the body decoded."""

    status: int
    headers: Mapping[str, str]
    value: dict[str, Any]


class Client:
    """One server, one bearer token. Use it as `async with Client(...) as client`.

    Args:
        url: base URL, such as `http://127.0.0.1:8080`.
        token: a secret key, or an operator token for `/admin/v1`.
        timeout_s: for one request.
    """

    def __init__(self, url: str, token: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = ClientTimeout(total=timeout_s)
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(
            connector=TCPConnector(limit=CONNECTIONS_MAX), headers=self._headers, timeout=self._timeout
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """The body of a GET; raises as `request`."""
        return (await self.request("GET", path)).value

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """POST `body` as JSON; raises as `request`."""
        return await self.request("POST", path, body, headers)

    async def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make one request, once; `body`, if any, goes out as JSON.

        Raises:
            NotJson: the body cannot be sent.
            Refused: the answer is no success.
            Unreachable: there was no answer, or it is not Atlas's.
        """
        assert self._session is not None
        data = None if body is None else _json(body)
        kind = {} if data is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, self._url + path, data=data, headers={**kind, **(headers or {})}
            ) as response:
                content = await response.read()
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"no answer from {self._url}: {reason}") from error
        value = _object(content)
        if response.status < 400 and value is not None:
            names = {name.lower(): text for name, text in response.headers.items()}
            return Answer(response.status, names, value)
        raise self._refusal(response.status, value)

    def _refusal(self, status: int, value: dict[str, Any] | None) -> AtlasError:
        described = (value or {}).get("error")
        if not isinstance(described, dict):
            return Unreachable(f"{self._url} answered {status}, but not as Atlas does")
        return Refused(status, str(described.get("code")), str(described.get("message")))


def _json(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise NotJson(f"cannot send that: {error}") from error


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
