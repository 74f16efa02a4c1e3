"""The fast checks against an oracle that parses with the standard library and walks the result."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from atlas.core.errors import FIELD_PATH_CHARS_MAX, InvalidRequest
from atlas.core.limits import BATCH_ENVELOPE_DEPTH, DEPTH_MAX
from atlas.core.strict_json import read
from tests.core.json_readers import assert_everybody_reads


def refusal(body: bytes, envelope_depth: int = 0) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(body, envelope_depth=envelope_depth)
    return caught.value


class Malformed(Exception):
    pass


class Number:
    def __init__(self, good: bool) -> None:
        self.good = good


Pairs = tuple[tuple[str, Any], ...]


def parse_int(digits: str) -> Number:
    return Number(len(digits) < 30 and -(2**63) <= int(digits) < 2**64)


def parse_float(digits: str) -> Number:
    return Number(not math.isinf(float(digits)))


def parse_constant(name: str) -> Number:
    return Number(False)


def oracle_parse(body: bytes) -> Any:
    try:
        parsed = json.loads(
            body.decode(),
            object_pairs_hook=tuple,
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=parse_constant,
        )
    except ValueError as error:
        raise Malformed from error
    if type(parsed) is not tuple:
        raise Malformed
    return parsed


def first_wrong(value: Any, path: tuple[str, ...], depth_left: int) -> tuple[str, ...] | None:
    """Path of the first thing wrong in the order of the text."""
    if isinstance(value, Number):
        return None if value.good else path
    if isinstance(value, str):
        return path if has_surrogate(value) else None
    if not isinstance(value, tuple | list):
        return None
    if depth_left == 0:
        return path
    seen: set[str | int] = set()
    for step, item in value if isinstance(value, tuple) else enumerate(value):
        here = (*path, str(step))
        if isinstance(step, str) and (step in seen or has_surrogate(step)):
            return here
        seen.add(step)
        wrong = first_wrong(item, here, depth_left - 1)
        if wrong is not None:
            return wrong
    return None


def has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def assert_as_the_oracle(body: bytes, envelope_depth: int = 0) -> None:
    try:
        wrong = first_wrong(oracle_parse(body), (), DEPTH_MAX + envelope_depth)
    except Malformed:
        refusal(body, envelope_depth)
        return
    if wrong is None:
        assert_everybody_reads(body, read(body, envelope_depth=envelope_depth).value)
        return
    field = refusal(body, envelope_depth).field
    # Surrogates and what stands behind them are not JSON to the parser: it cannot tell where they are.
    if b"\\ud8" not in body and b"\\udc" not in body:
        assert field == (".".join(wrong)[:FIELD_PATH_CHARS_MAX] or None)


# --- texts: valid JSON with every trap in it, and then the same with a byte changed

FRAGMENTS = [
    "a", "b", "\\u0061", '\\"', "\\u0022", "\\\\", "\\\\u0022", "\\/", "\\n", "\\u0000", "{", "}", "[", "]",
    ",", ":", "é", "\U0001f600", "\\ud83d\\ude00", "\\ud800", "\\udc00", "0" * 20, "-" + "9" * 19, "1e400",
    "NaN", " ",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "-0.0", "1", "1.0", "1E5", "1e-400", "1e400", "-1e400", "1e308", "1.7976931348623158e308",
    "1.7976931348623159e308", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775808", "-9223372036854775809", "99999999999999999999999", "-99999999999999999999999",
    "0.12345678901234567890123", "123456789012345678901234.5", "1e0000000000000000000000002",
    "1.5e-00000000000000000000002", "12345678901234567890e1", "9" * 310, "9" * 400 + "e-200",
]  # fmt: skip
OTHERS = ["true", "false", "null"] * 3 + ["NaN", "Infinity", "-Infinity", "nul", "01", "1.", "+1", "'a'", ""]

strings = st.lists(st.sampled_from(FRAGMENTS), max_size=3).map(lambda parts: f'"{"".join(parts)}"')
# Few distinct keys, so that repeats are common.
keys = st.sampled_from(['"a"', '"\\u0061"', '"b"', '"\\"[{"', '"\\u0022[{"', '"\\\\"', '""', '"c d"', '"é"'])
space = st.sampled_from(["", "", "", " ", "\n\t"])
scalars = st.one_of(
    strings,
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(NUMBERS),
    st.sampled_from(["true", "false", "null"]),
)


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(space, st.lists(items, max_size=4)).map(lambda t: f"[{t[0]}{f',{t[0]}'.join(t[1])}]")


def objects(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(keys, items), max_size=4)
    return st.tuples(space, members).map(
        lambda t: "{" + t[0] + ",".join(f"{key}{t[0]}:{item}" for key, item in t[1]) + t[0] + "}"
    )


def nested(inner: str, levels: list[bool]) -> str:
    for is_object in levels:
        inner = f'{{"a":{inner}}}' if is_object else f"[0,{inner}]"
    return inner


values = st.recursive(scalars, lambda inner: arrays(inner) | objects(inner), max_leaves=12)
deep = st.builds(nested, values, st.lists(st.booleans(), min_size=DEPTH_MAX - 6, max_size=DEPTH_MAX + 2))
texts = st.one_of(objects(values), objects(values | deep), values).map(str.encode)


@settings(max_examples=500)
@given(body=texts, envelope_depth=st.sampled_from([0, BATCH_ENVELOPE_DEPTH]))
def test_same_verdict_and_place_as_the_oracle(body: bytes, envelope_depth: int) -> None:
    assert_as_the_oracle(body, envelope_depth)


@settings(max_examples=500)
@given(body=texts, data=st.data())
def test_same_verdict_on_mutated_text(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    length = data.draw(st.integers(0, 3))
    piece = data.draw(
        st.binary(max_size=2) | st.sampled_from([one.encode() for one in FRAGMENTS + NUMBERS + OTHERS])
    )
    mutated = body[:start] + piece + body[start + length :]
    assume(b"\\ud" not in mutated)  # cut in two, an escape can hide from the oracle's exception for them
    try:
        oracle_parse(mutated)
    except Malformed:
        refusal(mutated)
    else:
        assert_as_the_oracle(mutated)


@given(st.binary(max_size=40))
@example(b"\xef\xbb\xbf{}")
@example(b"")
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert_as_the_oracle(body)
