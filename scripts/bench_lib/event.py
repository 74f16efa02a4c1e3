"""The event that the bench sends, about 500 bytes of it, and the requests that carry it."""

from __future__ import annotations

from typing import Any, Final

import orjson

STREAM: Final = "bench"
BATCH_EVENTS: Final = 500

EVENT: Final[dict[str, Any]] = {
    "stream": STREAM,
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {
        "order_id": "ord_8K2N1Q7",
        "customer": {"id": "cus_4QX81", "country": "DE", "email": "someone@example.com"},
        "total_cents": 4299,
        "currency": "EUR",
        "items": [
            {"sku": "TSHIRT-BLK-M", "quantity": 2, "price_cents": 1499},
            {"sku": "MUG-WHT", "quantity": 1, "price_cents": 1301},
        ],
        "note": "left with the neighbour on the second floor",
    },
    "actor": {"type": "user", "id": "usr_42", "tenant_id": "ten_7"},
    "metadata": {"region": "eu-west-1", "source": "checkout"},
}


def body(stream: str = STREAM) -> bytes:
    """The body of a single POST."""
    return orjson.dumps({**EVENT, "stream": stream})


def batch_body(stream: str = STREAM) -> bytes:
    """The body of a batch of `BATCH_EVENTS`."""
    return orjson.dumps({"events": [{**EVENT, "stream": stream}] * BATCH_EVENTS})
