"""The reference's own requests, word for word, and the answers it prints as patterns.

In an answer a pattern stands where the value is Atlas's to choose; every other value is the reference's.
"""

from __future__ import annotations

import re
from typing import Any, Final

ULID: Final = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
MILLISECONDS: Final = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z")
SECONDS: Final = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ")
EVENT_ID: Final = re.compile(f"evt_{ULID}")
WORKSPACE_ID: Final = re.compile("ws_[0-9A-HJKMNP-TV-Z]{10,26}")
ANY_TEXT: Final = re.compile(r"\S.*")

KEY: Final = "6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa"

# Quickstart.

QUICKSTART_STREAM: Final = (
    b'{ "name": "orders-prod", "description": "Production order lifecycle events", "retention_days": 30 }'
)
QUICKSTART_STREAM_ANSWER: Final[dict[str, Any]] = {
    "id": re.compile(f"stm_{ULID}"),
    "object": "event_stream",
    "name": "orders-prod",
    "description": "Production order lifecycle events",
    "retention_days": 30,
    "default_routes": [],
    "created_at": SECONDS,
    "workspace_id": WORKSPACE_ID,
}
QUICKSTART_EVENT: Final = (
    b'{ "stream": "orders-prod", "type": "order.fulfilled", "occurred_at": "2026-05-18T14:22:11Z",'
    b' "data": { "order_id": "ord_8K2N1Q7", "total_cents": 4299 } }'
)

# Create an event stream.

STREAM: Final = b"""{
"name": "audit-prod",
"description": "Production audit log stream",
"retention_days": 90,
"default_routes": ["wf_compliance_archive"]
}"""
STREAM_ANSWER: Final[dict[str, Any]] = {
    "id": re.compile(f"stm_{ULID}"),
    "object": "event_stream",
    "name": "audit-prod",
    "description": "Production audit log stream",
    "retention_days": 90,
    "default_routes": ["wf_compliance_archive"],
    "created_at": SECONDS,
    "workspace_id": WORKSPACE_ID,
}

# Send an event.

EVENT: Final = b"""{
"stream": "orders-prod",
"type": "order.fulfilled",
"occurred_at": "2026-05-18T14:22:11Z",
"data": {
"order_id": "ord_8K2N1Q7",
"currency": "USD",
"total_cents": 4299,
"line_items": [
{ "sku": "BK-1042", "qty": 1, "unit_cents": 4299 }
]
},
"actor": {
"type": "user",
"id": "usr_7T3Q9HBN2P",
"tenant_id": "tnt_acme_eu",
"ip": "203.0.113.42",
"user_agent": "AcmeCheckout/3.4 (iOS 18.2)"
},
"metadata": {
"region": "eu-west-1",
"channel": "web",
"experiment": "checkout_v7"
}
}"""
EVENT_ANSWER: Final[dict[str, Any]] = {
    "id": EVENT_ID,
    "object": "event",
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "status": "accepted",
    "received_at": MILLISECONDS,
    "occurred_at": "2026-05-18T14:22:11Z",
    "idempotency_key": KEY,
    "routes": [
        {"workflow_id": "wf_billing_sync", "status": "queued"},
        {"workflow_id": "wf_search_index", "status": "queued"},
    ],
}

# Retrieve event status.

STATUS_ANSWER: Final[dict[str, Any]] = {
    "id": EVENT_ID,
    "object": "event",
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "status": "retried",
    "received_at": MILLISECONDS,
    "occurred_at": "2026-05-18T14:22:11Z",
    "attempts": [
        {
            "workflow_id": "wf_billing_sync",
            "status": "delivered",
            "attempt": 1,
            "completed_at": MILLISECONDS,
        },
        {
            "workflow_id": "wf_search_index",
            "status": "retry_scheduled",
            "attempt": 2,
            "next_attempt_at": MILLISECONDS,
            "last_error": {
                "code": "upstream_timeout",
                "message": re.compile(r".+ did not respond within \S+"),
            },
        },
    ],
}

# Error handling.

ERROR_ANSWER: Final[dict[str, Any]] = {
    "error": {
        "code": "rate_limit_exceeded",
        "message": re.compile(rf"Request quota exceeded for workspace {WORKSPACE_ID.pattern}\."),
        "request_id": re.compile(f"req_{ULID}"),
        "details": {"retry_after_ms": int},
    }
}

# Pagination.

PAGE_TARGET: Final = "/v1/events?stream=orders-prod&limit=50&cursor=evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"


def compare(example: Any, answer: Any, at: str = "$") -> None:
    """Hold an answer to an example: the same fields in the same order, each of its form."""
    if isinstance(example, dict):
        assert list(answer) == list(example), at
        for name, value in example.items():
            compare(value, answer[name], f"{at}.{name}")
    elif isinstance(example, list):
        assert len(answer) == len(example), at
        for index, value in enumerate(example):
            compare(value, answer[index], f"{at}[{index}]")
    elif isinstance(example, re.Pattern):
        assert isinstance(answer, str), at
        assert example.fullmatch(answer), f"{at}: {answer}"
    elif isinstance(example, type):
        assert type(answer) is example, at
    else:
        assert (type(answer), answer) == (type(example), example), at
