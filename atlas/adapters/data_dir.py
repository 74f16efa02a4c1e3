"""The data directory: locks that die with the process that holds them, and files nobody else reads."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from atlas.core.errors import DataDirectoryInUse, DataDirectoryUnusable

LOCK_FILE: Final = "lock"
#: How often a projector that stands by looks whether it can take over.
LOOK_EVERY_S: Final = 0.2
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


@contextmanager
def _using(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataDirectoryUnusable(f"cannot use {what}: {error.strerror or error}") from error


class FileLock:
    """A lock on a file, from here until `close` or the end of the process, however it dies.

    It belongs to the open file, and the kernel drops it. The file stays: removing it would let two own it.

    Args:
        path: the file, made if it is not there; holds the owner's process id, for people.
        whose: what is in use, for people.
        shared: own it together with all others that share it.

    Raises:
        DataDirectoryInUse: another process, or another part of this one, owns it.
        DataDirectoryUnusable: it cannot be made or written.
    """

    def __init__(self, path: Path, whose: str, *, shared: bool = False) -> None:
        with _using(path):
            self._own(path, whose, shared)

    def _own(self, path: Path, whose: str, shared: bool) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        self._file: int | None = file
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            os.truncate(file, 0)
            if not shared:
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            owner = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            self.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise DataDirectoryInUse(f"{whose} is in use by process {owner or 'unknown'}") from error

    def close(self) -> None:
        """Give it up."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DataDirectory(FileLock):
    """A data directory this process owns. See `FileLock` for what it raises.

    Args:
        path: made, for this user alone, if it is not there.
        shared: own it together with others that share it; each then takes the lock of its role.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        with _using(f"the data directory {path}"):
            path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        super().__init__(path / LOCK_FILE, str(path), shared=shared)


def lock_gateway(directory: Path) -> FileLock:
    """Be the one gateway on this data directory, and so on its `keys.db`.

    Raises:
        DataDirectoryInUse: there is one.
    """
    return FileLock(directory / "gateway.lock", f"{directory} as a gateway's")


async def lock_projector(directory: Path, waiting: Callable[[str], None]) -> FileLock:
    """Be the one projector on this data directory, and so on its read model: wait for the one before to end.

    Args:
        waiting: called once, with a line for people, if there is something to wait for.
    """
    told = False
    while True:
        try:
            return FileLock(directory / "projector.lock", f"{directory} as a projector's")
        except DataDirectoryInUse as error:
            if not told:
                waiting(str(error))
            told = True
        await asyncio.sleep(LOOK_EVERY_S)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file by one with this content that its owner alone may read.

    Atomic and durable: whoever looks, after a crash too, finds the old content or the new.

    Raises:
        DataDirectoryUnusable: it cannot be written.
    """
    with _using(path):
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a crash; its mode may be anything
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    sync_directory(path.parent)


def read_or_create_private(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content; if there is no file, what `make` returns, written first.

    An existing file that others may read is closed to them. Call it while owning the directory.

    Raises:
        DataDirectoryUnusable: it cannot be read or written.
    """
    with _using(path):
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    os.fchmod(file.fileno(), _FILE_MODE)
                return file.read()
        except FileNotFoundError:
            content = make()
            _replace(path, content)
            return content


def sync_directory(path: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
