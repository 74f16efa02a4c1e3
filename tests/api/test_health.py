"""Was it delivered everywhere, and if not, why? The health of a target, over HTTP."""

from __future__ import annotations

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
        assert list(nothing) == ["counts", "oldest_undelivered_at", "last_errors", "latency_ms"]
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
        assert (error["code"], error["event_id"]) == ("upstream_unreachable", event["id"])
        assert [
            e["id"] for e in every_page(acme, "/v1/events?workflow_id=wf_bad&route_status=retry_scheduled")
        ] == [event["id"]]
        assert every_page(acme, "/v1/events?workflow_id=wf_good&route_status=retry_scheduled") == []
        refused(acme.get("/v1/workflows/wf_none/health"), 404, "workflow_not_found")
        refused(acme.get(f"{path}?x=1"), 400, "invalid_request")
        refused(acme.get(f"/v1/workflows/{endpoint}/health"), 404, "workflow_not_found")
