"""An `atlas dev` that is killed and started again, always on the same data directory and port."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.processes import STOP_MAX_S, end, first_line, spawn

SERVERS: Final = ("hypercorn", "uvicorn")
_WIDE: Final = ("--quota-per-minute", "60000000", "--quota-burst", "1000000")


#: How a process that was killed (-9) ended.
KILLED: Final = -signal.SIGKILL


@dataclass(frozen=True)
class Announced:
    """What the first line of `--json` says; `keys` by environment."""

    url: str
    keys: Mapping[str, str]


class Server:
    """At most one process at a time; leaving its `with` block kills it.

    Attributes:
        data_dir: of every process.
        starts: how often one was started; `started_s` is when the last was, by the monotonic clock.
        starts_s: from each start that was waited for to the announcement.
    """

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.starts = 0
        self._stderr = directory / "stderr.log"
        self._port = 0
        self.started_s = 0.0
        self.starts_s: list[float] = []
        self._announced: Announced | None = None
        self._process: subprocess.Popen[str] | None = None

    def start(self, server: str) -> None:
        """Start a process; it may be killed from here on."""
        assert self._process is None
        self.starts += 1
        self._announced = None
        self.started_s = time.monotonic()
        command = ["dev", "--json", "--port", str(self._port), "--data-dir", str(self.data_dir)]
        with self._stderr.open("a") as stderr:
            self._process = spawn([*command, "--server", server, *_WIDE], stderr=stderr)

    async def ready(self) -> Announced:
        """Wait until it says that it serves."""
        if self._announced is not None:
            return self._announced
        assert self._process is not None
        line = await asyncio.to_thread(first_line, self._process)
        assert line, f"atlas dev ended by itself:\n{self.stderr()[-4_000:]}"
        said = json.loads(line)
        self._port = int(said["url"].rpartition(":")[2])
        self.starts_s.append(time.monotonic() - self.started_s)
        keys = {"live": said["live_secret_key"], "test": said["test_secret_key"]}
        self._announced = Announced(said["url"], keys)
        return self._announced

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> int:
        """kill -9; its exit code, which is -9 unless it had ended before."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        code = process.wait(STOP_MAX_S)
        end(process)
        return code

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        assert self._process is not None
        self._process.terminate()

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self.ask_to_stop()
        await asyncio.to_thread(self._process.wait, STOP_MAX_S)
        return self.kill()

    def stderr(self) -> str:
        """What all processes have written to stderr."""
        return self._stderr.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
