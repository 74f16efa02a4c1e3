"""One attempt: build and sign the request, send it, and say what came of it as a fact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from atlas.core.entities import GONE, Target, secret_context
from atlas.core.errors import OffsetOutOfRange
from atlas.core.facts import (
    PAYLOAD_EXPIRED,
    TARGET_DELETED,
    TARGET_DISABLED,
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryStarted,
    EventRecord,
    FactError,
    Timings,
    decode_event,
)
from atlas.core.ids import delivery_id, id_time_ms
from atlas.core.lifecycle import DELIVERED, FAILED, RETRY_SCHEDULED
from atlas.core.retry import retry_delay_ms
from atlas.core.signing import delivery_headers
from atlas.ports.clock import Clock
from atlas.ports.log import Log, TopicPartition
from atlas.ports.secret_box import SecretBox
from atlas.ports.sender import (
    UPSTREAM_GONE,
    UPSTREAM_UNREACHABLE,
    DeliveryRequest,
    DeliveryResult,
    Sender,
)
from atlas.runtime.bodies import delivery_body, notice_body
from atlas.runtime.telemetry import Metrics
from atlas.runtime.work import Work

#: An attempt that outlives this gets a `delivery.started` fact, so that readers see `processing`.
STARTED_AFTER_S: Final = 0.1

CLOSED_MESSAGES: Final = {
    TARGET_DISABLED: "The {} is disabled.",
    TARGET_DELETED: "The {} was deleted.",
    PAYLOAD_EXPIRED: "The log dropped the payload before it could be delivered.",
}

#: What a customer is told when it is Atlas that could not; operators find the reason in the logs.
NOT_MADE: Final = "Atlas could not make the request."

_SECRETS_CACHED_MAX: Final = 4_096
log_line = structlog.get_logger()


class Attempter:
    """Makes attempts; knows no queue and no shard."""

    def __init__(
        self,
        log: Log,
        sender: Sender,
        secret_box: SecretBox,
        clock: Clock,
        uniform01: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._log, self._sender, self._box, self._clock = log, sender, secret_box, clock
        self.uniform01, self._metrics = uniform01, metrics
        self._opened: dict[str, str] = {}
        self._counters: dict[tuple[str, str], Any] = {}

    def closed(self, work: Work, code: str) -> DeliveryClosed:
        """The fact that ends a route without an attempt."""
        message = CLOSED_MESSAGES[code].format("workflow" if work.notice is None else "webhook endpoint")
        return DeliveryClosed(**_named(work), error=FactError(code, message), at_ms=self._clock.now_ms())

    async def attempt(
        self, work: Work, to: Target, latest: Callable[[], Target | None]
    ) -> DeliveryAttempted | DeliveryClosed:
        """Make the attempt and return its fact.

        Args:
            work: what is sent.
            to: where to.
            latest: the target as it is by then: a schedule changed meanwhile says when to retry.

        Raises:
            LogError: the payload cannot be read now; nothing was sent.
        """
        body = await self._body(work)
        if body is None:
            return self.closed(work, PAYLOAD_EXPIRED)
        started_ms = self._clock.now_ms()
        started_s = self._clock.monotonic_s()
        if work.attempt == 1 and work.notice is None:
            waited_ms = started_ms - id_time_ms(work.event_id)
            self._metrics.first_attempt_seconds.observe(max(0, waited_ms) / 1000)
        delivery = work.notice or delivery_id(work.event_id, work.target, work.replay)
        slow = asyncio.get_running_loop().call_later(STARTED_AFTER_S, self._tell_started, work, started_ms)
        try:
            request = self._request(work, to, body, delivery, started_ms)
            result = await self._sender.send(request)
        except Exception as error:  # a bug, or a secret that does not open: it counts as an attempt
            log_line.error("attempt not made", delivery_id=delivery, exc_info=error)
            result = DeliveryResult(error_code=UPSTREAM_UNREACHABLE, error_message=NOT_MADE)
        finally:
            slow.cancel()
        duration_ms = int((self._clock.monotonic_s() - started_s) * 1000)
        fact = self._outcome(work, latest() or to, result, started_ms, duration_ms)
        self._report(work, delivery, fact)
        return fact

    async def _body(self, work: Work) -> bytes | None:
        """What is sent; None when the payload is gone."""
        if work.notice is not None and work.outcome is not None:
            return notice_body(work.notice, work.event_id, work.outcome)
        record = work.record or await self._payload(work)
        return None if record is None else delivery_body(record)

    async def _payload(self, work: Work) -> EventRecord | None:
        """The event from the log; None when it is not there any more, or not as it was accepted."""
        try:
            stored = await self._log.fetch(TopicPartition(work.topic, work.owner.shard), work.offset)
            return decode_event(stored.value or b"")
        except (OffsetOutOfRange, msgspec.DecodeError):
            return None

    def _request(
        self, work: Work, to: Target, body: bytes, delivery: str, started_ms: int
    ) -> DeliveryRequest:
        headers = delivery_headers(
            self._secrets(to, started_ms),
            delivery,
            work.attempt,
            started_ms // 1000,
            body,
            to.headers,
        )
        return DeliveryRequest(to.url, headers, body, to.timeout_ms)

    def _secrets(self, to: Target, now_ms: int) -> list[str]:
        live = [s for s in to.secrets if s.expires_at_ms is None or now_ms < s.expires_at_ms]
        return [self._open(secret.sealed, to) for secret in live]

    def _open(self, sealed: str, to: Target) -> str:
        opened = self._opened.get(sealed)
        if opened is None:
            context = secret_context(to.workspace_id, to.environment, to.id)
            if len(self._opened) >= _SECRETS_CACHED_MAX:
                self._opened.clear()
            opened = self._opened[sealed] = self._box.open(sealed, context)
        return opened

    def _tell_started(self, work: Work, started_ms: int) -> None:
        fact = DeliveryStarted(**_named(work), attempt=work.attempt, started_at_ms=started_ms)
        work.owner.started(work, fact)

    def _outcome(
        self, work: Work, to: Target, result: DeliveryResult, started_ms: int, duration_ms: int
    ) -> DeliveryAttempted:
        completed_ms = started_ms + duration_ms
        outcome, next_ms = DELIVERED, None
        if result.error_code is not None:
            delay_ms = None
            if result.error_code != UPSTREAM_GONE:
                delay_ms = retry_delay_ms(
                    to.retry_schedule_seconds,
                    work.attempt - work.base,
                    self.uniform01(),
                    result.retry_after_s,
                )
            outcome = FAILED if delay_ms is None else RETRY_SCHEDULED
            next_ms = None if delay_ms is None else completed_ms + delay_ms
        return DeliveryAttempted(
            **_named(work),
            attempt=work.attempt,
            outcome=outcome,
            started_at_ms=started_ms,
            completed_at_ms=completed_ms,
            duration_ms=duration_ms,
            next_attempt_at_ms=next_ms,
            http_status=result.http_status,
            error=FactError(result.error_code, result.error_message or "") if result.error_code else None,
            response_body=result.response_body,
            address=result.address,
            timings=Timings(
                _tenths(result.connect_ms), _tenths(result.tls_ms), _tenths(result.first_byte_ms)
            ),
        )

    def _report(self, work: Work, delivery: str, fact: DeliveryAttempted) -> None:
        labels = (fact.outcome, fact.error.code if fact.error else "")
        counter = self._counters.get(labels)
        if counter is None:
            counter = self._counters[labels] = self._metrics.attempts.labels(*labels)
        counter.inc()
        self._metrics.attempt_seconds.observe(fact.duration_ms / 1000)
        log_line.info(
            "delivery attempt",
            workspace_id=work.scope[0],
            environment=work.scope[1],
            event_id=work.event_id,
            workflow_id=work.target,
            delivery_id=delivery,
            attempt=fact.attempt,
            outcome=fact.outcome,
            http_status=fact.http_status,
            error=labels[1] or None,
            duration_ms=fact.duration_ms,
        )


def disables_target(fact: DeliveryAttempted | DeliveryClosed) -> str | None:
    """Why this outcome disables its target, if it does (410, reference "Retry behavior")."""
    gone = isinstance(fact, DeliveryAttempted) and fact.error is not None and fact.error.code == UPSTREAM_GONE
    return GONE if gone else None


def _tenths(ms: float | None) -> float | None:
    """More digits would be noise, in every fact for ever."""
    return None if ms is None else round(ms, 1)


def _named(work: Work) -> dict[str, Any]:
    return {
        "epoch": work.owner.epoch,
        "event_id": work.event_id,
        "topic": work.topic,
        "offset": work.offset,
        "target": work.target,
        "replay": work.replay,
        "notice": work.notice,
    }
