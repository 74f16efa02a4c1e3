"""Every bundled payload, sent through Atlas to two receivers, compared value by value wherever it shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from standardwebhooks import Webhook

from atlas.data import github_events
from tests.api.atlas_process import SERVERS, answered, create_stream, every_page, made, running
from tests.api.receiver import Delivery, Receiver, signed_by_the_reference
from tests.http_client import Client
from tests.processes import eventually

PATHS: Final = ("/wf_billing_sync", "/wf_search_index")
ROUTES: Final = [path.removeprefix("/") for path in PATHS]
BATCH: Final = 30
#: What JSON can hold and libraries get wrong. Not in the bundled payloads, so added to them.
AWKWARD: Final[list[Any]] = [
    {"ints": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1]},
    {"floats": [0.1, -0.0, 1e-7, 5e-324, 1.7976931348623157e308, 1.0, 1e22, 123456789.123456789]},
    {"same": [1, 1.0, True, "1", None, [], {}, ""]},
    {
        "text": [
            "\u0000",
            "\x7f",
            "\u2028",
            "\ufeff",
            "\ufffd",
            "e\u0301",
            "\u00e9",
            "\U0001f600",
            "\U0010ffff",
        ]
    },
    {"escapes": '"\\/\b\f\n\r\t', "\u0000": 1, "": 2, "a.b": 3, "__proto__": 4, "\U0001f600": 5},
    {"long": "x" * 200_000},
    {"deep": orjson.loads("[" * 61 + "]" * 61)},
    {},
]


def exact(value: Any) -> Any:
    """A value whose equality tells 1, 1.0 and true apart, and 0.0 and -0.0; key order does not matter."""
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return (type(value), repr(value))


def same(one: Any, other: Any) -> bool:
    return bool(exact(one) == exact(other))


def events() -> list[dict[str, Any]]:
    payloads = [*github_events(), *(("atlas.awkward", data) for data in AWKWARD)]
    return [
        {
            "stream": "github",
            "type": event_type,
            "occurred_at": "2026-05-18T14:22:11.123456789+02:00",
            "data": data,
            "actor": {"type": "app", "id": f"n{number}", "ip": "2001:db8::1"},
            "metadata": {"number": str(number), "text": "\u00e9\U0001f600"},
        }
        for number, (event_type, data) in enumerate(payloads)
    ]


@pytest.fixture(params=SERVERS)
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    with running(tmp_path, request.param) as dev, Client(dev.port, dev.live_secret_key) as client:
        yield client


def test_every_payload_arrives_as_it_was_sent(live: Client) -> None:
    with Receiver() as receiver:
        secrets = {
            path: made(live.post("/v1/workflows", {"id": path[1:], "url": receiver.url(path)}))["secret"]
            for path in PATHS
        }
        create_stream(live, "github", default_routes=ROUTES)
        sent = events()
        ids = send(live, sent)
        assert len(set(ids)) == len(sent) == 240 + len(AWKWARD)
        by_id = dict(zip(ids, sent, strict=True))
        for path in PATHS:
            check_deliveries(receiver.wait_for(len(sent), path), by_id, secrets[path])
        check_api(live, by_id)
        assert len(receiver.arrived) == 2 * len(sent), "nothing comes twice when nothing fails"


def send(live: Client, sent: list[dict[str, Any]]) -> list[str]:
    """Send the first half one by one and the others in batches; their ids, in order."""
    half = len(sent) // 2
    ids = [answered(live.post("/v1/events", event), 202)["id"] for event in sent[:half]]
    for start in range(half, len(sent), BATCH):
        answer = answered(live.post("/v1/events/batch", {"events": sent[start : start + BATCH]}), 202)
        assert answer["rejected"] == 0
        ids += [item["event"]["id"] for item in answer["data"]]
    return ids


def check_deliveries(deliveries: list[Delivery], by_id: Mapping[str, dict[str, Any]], secret: str) -> None:
    assert {delivery.value["id"] for delivery in deliveries} == set(by_id)
    verifier = Webhook(secret)
    for delivery in deliveries:
        event = by_id[delivery.value["id"]]
        for field in ("type", "data", "actor", "metadata"):
            assert same(delivery.value[field], event[field]), (event["metadata"], field)
        assert delivery.value["occurred_at"] == "2026-05-18T12:22:11.123456789Z"
        assert signed_by_the_reference(delivery, secret, time.time())
        verifier.verify(delivery.body, dict(delivery.headers))
        assert delivery.headers["webhook-id"] == delivery.headers["x-atlas-delivery-id"]


def check_api(live: Client, by_id: Mapping[str, dict[str, Any]]) -> None:
    for event_id, event in by_id.items():
        payload = answered(live.get(f"/v1/events/{event_id}/payload"), 200)
        assert list(payload) == ["id", "object", "data", "actor", "metadata"]
        for field in ("data", "actor", "metadata"):
            assert same(payload[field], event[field]), (event["metadata"], field)

    eventually(
        lambda: len(every_page(live, "/v1/events?status=delivered")) == len(by_id), "all are delivered"
    )
    listed = {item["id"]: item for item in every_page(live, "/v1/events?stream=github")}
    assert set(listed) == set(by_id)
    for event_id, event in by_id.items():
        assert same(listed[event_id]["actor"], event["actor"])
        assert same(listed[event_id]["metadata"], event["metadata"])


def test_the_comparison_can_fail() -> None:
    for one, other in (
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([], {}),
        ("\u00e9", "e\u0301"),
        ({"a": 1}, {"a": "1"}),
    ):
        assert not same({"x": [one]}, {"x": [other]})
    assert same({"a": 1, "b": [1.5, None]}, {"b": [1.5, None], "a": 1})
