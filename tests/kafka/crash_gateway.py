"""A gateway's write path in a process of its own, to be killed: accepts one event, then says so.

python -m tests.kafka.crash_gateway BOOTSTRAP INDEX TOPIC RESPONSE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from tests.conformance.test_acceptor import candidate
from tests.kafka.control import Control


async def main(bootstrap: str, index: str, topic: str, response: str) -> None:
    clock = SystemClock()
    log = await KafkaLog.open(KafkaSettings(bootstrap=bootstrap), clock)
    control = await Control.open(log, clock)
    acceptor = await KafkaAcceptor.open(log, Path(index), clock, control.producers)
    await acceptor.recovered()
    outcome = await acceptor.accept([candidate(topic, "k", "payload", response)])
    sys.stdout.write(f"{outcome}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
