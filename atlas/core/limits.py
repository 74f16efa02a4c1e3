"""Every limit on what comes in, in one place (reference; API notes; design section 11).

A limit is tested at its value and one past it. Where the documents name no number, the comment says
why there is one. The same limits as types, for the models of requests, stand at the end.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from atlas.core.targets import HEADER_NAME_CHARS_MAX, HEADER_VALUE_CHARS_MAX, HEADERS_MAX

# Heads: the request line and the headers. Not in the documents; without a bound one request takes 50 MB.
#: A server may take as much more as it reads at once (64 to 256 KiB), but never goes on reading.
HEAD_BYTES_MAX: Final = 65_536
#: How long a connection may stay open without a whole head.
HEAD_DEADLINE_S: Final = 30.0

# Bodies.
BODY_BYTES_MAX: Final = 1024 * 1024
BATCH_BODY_BYTES_MAX: Final = 8 * 1024 * 1024
#: A body over its limit is read this far before the 413, so that clients see the answer.
DRAIN_BYTES_MAX: Final = 16 * 1024 * 1024
DRAIN_S_MAX: Final = 2.0
#: The whole body has to arrive within this time, else 408.
BODY_DEADLINE_S: Final = 30.0

# JSON.
#: Nested containers, the top-level object (in a batch: each item) being 1.
DEPTH_MAX: Final = 64
#: Objects and arrays in a body. Not in the documents: 8 MiB of `[]` would be 300 MB of memory and hold the
#: event loop for seconds; this many take a tenth of one. An event's `data` of under 256 KB has at most half.
CONTAINERS_MAX: Final = 262_144
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
#: What a batch puts around its items that does not count as depth: the object and its `events`.
BATCH_ENVELOPE_DEPTH: Final = 2

# Events.
#: `data`, serialized compactly, has to be *under* 256 KB: this many bytes are already too many.
DATA_BYTES: Final = 262_144
EVENT_TYPE_CHARS_MAX: Final = 128
ACTOR_CHARS_MAX: Final = 256
USER_AGENT_CHARS_MAX: Final = 1_024
METADATA_KEYS_MAX: Final = 20
METADATA_KEY_CHARS_MAX: Final = 64
METADATA_VALUE_CHARS_MAX: Final = 512
ORDERING_KEY_CHARS_MAX: Final = 128
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
#: A batch's header key: room is left for the `/i` of its items.
BATCH_IDEMPOTENCY_KEY_CHARS_MAX: Final = 250
BATCH_EVENTS_MAX: Final = 1_000
#: `occurred_at`, in UTC.
YEAR_MIN: Final = 1970
YEAR_MAX: Final = 9999
#: The last millisecond of the year 9999, in UTC.
MS_MAX: Final = 253_402_300_799_999

# Streams.
STREAM_NAME_CHARS_MIN: Final = 3
STREAM_NAME_CHARS_MAX: Final = 64
STREAMS_MAX: Final = 100
#: Event topics of an installation unless it says otherwise, archived streams included: each costs the brokers
#: open files and memory for every partition. A prudent figure, not a measured one.
TOPICS_MAX_DEFAULT: Final = 2_000
RETENTION_DAYS_MIN: Final = 1
RETENTION_DAYS_MAX: Final = 90
RETENTION_DAYS_DEFAULT: Final = 14
DEFAULT_ROUTES_MAX: Final = 20

# Text for people. The documents set no bound; without one a megabyte would live in every registry.
DESCRIPTION_CHARS_MAX: Final = 1_000
NAME_CHARS_MAX: Final = 100

# Workflows. (URLs and headers: `targets`; defaults: `entities`, `retry`.)
#: After `wf_`.
WORKFLOW_ID_CHARS_MAX: Final = 60
TIMEOUT_MS_MIN: Final = 100
TIMEOUT_MS_MAX: Final = 30_000
RETRIES_MAX: Final = 20
RETRY_DELAY_S_MIN: Final = 1
RETRY_DELAY_S_MAX: Final = 86_400
IN_FLIGHT_MIN: Final = 1
IN_FLIGHT_MAX: Final = 1_000
RATE_PER_SECOND_MIN: Final = 1
RATE_PER_SECOND_MAX: Final = 10_000

# Webhook endpoints. Not in the documents: each outcome is a delivery to every endpoint that wants it.
ENDPOINTS_MAX: Final = 20

# Bulk replays.
REPLAY_RATE_MIN: Final = 1
REPLAY_RATE_MAX: Final = 10_000
REPLAY_RATE_DEFAULT: Final = 100
#: Of one environment at a time. Not in the documents: each reads the events of its workspace.
REPLAYS_RUNNING_MAX: Final = 10

# Deliveries.
#: What is kept of a target's answer.
RESPONSE_BODY_BYTES_MAX: Final = 4_096
#: One field of its header, name and value. Not in the documents, like the two below; 64 KiB is what Python's
#: own client takes in a line, and curl takes more.
ANSWER_FIELD_BYTES_MAX: Final = 65_536
ANSWER_FIELDS_MAX: Final = 1_000
#: All that a target may send in one answer, whatever it is for, as far as it is read at all: fields at both
#: limits would be 64 MiB for every attempt under way. One read (64 to 256 KiB) may go beyond.
ANSWER_BYTES_MAX: Final = 1_048_576

# Keys.
OVERLAP_S_MAX: Final = 604_800
OVERLAP_S_DEFAULT: Final = 3_600

# Quota, per workspace and environment.
QUOTA_REQUESTS_PER_MINUTE_DEFAULT: Final = 1_200
QUOTA_BURST_DEFAULT: Final = 200
# Not in the documents: a bound that no real quota reaches, so that sums stay far inside 64 bits.
QUOTA_REQUESTS_PER_MINUTE_MAX: Final = 60_000_000
QUOTA_BURST_MAX: Final = 1_000_000

# Lists.
PAGE_MIN: Final = 1
PAGE_MAX: Final = 100
PAGE_DEFAULT: Final = 25

# As types.

# `$(?!\n)`: Python's `$` also matches before a last line end; written so, JSON Schema can read it too.
STREAM_NAME_PATTERN: Final = rf"^[a-z0-9-]{{{STREAM_NAME_CHARS_MIN},{STREAM_NAME_CHARS_MAX}}}$(?!\n)"
EVENT_TYPE_PATTERN: Final = r"^[a-z0-9_]+(\.[a-z0-9_]+)+$(?!\n)"
NEW_WORKFLOW_ID_PATTERN: Final = rf"^wf_[a-z0-9_]{{1,{WORKFLOW_ID_CHARS_MAX}}}$(?!\n)"
WORKFLOW_ID_PATTERN: Final = rf"^wf_[A-Za-z0-9_]{{1,{WORKFLOW_ID_CHARS_MAX}}}$(?!\n)"
IDEMPOTENCY_KEY_PATTERN: Final = rf"^[ -~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$(?!\n)"
#: What a pattern wants, in words.
REASON_BY_PATTERN: Final = {
    STREAM_NAME_PATTERN: "must be 3 to 64 characters of a-z, 0-9 and -",
    EVENT_TYPE_PATTERN: "must be in dot.case: two or more segments of a-z, 0-9 and _, as in order.fulfilled",
    NEW_WORKFLOW_ID_PATTERN: "must be wf_ and 1 to 60 characters of a-z, 0-9 and _",
    WORKFLOW_ID_PATTERN: "is not a workflow id",
    IDEMPOTENCY_KEY_PATTERN: "must be 1 to 255 printable ASCII characters",
}

StreamName = Annotated[str, Meta(pattern=STREAM_NAME_PATTERN)]
WorkflowId = Annotated[str, Meta(pattern=WORKFLOW_ID_PATTERN)]
Description = Annotated[str, Meta(max_length=DESCRIPTION_CHARS_MAX)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
RetentionDays = Annotated[int, Meta(ge=RETENTION_DAYS_MIN, le=RETENTION_DAYS_MAX)]
#: A schema says so; `requests` finds the one that is named twice.
_NO_REPEATS: Final = {"uniqueItems": True}
DefaultRoutes = Annotated[
    tuple[WorkflowId, ...], Meta(max_length=DEFAULT_ROUTES_MAX, extra_json_schema=_NO_REPEATS)
]
KeyStreams = Annotated[
    tuple[StreamName, ...], Meta(min_length=1, max_length=STREAMS_MAX, extra_json_schema=_NO_REPEATS)
]
TimeoutMs = Annotated[int, Meta(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX)]
RetryDelayS = Annotated[int, Meta(ge=RETRY_DELAY_S_MIN, le=RETRY_DELAY_S_MAX)]
RetrySchedule = Annotated[tuple[RetryDelayS, ...], Meta(max_length=RETRIES_MAX)]
InFlight = Annotated[int, Meta(ge=IN_FLIGHT_MIN, le=IN_FLIGHT_MAX)]
RatePerSecond = Annotated[int, Meta(ge=RATE_PER_SECOND_MIN, le=RATE_PER_SECOND_MAX)]
ReplayRate = Annotated[int, Meta(ge=REPLAY_RATE_MIN, le=REPLAY_RATE_MAX)]
OutcomeType = Literal["event.delivered", "event.failed", "event.retry_scheduled"]
OutcomeTypes = Annotated[
    tuple[OutcomeType, ...], Meta(min_length=1, max_length=3, extra_json_schema=_NO_REPEATS)
]
# `targets` checks names and values, whose case and characters matter too.
Headers = Annotated[
    dict[
        Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": HEADER_NAME_CHARS_MAX})],
        Annotated[str, Meta(extra_json_schema={"maxLength": HEADER_VALUE_CHARS_MAX})],
    ],
    Meta(max_length=HEADERS_MAX),
]
ActorText = Annotated[str, Meta(max_length=ACTOR_CHARS_MAX)]
NewWorkflowId = Annotated[str, Meta(pattern=NEW_WORKFLOW_ID_PATTERN)]
IdempotencyKey = Annotated[str, Meta(pattern=IDEMPOTENCY_KEY_PATTERN)]
EventType = Annotated[str, Meta(pattern=EVENT_TYPE_PATTERN, max_length=EVENT_TYPE_CHARS_MAX)]
OrderingKey = Annotated[str, Meta(min_length=1, max_length=ORDERING_KEY_CHARS_MAX)]
UserAgent = Annotated[str, Meta(max_length=USER_AGENT_CHARS_MAX)]
OverlapS = Annotated[int, Meta(ge=0, le=OVERLAP_S_MAX)]
QuotaPerMinute = Annotated[int, Meta(ge=1, le=QUOTA_REQUESTS_PER_MINUTE_MAX)]
QuotaBurst = Annotated[int, Meta(ge=1, le=QUOTA_BURST_MAX)]
Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=METADATA_KEY_CHARS_MAX)],
        Annotated[str, Meta(max_length=METADATA_VALUE_CHARS_MAX)],
    ],
    Meta(max_length=METADATA_KEYS_MAX),
]
