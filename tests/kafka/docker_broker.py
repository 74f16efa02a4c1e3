"""A Kafka broker in a container, where a Docker engine answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from scripts.kafka_lib.broker import START_MAX_S, NoBroker, await_answer

IMAGE: Final = "apache/kafka:4.3.1"
_PING_MAX_S: Final = 3
_PORT: Final = 9092


def start_in_docker() -> tuple[str, Callable[[], Any]] | None:
    """Bootstrap address and how to end it; None without an engine.

    Raises:
        NoBroker: there is an engine, but the broker did not start on it.
    """
    if not _engine_answers():
        return None
    with socket.socket() as probe:  # what it advertises must be known before it starts
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    container = DockerContainer(IMAGE).with_bind_ports(_PORT, port)
    for name, value in _settings(port).items():
        container = container.with_env(name, value)
    try:
        container.start()
    except DockerException as error:
        raise NoBroker(f"Docker answers, but could not run {IMAGE}: {error}") from error
    if not await_answer(port, START_MAX_S):
        container.stop()
        raise NoBroker(f"{IMAGE} started in Docker, but does not answer")
    return f"127.0.0.1:{port}", container.stop


def _engine_answers() -> bool:
    try:
        client = docker.from_env(timeout=_PING_MAX_S)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def _settings(port: int) -> dict[str, str]:
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{_PORT},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
