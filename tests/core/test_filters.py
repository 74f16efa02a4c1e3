"""Filters: held against a second reading of the rules, refused with the place of what is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.errors import InvalidRequest
from atlas.core.filters import (
    ACTOR_FIELDS,
    FILTER_ALTERNATIVES_MAX,
    FILTER_BYTES_MAX,
    FILTER_PATH_CHARS_MAX,
    FILTER_PATHS_MAX,
    FILTER_VALUES_MAX,
    Filters,
    check_filter,
)

Event = dict[str, Any]


def event(**data: Any) -> Event:
    return {"type": "order.paid", "actor": {"id": "u_1"}, "metadata": {"re.gion": "eu"}, "data": data}


def matches(definition: dict[str, Any], of: Event) -> bool:
    check_filter(definition)
    return all_matches([definition], of) == [True]


def all_matches(definitions: list[dict[str, Any]], of: Event) -> list[bool]:
    passed = Filters(definitions).passed(of["type"], of["actor"], of["metadata"], of["data"])
    assert 0 <= passed < 1 << len(definitions)
    return [bool(passed >> number & 1) for number in range(len(definitions))]


# --- the rules


@pytest.mark.parametrize(
    ("definition", "data", "expected"),
    [
        ({}, {}, True),
        ({"type": ["order.paid"]}, {}, True),
        ({"type": [{"prefix": "order."}]}, {}, True),
        ({"type": [{"prefix": "user."}, "order"]}, {}, False),
        ({"actor.id": ["u_1"], "data.a": [1]}, {"a": 1}, True),
        ({"actor.id": ["u_1"], "data.a": [1]}, {"a": 2}, False),
        ({"actor.ip": [{"exists": False}]}, {}, True),
        ({"metadata.re.gion": ["eu"]}, {}, True),
        ({"metadata.re": [{"exists": True}]}, {}, False),
        # Literals: by type, numbers by value.
        ({"data.a": [1]}, {"a": 1.0}, True),
        ({"data.a": [1]}, {"a": True}, False),
        ({"data.a": [True]}, {"a": 1}, False),
        ({"data.a": [0]}, {"a": False}, False),
        ({"data.a": ["1"]}, {"a": 1}, False),
        ({"data.a": [None]}, {"a": None}, True),
        ({"data.a": [None]}, {}, False),
        ({"data.a": [2**64 - 1]}, {"a": 2**64 - 1}, True),
        ({"data.a": [2**63]}, {"a": 2**63 + 1}, False),
        ({"data.a": [{"prefix": ""}]}, {"a": "anything"}, True),
        ({"data.a": [{"prefix": "1"}]}, {"a": 12}, False),
        # Ranges.
        ({"data.a": [{"numeric": [">=", 1, "<", 5]}]}, {"a": 1}, True),
        ({"data.a": [{"numeric": [">=", 1, "<", 5]}]}, {"a": 5}, False),
        ({"data.a": [{"numeric": ["=", 1]}]}, {"a": 1.0}, True),
        ({"data.a": [{"numeric": [">", 0]}]}, {"a": True}, False),
        ({"data.a": [{"numeric": [">", 0]}]}, {"a": "1"}, False),
        # Existence: null is a value, and so is an empty array.
        ({"data.a": [{"exists": True}]}, {"a": None}, True),
        ({"data.a": [{"exists": True}]}, {"a": []}, True),
        ({"data.a": [{"exists": False}]}, {"a": None}, False),
        ({"data.a.b": [{"exists": False}]}, {"a": 1}, True),
        ({"data.a": [{"exists": False}, "x"]}, {"a": "x"}, True),
        # Anything but.
        ({"data.a": [{"anything_but": ["x", 1]}]}, {"a": "y"}, True),
        ({"data.a": [{"anything_but": ["x", 1]}]}, {"a": 1.0}, False),
        ({"data.a": [{"anything_but": ["x"]}]}, {}, False),
        ({"data.a": [{"anything_but": ["x"]}]}, {"a": None}, True),
        ({"data.a": [{"anything_but": ["x"]}]}, {"a": ["y", "x"]}, False),
        ({"data.a": [{"anything_but": ["x"]}]}, {"a": []}, False),
        ({"data.a": [{"anything_but": ["x"]}, {"anything_but": ["y"]}]}, {"a": "x"}, True),
        # Arrays, at the end of a path and on the way.
        ({"data.a": ["x"]}, {"a": ["y", "x"]}, True),
        ({"data.a": ["x"]}, {"a": [["y", ["x"]]]}, True),
        ({"data.items.sku": ["b"]}, {"items": [{"sku": "a"}, 5, {"sku": "b"}]}, True),
        ({"data.items.sku": ["c"]}, {"items": [{"sku": "a"}, {"sku": "b"}]}, False),
        ({"data.items.sku": [{"exists": False}]}, {"items": [{}, {}]}, True),
        ({"data.items.tags": ["x"]}, {"items": [{"tags": ["y"]}, {"tags": ["x"]}]}, True),
        # Keys with dots.
        ({"data.a\\.b": [1]}, {"a.b": 1}, True),
        ({"data.a\\.b": [1]}, {"a": {"b": 1}}, False),
        ({"data.a\\\\": [1]}, {"a\\": 1}, True),
        # A container equals no literal.
        ({"data": [{"exists": True}]}, {}, True),
        ({"data.a": ["x"]}, {"a": {"x": 1}}, False),
        ({"data.a": [{"anything_but": ["x"]}]}, {"a": {"x": 1}}, True),
    ],
)
def test_what_a_filter_takes(definition: dict[str, Any], data: dict[str, Any], expected: bool) -> None:
    assert matches(definition, event(**data)) is expected


def test_an_event_without_actor_and_metadata() -> None:
    bare: Event = {"type": "a.b", "actor": None, "metadata": None, "data": {}}
    assert matches({"actor": [{"exists": False}], "metadata.x": [{"exists": False}]}, bare)
    assert not matches({"actor.id": [{"anything_but": ["u"]}]}, bare)


def test_only_so_many_values_of_arrays_are_looked_at() -> None:
    values = ["x"] * (FILTER_VALUES_MAX - 1)
    assert matches({"data.a": ["y"]}, event(a=[*values, "y"]))
    assert not matches({"data.a": ["y"]}, event(a=["x", *values, "y"]))
    inside = [{"b": "x"}] * (FILTER_VALUES_MAX - 1)
    assert matches({"data.a.b": ["y"]}, event(a=[*inside, {"b": "y"}]))
    assert not matches({"data.a.b": ["y"]}, event(a=[{"b": "x"}, *inside, {"b": "y"}]))


# --- the rules once more, as slowly as they can be read

Literal = str | int | float | bool | None


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def found(value: Any, keys: list[str]) -> list[Any]:
    """Everything at the path; an array stands for itself at its end."""
    if not keys:
        return [value]
    if isinstance(value, list):
        return [each for item in leaves(value) for each in found(item, keys)]
    if isinstance(value, dict) and keys[0] in value:
        return found(value[keys[0]], keys[1:])
    return []


def holds(alternative: Any, at: list[Any]) -> bool:
    values = [leaf for each in at for leaf in leaves(each)]
    match alternative:
        case {"exists": wanted}:
            return bool(at) is wanted
        case {"prefix": prefix}:
            return any(isinstance(value, str) and value[: len(prefix)] == prefix for value in values)
        case {"numeric": [*bounds]}:
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            return any(within(v, bounds) for v in numbers)
        case {"anything_but": named}:
            return bool(values) and not any(equal(v, each) for v in values for each in named)
        case literal:
            return any(equal(value, literal) for value in values)


def within(value: float, bounds: list[Any]) -> bool:
    said = {"=": 0, "<": -1, ">": 1}
    for name, bound in zip(bounds[::2], bounds[1::2], strict=True):
        order = (value > bound) - (value < bound)
        if order != said[name[0]] and not (name.endswith("=") and order == 0):
            return False
    return True


literals = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, -2.0, 2**63, 2.0**63])
    | st.sampled_from(["", "a", "ab", "b", "1"])
)
names = st.sampled_from(["a", "b", "a.b", "\\"])
values = st.recursive(
    literals,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
comparison = st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), st.integers(-2, 2) | st.just(0.5))
alternatives = (
    literals
    | st.builds(lambda text: {"prefix": text}, st.sampled_from(["", "a", "ab"]))
    | st.builds(
        lambda pairs: {"numeric": [x for p in pairs for x in p]}, st.lists(comparison, min_size=1, max_size=2)
    )
    | st.builds(lambda wanted: {"exists": wanted}, st.booleans())
    | st.builds(lambda named: {"anything_but": named}, st.lists(literals, min_size=1, max_size=3))
)
key_lists = st.lists(names, min_size=1, max_size=3)


definitions = st.lists(st.tuples(key_lists, st.lists(alternatives, min_size=1, max_size=3)), max_size=3)


@given(st.dictionaries(names, values, max_size=3), st.lists(definitions, min_size=1, max_size=4))
def test_each_means_what_the_rules_say(
    data: dict[str, Any], filters: list[list[tuple[list[str], list[Any]]]]
) -> None:
    by_path = [{path_of(keys): (keys, wanted) for keys, wanted in paths} for paths in filters]
    expected = [
        all(any(holds(each, found(data, keys)) for each in wanted) for keys, wanted in paths.values())
        for paths in by_path
    ]
    written = [{path: wanted for path, (_, wanted) in paths.items()} for paths in by_path]
    for definition in written:
        check_filter(definition)
    assert all_matches(written, event(**data)) == expected


def path_of(keys: list[str]) -> str:
    return "data." + ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)


# --- refusals


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({"stream": ["a"]}, "filter.stream"),
        ({"": ["a"]}, "filter."),
        ({"type.x": ["a"]}, "filter.type.x"),
        ({"datax": ["a"]}, "filter.datax"),
        ({"actor.name": ["a"]}, "filter.actor.name"),
        ({"data.": ["a"]}, "filter.data."),
        ({"data.a..b": ["a"]}, "filter.data.a..b"),
        ({"data.a": "x"}, "filter.data.a"),
        ({"data.a": []}, "filter.data.a"),
        ({"data.a": None}, "filter.data.a"),
        ({"data.a": [["x"]]}, "filter.data.a.0"),
        ({"data.a": ["x", {}]}, "filter.data.a.1"),
        ({"data.a": [{"suffix": "x"}]}, "filter.data.a.0"),
        ({"data.a": [{"prefix": "x", "exists": True}]}, "filter.data.a.0"),
        ({"data.a": [{"prefix": 1}]}, "filter.data.a.0.prefix"),
        ({"data.a": [{"exists": 1}]}, "filter.data.a.0.exists"),
        ({"data.a": [{"numeric": []}]}, "filter.data.a.0.numeric"),
        ({"data.a": [{"numeric": [">"]}]}, "filter.data.a.0.numeric"),
        ({"data.a": [{"numeric": [">", 1, "<", 2, "=", 3]}]}, "filter.data.a.0.numeric"),
        ({"data.a": [{"numeric": ["!=", 1]}]}, "filter.data.a.0.numeric.0"),
        ({"data.a": [{"numeric": [[], 1]}]}, "filter.data.a.0.numeric.0"),
        ({"data.a": [{"numeric": [">", True]}]}, "filter.data.a.0.numeric.1"),
        ({"data.a": [{"numeric": [">", 1, "<", "2"]}]}, "filter.data.a.0.numeric.3"),
        ({"data.a": [{"anything_but": "x"}]}, "filter.data.a.0.anything_but"),
        ({"data.a": [{"anything_but": []}]}, "filter.data.a.0.anything_but"),
        ({"data.a": [{"anything_but": ["x", {}]}]}, "filter.data.a.0.anything_but.1"),
    ],
)
def test_a_bad_filter_is_refused_where_it_is_wrong(definition: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_filter(definition)
    assert refused.value.field == field


def long_path(chars: int) -> dict[str, Any]:
    return {"data." + "a" * (chars - len("data.")): ["x"]}


def of_bytes(count: int) -> dict[str, Any]:
    return {"type": ["x" * (count - len('{"type":[""]}'))]}


@pytest.mark.parametrize(
    ("most", "beyond"),
    [
        (
            {f"data.k{i}": ["x"] for i in range(FILTER_PATHS_MAX)},
            {f"data.k{i}": ["x"] for i in range(FILTER_PATHS_MAX + 1)},
        ),
        ({"type": ["x"] * FILTER_ALTERNATIVES_MAX}, {"type": ["x"] * (FILTER_ALTERNATIVES_MAX + 1)}),
        (
            {"type": [{"anything_but": ["x"] * FILTER_ALTERNATIVES_MAX}]},
            {"type": [{"anything_but": ["x"] * (FILTER_ALTERNATIVES_MAX + 1)}]},
        ),
        (long_path(FILTER_PATH_CHARS_MAX), long_path(FILTER_PATH_CHARS_MAX + 1)),
        (of_bytes(FILTER_BYTES_MAX), of_bytes(FILTER_BYTES_MAX + 1)),
    ],
)
def test_limits(most: dict[str, Any], beyond: dict[str, Any]) -> None:
    check_filter(most)
    with pytest.raises(InvalidRequest):
        check_filter(beyond)


def test_every_field_of_an_actor_is_a_path() -> None:
    for field in ACTOR_FIELDS:
        assert matches({f"actor.{field}": ["x"]}, {**event(), "actor": {field: "x"}})
    assert not matches({"data.a": [{"numeric": ["<", math.inf]}]}, event())
