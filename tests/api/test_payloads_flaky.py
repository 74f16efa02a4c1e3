"""Every bundled payload to a flaky receiver, in order where asked: all arrive, no id has two bodies."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

from tests.api.atlas_process import create_stream, every_page, made, running
from tests.api.receiver import Delivery, Receiver, signed_by_the_reference
from tests.api.test_payloads import events, send
from tests.http_client import Client
from tests.processes import eventually

#: Lines of about ten events each.
KEYS: Final = 24
ALL_WITHIN_S: Final = 60.0


def answer(delivery: Delivery) -> int:
    """One attempt in four fails, some of them as if the receiver were down."""
    chance = hashlib.sha256(f"{delivery.path}{delivery.value['id']}{delivery.attempt}".encode()).digest()[0]
    return 200 if chance >= 64 else (500, 503, 404, 302)[chance % 4]


def test_all_end_delivered_and_in_order(tmp_path: Path) -> None:
    sent = [{**event, "ordering_key": f"line {n % KEYS}"} for n, event in enumerate(events())]
    with (
        running(tmp_path) as dev,
        Client(dev.port, dev.live_secret_key) as live,
        Receiver(answer) as receiver,
    ):
        secrets = {}
        for target, ordered in (("wf_ordered", True), ("wf_free", False)):
            workflow = {
                "id": target,
                "url": receiver.url(f"/{target}"),
                "ordered": ordered,
                "retry_schedule_seconds": [1] * 20,
            }
            secrets[f"/{target}"] = made(live.post("/v1/workflows", workflow))["secret"]
        create_stream(live, "github", default_routes=["wf_ordered", "wf_free"])
        ids = send(live, sent)
        eventually(
            lambda: len(every_page(live, "/v1/events?status=delivered")) == len(ids),
            "all are delivered",
            ALL_WITHIN_S,
        )
        for path, secret in secrets.items():
            check(receiver.at(path), ids, secret)
        lines: dict[str, list[str]] = defaultdict(list)
        for delivery in receiver.at("/wf_ordered"):
            lines[delivery.value["id"]].append(str(answer(delivery)))
        by_key: dict[int, list[str]] = defaultdict(list)
        for delivery in receiver.at("/wf_ordered"):
            event_id = delivery.value["id"]
            by_key[ids.index(event_id) % KEYS].append(event_id)
        for key, came in by_key.items():
            attempts = [event_id for event_id in ids[key::KEYS] for _ in lines[event_id]]
            assert came == attempts, "each of a key after all attempts of the one before"


def check(deliveries: list[Delivery], ids: list[str], secret: str) -> None:
    bodies: dict[str, set[bytes]] = defaultdict(set)
    attempts: dict[str, list[int]] = defaultdict(list)
    for delivery in deliveries:
        bodies[delivery.headers["x-atlas-delivery-id"]].add(delivery.body)
        attempts[delivery.value["id"]].append(delivery.attempt)
        assert signed_by_the_reference(delivery, secret, time.time())
    assert all(len(found) == 1 for found in bodies.values()), "a delivery id with two bodies"
    assert len(bodies) == len(ids), "one delivery id for each event"
    assert set(attempts) == set(ids)
    for numbers in attempts.values():
        assert numbers == list(range(1, len(numbers) + 1)), "gapless and rising"
