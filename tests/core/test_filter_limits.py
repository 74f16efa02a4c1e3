"""Filters that are refused, with the place of what is wrong; their limits, and what hostile ones cost."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from atlas.core.errors import InvalidRequest
from atlas.core.filter_matching import Filters
from atlas.core.filters import (
    FILTER_ALTERNATIVES_MAX,
    FILTER_BYTES_MAX,
    FILTER_KEYS_MAX,
    FILTER_PATH_CHARS_MAX,
    FILTER_PATHS_MAX,
    check_filter,
)
from atlas.core.limits import DATA_BYTES
from tests.core.test_filters import event, matches

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
        ({"data.a\\b": ["a"]}, "filter.data.a\\b"),
        ({"data.a\\": ["a"]}, "filter.data.a\\"),
        ({"data.a\\\\\\": ["a"]}, "filter.data.a\\\\\\"),
        ({"metadata.": ["a"]}, "filter.metadata."),
        ({"metadatum": ["a"]}, "filter.metadatum"),
        ({"Data.a": ["a"]}, "filter.Data.a"),
        ({"actor.id.x": ["a"]}, "filter.actor.id.x"),
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


def deep_path(keys: int) -> dict[str, Any]:
    return {"data" + ".a" * keys: ["x"]}


def of_bytes(count: int, text: str = "") -> dict[str, Any]:
    """One literal, which begins with `text`."""
    return {"type": [text + "x" * (count - len('{"type":[""]}') - len(text.encode()))]}


@pytest.mark.parametrize(
    ("most", "beyond", "field"),
    [
        (
            {f"data.k{i}": ["x"] for i in range(FILTER_PATHS_MAX)},
            {f"data.k{i}": ["x"] for i in range(FILTER_PATHS_MAX + 1)},
            "filter",
        ),
        (
            {"type": ["x"] * FILTER_ALTERNATIVES_MAX},
            {"type": ["x"] * (FILTER_ALTERNATIVES_MAX + 1)},
            "filter.type",
        ),
        (
            {"type": [{"anything_but": ["x"] * FILTER_ALTERNATIVES_MAX}]},
            {"type": [{"anything_but": ["x"] * (FILTER_ALTERNATIVES_MAX + 1)}]},
            "filter.type.0.anything_but",
        ),
        (
            long_path(FILTER_PATH_CHARS_MAX),
            long_path(FILTER_PATH_CHARS_MAX + 1),
            "filter." + next(iter(long_path(FILTER_PATH_CHARS_MAX))),
        ),
        (
            deep_path(FILTER_KEYS_MAX),
            deep_path(FILTER_KEYS_MAX + 1),
            "filter.data" + ".a" * (FILTER_KEYS_MAX + 1),
        ),
        (of_bytes(FILTER_BYTES_MAX), of_bytes(FILTER_BYTES_MAX + 1), "filter"),
        (of_bytes(FILTER_BYTES_MAX, "é"), of_bytes(FILTER_BYTES_MAX + 1, "é"), "filter"),
    ],
)
def test_limits(most: dict[str, Any], beyond: dict[str, Any], field: str) -> None:
    check_filter(most)
    with pytest.raises(InvalidRequest) as refused:
        check_filter(beyond)
    assert refused.value.field == field


def test_the_deepest_path_reaches_its_value() -> None:
    data: Any = 1
    for _ in range(FILTER_KEYS_MAX):
        data = {"a": data}
    assert matches({"data" + ".a" * FILTER_KEYS_MAX: [1]}, event(**data))


# --- cost


def nested(levels: int) -> list[Any]:
    return [] if levels == 0 else [nested(levels - 1) for _ in range(100)]


def prefixes(number: int) -> list[Any]:
    return [{"prefix": f"{number:02d}{i:02d}"} for i in range(25)]


def ranges(number: int) -> list[Any]:
    return [{"numeric": [">", 100 * number + i]} for i in range(20)]


def absent(number: int) -> dict[str, Any]:
    return {f"data.a.k{number}_{i}": [{"exists": False}] for i in range(FILTER_PATHS_MAX)}


@pytest.mark.parametrize(
    ("definitions", "data"),
    [
        ([absent(n) for n in range(20)], {"a": [nested(2) for _ in range(8)]}),
        ([absent(n) for n in range(20)], {"a": [{} for _ in range(10_000)]}),
        (
            [{f"data.{c}": prefixes(n) for c in "abcdef"} for n in range(20)],
            {c: [f"z{n:x}" for n in range(5_000)] for c in "abcdef"},
        ),
        ([{f"data.{c}": ranges(n) for c in "abcdef"} for n in range(20)], {"a": [-n for n in range(35_000)]}),
    ],
)
def test_an_event_costs_no_more_than_its_size(
    definitions: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    """Each took seconds when every filter walked every array, and tried every value, for itself."""
    for definition in definitions:
        check_filter(definition)
    assert len(orjson.dumps(data)) < DATA_BYTES
    filters = Filters(definitions)
    took_s = []
    for _ in range(3):
        started_s = time.process_time()
        filters.passed("a.b", None, None, data)
        took_s.append(time.process_time() - started_s)
    assert min(took_s) < 0.5
