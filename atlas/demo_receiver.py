"""The demo's receiver: an HTTP server that checks every signature, and fails some attempts on purpose."""

from __future__ import annotations

import hmac
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from msgspec import Struct

from atlas.core.signing import SignatureMismatch, standard_signature, verify

_BODY_BYTES_MAX: Final = 1024 * 1024
_STOP_S: Final = 0.5


class Arrival(Struct, frozen=True):
    """One attempt as it arrived, and the status it was answered with."""

    workflow_id: str
    delivery_id: str
    attempt: int
    status: int
    body: dict[str, Any]


class Receiver:
    """Answers `POST /<workflow id>`.

    Args:
        failures: workflow id and event -> how many first attempts are to be answered with 503.

    Attributes:
        secrets: signing secret by workflow id; to be filled in before anything is sent.
        arrivals: every attempt with a good signature, in order.
        faults: what was not as it must be.
        acknowledged: attempts answered with 200.
    """

    def __init__(self, failures: Callable[[str, Mapping[str, Any]], int]) -> None:
        self.secrets: dict[str, str] = {}
        self.arrivals: list[Arrival] = []
        self.faults: list[str] = []
        self.acknowledged = 0
        self._failures = failures
        self._attempts: dict[str, int] = defaultdict(int)
        application = web.Application(client_max_size=_BODY_BYTES_MAX)
        application.router.add_post("/{workflow_id}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_S)

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Serve no more."""
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        content = await request.read()
        workflow_id = request.match_info["workflow_id"]
        fault = self._signature_fault(workflow_id, request.headers, content)
        if fault is not None:
            self.faults.append(fault)
            return web.Response(status=401)
        body = orjson.loads(content)
        status = self._status(workflow_id, request.headers, body)
        return web.Response(status=status)

    def _signature_fault(self, workflow_id: str, headers: Mapping[str, str], content: bytes) -> str | None:
        """As any receiver should, before it believes a word: both signatures over the raw body."""
        secret = self.secrets[workflow_id]
        try:
            verify(secret, headers.get("X-Atlas-Signature", ""), content, time.time())
            timestamp_s = int(headers["webhook-timestamp"])
            expected = standard_signature([secret], headers["webhook-id"], timestamp_s, content)
        except (SignatureMismatch, KeyError, ValueError) as error:
            return f"{workflow_id}: a delivery without a good signature: {error}"
        if not hmac.compare_digest(expected, headers.get("webhook-signature", "")):
            return f"{workflow_id}: a delivery without a good Standard Webhooks signature"
        return None

    def _status(self, workflow_id: str, headers: Mapping[str, str], body: dict[str, Any]) -> int:
        delivery_id = headers["X-Atlas-Delivery-Id"]
        attempt = self._attempts[delivery_id] = self._attempts[delivery_id] + 1
        if headers["X-Atlas-Attempt"] != str(attempt):
            self.faults.append(f"{delivery_id}: attempt {attempt} came as {headers['X-Atlas-Attempt']}")
        status = 503 if attempt <= self._failures(workflow_id, body) else 200
        self.acknowledged += status == 200
        self.arrivals.append(Arrival(workflow_id, delivery_id, attempt, status, body))
        return status
