"""Every row of the error table, over real HTTP on both servers, each in the reference's form.

Not here: `internal_error`, which would be a bug, and what a replay is refused for (test_replay).
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from atlas.core.limits import DATA_BYTES, STREAMS_MAX
from atlas.core.tokens import make_key, make_operator_token
from tests.api.atlas_process import (
    EVENT,
    a_key,
    answered,
    create_stream,
    every_page,
    made,
    new_workspace,
    refused,
)
from tests.http_client import Client, check_form
from tests.processes import Dev

#: Well-formed ids that nobody has.
NO_EVENT: Final = "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
NO_KEY: Final = "key_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
AN_ENDPOINT: Final = "/v1/webhook-endpoints/we_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
VERBS: Final = ("rotate-secret", "disable", "reactivate")
URL: Final = "https://hooks.acme.example/atlas"


# --- 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"stream":"\xff"}', None),
        (b'{"stream":1e999}', "stream"),
        (b'{"data":{"a":{"b":1,"b":1}}}', "data.a.b"),
        (b'{"data":{"a":[18446744073709551616]}}', "data.a.0"),
        (b"{}", "stream"),
        (b'{"color":1}', "color"),
    ],
)
def test_invalid_request(acme: Client, body: bytes, field: str | None) -> None:
    error = refused(acme.request("POST", "/v1/events", body=body), 400, "invalid_request")
    assert list(error["details"]) == ["field", "reason"]
    assert error["details"]["field"] == field
    assert error["details"]["reason"] in error["message"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stream": "Orders"}, "stream"),
        ({"type": "order"}, "type"),
        ({"occurred_at": "2026-05-18T14:22:11"}, "occurred_at"),
        ({"data": []}, "data"),
        ({"actor": {"ip": "300.1.1.1"}}, "actor.ip"),
        ({"metadata": {"region": 7}}, "metadata.region"),
        ({"metadata": {"region": "a\0b"}}, "metadata.region"),
        ({"metadata": {f"k{i}": "" for i in range(21)}}, "metadata"),
        ({"ordering_key": ""}, "ordering_key"),
        ({"idempotency_key": "k"}, "idempotency_key"),
    ],
)
def test_an_event_that_breaks_a_rule(acme: Client, fields: dict[str, Any], field: str) -> None:
    error = refused(acme.post("/v1/events", {**EVENT, **fields}), 400, "invalid_request")
    assert error["details"]["field"] == field


@pytest.mark.parametrize("key", ["", "\xe9", "a\tb", "k" * 256])
def test_an_idempotency_key_that_is_none(acme: Client, key: str) -> None:
    error = refused(acme.post("/v1/events", EVENT, [("Idempotency-Key", key)]), 400, "invalid_request")
    assert error["details"]["field"] == "Idempotency-Key"


def test_data_of_256_kb_is_too_much(acme: Client) -> None:
    create_stream(acme)
    around = len('{"a":""}')
    most = {"a": "x" * (DATA_BYTES - 1 - around)}
    event = answered(acme.post("/v1/events", {**EVENT, "data": most}), 202)
    assert answered(acme.get(f"/v1/events/{event['id']}/payload"), 200)["data"] == most
    more = {"a": "x" * (DATA_BYTES - around)}
    error = refused(acme.post("/v1/events", {**EVENT, "data": more}), 400, "invalid_request")
    assert error["details"]["field"] == "data"


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/v1/events?limit=0", "limit"),
        ("/v1/events?limit=101", "limit"),
        ("/v1/events?cursor=evt_x", "cursor"),
        ("/v1/events?status=lost", "status"),
        ("/v1/events?received_after=yesterday", "received_after"),
        ("/v1/events?colour=red", "colour"),
        ("/v1/events?type=a.b&type=a.b", "type"),
        (f"/v1/events/{NO_EVENT}?limit=1", "limit"),
        ("/v1/workflows?limit=1&x", "x"),
    ],
)
def test_a_query_that_breaks_a_rule(acme: Client, target: str, field: str) -> None:
    error = refused(acme.get(target), 400, "invalid_request")
    assert error["details"]["field"] == field


def test_a_batch_names_what_is_wrong_for_each_item(acme: Client) -> None:
    create_stream(acme)
    items = [EVENT, {**EVENT, "type": "order"}, {**EVENT, "stream": "nowhere"}, 7]
    answer = acme.post("/v1/events/batch", {"events": items})
    batch = answered(answer, 202)
    assert list(batch) == ["object", "accepted", "rejected", "data"]
    assert (batch["accepted"], batch["rejected"]) == (1, 3)
    errors = [item["error"] for item in batch["data"][1:]]
    codes = ["invalid_request", "stream_not_found", "invalid_request"]
    assert [(item["status"], item["error"]["code"]) for item in batch["data"][1:]] == list(
        zip((400, 404, 400), codes, strict=True)
    )
    for error in errors:
        assert list(error) == ["code", "message", "request_id", "details"]
        assert error["request_id"] == answer.header("x-request-id")
    assert errors[0]["details"]["field"] == "type"


# --- 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer atlas_live_sk_9f4c2c1e6b8a4d2bb7e6c0a8d3f1e5c2",
        "Basic YTpi",
        f"Bearer {make_key('live', 'secret', bytes(20))}",
        f"Bearer {make_operator_token(bytes(20))}",
        "Bearer \xff",
        "Bearer " + "a" * 5_000,
    ],
)
@pytest.mark.parametrize("target", ["/v1/events", "/v1/nothing", "/admin/v1/workspaces"])
def test_authentication_failed(dev: Dev, authorization: str | None, target: str) -> None:
    headers = [] if authorization is None else [("Authorization", authorization)]
    with Client(dev.port) as client:
        answer = client.get(target, headers)
    refused(answer, 401, "authentication_failed")
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.header("x-ratelimit-limit") is None


def test_a_key_that_ended(acme: Client) -> None:
    key_id, revoked = a_key(acme)
    assert revoked.get("/v1/events").status == 200
    answered(acme.delete(f"/v1/api-keys/{key_id}"), 200)
    refused(revoked.get("/v1/events"), 401, "authentication_failed")
    refused(revoked.post("/v1/events", EVENT), 401, "authentication_failed")

    key_id, old = a_key(acme)
    new = made(acme.post(f"/v1/api-keys/{key_id}/rotate", {"overlap_seconds": 0}))
    refused(old.get("/v1/events"), 401, "authentication_failed")
    assert acme.using(new["secret"]).get("/v1/events").status == 200
    refused(acme.post(f"/v1/api-keys/{key_id}/rotate"), 404, "key_not_found")


# --- 403


def test_permission_denied(acme: Client) -> None:
    create_stream(acme)
    _, publishable = a_key(acme, kind="publishable", streams=["orders-prod"])
    _, scoped = a_key(acme, streams=["orders-prod"])
    event = answered(publishable.post("/v1/events", EVENT), 202)
    assert scoped.get(f"/v1/events/{event['id']}").status == 200
    for target in ("/v1/events", f"/v1/events/{event['id']}", "/v1/event-streams", "/v1/workflows"):
        refused(publishable.get(target), 403, "permission_denied")
    for target in ("/v1/api-keys", "/v1/workflows", "/v1/webhook-endpoints"):
        refused(scoped.get(target), 403, "permission_denied")
    for client in (scoped, publishable):
        refused(client.post(f"/v1/events/{event['id']}/replay"), 403, "permission_denied")
    refused(scoped.post("/v1/event-streams", {"name": "another"}), 403, "permission_denied")


def test_a_suspended_workspace(dev: Dev) -> None:
    workspace_id, live, test = new_workspace(dev, "Late payer")
    with Client(dev.port, dev.operator_token) as operator:
        target = f"/admin/v1/workspaces/{workspace_id}"
        answered(operator.patch(target, {"status": "suspended"}), 200)
        for client in (live, test):
            refused(client.get("/v1/events"), 403, "permission_denied")
            refused(client.post("/v1/events", EVENT), 403, "permission_denied")
        answered(operator.patch(target, {"status": "enabled"}), 200)
    assert answered(live.get("/v1/events"), 200)["data"] == []


# --- 404


def test_stream_not_found_looks_the_same_whatever_the_reason(acme: Client) -> None:
    for name in ("orders-prod", "archived", "hidden"):
        create_stream(acme, name)
    answered(acme.delete("/v1/event-streams/archived"), 200)
    _, scoped = a_key(acme, streams=["orders-prod", "archived"])
    seen = set()
    for name in ("unknown", "archived", "hidden"):
        error = refused(scoped.post("/v1/events", {**EVENT, "stream": name}), 404, "stream_not_found")
        seen.add((error["message"].replace(name, "*"), str(error["details"])))
        error = refused(scoped.get(f"/v1/event-streams/{name}"), 404, "stream_not_found")
        seen.add((error["message"].replace(name, "*"), str(error["details"])))
    assert len(seen) == 1
    refused(scoped.get("/v1/events?stream=hidden"), 404, "stream_not_found")
    assert answered(scoped.get("/v1/events?stream=archived"), 200)["data"] == []


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        *(
            ("GET", f"/v1/events/{event_id}{rest}", "event_not_found")
            for event_id in (NO_EVENT, "evt_1", NO_EVENT.lower(), "%00", "..")
            for rest in ("", "/payload", "/attempts")
        ),
        *((method, "/v1/event-streams/nowhere", "stream_not_found") for method in ("GET", "PATCH", "DELETE")),
        *((method, "/v1/workflows/wf_none", "workflow_not_found") for method in ("GET", "PATCH", "DELETE")),
        *(("POST", f"/v1/workflows/wf_none/{verb}", "workflow_not_found") for verb in VERBS),
        *((method, AN_ENDPOINT, "endpoint_not_found") for method in ("GET", "PATCH", "DELETE")),
        *(("POST", f"{AN_ENDPOINT}/{verb}", "endpoint_not_found") for verb in VERBS),
        ("GET", f"{AN_ENDPOINT}/deliveries", "endpoint_not_found"),
        ("GET", f"{AN_ENDPOINT}/health", "endpoint_not_found"),
        ("GET", "/v1/workflows/wf_none/health", "workflow_not_found"),
        ("POST", f"/v1/events/{NO_EVENT}/replay", "event_not_found"),
        ("DELETE", f"/v1/api-keys/{NO_KEY}", "key_not_found"),
        ("POST", f"/v1/api-keys/{NO_KEY}/rotate", "key_not_found"),
        ("GET", "/v1/nothing", "not_found"),
        ("POST", "/v1/events/", "not_found"),
        ("GET", "/nothing", "not_found"),
        ("GET", "/v1/events/a/b/c", "not_found"),
    ],
)
def test_not_found(acme: Client, method: str, target: str, code: str) -> None:
    error = refused(acme.request(method, target), 404, code)
    assert error["details"] == {}


def test_workspace_not_found(dev: Dev) -> None:
    with Client(dev.port, dev.operator_token) as operator:
        for target in ("/admin/v1/workspaces/ws_0", "/admin/v1/workspaces/%ff"):
            refused(operator.get(target), 404, "workspace_not_found")
            refused(operator.patch(target, {"status": "enabled"}), 404, "workspace_not_found")
        refused(operator.get("/admin/v1/nothing"), 404, "not_found")


# --- 405, 409, 415


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PUT", "/v1/events", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/v1/events/batch", "OPTIONS, POST"),
        ("DELETE", f"/v1/events/{NO_EVENT}", "GET, HEAD"),
        ("POST", "/v1/event-streams/orders-prod", "DELETE, GET, HEAD, PATCH"),
        ("GET", f"/v1/api-keys/{NO_KEY}", "DELETE"),
        ("TRACE", "/v1/workflows", "GET, HEAD, POST"),
        ("PUT", AN_ENDPOINT, "DELETE, GET, HEAD, PATCH"),
        ("POST", f"{AN_ENDPOINT}/deliveries", "GET, HEAD"),
        ("GET", f"/v1/events/{NO_EVENT}/replay", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_method_not_allowed(acme: Client, method: str, target: str, allow: str) -> None:
    answer = acme.request(method, target)
    refused(answer, 405, "method_not_allowed")
    assert answer.header("allow") == allow


def test_duplicate_event(acme: Client) -> None:
    create_stream(acme)
    keyed = [("Idempotency-Key", "k")]
    first = acme.post("/v1/events", EVENT, keyed)
    answered(first, 202)
    refused(acme.post("/v1/events", {**EVENT, "data": {}}, keyed), 409, "duplicate_event")
    refused(
        acme.post("/v1/events", {**EVENT, "occurred_at": "2026-05-18T14:22:12Z"}, keyed),
        409,
        "duplicate_event",
    )
    assert acme.post("/v1/events", EVENT, keyed).body == first.body
    assert len(every_page(acme, "/v1/events")) == 1


def test_already_exists(acme: Client) -> None:
    create_stream(acme)
    refused(acme.post("/v1/event-streams", {"name": "orders-prod"}), 409, "already_exists")
    answered(acme.delete("/v1/event-streams/orders-prod"), 200)
    refused(acme.post("/v1/event-streams", {"name": "orders-prod"}), 409, "already_exists")
    made(acme.post("/v1/workflows", {"id": "wf_a", "url": URL}))
    refused(acme.post("/v1/workflows", {"id": "wf_a", "url": URL}), 409, "already_exists")


def test_stream_limit_reached(acme: Client) -> None:
    for number in range(STREAMS_MAX):
        create_stream(acme, f"stream-{number}")
    refused(acme.post("/v1/event-streams", {"name": "one-more"}), 409, "stream_limit_reached")
    answered(acme.delete("/v1/event-streams/stream-7"), 200)
    create_stream(acme, "one-more")
    assert len(every_page(acme, "/v1/event-streams")) == STREAMS_MAX


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Type", "text/plain")],
        [("Content-Type", "")],
        [("Content-Type", "application/x-www-form-urlencoded")],
        [("Content-Encoding", "gzip")],
    ],
)
def test_unsupported_media_type(acme: Client, headers: list[tuple[str, str]]) -> None:
    create_stream(acme)
    for target, body in (("/v1/events", EVENT), ("/v1/events/batch", {"events": [EVENT]})):
        refused(acme.post(target, body, headers), 415, "unsupported_media_type")
    assert answered(acme.get("/v1/events"), 200)["data"] == []


def test_parameters_of_the_content_type_are_allowed(acme: Client) -> None:
    create_stream(acme)
    for content_type in ("application/json; charset=utf-8", "Application/JSON ;x=y"):
        answered(acme.post("/v1/events", EVENT, [("Content-Type", content_type)]), 202)


# --- 429


def test_rate_limit_exceeded_appends_nothing_and_uses_no_key_up(dev: Dev) -> None:
    workspace_id, live, test = new_workspace(dev, "Busy")
    create_stream(live)
    with Client(dev.port, dev.operator_token) as operator:
        target = f"/admin/v1/workspaces/{workspace_id}"
        tight = {"requests_per_minute": 1, "burst": 1}
        answered(operator.patch(target, {"quota": {"live": tight}}), 200)
        answers = [live.post("/v1/events", EVENT, [("Idempotency-Key", "k")]) for _ in range(3)]
        batch = live.post("/v1/events/batch", {"events": [EVENT]}, [("Idempotency-Key", "b")])
        other = test.get("/v1/events")
        answered(operator.patch(target, {"quota": {"live": None}}), 200)
    for answer in (*answers, batch):
        error = refused(answer, 429, "rate_limit_exceeded")
        assert error["message"] == f"Request quota exceeded for workspace {workspace_id}."
        assert list(error["details"]) == ["retry_after_ms"]
        wait_ms = error["details"]["retry_after_ms"]
        assert 0 < wait_ms <= 60_000
        assert answer.header("retry-after") == str(-(-wait_ms // 1_000))
        assert answer.header("x-ratelimit-limit") == "1"
        assert answer.header("x-ratelimit-remaining") == "0"
    assert other.status == 200
    assert answered(live.get("/v1/events"), 200)["data"] == []
    # The keys are free: another payload may have them.
    changed = live.post("/v1/events", {**EVENT, "data": {}}, [("Idempotency-Key", "k")])
    answered(changed, 202)
    assert changed.header("idempotent-replayed") is None


# --- every answer


def test_what_every_answer_carries(acme: Client) -> None:
    create_stream(acme)
    answers = [
        acme.get("/v1/events"),
        acme.post("/v1/events", EVENT),
        acme.post("/v1/events", {}),
        acme.get("/v1/nothing"),
        acme.request("PUT", "/v1/events"),
    ]
    remaining = [int(answer.header("x-ratelimit-remaining") or -1) for answer in answers]
    assert all(each >= 0 for each in remaining)
    ids = {answer.header("x-request-id") for answer in answers}
    assert len(ids) == len(answers)
    assert all(re.fullmatch("req_[0-7][0-9A-HJKMNP-TV-Z]{25}", each or "") for each in ids)
    for answer in answers:
        check_form(answer)
        assert answer.header("x-ratelimit-limit") == "1000000"
    with acme.using(None) as anonymous:
        for target in ("/healthz", "/readyz", "/metrics"):
            answer = anonymous.get(target)
            check_form(answer)
            assert answer.status == 200
            assert answer.header("x-ratelimit-limit") is None
