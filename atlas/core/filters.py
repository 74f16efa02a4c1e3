r"""Filters of a workflow: which events its routes are made for, decided once, at acceptance (API notes).

    {"type": [{"prefix": "order."}], "data.amount": [{"numeric": [">=", 100]}], "metadata.region": ["eu"]}

Every path has to match, by one of its alternatives. A path is `type`, `actor`, `metadata` or `data`, and what
follows the first dot: a field of `actor`; a key of `metadata`, dots and all; in `data` a key for each level,
a dot within a key written `\.` and a backslash `\\`. Where a path meets an array it goes on in each of its
elements, and an array at its end stands for its elements; the first `FILTER_VALUES_MAX` values count.

A literal equals a JSON value of the same type, numbers by their value (1 equals 1.0). `anything_but` wants a
value, and none that it names; `{"exists": false}` is the only alternative that matches where there is none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from atlas.core.errors import InvalidRequest

# Not in the documents. A filter lives in every registry, and is held against every event of its streams.
FILTER_PATHS_MAX: Final = 10
#: Of one path; of the values that `anything_but` names.
FILTER_ALTERNATIVES_MAX: Final = 50
FILTER_PATH_CHARS_MAX: Final = 256
#: Serialized compactly.
FILTER_BYTES_MAX: Final = 8_192
#: Values at one path of one event that are looked at: what arrays hold costs no more than that.
FILTER_VALUES_MAX: Final = 100

ACTOR_FIELDS: Final = ("type", "id", "tenant_id", "ip", "user_agent")
#: Bounds of `numeric`: one comparison, or two.
_COMPARISONS_MAX: Final = 2
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ROOTS: Final = ("type", "actor", "metadata", "data")
_SCALARS: Final = (str, bool, int, float, type(None))
_ABSENT: Final = object()

Definition = Mapping[str, Sequence[Any]]


def check_filter(definition: Mapping[str, Any], at: str = "filter") -> None:
    """Refuse a filter that `Filter` cannot be made of.

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
    if root not in _ROOTS or (root == "type" and dot):
        raise InvalidRequest(place, "a path begins with type, actor, metadata or data")
    if len(path) > FILTER_PATH_CHARS_MAX:
        raise InvalidRequest(place, f"a path has at most {FILTER_PATH_CHARS_MAX} characters")
    if root == "actor" and dot and rest not in ACTOR_FIELDS:
        raise InvalidRequest(place, f"an actor has {', '.join(ACTOR_FIELDS)}")
    if dot and not all(_segments(path)):
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


class Filter:
    """A filter ready to be held against events.

    Args:
        definition: one that `check_filter` lets pass.
    """

    __slots__ = ("_conditions",)

    def __init__(self, definition: Definition) -> None:
        # What costs least first: the type, then what lies flat.
        ordered = sorted(definition.items(), key=lambda item: _ROOTS.index(item[0].partition(".")[0]))
        self._conditions = [(*_place(path), _Condition(alternatives)) for path, alternatives in ordered]

    def matches(
        self,
        type_: str,
        actor: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None,
        data: Mapping[str, Any],
    ) -> bool:
        """Whether an event of these passes."""
        roots = (type_, actor, metadata, data)
        for root, segments, condition in self._conditions:
            value = _at(_ABSENT if roots[root] is None else roots[root], segments)
            if not condition.holds(value):
                return False
        return True


def _place(path: str) -> tuple[int, tuple[str, ...]]:
    """Which of the roots, and the keys from there."""
    root, dot, _ = path.partition(".")
    return _ROOTS.index(root), _segments(path) if dot else ()


def _segments(path: str) -> tuple[str, ...]:
    """The keys below the root of a path that has some."""
    root, _, rest = path.partition(".")
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
    if escaped:
        keys[-1] += "\\"
    return tuple(keys)


def _at(value: Any, segments: tuple[str, ...]) -> Any:
    """What lies there, `_ABSENT` for nothing; a list where a path leads through arrays."""
    for index, key in enumerate(segments):
        if type(value) is dict:
            value = value.get(key, _ABSENT)
        elif type(value) is list:
            return _through(value, segments[index:])
        else:
            return _ABSENT
    return value


def _through(array: list[Any], segments: tuple[str, ...]) -> Any:
    found: list[Any] = []
    for item in _elements(array):
        value = _at(item, segments)
        if type(value) is list:
            found.extend(value[:FILTER_VALUES_MAX])
        elif value is not _ABSENT:
            found.append(value)
        if len(found) >= FILTER_VALUES_MAX:
            break
    return found or _ABSENT


def _elements(array: list[Any]) -> list[Any]:
    """Of the array and of arrays right in it, as many as count."""
    elements: list[Any] = []
    pending = [iter(array[:FILTER_VALUES_MAX])]
    while pending and len(elements) < FILTER_VALUES_MAX:
        item = next(pending[-1], _ABSENT)
        if item is _ABSENT:
            pending.pop()
        elif type(item) is list:
            pending.append(iter(item[:FILTER_VALUES_MAX]))
        else:
            elements.append(item)
    return elements


class _Condition:
    """The alternatives of one path."""

    __slots__ = ("_absent", "_anything_but", "_exists", "_literals", "_ranges")

    def __init__(self, alternatives: Sequence[Any]) -> None:
        operations = [next(iter(each.items())) for each in alternatives if type(each) is dict]
        self._exists = ("exists", True) in operations
        self._absent = any(name == "exists" and value is False for name, value in operations)
        prefixes = tuple(value for name, value in operations if name == "prefix")
        self._literals = _Literals([each for each in alternatives if type(each) is not dict], prefixes)
        self._ranges = [_range(value) for name, value in operations if name == "numeric"]
        self._anything_but = [_Literals(value) for name, value in operations if name == "anything_but"]

    def holds(self, value: Any) -> bool:
        if value is _ABSENT:
            return self._absent
        if self._exists:
            return True
        if type(value) is not list:
            return self._one(value) or any(not named.has(value) for named in self._anything_but)
        values = _elements(value)
        if any(map(self._one, values)):
            return True
        return any(bool(values) and not any(map(named.has, values)) for named in self._anything_but)

    def _one(self, value: Any) -> bool:
        if self._literals.has(value):
            return True
        if type(value) not in (int, float):
            return False
        return any(all(holds(value, bound) for holds, bound in bounds) for bounds in self._ranges)


def _range(value: Sequence[Any]) -> list[tuple[Callable[[Any, Any], bool], Any]]:
    return [(_COMPARE[name], bound) for name, bound in zip(value[::2], value[1::2], strict=True)]


class _Literals:
    """Values that are looked for; by type, because Python's True equals 1."""

    __slots__ = ("_numbers", "_others", "_prefixes", "_strings")

    def __init__(self, literals: Sequence[Any], prefixes: tuple[str, ...] = ()) -> None:
        self._strings = frozenset(each for each in literals if type(each) is str)
        self._numbers = frozenset(each for each in literals if type(each) in (int, float))
        self._others = frozenset(each for each in literals if each is None or type(each) is bool)
        self._prefixes = prefixes

    def has(self, value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value in self._strings or value.startswith(self._prefixes)
        if kind is int or kind is float:
            return value in self._numbers
        return kind in (bool, type(None)) and value in self._others
