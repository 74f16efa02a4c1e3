"""The Kafka cluster of compose.yaml without a container engine: its settings, on ports of this machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from scripts.kafka_lib.broker import QUICK, START_MAX_S, STOP_MAX_S, await_answer, fetch_jars, free_port, java
from tests.compose.files import KAFKA_SERVICES, services

#: Not settings of the broker, but of what starts it in the image.
_OF_THE_IMAGE: Final = {"CLUSTER_ID", "KAFKA_HEAP_OPTS"}
#: Little memory, and no time spent on making fast what soon ends.
_MEMORY: Final = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", *QUICK)


class Node:
    """One broker of the cluster."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self.process = port, process

    def is_going(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """As an engine does it: SIGTERM, and time to hand over."""
        self.process.terminate()
        self.process.wait(STOP_MAX_S)

    def kill(self) -> None:
        """What the last two are ended with: without a quorum they would wait for one."""
        self.process.kill()
        self.process.wait(STOP_MAX_S)


def properties(service: str, port_by_address: dict[str, int], home: Path) -> dict[str, str]:
    """A service's environment as the image makes server.properties of it, with addresses of this machine.

    Args:
        port_by_address: by the service's name and the port there.
        home: where its data is to lie.
    """
    given = services()[service]["environment"]
    found = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in given.items()
        if name not in _OF_THE_IMAGE
    }
    for name, value in found.items():

        def local(match: re.Match[str], own: str = service) -> str:
            return f"{match[1]}127.0.0.1:{port_by_address[f'{match[2] or own}:{match[3]}']}"

        found[name] = re.sub(r"(://|@)((?!127)[\w-]*):(\d+)", local, value)
    return found | {"log.dirs": str(home / "data")}


@contextmanager
def cluster(home: Path) -> Iterator[list[Node]]:
    """The three brokers, answering."""
    jars = fetch_jars()
    ports = {f"{service}:{port}": free_port() for service in KAFKA_SERVICES for port in (9092, 9093, 9094)}
    with ExitStack() as stack:
        nodes = [_start(service, ports, home / service, jars, stack) for service in KAFKA_SERVICES]
        for node in nodes:
            assert await_answer(node.port, START_MAX_S, node.is_going)
        yield nodes


def _start(service: str, ports: dict[str, int], home: Path, jars: Path, stack: ExitStack) -> Node:
    home.mkdir(parents=True)
    settings = home / "server.properties"
    lines = [f"{name}={value}\n" for name, value in properties(service, ports, home).items()]
    settings.write_text("".join(lines))
    cluster_id = services()[service]["environment"]["CLUSTER_ID"]
    format_it = [*java(jars), *QUICK, "-Xmx128m", "kafka.tools.StorageTool", "format"]
    subprocess.run(
        [*format_it, "-t", cluster_id, "-c", str(settings)],
        check=True,
        capture_output=True,
        timeout=START_MAX_S,
    )
    with (home / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [*java(jars), *_MEMORY, "kafka.Kafka", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    node = Node(ports[f"{service}:9092"], process)
    stack.callback(node.kill)
    return node
