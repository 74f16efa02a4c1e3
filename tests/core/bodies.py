"""A good body of every kind, and how the gateway reads one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from atlas.core.errors import InvalidRequest
from atlas.core.event_requests import BatchEventIn, BatchIn, CheckedEvent, EventIn, read_event, read_items
from atlas.core.refusals import converted
from atlas.core.requests import (
    KeyCreate,
    RotateRequest,
    StreamCreate,
    StreamPatch,
    WorkflowCreate,
    WorkflowPatch,
    WorkspaceCreate,
    WorkspacePatch,
    parse,
)
from atlas.core.strict_json import Text

EVENT: dict[str, Any] = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"order_id": "ord_8K2N1Q7", "line_items": [{"sku": "BK-1042", "qty": 1}]},
    "actor": {
        "type": "user",
        "id": "usr_7T3Q9HBN2P",
        "tenant_id": "tnt_acme_eu",
        "ip": "203.0.113.42",
        "user_agent": "AcmeCheckout/3.4 (iOS 18.2)",
    },
    "metadata": {"region": "eu-west-1", "channel": "web", "experiment": "checkout_v7"},
}
STREAM = {"name": "orders-prod"}
WORKFLOW = {"url": "https://hooks.acme.example/atlas"}
KEY = {"kind": "secret"}

Body = type[Any]

VALID: dict[Body, dict[str, Any]] = {
    BatchEventIn: EVENT,
    StreamCreate: STREAM,
    StreamPatch: {},
    WorkflowCreate: WORKFLOW,
    WorkflowPatch: {},
    KeyCreate: KEY,
    RotateRequest: {},
    WorkspaceCreate: {"name": "Acme"},
    WorkspacePatch: {},
}


def read(model: Body, value: Any) -> Any:
    """As the gateway reads it."""
    if model is EventIn:
        return read_event(value)
    if model is BatchIn:
        return converted(model, value)
    if model is BatchEventIn:
        return item(value)
    return parse(model, value)


def item(value: Any) -> CheckedEvent:
    """As an item of a batch: the same whether all of the batch is good or not."""
    [alone], [beside, _] = [
        read_items(Text(body, orjson.dumps(body))) for body in ({"events": [value]}, {"events": [value, {}]})
    ]
    if isinstance(alone, CheckedEvent):
        assert alone == beside
        return alone
    assert isinstance(beside, InvalidRequest)
    assert alone.details == beside.details
    raise alone


def refusal(model: Body, value: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(model, value)
    return caught.value


def field_of(model: Body, change: dict[str, Any]) -> str | None:
    return refusal(model, {**VALID[model], **change}).field


def keys(n: int) -> dict[str, str]:
    return {f"k{i}": "v" for i in range(n)}


def data_of(json_bytes: int) -> dict[str, str]:
    return {"a": "x" * (json_bytes - len('{"a":""}'))}


QUOTA = {"requests_per_minute": 1, "burst": 1}
