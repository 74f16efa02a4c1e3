"""`atlas up`: all of Atlas on Kafka under one supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.installation import ONE_BROKER, READY_MAX_S
from tests.kafka_broker import own_broker
from tests.processes import STOP_MAX_S, end, eventually, first_line, request, run_atlas, spawn

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
        command = ["up", "--json", "--kafka", bootstrap, "--port", "0", "--data-dir", str(directory / "data")]
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

    def event(self) -> int:
        """The status of a POST of an event."""
        body = {"stream": "orders", "type": "a.b", "occurred_at": "2026-05-18T14:22:11Z", "data": {}}
        try:
            return request(self.said["url"], "POST", "/v1/events", body, self.said["live_secret_key"]).status
        except OSError:
            return 0


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
    made = request(
        up.said["url"], "POST", "/v1/event-streams", {"name": "orders"}, up.said["live_secret_key"]
    )
    assert made.status == 201
    assert up.event() == 202

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
    arguments = ["up", "--kafka", bootstrap, "--kafka-shards", "5", "--port", "0", *ONE_BROKER]
    made = run_atlas(*arguments, "--data-dir", str(tmp_path), timeout_s=READY_MAX_S)
    assert made.returncode == 1
    lines = [line for line in made.stderr.splitlines() if line.startswith("atlas: ")]
    assert any("settings say 5 shards" in line for line in lines), made.stderr
    assert "Traceback" not in made.stderr
    assert made.stderr.splitlines()[-1] == "atlas: the gateway did not start (exit code 1)"
