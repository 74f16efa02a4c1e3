"""`Call` over one ASGI request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from atlas.core.errors import ApiError, InvalidRequest
from atlas.core.limits import BODY_BYTES_MAX
from atlas.core.strict_json import Text, read
from atlas.gateway.body import Body
from atlas.gateway.call import Principal
from atlas.gateway.deadlines import Deadlines
from atlas.gateway.replies import Header

_JSON: Final = b"application/json"
#: Headers that decide what a request means: a repeated one could be read in two ways, by us and by
#: whatever stands before us.
_ONCE: Final = {
    b"authorization": "Authorization",
    b"idempotency-key": "Idempotency-Key",
    b"content-type": "Content-Type",
    b"content-length": "Content-Length",
    b"transfer-encoding": "Transfer-Encoding",
}
_FRAMING: Final = (b"content-length", b"transfer-encoding")
#: A longer number of bytes than this has is no length of anything.
_LENGTH_DIGITS_MAX: Final = 18


class HttpCall:
    """See `Call`. The front sets `principal`, and the limits of the body that the path allows.

    Attributes:
        method: as routes know it: HEAD is GET.
        extra: headers for whatever the answer will be.
        is_ambiguous: nobody can tell where its body ends (RFC 9112, 6.1 and 6.3).
    """

    __slots__ = (
        "_principal", "body", "body_bytes_max", "envelope_depth", "extra", "headers", "is_ambiguous",
        "method", "path_params", "request_id", "scope",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, request_id: str, deadlines: Deadlines) -> None:
        self.request_id = request_id
        self.scope = scope
        method: str = scope["method"]
        self.method = "GET" if method == "HEAD" else method
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.path_params: Mapping[str, str] = scope.get("path_params", {})
        self.body = Body(receive, deadlines)
        self.body_bytes_max = BODY_BYTES_MAX
        self.envelope_depth = 0
        self.is_ambiguous = False
        self.extra: list[Header] = []
        self._principal: Principal | None = None

    def check_headers(self) -> None:
        """Refuse what could be read in two ways.

        Raises:
            InvalidRequest: with the header's name.
        """
        headers = self.headers
        length = headers.get(b"content-length")
        chunked = b"transfer-encoding" in headers
        is_number = length is not None and length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX
        # First what there may be to drain before any refusal. HTTP/2 need not announce a body at all.
        if length is not None and is_number and not chunked:
            self.body.announced(int(length))
        elif length is not None or chunked or not self.scope["http_version"].startswith("1"):
            self.body.announced(None)
        self.is_ambiguous = length is not None and (chunked or not is_number)
        if len(headers) != len(self.scope["headers"]):
            repeated = _repeated(self.scope["headers"])
            if repeated is not None:
                self.is_ambiguous |= repeated in _FRAMING
                raise InvalidRequest(_ONCE[repeated], "the header is given more than once")
        if length is not None and chunked:
            raise InvalidRequest("Content-Length", "must not come together with Transfer-Encoding")
        if length is not None and not is_number:
            raise InvalidRequest("Content-Length", "is not a number of bytes")

    @property
    def principal(self) -> Principal:
        if self._principal is None:
            raise RuntimeError("this path has no caller")
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal

    def query(self) -> list[tuple[str, str]]:
        raw: bytes = self.scope["query_string"]
        if not raw:
            return []
        try:
            return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError as error:
            raise InvalidRequest(None, "the query string is not UTF-8") from error

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)

    async def json(self) -> dict[str, Any]:
        return (await self.json_text()).value

    async def json_text(self) -> Text:
        body = await self.body.read(self.body_bytes_max)
        if not body:
            raise InvalidRequest(None, "a JSON object is required as the body")
        return self._decoded(body)

    async def json_or_empty(self) -> dict[str, Any]:
        body = await self.body.read(self.body_bytes_max)
        return self._decoded(body).value if body else {}

    def _decoded(self, body: bytes) -> Text:
        if self.headers.get(b"content-type") != _JSON or b"content-encoding" in self.headers:
            self._check_type()
        return read(body, envelope_depth=self.envelope_depth)

    def _check_type(self) -> None:
        media_type = self.headers.get(b"content-type", b"").partition(b";")[0].strip(b" \t").lower()
        encoding = self.headers.get(b"content-encoding", b"identity").strip(b" \t").lower()
        if media_type != _JSON:
            raise ApiError("unsupported_media_type", "A body needs Content-Type: application/json.")
        if encoding != b"identity":
            raise ApiError("unsupported_media_type", "A body must not have a Content-Encoding.")


def _repeated(headers: list[Header]) -> bytes | None:
    """The first header that is there again and may be there once."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _ONCE:
            return name
        seen.add(name)
    return None
