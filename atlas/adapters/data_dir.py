"""The data directory of one Atlas process: a lock that dies with the process, and files nobody else reads."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from atlas.core.errors import DataDirectoryInUse

LOCK_FILE: Final = "lock"
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


class DataDirectory:
    """A data directory this process owns, from here until `close` or the end of the process.

    Args:
        path: made, for this user alone, if it is not there.

    Raises:
        DataDirectoryInUse: another process, or another part of this one, owns it.
        OSError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        # The lock belongs to the open file: the kernel drops it when the process dies, however it dies.
        self._lock: int | None = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            self.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise DataDirectoryInUse(f"{path} is in use by process {owner or 'unknown'}") from error
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the directory up. The lock's file stays: removing it would let two own it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_private(path: Path, content: bytes) -> None:
    """Replace the file by one with this content that its owner alone may read.

    Atomic and durable: whoever looks, after a crash too, finds the old content or the new.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a crash; its mode may be anything
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    _sync_directory(path.parent)


def read_or_create_private(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content; if there is no file, what `make` returns, written first.

    An existing file that others may read is closed to them. Call it while owning the directory.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        content = make()
        write_private(path, content)
        return content
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, _FILE_MODE)
        return file.read()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
