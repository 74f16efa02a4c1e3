"""The bench's processes: each answers one JSON line on stdin with one JSON line on stdout.

Load, receiver and server are processes of their own, so that nobody's work is counted as another's. A
worker ends when its stdin does, so none outlives the bench.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

ROOT: Final = Path(__file__).resolve().parents[2]
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_READ_BYTES: Final = 1 << 16


class Process:
    """A process that says a line of JSON when it is ready, and ends when its stdin does.

    Attributes:
        ready: what it said when it was ready.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_STDERR") else subprocess.DEVNULL,
            cwd=ROOT,
        )
        self._name = name
        self.ready = self.answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def put(self, request: dict[str, Any]) -> None:
        """Have it do something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(request) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The next line that it says: for a worker, to the oldest request that it has not answered."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self._name} ended with {self._process.wait()}; set BENCH_STDERR=1 to see why"
            )
        return orjson.loads(line)

    def cpu_s(self) -> float:
        """CPU time it has used, all threads, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mb(self, field: str = "VmRSS") -> float:
        """Resident memory now, or with `VmHWM` at its highest."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(field + ":")]
        return int(line.split()[1]) * 1024 / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker(Process):
    """A module of this package as a process."""

    def __init__(self, module: str, *arguments: str) -> None:
        super().__init__(module, [sys.executable, "-m", f"scripts.bench_lib.{module}", *arguments])

    def ask(self, request: dict[str, Any]) -> Any:
        """Have it do something, and wait until it is done."""
        self.put(request)
        return self.answer()


def say(answer: object) -> None:
    """A worker's answer, or that it is ready."""
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


def on_requests(answer: Callable[[dict[str, Any]], object], stop: asyncio.Event) -> None:
    """In a worker with an event loop: answer each request there, and stop at the end of stdin."""
    received = bytearray()

    def readable() -> None:
        chunk = os.read(0, _READ_BYTES)
        if not chunk:
            asyncio.get_running_loop().remove_reader(0)
            stop.set()
        received.extend(chunk)
        while (end := received.find(b"\n")) >= 0:
            line = bytes(received[:end])
            del received[: end + 1]
            say(answer(orjson.loads(line)))

    asyncio.get_running_loop().add_reader(0, readable)
