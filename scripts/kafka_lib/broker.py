"""One Apache Kafka broker on this machine, without a container engine: jars by Maven, run by Java.

Used by scripts/kafka and by the tests. Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
#: Where jars and data lie unless told otherwise; ignored by git.
CACHE: Final = HERE.parent.parent / ".kafka"
JAVA_VERSION_MIN: Final = 17
FETCH_MAX_S: Final = 600.0
#: From a cold start on a busy machine of two cores; 3 s when it is idle.
START_MAX_S: Final = 90.0
STOP_MAX_S: Final = 15.0
#: For a broker that ends and writes its classes down.
ARCHIVE_MAX_S: Final = 90.0
_POLL_S: Final = 0.05
#: Java's first compiler only: a broker starts with less CPU time, and carries less in the long run.
QUICK: Final = ("-XX:TieredStopAtLevel=1",)
#: How a person gets a broker, in one line.
HOW_TO: Final = (
    "install Java 17 or later and Maven, or start Docker, or set ATLAS_TEST_KAFKA=host:port to a broker"
)


class NoBroker(Exception):
    """It cannot be had here; the message says why."""


class Broker:
    """A broker over one directory; what it holds outlives `stop`, `kill` and `start`.

    Args:
        home: its directory: configuration, data, log file and process id.
        cache: where the jars lie; fetched when they are missing.
        overrides: settings of server.properties, in its own notation.
        format_arguments: more for the tool that makes the data directory, for example its first users.
        java_options: of its own; `QUICK` for one that does not live long.
    """

    def __init__(
        self,
        home: Path,
        cache: Path = CACHE,
        overrides: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
        java_options: Sequence[str] = QUICK,
    ) -> None:
        self.home, self._cache, self._overrides = home, cache, overrides or {}
        self._format_arguments, self._java_options = format_arguments, java_options
        self._pid_file = home / "broker.pid"
        self._properties = home / "server.properties"

    # -- controls -----------------------------------------------------------------------------

    def start(self, port: int | None = None) -> str:
        """Start it unless it runs, wait until it answers; returns its bootstrap address.

        Args:
            port: None: the one it had before, else any free one.

        Raises:
            NoBroker: Java or Maven is missing, or it did not start.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with locked(self.home / "lock"):
            if self.pid() is not None:
                if port not in {None, self.port()}:
                    raise NoBroker(f"it runs already, on port {self.port()}: stop it first")
                return self.bootstrap()
            return self.start_from(fetch_jars(self._cache), port)

    def start_from(self, jars: Path, port: int | None = None) -> str:
        """`start` for a caller that has the directory to itself, and the jars."""
        self._configure(port)
        if not (self.home / "data" / "meta.properties").exists():
            self._format(jars)
        self._launch(jars)
        self._await_answer()
        return self.bootstrap()

    def stop(self, gently_max_s: float = STOP_MAX_S) -> bool:
        """End it, gently and then not; False when it did not run."""
        pid = self.pid()
        if pid is None:
            return False
        self.resume()  # one that is paused cannot hear SIGTERM
        _signal(pid, signal.SIGTERM)
        if not self._await_end(pid, gently_max_s):
            _signal(pid, signal.SIGKILL)
            self._await_end(pid, STOP_MAX_S)
        self._pid_file.unlink(missing_ok=True)
        return True

    def kill(self) -> None:
        """End it with -9, and wait until it is gone."""
        if (pid := self.pid()) is not None:
            _signal(pid, signal.SIGKILL)
            self._await_end(pid, STOP_MAX_S)
        self._pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: connections stay up and nothing answers, from when this returns."""
        if (pid := self.pid()) is not None:
            _signal(pid, signal.SIGSTOP)
            _await_stopped(pid)

    def resume(self) -> None:
        """SIGCONT."""
        if (pid := self.pid()) is not None:
            _signal(pid, signal.SIGCONT)

    # -- what it is ---------------------------------------------------------------------------

    def pid(self) -> int | None:
        """Its process id while it runs."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        # A process id is used again by others: ours names its own configuration.
        ps = ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)]
        shown = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
        return pid if str(self._properties) in shown and not shown.startswith("Z") else None

    def port(self) -> int:
        """The port it listens on, or will by default; 0 before the first start."""
        return self._setting(r"^listeners=PLAINTEXT://[^:]+:(\d+)")

    def bootstrap(self) -> str:
        """Its address, for clients."""
        return f"127.0.0.1:{self.port()}"

    def log_tail(self, lines: int = 20) -> str:
        """The end of what it printed."""
        try:
            return "\n".join((self.home / "broker.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    # -- inside -------------------------------------------------------------------------------

    def _setting(self, pattern: str) -> int:
        try:
            found = re.search(pattern, self._properties.read_text(), re.MULTILINE)
        except FileNotFoundError:
            return 0
        return int(found[1]) if found else 0

    def _configure(self, port: int | None) -> None:
        controller_port = self._setting(r"^controller\.quorum\.bootstrap\.servers=[^:]+:(\d+)")
        text = (HERE / "server.properties").read_text()
        for name, value in self._overrides.items():
            line = re.compile(rf"^{re.escape(name)}=.*$", re.MULTILINE)
            text = line.sub(f"{name}={value}", text) if line.search(text) else f"{text}{name}={value}\n"
        for name, value in {
            "port": port or self.port() or free_port(),
            "controller_port": controller_port or free_port(),
            "log_directory": self.home / "data",
        }.items():
            text = text.replace(f"{{{name}}}", str(value))
        self._properties.write_text(text)

    def _format(self, jars: Path) -> None:
        # The tool would take one that begins with a dash for an option.
        cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        command = [*java(jars), *QUICK, "-Xmx128m", "kafka.tools.StorageTool", "format", "--standalone"]
        ended = subprocess.run(
            [*command, "-t", cluster, "-c", str(self._properties), *self._format_arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_MAX_S,
            check=False,
        )
        if ended.returncode != 0:
            shutil.rmtree(self.home / "data", ignore_errors=True)
            raise NoBroker(f"its data directory could not be made: {ended.stdout}{ended.stderr}")

    def _launch(self, jars: Path) -> None:
        memory = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC"]
        with (self.home / "broker.log").open("ab") as log:
            # A session of its own: Ctrl-C for whoever started it is not for the broker.
            process = subprocess.Popen(
                [*java(jars), *self._java_options, *memory, "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                start_new_session=True,
            )
        self._pid_file.write_text(f"{process.pid}\n")
        _children[process.pid] = process

    def _await_answer(self) -> None:
        if not await_answer(self.port(), START_MAX_S, lambda: self.pid() is not None):
            self.kill()
            raise NoBroker(f"the broker did not start:\n{self.log_tail()}")

    def _await_end(self, pid: int, timeout_s: float) -> bool:
        if (child := _children.get(pid)) is not None:
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            del _children[pid]
            return True
        deadline_s = time.monotonic() + timeout_s
        while self.pid() is not None:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True


#: Brokers this process started: somebody has to wait for them once they end.
_children: dict[int, subprocess.Popen[bytes]] = {}


def fetch_jars(cache: Path = CACHE) -> Path:
    """The directory of the broker's jars, brought by Maven the first time (54 MB), and made quick to load.

    Raises:
        NoBroker: Java or Maven is missing, or Maven could not get them.
    """
    _need_java()
    jars, made_from = cache / "jars", cache / "jars.pom.xml"
    pom = (HERE / "pom.xml").read_bytes()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "jars.lock"):
        if jars.is_dir() and made_from.is_file() and made_from.read_bytes() == pom:
            return jars
        _archive_of(jars).unlink(missing_ok=True)
        if shutil.which("mvn") is None:
            raise NoBroker("Maven (mvn) is not installed")
        made_from.unlink(missing_ok=True)
        shutil.rmtree(jars, ignore_errors=True)
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={jars.resolve()}"]
        ended = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), *copy],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_MAX_S,
            check=False,
        )
        if ended.returncode != 0:
            raise NoBroker(f"Maven could not get the broker:\n{ended.stdout[-2_000:]}")
        _make_archive(jars)
        made_from.write_bytes(pom)
    return jars


def _make_archive(jars: Path) -> None:
    """Have Java write down a broker's classes as it keeps them in memory: reading and checking them again is
    two thirds of a start (12 s of CPU time without, 4 s with it and `QUICK`).

    Without an archive, or with one of another Java, everything works as well.
    """
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(
            Path(directory), java_options=(*QUICK, f"-XX:ArchiveClassesAtExit={_archive_of(jars)}")
        )
        broker.start_from(jars)
        broker.stop(ARCHIVE_MAX_S)


def _archive_of(jars: Path) -> Path:
    return jars.with_name("classes.jsa")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; it goes with the process, however that ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def await_answer(port: int, timeout_s: float, going: Callable[[], bool] = lambda: True) -> bool:
    """Wait until the broker at this port answers; False when it stops `going` or takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not _answers(port):
        if not going() or time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _await_stopped(pid: int) -> None:
    """A signal is only sent: each thread of the broker goes on until it is next scheduled."""
    deadline_s = time.monotonic() + STOP_MAX_S
    while time.monotonic() < deadline_s:
        states = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, check=False)
        if states.stdout.strip().startswith(b"T"):
            return
        time.sleep(_POLL_S)


def _need_java() -> None:
    if shutil.which("java") is None:
        raise NoBroker("Java is not installed")
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    if found is None or int(found[1]) < JAVA_VERSION_MIN:
        raise NoBroker(f"Kafka needs Java {JAVA_VERSION_MIN} or later")


def java(jars: Path) -> list[str]:
    """The command line that a class of the broker's jars, and its arguments, are put behind."""
    jars = jars.resolve()
    archive = _archive_of(jars)
    quick = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    return ["java", *quick, "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"]


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Whether it answers an ApiVersions request (key 18, version 0), as it does once it is ready."""
    body = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
