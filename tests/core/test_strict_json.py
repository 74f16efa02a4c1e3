"""Strict JSON: the rules one by one. `test_strict_json_oracle` holds them all against an oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.errors import FIELD_PATH_CHARS_MAX, InvalidRequest
from atlas.core.limits import BATCH_ENVELOPE_DEPTH, DEPTH_MAX
from atlas.core.strict_json import (
    PAYLOAD_HASH_BYTES,
    canonical,
    find_nul,
    payload_hash,
    read,
)
from tests.core.json_readers import assert_everybody_reads


def refusal(body: bytes, envelope_depth: int = 0) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(body, envelope_depth=envelope_depth)
    return caught.value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":1,"\\u0061":1}', "a"),
        (b'{"x":{"y":[0,{"k":1,"k":2}]}}', "x.y.1.k"),
        (b'{"a\\"b":1,"a\\u0022b":2}', 'a"b'),
        (b'{"a\\\\":1,"a\\u005c":2}', "a\\"),
        (b'{"[{":1,"[{":2}', "[{"),
        (b'{"\\u0022":1,"b":{"c":"\\u0022\\u0022","c":0}}', "b.c"),
        (b'{"a":"\\\\u0022","a":"\\""}', "a"),
        # What the dropped value held does not hide that it was dropped.
        (b'{"a":"","b":0,"a":"\\"\\"\\"\\""}', "a"),
        (b'{"\xc3\xa9":1,"\\u00e9":2}', "é"),
    ],
)
def test_repeated_keys(body: bytes, field: str) -> None:
    wrong = refusal(body)
    assert (wrong.field, wrong.reason) == (field, "repeats a key of the same object")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\\u0022"}',
        b'{"a\\u0022":"\\\\u0022\\\\\\u0022"}',
        b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',
        b'{"A":1,"a":2}',
        b'{"":1," ":2}',
    ],
)
def test_keys_that_only_look_repeated(body: bytes) -> None:
    assert_everybody_reads(body, read(body).value)


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, -(2**63), 10**19 - 1, 0])
def test_integers_at_the_limit(number: int) -> None:
    assert read(b'{"a":[%d]}' % number).value == {"a": [number]}


@pytest.mark.parametrize(
    "digits", [b"18446744073709551616", b"-9223372036854775809", b"9" * 300, b"1" * 5000]
)
def test_integers_beyond_the_limit(digits: bytes) -> None:
    assert refusal(b'{"a":[0,%s]}' % digits).field == "a.1"


def test_long_digits_that_are_no_integer() -> None:
    body = b'{"a":"18446744073709551616","b":0.18446744073709551616,"'
    body += b'-9223372036854775809":1e18446744073709551616}'
    assert refusal(body).field == "-9223372036854775809"
    body = body.replace(b"1e1844", b"0e1844")
    assert read(body).value["a"] == "18446744073709551616"


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1.7976931348623159e308", b"9" * 400 + b".0"])
def test_numbers_beyond_a_double(number: bytes) -> None:
    wrong = refusal(b'{"\xc3\xa9":"\xc3\xa9","a":{"b":%s}}' % number)
    assert (wrong.field, wrong.reason) == ("a.b", "is a number beyond what a double can hold")


@pytest.mark.parametrize("name", [b"NaN", b"Infinity", b"-Infinity"])
def test_not_a_number(name: bytes) -> None:
    assert refusal(b'{"a":%s}' % name).field == "a"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"a"',
        b"1",
        b"null",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":"\x01"}',
        b'{"a":"\x00"}',
        b"{}\x00",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\ude00\\ud83d"}',
        b'{"\\udc00":1}',
        '{"a":1}'.encode("utf-16"),
        # What stands behind the place where it stops being JSON is not looked at.
        b'{"b":tru,"a":1,"a":2}',
        b'{"b":"unclosed,"a":1,"a":2}',
    ],
)
def test_what_is_no_json_object_has_no_field(body: bytes) -> None:
    assert refusal(body).field is None


def test_position_of_a_syntax_error() -> None:
    assert "line 2, column 7" in refusal(b'{"a": 1,\n "b": x}').reason


def test_what_is_wrong_first_is_named() -> None:
    assert refusal(b'{"a":1e400,"b":1,"b":2}').field == "a"
    assert refusal(b'{"b":1,"b":2,"a":1e400}').field == "b"
    assert refusal(b'{"b":1,"b":2,"a":').field == "b"


def in_arrays(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_depth_at_the_limit_and_one_past_it() -> None:
    assert read(in_arrays(DEPTH_MAX)).value
    wrong = refusal(in_arrays(DEPTH_MAX + 1))
    assert wrong.field == ".".join(["a"] + ["0"] * (DEPTH_MAX - 1))
    assert read(b'{"a":"' + b"[{" * 10_000 + b'"}').value


def test_depth_of_a_batch_counts_from_its_items() -> None:
    item, deeper = in_arrays(DEPTH_MAX), in_arrays(DEPTH_MAX + 1)
    assert read(b'{"events":[1,%s]}' % item, envelope_depth=BATCH_ENVELOPE_DEPTH).value
    wrong = refusal(b'{"events":[1,%s]}' % deeper, BATCH_ENVELOPE_DEPTH)
    assert wrong.field == ".".join(["events", "1", "a"] + ["0"] * (DEPTH_MAX - 1))


def test_many_containers_are_not_depth() -> None:
    body = b'{"a":[' + b'{"b":[]},' * 1_000 + b"1]}"
    assert_everybody_reads(body, read(body).value)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MIB,
        b'{"a":' * (MIB // 5),
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"a":' + b"1" * MIB + b"}",
        b'{"a":-' + b"1" * 5_000 + b"}",
        b'{"a":"' + b'\\"' * (MIB // 2),
        b'{"a":"' + b'\\"' * (MIB // 2) + b"\\",
        b'{"a":"' + b"\\" * (MIB - 1),
        b'{"' + b'":"' * (MIB // 3),
        b'{"a":[' + b"18446744073709551616," * (MIB // 21) + b"1]}",
        b"{" + b'"a":1,' * (MIB // 6) + b'"a":1}',
        b'{"a":[' + b"{}," * (MIB // 3) + b'{"b":1,"b":1}]}',
        b'{"a":[' + b"-" * MIB + b"]}",
        b"," * MIB,
        b"]" * MIB,
    ],
)
@pytest.mark.timeout(10)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    refusal(body)


@pytest.mark.timeout(10)
def test_large_good_bodies_are_read() -> None:
    rows = ",".join(f'{{"id":{10**18 + i},"s":"\\u0022{i:020d}","f":0.{i:025d}}}' for i in range(10_000))
    body = f'{{"events":[{rows}]}}'.encode()
    assert read(body, envelope_depth=BATCH_ENVELOPE_DEPTH).value == json.loads(body)


def test_the_place_is_not_looked_for_beyond_measure() -> None:
    wrong = refusal(b'{"a":[' + b"0," * 200_000 + b'0],"b":1,"b":2}')
    assert (wrong.field, wrong.reason) == (None, "something in the body repeats a key of the same object")


def test_a_long_path_is_cut() -> None:
    key = b"k" * 100_000
    field = refusal(b'{"%s":1,"%s":2}' % (key, key)).field
    assert field == "k" * FIELD_PATH_CHARS_MAX


# --- canonical form and hash


plain_text = st.text(st.characters(codec="utf-8"), max_size=4)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    plain_text,
)


@given(
    st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=4),
        max_leaves=10,
    )
)
def test_equal_json_values_hash_equal(value: Any) -> None:
    def reordered(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reordered(item[key]) for key in reversed(item)}
        return [reordered(each) for each in item] if isinstance(item, list) else item

    spaced = json.dumps({"v": reordered(value)}, indent=2).encode()
    assert payload_hash(read(spaced).value) == payload_hash({"v": value})


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", '"1"'), ("[1,2]", "[2,1]"), ("{}", "[]"), ("null", "{}"), ("0", "false")],
)
def test_different_json_values_hash_differently(one: str, other: str) -> None:
    a, b = (payload_hash(read(b'{"v":%s}' % text.encode()).value) for text in (one, other))
    assert a != b
    assert len(a) == PAYLOAD_HASH_BYTES


def test_canonical_is_compact_and_sorted() -> None:
    assert canonical(read(b'{"b": [1e0, 1], "a": "\\u00e9"}').value) == '{"a":"é","b":[1.0,1]}'.encode()


# --- NUL


@pytest.mark.parametrize(
    ("value", "at", "path"),
    [
        ({"a": "x"}, "", None),
        ({"a": "\0"}, "", "a"),
        ({"a": ["x", {"b": "\0"}], "c": "\0"}, "", "a.1.b"),
        ({"a": {"k\0": 1}}, "events.3", "events.3.a.k\0"),
        ("\0", "name", "name"),
        ([1, None, True, 2.5], "", None),
    ],
)
def test_find_nul(value: object, at: str, path: str | None) -> None:
    assert find_nul(value, at) == path
