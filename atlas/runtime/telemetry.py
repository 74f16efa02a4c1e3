"""Metrics and logs. Neither ever names a workspace's data, a key, a secret or a payload.

Log lines are JSON on stderr, written by a thread of their own from a bounded queue: a reader of stderr
that stalls costs log lines (counted), never a request.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any, Final, TextIO

import orjson
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from atlas.core.errors import LogUnavailable, StoreUnavailable
from atlas.core.timestamps import format_ms

LOG_QUEUE_MAX: Final = 10_000
FLUSH_EVERY_S: Final = 0.05
#: Of one message of a library's this many lines are written in each window, and the next says how many were
#: not. While Kafka is away its client says so ten times a second and connection.
LIBRARY_LINES_MAX: Final = 5
LIBRARY_WINDOW_S: Final = 10.0
#: Messages told apart; beyond it new ones share the lines of one.
LIBRARY_MESSAGES_MAX: Final = 256
_LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside every counter, which nobody asks for


class Metrics:
    """Every metric of a process, on a registry of its own. Labels are bounded sets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "atlas_http_requests", "HTTP requests.", ["route", "method", "status"], registry=r
        )
        self.events = Counter("atlas_events", "Events by verdict.", ["verdict"], registry=r)
        self.append_seconds = Histogram(
            "atlas_append_seconds", "Accept to durable.", buckets=_LATENCY_BUCKETS_S, registry=r
        )
        self.lag = Gauge("atlas_consumer_lag_records", "Records not yet folded.", ["consumer"], registry=r)
        self.attempts = Counter(
            "atlas_delivery_attempts", "Attempts by outcome.", ["outcome", "error"], registry=r
        )
        self.attempt_seconds = Histogram(
            "atlas_delivery_attempt_seconds", "Attempt duration.", buckets=_LATENCY_BUCKETS_S, registry=r
        )
        self.first_attempt_seconds = Histogram(
            "atlas_accept_to_first_attempt_seconds",
            "Acceptance to first attempt.",
            buckets=_LATENCY_BUCKETS_S,
            registry=r,
        )
        self.queue_depth = Gauge("atlas_queue_depth", "Entries waiting.", ["queue"], registry=r)
        self.breakers_open = Gauge("atlas_circuit_breakers_open", "Targets that are only probed.", registry=r)
        self.oldest_overdue = Gauge(
            "atlas_oldest_overdue_seconds", "Age of the oldest route that waits past its time.", registry=r
        )
        self.quarantined = Counter(
            "atlas_quarantined_records", "Records no fold could take.", ["consumer"], registry=r
        )
        self.lost_records = Counter(
            "atlas_lost_records", "Records that went before they were read.", ["consumer"], registry=r
        )
        self.void_facts = Counter("atlas_void_facts", "Facts void in the fold.", registry=r)
        self.restarts = Counter("atlas_task_restarts", "Supervised tasks restarted.", ["task"], registry=r)
        self.ready = Gauge("atlas_ready", "1 while /readyz answers 200, else 0.", registry=r)
        self.log_lines_dropped = Counter("atlas_log_lines_dropped", "Log lines dropped.", registry=r)


class LineWriter:
    """A file for structlog that never blocks its caller.

    Lines are collected without waking anybody, and written out `FLUSH_EVERY_S` apart: a thread woken for
    each line would fight the event loop for the GIL thousands of times a second.
    """

    def __init__(self, out: TextIO, metrics: Metrics) -> None:
        self._lines: deque[str] = deque()
        self._out = out
        self._dropped = metrics.log_lines_dropped
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="atlas-log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Take one line; drops and counts it when too many wait."""
        if len(self._lines) >= LOG_QUEUE_MAX:
            self._dropped.inc()
        else:
            self._lines.append(line)

    debug = info = warning = error = critical = msg

    def close(self, timeout_s: float = 0.5) -> None:
        """Write out what is there, within the time given."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_EVERY_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()
        except (OSError, ValueError):
            self._dropped.inc(len(lines))


def _stamp(_logger: object, _method: str, event: Any) -> Any:
    event["timestamp"] = format_ms(time.time_ns() // 1_000_000)  # a log line's own time, not Atlas's
    return event


def _without_values(_logger: object, _method: str, event: Any) -> Any:
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else sys.exc_info()[1] if found is True else found
    if isinstance(error, BaseException):
        event["exception"] = traceback_of(error)
    return event


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, of what it groups and of its causes, without their messages: those may quote
    a payload or a key. But for what is said of a log or store that is away, and by the operating system.
    """
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        text = f"{type(cause).__module__}.{type(cause).__qualname__}"
        if isinstance(cause, LogUnavailable | StoreUnavailable):
            text += f": {cause}"
        elif isinstance(cause, OSError) and cause.strerror:
            text += f": {cause.strerror}"
        parts.append("".join(traceback.format_tb(cause.__traceback__)) + text)
        if isinstance(cause, BaseExceptionGroup):
            parts.extend(f"one of them:\n{traceback_of(one)}" for one in cause.exceptions)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\ncaused by\n".join(parts)


def _render(_logger: object, _method: str, event: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def configure_logging(metrics: Metrics, out: TextIO = sys.stderr, level: int = logging.INFO) -> LineWriter:
    """Send structlog's and the standard library's records to `out` as JSON lines."""
    writer = LineWriter(out, metrics)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            _without_values,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    handler = _StandardLibrary(metrics)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    return writer


class _StandardLibrary(logging.Handler):
    """Hands records of libraries that log by the standard library to structlog, at a bounded rate."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._dropped = metrics.log_lines_dropped
        self._windows: dict[tuple[str, str], _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        window = self._window(record)
        window.seen += 1
        if window.seen > LIBRARY_LINES_MAX:
            self._dropped.inc()
            return
        more: dict[str, Any] = {"suppressed": window.suppressed} if window.suppressed else {}
        window.suppressed = 0
        # asyncio goes on with what its task or transport looks like, and that with what it failed at.
        message = record.getMessage().partition("\n")[0]
        structlog.get_logger().log(
            record.levelno, message, logger=record.name, exc_info=record.exc_info, **more
        )

    def _window(self, record: logging.LogRecord) -> _Window:
        """That of the record's message, by the text before arguments are filled in."""
        key = (record.name, str(record.msg))
        window = self._windows.get(key)
        if window is not None and window.holds(record.created):
            return window
        if window is None and len(self._windows) >= LIBRARY_MESSAGES_MAX:
            self._forget(record.created)
            if len(self._windows) >= LIBRARY_MESSAGES_MAX:
                key = ("", "")
                window = self._windows.get(key)
                if window is not None and window.holds(record.created):
                    return window
        suppressed = 0 if window is None else max(0, window.seen - LIBRARY_LINES_MAX)
        self._windows[key] = _Window(record.created, suppressed)
        return self._windows[key]

    def _forget(self, now_s: float) -> None:
        for key in [key for key, window in self._windows.items() if not window.holds(now_s)]:
            del self._windows[key]


class _Window:
    """What was logged of one message since a time; `suppressed`: not written in the window before."""

    __slots__ = ("seen", "since_s", "suppressed")

    def __init__(self, since_s: float, suppressed: int) -> None:
        self.since_s, self.suppressed, self.seen = since_s, suppressed, 0

    def holds(self, now_s: float) -> bool:
        return 0 <= now_s - self.since_s < LIBRARY_WINDOW_S
