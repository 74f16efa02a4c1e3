"""Was it delivered everywhere, and if not, why? The health of a target, over HTTP."""

from __future__ import annotations

from typing import Any

from tests.api.atlas_process import answered, create_stream, every_page, made, refused
from tests.api.receiver import Receiver
from tests.http_client import Client
from tests.processes import eventually

EVENT = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {},
}


def test_the_health_of_a_workflow_and_of_an_endpoint(acme: Client) -> None:
    with Receiver() as receiver:
        path = "/v1/workflows/wf_good/health"
        made(acme.post("/v1/workflows", {"id": "wf_good", "url": receiver.url("/good")}))
        bad = {"id": "wf_bad", "url": "http://127.0.0.1:9/", "retry_schedule_seconds": [3_600]}
        made(acme.post("/v1/workflows", bad))
        endpoint = made(acme.post("/v1/webhook-endpoints", {"url": receiver.url("/told")}))["id"]
        create_stream(acme, default_routes=["wf_good", "wf_bad"])
        nothing = answered(acme.get(path), 200)
        assert list(nothing) == ["counts", "oldest_undelivered_at", "last_errors", "breaker", "latency_ms"]
        assert nothing["latency_ms"] == {"p50": None, "p95": None}
        event = answered(acme.post("/v1/events", EVENT), 202)

        def counts(target: str) -> dict[str, int]:
            found: dict[str, int] = answered(acme.get(f"/v1/{target}/health"), 200)["counts"]
            return {status: count for status, count in found.items() if count}

        eventually(lambda: counts("workflows/wf_good") == {"delivered": 1}, "delivered")
        eventually(lambda: counts("workflows/wf_bad") == {"retry_scheduled": 1}, "failed once")
        eventually(lambda: counts(f"webhook-endpoints/{endpoint}") == {"delivered": 1}, "told of the retry")
        good, failing = (answered(acme.get(f"/v1/workflows/{n}/health"), 200) for n in ("wf_good", "wf_bad"))
        assert good["oldest_undelivered_at"] is None
        assert 0 <= good["latency_ms"]["p50"] <= good["latency_ms"]["p95"] < 60_000
        assert failing["oldest_undelivered_at"] == event["received_at"]
        [error] = failing["last_errors"]
        assert list(error) == ["code", "message", "at", "event_id", "attempt", "http_status"]
        assert (error["code"], error["event_id"]) == ("upstream_unreachable", event["id"])
        assert (error["attempt"], error["http_status"]) == (1, None)
        assert [
            e["id"] for e in every_page(acme, "/v1/events?workflow_id=wf_bad&route_status=retry_scheduled")
        ] == [event["id"]]
        assert every_page(acme, "/v1/events?workflow_id=wf_good&route_status=retry_scheduled") == []
        refused(acme.get("/v1/workflows/wf_none/health"), 404, "workflow_not_found")
        refused(acme.get(f"{path}?x=1"), 400, "invalid_request")
        refused(acme.get(f"/v1/workflows/{endpoint}/health"), 404, "workflow_not_found")


def test_an_open_breaker_and_when_it_will_be_tried(acme: Client) -> None:
    made(acme.post("/v1/workflows", {"id": "wf_down", "url": "http://127.0.0.1:9/"}))
    create_stream(acme, default_routes=["wf_down"])
    batch = answered(acme.post("/v1/events/batch", {"events": [EVENT] * 60}), 202)

    def breaker() -> dict[str, Any]:
        found: dict[str, Any] = answered(acme.get("/v1/workflows/wf_down"), 200)["breaker"]
        return found

    eventually(lambda: breaker()["state"] == "open", "it opens")
    shown = breaker()
    assert list(shown) == ["state", "reason", "opened_at", "next_probe_at"]
    assert shown["reason"].startswith("20 attempts in a row failed, the last with upstream_unreachable: ")
    assert answered(acme.get("/v1/workflows/wf_down/health"), 200)["breaker"]["state"] != "closed"
    [listed] = every_page(acme, "/v1/workflows")
    assert listed["breaker"]["opened_at"] == shown["opened_at"]
    paths = [f"/v1/events/{item['event']['id']}" for item in batch["data"]]

    def waits_for_the_probe() -> bool:
        routes = [answered(acme.get(path), 200)["attempts"][0] for path in paths]
        probe_at = breaker()["next_probe_at"]
        return any(r["status"] == "queued" and r.get("next_attempt_at") == probe_at for r in routes)

    eventually(waits_for_the_probe, "a parked route tells when the next probe is")
    parked = [path for path in paths if answered(acme.get(path), 200)["attempts"][0]["status"] == "queued"]
    with Receiver() as receiver:
        patched = answered(acme.patch("/v1/workflows/wf_down", {"url": receiver.url("/up")}), 200)
        assert patched["breaker"]["state"] == "closed", "a changed target gets a fresh chance"
        assert breaker()["state"] == "closed"
        eventually(lambda: answered(acme.get(parked[-1]), 200)["status"] == "delivered", "delivered")
