"""Atlas as a process for tests from outside, and what they ask of every one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.asgi_client import Answer
from tests.http_client import Client, check_form
from tests.processes import Dev, eventually, start_dev

SERVERS: Final = ("hypercorn", "uvicorn")
#: A quota that is in nobody's way.
WIDE: Final = ("--quota-per-minute", "60000000", "--quota-burst", "1000000")

EVENT: Final[dict[str, Any]] = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"order_id": "ord_8K2N1Q7", "total_cents": 4299},
}


@contextmanager
def running(
    directory: Path, server: str = "hypercorn", options: tuple[str, ...] = WIDE, *, faults: bool = False
) -> Iterator[Dev]:
    """`atlas dev`; nothing it was asked may have been a bug, and it must end cleanly.

    Args:
        faults: the test breaks what is under it; then consumers may fail, and be restarted.
    """
    with start_dev(directory, "--server", server, *options) as dev:
        yield dev
        assert dev.process.poll() is None, f"it ended by itself:\n{dev.stderr()}"
        assert dev.stop() == 0
        assert "request_failed" not in dev.stderr()
        assert faults or "Traceback" not in dev.stderr()


def answered(answer: Answer, status: int) -> Any:
    """The body of an answer in the right form and with this status."""
    value = check_form(answer)
    assert answer.status == status, answer
    return value


def made(answer: Answer) -> Any:
    """The body of a 201."""
    return answered(answer, 201)


def refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The error of an answer with this status and code, its whole form checked."""
    error: dict[str, Any] = check_form(answer)["error"]
    assert (answer.status, error["code"]) == (status, code), answer
    return error


def create_stream(client: Client, name: str = "orders-prod", **fields: Any) -> None:
    """The stream of `EVENT`, or another."""
    made(client.post("/v1/event-streams", {"name": name, **fields}))


def a_key(client: Client, **fields: Any) -> tuple[str, Client]:
    """A new key's id, and a client with it."""
    key = made(client.post("/v1/api-keys", {"kind": "secret", **fields}))
    return key["id"], client.using(key["secret"])


def new_workspace(dev: Dev, name: str) -> tuple[str, Client, Client]:
    """A workspace's id, and clients with its live and its test key."""
    with Client(dev.port, dev.operator_token) as operator:
        workspace = made(operator.post("/admin/v1/workspaces", {"name": name}))
    live, test = (Client(dev.port, key["secret"]) for key in workspace["keys"])
    return workspace["id"], live, test


def wait_for_status(client: Client, event_id: str, *statuses: str) -> dict[str, Any]:
    """An event, once it has one of these statuses."""
    seen: list[dict[str, Any]] = []

    def reached() -> bool:
        seen.append(answered(client.get(f"/v1/events/{event_id}"), 200))
        return seen[-1]["status"] in statuses

    eventually(reached, f"{event_id} is {' or '.join(statuses)}")
    return seen[-1]


def every_page(client: Client, target: str) -> list[dict[str, Any]]:
    """All items of a list, walked in pages of 100."""
    items: list[dict[str, Any]] = []
    join = "&" if "?" in target else "?"
    cursor = ""
    while True:
        page = answered(client.get(f"{target}{join}limit=100{cursor}"), 200)
        items += page["data"]
        if not page["has_more"]:
            return items
        cursor = f"&cursor={page['next_cursor']}"
