"""`atlas demo`, once, as a newcomer would run it without a terminal; and that its checks can fail."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

import pytest

from atlas.demo_receiver import Arrival, Receiver
from atlas.demo_report import Outcome, problems
from tests.processes import run_atlas

DEMO_WITHIN_S: Final = 30.0


def test_the_demo_delivers_every_real_payload() -> None:
    started_s = time.monotonic()
    ended = run_atlas("demo", timeout_s=55)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - started_s < DEMO_WITHIN_S
    assert re.search(r"│ 240 +│ delivered │", ended.stdout)
    # 240 at once; and 200 at once, 32 after one failure, 8 after two.
    assert re.search(r"│ wf_billing_sync │ 240 +│ 240 +│ 0 +│", ended.stdout)
    assert re.search(r"│ wf_search_index │ 288 +│ 200 +│ 40 +│", ended.stdout)
    assert "value by value" in ended.stdout
    assert "For the demo retries come after 1, 1, 2 s" in ended.stdout
    command = (
        r"curl -sS http://127\.0\.0\.1:\d+/v1/events/evt_\w{26} -H 'Authorization: Bearer atlas_live_sk_\w+'"
    )
    assert re.search(f"^{command}$", ended.stdout, re.MULTILINE)


EVENT: Final = {
    "stream": "s-1",
    "type": "a.b",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"n": 1, "deep": [{"flag": True, "text": "ü"}]},
    "metadata": {"number": "0"},
}


def arrival(status: int = 200, attempt: int = 1, **changed: object) -> Arrival:
    return Arrival("wf_a", "whd_1", attempt, status, {"id": "evt_1", **EVENT, **changed})


def judged(arrivals: list[Arrival], statuses: list[int], event_status: str = "delivered") -> list[str]:
    receiver = Receiver(lambda _workflow, _body: 0)
    receiver.arrivals += arrivals
    attempts: list[dict[str, Any]] = [{"workflow_id": "wf_a", "http_status": status} for status in statuses]
    events: Mapping[str, dict[str, Any]] = {"evt_1": {"status": event_status}}
    return problems({"evt_1": EVENT}, Outcome(events, {"evt_1": attempts}), receiver, ["wf_a"])


def test_what_is_as_it_should_be_is_let_pass() -> None:
    assert judged([arrival()], [200]) == []
    assert judged([arrival(503), arrival(200, 2)], [503, 200]) == []


@pytest.mark.parametrize(
    ("arrivals", "statuses", "event_status"),
    [
        ([], [200], "delivered"),
        ([arrival()], [], "delivered"),
        ([arrival()], [200], "retried"),
        ([arrival(503)], [503], "failed"),
        ([arrival(), arrival(200, 2)], [200, 200], "delivered"),
        ([arrival(data={"n": 1.0, "deep": [{"flag": True, "text": "ü"}]})], [200], "delivered"),
        ([arrival(data={"n": 1, "deep": [{"flag": 1, "text": "ü"}]})], [200], "delivered"),
        ([arrival(data={"n": 1, "deep": [{"flag": True, "text": "u"}]})], [200], "delivered"),
        ([arrival(type="a.c")], [200], "delivered"),
        ([arrival(), arrival(id="evt_2")], [200], "delivered"),
    ],
)
def test_what_is_not_is_found(arrivals: list[Arrival], statuses: list[int], event_status: str) -> None:
    assert judged(arrivals, statuses, event_status)
