"""Filters from outside: who gets an event is decided when it is accepted, and stays decided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.atlas_process import (
    EVENT,
    answered,
    create_stream,
    made,
    new_workspace,
    refused,
    wait_for_status,
)
from tests.api.receiver import Receiver
from tests.http_client import Client
from tests.processes import Dev, run_atlas, start_dev

LARGE: Final = {"data.total_cents": [{"numeric": [">=", 10_000]}]}
SKUS: Final = {"data.items.sku": ["b", {"prefix": "x-"}], "metadata.re.gion": [{"anything_but": ["us"]}]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def workflow(
    client: Client, receiver: Receiver, target: str, filter_: object = None, prefix: str = ""
) -> None:
    """One that posts to a path of its own."""
    body = {"id": target, "url": receiver.url(f"/{prefix}{target}"), "filter": filter_}
    assert made(client.post("/v1/workflows", body))["filter"] == filter_


def send(client: Client, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    event: dict[str, Any] = answered(client.post("/v1/events", {**EVENT, "data": data, **more}), 202)
    return event


def routes(event: dict[str, Any]) -> list[str]:
    return [route["workflow_id"] for route in event["routes"]]


def at(receiver: Receiver, path: str) -> list[str]:
    """Ids of the events that arrived there."""
    return [delivery.value["id"] for delivery in receiver.at(path)]


def test_an_event_goes_to_those_that_want_it_and_to_no_other(acme: Client, receiver: Receiver) -> None:
    workflow(acme, receiver, "wf_all")
    workflow(acme, receiver, "wf_large", LARGE)
    workflow(acme, receiver, "wf_skus", SKUS)
    create_stream(acme, default_routes=["wf_skus", "wf_large", "wf_all"])
    items = [{"sku": str(number)} for number in range(500)]
    sent = [
        (send(acme, {"total_cents": 5}), ["wf_all"]),
        (send(acme, {"total_cents": 10_000.0}), ["wf_large", "wf_all"]),
        (send(acme, {"items": [*items, {"sku": "b"}]}, metadata={"re.gion": "eu"}), ["wf_skus", "wf_all"]),
        (send(acme, {"items": [{"sku": "x-1"}]}, metadata={"re.gion": "us"}), ["wf_all"]),
        (send(acme, {"total_cents": True, "items": "b"}), ["wf_all"]),
    ]
    for event, expected in sent:
        assert routes(event) == expected
        shown = wait_for_status(acme, event["id"], "delivered")
        assert [attempt["workflow_id"] for attempt in shown["attempts"]] == expected
    for target in ("wf_all", "wf_large", "wf_skus"):
        wanted = [event["id"] for event, expected in sent if target in expected]
        assert sorted(at(receiver, f"/{target}")) == wanted
        listed = answered(acme.get(f"/v1/events?workflow_id={target}&route_status=delivered"), 200)
        assert [item["id"] for item in listed["data"]] == wanted


def test_an_event_that_nobody_wants_is_delivered_and_cannot_be_replayed(
    acme: Client, receiver: Receiver
) -> None:
    workflow(acme, receiver, "wf_large", LARGE)
    create_stream(acme, default_routes=["wf_large"])
    event = send(acme, {"total_cents": 5})
    assert routes(event) == []
    assert wait_for_status(acme, event["id"], "delivered")["attempts"] == []
    answered(acme.patch("/v1/workflows/wf_large", {"filter": {}}), 200)
    replay = f"/v1/events/{event['id']}/replay"
    refused(acme.post(replay), 409, "not_replayable")
    error = refused(acme.post(replay, {"workflow_ids": ["wf_large"]}), 400, "invalid_request")
    assert error["details"]["field"] == "workflow_ids.0"
    assert at(receiver, "/wf_large") == []


def test_a_filter_is_its_workspaces_own(dev: Dev, receiver: Receiver) -> None:
    """The same ids in two workspaces and both environments, each with another filter."""
    clients = [client for name in ("A", "B") for client in new_workspace(dev, name)[1:]]
    for number, client in enumerate(clients):
        workflow(client, receiver, "wf_a", {"data.n": [number]}, prefix=f"{number}")
        create_stream(client, default_routes=["wf_a"])
    for n in range(4):
        found = [routes(send(client, {"n": n})) for client in clients]
        assert found == [["wf_a"] if number == n else [] for number in range(4)]
    answered(clients[0].patch("/v1/workflows/wf_a", {"filter": None}), 200)
    assert [routes(send(client, {"n": 7})) for client in clients] == [["wf_a"], [], [], []]
    for client in clients:
        client.close()


HOSTILE: Final[list[tuple[Any, str]]] = [
    ([], "filter"),
    ("type", "filter"),
    ({"__proto__": ["a"]}, "filter.__proto__"),
    ({"data.a\x00": ["a"]}, "filter.data.a\x00"),
    ({"data.a": ["a\x00"]}, "filter.data.a.0"),
    ({"data.a": [{"numeric": [">=", 1, "<"]}]}, "filter.data.a.0.numeric"),
    ({"data.amount": [1, {"numeric": [">=", "1"]}]}, "filter.data.amount.1.numeric.1"),
    ({"data.a": [{"anything-but": ["x"]}]}, "filter.data.a.0"),
    ({"data.a": [{"anything_but": [["x"]]}]}, "filter.data.a.0.anything_but.0"),
    ({"data.a": [{"exists": None}]}, "filter.data.a.0.exists"),
    ({"data.a": [{"a": 1}] * 51}, "filter.data.a"),
    ({f"data.{n}": ["x"] for n in range(11)}, "filter"),
    ({"data.a": ["x" * 100_000]}, "filter"),
]


@pytest.mark.parametrize(("filter_", "field"), HOSTILE)
def test_a_bad_filter_is_refused_and_changes_nothing(acme: Client, filter_: object, field: str) -> None:
    body = {"id": "wf_a", "url": "https://hooks.acme.example", "filter": filter_}
    assert refused(acme.post("/v1/workflows", body), 400, "invalid_request")["details"]["field"] == field
    body["filter"] = LARGE
    before = made(acme.post("/v1/workflows", body))
    error = refused(acme.patch("/v1/workflows/wf_a", {"filter": filter_}), 400, "invalid_request")
    assert error["details"]["field"] == field
    assert answered(acme.get("/v1/workflows/wf_a"), 200)["filter"] == before["filter"]


def test_numbers_and_texts_of_a_filter_come_back_as_given(acme: Client) -> None:
    given = {
        "data.a": [1, 1.0, -0.0, 1e300, 2**64 - 1, -(2**63), True, None, "\u00e9\U0001f600", ""],
        "data.\u00e9\\.\\\\": [{"numeric": ["<=", 2**64 - 1, ">", -1.5]}],
    }
    body = {"id": "wf_a", "url": "https://hooks.acme.example", "filter": given}
    made(acme.post("/v1/workflows", body))
    shown = answered(acme.get("/v1/workflows/wf_a"), 200)["filter"]
    assert repr(shown) == repr(given)


def test_a_restart_and_a_rebuild_keep_filters_and_what_they_decided(tmp_path: Path) -> None:
    with Receiver() as receiver:
        with start_dev(tmp_path) as first, Client(first.port, first.live_secret_key) as acme:
            workflow(acme, receiver, "wf_large", LARGE)
            workflow(acme, receiver, "wf_all")
            create_stream(acme, default_routes=["wf_large", "wf_all"])
            key = [("Idempotency-Key", "k")]
            small = {**EVENT, "data": {"total_cents": 5}}
            before = acme.post("/v1/events", small, key)
            answered(before, 202)
            wait_for_status(acme, before.json()["id"], "delivered")
            answered(acme.patch("/v1/workflows/wf_large", {"filter": {"type": [EVENT["type"]]}}), 200)
            first.kill()
        with start_dev(tmp_path) as second, Client(second.port, first.live_secret_key) as acme:
            again = acme.post("/v1/events", small, key)
            assert (again.status, again.body) == (202, before.body)
            assert routes(send(acme, {"total_cents": 5})) == ["wf_large", "wf_all"]
            assert routes(send(acme, {"total_cents": 5}, type="user.made")) == ["wf_all"]
            receiver.wait_for(1, "/wf_large")
            verified = run_atlas(
                "verify",
                "--json",
                "--url",
                second.url,
                env={"ATLAS_OPERATOR_TOKEN": second.operator_token},
                timeout_s=50.0,
            )
            assert (verified.returncode, verified.stderr) == (0, "")
