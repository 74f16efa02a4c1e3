"""The processes of one measurement, and what is asked of Atlas over its API before and after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from scripts.bench_lib.event import STREAM
from scripts.bench_lib.worker import Process, Worker

WORKFLOW: Final = "wf_bench"
ROUTED: Final = "bench-routed"
_REQUEST_MAX_S: Final = 30.0
_SETTLE_MAX_S: Final = 120.0
_OPEN: Final = ("accepted", "processing", "retried")


class Server:
    """A server process and how to reach it.

    Attributes:
        parts: Atlas's other processes, if it has any.
    """

    def __init__(self, worker: Process, token: str, operator_token: str = "") -> None:
        self.worker = worker
        self.parts: list[Process] = []
        self.url: str = worker.ready["url"]
        self.token = token
        self._operator_token = operator_token

    def of_new_workspace(self, name: str) -> Server:
        """The same for another workspace."""
        made, _ = self._call(self._operator_token, "POST", "/admin/v1/workspaces", {"name": name})
        [token] = [key["secret"] for key in made["keys"] if key["environment"] == "live"]
        other = Server(self.worker, token)
        other.parts = self.parts
        return other

    def cpu_s(self) -> float:
        """CPU time of all of Atlas's processes."""
        return sum(process.cpu_s() for process in (self.worker, *self.parts))

    def memory_mb(self, field: str = "VmRSS") -> list[float]:
        """Of each process, see `Process.memory_mb`."""
        return [process.memory_mb(field) for process in (self.worker, *self.parts)]

    def call(self, method: str, path: str, body: object = None) -> tuple[Any, dict[str, str]]:
        """One request; the answer's value and headers."""
        return self._call(self.token, method, path, body)

    def _call(self, token: str, method: str, path: str, body: object) -> tuple[Any, dict[str, str]]:
        at = urlsplit(self.url)
        connection = HTTPConnection(at.hostname or "", at.port, timeout=_REQUEST_MAX_S)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, orjson.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return orjson.loads(content), {name.lower(): value for name, value in answer.getheaders()}

    def set_up(self, target_url: str | None = None, **policy: Any) -> None:
        """A stream without routes, and with a target one more with a route to it.

        Args:
            policy: of the target.
        """
        self.call("POST", "/v1/event-streams", {"name": STREAM})
        if target_url is not None:
            self.call("POST", "/v1/workflows", {"id": WORKFLOW, "url": target_url, **policy})
            self.call("POST", "/v1/event-streams", {"name": ROUTED, "default_routes": [WORKFLOW]})

    def settle(self) -> float:
        """Wait until the API says that every event is projected and delivered; seconds it took.

        A first page of the list waits for the projection, and says so when it has not caught up.
        """
        started_s = time.perf_counter()
        while time.perf_counter() - started_s < _SETTLE_MAX_S:
            if not any(self._is_listed(status) for status in _OPEN):
                return time.perf_counter() - started_s
            time.sleep(0.02)
        raise RuntimeError(f"events are still open {_SETTLE_MAX_S:.0f} s after the last was accepted")

    def project(self) -> None:
        """Wait until everything that has been accepted is projected."""
        while "x-atlas-lag-ms" in self.call("GET", "/v1/events?limit=1")[1]:
            pass

    def _is_listed(self, status: str) -> bool:
        page, headers = self.call("GET", f"/v1/events?limit=1&stream={ROUTED}&status={status}")
        return bool(page["data"]) or "x-atlas-lag-ms" in headers


class Site:
    """Where a measurement runs: a directory of its own, and processes that end with it."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack, self.directory = stack, directory
        self._servers = 0

    def server(self, server: str, kind: str) -> Server:
        """`kind` is `empty`, `paused` or `atlas`."""
        self._servers += 1
        data_dir = self.directory / str(self._servers)
        data_dir.mkdir()
        worker = self.worker("server", server, kind, str(data_dir))
        return Server(worker, worker.ready["token"], worker.ready.get("operator_token", ""))

    def worker(self, module: str, *arguments: str) -> Worker:
        return self._stack.enter_context(Worker(module, *arguments))


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """A place for one measurement; nothing of it is left."""
    with ExitStack() as stack:
        made = stack.enter_context(TemporaryDirectory(prefix="atlas-bench-", dir=directory))
        yield Site(stack, Path(made))


class Load:
    """Clients, each a process of its own, that share a job's connections.

    With one of them the client and a fast server work in turns on one loop's worth of requests: the server
    idles a third of the time, and what is measured is neither's limit. With two it is busy at 99 %.
    """

    def __init__(self, place: Site, clients: int = 2) -> None:
        self._clients = [place.worker("load") for _ in range(clients)]

    def send(self, server: Server, path: str, body: bytes, **job: Any) -> dict[str, Any]:
        """Carry out a job (see `load.Job`), with the server's CPU time in what comes of it."""
        before_s = server.worker.cpu_s()
        job |= {"url": server.url, "token": server.token, "path": path, "body": body.decode()}
        for share in ("connections", "requests", "rate"):
            if job.get(share) is not None:
                job[share] = -(-job[share] // len(self._clients))
        for client in self._clients:
            client.put(job)
        results = [client.answer() for client in self._clients]
        failed = [result["failed"] for result in results if "failed" in result]
        if failed:
            raise RuntimeError(f"load: {failed[0]}")
        requests = sum(result["requests"] for result in results)
        seconds = max(result["seconds"] for result in results)
        return {
            "requests": requests,
            "seconds": seconds,
            "rate": requests / seconds,
            "client_cpu_s": sum(result["cpu_s"] for result in results),
            "server_cpu_s": server.worker.cpu_s() - before_s,
            "latencies_ms": [
                max(values) for values in zip(*(r["latencies_ms"] for r in results), strict=True)
            ],
            "events": [event for result in results for event in result["events"]],
        }
