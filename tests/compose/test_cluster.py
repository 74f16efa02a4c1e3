"""compose.yaml's Kafka settings on real brokers, and what its health checks run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from msgspec.structs import replace

from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from atlas.core.errors import LogUnavailable
from atlas.ports.log import TopicPartition
from scripts.kafka_lib.broker import free_port
from tests.compose.cluster import cluster
from tests.compose.files import services
from tests.conformance.log_deployments import read_all, records, values
from tests.kafka.faults.raw_topics import admin
from tests.kafka_broker import own_broker, shared_broker
from tests.processes import START_MAX_S, eventually

#: One led by each broker.
PARTITIONS: Final = 3


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_three_brokers_hold_every_record_three_times_and_one_may_leave(tmp_path: Path) -> None:
    own_broker(tmp_path)  # or skip
    with cluster(tmp_path) as nodes:
        bootstrap = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        settings = KafkaSettings(bootstrap=bootstrap, shards=PARTITIONS)
        await started_again(replace(settings, min_insync=3), "strict")
        log = await KafkaLog.open(settings, SystemClock())
        try:
            assert log.notice == ""
            await log.create_topic("orders", PARTITIONS, None)
            rows = (await log.cluster.describe(["orders"]))["orders"]
            assert sorted(len(row[3]) for row in rows) == [3] * PARTITIONS
            for partition in range(PARTITIONS):
                assert await log.append("orders", partition, records("before")) == 0
            nodes[0].stop()
            for partition in range(PARTITIONS):
                await append(log, partition)
                found = values(await read_all(log, TopicPartition("orders", partition)))
                assert set(found) == {b"before", b"after"}
            # Whoever starts while a broker is away leaves a topic what it was made with.
            await started_again(replace(settings, min_insync=3), "strict")
            assert await setting_of(bootstrap, "strict", "min.insync.replicas") == "3"
        finally:
            await log.close()


async def started_again(settings: KafkaSettings, topic: str) -> None:
    log = await KafkaLog.open(settings, SystemClock())
    try:
        await log.create_topic(topic, PARTITIONS, None)
    finally:
        await log.close()


async def setting_of(bootstrap: str, topic: str, name: str) -> str:
    async with admin(bootstrap) as client:
        [response] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(*_, rows)] = response.resources
    found: dict[str, str] = {row[0]: row[1] for row in rows}
    return found[name]


async def append(log: KafkaLog, partition: int) -> None:
    """Append, again when the leader has just left."""
    for attempt in range(10):
        try:
            await log.append("orders", partition, records("after"))
            return
        except LogUnavailable:
            if attempt == 9:
                raise


def kafka_health(port: int) -> int:
    """What the health check of a broker exits with, for one on another port."""
    engine, *command = services()["kafka-1"]["healthcheck"]["test"]
    assert engine == "CMD"
    script = command.pop().replace("$$", "$")
    assert "127.0.0.1/9092" in script
    script = script.replace("127.0.0.1/9092", f"127.0.0.1/{port}")
    return subprocess.run(
        [*command, script], capture_output=True, timeout=START_MAX_S, check=False
    ).returncode


def test_a_broker_that_answers_is_healthy() -> None:
    port = int(shared_broker().rpartition(":")[2])
    # More than once: other tests keep the broker busy.
    eventually(lambda: kafka_health(port) == 0, "the broker is healthy")


def test_a_broker_that_is_away_or_stands_still_is_not(silent_port: int) -> None:
    assert kafka_health(free_port()) != 0
    assert kafka_health(silent_port) != 0
