"""Keeps one Kafka broker for a whole test run, however many workers it has and however they end.

It runs as a process of its own (`python -m tests.kafka.keeper DIRECTORY`), started by the first worker that
needs a broker. Each worker leaves its process id in `DIRECTORY/users`; once none of those lives, the keeper
ends the broker, removes its data and goes. So a run that is killed leaves nothing behind either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from scripts.kafka_lib.broker import START_MAX_S, Broker, NoBroker, locked
from tests.tidy_rules import ROOT

_POLL_S: Final = 0.2
#: Maven may have to bring the jars first.
_AWAIT_MAX_S: Final = START_MAX_S + 120.0


def obtain(directory: Path) -> str:
    """The broker's bootstrap address, for this process until it ends or calls `release`.

    Raises:
        NoBroker: there is none to be had; the message says why.
    """
    users, address, refusal = directory / "users", directory / "address", directory / "refusal"
    users.mkdir(parents=True, exist_ok=True)
    with locked(directory / "lock"):
        (users / str(os.getpid())).touch()
        if not (directory / "keeper").exists():
            (directory / "keeper").touch()
            with (directory / "keeper.log").open("ab") as log:
                keeper = subprocess.Popen(
                    [sys.executable, "-m", "tests.kafka.keeper", str(directory)],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the tests; the broker goes after them
                )
            keeper.returncode = 0  # nobody waits for it: it outlives this process
    deadline_s = time.monotonic() + _AWAIT_MAX_S
    while not address.exists():
        if refusal.exists():
            raise NoBroker(refusal.read_text())
        if time.monotonic() > deadline_s:
            raise NoBroker("it did not start in time")
        time.sleep(_POLL_S / 4)
    return address.read_text()


def release(directory: Path) -> None:
    """This process needs the broker no more."""
    (directory / "users" / str(os.getpid())).unlink(missing_ok=True)


def main(directory: Path) -> None:
    """Start a broker, say where it is, and end it when nobody uses it."""
    end: Callable[[], Any] = _nothing
    try:
        try:
            address, end = _start(directory)
            _say(directory / "address", address)
        except (NoBroker, OSError) as error:
            _say(directory / "refusal", str(error))
        while _used(directory):
            time.sleep(_POLL_S)
    finally:
        end()
        shutil.rmtree(directory, ignore_errors=True)


def _start(directory: Path) -> tuple[str, Callable[[], Any]]:
    from tests.kafka.docker_broker import start_in_docker  # the keeper alone pays for importing it

    in_docker = start_in_docker()
    if in_docker is not None:
        return in_docker
    broker = Broker(directory / "broker")
    return broker.start(), broker.stop


def _nothing() -> None:
    """Nothing was started."""


def _say(path: Path, text: str) -> None:
    """Whoever sees the file sees all of it."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def _used(directory: Path) -> bool:
    with locked(directory / "lock"):
        users = [path for path in (directory / "users").iterdir() if not _alive(int(path.name))]
        for path in users:
            path.unlink()
        if any((directory / "users").iterdir()):
            return True
        # Under the lock: whoever comes next starts another keeper.
        for name in ("keeper", "address"):
            (directory / name).unlink(missing_ok=True)
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
