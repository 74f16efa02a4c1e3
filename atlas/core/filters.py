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
_NULL: Final = type(None)
_SCALARS: Final = (str, bool, int, float, _NULL)
_ABSENT: Final = object()

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


class Filters:
    """The filters of a stream's routes, held against an event together.

    What lies at a path is looked up once for all filters that name it, and a literal is found in one
    look-up however many filters ask for one. Which filters an event passes is a set of bits.

    Args:
        definitions: ones that `check_filter` lets pass; None for a route that takes every event.
    """

    __slots__ = ("_all", "_paths")

    def __init__(self, definitions: Sequence[Definition | None]) -> None:
        self._all = (1 << len(definitions)) - 1
        paths: dict[str, _Path] = {}
        for number, definition in enumerate(definitions):
            for path, alternatives in (definition or {}).items():
                if path not in paths:
                    paths[path] = _Path(path, self._all)
                paths[path].add(1 << number, alternatives)
        # What costs least first: the type, then what lies flat.
        self._paths = sorted(paths.values(), key=lambda path: path.root)

    def passed(
        self,
        type_: str,
        actor: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None,
        data: Mapping[str, Any],
    ) -> int:
        """Bit `i` is set if an event of these passes the filter `i`."""
        roots = (type_, actor, metadata, data)
        passed = self._all
        for path in self._paths:
            value = roots[path.root]
            passed &= path.passed(_ABSENT if value is None else _at(value, path.keys))
            if not passed:
                break
        return passed


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


class _Path:
    """What filters ask of one path. A set of bits stands for the filters that are content with it."""

    __slots__ = (
        "_absent",
        "_anything_but",
        "_constants",
        "_indifferent",
        "_numbers",
        "_prefixes",
        "_present",
        "_ranges",
        "_strings",
        "keys",
        "root",
    )

    def __init__(self, path: str, everybody: int) -> None:
        self.root, self.keys = _place(path)
        self._indifferent = everybody
        self._absent = self._present = 0
        self._strings: dict[str, int] = {}
        self._numbers: dict[float, int] = {}
        #: true, false and null: apart, because Python's True equals 1.
        self._constants: dict[bool | None, int] = {}
        self._prefixes: dict[str, int] = {}
        self._ranges: dict[tuple[Any, ...], int] = {}
        self._anything_but: list[tuple[frozenset[tuple[type, Any]], int]] = []

    def add(self, bit: int, alternatives: Sequence[Any]) -> None:
        """One filter's alternatives."""
        self._indifferent &= ~bit
        for each in alternatives:
            if type(each) is not dict:
                of_kind: dict[Any, int] = self._literals(type(each))
                of_kind[each] = of_kind.get(each, 0) | bit
                continue
            name, value = next(iter(each.items()))
            match name:
                case "exists" if value:
                    self._present |= bit
                case "exists":
                    self._absent |= bit
                case "prefix":
                    self._prefixes[value] = self._prefixes.get(value, 0) | bit
                case "numeric":
                    bounds: tuple[Any, ...] = (_COMPARE[value[0]], value[1])
                    if len(value) > 2:
                        bounds += (_COMPARE[value[2]], value[3])
                    self._ranges[bounds] = self._ranges.get(bounds, 0) | bit
                case _:
                    self._anything_but.append((frozenset(map(_typed, value)), bit))

    def passed(self, value: Any) -> int:
        """Who is content with what lies at the path."""
        if value is _ABSENT:
            return self._indifferent | self._absent
        found = self._indifferent | self._present
        values = _elements(value) if type(value) is list else (value,)
        for each in values:
            found |= self._by_value(each)
        if self._anything_but and values:
            typed = {_typed(each) for each in values}
            for named, bit in self._anything_but:
                if named.isdisjoint(typed):
                    found |= bit
        return found

    def _by_value(self, value: Any) -> int:
        kind = type(value)
        if kind is str:
            found = self._strings.get(value, 0)
            for prefix, bits in self._prefixes.items():
                if value.startswith(prefix):
                    found |= bits
            return found
        if kind is int or kind is float:
            found = self._numbers.get(value, 0)
            for bounds, bits in self._ranges.items():
                if bounds[0](value, bounds[1]) and (len(bounds) == 2 or bounds[2](value, bounds[3])):
                    found |= bits
            return found
        return self._constants.get(value, 0) if kind in (bool, _NULL) else 0

    def _literals(self, kind: type) -> dict[Any, int]:
        if kind is str:
            return self._strings
        return self._numbers if kind in (int, float) else self._constants


def _typed(value: Any) -> tuple[type, Any]:
    """Equal for JSON values that are; containers are equal to nothing."""
    kind = type(value)
    if kind is int:
        return (float, value)
    return (kind, value if kind in _SCALARS else id(value))
