"""`POST /v1/events/batch`: every item answered as a single POST of it would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from atlas.core.errors import ApiError, InvalidRequest
from atlas.gateway.call import Principal, Reply
from tests.ingest.harness import OTHER_WORKSPACE, WORKSPACE, Installation, api_key, call, installation
from tests.ingest.test_single import EVENT
from tests.virtual_time import VirtualClock, virtual_time


def results(reply: Reply) -> list[dict[str, Any]]:
    body = orjson.loads(reply.body)
    assert list(body) == ["object", "accepted", "rejected", "data"]
    assert (reply.status, body["object"]) == (202, "batch")
    data: list[dict[str, Any]] = body["data"]
    assert body["accepted"] == sum(item["status"] == 202 for item in data)
    assert body["rejected"] == len(data) - body["accepted"]
    return data


async def single_error(atlas: Installation, event: object) -> dict[str, Any]:
    with pytest.raises(ApiError) as refused:
        await atlas.send(event)
    error = refused.value
    return {"code": error.code, "message": error.message, "details": error.details}


@virtual_time
async def test_a_bad_event_spoils_no_other(clock: VirtualClock, tmp_path: Path) -> None:
    bad: list[object] = [
        {**EVENT, "type": "fulfilled"},
        {**EVENT, "metadata": {"region": 5}},
        {**EVENT, "stream": "nowhere"},
        {**EVENT, "data": {"a": "x" * 262_144}},
        {**EVENT, "colour": "red"},
        {**EVENT, "idempotency_key": ""},
        {**EVENT, "idempotency_key": "k" * 256},
        5,
        None,
        [],
        "x",
        {},
    ]
    mixed: list[object] = []
    for number, item in enumerate(bad):
        mixed += [item, {**EVENT, "data": {"n": number}}]
    async with installation(clock, tmp_path) as atlas:
        got = results(await atlas.send_batch(mixed))
        assert [item["status"] for item in got[1::2]] == [202] * len(bad)
        assert [list(item) for item in got[::2]] == [["status", "error"]] * len(bad)
        for item, wrong in zip(got[::2], bad, strict=True):
            error = item["error"]
            assert list(error) == ["code", "message", "request_id", "details"]
            assert error.pop("request_id") == "req_01HX9ZD2M1Y0K8X6V3N7P5Q2W4"
            if isinstance(wrong, dict) and "idempotency_key" not in wrong:
                assert error == await single_error(atlas, wrong)
        assert [item["status"] for item in got[::2]] == [400, 400, 404, *[400] * 9]
        fields = [item["error"]["details"].get("field") for item in got[::2]]
        assert fields[5:7] == ["idempotency_key"] * 2
        assert fields[7:11] == [None] * 4  # no objects at all: the event as a whole
        stored = [orjson.loads(bytes(event.data))["n"] for event in await atlas.events("orders-prod")]
        assert sorted(stored) == list(range(len(bad)))
        assert atlas.count("appended") == len(bad)


@virtual_time
async def test_an_item_is_answered_like_a_single_post(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        (item,) = results(await atlas.send_batch([{**EVENT, "idempotency_key": "k"}]))
        again = await atlas.send(EVENT, "k")
        assert again.headers == ((b"idempotent-replayed", b"true"),)
        assert again.body == orjson.dumps(item["event"])
        assert item["event"]["routes"] == [
            {"workflow_id": "wf_billing_sync", "status": "queued"},
            {"workflow_id": "wf_search_index", "status": "queued"},
        ]


@virtual_time
async def test_one_append_one_observation_a_request(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        await atlas.send_batch([EVENT] * 7)
        await atlas.send(EVENT)
        await atlas.send_batch([5])
        assert atlas.metrics.registry.get_sample_value("atlas_append_seconds_count") == 2
        assert (atlas.count("appended"), atlas.count("rejected")) == (8, 1)


@virtual_time
async def test_a_batch_has_1_to_1000_events(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        assert len(results(await atlas.send_batch([EVENT]))) == 1
        assert len(results(await atlas.send_batch([EVENT] * 1_000))) == 1_000
        for events in ([], [EVENT] * 1_001):
            with pytest.raises(InvalidRequest) as refused:
                await atlas.send_batch(events)
            assert refused.value.field == "events"
        assert len(await atlas.records("orders-prod")) == 1_001


@virtual_time
async def test_a_wrong_envelope_refuses_the_whole_batch(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        for body, field in (
            ({}, "events"),
            ({"events": {}}, "events"),
            ({"events": None}, "events"),
            ({"events": [EVENT], "atomic": True}, "atomic"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await atlas.ingest.send_batch(call(body))
            assert refused.value.field == field
        with pytest.raises(InvalidRequest):
            await atlas.ingest.send_batch(call(b'{"events":[{"a":1,"a":2}]}'))
        made = call({"events": [EVENT]})
        made.query_string = "atomic=1"
        with pytest.raises(InvalidRequest) as refused:
            await atlas.ingest.send_batch(made)
        assert refused.value.field == "atomic"
        assert await atlas.records("orders-prod") == []


@virtual_time
async def test_a_nul_is_data_of_its_own_event_only(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        got = results(
            await atlas.send_batch(
                [{**EVENT, "data": {"a\0": "\0"}}, {**EVENT, "metadata": {"region": "\0"}}, EVENT]
            )
        )
        assert [item["status"] for item in got] == [202, 400, 202]
        assert got[1]["error"]["details"]["field"] == "metadata.region"


@virtual_time
async def test_equal_keys_in_a_batch_are_one_event(clock: VirtualClock, tmp_path: Path) -> None:
    one = {**EVENT, "idempotency_key": "k"}
    other = {**EVENT, "data": {}, "idempotency_key": "k"}
    async with installation(clock, tmp_path) as atlas:
        reply = await atlas.send_batch([one, other, one, EVENT])
        got = results(reply)
        assert [item["status"] for item in got] == [202, 409, 202, 202]
        assert got[0] == got[2]
        assert got[0]["event"]["id"] != got[3]["event"]["id"]
        assert got[1]["error"]["code"] == "duplicate_event"
        assert len(await atlas.records("orders-prod")) == 2
        assert [atlas.count(v) for v in ("appended", "replayed", "conflict")] == [2, 1, 1]
        assert reply.headers == ()


@virtual_time
async def test_a_header_gives_each_item_a_key_of_its_own(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        events = [EVENT, {**EVENT, "idempotency_key": "mine"}, EVENT]
        first = await atlas.send_batch(events, "K")
        got = results(first)
        assert [item["event"]["idempotency_key"] for item in got] == ["K/0", "mine", "K/2"]
        again = await atlas.send_batch(events, "K")
        assert again.body == first.body
        assert again.headers == ((b"idempotent-replayed", b"true"),)
        # The client's own `K/0` is another key, and so is a single POST's `K`.
        for key in ("K/0", "K"):
            single = await atlas.send({**EVENT, "data": {"other": 1}}, key)
            assert single.headers == ()
        (own,) = results(await atlas.send_batch([{**EVENT, "data": {}, "idempotency_key": "K/2"}]))
        assert own["status"] == 202
        assert len(await atlas.records("orders-prod")) == 6


@virtual_time
async def test_replayed_is_said_when_every_accepted_item_was(clock: VirtualClock, tmp_path: Path) -> None:
    keyed = {**EVENT, "idempotency_key": "k"}
    replayed = ((b"idempotent-replayed", b"true"),)
    async with installation(clock, tmp_path) as atlas:
        assert (await atlas.send_batch([keyed])).headers == ()
        assert (await atlas.send_batch([keyed, 5, {**keyed, "data": {}}])).headers == replayed
        assert (await atlas.send_batch([keyed, EVENT])).headers == ()
        assert (await atlas.send_batch([5])).headers == ()


@virtual_time
async def test_a_batchs_key_has_1_to_250_characters(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        got = results(await atlas.send_batch([EVENT] * 1_000, "k" * 250))
        assert len(got[999]["event"]["idempotency_key"]) == 254
        for key in ("", "k" * 251):
            with pytest.raises(InvalidRequest) as refused:
                await atlas.send_batch([EVENT], key)
            assert refused.value.field == "Idempotency-Key"


@virtual_time
async def test_archived_streams_in_a_batch(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        await atlas.stream("audit-prod")
        old = {**EVENT, "idempotency_key": "old"}
        (before,) = results(await atlas.send_batch([old]))
        await atlas.archive("orders-prod")
        got = results(
            await atlas.send_batch([old, EVENT, {**old, "data": {}}, {**EVENT, "stream": "audit-prod"}])
        )
        assert [item["status"] for item in got] == [202, 404, 409, 202]
        assert got[0] == before


@virtual_time
async def test_no_stream_outside_the_scope(clock: VirtualClock, tmp_path: Path) -> None:
    scoped = Principal(api_key(streams=("audit-prod",)), WORKSPACE)
    other = Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE)
    async with installation(clock, tmp_path) as atlas:
        await atlas.stream("audit-prod")
        events = [EVENT, {**EVENT, "stream": "nowhere"}, {**EVENT, "stream": "audit-prod"}]
        mine = results(await atlas.send_batch(events, principal=scoped))
        theirs = results(await atlas.send_batch(events, principal=other))
        assert [item["status"] for item in mine] == [404, 404, 202]
        assert [item["status"] for item in theirs] == [404, 404, 404]
        assert await atlas.records("orders-prod") == []
