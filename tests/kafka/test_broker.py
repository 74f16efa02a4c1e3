"""The ways to get a broker, and what tests may do to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.kafka_lib.broker import Broker, NoBroker, await_answer
from tests.kafka_broker import own_broker, shared_broker
from tests.processes import eventually
from tests.tidy_rules import ROOT


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_one_broker_serves_the_whole_run() -> None:
    address = shared_broker()
    assert shared_broker() == address
    assert await_answer(port_of(address), 10)


@pytest.mark.slow
def test_the_script_starts_and_stops_a_broker_that_keeps_its_place(tmp_path: Path) -> None:
    own_broker(tmp_path)  # or skip

    def kafka(command: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / "scripts" / "kafka"), command, "--home", str(tmp_path / "kafka")]
        return subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)

    assert kafka("status").returncode == 1
    try:
        started = kafka("start")
        assert (started.returncode, started.stderr) == (0, "")
        assert kafka("start").stdout == kafka("status").stdout == started.stdout
    finally:
        stopped = kafka("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "stopped\n")
    assert (kafka("stop").returncode, kafka("status").returncode) == (0, 1)
    assert Broker(tmp_path / "kafka").bootstrap() == started.stdout.strip()


@pytest.mark.slow
def test_a_broker_is_killed_paused_and_started_again(tmp_path: Path) -> None:
    broker = own_broker(tmp_path)
    try:
        address = broker.start()
        broker.pause()
        with socket.create_connection(("127.0.0.1", broker.port()), timeout=5):
            assert not await_answer(broker.port(), 0)
        broker.resume()
        assert await_answer(broker.port(), 10)
        broker.kill()
        assert broker.pid() is None
        assert broker.start() == address
        with pytest.raises(NoBroker, match="runs already"):
            broker.start(broker.port() + 1)
    finally:
        broker.stop()
    assert broker.pid() is None


@pytest.mark.slow
def test_the_keeper_ends_its_broker_once_its_user_is_gone(tmp_path: Path) -> None:
    own_broker(tmp_path)  # or skip
    directory = tmp_path / "kept"
    user = (
        "import pathlib, sys; from tests.kafka import keeper; print(keeper.obtain(pathlib.Path(sys.argv[1])))"
    )
    environment = {**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"}
    ran = subprocess.run(
        [sys.executable, "-c", user, directory],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("127.0.0.1:")
    eventually(lambda: not directory.exists(), "the keeper has gone")
    assert not await_answer(port_of(ran.stdout.strip()), 0)


def test_without_a_way_to_run_one_it_says_what_to_do(tmp_path: Path) -> None:
    own = ("ATLAS_TEST_KAFKA", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {"PATH": str(Path(sys.executable).parent), "DOCKER_HOST": "tcp://127.0.0.1:1"}
    test = tmp_path / "test_it.py"
    test.write_text("from tests.kafka_broker import shared_broker\ndef test_it():\n    shared_broker()\n")
    plain = ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(ROOT / "pyproject.toml")]
    for is_ci, outcome in (("", "1 skipped"), ("true", "1 failed")):
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *plain, str(test)],
            cwd=ROOT,
            env={**environment, "CI": is_ci},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert outcome in ran.stdout, ran.stdout + ran.stderr
        assert "install Java 17" in ran.stdout
