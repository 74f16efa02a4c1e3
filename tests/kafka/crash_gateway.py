"""A gateway's write path in a process of its own, to be killed: accepts one event, then says so.

python -m tests.kafka.crash_gateway BOOTSTRAP INDEX WORKSPACE_ID STREAM KEY NOTE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.system_clock import SystemClock
from tests.kafka.control import Control
from tests.kafka.events import event, stream_named


async def main(bootstrap: str, index: str, workspace_id: str, name: str, key: str, note: str) -> None:
    clock = SystemClock()
    log = await KafkaLog.open(KafkaSettings(bootstrap=bootstrap, shards=1), clock)
    control = await Control.open(log, clock)
    acceptor = await KafkaAcceptor.open(log, Path(index), clock, control.producers)
    await acceptor.recovered()
    outcome = await acceptor.accept([event(stream_named(workspace_id, name), key, shards=1, note=note)])
    sys.stdout.write(f"{outcome}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
