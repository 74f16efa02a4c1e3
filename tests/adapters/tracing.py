"""What the embedded log's writer does to its file, statement by statement, seen from beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.ports.log import NewRecord


class Trace:
    """The writing connection's transactions: each a list of (statement, rows it changed)."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log
        self._db = log._store._db
        self.transactions: list[list[tuple[str, int]]] = []
        self._changes = self._db.total_changes
        self._open = False

    def statement(self, sql: str) -> None:
        self._account()
        if sql == "BEGIN IMMEDIATE":
            self.transactions.append([])
            self._open = True
            return
        if not self._open and sql.startswith("SELECT"):
            return
        if not self._open:
            self.transactions.append([])  # a statement by itself is a transaction of its own
        self.transactions[-1].append((sql, 0))
        self._open = self._open and sql not in ("COMMIT", "ROLLBACK")

    def _account(self) -> None:
        """What has changed since is the work of the statement before."""
        changed = self._db.total_changes - self._changes
        self._changes += changed
        if changed:
            before, counted = self.transactions[-1][-1]
            self.transactions[-1][-1] = (before, counted + changed)

    def changes(self, prefix: str) -> list[int]:
        """Rows changed by each statement that begins so."""
        self._account()
        statements = [one for transaction in self.transactions for one in transaction]
        return [changed for sql, changed in statements if sql.startswith(prefix)]

    def statements(self, prefix: str) -> list[str]:
        return [sql for transaction in self.transactions for sql, _ in transaction if sql.startswith(prefix)]

    def tasks_between_appends_max(self) -> int:
        """The most transactions without an append between two with one."""
        worst = between = 0
        begun = False
        for transaction in self.transactions:
            if any(sql.startswith("INSERT INTO batch") for sql, _ in transaction):
                worst = max(worst, between if begun else 0)
                between, begun = 0, True
            else:
                between += 1
        return worst

    async def append_beside(self, *works: Coroutine[Any, Any, None]) -> int:
        """Append one record after the other until all of `works` are done; returns how many."""
        running = asyncio.gather(*works)
        appended = 0
        while not running.done():
            await self._log.append("t", 0, [NewRecord(b"beside")])
            appended += 1
        await running
        return appended


@contextmanager
def traced(log: EmbeddedLog) -> Iterator[Trace]:
    """Everything the writer does inside. Only with `threads=False`."""
    trace = Trace(log)
    log._store._db.set_trace_callback(trace.statement)
    yield trace
    log._store._db.set_trace_callback(None)
