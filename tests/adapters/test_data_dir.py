"""The data directory: one owner, and files that are private and never half-written."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.adapters.data_dir import (
    LOOK_EVERY_S,
    DataDirectory,
    lock_gateway,
    lock_projector,
    read_or_create_private,
    write_private,
)
from atlas.core.errors import DataDirectoryInUse, DataDirectoryUnusable
from tests.virtual_time import VirtualClock, pass_time, virtual_time

_HOLD = """
import asyncio
import sys
from pathlib import Path
from atlas.adapters.data_dir import DataDirectory, lock_projector
directory = Path(sys.argv[1])
if sys.argv[2:] == ["projector"]:
    owned = asyncio.run(lock_projector(directory, print))
else:
    owned = DataDirectory(directory)
print("owned", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_it_is_made_for_its_owner_alone(tmp_path: Path, wide_umask: None) -> None:
    with DataDirectory(tmp_path / "a" / "b") as owned:
        assert mode(owned.path) == 0o700
        assert mode(owned.path / "lock") == 0o600


def test_it_has_one_owner(tmp_path: Path) -> None:
    with DataDirectory(tmp_path), pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
        DataDirectory(tmp_path)
    with DataDirectory(tmp_path):
        pass


def test_another_process_owns_it_until_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"owned\n"
        with pytest.raises(DataDirectoryInUse, match=f"process {other.pid}"):
            DataDirectory(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    with DataDirectory(tmp_path):
        pass


def test_roles_share_it_and_nobody_else_has_it(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path, shared=True),
        DataDirectory(tmp_path, shared=True),
        pytest.raises(DataDirectoryInUse, match="in use by process unknown"),
    ):
        DataDirectory(tmp_path)
    with DataDirectory(tmp_path), pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
        DataDirectory(tmp_path, shared=True)


def test_there_is_one_gateway(tmp_path: Path) -> None:
    with lock_gateway(tmp_path), pytest.raises(DataDirectoryInUse) as refused:
        lock_gateway(tmp_path)
    assert str(refused.value) == f"{tmp_path} as a gateway's is in use by process {os.getpid()}"
    lock_gateway(tmp_path).close()


@virtual_time
async def test_a_projector_stands_by_until_the_one_before_ends(clock: VirtualClock, tmp_path: Path) -> None:
    told: list[str] = []
    first = await lock_projector(tmp_path, told.append)
    assert told == []
    waits = [asyncio.ensure_future(lock_projector(tmp_path, told.append)) for _ in range(2)]
    await pass_time(3600)
    assert not any(wait.done() for wait in waits)
    assert told == [f"{tmp_path} as a projector's is in use by process {os.getpid()}"] * 2
    first.close()
    await pass_time(LOOK_EVERY_S)
    [second] = [wait for wait in waits if wait.done()]
    assert clock.monotonic_s() <= 3600 + LOOK_EVERY_S
    second.result().close()
    await pass_time(LOOK_EVERY_S)
    for wait in waits:
        wait.result().close()


def test_a_projector_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    async def take_over() -> None:
        told: list[str] = []
        waiting = asyncio.ensure_future(lock_projector(tmp_path, told.append))
        await asyncio.sleep(0)
        assert told == [f"{tmp_path} as a projector's is in use by process {other.pid}"]
        other.send_signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            (await waiting).close()

    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path), "projector"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"owned\n"
        asyncio.run(take_over())


def test_a_refusal_leaves_the_owner_alone(tmp_path: Path) -> None:
    with DataDirectory(tmp_path):
        for _ in range(2):
            with pytest.raises(DataDirectoryInUse):
                DataDirectory(tmp_path)


def test_a_private_file_is_private_and_replaced_whole(tmp_path: Path, wide_umask: None) -> None:
    path = tmp_path / "keys"
    write_private(path, b"first")
    write_private(path, b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


def test_a_crash_before_the_replacement_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_private(path, b"old")
    leftover = tmp_path / ".keys.new"
    leftover.write_bytes(b"half")
    leftover.chmod(0o644)
    assert read_or_create_private(path, lambda: b"other") == b"old"
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return os.urandom(32)

    first = read_or_create_private(tmp_path / "master", make)
    assert read_or_create_private(tmp_path / "master", make) == first
    assert len(made) == 1
    assert mode(tmp_path / "master") == 0o600


def test_a_secret_left_open_to_others_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "master"
    path.write_bytes(b"secret")
    path.chmod(0o644)
    assert read_or_create_private(path, bytes) == b"secret"
    assert mode(path) == 0o600


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    with pytest.raises(DataDirectoryUnusable, match="keys: Is a directory"):
        read_or_create_private(tmp_path / "keys", bytes)
    with pytest.raises(DataDirectoryUnusable, match="keys: Is a directory"):
        write_private(tmp_path / "keys", b"")
    with pytest.raises(DataDirectoryUnusable, match="none/keys: No such file"):
        read_or_create_private(tmp_path / "none" / "keys", bytes)


def test_a_directory_that_cannot_be_made_is_no_one_elses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirectoryUnusable, match="file"):
        DataDirectory(tmp_path / "file")
