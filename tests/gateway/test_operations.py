"""`/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.harness import EVENT, gateway
from tests.virtual_time import VirtualClock, virtual_time


@virtual_time
async def test_alive(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        answer = await g.anonymous.get("/healthz")
        assert (answer.status, answer.json()) == (200, {"status": "alive"})


@virtual_time
async def test_ready_and_not(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        answer = await g.anonymous.get("/readyz")
        assert (answer.status, answer.json()) == (200, g.ready)
        g.ready = {"status": "unready", "checks": {"log": "the disk is full"}}
        answer = await g.anonymous.get("/readyz")
        assert (answer.status, answer.json()) == (503, g.ready)


@virtual_time
async def test_a_scrape_tells_readiness_though_nobody_asked(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        assert b"\natlas_ready 1.0\n" in (await g.anonymous.get("/metrics")).body
        g.ready = {"status": "unready", "checks": {"log": "the disk is full"}}
        assert b"\natlas_ready 0.0\n" in (await g.anonymous.get("/metrics")).body


@virtual_time
async def test_metrics_are_prometheus_text(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        await g.live.post("/v1/events", EVENT)
        answer = await g.anonymous.get("/metrics")
        assert answer.status == 200
        assert (answer.header("content-type") or "").startswith("text/plain; version=")
        families = {family.name for family in text_string_to_metric_families(answer.body.decode())}
        assert {"atlas_http_requests", "atlas_append_seconds", "atlas_events"} <= families
        assert g.counted("/v1/events", "POST", "202") == 1
        assert g.counted("/v1/event-streams", "POST", "201") == 1
        assert g.workspace_id.encode() not in answer.body
        assert b"orders-prod" not in answer.body
