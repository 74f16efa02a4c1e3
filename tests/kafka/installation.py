"""Atlas on Kafka as real processes over one data directory, to be killed, paused and started again.

with Installation(tmp_path, broker.start()) as atlas:
    gateway = atlas.start("gateway")
    atlas.start("projector"), atlas.start("deliverer")
    request(gateway.url, "GET", "/readyz")
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.processes import STOP_MAX_S, Reply, end, eventually, first_line, request, spawn

#: A quota that is in nobody's way.
WIDE: Final = ("--quota-per-minute", "60000000", "--quota-burst", "1000000")
#: What the bundled brokers of one node can give.
ONE_BROKER: Final = ("--kafka-replication", "1", "--kafka-min-insync", "1")
READY_MAX_S: Final = 60.0
#: Atlas's default.
SHARDS: Final = 6


class Node:
    """One process of a role.

    Attributes:
        said: what its first line on stdout said; empty until it was waited for.
    """

    def __init__(self, name: str, command: list[str], directory: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.said: dict[str, Any] = {}
        self._stderr = directory / f"{name}.log"
        with self._stderr.open("a") as stderr:
            self.process: subprocess.Popen[str] = spawn(command, stderr=stderr, env=env)

    def announced(self) -> Self:
        """Wait until it says that it serves."""
        if not self.said:
            line = first_line(self.process, READY_MAX_S)
            assert line, f"{self.name} ended by itself:\n{self.stderr()[-4_000:]}"
            self.said = json.loads(line)
        return self

    def ready(self) -> Self:
        """Wait until /readyz says that nothing is wrong."""
        self.announced()
        eventually(lambda: self.readyz().status == 200, f"{self.name} ready", READY_MAX_S)
        return self

    @property
    def url(self) -> str:
        return str(self.said["url"])

    @property
    def key(self) -> str:
        """The live secret key that a gateway announced."""
        return str(self.said["live_secret_key"])

    def readyz(self) -> Reply:
        return request(self.url, "GET", "/readyz")

    def checks(self) -> dict[str, str]:
        """What /readyz finds wrong."""
        found: dict[str, str] = self.readyz().value["checks"]
        return {name: answer for name, answer in found.items() if answer != "ok"}

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """One request with the live key."""
        return request(self.url, method, path, body, self.key, headers)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        end(self.process)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_MAX_S)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def claims(self) -> int:
        """How often it has claimed a shard."""
        return self.stderr().count("shard claimed")

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")


class Installation:
    """All nodes; leaving the `with` block kills them.

    Args:
        directory: for its data and what the nodes print.
        bootstrap: of a cluster that is this installation's alone.
        server: of the gateways.
    """

    def __init__(self, directory: Path, bootstrap: str, server: str = "hypercorn") -> None:
        self.directory, self.bootstrap, self._server = directory, bootstrap, server
        self.data_dir = directory / "data"
        self.nodes: list[Node] = []

    def start(self, role: str, *arguments: str, env: Mapping[str, str] | None = None) -> Node:
        """Start a node; wait for it with `announced` or `ready`."""
        common = ["--json", "--kafka", self.bootstrap, "--data-dir", str(self.data_dir), *ONE_BROKER]
        own = {
            "gateway": ["--first-workspace", "--port", "0", "--server", self._server, *WIDE],
            "projector": ["--ops-port", "0"],
            "deliverer": ["--ops-port", "0", "--allow-networks", "127.0.0.0/8"],
        }[role]
        number = sum(node.name.startswith(role) for node in self.nodes)
        self.directory.mkdir(parents=True, exist_ok=True)
        node = Node(f"{role}-{number}", [role, *common, *own, *arguments], self.directory, env or {})
        self.nodes.append(node)
        return node

    def start_all(self) -> tuple[Node, Node, Node]:
        """A gateway, a projector and a deliverer, all ready."""
        gateway = self.start("gateway").announced()  # it makes the master key that the deliverer needs
        projector, deliverer = self.start("projector"), self.start("deliverer")
        deliverer.ready()
        eventually(lambda: deliverer.claims() == SHARDS, "all shards claimed", READY_MAX_S)
        return gateway.ready(), projector.ready(), deliverer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            end(node.process)
