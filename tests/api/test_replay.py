"""`POST /v1/events/{event_id}/replay` over HTTP: what goes again, and every reason why nothing does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.api.atlas_process import (
    EVENT,
    a_key,
    answered,
    create_stream,
    made,
    new_workspace,
    refused,
    wait_for_status,
)
from tests.api.receiver import Delivery, Receiver
from tests.http_client import Client
from tests.processes import Dev, eventually

UNKNOWN: Final = "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def routed(client: Client, receiver: Receiver, *targets: str, **fields: Any) -> str:
    """The path of an event with a route to each of these; a workflow's URL is its id."""
    for target in targets:
        workflow = {"id": target, "url": receiver.url(f"/{target}"), "retry_schedule_seconds": [], **fields}
        made(client.post("/v1/workflows", workflow))
    create_stream(client, default_routes=list(targets))
    return f"/v1/events/{answered(client.post('/v1/events', EVENT), 202)['id']}"


def reached(client: Client, path: str, *statuses: str) -> dict[str, Any]:
    return wait_for_status(client, path.rpartition("/")[2], *statuses)


def why_not(client: Client, path: str, *targets: str) -> str:
    """What a replay that replays nothing says."""
    body = {"workflow_ids": list(targets)} if targets else None
    error = refused(client.post(f"{path}/replay", body), 409, "not_replayable")
    assert error["details"] == {}
    return str(error["message"])


def field(client: Client, path: str, body: object) -> str:
    return str(refused(client.post(f"{path}/replay", body), 400, "invalid_request")["details"]["field"])


def test_every_route_that_ended_goes_again(acme: Client, receiver: Receiver) -> None:
    receiver.answering = lambda d: 500 if (d.path, d.attempt) == ("/wf_b", 1) else 200
    path = routed(acme, receiver, "wf_a", "wf_b")
    before = reached(acme, path, "failed")
    assert [route["status"] for route in before["attempts"]] == ["delivered", "failed"]
    event = answered(acme.post(f"{path}/replay"), 202)
    assert list(event) == list(before)
    assert event["status"] in {"processing", "delivered"}
    after = reached(acme, path, "delivered")
    assert [route["attempt"] for route in after["attempts"]] == [2, 2]
    for target in ("/wf_a", "/wf_b"):
        first, second = receiver.wait_for(2, target)
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.headers["webhook-id"] != second.headers["webhook-id"]
        assert first.body == second.body
    made_ones = answered(acme.get(f"{path}/attempts"), 200)["data"]
    assert sorted((each["workflow_id"], each["attempt"]) for each in made_ones) == [
        (target, number) for target in ("wf_a", "wf_b") for number in (1, 2)
    ]


def test_only_what_is_named_goes_again(acme: Client, receiver: Receiver) -> None:
    path = routed(acme, receiver, "wf_a", "wf_b")
    reached(acme, path, "delivered")
    answered(acme.post(f"{path}/replay", {"workflow_ids": ["wf_b"]}), 202)
    receiver.wait_for(2, "/wf_b")
    after = reached(acme, path, "delivered")
    assert [(route["workflow_id"], route["attempt"]) for route in after["attempts"]] == [
        ("wf_a", 1),
        ("wf_b", 2),
    ]
    assert len(receiver.at("/wf_a")) == 1


def test_its_outcome_is_told_anew(acme: Client, receiver: Receiver) -> None:
    made(acme.post("/v1/webhook-endpoints", {"url": receiver.url("/told")}))
    path = routed(acme, receiver, "wf_a")
    receiver.wait_for(1, "/told")
    answered(acme.post(f"{path}/replay", {}), 202)
    first, second = receiver.wait_for(2, "/told")
    assert (first.value["data"]["attempt"], second.value["data"]["attempt"]) == (1, 2)
    assert first.value["id"] != second.value["id"]


def test_a_scheduled_retry_is_made_at_once_when_it_is_named(acme: Client, receiver: Receiver) -> None:
    receiver.answering = lambda d: 503 if d.attempt == 1 else 200
    path = routed(acme, receiver, "wf_a", retry_schedule_seconds=[86_400])
    reached(acme, path, "retried")
    assert why_not(acme, path) == "Nothing of this event can be replayed: wf_a is retry_scheduled."
    answered(acme.post(f"{path}/replay", {"workflow_ids": ["wf_a"]}), 202)
    first, second = receiver.wait_for(2, "/wf_a")
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"], "no replay: the same delivery"
    reached(acme, path, "delivered")


def hanging(delivery: Delivery) -> int | None:
    return None if delivery.path == "/wf_slow" else 200


def test_a_refusal_says_why_of_each_route(acme: Client, receiver: Receiver) -> None:
    receiver.answering = hanging
    path = routed(acme, receiver, "wf_slow", "wf_off", "wf_gone", timeout_ms=30_000)
    receiver.wait_for(1, "/wf_slow")

    def rest_ended() -> bool:
        event = answered(acme.get(path), 200)
        return [route["status"] for route in event["attempts"]] == ["processing", "delivered", "delivered"]

    eventually(rest_ended, "one is under way, the others have ended")
    answered(acme.post("/v1/workflows/wf_off/disable"), 200)
    answered(acme.delete("/v1/workflows/wf_gone"), 200)
    reasons = ["wf_slow is processing", "wf_off is disabled", "wf_gone is deleted"]
    whole = f"Nothing of this event can be replayed: {'; '.join(reasons)}."
    assert why_not(acme, path) == whole
    assert why_not(acme, path, "wf_off") == "Nothing of this event can be replayed: wf_off is disabled."
    answered(acme.post("/v1/workflows/wf_off/reactivate"), 200)
    answered(acme.post(f"{path}/replay"), 202)
    assert [each.attempt for each in receiver.wait_for(2, "/wf_off")] == [1, 2]


def test_an_event_without_routes(acme: Client, receiver: Receiver) -> None:
    path = routed(acme, receiver)
    reached(acme, path, "delivered")
    assert why_not(acme, path) == "Nothing of this event can be replayed: it has no routes."


def test_bodies_that_say_something_else(acme: Client, receiver: Receiver) -> None:
    path = routed(acme, receiver, "wf_a")
    reached(acme, path, "delivered")
    for body, wrong in (
        ({"workflow_ids": []}, "workflow_ids"),
        ({"workflow_ids": "wf_a"}, "workflow_ids"),
        ({"workflow_ids": ["wf_a", 7]}, "workflow_ids.1"),
        ({"workflow_ids": ["wf_a", "wf_other"]}, "workflow_ids.1"),
        ({"workflow_ids": ["nobody"]}, "workflow_ids.0"),
        ({"workflow_ids": ["wf_a", "wf_a"]}, "workflow_ids.1"),
        ({"workflow_ids": [f"wf_{number}" for number in range(21)]}, "workflow_ids"),
        ({"routes": ["wf_a"]}, "routes"),
    ):
        assert field(acme, path, body) == wrong, body
    refused(acme.post(f"{path}/replay?now=1"), 400, "invalid_request")
    refused(acme.post(f"{path}/replay", {}, [("Content-Type", "text/plain")]), 415, "unsupported_media_type")
    assert answered(acme.get(path), 200)["attempts"][0]["attempt"] == 1, "nothing was begun"


def test_what_may_not_be_seen_may_not_be_replayed(dev: Dev, acme: Client, receiver: Receiver) -> None:
    path = routed(acme, receiver, "wf_a")
    event_id = path.rpartition("/")[2]
    reached(acme, path, "delivered")
    for kind in ("secret", "publishable"):
        _, client = a_key(acme, kind=kind, streams=["orders-prod"])
        refused(client.post(f"{path}/replay"), 403, "permission_denied")
    _, other, test = new_workspace(dev, "Other")
    said = {refused(acme.post(f"/v1/events/{UNKNOWN}/replay"), 404, "event_not_found")["message"]}
    with other, test:
        said |= {refused(c.post(f"{path}/replay"), 404, "event_not_found")["message"] for c in (other, test)}
    for each in (event_id[:-1], event_id.lower(), "%00"):
        said.add(refused(acme.post(f"/v1/events/{each}/replay"), 404, "event_not_found")["message"])
    assert len({re.sub("evt_[0-9A-Za-z]+", "*", each) for each in said}) == 1
    assert len(receiver.at("/wf_a")) == 1
