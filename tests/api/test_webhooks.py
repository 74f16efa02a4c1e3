"""Webhook endpoints from outside: set up over HTTP, told by real requests, verified as a subscriber would."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from standardwebhooks import Webhook

from tests.api.atlas_process import (
    a_key,
    answered,
    create_stream,
    every_page,
    made,
    new_workspace,
    refused,
)
from tests.api.receiver import Delivery, Receiver
from tests.http_client import Client
from tests.processes import Dev, eventually

PATH: Final = "/v1/webhook-endpoints"
UNKNOWN: Final = "we_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
#: The reference's example, field for field in its order; with what the API notes put at the end of a failure.
REFERENCE_BODY: Final = """{"id":"%s",
"type":"%s",
"created_at":"%s",
"data":{"event_id":"%s",
"stream":"orders-prod",
"workflow_id":"wf_billing_sync",
"attempt":%d,
"latency_ms":%d%s}}"""
REFERENCE_ERROR: Final = ',"error":{"code":"webhook_delivery_failed","message":"Target answered 503"}'
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def send(client: Client, number: int = 0, stream: str = "orders-prod") -> str:
    body = {
        "stream": stream,
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {"number": number},
    }
    return str(answered(client.post("/v1/events", body), 202)["id"])


def subscribed(client: Client, receiver: Receiver, **fields: Any) -> dict[str, Any]:
    """An endpoint at /hook, a workflow at /work, and the stream that has it as its route."""
    endpoint: dict[str, Any] = made(client.post(PATH, {"url": receiver.url("/hook"), **fields}))
    workflow = {"id": "wf_billing_sync", "url": receiver.url("/work"), "retry_schedule_seconds": [1]}
    made(client.post("/v1/workflows", workflow))
    create_stream(client, default_routes=["wf_billing_sync"])
    return endpoint


def verified(delivery: Delivery, *secrets: str) -> int:
    """How many of these secrets have signed it, by the reference's text ("Verify the signature")."""
    fields = [part.split("=", 1) for part in delivery.headers["x-atlas-signature"].split(",")]
    timestamp = next(value for name, value in fields if name == "t")
    assert abs(time.time() - int(timestamp)) < 300
    given = {value for name, value in fields if name == "v1"}
    signed = timestamp.encode() + b"." + delivery.body
    return sum(hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() in given for secret in secrets)


def test_an_endpoint_is_shown_as_it_is_and_its_secret_once(acme: Client) -> None:
    endpoint = made(acme.post(PATH, {"url": "https://hooks.acme.example/atlas"}))
    assert endpoint["id"].startswith("we_")
    assert list(endpoint)[:6] == ["id", "object", "event_types", "streams", "url", "description"]
    assert endpoint["object"] == "webhook_endpoint"
    assert endpoint["event_types"] == ["event.delivered", "event.failed", "event.retry_scheduled"]
    assert endpoint["streams"] is None
    assert endpoint["secret"].startswith("whsec_")
    shown = answered(acme.get(f"{PATH}/{endpoint['id']}"), 200)
    assert shown == {name: value for name, value in endpoint.items() if name != "secret"}
    assert every_page(acme, PATH) == [shown]

    create_stream(acme)
    patch = {"event_types": ["event.failed"], "streams": ["orders-prod"], "timeout_ms": 1_000}
    patched = answered(acme.patch(f"{PATH}/{endpoint['id']}", patch), 200)
    assert patched == {**shown, **patch}
    assert answered(acme.patch(f"{PATH}/{endpoint['id']}", {"streams": None}), 200)["streams"] is None

    rotated = answered(acme.post(f"{PATH}/{endpoint['id']}/rotate-secret"), 200)
    assert rotated["secret"] not in {None, endpoint["secret"]}
    assert answered(acme.post(f"{PATH}/{endpoint['id']}/disable"), 200)["status"] == "disabled"
    assert answered(acme.post(f"{PATH}/{endpoint['id']}/reactivate"), 200)["status"] == "enabled"
    answered(acme.delete(f"{PATH}/{endpoint['id']}"), 200)
    refused(acme.get(f"{PATH}/{endpoint['id']}"), 404, "endpoint_not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "ftp://acme.example/"}, "url"),
        ({"url": "https://acme.example/", "event_types": []}, "event_types"),
        ({"url": "https://acme.example/", "event_types": ["event.accepted"]}, "event_types.0"),
        ({"url": "https://acme.example/", "event_types": ["event.failed"] * 2}, "event_types.1"),
        ({"url": "https://acme.example/", "streams": []}, "streams"),
        ({"url": "https://acme.example/", "streams": ["no-such-stream"]}, "streams.0"),
        ({"url": "https://acme.example/", "id": "we_mine"}, "id"),
        ({"url": "https://acme.example/", "filter": {}}, "filter"),
    ],
)
def test_a_bad_endpoint_is_refused_with_the_path_of_what_is_wrong(
    acme: Client, body: dict[str, Any], field: str
) -> None:
    assert refused(acme.post(PATH, body), 400, "invalid_request")["details"]["field"] == field
    assert every_page(acme, PATH) == []


def test_twenty_endpoints_and_no_more(acme: Client) -> None:
    for number in range(20):
        made(acme.post(PATH, {"url": f"https://acme.example/{number}"}))
    one_more = {"url": "https://acme.example/20"}
    refused(acme.post(PATH, one_more), 409, "endpoint_limit_reached")
    first = every_page(acme, PATH)[0]["id"]
    answered(acme.delete(f"{PATH}/{first}"), 200)
    made(acme.post(PATH, one_more))


def test_anothers_endpoint_and_a_workflows_id_are_unknown(dev: Dev, acme: Client) -> None:
    endpoint = made(acme.post(PATH, {"url": "https://acme.example/"}))["id"]
    workflow = made(acme.post("/v1/workflows", {"url": "https://acme.example/"}))["id"]
    _, other, test = new_workspace(dev, "Other")
    with other, test:
        for client in (other, test):
            for path in (f"{PATH}/{endpoint}", f"{PATH}/{endpoint}/deliveries"):
                refused(client.get(path), 404, "endpoint_not_found")
    for each in (workflow, UNKNOWN, "we_", "%00"):
        refused(acme.get(f"{PATH}/{each}"), 404, "endpoint_not_found")
        refused(acme.post(f"{PATH}/{each}/disable"), 404, "endpoint_not_found")
        refused(acme.get(f"{PATH}/{each}/deliveries"), 404, "endpoint_not_found")
    refused(acme.get(f"/v1/workflows/{endpoint}"), 404, "workflow_not_found")


def test_only_a_key_for_everything_has_to_do_with_endpoints(acme: Client) -> None:
    create_stream(acme)
    endpoint = made(acme.post(PATH, {"url": "https://acme.example/", "streams": ["orders-prod"]}))
    path = f"{PATH}/{endpoint['id']}"
    for kind in ("secret", "publishable"):
        _, client = a_key(acme, kind=kind, streams=["orders-prod"])
        for target in (PATH, path, f"{path}/deliveries"):
            refused(client.get(target), 403, "permission_denied")
        refused(client.post(PATH, {"url": "https://acme.example/"}), 403, "permission_denied")
        refused(client.patch(path, {}), 403, "permission_denied")
        refused(client.delete(path), 403, "permission_denied")
        for verb in ("rotate-secret", "disable", "reactivate"):
            refused(client.post(f"{path}/{verb}"), 403, "permission_denied")
    assert answered(acme.get(path), 200)["status"] == "enabled"


def test_an_endpoint_is_told_of_its_streams_and_types_only(acme: Client, receiver: Receiver) -> None:
    everything = subscribed(acme, receiver)
    create_stream(acme, "audit-prod", default_routes=["wf_billing_sync"])
    narrow = {"url": receiver.url("/narrow"), "streams": ["audit-prod"], "event_types": ["event.delivered"]}
    endpoint = made(acme.post(PATH, narrow))
    receiver.answering = lambda d: 503 if (d.path, d.attempt) == ("/work", 1) else 200
    sent = {send(acme, number, stream) for number, stream in enumerate(("orders-prod", "audit-prod"))}
    assert {d.value["data"]["event_id"] for d in receiver.wait_for(4)} == sent
    (told,) = receiver.wait_for(1, "/narrow")
    assert (told.value["type"], told.value["data"]["stream"]) == ("event.delivered", "audit-prod")
    eventually_listed(acme, everything["id"], 4)
    assert len(eventually_listed(acme, endpoint["id"], 1)) == len(receiver.at("/narrow"))


def test_the_outcomes_as_the_reference_shows_them(acme: Client, receiver: Receiver) -> None:
    endpoint = subscribed(acme, receiver)
    receiver.answering = lambda d: (
        503 if d.path == "/work" and d.value["data"]["number"] >= d.attempt else 200
    )
    delivered, failed = send(acme, 1), send(acme, 2)
    deliveries = receiver.wait_for(4)
    by_outcome = {
        (d.value["data"]["event_id"], d.value["type"], d.value["data"]["attempt"]): d for d in deliveries
    }
    assert set(by_outcome) == {
        (delivered, "event.retry_scheduled", 1),
        (delivered, "event.delivered", 2),
        (failed, "event.retry_scheduled", 1),
        (failed, "event.failed", 2),
    }
    for (event_id, kind, attempt), delivery in by_outcome.items():
        body = delivery.value
        assert body["id"] == delivery.headers["x-atlas-delivery-id"] == delivery.headers["webhook-id"]
        assert delivery.headers["content-type"] == "application/json"
        assert 0 <= body["data"]["latency_ms"] < 60_000
        expected = REFERENCE_BODY % (
            body["id"],
            kind,
            body["created_at"],
            event_id,
            attempt,
            body["data"]["latency_ms"],
            REFERENCE_ERROR if kind == "event.failed" else "",
        )
        assert delivery.body.decode() == expected.replace("\n", "")
        assert MOMENT.fullmatch(body["created_at"])
        assert verified(delivery, endpoint["secret"], "whsec_" + "A" * 44) == 1
        assert Webhook(endpoint["secret"]).verify(delivery.body, dict(delivery.headers)) == body
    shown = eventually_listed(acme, endpoint["id"], 4)
    assert {item["type"] for item in shown} == {key[1] for key in by_outcome}
    assert {item["delivery_id"] for item in shown} == {d.value["id"] for d in deliveries}
    assert {(item["status"], item["attempt"]) for item in shown} == {("delivered", 1)}


def eventually_listed(client: Client, endpoint: str, count: int) -> list[dict[str, Any]]:
    path = f"{PATH}/{endpoint}/deliveries"
    eventually(lambda: len(every_page(client, path)) == count, f"{count} deliveries are listed")
    return every_page(client, path)


def test_deliveries_are_listed_with_every_attempt_page_by_page(acme: Client, receiver: Receiver) -> None:
    endpoint = subscribed(acme, receiver, retry_schedule_seconds=[1], event_types=["event.delivered"])
    receiver.answering = lambda d: 500 if d.path == "/hook" and d.attempt == 1 else 200
    for number in range(5):
        send(acme, number)
    items = eventually_listed(acme, endpoint["id"], 10)
    assert [item["attempt"] for item in items] == [1, 2] * 5
    assert [item["status"] for item in items] == ["retry_scheduled", "delivered"] * 5
    path, walked, cursor = f"{PATH}/{endpoint['id']}/deliveries", [], ""
    while True:
        page = answered(acme.get(f"{path}?limit=3{cursor}"), 200)
        walked += page["data"]
        assert len(page["data"]) == 2, "a page ends between two deliveries"
        if not page["has_more"]:
            break
        assert page["next_cursor"] == page["data"][-1]["delivery_id"]
        cursor = f"&cursor={page['next_cursor']}"
    assert walked == items
    for bad in ("limit=0", "cursor=evt_1", "cursor=whd_1", f"cursor=evt_{'0' * 26}", "color=red"):
        refused(acme.get(f"{path}?{bad}"), 400, "invalid_request")
    ids = [item["delivery_id"] for item in items]
    assert ids == sorted(ids), "what is no delivery, or is no longer, has its place among them all the same"
    beside = f"{ids[4][:-1]}{'0' if ids[4][-1] > '0' else '1'}"
    for cursor, shown in ((f"whd_{'0' * 26}", items), (beside, items[6:] if beside > ids[4] else items[4:])):
        assert answered(acme.get(f"{path}?cursor={cursor}"), 200)["data"] == shown
    last = answered(acme.get(f"{path}?cursor={items[-1]['delivery_id']}"), 200)
    assert (last["data"], last["has_more"]) == ([], False)


def test_both_secrets_sign_during_a_rotation(acme: Client, receiver: Receiver) -> None:
    endpoint = subscribed(acme, receiver, event_types=["event.delivered"])
    overlap = {"overlap_seconds": 600}
    rotated = answered(acme.post(f"{PATH}/{endpoint['id']}/rotate-secret", overlap), 200)
    send(acme)
    (delivery,) = receiver.wait_for(1)
    assert verified(delivery, endpoint["secret"], rotated["secret"]) == 2
    for secret in (endpoint["secret"], rotated["secret"]):
        Webhook(secret).verify(delivery.body, dict(delivery.headers))
    cut = answered(acme.post(f"{PATH}/{endpoint['id']}/rotate-secret", {"overlap_seconds": 0}), 200)
    send(acme, 1)
    delivery = receiver.wait_for(2)[1]
    assert verified(delivery, endpoint["secret"], rotated["secret"], cut["secret"]) == 1


def test_gone_disables_until_reactivated(acme: Client, receiver: Receiver) -> None:
    endpoint = subscribed(acme, receiver, event_types=["event.delivered"])
    receiver.answering = lambda d: 410 if d.path == "/hook" else 200
    send(acme)
    path = f"{PATH}/{endpoint['id']}"
    eventually(lambda: answered(acme.get(path), 200)["status"] == "disabled", "410 disables it")
    assert answered(acme.get(path), 200)["disabled_reason"] == "gone"
    receiver.answering = lambda _: 200
    answered(acme.post(f"{path}/reactivate"), 200)
    send(acme, 1)
    assert len(receiver.wait_for(2)) == 2
