"""`POST /v1/events` and `POST /v1/events/batch`: the hot path (reference, "Send an event"; API notes).

A request is checked, its events become candidates, and one call of the acceptor decides and appends all of
them; nothing is answered before that is durable (guarantee G1). Streams, routes and keys come from memory.
The order of the checks: an event's form first, then its stream, and its idempotency key last, by the
acceptor; only a 202 is ever kept under a key.

A keyed event whose stream has been archived since is no new event: its retry still gets the stored
response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct

from atlas.core import acceptance
from atlas.core.acceptance import Acceptance, Circumstances, Key, Routing
from atlas.core.entities import Scope, Stream
from atlas.core.errors import ApiError, LogError, Unavailable
from atlas.core.event_requests import CheckedEvent, check_idempotency_key, read_event, read_items
from atlas.core.facts import EVENT_SCHEMA, SCHEMA_HEADER
from atlas.core.limits import BATCH_IDEMPOTENCY_KEY_CHARS_MAX
from atlas.core.strict_json import Text
from atlas.gateway.call import Call, Reply, Services
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.replies import error_object
from atlas.gateway.routes import Routes
from atlas.gateway.visible_streams import stream_not_found, visible_streams
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import NewRecord

_HEADERS: Final = ((SCHEMA_HEADER, EVENT_SCHEMA),)
_REPLAYED: Final = ((b"idempotent-replayed", b"true"),)
_KEY_HEADER: Final = b"idempotency-key"
_LOG_AWAY: Final = "The log cannot take events now. The same request may be sent again with the same key."


_New = tuple[CheckedEvent, Stream, Key | None, Routing]


class _Checked(Struct, frozen=True, gc=False):
    """An event of good form; its stream is not yet looked up."""

    event: CheckedEvent
    key: Key | None


class Ingest:
    """The handlers of one process; they keep nothing between requests."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._ids = services.ids
        self._registry = services.registry
        self._routes = Routes(services.registry)
        self._acceptor = services.acceptor
        self._shards = services.log.shards
        self._append_seconds = services.metrics.append_seconds
        self._verdicts = {v: services.metrics.events.labels(v.value) for v in Verdict}
        self._rejected = services.metrics.events.labels("rejected")

    async def send(self, call: Call) -> Reply:
        """`POST /v1/events`: 202 with the event.

        Raises:
            ApiError: 400, 404, 409, 503, and what reading the body raises.
        """
        body = await call.json_text()
        try:
            checked = _check_single(call, body)
            name = checked.event.stream
            stream = (await visible_streams(self._registry, call.principal, (name,))).get(name)
            if stream is None:
                raise stream_not_found(name)
            if stream.archived_at_ms is None:
                routing = self._routes.of(checked.event, stream)
                candidates = self._candidates([(checked.event, stream, checked.key, routing)], self._now())
                outcome = (await self._accept(candidates))[0]
            else:
                outcome = await self._accepted_before(checked)
        except ApiError as refusal:
            if refusal.status < 500:
                self._rejected.inc()
            raise
        self._verdicts[outcome.verdict].inc()
        if outcome.verdict is Verdict.APPENDED:
            return Reply(202, outcome.response)
        if outcome.verdict is Verdict.REPLAYED:
            return Reply(202, outcome.response, _REPLAYED)
        raise _duplicate()

    async def send_batch(self, call: Call) -> Reply:
        """`POST /v1/events/batch`: 202 with a result for each event, in the order sent.

        Raises:
            ApiError: 400 for the batch as a whole, 503, and what reading the body raises.
        """
        decided, candidates = await self._decide(call)
        outcomes = iter(await self._accept(candidates) if candidates else ())
        results = [next(outcomes) if item is None else item for item in decided]
        counts = Counter([result.verdict if isinstance(result, Outcome) else None for result in results])
        for verdict, counter in self._verdicts.items():
            counter.inc(counts[verdict])
        self._rejected.inc(counts[None])
        accepted = counts[Verdict.APPENDED] + counts[Verdict.REPLAYED]
        replayed = _REPLAYED if accepted and not counts[Verdict.APPENDED] else ()
        return Reply(202, _batch_body(results, accepted, call.request_id), replayed)

    async def _decide(self, call: Call) -> tuple[list[Outcome | ApiError | None], list[Candidate]]:
        """What becomes of each event, None: it is new; and the new ones, for the acceptor.

        All else that was made of the body is let go when this returns, and not only once the log has
        answered: then it is in no processor's cache any more, and to free it takes four times as long.
        """
        body = await call.json_text()
        refuse_parameters(call)
        raw = call.header(_KEY_HEADER)
        header = None if raw is None else check_idempotency_key(raw, BATCH_IDEMPOTENCY_KEY_CHARS_MAX)
        checked = _check_items(call.principal.scope, header, body)
        names = {item.event.stream for item in checked if isinstance(item, _Checked)}
        streams = await visible_streams(self._registry, call.principal, names)
        now = self._now()
        new: list[_New] = []
        decided: list[Outcome | ApiError | None] = []
        for item in checked:
            if isinstance(item, ApiError):
                decided.append(item)
                continue
            stream = streams.get(item.event.stream)
            if stream is None:
                decided.append(stream_not_found(item.event.stream))
            elif stream.archived_at_ms is None:
                new.append((item.event, stream, item.key, self._routes.of(item.event, stream)))
                decided.append(None)
            else:
                decided.append(await self._accepted_before_or_not(item))
        return decided, self._candidates(new, now)

    def _now(self) -> Circumstances:
        return Circumstances(self._clock.now_ms(), self._registry.position, self._shards)

    def _candidates(self, new: Sequence[_New], now: Circumstances) -> list[Candidate]:
        made = acceptance.accept_all(new, self._ids.entropy80, now)
        return [_candidate(one, stream, key) for one, (_, stream, key, _) in zip(made, new, strict=True)]

    async def _accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        started_s = self._clock.monotonic_s()
        try:
            outcomes = await self._acceptor.accept(candidates)
        except LogError as error:
            raise Unavailable(_LOG_AWAY) from error
        self._append_seconds.observe(self._clock.monotonic_s() - started_s)
        return outcomes

    async def _accepted_before(self, checked: _Checked) -> Outcome:
        """The stored outcome of an event whose stream takes no new ones any more.

        Raises:
            ApiError: stream_not_found, when there is none.
        """
        key = checked.key
        outcome = None if key is None else await self._acceptor.find(key.dedup_key, key.payload_hash)
        if outcome is not None:
            return outcome
        raise stream_not_found(checked.event.stream)

    async def _accepted_before_or_not(self, checked: _Checked) -> Outcome | ApiError:
        try:
            return await self._accepted_before(checked)
        except ApiError as refusal:
            return refusal


def _candidate(accepted: Acceptance, stream: Stream, key: Key | None) -> Candidate:
    record = NewRecord(accepted.value, accepted.record_key, _HEADERS)
    if key is None:
        return Candidate(stream.topic, accepted.partition, record, accepted.response)
    return Candidate(
        stream.topic, accepted.partition, record, accepted.response, key.dedup_key, key.payload_hash
    )


def _check_single(call: Call, body: Text) -> _Checked:
    refuse_parameters(call)
    header = call.header(_KEY_HEADER)
    text = None if header is None else check_idempotency_key(header)
    event = read_event(body.value, body.compact)
    key = None if text is None else acceptance.sent_key(call.principal.scope, text, body.value)
    return _Checked(event, key)


def _check_items(scope: Scope, header: str | None, body: Text) -> list[_Checked | ApiError]:
    read = read_items(body)
    items = enumerate(zip(read, body.value["events"], strict=True))
    return [
        _Checked(event, _key_of(scope, header, index, event, item))
        if isinstance(event, CheckedEvent)
        else event
        for index, (event, item) in items
    ]


def _key_of(
    scope: Scope, header: str | None, index: int, event: CheckedEvent, item: Mapping[str, Any]
) -> Key | None:
    """Of a batch's item: its own, or else the one that the batch's header gives it."""
    if event.idempotency_key is not None:
        return acceptance.sent_key(scope, event.idempotency_key, item)
    return None if header is None else acceptance.derived_key(scope, header, index, item)


def _batch_body(results: Iterable[Outcome | ApiError], accepted: int, request_id: str) -> bytes:
    items = [
        b'{"status":202,"event":%b}' % result.response
        if isinstance(result, Outcome) and result.response
        else _error_item(result, request_id)
        for result in results
    ]
    head = b'{"object":"batch","accepted":%d,"rejected":%d,"data":[' % (accepted, len(items) - accepted)
    return head + b",".join(items) + b"]}"


def _error_item(result: Outcome | ApiError, request_id: str) -> bytes:
    error = result if isinstance(result, ApiError) else _duplicate()
    return orjson.dumps({"status": error.status, "error": error_object(error, request_id)})


def _duplicate() -> ApiError:
    return ApiError("duplicate_event", "The idempotency key was used with a different payload.")
