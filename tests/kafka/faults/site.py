"""All of Atlas on a broker of its own, under load, with what must be known to judge it afterwards.

One site serves one scenario after the other: what clients sent, topics held and receivers got adds up, and
is checked as a whole each time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from scripts.kafka_lib.broker import Broker
from tests.faults_client import Clients
from tests.faults_receiver import Receiver
from tests.faults_routes import ROUTES, TEMPERS, set_up
from tests.faults_views import Views, shown, whole_views
from tests.invariants import check
from tests.invariants_history import History, Logical, LogRecord, Reading, Violation
from tests.invariants_log import reading_of, the_log_stands
from tests.kafka.faults.raw_topics import Place, read_topics
from tests.kafka.installation import READY_MAX_S, SHARDS, Installation, Node
from tests.kafka.produce_proxy import ProduceProxy
from tests.processes import POLL_S

#: A gateway answers within 10 s, if only with 503; the rest is what a busy machine adds.
ANSWERS_WITHIN_S: Final = 10.0 + 5.0
#: Routed to `wf_fine` alone: its events end at once, or something is wrong.
PROBE: Final = "probe"
#: From the end of the load to the last outcome.
HEALS_WITHIN_S: Final = 45.0


class Site:
    """See the module; use it as an async context manager.

    Args:
        broker: not started, or fresh; made with the settings of `proxied(*ports)`.
        ports: of the broker's second listener, and of the proxy before it.

    Attributes:
        deleted: below which offset records were deleted, by topic and partition.
        foreign: what others than Atlas wrote.
        unseen: records deleted before the projector had read them: nobody can know of them.
        faults: what was not as it must be, besides the invariants.
    """

    def __init__(self, directory: Path, broker: Broker, ports: tuple[int, int], seed: int) -> None:
        self.broker, self.chance = broker, random.Random(seed)
        self.deliverers: list[Node] = []
        self.faults: list[str] = []
        self.deleted: dict[tuple[str, int], int] = {}
        self.foreign: set[Place] = set()
        self.unseen: set[Place] = set()
        self.records: dict[Place, LogRecord] = {}
        self.views: dict[str, tuple[bytes, bytes]] = {}
        self._readings: list[Reading] = []
        self._known: set[str] = set()
        self._directory = directory
        self.proxy = ProduceProxy(ports[1], ports[0])
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _enter(self) -> None:
        bootstrap = await asyncio.to_thread(self.broker.start)
        await self._exit.enter_async_context(self.proxy)
        self.receiver = Receiver(TEMPERS, random.Random(self.chance.getrandbits(64)))
        await self._exit.enter_async_context(self.receiver)
        self.atlas = self._exit.enter_context(Installation(self._directory, bootstrap))
        self.gateway = await asyncio.to_thread(self.atlas.start("gateway").announced)
        self._port = self.gateway.url.rpartition(":")[2]
        self.projector = self.atlas.start("projector")
        self.deliverers = [self.atlas.start("deliverer")]
        said = self.gateway.said
        keys = {"live": said["live_secret_key"], "test": said["test_secret_key"]}
        self.clients = Clients(self.gateway.url, keys, ANSWERS_WITHIN_S)
        self._exit.push_async_callback(self.clients.close)
        self.workspace_id = str(said["workspace_id"])
        self.secrets = await set_up(self.clients, self.receiver)
        await self.clients.make("live", "/v1/event-streams", {"name": PROBE, "default_routes": ["wf_fine"]})
        await self.claimed(self.deliverers[0])
        await self.ready()

    # -- nodes --------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """Those that ought to run."""
        return [self.gateway, self.projector, *self.deliverers]

    def processes(self) -> dict[str, int]:
        """Their process ids, by role and number."""
        return {node.name: node.process.pid for node in self.nodes()}

    async def start(self, role: str, through_proxy: bool = False) -> Node:
        """Start a node in the place of one that is gone; a deliverer, beside what there is."""
        arguments = ["--kafka", f"127.0.0.1:{self.proxy.port}"] if through_proxy else []
        if role == "gateway":
            arguments += ["--port", self._port]
        node = self.atlas.start(role, *arguments)
        if role == "gateway":
            self.gateway = node
        elif role == "projector":
            self.projector = node
        else:
            self.deliverers.append(node)
        await asyncio.to_thread(node.announced)
        return node

    async def stop(self, node: Node) -> None:
        """SIGTERM; it ends cleanly."""
        if code := await asyncio.to_thread(node.stop):
            self.faults.append(f"{node.name}: exit code {code} after SIGTERM")
        await self.kill(node)

    async def kill(self, node: Node) -> None:
        """kill -9."""
        await asyncio.to_thread(node.kill)
        if node in self.deliverers:
            self.deliverers.remove(node)

    async def claimed(self, node: Node, shards: int = SHARDS) -> None:
        """Wait until a deliverer has claimed so many shards, in all."""

        async def done() -> bool:
            return node.claims() >= shards

        await asyncio.to_thread(node.announced)
        await until(done, f"{node.name} claimed {shards} shards", READY_MAX_S)

    async def ready(self) -> None:
        """Wait until every node says that nothing is wrong with it."""
        for node in self.nodes():
            await asyncio.to_thread(node.ready)

    # -- what came of it ----------------------------------------------------------------------

    async def read(self) -> dict[Place, LogRecord]:
        """Read the raw topics now, and remember it; returns what is Atlas's own of it."""
        found = await read_topics(self.broker.bootstrap())
        kept = {
            place: record
            for place, record in self.records.items()
            if place.offset < self.deleted.get(place[:2], 0)
        }
        self.records = dict(sorted({**kept, **found}.items()))
        self._readings.append(reading_of(self.records.values()))
        return {place: record for place, record in found.items() if place not in self.foreign}

    async def look(self) -> Views:
        """What the API says of events that it had not been asked about in the end."""
        fresh = await whole_views(self.clients, ROUTES, self.faults, self.views)
        self.views.update(fresh)
        return fresh

    def history(self, healed_s: float | None) -> History:
        """All that is known, foreign records and unseen events marked as none of Atlas's."""
        marks = dict.fromkeys(self.unseen, "unseen") | dict.fromkeys(self.foreign, "foreign")
        unseen = [self.records[place] for place in self.unseen]
        ids = {each.json["id"] for each in unseen}
        logical = {_key_or_all(each.logical) for each in unseen}
        return History(
            tries=[each for each in self.clients.tries if _key_or_all(each.logical) not in logical],
            polls=[each for each in self.clients.polls if each.event_id not in ids],
            readings=[],
            records=[
                replace(record, schema=marks[place]) if place in marks else record
                for place, record in self.records.items()
            ],
            shown=shown(self.views),
            arrivals=self.receiver.arrivals,
            notices=self.receiver.notices,
            deleted=self.deleted,
            secrets=self.secrets,
            healed_s=healed_s,
            heals_within_s=HEALS_WITHIN_S,
        )

    def judge(self, history: History) -> list[Violation]:
        """What is wrong, and was not wrong before."""
        # What was read before is compared with the records as they lie, marks or not.
        as_read = replace(history, records=list(self.records.values()), readings=self._readings)
        found = [*check(history), *the_log_stands(as_read)]
        fresh = [violation for violation in found if str(violation) not in self._known]
        self._known.update(map(str, fresh))
        return fresh

    def stderr(self) -> dict[str, str]:
        """What every node has written to stderr, those that are gone included."""
        return {node.name: node.stderr() for node in self.atlas.nodes}


def _key_or_all(logical: Logical) -> Logical:
    """What a key is used for again goes with what was first known by it."""
    return logical if logical.key is None else logical._replace(payload="")


async def until(condition: Callable[[], Awaitable[bool]], what: str, within_s: float) -> None:
    """Wait until it holds, looking again and again.

    Raises:
        AssertionError: it did not in time.
    """
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"never happened: {what}"
        await asyncio.sleep(POLL_S)
