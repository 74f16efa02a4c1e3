"""Tenants that can be told apart: whatever one of them writes anywhere holds a canary of its own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from tests.api.atlas_process import a_key, answered, create_stream, made, new_workspace
from tests.api.receiver import Receiver
from tests.http_client import Client
from tests.processes import Dev

#: In every tenant, so that equal names and keys have every chance to be mixed up.
SHARED_STREAM: Final = "shared"
SHARED_WORKFLOW: Final = "wf_shared"
SHARED_KEY: Final = "6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa"


def canary(kind: str) -> str:
    """A text that occurs nowhere else; it may stand in a stream's name and a workflow's id."""
    return f"{kind}{secrets.token_hex(8)}"


@dataclass
class Tenant:
    """A workspace in one environment, filled with canaries.

    Attributes:
        name: for messages.
        keys: clients by kind of key: full, scoped (to stream `a`), publishable (for stream `a`).
        open: canaries in what logs may name: ids of targets.
        hidden: canaries in all else that only this tenant may see.
        only_b: canaries that a key scoped to stream `a` must not see either.
        secret: keys and signing secrets.
        event_ids: of everything sent.
        key_ids: of every key made here.
    """

    name: str
    keys: dict[str, Client]
    open: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    secret: list[str] = field(default_factory=list)
    event_ids: dict[str, str] = field(default_factory=dict)
    key_ids: list[str] = field(default_factory=list)
    streams: dict[str, str] = field(default_factory=dict)
    workflow: str = ""
    endpoint: str = ""
    path: str = ""
    told_path: str = ""
    webhook_secret: str = ""

    @property
    def full(self) -> Client:
        return self.keys["full"]

    def canaries(self) -> list[str]:
        return [*self.open, *self.hidden, *self.only_b]

    def note(self, kind: str) -> str:
        self.hidden.append(canary(kind))
        return self.hidden[-1]


def tenants(dev: Dev, receiver: Receiver) -> list[Tenant]:
    """Two workspaces with two environments each, filled; nothing is waited for."""
    found = []
    for number in range(2):
        title = canary("workspace")
        _, live, test = new_workspace(dev, title)
        for environment, client in (("live", live), ("test", test)):
            tenant = Tenant(f"{number}/{environment}", {"full": client}, hidden=[title] if number else [])
            _fill(tenant, receiver)
            found.append(tenant)
    return found


def _fill(tenant: Tenant, receiver: Receiver) -> None:
    full = tenant.full
    tenant.secret.append(full.token or "")
    _make_targets(tenant, receiver)
    _make_streams(tenant)
    _make_endpoint(tenant, receiver)
    for kind in ("secret", "publishable"):
        label = "scoped" if kind == "secret" else kind
        streams = [tenant.streams["a"], SHARED_STREAM]
        key_id, tenant.keys[label] = a_key(full, kind=kind, streams=streams, name=tenant.note("key"))
        tenant.key_ids.append(key_id)
        tenant.secret.append(tenant.keys[label].token or "")
    for stream in ("a", "b", "shared"):
        _send(tenant, stream)


def _make_targets(tenant: Tenant, receiver: Receiver) -> None:
    tenant.open.append(canary("wf_"))
    tenant.workflow = tenant.open[-1]
    tenant.path = f"/{tenant.note('path')}"
    for workflow_id in (tenant.workflow, SHARED_WORKFLOW):
        workflow = made(
            tenant.full.post(
                "/v1/workflows",
                {
                    "id": workflow_id,
                    "url": receiver.url(tenant.path),
                    "description": tenant.note("description"),
                    "headers": {f"X-{tenant.note('header')}": tenant.note("value")},
                },
            )
        )
        tenant.secret.append(workflow["secret"])
        tenant.webhook_secret = tenant.webhook_secret or workflow["secret"]


def _make_endpoint(tenant: Tenant, receiver: Receiver) -> None:
    """It is told of the streams of the scoped key only: that of `b` must not show in what it is sent."""
    tenant.told_path = f"/{tenant.note('told')}"
    endpoint = made(
        tenant.full.post(
            "/v1/webhook-endpoints",
            {
                "url": receiver.url(tenant.told_path),
                "description": tenant.note("description"),
                "headers": {f"X-{tenant.note('header')}": tenant.note("value")},
                "streams": [tenant.streams["a"], SHARED_STREAM],
            },
        )
    )
    tenant.endpoint = endpoint["id"]
    tenant.open.append(endpoint["id"])
    tenant.secret.append(endpoint["secret"])


def _make_streams(tenant: Tenant) -> None:
    tenant.streams = {"a": tenant.note("a"), "b": canary("b"), "shared": SHARED_STREAM}
    tenant.only_b.append(tenant.streams["b"])
    for stream in tenant.streams.values():
        route = SHARED_WORKFLOW if stream == SHARED_STREAM else tenant.workflow
        create_stream(tenant.full, stream, description=f"of {stream}", default_routes=[route])


def _send(tenant: Tenant, stream: str) -> None:
    """One event full of canaries; those of stream `b` are not for the scoped key."""
    into = tenant.only_b if stream == "b" else tenant.hidden
    texts = [canary("event") for _ in range(9)]
    into += texts
    event: dict[str, Any] = {
        "stream": tenant.streams[stream],
        "type": f"order.{texts[0]}",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {texts[1]: texts[2]},
        "actor": {"id": texts[3], "tenant_id": texts[4], "user_agent": texts[5]},
        "metadata": {texts[6]: texts[7]},
        "ordering_key": texts[8],
    }
    key = SHARED_KEY if stream == "shared" else texts[8]
    answer = tenant.full.post("/v1/events", event, [("Idempotency-Key", key)])
    assert answer.header("idempotent-replayed") is None, "another tenant's key"
    tenant.event_ids[stream] = answered(answer, 202)["id"]
