"""A process to be fuzzed, and what has to hold of every request and of the whole afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from tests.api.atlas_process import a_key, answered, create_stream, every_page, made, new_workspace
from tests.api.hostile import STREAM, WORKFLOW
from tests.api.receiver import Receiver
from tests.asgi_client import Answer
from tests.http_client import Body, Client, Headers, check_form
from tests.processes import Dev, eventually

LISTS: Final = ("/v1/events", "/v1/event-streams", "/v1/workflows", "/v1/webhook-endpoints", "/v1/api-keys")
CONTROL: Final = "atlas.control"
#: What consumers write, whether or not anybody asks for anything.
BACKGROUND: Final = "atlas.lifecycle"
#: A refusal that the control log's fold decides: then what was asked for is in the log, void.
BY_THE_FOLD: Final = (
    "already_exists", "stream_limit_reached", "stream_not_found", "workflow_not_found", "key_not_found",
    "workspace_not_found", "endpoint_not_found", "endpoint_limit_reached",
)  # fmt: skip
NAMES_CHECKED_BY_THE_FOLD: Final = ("default_routes.", "streams.", "workflow_ids.")

T = TypeVar("T")


class Fuzzed:
    """Clients for every kind of caller, and the log's own word on what was appended.

    Args:
        dev: the process.
        receiver: where its events are delivered.
        thin: send only every so many of a corpus.
    """

    def __init__(self, dev: Dev, receiver: Receiver, thin: int) -> None:
        self.dev = dev
        self._thin = thin
        self._log = sqlite3.connect(f"file:{dev.data_dir / 'log.db'}?mode=ro", uri=True)
        live = Client(dev.port, dev.live_secret_key)
        made(live.post("/v1/workflows", {"id": "wf_sink", "url": receiver.url()}))
        made(live.post("/v1/workflows", {"id": WORKFLOW, "url": receiver.url("/fuzz")}))
        create_stream(live, "orders-prod", default_routes=["wf_sink"])
        create_stream(live, STREAM)
        key_id, _ = a_key(live)
        workspace_id, _, _ = new_workspace(dev, "to be patched")
        endpoint = made(live.post("/v1/webhook-endpoints", {"url": receiver.url("/outcomes")}))
        self.ids = {"key_id": key_id, "workspace_id": workspace_id, "endpoint_id": endpoint["id"]}
        self.clients = {
            "live": live,
            "operator": Client(dev.port, dev.operator_token),
            "scoped": a_key(live, streams=["orders-prod"])[1],
            "publishable": a_key(live, kind="publishable", streams=["orders-prod"])[1],
            "nobody": Client(dev.port),
        }

    def some(self, corpus: Sequence[T]) -> Sequence[T]:
        """As much of a corpus as this process is to be sent."""
        return corpus[:: self._thin]

    def ends(self) -> dict[tuple[str, int], int]:
        """Where every partition ends, but those that consumers write to."""
        rows = self._log.execute(
            "SELECT name, partition, MAX(base_offset + records) FROM batch JOIN topic ON topic.id = topic_id"
            " WHERE name <> ? GROUP BY name, partition",
            (BACKGROUND,),
        )
        return {(name, partition): end for name, partition, end in rows}

    def send(
        self, method: str, where: str, *, who: str = "", body: Body | None = None, headers: Headers = ()
    ) -> Answer:
        """One request, and what holds for all of them."""
        client = self.clients[who or ("operator" if where.startswith("/admin") else "live")]
        before = self.ends()
        answer = client.request(method, where, body=body, headers=headers)
        told = (method, where[:300], who, headers, body and body[:300], answer)
        assert answer.status < 500, told
        if answer.header("x-request-id") is not None:
            check_form(answer, method)
        else:
            assert answer.status in (400, 431), told
        if answer.status >= 400:
            grown = {partition for partition, end in self.ends().items() if before.get(partition) != end}
            assert grown <= ({(CONTROL, 0)} if _decided_by_the_fold(answer, method) else set()), told
        return answer

    def still_works(self) -> None:
        """What was taken can be read, and was delivered."""
        live = self.clients["live"]
        accepted = every_page(live, "/v1/events")
        paths = [f"/v1/events/{item['id']}/payload" for item in accepted]
        paths += [f"/v1/event-streams/{item['name']}" for item in every_page(live, "/v1/event-streams")]
        paths += [f"/v1/workflows/{item['id']}" for item in every_page(live, "/v1/workflows")]
        for path in paths:
            answered(live.get(path), 200)
        every_page(live, "/v1/api-keys")
        every_page(self.clients["operator"], "/admin/v1/workspaces")
        answered(self.clients["nobody"].get("/readyz"), 200)
        eventually(
            lambda: len(every_page(live, "/v1/events?status=delivered")) == len(accepted),
            "every event that was taken is delivered",
        )

    def close(self) -> None:
        self._log.close()


def _decided_by_the_fold(answer: Answer, method: str) -> bool:
    if method in ("GET", "HEAD") or not answer.body:
        return False
    error: dict[str, Any] = answer.json()["error"]
    field = error["details"].get("field") or ""
    return error["code"] in BY_THE_FOLD or field.startswith(NAMES_CHECKED_BY_THE_FOLD)
