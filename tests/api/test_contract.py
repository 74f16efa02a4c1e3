"""Every operation of a running Atlas answers as schemas/openapi.json says, with success and with errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from atlas.core.limits import BODY_BYTES_MAX
from tests.api.atlas_process import EVENT, made, running
from tests.api.receiver import Delivery, Receiver
from tests.asgi_client import Answer
from tests.http_client import Body, Client, Headers
from tests.processes import Dev, eventually
from tests.schemas.contract import Api

#: In the place of a path's parameters: well-formed ids that nobody has.
NOBODYS: Final = {
    "event_id": "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "key_id": "key_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "workflow_id": "wf_nobodys",
    "workspace_id": "ws_NOBODYS",
    "endpoint_id": "we_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "rebuild_id": "rbd_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "verification_id": "vfy_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "replay_id": "rpl_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "name": "nobodys",
}
#: Answers that take a fault, half a minute, or a great deal of traffic; their form is held in tests/schemas.
ELSEWHERE: Final = {408, 410, 413, 429, 503}


class Held(Client):
    """A client whose every answer is held against openapi.json."""

    def __init__(self, api: Api, port: int, token: str | None = None) -> None:
        super().__init__(port, token)
        self._api = api

    def using(self, token: str | None) -> Held:
        return Held(self._api, self.port, token)

    def request(
        self,
        method: str,
        target: str | bytes,
        *,
        json: object = None,
        body: Body | None = None,
        headers: Headers = (),
    ) -> Answer:
        answer = super().request(method, target, json=json, body=body, headers=headers)
        assert isinstance(target, str)
        self._api.check(method, target, answer)
        if json is not None and answer.status < 300:
            self._api.check_request(method, target, json)
        return answer


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running(tmp_path_factory.mktemp("contract")) as process:
        yield process


@pytest.fixture
def api() -> Api:
    return Api()


def hook(delivery: Delivery) -> int:
    """Fails the first attempt of everything."""
    return 500 if delivery.attempt == 1 else 200


def test_every_operation_answers_as_described(dev: Dev, api: Api) -> None:
    with Receiver(hook) as receiver, Held(api, dev.port, dev.operator_token) as operator:
        workspace = made(operator.post("/admin/v1/workspaces", {"name": "Acme"}))
        live = operator.using(workspace["keys"][0]["secret"])
        for_operators(operator, workspace["id"])
        workflows(live, receiver)
        endpoint_id = endpoints(live, receiver)
        streams(live)
        keys(live)
        events(live, endpoint_id)
        jobs(operator)
        refused_requests(api, live, operator)
        live.delete("/v1/event-streams/orders-prod")
        live.delete("/v1/workflows/wf_hook")
        live.delete(f"/v1/webhook-endpoints/{endpoint_id}")
        for path in ("/v1/events", "/v1/events/batch"):
            live.using(None).request("OPTIONS", path)
        too_much(live, operator, workspace["id"])
    described = {
        (method, template, int(status))
        for method, template in api.operations()
        for status in api.document["paths"][template][method.lower()]["responses"]
        if status != "default" and int(status) not in ELSEWHERE
    }
    assert described - api.seen == set()
    assert {413, 429} <= {status for _, _, status in api.seen}


def for_operators(operator: Held, workspace_id: str) -> None:
    operator.get("/admin/v1/workspaces?limit=1")
    operator.get(f"/admin/v1/workspaces/{workspace_id}")
    operator.patch(
        f"/admin/v1/workspaces/{workspace_id}",
        {"quota": {"live": {"requests_per_minute": 60_000, "burst": 1_000}, "test": None}},
    )
    for path in ("/healthz", "/readyz", "/metrics"):
        assert operator.using(None).get(path).status == 200


def workflows(live: Held, receiver: Receiver) -> None:
    wanted = {
        "id": "wf_hook",
        "url": receiver.url(),
        "retry_schedule_seconds": [1],
        "headers": {"X-Team": "billing"},
        "rate_limit_per_second": 100,
    }
    made(live.post("/v1/workflows", wanted))
    assert live.post("/v1/workflows", wanted).status == 409
    made(live.post("/v1/workflows", {"url": receiver.url(), "description": "another", "headers": None}))
    live.get("/v1/workflows?limit=1")
    live.get("/v1/workflows/wf_hook")
    live.patch("/v1/workflows/wf_hook", {"timeout_ms": 1_000, "rate_limit_per_second": None, "url": None})
    live.post("/v1/workflows/wf_hook/rotate-secret", {"overlap_seconds": 0})
    live.post("/v1/workflows/wf_hook/disable", {})
    live.get("/v1/workflows/wf_hook")
    live.post("/v1/workflows/wf_hook/reactivate")
    live.get("/v1/workflows/wf_hook/health")


def endpoints(live: Held, receiver: Receiver) -> str:
    """Every operation but the list of deliveries; the id of one that is told of everything."""
    path = "/v1/webhook-endpoints"
    endpoint_id = str(
        made(live.post(path, {"url": receiver.url("/told"), "retry_schedule_seconds": [1]}))["id"]
    )
    one = f"{path}/{endpoint_id}"
    live.get(f"{path}?limit=1")
    live.get(one)
    live.patch(one, {"description": "All outcomes.", "event_types": ["event.failed", "event.delivered"]})
    live.post(f"{one}/rotate-secret", {"overlap_seconds": 0})
    live.post(f"{one}/disable", {})
    live.post(f"{one}/reactivate")
    live.get(f"{one}/health")
    more = [live.post(path, {"url": receiver.url("/more")}) for _ in range(20)]
    assert more[-1].status == 409
    for answer in more[:-1]:
        live.delete(f"{path}/{answer.json()['id']}")
    return endpoint_id


def jobs(operator: Held) -> None:
    """A rebuild and a verification, watched to their ends."""
    for path in ("/admin/v1/rebuilds", "/admin/v1/verify"):
        asked = operator.post(path, {})
        assert asked.status == 202
        one = f"{path}/{asked.json()['id']}"
        eventually(lambda one=one: operator.get(one).json()["status"] == "completed", path)  # type: ignore[misc]  # bound at once
    operator.get("/admin/v1/rebuilds?limit=1")


def streams(live: Held) -> None:
    wanted = {"name": "orders-prod", "default_routes": ["wf_hook"], "retention_days": None}
    made(live.post("/v1/event-streams", wanted))
    assert live.post("/v1/event-streams", wanted).status == 409
    live.get("/v1/event-streams?limit=1")
    live.get("/v1/event-streams/orders-prod")
    live.patch("/v1/event-streams/orders-prod", {"description": "Orders.", "retention_days": 7})


def keys(live: Held) -> None:
    key = made(live.post("/v1/api-keys", {"kind": "secret", "name": "ci", "streams": ["orders-prod"]}))
    rotated = made(live.post(f"/v1/api-keys/{key['id']}/rotate"))
    live.get("/v1/api-keys?limit=1")
    live.delete(f"/v1/api-keys/{rotated['id']}")


def events(live: Held, endpoint_id: str) -> None:
    full = {
        **EVENT,
        "actor": {"type": "user", "id": "usr_1", "ip": "2001:db8::1", "user_agent": "test"},
        "metadata": {"region": "eu", "\u00e9": "\U0001f600"},
        "ordering_key": "customer 7",
    }
    keyed = [("Idempotency-Key", "one")]
    event_id = live.post("/v1/events", full, keyed).json()["id"]
    assert live.post("/v1/events", full, keyed).header("idempotent-replayed") == "true"
    assert live.post("/v1/events", EVENT, keyed).status == 409
    batch = {"events": [EVENT, {**EVENT, "idempotency_key": "two"}]}
    assert live.post("/v1/events/batch", batch).json()["accepted"] == 2
    bad = {"events": [EVENT, {}, {**EVENT, "stream": "nobodys"}, {**full, "idempotency_key": "two"}]}
    mixed = Client(live.port, live.token).post("/v1/events/batch", bad)
    live._api.check("POST", "/v1/events/batch", mixed)
    assert [item["status"] for item in mixed.json()["data"]] == [202, 400, 404, 409]
    for path in (f"/v1/events/{event_id}", f"/v1/events/{event_id}/payload"):
        assert live.get(path).status == 200
    seen: list[str] = []

    def delivered() -> bool:
        seen.append(live.get(f"/v1/events/{event_id}").json()["status"])
        return seen[-1] == "delivered"

    eventually(delivered, "the event is delivered at the second attempt")
    attempts = live.get(f"/v1/events/{event_id}/attempts").json()["data"]
    assert [attempt["status"] for attempt in attempts] == ["retry_scheduled", "delivered"]
    live.get("/v1/events?limit=2&metadata.region=eu&status=delivered&received_after=2026-01-01T00:00:00Z")
    live.get("/v1/events?limit=1")
    told = f"/v1/webhook-endpoints/{endpoint_id}/deliveries?limit=1"
    eventually(lambda: bool(live.get(told).json()["data"]), "the outcome is told")
    assert live.post(f"/v1/events/{event_id}/replay", {"workflow_ids": ["wf_hook"]}).status == 202
    eventually(lambda: live.get(f"/v1/events/{event_id}").json()["status"] != "processing", "replayed")
    bulk = live.post("/v1/replays", {"status": "failed", "received_after": "2026-01-01T00:00:00Z"}).json()
    eventually(lambda: live.get(f"/v1/replays/{bulk['id']}").json()["status"] == "completed", "bulk replay")
    slow = [live.post("/v1/replays", {"rate_per_second": 1}) for _ in range(11)]
    assert [answer.status for answer in slow] == [202] * 10 + [409]
    for each in slow[:10]:
        assert live.post(f"/v1/replays/{each.json()['id']}/cancel").status == 200
    assert live.get("/v1/replays?limit=1").json()["has_more"]
    live.get("/v1/workflows/wf_hook/health")
    live.get(f"/v1/webhook-endpoints/{endpoint_id}/health")
    live.post("/v1/workflows/wf_hook/disable")
    assert live.post(f"/v1/events/{event_id}/replay").status == 409
    live.post("/v1/workflows/wf_hook/reactivate")


def refused_requests(api: Api, live: Held, operator: Held) -> None:
    """400, 401, 403, 404 and 415, wherever they are described."""
    other = made(operator.post("/admin/v1/workspaces", {"name": "Suspended"}))
    operator.patch(f"/admin/v1/workspaces/{other['id']}", {"status": "suspended"})
    suspended = live.using(other["keys"][0]["secret"])
    for method, template in sorted(api.operations()):
        path = re.sub(r"{(\w+)}", lambda found: NOBODYS[found[1]], template)
        client = operator if template.startswith("/admin") else live
        empty: dict[str, Any] = {"json": {}} if method in {"POST", "PATCH"} else {}
        names_stream = template in ("/v1/events", "/v1/replays")  # in its query or its body, not in its path
        event = EVENT if template == "/v1/events" else {}
        unknown = {"json": {**event, "stream": "nobodys"}} if names_stream and empty else empty
        unknown_at = f"{path}?stream=nobodys" if names_stream and not empty else path
        text = {"body": b"{}", "headers": [("Content-Type", "text/plain")]}
        refusals: dict[str, tuple[Held, str, dict[str, Any]]] = {
            "400": (client, f"{path}?unknown=1", empty),
            "401": (live.using(None), path, {}),
            "403": (suspended, path, {}),
            "404": (client, unknown_at, unknown),
            "415": (client, path, text),
        }
        for status in refusals.keys() & api.document["paths"][template][method.lower()]["responses"].keys():
            who, target, sent = refusals[status]
            assert who.request(method, target, **sent).status == int(status), (method, target, status)
    publishable = made(live.post("/v1/api-keys", {"kind": "publishable", "streams": ["orders-prod"]}))
    assert live.using(publishable["secret"]).get("/v1/events").status == 403


def too_much(live: Held, operator: Held, workspace_id: str) -> None:
    """413, and 429 for a workspace that has used up its quota."""
    assert live.post("/v1/events", {**EVENT, "data": {"a": "x" * BODY_BYTES_MAX}}).status == 413
    least = {"requests_per_minute": 1, "burst": 1}
    operator.patch(f"/admin/v1/workspaces/{workspace_id}", {"quota": {"live": least}})
    assert 429 in {live.get("/v1/events").status for _ in range(2)}
