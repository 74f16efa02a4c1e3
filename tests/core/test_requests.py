"""What bodies may hold, and how what is wrong is named. Limits: `test_request_limits`."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from atlas.core import limits
from atlas.core.errors import FIELD_PATH_CHARS_MAX, InvalidRequest
from atlas.core.event_requests import (
    BatchEventIn,
    BatchIn,
    CheckedEvent,
    EventIn,
    check_idempotency_key,
)
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
from tests.core.bodies import (
    EVENT,
    QUOTA,
    STREAM,
    VALID,
    WORKFLOW,
    Body,
    data_of,
    field_of,
    keys,
    read,
    refusal,
)

# --- the reference's own examples


def test_the_event_of_the_reference() -> None:
    assert read(EventIn, EVENT) == CheckedEvent(
        stream="orders-prod",
        type="order.fulfilled",
        occurred_at="2026-05-18T14:22:11Z",
        data=EVENT["data"],
        data_json=orjson.dumps(EVENT["data"]),
        actor=EVENT["actor"],
        metadata=EVENT["metadata"],
        ordering_key=None,
        idempotency_key=None,
    )


def test_the_stream_of_the_reference() -> None:
    body = {
        "name": "audit-prod",
        "description": "Production audit log stream",
        "retention_days": 90,
        "default_routes": ["wf_compliance_archive"],
    }
    assert msgspec.to_builtins(parse(StreamCreate, body)) == {
        **body,
        "default_routes": ("wf_compliance_archive",),
    }


# --- types and values


@pytest.mark.parametrize(
    ("model", "field", "change"),
    [
        (BatchEventIn, "stream", {"stream": None}),
        (BatchEventIn, "stream", {"stream": "Orders"}),
        (BatchEventIn, "stream", {"stream": "orders_prod"}),
        (BatchEventIn, "stream", {"stream": "orders\n"}),
        (BatchEventIn, "type", {"type": "order"}),
        (BatchEventIn, "type", {"type": "order."}),
        (BatchEventIn, "type", {"type": ".order"}),
        (BatchEventIn, "type", {"type": "order..x"}),
        (BatchEventIn, "type", {"type": "order.Fulfilled"}),
        (BatchEventIn, "type", {"type": "order.fulfilled\n"}),
        (BatchEventIn, "type", {"type": 1}),
        (BatchEventIn, "occurred_at", {"occurred_at": 1779114131}),
        (BatchEventIn, "occurred_at", {"occurred_at": "2026-05-18T14:22:11"}),
        (BatchEventIn, "data", {"data": []}),
        (BatchEventIn, "data", {"data": None}),
        (BatchEventIn, "actor", {"actor": "usr_1"}),
        (BatchEventIn, "actor.id", {"actor": {"id": 7}}),
        (BatchEventIn, "actor.role", {"actor": {"role": "x"}}),
        (BatchEventIn, "metadata", {"metadata": []}),
        (BatchEventIn, "metadata.b", {"metadata": {"a": "1", "b": 1, "c": 2}}),
        (BatchEventIn, "metadata.b", {"metadata": {"a": "1", "b": None}}),
        (BatchEventIn, "metadata.x.y", {"metadata": {"x.y": ["z"]}}),
        (BatchEventIn, "idempotency_key", {"idempotency_key": "é"}),
        (BatchEventIn, "idempotency_key", {"idempotency_key": "a\n"}),
        (StreamCreate, "name", {"name": "Abc"}),
        (StreamCreate, "name", {"name": "abc\n"}),
        (StreamCreate, "retention_days", {"retention_days": True}),
        (StreamCreate, "retention_days", {"retention_days": 1.0}),
        (StreamCreate, "retention_days", {"retention_days": "1"}),
        (StreamCreate, "retention_days", {"retention_days": 2**64 - 1}),
        (StreamCreate, "default_routes", {"default_routes": "wf_a"}),
        (StreamCreate, "default_routes.1", {"default_routes": ["wf_a", "a"]}),
        (StreamCreate, "default_routes.2", {"default_routes": ["wf_a", "wf_b", "wf_a"]}),
        (StreamPatch, "default_routes.1", {"default_routes": ["wf_a", "wf_a"]}),
        (StreamPatch, "name", {"name": "other"}),
        (WorkflowCreate, "id", {"id": "wf_A"}),
        (WorkflowCreate, "url", {"url": "ftp://a.example/"}),
        (WorkflowCreate, "url", {"url": None}),
        (WorkflowCreate, "headers.Host", {"headers": {"X-A": "1", "Host": "a"}}),
        (WorkflowCreate, "headers.X-B", {"headers": {"X-A": "1", "X-B": 2}}),
        (WorkflowCreate, "ordered", {"ordered": 1}),
        (WorkflowCreate, "filter", {"filter": []}),
        (WorkflowPatch, "ordered", {"ordered": "yes"}),
        (WorkflowPatch, "id", {"id": "wf_b"}),
        (WorkflowPatch, "url", {"url": "https://a:b@c.example/"}),
        (WorkflowPatch, "headers.webhook-id", {"headers": {"webhook-id": "1"}}),
        (KeyCreate, "kind", {"kind": "sk"}),
        (KeyCreate, "kind", {"kind": None}),
        (KeyCreate, "streams", {"kind": "publishable"}),
        (KeyCreate, "streams", {"kind": "publishable", "streams": None}),
        (KeyCreate, "streams.1", {"streams": ["abc", "abc"]}),
        (KeyCreate, "streams.0", {"streams": ["a.b"]}),
        (WorkspacePatch, "status", {"status": "deleted"}),
        (WorkspacePatch, "quota.live.burst", {"quota": {"live": {"requests_per_minute": 1}}}),
        (WorkspacePatch, "quota.prod", {"quota": {"prod": QUOTA}}),
        (WorkspacePatch, "quota", {"quota": 5}),
    ],
)
def test_refused(model: Body, field: str, change: dict[str, Any]) -> None:
    assert field_of(model, change) == field


@pytest.mark.parametrize("model", VALID)
def test_missing_unknown_and_wrong_at_the_top(model: Body) -> None:
    for name in VALID[model]:
        rest = {key: value for key, value in VALID[model].items() if key != name}
        if name not in ("actor", "metadata"):
            wrong = refusal(model, rest)
            assert (wrong.field, wrong.reason) == (name, "is required")
    wrong = refusal(model, {**VALID[model], "nonesuch": None})
    assert (wrong.field, wrong.reason) == ("nonesuch", "is an unknown field")
    values: list[Any] = [[], "x", 1, None, True]
    for value in values:
        assert refusal(model, value).field is None


@pytest.mark.parametrize(
    "name", ["", "a b", "a`b", "x` - at `$.data", "$.data[...]", "`key` in `$.a`", "é.\n"]
)
def test_odd_names_of_unknown_fields(name: str) -> None:
    assert field_of(BatchEventIn, {name: 1}) == (name or None)
    assert field_of(BatchEventIn, {"actor": {name: 1}}) == f"actor.{name}"


def test_a_long_unknown_name_is_cut() -> None:
    assert field_of(StreamPatch, {"k" * 100_000: 1}) == "k" * FIELD_PATH_CHARS_MAX


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("model", [BatchIn, *VALID])
@given(st.data())
def test_any_value_in_any_field_is_read_or_refused_there(model: Body, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([field.name for field in msgspec.structs.fields(model)]))
    wrong = None
    try:
        read(model, {**VALID.get(model, {}), name: data.draw(json_values)})
    except InvalidRequest as refused:
        wrong = refused
    if wrong is not None:
        assert f"{wrong.field}.".startswith(f"{name}.")
        # In our words, and none of msgspec's.
        assert not wrong.reason.startswith(("Expected", "Object", "Invalid", "is not valid"))


@pytest.mark.parametrize(
    ("model", "change", "reason"),
    [
        (BatchEventIn, {"stream": 1}, "must be a string, not an integer"),
        (BatchEventIn, {"stream": "x"}, "must be 3 to 64 characters of a-z, 0-9 and -"),
        (BatchEventIn, {"metadata": {"a": 1.5}}, "the value must be a string, not a number with a fraction"),
        (BatchEventIn, {"metadata": {"": "a"}}, "the key must not be empty"),
        (BatchEventIn, {"metadata": keys(21)}, "must have at most 20 entries"),
        (BatchEventIn, {"actor": {"id": []}}, "must be a string, not an array"),
        (BatchEventIn, {"data": data_of(262_144)}, "must serialize to under 262,144 bytes"),
        (StreamCreate, {"retention_days": 91}, "must be at most 90"),
        (StreamCreate, {"default_routes": ["wf_a", "wf_a"]}, "is named twice"),
        (KeyCreate, {"kind": "root"}, "must be one of: secret, publishable"),
        (WorkspacePatch, {"status": "off"}, "must be one of: enabled, suspended"),
        (WorkspacePatch, {"status": 1}, "must be a string, not an integer"),
    ],
)
def test_reasons(model: Body, change: dict[str, Any], reason: str) -> None:
    assert refusal(model, {**VALID[model], **change}).reason == reason


# --- null and absent


def test_optional_inputs_accept_null_as_absent() -> None:
    event = {"actor": None, "metadata": None, "ordering_key": None, "idempotency_key": None}
    bare = {name: EVENT[name] for name in ("stream", "type", "occurred_at", "data")}
    assert read(BatchEventIn, {**bare, **event}) == read(BatchEventIn, bare)
    for model in (StreamCreate, WorkflowCreate, KeyCreate, RotateRequest, WorkspacePatch):
        optional = [field.name for field in msgspec.structs.fields(model) if not field.required]
        nulls = {**VALID[model], **dict.fromkeys(optional)}
        assert parse(model, nulls) == parse(model, VALID[model])


def test_defaults() -> None:
    stream = parse(StreamCreate, STREAM)
    assert (stream.retention_days, stream.default_routes, stream.description) == (14, (), None)
    workflow = parse(WorkflowCreate, WORKFLOW)
    assert (workflow.timeout_ms, workflow.max_in_flight, workflow.headers) == (5_000, 32, {})
    assert workflow.retry_schedule_seconds == (30, 60, 300, 900, 3_600, 10_800, 21_600, 43_200)
    assert parse(WorkflowCreate, {**WORKFLOW, "retry_schedule_seconds": []}).retry_schedule_seconds == ()
    assert parse(RotateRequest, {}).overlap_seconds == 3_600


def test_a_patch_tells_absent_from_present_and_null_clears_what_can_be_without_value() -> None:
    for model, clearable in (
        (StreamPatch, {"description"}),
        (WorkflowPatch, {"description", "rate_limit_per_second", "filter"}),
    ):
        fields = [field.name for field in msgspec.structs.fields(model)]
        absent, null = parse(model, {}), parse(model, dict.fromkeys(fields))
        assert all(getattr(absent, name) is UNSET for name in fields)
        assert {name for name in fields if getattr(null, name) is None} == clearable
        assert {name for name in fields if getattr(null, name) is UNSET} == set(fields) - clearable
    assert parse(StreamPatch, {"default_routes": []}).default_routes == ()
    quota = parse(WorkspacePatch, {"quota": {"live": None}}).quota
    assert quota is not UNSET
    assert (quota.live, quota.test) == (None, UNSET)


def test_actor_keeps_only_what_was_given() -> None:
    checked = read(EventIn, {**EVENT, "actor": {"id": "u", "ip": None}})
    assert checked.actor == {"id": "u"}
    assert read(EventIn, {**EVENT, "actor": {}}).actor == {}


# --- what types cannot say


@pytest.mark.parametrize(
    "ip",
    ["0.0.0.0", "255.255.255.255", "::", "2001:db8::1", "::ffff:1.2.3.4", "2001:DB8:0:0:8:800:200C:417A"],
)
def test_addresses(ip: str) -> None:
    assert read(EventIn, {**EVENT, "actor": {"ip": ip}}).actor == {"ip": ip}


@pytest.mark.parametrize(
    "ip",
    [
        "", "256.1.1.1", "1.1.1", "1.1.1.1.1", "01.1.1.1", "1.1.1.1\n", " 1.1.1.1", "1.1.1.1/32", "localhost",
        "fe80::1%eth0", ":::", "12345::", "[::1]", "::1\0", "3232235777", "\u0661.1.1.1", "1:2:3:4:5:6:7:8:9",
    ],
)  # fmt: skip
def test_what_is_no_address(ip: str) -> None:
    assert field_of(BatchEventIn, {"actor": {"ip": ip}}) == "actor.ip"


@pytest.mark.parametrize(
    ("model", "field", "change"),
    [
        (BatchEventIn, "stream", {"stream": "abc\0"}),
        (BatchEventIn, "type", {"type": "a.b\0"}),
        (BatchEventIn, "occurred_at", {"occurred_at": "2026-05-18T14:22:11Z\0"}),
        (BatchEventIn, "actor.id", {"actor": {"type": "x", "id": "\0"}}),
        (BatchEventIn, "actor.user_agent", {"actor": {"user_agent": "x\0y"}}),
        (BatchEventIn, "metadata.b", {"metadata": {"a": "x", "b": "\0"}}),
        (BatchEventIn, "metadata.k\0", {"metadata": {"k\0": "x"}}),
        (BatchEventIn, "ordering_key", {"ordering_key": "x\0"}),
        (BatchEventIn, "idempotency_key", {"idempotency_key": "x\0"}),
        (StreamCreate, "description", {"description": "\0"}),
        (StreamPatch, "description", {"description": "\0"}),
        (WorkflowCreate, "description", {"description": "\0"}),
        (WorkflowPatch, "headers.X-A", {"headers": {"X-A": "\0"}}),
        (KeyCreate, "name", {"name": "\0"}),
        (WorkspaceCreate, "name", {"name": "\0"}),
    ],
)
def test_nul_is_refused_outside_data(model: Body, field: str, change: dict[str, Any]) -> None:
    assert field_of(model, change) == field


def test_nul_is_data() -> None:
    assert read(EventIn, {**EVENT, "data": {"a\0": "\0"}}).data_json == b'{"a\\u0000":"\\u0000"}'


# --- the header


@pytest.mark.parametrize("raw", [b"x", b"x" * 255, b"6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa", b" !~"])
def test_idempotency_keys(raw: bytes) -> None:
    assert check_idempotency_key(raw) == raw.decode()


@pytest.mark.parametrize("raw", [b"", b"x" * 256, b"\x1f", b"\x7f", b"a\n", "é".encode(), b"\xff"])
def test_what_is_no_idempotency_key(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_idempotency_key(raw)
    assert caught.value.field == "Idempotency-Key"


def test_a_batchs_key_leaves_room_for_its_items() -> None:
    at_most = limits.BATCH_IDEMPOTENCY_KEY_CHARS_MAX
    assert at_most + len("/999") <= limits.IDEMPOTENCY_KEY_CHARS_MAX
    assert check_idempotency_key(b"x" * at_most, at_most)
    with pytest.raises(InvalidRequest):
        check_idempotency_key(b"x" * (at_most + 1), at_most)
