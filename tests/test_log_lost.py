"""A log that has lost its end, put back from an older copy: what comes then is shown and delivered."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.api.receiver import Receiver
from tests.orders import await_delivered, order
from tests.processes import Dev, eventually, start_dev

DELIVERED_MAX_S = 30.0


def set_up(dev: Dev, receiver: Receiver) -> None:
    made = dev.request("POST", "/v1/workflows", {"id": "wf_a", "url": receiver.url()})
    assert made.status == 201
    stream = {"name": "orders", "default_routes": ["wf_a"]}
    assert dev.request("POST", "/v1/event-streams", stream).status == 201


def send(dev: Dev, *numbers: int) -> list[str]:
    """Ids of new events."""
    ids = []
    for number in numbers:
        answer = dev.request("POST", "/v1/events", order(number))
        assert answer.status == 202
        ids.append(answer.value["id"])
    return ids


def deliver(dev: Dev, *numbers: int) -> list[str]:
    """Ids of new events, each delivered."""
    ids = send(dev, *numbers)
    await_delivered(dev, ids, DELIVERED_MAX_S)
    return ids


def copy_of_the_log(tmp_path: Path, receiver: Receiver, events: int) -> Path:
    """The log as it was once that many events had been delivered, and all was stopped."""
    with start_dev(tmp_path) as dev:
        set_up(dev, receiver)
        deliver(dev, *range(events))
        dev.stop()
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "data" / "log.db", copy)
    return copy


def numbers(receiver: Receiver) -> Counter[int]:
    return Counter(each.value["data"]["n"] for each in receiver.arrived)


def equal_to_a_rebuild(dev: Dev) -> bool:
    job = dev.request("POST", "/admin/v1/verify", {}, token=dev.operator_token).value
    state: dict[str, Any] = {}

    def over() -> bool:
        path = f"/admin/v1/verify/{job['id']}"
        state.update(dev.request("GET", path, token=dev.operator_token).value)
        return bool(state["status"] == "completed")

    eventually(over, "verified", DELIVERED_MAX_S)
    return bool(state["equal"])


@pytest.mark.parametrize("later", [5, 60], ids=["fewer come than were lost", "more"])
def test_a_log_put_back_from_an_older_copy(tmp_path: Path, later: int) -> None:
    """The read model, and what is beside it, is of a later time."""
    with Receiver() as receiver:
        copy = copy_of_the_log(tmp_path, receiver, 20)
        with start_dev(tmp_path) as dev:
            lost = deliver(dev, *range(20, 50))
            dev.stop()
        shutil.copy(copy, tmp_path / "data" / "log.db")
        with start_dev(tmp_path) as dev:
            deliver(dev, *range(100, 100 + later))
            assert dev.request("GET", f"/v1/events/{lost[0]}").status == 404
            assert dev.request("GET", "/readyz").status == 200
            assert equal_to_a_rebuild(dev)
        arrived = numbers(receiver)
    assert arrived == Counter([*range(50), *range(100, 100 + later)])


def test_a_copy_older_than_a_stream(tmp_path: Path) -> None:
    """The read model holds partitions that are in the log no more."""
    with Receiver() as receiver:
        copy = copy_of_the_log(tmp_path, receiver, 8)
        with start_dev(tmp_path) as dev:
            lost = send(dev, *range(20, 40))
            assert dev.request("POST", "/v1/event-streams", {"name": "later"}).status == 201
            await_delivered(dev, lost, DELIVERED_MAX_S)
            later = {"stream": "later", "type": "a.b", "occurred_at": "2026-05-18T14:22:11Z", "data": {}}
            made = dev.request("POST", "/v1/events", later).value["id"]
            assert dev.request("GET", f"/v1/events/{made}").status == 200
            dev.stop()
        shutil.copy(copy, tmp_path / "data" / "log.db")
        with start_dev(tmp_path) as dev:
            deliver(dev, *range(100, 105))
            assert dev.request("GET", f"/v1/events/{lost[0]}").status == 404
            assert equal_to_a_rebuild(dev)
