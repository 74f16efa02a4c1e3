"""Real `atlas` processes for tests: started, waited for, stopped, killed; every wait is bounded.

with start_dev(tmp_path) as dev:
    dev.url, dev.live_secret_key, ...
    assert dev.stop() == 0
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self

ATLAS: Final = str(Path(sys.executable).with_name("atlas"))
#: Generous: other tests run at the same time. Nothing waits this long unless something is broken.
START_MAX_S: Final = 30.0
STOP_MAX_S: Final = 20.0
REQUEST_MAX_S: Final = 15.0
POLL_S: Final = 0.02


@dataclass
class Dev:
    """One `atlas dev --json` process; leaving its `with` block kills it."""

    process: subprocess.Popen[str]
    data_dir: Path
    stderr_path: Path
    first_line: str
    url: str
    workspace_id: str
    live_secret_key: str
    test_secret_key: str
    operator_token: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def secrets(self) -> list[str]:
        """What must never show on stderr or in a log."""
        return [self.live_secret_key, self.test_secret_key, self.operator_token]

    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self.stderr_path.read_text(errors="replace")

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One HTTP request, with the live key unless another `token` is given; `body` goes out as JSON."""
        return request(self.url, method, path, body, token or self.live_secret_key, headers)

    def send(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_MAX_S) -> int:
        """Its exit code, once it ended."""
        return self.process.wait(timeout_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(STOP_MAX_S)

    def rest_of_stdout(self) -> str:
        """Everything on stdout after the first line; for a process that has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self.process)


class Reply(NamedTuple):
    """An answer: header names in lower case, the body as it came and decoded."""

    status: int
    headers: dict[str, str]
    content: bytes
    value: Any


def request(
    url: str,
    method: str,
    path: str,
    body: object = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One HTTP request on a connection of its own.

    Raises:
        OSError, HTTPException: there was no whole answer.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=REQUEST_MAX_S)
    sent = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        sent["Content-Type"] = "application/json"
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {**sent, **(headers or {})})
        answer = connection.getresponse()
        read = answer.read()
    finally:
        connection.close()
    named = {name.lower(): text for name, text in answer.getheaders()}
    is_json = named.get("content-type", "").startswith("application/json")
    return Reply(answer.status, named, read, json.loads(read) if is_json else None)


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = START_MAX_S) -> None:
    """Wait until the condition holds, looking again and again."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        pause.wait(POLL_S)


def start_dev(tmp_path: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Dev:
    """Start `atlas dev --json` on a free port over `tmp_path / "data"`; returns once it serves.

    Called again with the same `tmp_path` after `stop` or `kill`, it continues with the same data.

    Args:
        arguments: further ones for `atlas dev`; they win over the ones given here.
        env: added to the environment, from which every `ATLAS_...` has been taken out.
    """
    tmp_path.mkdir(exist_ok=True)
    data_dir = tmp_path / "data"
    stderr_path = tmp_path / f"stderr-{time.monotonic_ns()}.log"
    command = ["dev", "--json", "--port", "0", "--data-dir", str(data_dir), *arguments]
    with stderr_path.open("w") as stderr:
        process = spawn(command, stderr=stderr, env=env)
    try:
        line = first_line(process)
        assert line, f"atlas dev ended with {process.wait(STOP_MAX_S)}:\n{stderr_path.read_text()}"
        return Dev(process, data_dir, stderr_path, line, **json.loads(line))
    except BaseException:
        end(process)
        raise


def spawn(
    arguments: Sequence[str], *, stderr: IO[str] | int, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `atlas` with stdout as a pipe and without stdin."""
    return subprocess.Popen(
        [ATLAS, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(env),
    )


def run_atlas(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout_s: float = START_MAX_S,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `atlas` to its end."""
    return subprocess.run(
        [ATLAS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(env),
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without Atlas's own variables, with these added."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
    return {**kept, **(added or {})}


def first_line(process: subprocess.Popen[str], timeout_s: float = START_MAX_S) -> str:
    """The first line of stdout; empty when the process ended without one, or took too long."""
    assert process.stdout is not None
    guard = threading.Timer(timeout_s, process.kill)
    guard.start()
    try:
        return process.stdout.readline()
    finally:
        guard.cancel()


def end(process: subprocess.Popen[str]) -> None:
    """Kill it if it still runs, and release its pipes."""
    process.kill()
    process.wait(STOP_MAX_S)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
