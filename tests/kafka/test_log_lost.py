"""Kafka that comes back with less than it had acknowledged, as after a power cut: what comes then is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.kafka_lib.broker import Broker
from tests.api.receiver import Receiver
from tests.kafka.installation import READY_MAX_S, Installation, Node
from tests.kafka_broker import own_broker
from tests.orders import await_delivered, order
from tests.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
EARLY, LATE = 240, 30


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = own_broker(tmp_path / "broker")
    try:
        yield made
    finally:
        made.stop()


def lose_half(topic: str, directory: Path) -> None:
    """The second half of each of its partitions."""
    for partition in directory.rglob(f"{topic}-*"):
        for segment in partition.glob("*.log"):
            os.truncate(segment, segment.stat().st_size // 2)
        for beside in [
            *partition.glob("*.index"),
            *partition.glob("*.timeindex"),
            *partition.glob("*.snapshot"),
        ]:
            beside.unlink()


def send(gateway: Node, numbers: range) -> list[str]:
    """Ids of new events; refused ones are sent again until they are taken."""
    ids = []
    for number in numbers:
        answers: list[Any] = []

        def taken(number: int = number, answers: list[Any] = answers) -> bool:
            answers.append(gateway.request("POST", "/v1/events", order(number)))
            return bool(answers[-1].status == 202)

        eventually(taken, "it is taken", READY_MAX_S)
        ids.append(answers[-1].value["id"])
    return ids


def test_what_comes_after_a_loss_is_shown_and_delivered(broker: Broker, tmp_path: Path) -> None:
    with Installation(tmp_path, broker.start()) as atlas, Receiver() as receiver:
        gateway, projector, deliverer = atlas.start_all()
        target = {"id": "wf_a", "url": receiver.url()}
        assert gateway.request("POST", "/v1/workflows", target).status == 201
        stream = {"name": "orders", "default_routes": ["wf_a"]}
        assert gateway.request("POST", "/v1/event-streams", stream).status == 201
        early = send(gateway, range(EARLY))
        await_delivered(gateway, early, READY_MAX_S)
        port = broker.port()
        broker.kill()
        for topic in (f"atlas.live.{gateway.said['workspace_id']}.orders", "atlas.lifecycle"):
            lose_half(topic, tmp_path / "broker")
        broker.start(port)
        await_delivered(gateway, send(gateway, range(EARLY, EARLY + LATE)), READY_MAX_S)
        for node in (gateway, projector, deliverer):
            node.ready()
        left = [one for one in early if gateway.request("GET", f"/v1/events/{one}").status == 200]
        assert 0 < len(left) < EARLY
        await_delivered(gateway, left, READY_MAX_S)  # whose facts were lost are delivered once more
        arrived = {each.value["data"]["n"] for each in receiver.arrived}
    assert arrived == set(range(EARLY + LATE))
