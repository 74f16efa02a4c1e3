r"""Filters of a workflow: which events its routes are made for, decided once, at acceptance (API notes).

    {"type": [{"prefix": "order."}], "data.amount": [{"numeric": [">=", 100]}], "metadata.region": ["eu"]}

Every path has to match, by one of its alternatives. A path is `type`, `actor`, `metadata` or `data`, and what
follows the first dot: a field of `actor`; a key of `metadata`, dots and all; in `data` a key for each level,
a dot within a key written `\.` and a backslash `\\`. Where a path meets an array it goes on in each of its
elements, and an array at its end stands for its elements, all of them, as does an array in an array.

A literal equals a JSON value of the same type, numbers by their value (1 equals 1.0). `anything_but` wants a
value, and none that it names; `{"exists": false}` is the only alternative that matches where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from atlas.core.errors import InvalidRequest
from atlas.core.limits import DEPTH_MAX

# Not in the documents. A filter lives in every registry, and is held against every event of its streams.
FILTER_PATHS_MAX: Final = 10
#: Of one path; of the values that `anything_but` names.
FILTER_ALTERNATIVES_MAX: Final = 50
FILTER_PATH_CHARS_MAX: Final = 256
#: Below `data`; a body is nested no deeper.
FILTER_KEYS_MAX: Final = DEPTH_MAX
#: Serialized compactly. Twenty as large as this are ready to match in about 20 ms, on the event loop.
FILTER_BYTES_MAX: Final = 4_096

ACTOR_FIELDS: Final = ("type", "id", "tenant_id", "ip", "user_agent")
#: Bounds of `numeric`: one comparison, or two.
_COMPARISONS_MAX: Final = 2
_COMPARE: Final = ("=", "<", "<=", ">", ">=")
ROOTS: Final = ("type", "actor", "metadata", "data")
_SCALARS: Final = (str, bool, int, float, type(None))
#: One that escapes nothing: then a place could be written in two ways.
_STRAY_BACKSLASH: Final = re.compile(r"(?<!\\)(?:\\\\)*\\(?![\\.])")

Definition = Mapping[str, Sequence[Any]]


def check_filter(definition: Mapping[str, Any], at: str = "filter") -> None:
    """Refuse a filter that `Filters` cannot be made of.

    Args:
        definition: decoded JSON.
        at: the dotted path of it, put before the place in errors.

    Raises:
        InvalidRequest: with the dotted path of the first thing wrong: `filter.data.amount.0.numeric`.
    """
    if len(definition) > FILTER_PATHS_MAX:
        raise InvalidRequest(at, f"at most {FILTER_PATHS_MAX} paths")
    for path, alternatives in definition.items():
        place = f"{at}.{path[:FILTER_PATH_CHARS_MAX]}"
        _check_path(path, place)
        if type(alternatives) is not list:
            raise InvalidRequest(place, "must be an array of alternatives")
        _check_count(alternatives, place)
        for index, alternative in enumerate(alternatives):
            _check_alternative(alternative, f"{place}.{index}")
    if len(orjson.dumps(definition)) > FILTER_BYTES_MAX:
        raise InvalidRequest(at, f"must serialize to at most {FILTER_BYTES_MAX:,} bytes")


def _check_path(path: str, place: str) -> None:
    root, dot, rest = path.partition(".")
    if root not in ROOTS or (root == "type" and dot):
        raise InvalidRequest(place, "a path begins with type, actor, metadata or data")
    if len(path) > FILTER_PATH_CHARS_MAX:
        raise InvalidRequest(place, f"a path has at most {FILTER_PATH_CHARS_MAX} characters")
    if root == "actor" and dot and rest not in ACTOR_FIELDS:
        raise InvalidRequest(place, f"an actor has {', '.join(ACTOR_FIELDS)}")
    if root == "data" and _STRAY_BACKSLASH.search(path):
        raise InvalidRequest(place, r"a backslash stands before a dot or a backslash: \. or \\")
    keys = keys_of(path)
    if len(keys) > FILTER_KEYS_MAX:
        raise InvalidRequest(place, f"a path has at most {FILTER_KEYS_MAX} keys")
    if not all(keys):
        raise InvalidRequest(place, "a key of the path is empty")


def _check_count(items: Sequence[Any], place: str) -> None:
    if not items:
        raise InvalidRequest(place, "must not be empty")
    if len(items) > FILTER_ALTERNATIVES_MAX:
        raise InvalidRequest(place, f"must have at most {FILTER_ALTERNATIVES_MAX} items")


def _check_alternative(alternative: Any, place: str) -> None:
    if type(alternative) in _SCALARS:
        return
    if type(alternative) is not dict:
        raise InvalidRequest(place, "must be a literal or an object")
    if len(alternative) != 1 or (name := next(iter(alternative))) not in _CHECKS:
        raise InvalidRequest(place, f"an object here has exactly one of: {', '.join(_CHECKS)}")
    _CHECKS[name](alternative[name], f"{place}.{name}")


def _check_prefix(value: Any, place: str) -> None:
    if type(value) is not str:
        raise InvalidRequest(place, "must be a string")


def _check_exists(value: Any, place: str) -> None:
    if type(value) is not bool:
        raise InvalidRequest(place, "must be true or false")


def _check_numeric(value: Any, place: str) -> None:
    if type(value) is not list or len(value) not in range(2, 2 * _COMPARISONS_MAX + 1, 2):
        raise InvalidRequest(place, 'must be one or two comparisons, as in [">=", 1, "<", 5]')
    for index, item in enumerate(value):
        if index % 2 == 0 and not (type(item) is str and item in _COMPARE):
            raise InvalidRequest(f"{place}.{index}", f"must be one of: {' '.join(_COMPARE)}")
        if index % 2 == 1 and type(item) not in (int, float):
            raise InvalidRequest(f"{place}.{index}", "must be a number")


def _check_anything_but(value: Any, place: str) -> None:
    if type(value) is not list:
        raise InvalidRequest(place, "must be an array of literals")
    _check_count(value, place)
    for index, item in enumerate(value):
        if type(item) not in _SCALARS:
            raise InvalidRequest(f"{place}.{index}", "must be a literal")


_CHECKS: Final[Mapping[str, Callable[[Any, str], None]]] = {
    "prefix": _check_prefix,
    "numeric": _check_numeric,
    "exists": _check_exists,
    "anything_but": _check_anything_but,
}


def keys_of(path: str) -> tuple[str, ...]:
    """The keys on the way from the part of an event that a path begins with."""
    root, dot, rest = path.partition(".")
    if not dot:
        return ()
    if root != "data":
        return (rest,)
    keys, escaped = [""], False
    for char in rest:
        if escaped or char not in ".\\":
            keys[-1] += char
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            keys.append("")
    return tuple(keys)
