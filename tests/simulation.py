"""The whole of Atlas behind the edges on one deterministic loop in virtual time, with faults at the ports.

`Simulation` opens the shipped adapters in their inline modes. A `Process` is one deliverer; several share
the log and the read model as real ones do, and each can be paused as SIGSTOP would (nothing of it reaches
the log, its heartbeat stops) or killed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
from msgspec import Struct

from atlas.adapters.aes_secret_box import AesSecretBox
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.core import acceptance
from atlas.core.commands import CreateStream, CreateTarget, CreateWorkspace
from atlas.core.entities import Endpoint, Scope, SealedSecret, Stream, Workflow, Workspace, secret_context
from atlas.core.event_requests import read_event
from atlas.core.facts import (
    CONTROL_TOPIC,
    EVENT_SCHEMA,
    LIFECYCLE_SCHEMA,
    LIFECYCLE_TOPIC,
    SCHEMA_HEADER,
    SHARD_KEY,
    LifecycleFact,
    ShardClaimed,
    decode_lifecycle,
    encode,
)
from atlas.core.ids import IdSource
from atlas.core.lifecycle import TERMINAL
from atlas.core.projection import AttemptState, EventState
from atlas.gateway.routes import Routes
from atlas.ports.acceptor import Candidate, Outcome
from atlas.ports.log import NewRecord, Record, TopicPartition
from atlas.ports.read_model import ReadModel
from atlas.ports.sender import DeliveryRequest, DeliveryResult
from atlas.runtime.engine import LANE_MAX, QUEUED_MAX, UNDER_WAY_MAX
from atlas.runtime.registry import Registry
from atlas.runtime.supervisor import Supervisor
from atlas.runtime.telemetry import Metrics
from consumers.projector import Projector
from tests.sim_process import Process
from tests.virtual_time import VirtualClock, pass_time

SCOPE = ("ws_sim", "live")
SECRET = "whsec_" + "A" * 43 + "="
OK = DeliveryResult(http_status=200)
DOWN = DeliveryResult(http_status=503, error_code="upstream_status", error_message="Target answered 503")
REFUSED = DeliveryResult(http_status=404, error_code="upstream_status", error_message="Target answered 404")
GONE = DeliveryResult(http_status=410, error_code="upstream_gone", error_message="Target answered 410")

Behaviour = Callable[["Sent"], Awaitable[DeliveryResult]]


class Sent(Struct, frozen=True):
    """One POST as the simulated network saw it."""

    at_ms: int
    url: str
    event_id: str
    delivery_id: str
    attempt: int
    body: bytes
    timeout_ms: int


async def answer_ok(sent: Sent) -> DeliveryResult:
    """A healthy target."""
    return OK


async def answer_down(sent: Sent) -> DeliveryResult:
    """A target that answers 503 at once."""
    return DOWN


async def refuse(sent: Sent) -> DeliveryResult:
    """A target that is there, and does not want the event: no matter for its circuit breaker."""
    return REFUSED


async def hang(sent: Sent) -> DeliveryResult:
    """A target that never answers within the default time-out."""
    await pass_time(5)
    return DeliveryResult(error_code="upstream_timeout", error_message="Target did not respond within 5s")


class SimSender:
    """Adapter of the `Sender` port: targets are functions, by URL."""

    def __init__(self, clock: VirtualClock) -> None:
        self.sent: list[Sent] = []
        self.targets: dict[str, Behaviour] = {}
        self._clock = clock

    async def send(self, request: DeliveryRequest) -> DeliveryResult:
        body = orjson.loads(request.body)
        sent = Sent(
            self._clock.now_ms(),
            request.url,
            body["id"],
            request.headers["X-Atlas-Delivery-Id"],
            int(request.headers["X-Atlas-Attempt"]),
            request.body,
            request.timeout_ms,
        )
        self.sent.append(sent)
        return await self.targets.get(request.url, answer_ok)(sent)

    async def close(self) -> None:
        pass


class Simulation:
    """See the module. Use as `async with Simulation(clock, tmp_path) as sim:`."""

    def __init__(self, clock: VirtualClock, directory: Path, *, seed: int = 0, shards: int = 2) -> None:
        self.clock, self.directory, self.shards = clock, directory, shards
        self.random = random.Random(seed)
        self.ids = IdSource(self.random.randbytes, clock.now_ms)
        self.sender = SimSender(clock)
        self.box = AesSecretBox(self.random.randbytes(32), self.random.randbytes)
        self.metrics = Metrics()
        self.processes: list[Process] = []
        self.log: EmbeddedLog
        self.read_model: ReadModel
        self.registry: Registry
        self.supervisor = Supervisor(clock, self.metrics)

    async def __aenter__(self) -> Self:
        path = self.directory / "log.db"
        log = await EmbeddedLog.open(path, self.clock, shards=self.shards, threads=False)
        self.log = self.reach_log(log)
        await self.log.create_topic(CONTROL_TOPIC, 1, None)
        await self.log.create_topic(LIFECYCLE_TOPIC, self.shards, None)
        self.read_model = await self.open_read_model()
        self.registry = Registry(self.log, self.clock)
        self.supervisor.start("control", self.registry.run)
        self.start_projector()
        await self.registry.catch_up()
        if SCOPE[0] not in self.registry.state.workspaces:
            workspace = Workspace(id=SCOPE[0], name="sim", created_at_ms=self.clock.now_ms())
            await self.registry.propose(CreateWorkspace(**self.command(), workspace=workspace, keys=()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            process.resume()
            await process.kill()
        await self.supervisor.stop()
        await self.read_model.close()
        await self.log.close()

    def reach_log(self, log: EmbeddedLog) -> EmbeddedLog:
        """The log as everybody in the simulation reaches it."""
        return log

    async def open_read_model(self) -> ReadModel:
        """A read model with nothing in it."""
        return await open_read_model(None, entropy=self.random.randbytes)

    def start_projector(self) -> None:
        """Run the projector under supervision."""
        projector = Projector(self.log, self.read_model, self.registry, self.clock, self.metrics)
        self.supervisor.start("projector", projector.run)

    def process(
        self,
        name: str = "deliverer",
        lane_max: int = LANE_MAX,
        queued_max: int = QUEUED_MAX,
        under_way_max: int = UNDER_WAY_MAX,
    ) -> Process:
        """Start a deliverer process."""
        made = Process(self, name, lane_max, queued_max, under_way_max)
        self.processes.append(made)
        return made

    def command(self) -> dict[str, Any]:
        """What every command carries."""
        return {"id": self.ids.new("cmd_"), "at_ms": self.clock.now_ms()}

    def scoped(self, target: str) -> dict[str, Any]:
        """What a command about a workflow carries."""
        return {
            **self.command(), "workspace_id": SCOPE[0], "environment": SCOPE[1], "target_id": target,
        }  # fmt: skip

    async def workspace(self, workspace_id: str) -> Scope:
        """Create another workspace; its live environment."""
        made = Workspace(id=workspace_id, name=workspace_id, created_at_ms=self.clock.now_ms())
        await self.registry.propose(CreateWorkspace(**self.command(), workspace=made, keys=()))
        return (workspace_id, "live")

    async def workflow(self, target: str, *, scope: Scope = SCOPE, **fields: Any) -> Workflow:
        """Create a target; its URL is `http://<target>`."""
        sealed = self.box.seal(SECRET, secret_context(*scope, target))
        made = Workflow(
            id=target,
            workspace_id=scope[0],
            environment=scope[1],
            url=f"http://{target}",
            secrets=(SealedSecret(sealed),),
            created_at_ms=self.clock.now_ms(),
            **fields,
        )
        found = await self.registry.propose(CreateTarget(**self.command(), target=made))
        assert isinstance(found, Workflow)
        return found

    async def endpoint(self, target: str, **fields: Any) -> Endpoint:
        """Create a webhook endpoint; its URL is `http://<target>`."""
        sealed = self.box.seal(SECRET, secret_context(*SCOPE, target))
        made = Endpoint(
            id=target,
            workspace_id=SCOPE[0],
            environment=SCOPE[1],
            url=f"http://{target}",
            secrets=(SealedSecret(sealed),),
            created_at_ms=self.clock.now_ms(),
            **fields,
        )
        found = await self.registry.propose(CreateTarget(**self.command(), target=made))
        assert isinstance(found, Endpoint)
        return found

    def sent_to(self, target: str) -> list[Sent]:
        """What a target was sent, in order."""
        return [sent for sent in self.sender.sent if sent.url == f"http://{target}"]

    async def stream(
        self, name: str, routes: Sequence[str], retention_days: int = 14, scope: Scope = SCOPE
    ) -> Stream:
        """Create a stream and its topic."""
        made = Stream(
            id=self.ids.new("stm_"),
            workspace_id=scope[0],
            environment=scope[1],
            name=name,
            description=None,
            retention_days=retention_days,
            default_routes=tuple(routes),
            created_at_ms=self.clock.now_ms(),
        )
        found = await self.registry.propose(CreateStream(**self.command(), stream=made, streams_max=100))
        assert isinstance(found, Stream)
        await self.log.create_topic(found.topic, self.shards, None)
        return found

    async def accept(
        self,
        stream: str,
        count: int = 1,
        *,
        key: str | None = None,
        ordering_key: str | None = None,
        scope: Scope = SCOPE,
    ) -> list[str]:
        """Accept events in one request; returns their ids."""
        found = self.registry.state.streams[scope][stream]
        now = acceptance.Circumstances(self.clock.now_ms(), self.registry.position, self.shards)
        candidates = []
        for number in range(count):
            body = {
                "stream": stream,
                "type": "test.happened",
                "occurred_at": "2026-01-01T00:00:00Z",
                "data": {"number": number},
                "ordering_key": ordering_key,
            }
            event = read_event(body)
            sent = None if key is None else acceptance.sent_key(scope, f"{key}/{number}", body)
            routing = Routes(self.registry).of(event, found)
            made = acceptance.accept(event, found, sent, self.ids.entropy80, now, routing)
            record = NewRecord(made.value, made.record_key, ((SCHEMA_HEADER, EVENT_SCHEMA),))
            hashes = (sent.dedup_key, sent.payload_hash) if sent else (None, b"")
            candidates.append(Candidate(found.topic, made.partition, record, made.response, *hashes))
        outcomes: list[Outcome] = await self.log.accept(candidates)
        return [orjson.loads(outcome.response)["id"] for outcome in outcomes]

    # -- what there is to see -----------------------------------------------------------------

    async def event(self, event_id: str) -> EventState:
        """An event in the read model, which has folded everything there is."""
        await self.folded()
        found = await self.read_model.get((*SCOPE, event_id))
        assert found is not None, event_id
        return found

    async def attempts(self, event_id: str) -> list[AttemptState]:
        """The event's attempts."""
        await self.folded()
        return await self.read_model.attempts((*SCOPE, event_id))

    async def statuses(self, event_ids: Iterable[str]) -> dict[str, int]:
        """How many of the events have which status."""
        counts: dict[str, int] = {}
        for event_id in event_ids:
            status = (await self.event(event_id)).status
            counts[status] = counts.get(status, 0) + 1
        return counts

    async def folded(self) -> None:
        """Wait until the read model has folded what is in the log now."""
        assert await self.read_model.wait_past(await self.log.end_offsets(self.sources()), 600)

    def sources(self) -> list[TopicPartition]:
        """Every partition that the projector folds."""
        topics = [s.topic for by_name in self.registry.state.streams.values() for s in by_name.values()]
        return [TopicPartition(t, shard) for t in [LIFECYCLE_TOPIC, *topics] for shard in range(self.shards)]

    async def until(self, done: Callable[[], bool | Awaitable[bool]], seconds: float = 600) -> None:
        """Let virtual time pass until a condition holds."""
        for _ in range(int(seconds * 10)):
            found = done()
            if await found if isinstance(found, Awaitable) else found:
                return
            await pass_time(0.1)
        raise AssertionError("it did not come to hold in time")

    async def until_status(self, event_ids: Sequence[str], status: str, seconds: float = 600) -> None:
        """Let virtual time pass until all these events have this status."""

        async def done() -> bool:
            for event_id in event_ids:
                if (await self.event(event_id)).status != status:
                    return False
            return True

        await self.until(done, seconds)

    async def until_ended(self, event_ids: Sequence[str], seconds: float = 600) -> None:
        """Let virtual time pass until all these events have ended."""

        async def done() -> bool:
            return all([(await self.event(each)).status in TERMINAL for each in event_ids])

        await self.until(done, seconds)

    async def facts(self) -> Mapping[int, list[tuple[int, LifecycleFact]]]:
        """The lifecycle topic, decoded, by shard."""
        found = {}
        for shard in range(self.shards):
            records = await self.records(TopicPartition(LIFECYCLE_TOPIC, shard))
            found[shard] = [(record.offset, decode_lifecycle(record.value or b"")) for record in records]
        return found

    async def every_fact(self) -> list[LifecycleFact]:
        """`facts`, one shard after the other."""
        return [fact for shard in (await self.facts()).values() for _, fact in shard]

    async def claim(self, shard: int, claim: ShardClaimed) -> None:
        """Write a claim into a shard, as another owner would."""
        record = NewRecord(encode(claim), SHARD_KEY, ((SCHEMA_HEADER, LIFECYCLE_SCHEMA),))
        await self.log.append(LIFECYCLE_TOPIC, shard, [record])

    async def records(self, source: TopicPartition) -> list[Record]:
        """A whole partition."""
        reader = self.log.reader()
        reader.assign({source: 0})
        found: list[Record] = []
        while batches := await reader.poll(1_000, 0):
            found.extend(record for batch in batches for record in batch.records)
        await reader.close()
        return found
