"""Three Kafka clients that are not ours, each reading a whole topic as a downstream team would.

kcat (librdkafka, in C), the console consumer that comes with Kafka (Java), and confluent-kafka (librdkafka,
from Python). What they hand over is compared, so each gives key, headers and value as they came.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import orjson
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from scripts.kafka_lib.broker import QUICK, fetch_jars, java

#: For one client to read one topic.
READ_MAX_S: Final = 60.0
HOW_TO_KCAT: Final = "kcat is not installed (Debian: apt-get install kcat; macOS: brew install kcat)"
#: Between the parts of a line of the console consumer; no part of JSON, and in none of our keys.
_SEPARATOR: Final = "\x1f"


class Read(NamedTuple):
    """One record as a foreign client shows it; a tombstone's value is None."""

    partition: int
    offset: int
    key: str | None
    headers: Mapping[str, str]
    value: bytes | None


def need_kcat() -> None:
    """Skips the test where there is no kcat, and fails it where CI is set."""
    if shutil.which("kcat") is None:
        if os.environ.get("CI"):
            pytest.fail(HOW_TO_KCAT, pytrace=False)
        pytest.skip(HOW_TO_KCAT)


def read_with_kcat(bootstrap: str, topic: str, count: int) -> list[Read]:
    """In its JSON envelope, to the end of the topic; `count` is not needed."""
    need_kcat()
    command = ["kcat", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", "-J"]
    # It puts bytes that are no UTF-8 into its JSON as they are.
    lines = _output(command).decode(errors="replace").split("\n")
    return [_from_kcat(orjson.loads(line)) for line in lines if line]


def _from_kcat(shown: dict[str, object]) -> Read:
    headers = shown.get("headers") or []
    assert isinstance(headers, list)
    payload = shown["payload"]
    return Read(
        partition=int(str(shown["partition"])),
        offset=int(str(shown["offset"])),
        key=None if shown["key"] is None else str(shown["key"]),
        headers=dict(zip(headers[::2], headers[1::2], strict=True)),
        value=None if payload is None else str(payload).encode(),
    )


def read_with_console_consumer(bootstrap: str, topic: str, count: int) -> list[Read]:
    """As lines; it has to be told how many there are, for it knows no end."""
    shown = {"partition": "true", "offset": "true", "headers": "true", "key": "true", "value": "true"}
    properties = [f"print.{name}={value}" for name, value in shown.items()]
    properties += [f"key.separator={_SEPARATOR}", "headers.separator=\x1e", "null.literal=(null)"]
    command = [*java(fetch_jars()), *QUICK, "-Xmx256m", "org.apache.kafka.tools.consumer.ConsoleConsumer"]
    command += ["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning"]
    command += ["--max-messages", str(count), "--timeout-ms", str(int(READ_MAX_S * 1_000) // 2)]
    for each in properties:
        command += ["--formatter-property", each]
    return [_from_console(line) for line in _output(command).split(b"\n") if line]


def _from_console(line: bytes) -> Read:
    partition, offset, headers, key, value = line.split(_SEPARATOR.encode())
    named = [each.split(b":", 1) for each in headers.split(b"\x1e") if b":" in each]
    return Read(
        partition=int(partition.removeprefix(b"Partition:")),
        offset=int(offset.removeprefix(b"Offset:")),
        key=None if key == b"(null)" else key.decode(),
        headers={name.decode(): text.decode() for name, text in named},
        value=None if value == b"(null)" else value,
    )


def read_with_confluent(bootstrap: str, topic: str, count: int) -> list[Read]:
    """To the end of every partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"foreign-{time.monotonic_ns()}",
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=READ_MAX_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found: list[Read] = []
        left, deadline_s = len(partitions), time.monotonic() + READ_MAX_S
        while left:
            assert time.monotonic() < deadline_s, "the end of the topic was not reached"
            record = consumer.poll(1.0)
            if record is None:
                continue
            error = record.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left -= 1
                continue
            key, offset, partition = record.key(), record.offset(), record.partition()
            headers = {str(name): _text(value or b"") for name, value in list(record.headers() or [])}
            assert offset is not None
            assert partition is not None
            found.append(
                Read(partition, offset, None if key is None else _text(key), headers, record.value())
            )
        return found
    finally:
        consumer.close()


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()


def _output(command: list[str]) -> bytes:
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=READ_MAX_S, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2_000:]
    return ended.stdout


CLIENTS: Final[dict[str, Callable[[str, str, int], list[Read]]]] = {
    "kcat": read_with_kcat,
    "console-consumer": read_with_console_consumer,
    "confluent-kafka": read_with_confluent,
}
