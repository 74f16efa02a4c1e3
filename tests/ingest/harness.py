"""Handlers over the real adapters in virtual time: what the HTTP front would otherwise drive.

`Installation` is an embedded log, run inline, with the control plane folded from it; `FakeCall` is a
request after the front has done its part.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import orjson
from msgspec import Struct

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.core.commands import ArchiveStream, CreateStream, CreateTarget, CreateWorkspace, PatchStream
from atlas.core.entities import ApiKey, Quota, SealedSecret, Stream, Workflow, Workspace
from atlas.core.facts import CONTROL_TOPIC, EventRecord, decode_event
from atlas.core.ids import IdSource
from atlas.core.limits import BATCH_ENVELOPE_DEPTH
from atlas.core.strict_json import Text, read
from atlas.gateway.call import Principal, Reply, Services
from atlas.gateway.ingest import Ingest
from atlas.ports.log import Record, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.ports.secret_box import SecretBox
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics
from tests.virtual_time import VirtualClock

WORKSPACE: Final = Workspace(id="ws_4F9KQ2C7Z1", name="Acme", created_at_ms=0)
OTHER_WORKSPACE: Final = Workspace(id="ws_7T3Q9HBN2P", name="Umbra", created_at_ms=0)
SHARDS: Final = 4


def api_key(
    workspace: Workspace = WORKSPACE, environment: str = "live", streams: tuple[str, ...] | None = None
) -> ApiKey:
    return ApiKey(
        id="key_01HX9Z0F8C5G3R8K2V1NQ7M4WP",
        workspace_id=workspace.id,
        environment=environment,
        kind="secret",
        name=None,
        streams=streams,
        prefix="atlas_live_sk_",
        digest="",
        created_at_ms=0,
    )


LIVE: Final = Principal(api_key(), WORKSPACE)


class FakeCall(Struct):
    """A request as handlers see it; `body` went through the rules of every JSON body."""

    body: bytes = b""
    headers: Mapping[bytes, bytes] = {}
    query_string: str = ""
    path_params: Mapping[str, str] = {}
    principal: Principal = LIVE
    request_id: str = "req_01HX9ZD2M1Y0K8X6V3N7P5Q2W4"
    envelope_depth: int = 0

    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.query_string, keep_blank_values=True)

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)

    async def json(self) -> dict[str, Any]:
        return (await self.json_text()).value

    async def json_text(self) -> Text:
        return read(self.body, envelope_depth=self.envelope_depth)

    async def json_or_empty(self) -> dict[str, Any]:
        return await self.json() if self.body else {}


class Installation:
    """See the module. Make one with `installation`."""

    def __init__(self, log: EmbeddedLog, clock: VirtualClock, read_model: ReadModel | None = None) -> None:
        self.log = log
        self.clock = clock
        self.registry = Registry(log, clock)
        self.metrics = Metrics()
        entropy = random.Random(1).randbytes  # the same in every run
        self.services = Services(
            clock=clock,
            ids=IdSource(entropy, clock.now_ms),
            entropy=entropy,
            registry=self.registry,
            acceptor=log,
            log=log,
            read_model=cast(ReadModel, read_model),
            secret_box=cast(SecretBox, None),
            metrics=self.metrics,
            quota_default=Quota(1_200, 200),
        )
        self.ingest = Ingest(self.services)

    async def workflow(self, workflow_id: str, workspace: Workspace = WORKSPACE) -> None:
        made = Workflow(
            id=workflow_id,
            workspace_id=workspace.id,
            environment="live",
            url="https://hooks.acme.example/atlas",
            secrets=(SealedSecret("sealed"),),
            created_at_ms=0,
        )
        await self.registry.propose(CreateTarget(id=self._id(), at_ms=0, target=made))

    async def stream(
        self,
        name: str,
        routes: tuple[str, ...] = (),
        principal: Principal = LIVE,
        retention_days: int = 14,
    ) -> Stream:
        made = Stream(
            id="stm_01HX9Z0F8C5G3R8K2V1NQ7M4WP",
            workspace_id=principal.key.workspace_id,
            environment=principal.key.environment,
            name=name,
            description=None,
            retention_days=retention_days,
            default_routes=routes,
            created_at_ms=0,
        )
        await self.log.create_topic(made.topic, SHARDS, None)
        await self.registry.propose(CreateStream(id=self._id(), at_ms=0, stream=made, streams_max=100))
        return made

    async def archive(self, name: str) -> None:
        scope = {"workspace_id": WORKSPACE.id, "environment": "live"}
        now_ms = self.clock.now_ms()
        await self.registry.propose(ArchiveStream(id=self._id(), at_ms=now_ms, name=name, **scope))

    async def retain(self, name: str, days: int) -> None:
        await self.registry.propose(
            PatchStream(
                id=self._id(),
                at_ms=0,
                workspace_id=WORKSPACE.id,
                environment="live",
                name=name,
                retention_days=days,
            )
        )

    async def records(self, *streams: str, principal: Principal = LIVE) -> list[Record]:
        """Everything in the topics of these streams."""
        workspace, environment = principal.scope
        reader = self.log.reader()
        topics = [f"atlas.{environment}.{workspace}.{name}" for name in streams]
        reader.assign({TopicPartition(topic, shard): 0 for topic in topics for shard in range(SHARDS)})
        found: list[Record] = []
        while batches := await reader.poll(1_000, 0):
            found += [record for batch in batches for record in batch.records]
        await reader.close()
        return found

    async def events(self, *streams: str, principal: Principal = LIVE) -> list[EventRecord]:
        return [
            decode_event(record.value or b"") for record in await self.records(*streams, principal=principal)
        ]

    async def send(self, event: object, key: str | None = None, principal: Principal = LIVE) -> Reply:
        return await self.ingest.send(call(event, key, principal))

    async def send_batch(
        self, events: Sequence[object], key: str | None = None, principal: Principal = LIVE
    ) -> Reply:
        made = call({"events": events}, key, principal)
        made.envelope_depth = BATCH_ENVELOPE_DEPTH
        return await self.ingest.send_batch(made)

    def count(self, verdict: str) -> float:
        """The metric of events with this verdict."""
        return self.metrics.registry.get_sample_value("atlas_events_total", {"verdict": verdict}) or 0.0

    def _id(self) -> str:
        return self.services.ids.new("cmd_")


def call(body: object, key: str | None = None, principal: Principal = LIVE) -> FakeCall:
    headers = {} if key is None else {b"idempotency-key": key.encode()}
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return FakeCall(raw, headers, principal=principal)


@asynccontextmanager
async def installation(
    clock: VirtualClock, directory: Path, read_model: ReadModel | None = None
) -> AsyncIterator[Installation]:
    """Two workspaces; in the first one `orders-prod` with the reference's two workflows."""
    log = await EmbeddedLog.open(directory / "log.db", clock, shards=SHARDS, threads=False)
    await log.create_topic(CONTROL_TOPIC, 1, None)
    made = Installation(log, clock, read_model)
    folding = asyncio.create_task(made.registry.run(), name="registry")
    try:
        for workspace in (WORKSPACE, OTHER_WORKSPACE):
            command = CreateWorkspace(id=f"cmd_{workspace.id}", at_ms=0, workspace=workspace, keys=())
            await made.registry.propose(command)
        await made.workflow("wf_billing_sync")
        await made.workflow("wf_search_index")
        await made.stream("orders-prod", ("wf_billing_sync", "wf_search_index"))
        yield made
    finally:
        folding.cancel()
        await asyncio.wait([folding])
        await log.close()
