"""Requests of clients, each noted as invoke -> ok | fail | info."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from tests.invariants_history import FAIL, INFO, OK, Poll, Try, payload_text

CALL_MAX_S: Final = 5.0
_SINGLE: Final = "/v1/events"
_BATCH: Final = "/v1/events/batch"
_LOST: Final = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One request, to be sent as often as it takes.

    Attributes:
        sequence: of the first event.
        keys: what the records show as each event's idempotency key.
        header_key: sent as the header.
        own_keys: the items of a batch carry their keys.
    """

    environment: str
    client: str
    sequence: int
    events: Sequence[Mapping[str, Any]]
    keys: Sequence[str | None]
    header_key: str | None = None
    batch: bool = False
    own_keys: bool = False

    def path_and_body(self) -> tuple[str, bytes]:
        if not self.batch:
            return _SINGLE, orjson.dumps(self.events[0])
        events = [
            {**event, "idempotency_key": key} if self.own_keys else event
            for event, key in zip(self.events, self.keys, strict=True)
        ]
        return _BATCH, orjson.dumps({"events": events})


@dataclass(frozen=True)
class Verdict:
    """What became of one event of a request."""

    outcome: str
    status: int | None = None
    event_id: str | None = None
    answer: bytes | None = None


class Clients:
    """One connection pool, and the clients' log.

    Args:
        call_max_s: a call without an answer by then is given up.

    Attributes:
        faults: answers that must not be, whatever happens: a 500, a 503 without Retry-After.
        hangs: calls given up.
        refused: answers 503.
    """

    def __init__(self, url: str, keys: Mapping[str, str], call_max_s: float = CALL_MAX_S) -> None:
        self.tries: list[Try] = []
        self.polls: list[Poll] = []
        self.faults: list[str] = []
        self.hangs: list[str] = []
        self.refused = 0
        self._url = url
        self._authorization = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=call_max_s)
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, environment: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers by lower-case name, body; status 0 when there was no answer."""
        try:
            async with self._session.get(self._url + path, headers=self._authorization[environment]) as got:
                content = await got.read()
        except _LOST as error:
            self._lost(path, error)
            return 0, {}, b""
        self._judge(got.status, got.headers, path, content)
        return got.status, {name.lower(): value for name, value in got.headers.items()}, content

    async def make(self, environment: str, path: str, value: object) -> Any:
        """The body of a 201."""
        headers = self._authorization[environment]
        async with self._session.post(self._url + path, json=value, headers=headers) as made:
            assert made.status == 201, await made.text()
            return await made.json()

    async def look(self, poller: str, environment: str, event_id: str) -> Mapping[str, Any] | None:
        """Note what the API says of an event now."""
        status, _, content = await self.get(environment, f"{_SINGLE}/{event_id}")
        if not status:
            return None
        event = orjson.loads(content) if status == 200 else None
        self.polls.append(Poll(poller, event_id, status, event))
        return event

    async def send(self, operation: Operation) -> list[Verdict]:
        """Send it once; one verdict for each event."""
        path, body = operation.path_and_body()
        headers = {"Content-Type": "application/json", **self._authorization[operation.environment]}
        if operation.header_key is not None:
            headers["Idempotency-Key"] = operation.header_key
        invoked_s = time.monotonic()
        verdicts = [Verdict(INFO)] * len(operation.events)
        try:
            async with self._session.post(self._url + path, data=body, headers=headers) as answer:
                content = await answer.read()
            self._judge(answer.status, answer.headers, path, content)
            verdicts = _verdicts(operation, answer.status, content)
        except _LOST as error:
            self._lost(path, error)
        finally:
            self._note(operation, invoked_s, verdicts)
        return verdicts

    async def send_twice(self, operation: Operation) -> list[Verdict]:
        """Send it twice at the same time, as a client behind an impatient proxy does."""
        first, second = await asyncio.gather(self.send(operation), self.send(operation))
        return first if all(verdict.outcome != INFO for verdict in first) else second

    def _lost(self, path: str, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self.hangs.append(path)

    def _judge(self, status: int, headers: Mapping[str, str], path: str, content: bytes) -> None:
        refused = status == 503 and int(headers.get("Retry-After", "0")) >= 1
        self.refused += refused
        if status == 429 or (status >= 500 and not refused):
            self.faults.append(f"{path}: {status} {content[:300]!r}")

    def _note(self, operation: Operation, invoked_s: float, verdicts: Sequence[Verdict]) -> None:
        ended_s = time.monotonic()
        for index, verdict in enumerate(verdicts):
            event = operation.events[index]
            self.tries.append(
                Try(
                    environment=operation.environment,
                    client=operation.client,
                    sequence=operation.sequence + index,
                    key=operation.keys[index],
                    ordering_key=event.get("ordering_key"),
                    payload=payload_text(event),
                    invoked_s=invoked_s,
                    ended_s=ended_s,
                    outcome=verdict.outcome,
                    status=verdict.status,
                    event_id=verdict.event_id,
                    answer=verdict.answer,
                )
            )


def _verdicts(operation: Operation, status: int, content: bytes) -> list[Verdict]:
    if status == 202 and operation.batch:
        return [_verdict(item["status"], item.get("event")) for item in orjson.loads(content)["data"]]
    if status == 202:
        return [Verdict(OK, status, orjson.loads(content)["id"], content)]
    return [_verdict(status, None)] * len(operation.events)


def _verdict(status: int, event: Mapping[str, Any] | None) -> Verdict:
    if status == 202 and event is not None:
        return Verdict(OK, status, event["id"], orjson.dumps(event))
    return Verdict(FAIL if 400 <= status < 500 else INFO, status)
