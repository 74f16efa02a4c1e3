"""A receiver of deliveries, on the standard library alone: what arrived, and whether it was signed.

The signature is checked by an algorithm written from the reference's text, not by Atlas's own code.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

WAIT_MAX_S: Final = 30.0
_SIGNATURE: Final = re.compile(r"t=([0-9]{10}),v1=([0-9a-f]{64})(?:,v1=([0-9a-f]{64}))?")


@dataclass(frozen=True)
class Delivery:
    """One POST as it arrived; `headers` by lower-case name."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The body, read by another JSON library than Atlas's."""
        return json.loads(self.body)

    @property
    def attempt(self) -> int:
        return int(self.headers["x-atlas-attempt"])


#: What to answer a delivery with; None hangs until the receiver is closed.
Answering = Callable[[Delivery], int | None]


class Receiver:
    """An HTTP server on a free port; use as `with Receiver() as receiver`.

    Args:
        answering: status for each delivery; 200 unless told otherwise.
    """

    def __init__(self, answering: Answering = lambda _: 200) -> None:
        self.answering = answering
        self.arrived: list[Delivery] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def at(self, path: str) -> list[Delivery]:
        """What arrived at one path, in order."""
        with self._changed:
            return [delivery for delivery in self.arrived if delivery.path == path]

    def wait_for(self, count: int, path: str = "/hook") -> list[Delivery]:
        """What arrived at a path, once there are so many."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.at(path)) >= count, WAIT_MAX_S)
        assert came, f"{len(self.at(path))} of {count} deliveries at {path}"
        return self.at(path)

    def take(self, delivery: Delivery) -> int | None:
        """Note a delivery and decide on its answer."""
        with self._changed:
            self.arrived.append(delivery)
            self._changed.notify_all()
        status = self.answering(delivery)
        if status is None:
            self._closing.wait(WAIT_MAX_S)
        return status

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    receiver: Receiver


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.receiver.take(Delivery(self.path, headers, body))
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def signed_by_the_reference(delivery: Delivery, secret: str, now_s: float) -> bool:
    """Whether a delivery is signed as the reference tells receivers to check it.

    HMAC-SHA256 of `{timestamp}.{raw_body}` with the signing secret, against the `v1` value; a timestamp
    more than five minutes from the server's time is rejected.
    """
    found = _SIGNATURE.fullmatch(delivery.headers["x-atlas-signature"])
    if found is None or abs(now_s - int(found[1])) > 5 * 60:
        return False
    signed = found[1].encode() + b"." + delivery.body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return expected in found.groups()[1:]
