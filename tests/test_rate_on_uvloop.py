"""The highest rate a target may be given, on the loop that production runs: its timers are coarser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas.core.limits import RATE_PER_SECOND_MAX
from tests.api.receiver import Receiver
from tests.kafka.installation import WIDE
from tests.processes import eventually, start_dev

EVENTS = 300


@pytest.mark.parametrize("rate", [1_000, RATE_PER_SECOND_MAX])
def test_a_wait_shorter_than_a_timers_resolution(tmp_path: Path, rate: int) -> None:
    one = {"stream": "orders", "type": "order.made", "occurred_at": "2026-05-18T14:22:11Z", "data": {}}
    with Receiver(lambda _: 200) as receiver, start_dev(tmp_path, *WIDE) as dev:
        target: dict[str, Any] = {"id": "wf_a", "url": receiver.url(), "rate_limit_per_second": rate}
        assert dev.request("POST", "/v1/workflows", target).status == 201
        stream = {"name": "orders", "default_routes": ["wf_a"]}
        assert dev.request("POST", "/v1/event-streams", stream).status == 201
        sent = dev.request("POST", "/v1/events/batch", {"events": [one] * EVENTS}).value
        receiver.wait_for(EVENTS)
        last = f"/v1/events/{sent['data'][-1]['event']['id']}"
        eventually(lambda: dev.request("GET", last).value["status"] == "delivered", "it shows")
        assert len({delivery.headers["x-atlas-delivery-id"] for delivery in receiver.arrived}) == EVENTS
        assert len(receiver.arrived) == EVENTS, "none is sent twice"
        assert dev.request("GET", "/readyz").status == 200
