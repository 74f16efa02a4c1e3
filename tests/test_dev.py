"""`atlas dev` as a process: what it prints, what it keeps, how it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import pytest

from tests.processes import Dev, end, eventually, request, run_atlas, spawn, start_dev

STOP_WITHIN_S: Final = 5.0
SERVERS: Final = ("hypercorn", "uvicorn")
EVENT: Final = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"order_id": "ord_8K2N1Q7", "total_cents": 4299},
}


def create_stream(dev: Dev, **fields: object) -> None:
    answer = dev.request("POST", "/v1/event-streams", {"name": "orders-prod", **fields})
    assert answer.status == 201, answer.value


def send(dev: Dev, key: str) -> tuple[int, bytes, Any]:
    answer = dev.request("POST", "/v1/events", EVENT, headers={"Idempotency-Key": key})
    return answer.status, answer.content, answer.value


# --- what it prints, and what it keeps


@pytest.mark.parametrize("server", SERVERS)
def test_json_is_one_line_that_opens_everything(tmp_path: Path, server: str) -> None:
    with start_dev(tmp_path, "--server", server) as dev:
        assert list(json.loads(dev.first_line)) == [
            "url",
            "workspace_id",
            "live_secret_key",
            "test_secret_key",
            "operator_token",
        ]
        assert dev.first_line.count("\n") == 1
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", dev.url)
        for key in (dev.live_secret_key, dev.test_secret_key):
            # Nothing is there that nobody asked for.
            assert dev.request("GET", "/v1/event-streams", token=key).value["data"] == []
            assert dev.request("GET", "/v1/workflows", token=key).value["data"] == []
        workspaces = dev.request("GET", "/admin/v1/workspaces", token=dev.operator_token).value["data"]
        assert [(each["id"], each["name"]) for each in workspaces] == [(dev.workspace_id, "default")]
        assert request(dev.url, "GET", "/readyz").status == 200
        create_stream(dev)
        assert send(dev, "k")[0] == 202

        assert dev.stop() == 0
        assert dev.rest_of_stdout() == ""
        assert not [secret for secret in dev.secrets() if secret in dev.stderr()]


def test_key_files_are_private(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in dev.data_dir.iterdir()}
        holding = {
            path.name
            for path in dev.data_dir.iterdir()
            if any(secret.encode() in path.read_bytes() for secret in dev.secrets())
        }
        assert holding == {"workspace.json", "operator.token"}
        assert {modes[name] for name in holding | {"master.key"}} == {0o600}
        assert stat.S_IMODE(dev.data_dir.stat().st_mode) == 0o700


def test_the_same_directory_gives_the_same_keys_and_loses_nothing(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        before = dev
        create_stream(dev)
        answered = send(dev, "k")
        assert dev.stop() == 0
    with start_dev(tmp_path, "--server", "uvicorn") as dev:
        assert (dev.workspace_id, dev.secrets()) == (before.workspace_id, before.secrets())
        assert dev.request("GET", f"/v1/events/{answered[2]['id']}").status == 200
        assert send(dev, "k") == answered


def test_a_lost_key_file_gets_new_keys_for_the_workspace_there_is(tmp_path: Path) -> None:
    with start_dev(tmp_path) as first:
        create_stream(first)
        assert first.stop() == 0
    (first.data_dir / "workspace.json").unlink()
    with start_dev(tmp_path) as dev:
        assert dev.workspace_id == first.workspace_id
        assert dev.live_secret_key != first.live_secret_key
        for token in (dev.live_secret_key, first.live_secret_key):
            names = [
                each["name"] for each in dev.request("GET", "/v1/event-streams", token=token).value["data"]
            ]
            assert names == ["orders-prod"]


def test_keys_written_down_but_never_proposed_are_proposed(tmp_path: Path) -> None:
    """As after a crash between the file and the log: here the log is lost altogether."""
    with start_dev(tmp_path) as first:
        assert first.stop() == 0
    for path in first.data_dir.glob("*.db*"):
        path.unlink()
    with start_dev(tmp_path) as dev:
        assert (dev.workspace_id, dev.secrets()) == (first.workspace_id, first.secrets())
        create_stream(dev)


def test_a_revoked_key_is_replaced_and_the_other_one_stays(tmp_path: Path) -> None:
    with start_dev(tmp_path) as first:
        (key,) = first.request("GET", "/v1/api-keys").value["data"]
        assert first.request("DELETE", f"/v1/api-keys/{key['id']}").status == 200
        assert first.stop() == 0
    with start_dev(tmp_path) as dev:
        assert dev.test_secret_key == first.test_secret_key
        assert dev.live_secret_key != first.live_secret_key
        create_stream(dev)
        assert dev.request("GET", "/v1/event-streams", token=first.live_secret_key).status == 401


def test_secrets_may_come_from_the_environment(tmp_path: Path) -> None:
    with start_dev(tmp_path / "a") as other:
        given = {"ATLAS_OPERATOR_TOKEN": other.operator_token, "ATLAS_MASTER_KEY": "5" * 64}
    with start_dev(tmp_path / "b", env=given) as dev:
        assert dev.operator_token == given["ATLAS_OPERATOR_TOKEN"]
        assert dev.request("GET", "/admin/v1/workspaces", token=dev.operator_token).status == 200
        assert not (dev.data_dir / "master.key").exists()


def test_the_quota_can_be_set(tmp_path: Path) -> None:
    with start_dev(tmp_path, "--quota-per-minute", "60", "--quota-burst", "3") as dev:
        answers = [dev.request("GET", "/v1/event-streams") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit"] == "3"


# --- how it refuses


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Exit code 1, nothing on stdout, and the one line on stderr."""
    ended = run_atlas("dev", "--json", *arguments, env=env)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("atlas: ")
    return line


def test_a_second_process_on_the_directory_is_refused(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        line = refused("--port", "0", "--data-dir", str(dev.data_dir))
        assert f"in use by process {dev.process.pid}" in line
        assert dev.request("GET", "/v1/event-streams").status == 200


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        line = refused("--port", str(dev.port), "--data-dir", str(tmp_path / "other"))
        assert str(dev.port) in line
        assert "--port" in line


def test_an_address_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    assert "192.0.2.1" in refused("--host", "192.0.2.1", "--port", "0", "--data-dir", str(tmp_path))


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "data directory" in refused("--data-dir", str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("variable", ["ATLAS_MASTER_KEY", "ATLAS_OPERATOR_TOKEN"])
def test_a_malformed_secret_is_refused_without_repeating_it(tmp_path: Path, variable: str) -> None:
    line = refused("--data-dir", str(tmp_path), env={variable: "canary-4711"})
    assert variable in line
    assert "canary" not in line


def test_a_damaged_key_file_is_refused(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        assert dev.stop() == 0
    (dev.data_dir / "workspace.json").write_text('{"live": "canary-4711"}')
    ended = run_atlas("dev", "--port", "0", "--data-dir", str(dev.data_dir))
    assert ended.returncode == 1
    assert "workspace.json is damaged" in ended.stderr
    assert "canary" not in ended.stderr


# --- how it ends


@pytest.fixture
def hanging_target() -> Iterator[socket.socket]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


def begin_an_attempt(dev: Dev, target: socket.socket) -> tuple[socket.socket, bytes]:
    """Let Atlas deliver to a target that hangs; returns its connection and what came over it."""
    url = f"http://127.0.0.1:{target.getsockname()[1]}/"
    made = dev.request("POST", "/v1/workflows", {"id": "wf_hangs", "url": url, "timeout_ms": 30_000})
    assert made.status == 201, made.value
    create_stream(dev, default_routes=["wf_hangs"])
    assert send(dev, "k")[0] == 202
    return next_attempt(target)


def next_attempt(target: socket.socket) -> tuple[socket.socket, bytes]:
    connection, _ = target.accept()
    connection.settimeout(20)
    return connection, connection.recv(65_536)


def hang(dev: Dev, held: ExitStack) -> None:
    """Clients that hold on: idle on a kept connection, in the midst of a head, and of a body."""
    head = f"Host: atlas\r\nAuthorization: Bearer {dev.live_secret_key}\r\n"
    for text in (
        f"GET /v1/event-streams HTTP/1.1\r\n{head}\r\n",
        f"POST /v1/events HTTP/1.1\r\n{head}",
        f"POST /v1/events HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{{",
    ):
        connection = held.enter_context(socket.create_connection(("127.0.0.1", dev.port), 20))
        connection.sendall(text.encode())
    idle = held.enter_context(socket.create_connection(("127.0.0.1", dev.port), 20))
    idle.sendall(f"GET /v1/event-streams HTTP/1.1\r\n{head}\r\n".encode())
    assert idle.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("server", SERVERS)
def test_it_ends_in_time_whoever_hangs(
    tmp_path: Path, hanging_target: socket.socket, server: str, number: int
) -> None:
    with start_dev(tmp_path, "--server", server) as dev, ExitStack() as held:
        attempt, _ = begin_an_attempt(dev, hanging_target)
        held.enter_context(closing(attempt))
        hang(dev, held)
        started_s = time.monotonic()
        assert dev.stop(number) == 0
        assert time.monotonic() - started_s < STOP_WITHIN_S
        assert "Traceback" not in dev.stderr()
        assert not [secret for secret in dev.secrets() if secret in dev.stderr()]


@pytest.mark.parametrize("server", SERVERS)
def test_an_idle_process_ends_at_once(tmp_path: Path, server: str) -> None:
    with start_dev(tmp_path, "--server", server) as dev:
        started_s = time.monotonic()
        assert dev.stop() == 0
        assert time.monotonic() - started_s < STOP_WITHIN_S / 2
        # A clean end leaves no write-ahead log behind.
        assert not list(dev.data_dir.glob("*-wal"))


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path, hanging_target: socket.socket) -> None:
    with start_dev(tmp_path) as dev:
        attempt, _ = begin_an_attempt(dev, hanging_target)
        with closing(attempt):
            dev.send(signal.SIGINT)
            eventually(lambda: refuses_connections(dev.port), "it accepts nothing any more")
            started_s = time.monotonic()
            assert dev.stop(signal.SIGINT) == 130
            assert time.monotonic() - started_s < 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_may_be_ended_while_it_starts(tmp_path: Path, number: int) -> None:
    process = spawn(["dev", "--port", "0", "--data-dir", str(tmp_path / "data")], stderr=subprocess.PIPE)
    try:
        eventually((tmp_path / "data" / "lock").exists, "it has taken its directory")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in stderr
    finally:
        end(process)


def test_another_master_key_is_refused(tmp_path: Path) -> None:
    with start_dev(tmp_path) as dev:
        assert dev.request("POST", "/v1/workflows", {"url": "http://127.0.0.1:9/"}).status == 201
        dev.stop()
    key = tmp_path / "data" / "master.key"
    kept = key.read_bytes()
    key.unlink()
    refused = run_atlas("dev", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert "the master key is not the one" in refused.stderr
    assert "Traceback" not in refused.stderr
    key.write_bytes(kept)
    with start_dev(tmp_path) as dev:
        assert dev.request("GET", "/readyz").status == 200


def test_it_listens_where_it_is_told(tmp_path: Path) -> None:
    with start_dev(tmp_path, "--host", "0.0.0.0") as dev:
        assert dev.url == f"http://127.0.0.1:{dev.port}"  # what can be called, not what was bound
        assert dev.request("GET", "/v1/event-streams").status == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_nobody_needs_to_read_what_it_prints(tmp_path: Path, arguments: list[str]) -> None:
    command = ["dev", "--port", "0", "--data-dir", str(tmp_path / "data"), *arguments]
    process = spawn(command, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        process.stdout.close()
        stdout = Path(f"/proc/{process.pid}/fd/1")
        eventually(lambda: stdout.readlink() == Path(os.devnull), "it has noticed that nobody reads")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        end(process)


# --- kill -9


def test_an_attempt_cut_off_is_repeated_under_its_number(
    tmp_path: Path, hanging_target: socket.socket
) -> None:
    with start_dev(tmp_path) as dev:
        attempt, first = begin_an_attempt(dev, hanging_target)
        dev.kill()
        attempt.close()
    with start_dev(tmp_path) as dev:
        attempt, again = next_attempt(hanging_target)
        with closing(attempt):
            for name in (b"X-Atlas-Attempt: 1", b"X-Atlas-Delivery-Id: "):
                assert name in first
                assert name in again
            attempt.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            event_id = send(dev, "k")[2]["id"]
            eventually(
                lambda: dev.request("GET", f"/v1/events/{event_id}").value["status"] == "delivered",
                "the event is delivered",
            )
            attempts = dev.request("GET", f"/v1/events/{event_id}/attempts").value["data"]
            assert [each["attempt"] for each in attempts] == [1]


@pytest.mark.parametrize("server", SERVERS)
def test_kill_loses_nothing_that_was_answered(tmp_path: Path, server: str) -> None:
    answered: dict[str, bytes] = {}
    enough = threading.Event()

    def produce(dev: Dev, producer: int) -> None:
        for number in range(10_000):
            key = f"{producer}-{number}"
            try:
                status, content, _ = send(dev, key)
            except (OSError, HTTPException):
                return  # killed
            if status == 202:
                answered[key] = content
                if len(answered) >= 100:
                    enough.set()

    quota = ("--server", server, "--quota-per-minute", "1000000", "--quota-burst", "100000")
    with start_dev(tmp_path, *quota) as dev, ThreadPoolExecutor(4) as producers:
        create_stream(dev)
        for producer in range(4):
            producers.submit(produce, dev, producer)
        assert enough.wait(30)
        dev.kill()
    with start_dev(tmp_path, *quota) as dev:
        for key, content in answered.items():
            assert send(dev, key)[:2] == (202, content)
            event_id = json.loads(content)["id"]
            assert dev.request("GET", f"/v1/events/{event_id}").value["id"] == event_id
