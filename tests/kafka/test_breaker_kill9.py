"""A circuit breaker over HTTP, and whoever delivers killed while it is open, on both logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from atlas.core.breaker import FAILURES_MAX
from tests.api.receiver import Receiver
from tests.kafka.installation import READY_MAX_S, SHARDS, WIDE, Installation
from tests.kafka_broker import own_broker
from tests.processes import Reply, end, eventually, request, start_dev

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVENTS = 200


class System(Protocol):
    """Atlas from outside."""

    operator_token: str

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> Reply:
        """One request, with the live key unless another token is given."""

    def kill_and_start(self) -> None:
        """kill -9 of what delivers, and another in its place."""

    def readyz(self) -> Reply:
        """Of what delivers."""

    def metrics(self) -> str:
        """Of what delivers."""


class OnEmbedded:
    """`atlas dev`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.dev = start_dev(directory, *WIDE)
        self.operator_token = self.dev.operator_token

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> Reply:
        return self.dev.request(method, path, body, token=token)

    def kill_and_start(self) -> None:
        end(self.dev.process)
        self.dev = start_dev(self._directory, *WIDE)

    def readyz(self) -> Reply:
        return self.ask("GET", "/readyz")

    def metrics(self) -> str:
        return self.ask("GET", "/metrics").content.decode()


class OnKafka:
    """A gateway, a projector and a deliverer."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._gateway, _, self._deliverer = installation.start_all()
        self.operator_token = str(self._gateway.said["operator_token"])

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> Reply:
        return request(self._gateway.url, method, path, body, token or self._gateway.key)

    def kill_and_start(self) -> None:
        self._deliverer.kill()
        node = self._deliverer = self._installation.start("deliverer").ready()
        eventually(lambda: node.claims() == SHARDS, "all shards claimed", READY_MAX_S)

    def readyz(self) -> Reply:
        return self._deliverer.readyz()

    def metrics(self) -> str:
        return request(self._deliverer.url, "GET", "/metrics").content.decode()


@contextmanager
def on_embedded(directory: Path) -> Iterator[System]:
    system = OnEmbedded(directory)
    try:
        yield system
    finally:
        end(system.dev.process)


@contextmanager
def on_kafka(directory: Path) -> Iterator[System]:
    broker = own_broker(directory / "broker")
    try:
        with Installation(directory / "atlas", broker.start()) as installation:
            yield OnKafka(installation)
    finally:
        broker.stop()


@pytest.mark.parametrize("running", [on_embedded, on_kafka])
def test_it_is_open_after_the_kill_as_it_was_before(running: Any, tmp_path: Path) -> None:
    with Receiver(lambda _: 503) as receiver, running(tmp_path) as system:
        target = {"id": "wf_down", "url": receiver.url(), "retry_schedule_seconds": [2] * 20}
        assert system.ask("POST", "/v1/workflows", target).status == 201
        stream = {"name": "orders", "default_routes": ["wf_down"]}
        assert system.ask("POST", "/v1/event-streams", stream).status == 201
        ids = send(system)

        def breaker() -> dict[str, Any]:
            found: dict[str, Any] = system.ask("GET", "/v1/workflows/wf_down").value["breaker"]
            return found

        eventually(lambda: breaker()["state"] == "open", "it opens")
        tried = FAILURES_MAX + 32  # those under way when it opened
        receiver.wait_for(FAILURES_MAX + 3)
        opened_at = breaker()["opened_at"]
        before = len(receiver.arrived)
        assert before <= tried + 6
        system.kill_and_start()
        receiver.wait_for(before + 1)
        eventually(lambda: breaker()["state"] != "closed", "it is not closed")
        assert breaker()["opened_at"] == opened_at
        assert len(receiver.arrived) - before <= 6, "no storm"
        assert system.readyz().status == 200
        gauge = "atlas_circuit_breakers_open 1.0"
        eventually(lambda: gauge in system.metrics().splitlines(), "it is counted")
        receiver.answering = lambda _: 200
        check_all_arrive(system, ids)
        assert breaker() == {"state": "closed", "reason": None, "opened_at": None, "next_probe_at": None}
        shown = [(d.headers["x-atlas-delivery-id"], d.attempt, d.body) for d in receiver.arrived]
        assert len({delivery for delivery, _, _ in shown}) == EVENTS
        assert len({(delivery, body) for delivery, _, body in shown}) == EVENTS
        again = Counter(shown).most_common(1)[0][1]
        assert again <= 2, "but for what the kill cut off, no attempt is made twice"
        assert verified(system)["equal"]


def send(system: System) -> list[str]:
    one = {
        "stream": "orders",
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {},
    }
    sent = system.ask("POST", "/v1/events/batch", {"events": [one] * EVENTS})
    assert sent.value["accepted"] == EVENTS
    return [item["event"]["id"] for item in sent.value["data"]]


def check_all_arrive(system: System, ids: list[str]) -> None:
    """All of them, also those that have failed once and wait for their retry."""
    for event_id in ids:

        def delivered(path: str = f"/v1/events/{event_id}") -> bool:
            found = system.ask("GET", path)
            return found.status == 200 and found.value["status"] == "delivered"

        eventually(delivered, f"{event_id} is delivered", 150)


def verified(system: System) -> dict[str, Any]:
    asked = system.ask("POST", "/admin/v1/verify", {}, system.operator_token)
    path, found = f"/admin/v1/verify/{asked.value['id']}", dict[str, Any]()

    def over() -> bool:
        found.update(system.ask("GET", path, None, system.operator_token).value)
        return bool(found["status"] == "completed")

    eventually(over, "it is verified", READY_MAX_S)
    return found
