"""Bulk replays over HTTP and from the shell, with real processes and kill -9."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.api.atlas_process import answered, create_stream, every_page, made, new_workspace, refused
from tests.api.receiver import Receiver
from tests.http_client import Client
from tests.processes import Dev, eventually, run_atlas, start_dev

PATH = "/v1/replays"
UNKNOWN = "rpl_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
EVENT = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {},
}


def sent(client: Client, receiver: Receiver, events: int) -> list[str]:
    """Events delivered to one workflow."""
    made(client.post("/v1/workflows", {"id": "wf_a", "url": receiver.url("/a")}))
    create_stream(client, default_routes=["wf_a"])
    batch = answered(client.post("/v1/events/batch", {"events": [EVENT] * events}), 202)
    receiver.wait_for(events, "/a")
    ids = [item["event"]["id"] for item in batch["data"]]
    eventually(lambda: len(every_page(client, "/v1/events?status=delivered")) == events, "delivered")
    return ids


def ended(client: Client, replay_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(answered(client.get(f"{PATH}/{replay_id}"), 200))
        return bool(found["status"] != "running")

    eventually(has_ended, "the replay ends")
    return found


def test_a_replay_from_its_start_to_its_end(acme: Client) -> None:
    with Receiver() as receiver:
        ids = sent(acme, receiver, 30)
        asked = {"stream": "orders-prod", "type": "order.fulfilled", "status": "delivered"}
        begun = answered(acme.post(PATH, {**asked, "workflow_ids": ["wf_a"], "rate_per_second": 1_000}), 202)
        assert list(begun) == [
            "id", "object", "status", "criteria", "rate_per_second", "matched", "replayed", "skipped",
            "created_at", "completed_at", "cancelled_at",
        ]  # fmt: skip
        nulls = {"received_after": None, "received_before": None}
        assert begun["criteria"] == {**asked, "workflow_ids": ["wf_a"], **nulls}
        assert (begun["object"], begun["status"], begun["matched"]) == ("replay", "running", 0)
        done = ended(acme, begun["id"])
        assert done["status"] == "completed"
        assert (done["matched"], done["replayed"], done["skipped"]) == (30, 30, 0)
        deliveries = receiver.wait_for(60, "/a")
        assert Counter(each.value["id"] for each in deliveries) == dict.fromkeys(ids, 2)
        assert len({each.headers["x-atlas-delivery-id"] for each in deliveries}) == 60
        assert every_page(acme, PATH) == [done]
        cancelled = answered(acme.post(f"{PATH}/{begun['id']}/cancel"), 200)
        assert cancelled == done, "one that has ended stays as it is"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stream": "a"}, "stream"),
        ({"type": "paid"}, "type"),
        ({"status": "done"}, "status"),
        ({"workflow_ids": []}, "workflow_ids"),
        ({"workflow_ids": ["wf_a", "wf_a"]}, "workflow_ids.1"),
        ({"workflow_ids": ["wf_none"]}, "workflow_ids.0"),
        ({"received_after": "yesterday"}, "received_after"),
        ({"received_before": 5}, "received_before"),
        ({"rate_per_second": 0}, "rate_per_second"),
        ({"rate_per_second": 10_001}, "rate_per_second"),
        ({"rate_per_second": 1.5}, "rate_per_second"),
        ({"limit": 5}, "limit"),
        ([], None),
    ],
)
def test_what_is_refused(acme: Client, body: Any, field: str | None) -> None:
    error = refused(acme.post(PATH, body), 400, "invalid_request")
    assert error["details"]["field"] == field
    assert every_page(acme, PATH) == []


def test_nobody_elses_and_none(dev: Dev, acme: Client) -> None:
    replay_id = answered(acme.post(PATH, {"rate_per_second": 10_000}), 202)["id"]
    ended(acme, replay_id)
    refused(acme.post(PATH, {"stream": "nowhere"}), 404, "stream_not_found")
    _, other, _ = new_workspace(dev, "Other")
    for client, each in ((other, replay_id), (acme, UNKNOWN), (acme, "rpl_1"), (acme, "evt_1")):
        refused(client.get(f"{PATH}/{each}"), 404, "replay_not_found")
        refused(client.post(f"{PATH}/{each}/cancel"), 404, "replay_not_found")
    assert every_page(other, PATH) == []
    refused(acme.get(f"{PATH}?cursor=evt_1"), 400, "invalid_request")


def test_the_shell_shows_it_and_its_ends(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev, Receiver() as receiver:
        client = Client(dev.port, dev.live_secret_key)
        sent(client, receiver, 20)
        env = {"ATLAS_API_KEY": dev.live_secret_key}
        ran = run_atlas("replay", "--workflow", "wf_a", "--rate", "1000", "--url", dev.url, env=env)
        assert ran.returncode == 0
        assert ran.stdout.endswith("completed: 20 events matched, 20 replayed, 0 skipped.\n")
        replay_id = ran.stdout.split()[0]
        watched = run_atlas("replay", "--watch", replay_id, "--json", "--url", dev.url, env=env)
        assert json.loads(watched.stdout) == answered(client.get(f"{PATH}/{replay_id}"), 200)
        slow = answered(client.post(PATH, {"rate_per_second": 1}), 202)["id"]
        stopped = run_atlas("replay", "--cancel", slow, "--url", dev.url, env=env)
        assert stopped.stdout.startswith(f"{slow} cancelled: ")
        wrong = run_atlas("replay", "--stream", "nowhere", "--url", dev.url, env=env)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert wrong.stderr.startswith("atlas: stream_not_found: ")
        assert run_atlas("replay", "--url", dev.url, env={"ATLAS_API_KEY": ""}).returncode == 2


def test_kill_9_in_the_middle_replays_no_route_twice(tmp_path: Path) -> None:
    with Receiver() as receiver:
        with start_dev(tmp_path) as dev:
            ids = sent(Client(dev.port, dev.live_secret_key), receiver, 120)
            client = Client(dev.port, dev.live_secret_key)
            replay_id = answered(client.post(PATH, {"rate_per_second": 60}), 202)["id"]
            receiver.wait_for(120 + 40, "/a")
            dev.kill()
        with start_dev(tmp_path) as dev:
            client = Client(dev.port, dev.live_secret_key)
            done = ended(client, replay_id)
            assert (done["matched"], done["replayed"], done["skipped"]) == (120, 120, 0)
            eventually(
                lambda: len(every_page(client, "/v1/events?status=delivered")) == len(ids), "all delivered"
            )
            by_event = Counter(
                (each.value["id"], each.headers["x-atlas-delivery-id"]) for each in receiver.at("/a")
            )
            assert len(by_event) == 2 * len(ids), "two deliveries of each event: the first, and the replay's"
