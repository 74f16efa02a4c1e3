"""The gateway as a whole over the embedded log, run inline in virtual time, and clients of it.

`gateway` gives the application with one workspace, `Acme`, and its two secret keys. Handlers of events are
the shipped ones, but the read model holds nothing: what shows events is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from atlas.adapters.aes_secret_box import AesSecretBox
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.core import answers
from atlas.core.entities import Quota
from atlas.core.facts import CONTROL_TOPIC
from atlas.core.ids import IdSource
from atlas.core.limits import TOPICS_MAX_DEFAULT
from atlas.core.tokens import digest, make_operator_token
from atlas.gateway.app import SendsEvents, ShowsEvents, build_app
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics
from tests.asgi_client import AsgiClient
from tests.virtual_time import VirtualClock

SHARDS: Final = 4
#: A quota that is in nobody's way.
WIDE: Final = Quota(1_200_000, 100_000)
OPERATOR_TOKEN: Final = make_operator_token(bytes(20))
MASTER_KEY: Final = bytes(range(32))
EVENT: Final = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"order_id": "ord_8K2N1Q7", "total_cents": 4299},
}


class Entropy:
    """Randomness that is the same in every run and never repeats."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, count: int) -> bytes:
        self._drawn += 1
        blocks = -(-count // 32)
        return b"".join(hashlib.sha256(b"%d/%d" % (self._drawn, block)).digest() for block in range(blocks))[
            :count
        ]


class Handlers:
    """Handlers for the paths of events that only show what reached them.

    `answer` can be replaced by whatever a test wants to happen behind the front.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Call], Awaitable[Reply]] = self.echo

    async def echo(self, call: Call) -> Reply:
        """The body, the query and who asked."""
        body = await call.json() if call.header(b"content-type") else None
        seen = {
            "body": body,
            "query": call.query(),
            "path_params": dict(call.path_params),
            "scope": call.principal.scope,
            "key": call.principal.key.id,
        }
        return json_reply(200, seen)

    async def send(self, call: Call) -> Reply:
        return await self.answer(call)

    send_batch = list = retrieve = payload = attempts = send


class Gateway:
    """See the module. Make one with `gateway`."""

    def __init__(
        self,
        log: Log,
        clock: VirtualClock,
        quota: Quota,
        handlers: Handlers | None,
        topics_max: int,
        read_model: ReadModel,
    ) -> None:
        self.clock = clock
        self.log = log
        self.registry = Registry(log, clock)
        self.metrics = Metrics()
        self.ready: answers.Readiness = {"status": "ready", "checks": {"log": "ok"}}
        entropy = Entropy()
        self.secret_box = AesSecretBox(MASTER_KEY, entropy)
        self.services = Services(
            clock=clock,
            ids=IdSource(entropy, clock.now_ms),
            entropy=entropy,
            registry=self.registry,
            acceptor=cast(EmbeddedLog, log),
            log=log,
            read_model=read_model,
            secret_box=self.secret_box,
            metrics=self.metrics,
            quota_default=quota,
            topics_max=topics_max,
        )
        self.app = build_app(
            self.services,
            operator_token_digest=digest(OPERATOR_TOKEN),
            readiness=self._readiness,
            ingest=cast(SendsEvents, handlers),
            status=cast(ShowsEvents, handlers),
        )
        self.anonymous = AsgiClient(self.app)
        self.operator = AsgiClient(self.app, OPERATOR_TOKEN)
        self.workspace_id = ""
        self.live = self.test = self.anonymous

    async def workspace(self, name: str = "Acme") -> tuple[str, AsgiClient, AsgiClient]:
        """A new workspace: its id, and clients with its live and its test key."""
        made = (await self.operator.post("/admin/v1/workspaces", {"name": name})).json()
        live, test = (AsgiClient(self.app, key["secret"]) for key in made["keys"])
        return made["id"], live, test

    async def key(self, client: AsgiClient | None = None, **fields: object) -> tuple[str, AsgiClient]:
        """A new key: its id, and a client with it."""
        body = {"kind": "secret", **fields}
        answer = await (client or self.live).post("/v1/api-keys", body)
        assert answer.status == 201, answer.body
        return answer.json()["id"], AsgiClient(self.app, answer.json()["secret"])

    async def stream(self, name: str, client: AsgiClient | None = None, **fields: object) -> dict[str, Any]:
        answer = await (client or self.live).post("/v1/event-streams", {"name": name, **fields})
        assert answer.status == 201, answer.body
        made: dict[str, Any] = answer.json()
        return made

    async def workflow(
        self, workflow_id: str | None = None, client: AsgiClient | None = None, **fields: object
    ) -> dict[str, Any]:
        body = {"id": workflow_id, "url": "https://hooks.acme.example/atlas", **fields}
        answer = await (client or self.live).post("/v1/workflows", body)
        assert answer.status == 201, answer.body
        made: dict[str, Any] = answer.json()
        return made

    def counted(self, route: str, method: str, status: str) -> float:
        """The metric of requests."""
        labels = {"route": route, "method": method, "status": status}
        return self.metrics.registry.get_sample_value("atlas_http_requests_total", labels) or 0.0

    async def _readiness(self) -> answers.Readiness:
        return self.ready


@asynccontextmanager
async def gateway(
    clock: VirtualClock,
    directory: Path,
    *,
    quota: Quota = WIDE,
    handlers: Handlers | None = None,
    topics_max: int = TOPICS_MAX_DEFAULT,
    read_model: ReadModel | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway that is up, with a workspace.

    Args:
        clock: of the test.
        directory: for the log's file.
        quota: the platform's default.
        handlers: of the paths of events, other than the shipped ones.
        topics_max: streams of all workspaces together.
        read_model: for what shows something of it; else one that holds nothing.
    """
    nothing = await open_read_model(None)
    log = await EmbeddedLog.open(directory / "log.db", clock, shards=SHARDS, threads=False)
    await log.create_topic(CONTROL_TOPIC, 1, None)
    made = Gateway(log, clock, quota, handlers, topics_max, read_model or nothing)
    folding = asyncio.create_task(made.registry.run(), name="registry")
    try:
        await made.registry.catch_up()
        made.workspace_id, made.live, made.test = await made.workspace()
        yield made
    finally:
        folding.cancel()
        await asyncio.wait([folding])
        await log.close()
        await nothing.close()
