"""Ways to leave a running Atlas no room on its disk, and to give it room again."""

from __future__ import annotations

import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FILESYSTEM_BYTES: Final = 48 * 1024 * 1024
#: What is left to Atlas while it is tight: some dozen big events.
ROOM_BYTES: Final = 8 * 1024 * 1024


class Disk(ABC):
    """Where a data directory lies."""

    @abstractmethod
    def tighten(self, pid: int) -> None:
        """Leave the process little room, or still as little if it is a new one."""

    @abstractmethod
    def free(self, pid: int) -> None:
        """Give it room again."""


class SmallFilesystem(Disk):
    """A tmpfs; a ballast file takes most of it."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    def tighten(self, pid: int) -> None:
        if not self._ballast.exists():
            self._ballast.write_bytes(bytes(FILESYSTEM_BYTES - ROOM_BYTES))

    def free(self, pid: int) -> None:
        self._ballast.unlink()


class FileSizeLimit(Disk):
    """RLIMIT_FSIZE of the running process: no file of its may grow beyond that."""

    def tighten(self, pid: int) -> None:
        _limit_file_size(pid, ROOM_BYTES // 2)

    def free(self, pid: int) -> None:
        _limit_file_size(pid, resource.RLIM_INFINITY)


@contextmanager
def small_filesystem(directory: Path) -> Iterator[Disk]:
    """A small filesystem at this place.

    Raises:
        OSError: this machine does not let us mount one.
    """
    directory.mkdir()
    options = ["-o", f"size={FILESYSTEM_BYTES},mode=700"]
    _run("mount", "-t", "tmpfs", *options, "atlas-test", str(directory))
    try:
        yield SmallFilesystem(directory)
    finally:
        _run("umount", "--lazy", str(directory))


@contextmanager
def file_size_limit() -> Iterator[Disk]:
    """A limit on the process.

    Raises:
        OSError: this system cannot limit a process that runs.
    """
    if sys.platform != "linux":
        raise OSError("prlimit is there on Linux only")
    yield FileSizeLimit()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{command[0]}: exit code {done.returncode}")


def _limit_file_size(pid: int, size: int) -> None:
    assert sys.platform == "linux"
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if size != resource.RLIM_INFINITY else hard, hard))
