"""The reference's examples: its requests sent as they are printed, every answer held to the printed one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.atlas_process import answered, made, running, wait_for_status
from tests.api.receiver import Delivery, Receiver, signed_by_the_reference
from tests.api.reference_examples import (
    ERROR_ANSWER,
    EVENT,
    EVENT_ANSWER,
    EVENT_ID,
    KEY,
    MILLISECONDS,
    PAGE_TARGET,
    QUICKSTART_EVENT,
    QUICKSTART_STREAM,
    QUICKSTART_STREAM_ANSWER,
    STATUS_ANSWER,
    STREAM,
    STREAM_ANSWER,
    compare,
)
from tests.asgi_client import Answer
from tests.http_client import Client, check_form
from tests.processes import eventually

ROUTES: Final = ["wf_billing_sync", "wf_search_index"]
KEYED: Final = [("Idempotency-Key", KEY)]
#: The second attempt comes within a second or so, a third not during a test.
SCHEDULE_S: Final = [1, 150]
#: The fields of an event in a list; the reference prints three of them.
ITEM: Final = {
    "id": EVENT_ID,
    "object": "event",
    "stream": "orders-prod",
    "type": re.compile(r"order\.(fulfilled|refunded)"),
    "status": re.compile("accepted|delivered"),
    "received_at": MILLISECONDS,
    "occurred_at": "2026-05-18T14:22:11Z",
    "actor": type(None),
    "metadata": type(None),
}


def slow_search(delivery: Delivery) -> int | None:
    return None if delivery.path == "/wf_search_index" else 200


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where `wf_search_index` hangs and everything else answers 200."""
    with Receiver(slow_search) as started:
        yield started


def create_workflow(client: Client, receiver: Receiver, workflow_id: str, **fields: Any) -> str:
    """A workflow; its signing secret."""
    wanted = {"id": workflow_id, "url": receiver.url(f"/{workflow_id}"), **fields}
    secret: str = made(client.post("/v1/workflows", wanted))["secret"]
    return secret


def orders(client: Client, receiver: Receiver) -> dict[str, str]:
    """The stream of the examples with its two workflows; their secrets."""
    secrets = {
        workflow_id: create_workflow(
            client, receiver, workflow_id, timeout_ms=timeout_ms, retry_schedule_seconds=SCHEDULE_S
        )
        for workflow_id, timeout_ms in zip(ROUTES, (5_000, 250), strict=True)
    }
    made(client.post("/v1/event-streams", {"name": "orders-prod", "default_routes": ROUTES}))
    return secrets


# --- quickstart


def test_quickstart(acme: Client) -> None:
    stream = made(acme.request("POST", "/v1/event-streams", body=QUICKSTART_STREAM))
    compare(QUICKSTART_STREAM_ANSWER, stream)

    event = answered(acme.request("POST", "/v1/events", body=QUICKSTART_EVENT, headers=KEYED), 202)
    compare({**EVENT_ANSWER, "routes": []}, event)

    status = answered(acme.get(f"/v1/events/{event['id']}"), 200)
    assert status["status"] in ("accepted", "delivered")
    compare({**STATUS_ANSWER, "status": status["status"], "attempts": []}, status)
    assert status["received_at"] == event["received_at"]


def test_the_printed_event_id_is_well_formed_and_unknown(acme: Client) -> None:
    answer = acme.get("/v1/events/evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A")
    assert (answer.status, answer.code) == (404, "event_not_found")


# --- create an event stream


def test_create_an_event_stream(acme: Client, receiver: Receiver) -> None:
    refused = acme.request("POST", "/v1/event-streams", body=STREAM)
    assert refused.field == "default_routes.0", "its workflow does not exist yet"

    create_workflow(acme, receiver, "wf_compliance_archive")
    stream = made(acme.request("POST", "/v1/event-streams", body=STREAM))
    compare(STREAM_ANSWER, stream)
    assert answered(acme.get("/v1/event-streams/audit-prod"), 200) == stream


def test_a_stream_needs_only_a_name(acme: Client) -> None:
    stream = made(acme.post("/v1/event-streams", {"name": "audit-prod"}))
    defaults = {"description": type(None), "retention_days": 14, "default_routes": []}
    compare({**STREAM_ANSWER, **defaults}, stream)


# --- send an event


def test_send_an_event(acme: Client, receiver: Receiver) -> None:
    orders(acme, receiver)
    first = acme.request("POST", "/v1/events", body=EVENT, headers=KEYED)
    event = answered(first, 202)
    compare(EVENT_ANSWER, event)
    assert first.header("idempotent-replayed") is None

    again = acme.request("POST", "/v1/events", body=EVENT, headers=KEYED)
    assert (again.status, again.body) == (202, first.body)
    assert again.header("idempotent-replayed") == "true"

    other = acme.request("POST", "/v1/events", body=QUICKSTART_EVENT, headers=KEYED)
    assert (other.status, other.code) == (409, "duplicate_event")
    assert [item["id"] for item in answered(acme.get("/v1/events"), 200)["data"]] == [event["id"]]


# --- retrieve event status, and what was delivered


def test_an_event_of_which_one_route_times_out(acme: Client, receiver: Receiver) -> None:
    secrets = orders(acme, receiver)
    sent = answered(acme.request("POST", "/v1/events", body=EVENT, headers=KEYED), 202)
    receiver.wait_for(2, "/wf_search_index")
    seen: list[Any] = []

    def second_attempt_failed() -> bool:
        seen.append(answered(acme.get(f"/v1/events/{sent['id']}"), 200))
        status, attempt = seen[-1]["status"], seen[-1]["attempts"][1]["attempt"]
        return bool((status, attempt) == ("retried", 2))

    eventually(second_attempt_failed, "the second attempt failed")
    status = seen[-1]
    compare(STATUS_ANSWER, status)
    assert status["attempts"][1]["last_error"]["message"].endswith("within 250ms")
    assert {each["status"] for each in seen} <= {"accepted", "processing", "retried"}
    _delivered_as_documented(receiver, secrets, sent)


def _delivered_as_documented(receiver: Receiver, secrets: dict[str, str], sent: dict[str, Any]) -> None:
    whole = {
        "id": sent["id"],
        "object": "event",
        "stream": "orders-prod",
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "received_at": sent["received_at"],
        "data": dict,
        "actor": dict,
        "metadata": dict,
    }
    [billing], searches = receiver.at("/wf_billing_sync"), receiver.at("/wf_search_index")
    for delivery in [billing, *searches]:
        compare(whole, delivery.value)
        assert delivery.headers["content-type"] == "application/json"
        secret = secrets[delivery.path.removeprefix("/")]
        assert signed_by_the_reference(delivery, secret, time.time())
        assert not signed_by_the_reference(delivery, secret, time.time() + 301)
        changed = Delivery(delivery.path, delivery.headers, delivery.body + b" ")
        assert not signed_by_the_reference(changed, secret, time.time())
    assert [delivery.attempt for delivery in searches] == [1, 2]
    ids = [delivery.headers["x-atlas-delivery-id"] for delivery in searches]
    assert ids[0] == ids[1] != billing.headers["x-atlas-delivery-id"]
    assert ids[0].startswith("whd_")


def test_delivered_when_all_routes_acknowledged(acme: Client, receiver: Receiver) -> None:
    orders(acme, receiver)
    made_routes = acme.patch("/v1/event-streams/orders-prod", {"default_routes": ["wf_billing_sync"]})
    answered(made_routes, 200)
    sent = answered(acme.request("POST", "/v1/events", body=EVENT), 202)
    assert sent["idempotency_key"] is None
    status = wait_for_status(acme, sent["id"], "delivered")
    compare({**STATUS_ANSWER, "status": "delivered", "attempts": STATUS_ANSWER["attempts"][:1]}, status)


# --- retry behavior


def test_the_retry_schedule_unless_told_otherwise(acme: Client, receiver: Receiver) -> None:
    create_workflow(acme, receiver, "wf_billing_sync")
    shown = answered(acme.get("/v1/workflows/wf_billing_sync"), 200)
    assert shown["retry_schedule_seconds"] == [30, 60, 300, 900, 3_600, 10_800, 21_600, 43_200]
    assert "secret" not in shown


def test_a_target_that_answers_410_is_disabled_until_reactivated(acme: Client, receiver: Receiver) -> None:
    receiver.answering = lambda _: 410
    create_workflow(acme, receiver, "wf_billing_sync")
    made(acme.post("/v1/event-streams", {"name": "orders-prod", "default_routes": ["wf_billing_sync"]}))
    first = answered(acme.request("POST", "/v1/events", body=EVENT), 202)
    failed = wait_for_status(acme, first["id"], "failed")["attempts"]
    assert [(route["attempt"], route["last_error"]["code"]) for route in failed] == [(1, "upstream_gone")]

    def status() -> str:
        text: str = answered(acme.get("/v1/workflows/wf_billing_sync"), 200)["status"]
        return text

    eventually(lambda: status() == "disabled", "the target is disabled")
    second = answered(acme.request("POST", "/v1/events", body=EVENT), 202)
    closed = wait_for_status(acme, second["id"], "failed")["attempts"]
    assert [(route["attempt"], route["last_error"]["code"]) for route in closed] == [(0, "target_disabled")]

    receiver.answering = lambda _: 200
    answered(acme.post("/v1/workflows/wf_billing_sync/reactivate"), 200)
    third = answered(acme.request("POST", "/v1/events", body=EVENT), 202)
    wait_for_status(acme, third["id"], "delivered")
    assert len(receiver.arrived) == 2


# --- error handling, rate limits


def test_the_error_example_and_the_headers_of_a_429(tmp_path: Path) -> None:
    with running(tmp_path, options=()) as dev, Client(dev.port, dev.live_secret_key) as live:
        answers = _until_throttled(live)
        remaining = [int(answer.header("x-ratelimit-remaining") or -1) for answer in answers]
        assert {answer.header("x-ratelimit-limit") for answer in answers} == {"200"}
        assert remaining[0] == 199
        assert remaining[-2:] == [0, 0]
        # 1,200 a minute drain while they are sent: never fewer than the burst get through.
        assert len(answers) > 200
        refused = answers[-1]
        compare(ERROR_ANSWER, check_form(refused))
        assert dev.workspace_id in refused.json()["error"]["message"]
        wait_ms = refused.details["retry_after_ms"]
        assert 0 < wait_ms <= 50
        assert refused.header("retry-after") == "1"
        # Nobody else's quota: not the other environment's, and no health check counts.
        with live.using(dev.test_secret_key) as test:
            assert test.get("/v1/events").header("x-ratelimit-remaining") == "199"


def _until_throttled(client: Client) -> list[Answer]:
    answers = [client.get("/v1/api-keys")]
    while answers[-1].status == 200:
        answers.append(client.get("/v1/api-keys"))
        assert len(answers) < 2_000
    assert answers[-1].status == 429
    return answers


# --- pagination


def test_pagination(acme: Client) -> None:
    made(acme.request("POST", "/v1/event-streams", body=QUICKSTART_STREAM))
    item = {"stream": "orders-prod", "occurred_at": "2026-05-18T14:22:11Z", "data": {}}
    types = ["order.fulfilled", "order.refunded"] * 26
    batch = acme.post("/v1/events/batch", {"events": [{**item, "type": name} for name in types]})
    sent = [each["event"]["id"] for each in answered(batch, 202)["data"]]
    wait_for_status(acme, sent[-1], "delivered")

    page = answered(acme.get(PAGE_TARGET), 200)
    compare({"object": "list", "data": list, "has_more": True, "next_cursor": EVENT_ID}, page)
    assert len(page["data"]) == 50
    for each in page["data"]:
        compare(ITEM, each)
    assert page["next_cursor"] == page["data"][-1]["id"]

    last = answered(acme.get(f"/v1/events?stream=orders-prod&limit=50&cursor={page['next_cursor']}"), 200)
    assert (last["has_more"], last["next_cursor"]) == (False, None)
    # Events of a batch are received in the same millisecond; ids are unique and the walk is sorted.
    walked = [each["id"] for each in page["data"] + last["data"]]
    assert walked == sorted(sent)
