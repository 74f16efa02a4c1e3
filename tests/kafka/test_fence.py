"""One event, one record, whatever the wire and the gateways do: keys in doubt on a real broker."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_fence import digest, fence
from atlas.adapters.kafka_index import KeyIndex
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import Owner
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.entities import Stream
from atlas.core.errors import LogUnavailable
from atlas.core.facts import FENCE_SCHEMA, SCHEMA_HEADER
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import NewRecord, TopicPartition
from scripts.kafka_lib.broker import Broker
from tests.conformance.log_deployments import AT_ONCE_S, read_all
from tests.conformance.test_acceptor import CONFLICT, appended, replayed
from tests.kafka.control import Control
from tests.kafka.events import event, stream_named, write_down
from tests.kafka.produce_proxy import ProduceProxy, proxied, two_ports
from tests.kafka_broker import own_broker
from tests.processes import STOP_MAX_S
from tests.tidy_rules import ROOT

pytestmark = [pytest.mark.slow]
#: Kafka protocol guide, "Error codes".
INVALID_PRODUCER_EPOCH = 47


@dataclass
class Site:
    """A broker with a proxy before it, an index, and the log as a second gateway sees it."""

    broker: Broker
    proxy: ProduceProxy
    index: Path
    log: KafkaLog
    stream: Stream

    @property
    def topic(self) -> str:
        return self.stream.topic

    @property
    def source(self) -> TopicPartition:
        return TopicPartition(self.topic, 0)

    def event(self, key: str | None, note: str = "payload") -> Candidate:
        return event(self.stream, key, shards=1, note=note)

    def first_gateway(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.kafka.crash_gateway", f"127.0.0.1:{self.proxy.port}"]
        arguments = [str(self.index), self.stream.workspace_id, self.stream.name, "k", "payload"]
        return subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE)

    async def dies_with_its_produce_on_the_wire(self) -> None:
        self.proxy.hold(b'"of":"payload"')
        gateway = self.first_gateway()
        try:
            async with asyncio.timeout(AT_ONCE_S * 2):
                await self.proxy.held.wait()
        finally:
            gateway.kill()
            await asyncio.to_thread(gateway.communicate, timeout=STOP_MAX_S)

    async def late_answer(self) -> int:
        """Let the produce go; the leader's error code for it."""
        self.proxy.let_go()
        async with asyncio.timeout(AT_ONCE_S):
            frame = await self.proxy.answered.get()
        # size, correlation id, one topic, its name, one partition, its number, then the error code
        name_end = 4 + 4 + 4 + 2 + len(self.topic)
        return int.from_bytes(frame[name_end + 4 + 4 : name_end + 4 + 4 + 2], "big", signed=True)

    @asynccontextmanager
    async def second_gateway(self) -> AsyncIterator[KafkaAcceptor]:
        clock = SystemClock()
        control = await Control.open(self.log, clock)
        acceptor = await KafkaAcceptor.open(self.log, self.index, clock, control.producers)
        try:
            await acceptor.recovered()
            yield acceptor
        finally:
            await acceptor.close()
            await control.close()

    async def events(self) -> list[bytes | None]:
        """What the topic holds besides fences."""
        found = await read_all(self.log, self.source)
        return [record.value for record in found if (SCHEMA_HEADER, FENCE_SCHEMA) not in record.headers]


@pytest.fixture(scope="module")
def module_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, int, int]]:
    upstream_port, proxy_port = two_ports()
    broker = own_broker(tmp_path_factory.mktemp("fence"), proxied(upstream_port, proxy_port))
    broker.start()
    try:
        yield broker, upstream_port, proxy_port
    finally:
        broker.stop()


@pytest.fixture
async def site(module_broker: tuple[Broker, int, int], tmp_path: Path) -> AsyncIterator[Site]:
    broker, upstream_port, proxy_port = module_broker
    log = await KafkaLog.open(KafkaSettings(bootstrap=broker.bootstrap(), shards=1), SystemClock())
    stream = stream_named(f"ws_{uuid.uuid4().hex[:12]}", "fence")
    await log.create_topic(stream.topic, 1, None)
    control = await Control.open(log, SystemClock())
    await write_down(control, stream)
    await control.close()
    try:
        async with ProduceProxy(proxy_port, upstream_port) as proxy:
            yield Site(broker, proxy, tmp_path / "keys.db", log, stream)
    finally:
        await log.close()


def told_of(value: bytes | None) -> dict[str, object]:
    """What the answer to the event in a record says, besides its status and routes."""
    event = json.loads(value or b"")
    names = ("id", "stream", "type", "received_at", "occurred_at", "idempotency_key")
    return {name: event[name] for name in names}


async def test_what_went_through_is_answered_as_before(site: Site) -> None:
    """The first gateway dies after its record landed and before anybody was told."""
    await site.dies_with_its_produce_on_the_wire()
    assert await site.late_answer() == 0  # so the proxy does deliver what it held
    [landed] = await site.events()
    async with site.second_gateway() as gateway:
        [again] = await gateway.accept([site.event("k")])
        assert again.verdict is Verdict.REPLAYED
        assert json.loads(again.response).items() >= told_of(landed).items()
        assert await gateway.accept([site.event("k", "another payload")]) == [CONFLICT]
    assert await site.events() == [landed]


async def test_doubt_is_resolved_before_payloads_are_compared(site: Site) -> None:
    await site.dies_with_its_produce_on_the_wire()
    assert await site.late_answer() == 0
    async with site.second_gateway() as gateway:
        other = site.event("k", "another payload")
        assert await gateway.find(other.dedup_key or b"", other.payload_hash) == CONFLICT


@pytest.mark.parametrize("payload", ["payload", "another payload"])
async def test_a_produce_held_on_the_wire_across_a_takeover_is_refused(site: Site, payload: str) -> None:
    await site.dies_with_its_produce_on_the_wire()
    async with site.second_gateway() as gateway:
        taken_over = site.event("k", payload)
        assert await gateway.accept([taken_over]) == [appended(taken_over)]
        assert await site.late_answer() == INVALID_PRODUCER_EPOCH
        assert await site.events() == [taken_over.record.value]
        assert await gateway.accept([site.event("k", payload)]) == [replayed(taken_over)]
    assert await site.events() == [taken_over.record.value]


@pytest.mark.parametrize("backup", ["none", "made before"])
async def test_a_produce_held_on_the_wire_while_the_index_is_lost_is_refused(site: Site, backup: str) -> None:
    """The index that comes back knows nothing of who sent: the control log tells whom to shut out."""
    if backup == "made before":
        async with site.second_gateway() as gateway:
            await gateway.accept([site.event("other")])
    KeyIndex(site.index, lambda: 0).close()
    kept = site.index.read_bytes()
    await site.dies_with_its_produce_on_the_wire()
    for path in site.index.parent.glob("keys.db*"):
        path.unlink()
    if backup == "made before":
        site.index.write_bytes(kept)
    before = await site.events()
    async with site.second_gateway() as gateway:
        taken_over = site.event("k")
        assert await gateway.accept([taken_over]) == [appended(taken_over)]
        assert await site.late_answer() == INVALID_PRODUCER_EPOCH
    assert await site.events() == [*before, taken_over.record.value]


async def test_a_newer_epoch_of_one_producer_is_fenced_after_an_older_one(site: Site) -> None:
    gone = TopicPartition(site.topic, 7)
    ends = [
        (await fence(site.log.cluster, Owner(123_456, epoch), [site.source, gone]))[site.source]
        for epoch in (0, 0, 1, 0, 1, 5)
    ]
    assert ends == [1, 1, 2, 2, 2, 3]


async def test_a_fence_repeated_is_as_good_as_one(site: Site) -> None:
    """A second gateway that fences and dies before it wrote down what it found is taken over in turn."""
    await site.dies_with_its_produce_on_the_wire()
    with closing(sqlite3.connect(site.index)) as db:
        [row] = db.execute("SELECT producer_id, epoch FROM owner WHERE NOT is_over")
    ends = [await fence(site.log.cluster, Owner(*row), [site.source]) for _ in range(3)]
    assert ends[0] == ends[1] == ends[2] != {}
    async with site.second_gateway() as gateway:
        again = site.event("k")
        assert await gateway.find(again.dedup_key or b"", again.payload_hash) is None
        assert await gateway.accept([again]) == [appended(again)]
        assert await site.late_answer() == INVALID_PRODUCER_EPOCH
    assert await site.events() == [again.record.value]


async def test_a_failed_batch_leaves_a_doubt_that_is_resolved_while_the_gateway_lives(site: Site) -> None:
    async with site.second_gateway() as gateway:
        await gateway.accept([site.event("other")])
        await site.log._topics._alter(site.topic, {"max.message.bytes": "1000"})
        big = site.event("k", "x" * 2_000)
        with pytest.raises(LogUnavailable):
            await gateway.accept([big])
        await site.log._topics._alter(site.topic, {"max.message.bytes": "1000000"})
        assert await gateway.accept([big]) == [appended(big)]
        after = site.event("next")
        assert await gateway.accept([after]) == [appended(after)]
    assert len(await site.events()) == 3


async def test_topics_that_refuse_hold_up_no_other_for_long(site: Site) -> None:
    """Each refusal gives the producer up, and with it what others had under way in it."""
    streams = [stream_named(site.stream.workspace_id, f"other-{number}") for number in range(5)]
    for one in streams:
        await site.log.create_topic(one.topic, 1, None)
    ends_s = asyncio.get_running_loop().time() + 4
    async with site.second_gateway() as gateway:
        await gateway.accept([event(one, "first", shards=1) for one in (*streams, site.stream)])
        await site.log._topics._alter(site.topic, {"max.message.bytes": "100"})

        async def go_on(one: Stream) -> None:
            number = 0
            while asyncio.get_running_loop().time() < ends_s:
                number += 1
                with suppress(LogUnavailable):
                    await gateway.accept([event(one, f"{one.name}-{number}", shards=1)])
                await asyncio.sleep(0)

        await asyncio.gather(*(go_on(one) for one in (*streams, site.stream) for _ in range(3)))
        await site.log._topics._alter(site.topic, {"max.message.bytes": "1000000"})
        async with asyncio.timeout(AT_ONCE_S):
            for one in streams:
                late = event(one, f"{one.name}-late", shards=1)
                while True:
                    with suppress(LogUnavailable):
                        assert await gateway.accept([late]) in ([appended(late)], [replayed(late)])
                        break


async def test_an_unkeyed_event_in_doubt_is_not_sent_again(site: Site) -> None:
    async with site.second_gateway() as gateway:
        await site.log._topics._alter(site.topic, {"max.message.bytes": "1000"})
        with pytest.raises(LogUnavailable):
            await gateway.accept([site.event(None, "x" * 2_000)])
        await site.log._topics._alter(site.topic, {"max.message.bytes": "1000000"})
        await gateway.accept([site.event(None, "small")])
    assert len(await site.events()) == 1


@pytest.mark.timeout(150)  # a broker starts twice: half a minute each on a busy machine
async def test_one_record_for_each_key_while_the_broker_is_killed(site: Site) -> None:
    """Every answer is kept, and what nobody was told is one record or none."""
    told: dict[int, Outcome] = {}
    async with site.second_gateway() as gateway:

        async def client(number: int) -> None:
            while number not in told:
                try:
                    [told[number]] = await gateway.accept([site.event(f"{number}")])
                except LogUnavailable:
                    await asyncio.sleep(0)

        clients = [asyncio.create_task(client(number)) for number in range(200)]
        while len(told) < 50:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        site.broker.kill()
        await asyncio.to_thread(site.broker.start)
        async with asyncio.timeout(30):
            await asyncio.gather(*clients)
    assert Verdict.CONFLICT not in {outcome.verdict for outcome in told.values()}
    events = [json.loads(value or b"") for value in await site.events()]
    assert len(events) == 200
    answers = {number: json.loads(outcome.response)["id"] for number, outcome in told.items()}
    assert {int(event["idempotency_key"]): event["id"] for event in events} == answers


def test_a_record_is_named_by_its_key_and_value() -> None:
    names = {
        digest(NewRecord(value, record_key))
        for value in (None, b"", b"a", b"ab")
        for record_key in (None, b"", b"b", b"ab")
    }
    assert len(names) == 16
