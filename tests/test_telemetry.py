"""Log lines of libraries: ours in form, and bounded in number."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from atlas.core.errors import LogUnavailable
from atlas.runtime.telemetry import (
    LIBRARY_LINES_MAX,
    LIBRARY_MESSAGES_MAX,
    LIBRARY_WINDOW_S,
    LineWriter,
    Metrics,
    configure_logging,
)

START_S = 1_800_000_000.0


class Logs:
    """What a process writes to stderr."""

    def __init__(self, level: int = logging.INFO) -> None:
        self._out, self.metrics = io.StringIO(), Metrics()
        self._writer: LineWriter = configure_logging(self.metrics, self._out, level)

    def emit(self, message: str, *arguments: object, at_s: float = 0.0, logger: str = "library") -> None:
        record = logging.LogRecord(logger, logging.ERROR, __file__, 1, message, arguments, None)
        record.created = START_S + at_s
        logging.getLogger(logger).handle(record)

    def lines(self) -> list[dict[str, Any]]:
        """All of it; nothing is written after that."""
        self._writer.close()
        return [json.loads(line) for line in self._out.getvalue().splitlines()]

    def dropped(self) -> float:
        return self.metrics.registry.get_sample_value("atlas_log_lines_dropped_total") or 0.0


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_librarys_record_becomes_a_line_of_ours() -> None:
    logs = Logs()
    logs.emit("cannot reach %s:%d", "kafka-1", 9092, logger="aiokafka")
    [line] = logs.lines()
    assert line.pop("timestamp")
    assert line == {"level": "error", "event": "cannot reach kafka-1:9092", "logger": "aiokafka"}


def test_an_exception_goes_into_its_line() -> None:
    logs = Logs()
    try:
        raise OSError(5, "the cable")
    except OSError:
        logging.getLogger("aiokafka").exception("broken")
    [line] = logs.lines()
    assert "OSError: the cable" in line["exception"]


def test_what_an_exception_quotes_stays_out_of_the_line() -> None:
    logs = Logs()

    secret = f"{uuid.uuid4()}"  # lines of source are shown, and may be
    try:
        try:
            raise ValueError(secret)
        except ValueError as error:
            group = [KeyError(secret), LogUnavailable("the disk is full")]
            raise ExceptionGroup(secret, group) from error
    except ExceptionGroup:
        logging.getLogger("asyncio").exception("Task failed\ntask: <Task exception=ValueError(%r)>", secret)
        structlog.get_logger().error("it failed", exc_info=True)
    lines = logs.lines()
    assert secret not in json.dumps(lines)
    assert [line["event"] for line in lines] == ["Task failed", "it failed"]
    for line in lines:
        assert line["exception"].count("one of them") == 2
        assert "LogUnavailable: the disk is full" in line["exception"]


def test_of_a_flood_the_first_lines_are_written_and_the_next_window_says_how_many_were_not() -> None:
    logs = Logs()
    for number in range(1_000):
        logs.emit("cannot reach %s", number, at_s=number / 1_000)
    logs.emit("another matter")
    logs.emit("cannot reach %s", "it still", at_s=LIBRARY_WINDOW_S)
    logs.emit("cannot reach %s", "it again", at_s=LIBRARY_WINDOW_S)
    *flood, other, still, again = logs.lines()
    assert [line["event"] for line in flood] == [f"cannot reach {n}" for n in range(LIBRARY_LINES_MAX)]
    assert other["event"] == "another matter"
    assert still["suppressed"] == 1_000 - LIBRARY_LINES_MAX == logs.dropped()
    assert "suppressed" not in again


def test_texts_without_number_share_lines_and_take_no_memory() -> None:
    logs = Logs()
    for number in range(10 * LIBRARY_MESSAGES_MAX):
        logs.emit(f"request {number} failed")
    logs.emit("later on", at_s=LIBRARY_WINDOW_S)
    lines = logs.lines()
    assert len(lines) == LIBRARY_MESSAGES_MAX + LIBRARY_LINES_MAX + 1
    assert lines[-1]["event"] == "later on"


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    logs = Logs()
    for at_s in (0.0, -86_400.0):
        for _ in range(100):
            logs.emit("again", at_s=at_s)
    assert len(logs.lines()) == 2 * LIBRARY_LINES_MAX


def test_libraries_never_write_what_only_debugging_shows() -> None:
    """aiokafka's debug lines hold whole requests, that of SASL with the password in it."""
    logs = Logs(logging.DEBUG)
    logging.getLogger("aiokafka.conn").debug("Request: %s", "SaslAuthenticateRequest(password)")
    logging.getLogger("aiokafka.conn").info("Authenticated")
    assert logs.lines() == []
