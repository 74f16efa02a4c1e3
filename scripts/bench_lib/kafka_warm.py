"""Worker: `KAFKA_WARM BOOTSTRAP`: keeps a new broker busy until its Java code is compiled.

A broker that has just started interprets: at 200 events a second it took 88 % of a core at first and 40 %
after a minute, and what is measured beside it on the same two cores had to wait for it. Asked for so many
seconds, it sends small requests to every partition, reads them back, and answers with their number.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from scripts.bench_lib.worker import say

_TOPIC: Final = "bench.warm"
_PARTITIONS: Final = 6
_VALUE: Final = b"x" * 700
_POLL_MS: Final = 100


async def _produce(producer: Any, partition: int, ends_s: float) -> int:
    sent = 0
    while time.perf_counter() < ends_s:
        await producer.send_and_wait(_TOPIC, _VALUE, partition=partition)
        sent += 1
    return sent


async def _consume(consumer: Any, ends_s: float) -> int:
    while time.perf_counter() < ends_s:
        await consumer.getmany(timeout_ms=_POLL_MS)
    return 0


async def _warm(bootstrap: str, seconds: float) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(_TOPIC, _PARTITIONS, 1)])
    ends_s = time.perf_counter() + seconds
    async with (
        AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer,
        AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer,
    ):
        consumer.assign([TopicPartition(_TOPIC, number) for number in range(_PARTITIONS)])
        producing = (_produce(producer, number, ends_s) for number in range(_PARTITIONS))
        sent = sum(await asyncio.gather(_consume(consumer, ends_s), *producing))
    await admin.delete_topics([_TOPIC])
    await admin.close()
    return sent


def main() -> None:
    """Answer each line."""
    say({})
    for line in sys.stdin.buffer:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            say({"requests": runner.run(_warm(sys.argv[1], orjson.loads(line)["seconds"]))})


if __name__ == "__main__":
    main()
