"""What a run leaves in the log is what the published schemas say, record for record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, get_args

import orjson

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.system_clock import SystemClock
from atlas.core.commands import Command, OpenProducer
from atlas.core.facts import (
    CONTROL_SCHEMA,
    CONTROL_TOPIC,
    EVENT_SCHEMA,
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
)
from atlas.ports.log import Record, TopicPartition
from scripts.schemas_lib.records import FACT_KEYS
from tests.api.atlas_process import EVENT, answered, create_stream, every_page, made, running, wait_for_status
from tests.api.receiver import Delivery, Receiver
from tests.api.test_payloads import events, same, send
from tests.conformance.log_deployments import read_all
from tests.http_client import Client
from tests.processes import Dev, eventually
from tests.schemas.contract import check_record, described_headers

#: Kinds of facts that a short run writes; the others need hours, or a full target.
FACTS: Final = {
    "shard.claimed",
    "delivery.attempted",
    "delivery.started",
    "delivery.closed",
    "replay.requested",
}


def answer_to(delivery: Delivery) -> int | None:
    """One target is gone, one fails at first, one hangs until it is given up, and the other takes it."""
    if delivery.path == "/slow":
        return None
    if delivery.path == "/flaky" and delivery.attempt == 1:
        return 500
    return 410 if delivery.path == "/gone" else 200


def test_every_record_of_a_run_is_described(tmp_path: Path) -> None:
    sent = events()
    with (
        Receiver(answer_to) as receiver,
        running(tmp_path) as dev,
        Client(dev.port, dev.live_secret_key) as live,
    ):
        set_up(dev, live, receiver)
        sent_by_id = dict(zip(send(live, sent), sent, strict=True))
        last = answered(live.post("/v1/events", {**EVENT, "stream": "trouble"}), 202)["id"]
        wait_for_status(live, last, "failed")
        eventually(
            lambda: len(every_page(live, "/v1/events?status=delivered&stream=github")) == len(sent),
            "all are delivered",
        )
        answered(live.post(f"/v1/events/{last}/replay", {"workflow_ids": ["wf_flaky"]}), 202)
        replay_id = answered(live.post("/v1/replays", {"rate_per_second": 1}), 202)["id"]
        answered(live.post(f"/v1/replays/{replay_id}/cancel"), 200)
        take_down(live)
        with live.using(dev.operator_token) as operator:
            for path in ("/admin/v1/rebuilds", "/admin/v1/verify"):
                answered(operator.post(path, {}), 202)
    records = asyncio.run(everything(tmp_path / "data" / "log.db"))
    by_schema: dict[bytes, list[tuple[Record, dict[str, Any]]]] = {}
    for record in records:
        [header] = [value for name, value in record.headers if name == SCHEMA_HEADER]
        value = orjson.loads(record.value or b"")
        check_record(header.decode(), value)
        by_schema.setdefault(header, []).append((record, value))
    for header, found in by_schema.items():
        written = {name for record, _ in found for name, _ in record.headers}
        assert written == described_headers(header.decode()), header
    check_events(by_schema[EVENT_SCHEMA], sent_by_id)
    check_facts(by_schema[LIFECYCLE_SCHEMA])
    check_commands(value for _, value in by_schema[CONTROL_SCHEMA])


def set_up(dev: Dev, live: Client, receiver: Receiver) -> None:
    """Two streams and their targets, by every command that there is for that."""
    with live.using(dev.operator_token) as operator:
        other = made(operator.post("/admin/v1/workspaces", {"name": "Umbra"}))
        quota = {"quota": {"test": {"requests_per_minute": 60, "burst": 1}, "live": None}}
        operator.patch(f"/admin/v1/workspaces/{other['id']}", {**quota, "status": "suspended"})
    for name in ("fine", "flaky", "slow", "gone", "spare"):
        made(
            live.post(
                "/v1/workflows",
                {
                    "id": f"wf_{name}",
                    "url": receiver.url(f"/{name}"),
                    "timeout_ms": 300,
                    "retry_schedule_seconds": [1] if name == "flaky" else [],
                    "headers": {"X-Team": "billing"},
                },
            )
        )
    answered(
        live.patch("/v1/workflows/wf_spare", {"description": "Spare.", "url": receiver.url("/new")}), 200
    )
    answered(live.post("/v1/workflows/wf_spare/rotate-secret"), 200)
    answered(live.post("/v1/workflows/wf_spare/disable"), 200)
    create_stream(live, "github", default_routes=["wf_fine"])
    create_stream(live, "trouble", default_routes=["wf_flaky", "wf_slow", "wf_gone", "wf_spare"])
    answered(live.patch("/v1/event-streams/trouble", {"retention_days": 3}), 200)


def take_down(live: Client) -> None:
    answered(live.post("/v1/workflows/wf_spare/reactivate"), 200)
    answered(live.delete("/v1/workflows/wf_spare"), 200)
    answered(live.delete("/v1/event-streams/trouble"), 200)
    key = made(live.post("/v1/api-keys", {"kind": "publishable", "streams": ["github"], "name": "web"}))
    made(live.post(f"/v1/api-keys/{key['id']}/rotate"))
    answered(live.delete(f"/v1/api-keys/{key['id']}"), 200)


async def everything(path: Path) -> list[Record]:
    """All records of all topics."""
    log = await EmbeddedLog.open(path, SystemClock())
    try:
        control = await read_all(log, TopicPartition(CONTROL_TOPIC, 0))
        made_streams = [orjson.loads(record.value or b"").get("stream") for record in control]
        streams = [stream for stream in made_streams if stream]
        topics = [f"atlas.{one['environment']}.{one['workspace_id']}.{one['name']}" for one in streams]
        found = list(control)
        for topic in [LIFECYCLE_TOPIC, *topics]:
            for shard in range(log.shards):
                found += await read_all(log, TopicPartition(topic, shard))
        return found
    finally:
        await log.close()


def check_events(found: list[tuple[Record, dict[str, Any]]], sent_by_id: dict[str, dict[str, Any]]) -> None:
    by_id = {value["id"]: value for _, value in found}
    assert len(by_id) == len(found) == len(sent_by_id) + 1
    for event_id, sent in sent_by_id.items():
        for field in ("type", "data", "actor", "metadata"):
            assert same(by_id[event_id][field], sent[field]), (event_id, field)
    assert all(record.key == value["id"].encode() for record, value in found)


def check_facts(found: list[tuple[Record, dict[str, Any]]]) -> None:
    assert {value["fact"] for _, value in found} >= FACTS
    assert {value.get("outcome") for _, value in found} >= {"delivered", "retry_scheduled", "failed"}
    for record, value in found:
        expected = FACT_KEYS.get(value["fact"]) or value["event_id"]
        assert record.key == expected.encode(), value


def check_commands(found: Iterable[dict[str, Any]]) -> None:
    """Every kind there is but one, which belongs to Kafka."""
    known = {kind.__struct_config__.tag for kind in get_args(Command) if kind is not OpenProducer}
    assert {value["command"] for value in found} == known
