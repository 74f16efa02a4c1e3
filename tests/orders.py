"""Orders as events, and the wait for their delivery: for tests that ask a real process over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tests.processes import Reply, eventually


class Gateway(Protocol):
    """Whatever answers the API: `atlas dev`, or a gateway of its own."""

    def request(self, method: str, path: str, body: object = None) -> Reply:
        """Ask with the key of the live environment."""


def order(number: int) -> dict[str, Any]:
    """The body of one event of the stream `orders`."""
    return {
        "stream": "orders",
        "type": "order.made",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {"n": number},
    }


def await_delivered(gateway: Gateway, ids: Sequence[str], timeout_s: float) -> None:
    """Wait until each of these events is shown as delivered everywhere."""

    def shown() -> bool:
        answers = [gateway.request("GET", f"/v1/events/{one}") for one in ids]
        return all(one.status == 200 and one.value["status"] == "delivered" for one in answers)

    eventually(shown, "all are delivered", timeout_s)
