"""The two scripts that lie in the image beside Atlas."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from atlas.installation_secrets import master_key, operator_token
from atlas.settings import MASTER_KEY_VARIABLE, TOKEN_VARIABLE
from scripts.kafka_lib.broker import free_port
from tests.compose.files import COMPOSE
from tests.processes import START_MAX_S


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As the container does it."""
    return subprocess.run(
        [sys.executable, "-I", COMPOSE / name, *arguments],
        env={**os.environ, "http_proxy": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=START_MAX_S,
        check=False,
    )


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a process that answers `/readyz` so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status":"as it is"}' if self.path == "/readyz" else b""
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_follows_readiness(status: int, code: int) -> None:
    with answering(status) as port:
        told = run("health.py", str(port))
    assert (told.returncode, told.stderr) == (code, '{"status":"as it is"}\n')


def test_a_process_that_is_away_is_not_healthy() -> None:
    told = run("health.py", str(free_port()))
    assert told.returncode == 1
    assert told.stderr.startswith("no answer on port ")
    assert told.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_process_that_stands_still_is_not_healthy(silent_port: int) -> None:
    assert "timed out" in run("health.py", str(silent_port)).stderr


def test_the_env_file_holds_secrets_that_processes_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = run("make_env.py").stdout.splitlines()
    given = dict(line.split("=", 1) for line in lines)
    assert list(given) == [MASTER_KEY_VARIABLE, TOKEN_VARIABLE]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert master_key(tmp_path).hex() == given[MASTER_KEY_VARIABLE]
    assert operator_token(tmp_path) == given[TOKEN_VARIABLE]
    assert list(tmp_path.iterdir()) == []
    assert run("make_env.py").stdout.splitlines() != lines
