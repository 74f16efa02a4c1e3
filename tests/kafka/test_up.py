"""`atlas up`: all of Atlas on Kafka under one supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.installation import ONE_BROKER, READY_MAX_S
from tests.kafka_broker import own_broker
from tests.processes import STOP_MAX_S, Reply, end, eventually, first_line, request, run_atlas, spawn

ANY_PORTS = ("--port", "0", "--ops-port", "0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    broker = own_broker(tmp_path_factory.mktemp("broker"))
    try:
        yield broker.start()
    finally:
        broker.stop()


class Up:
    """One `atlas up`."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self._stderr = directory / "stderr.log"
        command = ["up", "--json", "--kafka", bootstrap, *ANY_PORTS, "--data-dir", str(directory / "data")]
        with self._stderr.open("a") as stderr:
            self.process = spawn([*command, *ONE_BROKER], stderr=stderr)
        line = first_line(self.process, READY_MAX_S)
        assert line, self.stderr()
        self.said: dict[str, Any] = json.loads(line)

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def children(self) -> dict[str, int]:
        """Process ids of what it started and that still runs, by role."""
        shown = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        rows = [line.split() for line in shown.splitlines()]
        return {row[row.index("atlas.cli") + 1]: int(row[0]) for row in rows if "atlas.cli" in row}

    def request(self, method: str, path: str, body: object, **headers: str) -> Reply:
        """One request with the live key."""
        return request(self.said["url"], method, path, body, self.said["live_secret_key"], headers)

    def make_stream(self) -> None:
        """There is the stream of the events from here on."""
        assert self.request("POST", "/v1/event-streams", {"name": "orders"}).status in (201, 409)

    def event(self, key: str) -> int:
        """The status of a POST of a keyed event."""
        body = {"stream": "orders", "type": "a.b", "occurred_at": "2026-05-18T14:22:11Z", "data": {}}
        return self.request("POST", "/v1/events", body, **{"Idempotency-Key": key}).status


@pytest.fixture
def up(bootstrap: str, tmp_path: Path) -> Iterator[Up]:
    made = Up(bootstrap, tmp_path)
    yield made
    end(made.process)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_what_ends_is_started_again_and_sigterm_ends_all(up: Up) -> None:
    children = up.children()
    assert set(children) == {"gateway", "projector", "deliverer"}
    up.make_stream()
    assert up.event("one") == 202

    os.kill(children["projector"], signal.SIGKILL)
    eventually(
        lambda: up.children().get("projector", children["projector"]) != children["projector"], "again"
    )

    last = up.children()
    up.process.terminate()
    assert up.process.wait(STOP_MAX_S) == 0
    for pid in last.values():
        eventually(lambda pid=pid: gone(pid), "every part ends")  # type: ignore[misc]  # bound at once
    assert "Traceback" not in up.stderr()


def test_nothing_outlives_a_supervisor_that_is_killed(up: Up) -> None:
    children = up.children()
    end(up.process)
    for pid in children.values():
        eventually(lambda pid=pid: gone(pid), "every part ends")  # type: ignore[misc]  # bound at once


def test_a_gateway_that_cannot_start_ends_it_with_one_line(bootstrap: str, tmp_path: Path) -> None:
    arguments = ["up", "--kafka", bootstrap, "--kafka-shards", "5", *ANY_PORTS, *ONE_BROKER]
    made = run_atlas(*arguments, "--data-dir", str(tmp_path), timeout_s=READY_MAX_S)
    assert made.returncode == 1
    lines = [line for line in made.stderr.splitlines() if line.startswith("atlas: ")]
    assert any("settings say 5 shards" in line for line in lines), made.stderr
    assert "Traceback" not in made.stderr
    assert made.stderr.splitlines()[-1] == "atlas: the gateway did not start (exit code 1)"


@pytest.mark.parametrize("taken", ["--port", "--ops-port"])
def test_a_start_without_its_ports_leaves_another_installation_as_it_is(
    up: Up, bootstrap: str, tmp_path: Path, taken: str
) -> None:
    up.make_stream()
    assert up.event("before") == 202
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ports = [*ANY_PORTS, taken, port]
        ended = run_atlas(
            "up", "--kafka", bootstrap, *ports, "--data-dir", str(tmp_path / "other"), *ONE_BROKER,
            timeout_s=READY_MAX_S,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        1,
        f"atlas: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with {taken}",
    )
    assert up.event("after") == 202


def test_more_parts_than_ports_are_refused(bootstrap: str, tmp_path: Path) -> None:
    arguments = ["up", "--kafka", bootstrap, "--port", "0", "--data-dir", str(tmp_path), *ONE_BROKER]
    ended = run_atlas(*arguments, "--ops-port", "65535")
    assert ended.returncode == 2
    assert "2 ports from --ops-port 65535 on go past 65535" in ended.stderr
