"""Teams read event topics with clients of their own, and find what was sent, as the schemas say it.

The records come about as they do in production: over HTTP to a gateway on a real broker. Between them lies
what a reader has to pass over by the rules of schemas/asyncapi.yaml.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from confluent_kafka import Producer

from atlas.adapters.kafka_fence import fence
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import Owner
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.facts import CONTROL_TOPIC, EVENT_SCHEMA, FENCE_SCHEMA, SCHEMA_HEADER, event_topic
from atlas.core.limits import BATCH_EVENTS_MAX, DATA_BYTES
from atlas.core.murmur2 import partition_for
from atlas.ports.log import TopicPartition
from tests.api.test_payloads import events, same
from tests.kafka.foreign_clients import CLIENTS, READ_MAX_S, Read, need_kcat
from tests.kafka.installation import SHARDS, Installation, Node
from tests.kafka_broker import own_broker
from tests.schemas.contract import check_record
from tests.test_readme import blocks, section

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STREAM: Final = "github"
EVENT: Final = EVENT_SCHEMA.decode()
#: As the README has them.
README_BROKER: Final = "localhost:9092"
README_TOPIC: Final = "atlas.live.ws_4F9KQ2C7Z1.orders-prod"
READING: Final = section("Reading the topics directly")


@dataclass
class Place:
    """A topic and what is in it.

    Attributes:
        sent: what the producers sent, by the id each event got.
        count: records of any kind.
    """

    bootstrap: str
    topic: str
    sent: Mapping[str, dict[str, Any]]
    count: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A topic written by a gateway that is gone by now, and disturbed since."""
    directory = tmp_path_factory.mktemp("foreign")
    broker = own_broker(directory)
    bootstrap = broker.start()
    try:
        with Installation(directory, bootstrap) as atlas:
            gateway = atlas.start("gateway").announced()
            topic, sent = accepted(gateway)
            assert gateway.stop() == 0
        disturb(bootstrap, topic)
        asyncio.run(shut_out(bootstrap, topic))
        yield Place(bootstrap, topic, sent, len(sent) + len(DISTURBANCES) + SHARDS + 1)
    finally:
        broker.stop()


def accepted(gateway: Node) -> tuple[str, dict[str, dict[str, Any]]]:
    """The topic of a new stream, and what was sent to it by the ids of the events."""
    stream = gateway.request("POST", "/v1/event-streams", {"name": STREAM}).value
    wanted = [
        {**event, "ordering_key": f"customer \u00e9{number % 5}"} if number % 3 == 0 else event
        for number, event in enumerate(events())
    ]
    ids = []
    for number, event in enumerate(wanted[:20]):
        answer = gateway.request("POST", "/v1/events", event, **{"Idempotency-Key": f"single-{number}"})
        assert answer.status == 202, answer
        ids.append(answer.value["id"])
    for start in range(20, len(wanted), 40):
        answer = gateway.request("POST", "/v1/events/batch", {"events": wanted[start : start + 40]})
        assert answer.value["rejected"] == 0, answer
        ids += [item["event"]["id"] for item in answer.value["data"]]
    return event_topic("live", stream["workspace_id"], STREAM), dict(zip(ids, wanted, strict=True))


#: Header and value of records that foreign producers wrote.
DISTURBANCES: Final[tuple[tuple[str | None, bytes | None], ...]] = (
    (None, None),  # a tombstone
    (EVENT.replace("/1", "/2"), b'{"id":7}'),
    ("other.thing/1", b"\xff\x00"),
    (None, b"no header at all"),
)


def disturb(bootstrap: str, topic: str) -> None:
    """Foreign records, and one that repeats an event's id with other data."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for header, value in DISTURBANCES:
        headers: dict[str, str | bytes | None] = {} if header is None else {SCHEMA_HEADER: header}
        producer.produce(topic, value=value, key=b"foreign", headers=headers, partition=1)
    [first, *_] = CLIENTS["confluent-kafka"](bootstrap, topic, 0)
    repeated = {**orjson.loads(first.value or b""), "data": {"repeated": True}}
    producer.produce(
        topic,
        value=orjson.dumps(repeated),
        key=(first.key or "").encode(),
        headers=[(SCHEMA_HEADER, EVENT_SCHEMA)],
        partition=first.partition,
    )
    assert producer.flush(READ_MAX_S) == 0


async def shut_out(bootstrap: str, topic: str) -> None:
    """Fences as a gateway leaves them that takes over from one that is gone."""
    log = await KafkaLog.open(KafkaSettings(bootstrap=bootstrap, shards=SHARDS), SystemClock())
    try:
        control = CLIENTS["confluent-kafka"](bootstrap, CONTROL_TOPIC, 0)
        values = [orjson.loads(record.value or b"") for record in control]
        for value in values:
            check_record("atlas.control/1", value)
        [opened, *_] = [value["producer"] for value in values if value["command"] == "producer.open"]
        owner = Owner(opened["producer_id"], opened["epoch"])
        await fence(log.cluster, owner, [TopicPartition(topic, shard) for shard in range(SHARDS)])
    finally:
        await log.close()


def events_in(records: list[Read]) -> list[Read]:
    """By the two rules of schemas/asyncapi.yaml."""
    found: dict[str, Read] = {}
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        if record.headers.get(SCHEMA_HEADER) == EVENT:
            found.setdefault(orjson.loads(record.value or b"")["id"], record)
    return list(found.values())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_foreign_client_reads_what_was_sent(place: Place, client: str) -> None:
    records = CLIENTS[client](place.bootstrap, place.topic, place.count)
    kinds = Counter(record.headers.get(SCHEMA_HEADER) for record in records)
    assert kinds[EVENT] == len(place.sent) + 1
    assert kinds[FENCE_SCHEMA.decode()] == SHARDS
    assert len(records) == place.count
    assert sum(record.value is None for record in records) == 1
    for record in records:
        if record.headers.get(SCHEMA_HEADER) == FENCE_SCHEMA.decode():
            check_record(FENCE_SCHEMA.decode(), orjson.loads(record.value or b""))

    seen = {}
    for record in events_in(records):
        value = orjson.loads(record.value or b"")
        check_record(EVENT, value)
        seen[value["id"]] = value
        key = value["ordering_key"] or value["id"]
        assert record.key == key
        assert record.partition == partition_for(key.encode(), SHARDS)
    assert seen.keys() == place.sent.keys()
    for event_id, sent in place.sent.items():
        for field in ("stream", "type", "data", "actor", "metadata"):
            assert same(seen[event_id][field], sent[field]), (event_id, field)
        assert seen[event_id]["ordering_key"] == sent.get("ordering_key")


def test_the_payloads_are_worth_reading() -> None:
    sizes = [len(orjson.dumps(event["data"])) for event in events()]
    assert DATA_BYTES > max(sizes) > DATA_BYTES // 2
    assert len(sizes) < BATCH_EVENTS_MAX


def test_the_consumer_of_the_readme_reads_every_event_once(place: Place) -> None:
    (snippet,) = blocks("python", READING)
    assert len(snippet.strip().splitlines()) <= 16
    script = localized(snippet, place)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    guard = threading.Timer(READ_MAX_S, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in place.sent]
    finally:
        guard.cancel()
        process.kill()
        process.communicate(timeout=READ_MAX_S)
    printed = Counter(line.split(b" ", 1)[0].decode() for line in lines)
    assert printed == Counter(event["type"] for event in place.sent.values())
    expected = Counter(repr(_exact(event["data"])) for event in place.sent.values())
    assert Counter(repr(_exact(orjson.loads(line.split(b" ", 1)[1]))) for line in lines) == expected


def test_the_kcat_of_the_readme_shows_the_topic(place: Place, tmp_path: Path) -> None:
    need_kcat()
    (command,) = re.findall(r"^    (kcat .*)$", READING, re.MULTILINE)
    shown = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", localized(command, place)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=READ_MAX_S,
        check=True,
    ).stdout.splitlines()
    events_shown = [line for line in shown if line.startswith(f"{SCHEMA_HEADER}={EVENT} ".encode())]
    assert len(events_shown) == len(place.sent) + 1


def localized(text: str, place: Place) -> str:
    """With this broker and this topic in the place of the README's."""
    assert README_BROKER in text
    assert README_TOPIC in text
    return text.replace(README_BROKER, place.bootstrap).replace(README_TOPIC, place.topic)


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _exact(inner)) for key, inner in value.items())
    return [_exact(inner) for inner in value] if isinstance(value, list) else value
