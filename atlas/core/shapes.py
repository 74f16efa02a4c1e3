"""What texts and numbers look like in records and answers, as types: the published schemas say it on.

Nothing is checked by these types at run time: to the code they are plain `str`, `int` and `dict`. What
comes in from outside is held to `limits`; what Atlas wrote itself is not checked again at every reading.
scripts/schemas writes them into `schemas/`, and tests hold real records and answers against that.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from atlas.core import filters, limits, targets
from atlas.core.ids import id_pattern

#: Largest whole number that every JSON reader holds exactly, JavaScript's too (RFC 8259, 6).
WHOLE_MAX: Final = 2**53
_HEX: Final = "^[0-9a-f]{%d}$"
_DATE_AND_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"


def portable(pattern: str) -> str:
    r"""A pattern as other languages read it: without what only Python's `$` needs, and RE2 does not know."""
    return pattern.removesuffix(r"(?!\n)")


def said(description: str = "", **schema: Any) -> Meta:
    """Something for the published schema alone."""
    about = {"description": description} if description else {}
    return Meta(extra_json_schema={**schema, **about})


# Names.
EventId = Annotated[str, said(pattern=id_pattern("evt_"))]
WorkspaceId = Annotated[str, said(pattern="^ws_[0-9A-Z]{1,26}$")]
StreamId = Annotated[str, said(pattern=id_pattern("stm_"))]
KeyId = Annotated[str, said(pattern=id_pattern("key_"))]
CommandId = Annotated[str, said(pattern=id_pattern("cmd_"))]
RebuildId = Annotated[str, said(pattern=id_pattern("rbd_"))]
VerificationId = Annotated[str, said(pattern=id_pattern("vfy_"))]
RequestId = Annotated[str, said(pattern=id_pattern("req_"))]
WorkflowId = Annotated[str, said(pattern=portable(limits.WORKFLOW_ID_PATTERN))]
#: What a delivery goes to: a workflow, or a webhook endpoint.
Target = Annotated[str, said(pattern=f"{portable(limits.WORKFLOW_ID_PATTERN)}|{id_pattern('we_')}")]
EndpointId = Annotated[str, said(pattern=id_pattern("we_"))]
ReplayId = Annotated[str, said(pattern=id_pattern("rpl_"))]
DeliveryId = Annotated[str, said(pattern=id_pattern("whd_"))]
OutcomeType = Annotated[str, said(enum=["event.delivered", "event.failed", "event.retry_scheduled"])]
OutcomeTypes = tuple[OutcomeType, ...]
StreamName = Annotated[str, said(pattern=portable(limits.STREAM_NAME_PATTERN))]
EventType = Annotated[
    str, said(pattern=portable(limits.EVENT_TYPE_PATTERN), maxLength=limits.EVENT_TYPE_CHARS_MAX)
]
EventTopic = Annotated[
    str,
    said(pattern=rf"^atlas\.(live|test)\.ws_[0-9A-Z]{{1,26}}\.{portable(limits.STREAM_NAME_PATTERN)[1:]}"),
]
#: A code, safe to switch on.
Code = Annotated[str, said(pattern="^[a-z][a-z0-9_]*$")]

# Times.
Moment = Annotated[
    str,
    said(
        "RFC 3339 in UTC, to the millisecond.",
        format="date-time",
        pattern=rf"^{_DATE_AND_TIME}\.[0-9]{{3}}Z$",
    ),
]
MomentSeconds = Annotated[
    str, said("RFC 3339 in UTC, to the second.", format="date-time", pattern=f"^{_DATE_AND_TIME}Z$")
]
GivenTime = Annotated[str, said("RFC 3339 with `Z` or an offset.", format="date-time")]
OccurredAt = Annotated[
    str,
    said(
        "RFC 3339 in UTC, to the precision it was sent with.",
        format="date-time",
        pattern=rf"^{_DATE_AND_TIME}(\.[0-9]{{1,9}})?Z$",
    ),
]
AtMs = Annotated[int, said("Milliseconds since 1970 in UTC.", minimum=0, maximum=limits.MS_MAX)]
DurationMs = Annotated[int, said(minimum=0, maximum=WHOLE_MAX)]
Position = Annotated[int, said("An offset of a partition.", minimum=0, maximum=WHOLE_MAX)]
Share = Annotated[float, said("Milliseconds, with a fraction.", minimum=0, maximum=2**31 - 1)]
Natural = Annotated[int, said(minimum=0, maximum=2**31 - 1)]

# What producers sent.
Data = Annotated[
    Any,
    said(f"What was sent, value by value; under {limits.DATA_BYTES:,} bytes of compact JSON.", type="object"),
]
RawData = Annotated[
    msgspec.Raw,
    said(f"What was sent, value by value; under {limits.DATA_BYTES:,} bytes of compact JSON.", type="object"),
]
OrderingKey = Annotated[str, said(minLength=1, maxLength=limits.ORDERING_KEY_CHARS_MAX)]
IdempotencyKey = Annotated[str, said(pattern=portable(limits.IDEMPOTENCY_KEY_PATTERN))]
PayloadHash = Annotated[str, said(pattern=_HEX % 32)]
_ACTOR: Final = said(
    "Who or what triggered the event; only the fields that were given.",
    properties={
        **{
            name: {"type": "string", "maxLength": limits.ACTOR_CHARS_MAX}
            for name in ("type", "id", "tenant_id")
        },
        "ip": {
            "type": "string",
            "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}],
            "maxLength": limits.ACTOR_CHARS_MAX,
        },
        "user_agent": {"type": "string", "maxLength": limits.USER_AGENT_CHARS_MAX},
    },
)
_METADATA: Final = said(maxProperties=limits.METADATA_KEYS_MAX)
_MORE_OF_ACTOR: Final = said("A field that was added later.")
_KEY: Final = said(minLength=1, maxLength=limits.METADATA_KEY_CHARS_MAX)
_VALUE: Final = said(maxLength=limits.METADATA_VALUE_CHARS_MAX)
Actor = Annotated[dict[str, Annotated[str, _MORE_OF_ACTOR]], _ACTOR]
Metadata = Annotated[dict[Annotated[str, _KEY], Annotated[str, _VALUE]], _METADATA]
#: The same where the code holds JSON text already, and no dictionary.
ActorShown = Annotated[
    Any,
    _ACTOR,
    said(type="object", additionalProperties={"type": "string", **(_MORE_OF_ACTOR.extra_json_schema or {})}),
]
MetadataShown = Annotated[
    Any,
    _METADATA,
    said(
        type="object",
        propertyNames=_KEY.extra_json_schema,
        additionalProperties={"type": "string", **(_VALUE.extra_json_schema or {})},
    ),
]
Routes = Annotated[tuple[WorkflowId, ...], said(maxItems=limits.DEFAULT_ROUTES_MAX, uniqueItems=True)]
KeyStreams = Annotated[
    tuple[StreamName, ...], said(minItems=1, maxItems=limits.STREAMS_MAX, uniqueItems=True)
]

# Texts.
Message = Annotated[str, said("For people; may change.")]
Description = Annotated[str, said(maxLength=limits.DESCRIPTION_CHARS_MAX)]
Name = Annotated[str, said(minLength=1, maxLength=limits.NAME_CHARS_MAX)]
Url = Annotated[str, said(pattern="^https?://", maxLength=targets.URL_CHARS_MAX)]
ResponseBody = Annotated[
    str, said("The first 4 KiB answered, invalid UTF-8 replaced.", maxLength=limits.RESPONSE_BODY_BYTES_MAX)
]
HttpStatus = Annotated[int, said(minimum=0, maximum=2**31 - 1)]
Address = Annotated[
    str, said("The address that was dialled.", anyOf=[{"format": "ipv4"}, {"format": "ipv6"}])
]

# Settings.
RetentionDays = Annotated[int, said(minimum=limits.RETENTION_DAYS_MIN, maximum=limits.RETENTION_DAYS_MAX)]
TimeoutMs = Annotated[int, said(minimum=limits.TIMEOUT_MS_MIN, maximum=limits.TIMEOUT_MS_MAX)]
RetrySchedule = Annotated[
    tuple[Annotated[int, said(minimum=limits.RETRY_DELAY_S_MIN, maximum=limits.RETRY_DELAY_S_MAX)], ...],
    said(maxItems=limits.RETRIES_MAX),
]
InFlight = Annotated[int, said(minimum=limits.IN_FLIGHT_MIN, maximum=limits.IN_FLIGHT_MAX)]
RatePerSecond = Annotated[int, said(minimum=limits.RATE_PER_SECOND_MIN, maximum=limits.RATE_PER_SECOND_MAX)]
RequestsPerMinute = Annotated[int, said(minimum=1, maximum=limits.QUOTA_REQUESTS_PER_MINUTE_MAX)]
Burst = Annotated[int, said(minimum=1, maximum=limits.QUOTA_BURST_MAX)]
_LITERAL: Final = {"type": ["string", "number", "boolean", "null"]}
_COMPARISON: Final = {"enum": ["=", "<", "<=", ">", ">="]}
_BOUND: Final = {"type": "number", "description": "What a value is compared with."}
#: What a path of a filter may be held to.
_ALTERNATIVE: Final = {
    "anyOf": [
        _LITERAL,
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
            "properties": {
                "prefix": {"type": "string", "maxLength": filters.FILTER_BYTES_MAX},
                "exists": {"type": "boolean"},
                "numeric": {
                    "type": "array",
                    "anyOf": [{"minItems": 2, "maxItems": 2}, {"minItems": 4, "maxItems": 4}],
                    "prefixItems": [_COMPARISON, _BOUND, _COMPARISON, _BOUND],
                },
                "anything_but": {
                    "type": "array",
                    "items": _LITERAL,
                    "minItems": 1,
                    "maxItems": filters.FILTER_ALTERNATIVES_MAX,
                },
            },
        },
    ]
}
Filter = Annotated[
    dict[str, Any],
    said(
        "By dotted path below `type`, `actor`, `metadata` or `data`: alternatives, one of which has to match "
        "at every path. Evaluated once, at acceptance; at most "
        f"{filters.FILTER_BYTES_MAX:,} bytes of compact JSON.",
        maxProperties=filters.FILTER_PATHS_MAX,
        propertyNames={
            "pattern": "^(type|actor|metadata|data)(\\.|$)",
            "maxLength": filters.FILTER_PATH_CHARS_MAX,
        },
        additionalProperties={
            "type": "array",
            "items": _ALTERNATIVE,
            "minItems": 1,
            "maxItems": filters.FILTER_ALTERNATIVES_MAX,
        },
    ),
]
HeaderName = Annotated[str, said(minLength=1, maxLength=targets.HEADER_NAME_CHARS_MAX)]
HeaderValue = Annotated[str, said(maxLength=targets.HEADER_VALUE_CHARS_MAX)]
MaskedValue = Annotated[str, said("Values are not shown.", enum=[targets.MASK])]
KeyKind = Annotated[str, said(enum=["secret", "publishable"])]
KeyPrefix = Annotated[
    str, said("The part of the key that may be shown.", pattern="^atlas_(live|test)_(sk|pk)_[0-9a-f]{4}$")
]
KeySecret = Annotated[str, said("Shown only here.", pattern="^atlas_(live|test)_(sk|pk)_[0-9a-f]{48}$")]
SigningSecret = Annotated[
    str, said("Shown at creation and rotation only.", pattern="^whsec_[A-Za-z0-9+/]{43}=$")
]
Digest = Annotated[str, said("SHA-256, hex.", pattern=_HEX % 64)]
Sealed = Annotated[
    str,
    said("A signing secret, encrypted (AES-GCM).", contentEncoding="base64", pattern="^[A-Za-z0-9+/]+=*$"),
]
WorkspaceStatus = Annotated[str, said(enum=["enabled", "suspended"])]
#: Of a target's circuit breaker; see `breaker`.
BreakerState = Annotated[str, said(enum=["closed", "open", "half_open"])]
TargetStatus = Annotated[str, said(enum=["enabled", "disabled"])]
JobStatus = Annotated[
    str, said("`running` from when it was asked for.", enum=["running", "completed", "failed"])
]
