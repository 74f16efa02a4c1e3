"""One logical event, one record: equal JSON values under one key (guarantee G2; design section 7)."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.core.acceptance import DERIVED, SENT, derived_key, sent_key
from atlas.core.errors import ApiError
from atlas.core.ids import dedup_key
from atlas.core.strict_json import read
from atlas.gateway.call import Principal
from tests.ingest.harness import OTHER_WORKSPACE, WORKSPACE, api_key, installation
from tests.ingest.test_single import EVENT
from tests.virtual_time import VirtualClock, pass_time, run_virtual, virtual_time

SCOPE = ("ws_4F9KQ2C7Z1", "live")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)


def shuffled(value: Any, draw: st.DrawFn) -> Any:
    """An equal JSON value with the keys of every object in another order."""
    if isinstance(value, dict):
        names = draw(st.permutations(list(value)))
        return {name: shuffled(value[name], draw) for name in names}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@st.composite
def spellings(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two texts of one JSON object: other key order, spacing and escapes."""
    value = draw(OBJECTS)
    indent = draw(st.sampled_from([None, 1, 4]))
    one = json.dumps(value, ensure_ascii=False)
    two = json.dumps(shuffled(value, draw), ensure_ascii=draw(st.booleans()), indent=indent)
    return one.encode(), two.encode()


def payload_hash(text: bytes) -> bytes:
    return sent_key(SCOPE, "k", read(text).value).payload_hash


@given(spellings())
def test_equal_values_hash_alike(texts: tuple[bytes, bytes]) -> None:
    assert payload_hash(texts[0]) == payload_hash(texts[1])


@given(OBJECTS, OBJECTS)
def test_unequal_values_hash_apart(one: dict[str, Any], two: dict[str, Any]) -> None:
    texts = [json.dumps(value, sort_keys=True) for value in (one, two)]
    hashes = [payload_hash(text.encode()) for text in texts]
    assert (hashes[0] == hashes[1]) == (texts[0] == texts[1])


@pytest.mark.parametrize(
    ("one", "two"),
    [(b'{"a":1}', b'{"a":1.0}'), (b'{"a":null}', b"{}"), (b'{"a":[1,2]}', b'{"a":[2,1]}')],
)
def test_unlike_values(one: bytes, two: bytes) -> None:
    assert payload_hash(one) != payload_hash(two)


def test_an_items_own_key_is_no_part_of_its_payload() -> None:
    item = {**EVENT, "idempotency_key": "k"}
    assert sent_key(SCOPE, "k", item) == sent_key(SCOPE, "k", dict(EVENT))
    assert item["idempotency_key"] == "k"


def test_keys_of_two_namespaces_never_meet() -> None:
    derived = derived_key(SCOPE, "K", 0, dict(EVENT))
    sent = sent_key(SCOPE, "K/0", dict(EVENT))
    assert derived.text == sent.text == "K/0"
    assert derived.payload_hash == sent.payload_hash
    assert (derived.dedup_key, sent.dedup_key) == (
        dedup_key(*SCOPE, DERIVED, "K/0"),
        dedup_key(*SCOPE, SENT, "K/0"),
    )
    assert derived.dedup_key != sent.dedup_key


@settings(max_examples=25)
@given(spellings())
def test_a_retry_in_other_words_is_the_same_event(texts: tuple[bytes, bytes]) -> None:
    rest = b'"stream":"orders-prod","type":"order.fulfilled","occurred_at":"2026-05-18T14:22:11Z"'

    async def scenario(clock: VirtualClock) -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with installation(clock, Path(directory)) as atlas:
                first = await atlas.send(b'{"data":%b,%b}' % (texts[0], rest), "k")
                await pass_time(60)
                again = await atlas.send(b'{%b, "data" : %b}' % (rest, texts[1]), "k")
                assert (again.status, again.body) == (202, first.body)
                assert again.headers == ((b"idempotent-replayed", b"true"),)
                assert len(await atlas.records("orders-prod")) == 1

    run_virtual(scenario)


@virtual_time
async def test_another_payload_is_a_conflict_and_appends_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        first = await atlas.send(EVENT, "k")
        with pytest.raises(ApiError) as conflict:
            await atlas.send({**EVENT, "metadata": {}}, "k")
        assert (conflict.value.code, conflict.value.status) == ("duplicate_event", 409)
        assert (await atlas.send(EVENT, "k")).body == first.body
        assert len(await atlas.records("orders-prod")) == 1
        assert [atlas.count(v) for v in ("appended", "replayed", "conflict")] == [1, 1, 1]


@virtual_time
async def test_at_the_same_time(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        sends = [atlas.send(EVENT, "k") for _ in range(20)]
        replies = await asyncio.gather(*sends)
        assert len({reply.body for reply in replies}) == 1
        assert sorted(reply.headers for reply in replies)[0] == ()
        assert sum(not reply.headers for reply in replies) == 1
        assert len(await atlas.records("orders-prod")) == 1


@virtual_time
async def test_a_key_belongs_to_its_workspace_and_environment(clock: VirtualClock, tmp_path: Path) -> None:
    others = (
        Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE),
        Principal(api_key(environment="test"), WORKSPACE),
    )
    async with installation(clock, tmp_path) as atlas:
        ids = [orjson.loads((await atlas.send(EVENT, "k")).body)["id"]]
        for principal in others:
            await atlas.stream("orders-prod", principal=principal)
            reply = await atlas.send({**EVENT, "data": {"mine": 1}}, "k", principal)
            assert reply.headers == ()
            ids.append(orjson.loads(reply.body)["id"])
            (event,) = await atlas.events("orders-prod", principal=principal)
            assert (event.workspace_id, event.environment) == principal.scope
        assert len(set(ids)) == 3
        (event,) = await atlas.events("orders-prod")
        assert event.id == ids[0]
