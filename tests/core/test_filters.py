"""Filters, held against a second reading of the rules."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.filter_matching import Filters
from atlas.core.filters import (
    ACTOR_FIELDS,
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


@pytest.mark.parametrize(
    "data",
    [
        {"a": {"b": [*range(1_000), "y"]}},
        {"a": [{"b": number} for number in range(1_000)] + [{"b": "y"}]},
        {"a": [[{"b": [number]}] for number in range(1_000)] + [[[{"b": [["y"]]}]]]},
    ],
)
def test_every_element_of_an_array_counts(data: dict[str, Any]) -> None:
    assert matches({"data.a.b": ["y"]}, event(**data))
    assert matches({"data.a.b": [{"prefix": "y"}]}, event(**data))
    assert matches({"data.a.b": [{"numeric": [">", 998]}]}, event(**data))
    assert not matches({"data.a.b": [{"anything_but": ["y"]}]}, event(**data))
    assert not matches({"data.a.b": ["x", True, None, {"exists": False}]}, event(**data))


def test_an_empty_array_at_the_end_of_a_path_through_arrays_is_there() -> None:
    assert matches({"data.a.b": [{"exists": True}]}, event(a=[{}, {"b": []}]))
    assert not matches({"data.a.b": [{"exists": False}]}, event(a=[{"b": [[]]}]))


def test_what_is_below_a_path_and_what_it_is_are_asked_apart() -> None:
    both = {"data.a": [{"exists": True}], "data.a.b": [1], "data.a.b.c": [{"exists": False}]}
    assert matches(both, event(a={"b": 1}))
    assert not matches(both, event(a={"b": {"c": 1}}))
    assert matches(both, event(a=[{"b": 1}, 2]))


@pytest.mark.parametrize("last", ["z", "\U0010ffff", "\ud7ff", "z\U0010ffff\U0010ffff"])
def test_prefixes_end_where_the_next_character_would_begin(last: str) -> None:
    for value, expected in ((last, True), (last + "\U0010ffff", True), (last[:-1], False), ("{", False)):
        assert matches({"data.a": [{"prefix": last}]}, event(a=value)) is expected, value


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
texts = st.text(st.sampled_from("ab\ud7ff\U0010ffff"), max_size=4)
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


@given(
    st.lists(literals | texts | st.lists(literals | texts, max_size=9), max_size=30),
    st.lists(
        st.lists(
            alternatives | texts | st.builds(lambda text: {"prefix": text}, texts), min_size=1, max_size=9
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_many_values_and_many_alternatives(array: list[Any], asked: list[list[Any]]) -> None:
    expected = [any(holds(each, [array]) for each in wanted) for wanted in asked]
    assert all_matches([{"data.a": wanted} for wanted in asked], event(a=array)) == expected


flat = st.dictionaries(st.sampled_from(["id", "ip", "a.b"]), st.sampled_from(["", "a", "ab"]), max_size=2)
flat_paths = st.sampled_from(
    ["actor", "actor.id", "actor.ip", "metadata", "metadata.id", "metadata.a.b", "type"]
)


@given(
    st.none() | flat,
    st.none() | flat,
    st.lists(
        st.dictionaries(flat_paths, st.lists(alternatives, min_size=1, max_size=2)), min_size=1, max_size=4
    ),
)
def test_the_other_parts_of_an_event(
    actor: dict[str, str] | None, metadata: dict[str, str] | None, asked: list[dict[str, list[Any]]]
) -> None:
    parts = {"type": "a.b", "actor": actor, "metadata": metadata}

    def at(path: str) -> list[Any]:
        root, *keys = path.split(".", 1)
        return [] if parts[root] is None else found(parts[root], keys)

    expected = [all(any(holds(e, at(path)) for e in wanted) for path, wanted in d.items()) for d in asked]
    assert all_matches(asked, {**parts, "data": {}}) == expected


def path_of(keys: list[str]) -> str:
    return "data." + ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)


def test_every_field_of_an_actor_is_a_path() -> None:
    for field in ACTOR_FIELDS:
        assert matches({f"actor.{field}": ["x"]}, {**event(), "actor": {field: "x"}})
    assert not matches({"data.a": [{"numeric": ["<", math.inf]}]}, event())
