"""Atlas with its consumers: one process on the embedded log, or three of them on a Kafka broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from scripts.bench_lib.deployment import Server, Site, site
from scripts.bench_lib.kafka_site import kafka_site

EMBEDDED: Final = "embedded"
KAFKA: Final = "Kafka"
LOGS: Final = (EMBEDDED, KAFKA)


@contextmanager
def installed(log: str, server: str, directory: Path) -> Iterator[tuple[Site, Server]]:
    """New and empty; nothing of it is left."""
    if log == EMBEDDED:
        with site(directory) as place:
            yield place, place.server(server, "atlas")
        return
    with kafka_site(directory) as here, ExitStack() as parts:
        gateway = parts.enter_context(here.gateway(server))
        gateway.parts = [parts.enter_context(here.projector()), parts.enter_context(here.deliverer())]
        yield here.place, gateway
