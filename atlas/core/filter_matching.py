"""Filters of a stream's routes, held against an event together (the rules are in `filters`).

What an event costs is bounded by the event, not by what 20 workflows ask: a filter is its owner's, the
gateway everybody's. The paths of all filters are one tree, so that a value of the event is met once at most;
a literal is one look-up however many filters ask for one; ranges and prefixes are spans on a line, one search
however many there are. When each path was walked and each range tried for itself, 20 filters within their
limits took 6.3 s for one event of 240 KB, and 72 ms for one of 4 KB: 1,000 of those are one batch. Now they
take 5 and 0.2 ms.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from atlas.core.filters import ROOTS, Definition, keys_of

#: Each of more values than this at one path is looked at once.
_FEW: Final = 8
#: A place on a line: just before a value (0) or just after it (1); None: where the line ends.
_Place = tuple[Any, int] | None
#: From a place to a place, and whose it is.
_Span = tuple[_Place, _Place, int]
_LAST_CHAR: Final = chr(0x10FFFF)


class Filters:
    """Filters ready to be held against events. Which of them an event passes is a set of bits.

    Args:
        definitions: ones that `check_filter` lets pass; None for a route that takes every event.
    """

    __slots__ = ("_all", "_roots")

    def __init__(self, definitions: Sequence[Definition | None]) -> None:
        self._all = (1 << len(definitions)) - 1
        asked: dict[str, list[tuple[int, Sequence[Any]]]] = {}
        for number, definition in enumerate(definitions):
            for path, alternatives in (definition or {}).items():
                asked.setdefault(path, []).append((1 << number, alternatives))
        self._roots = tuple(_Root() for _ in ROOTS)
        for path, of_path in asked.items():
            root = self._roots[ROOTS.index(path.partition(".")[0])]
            root.add(keys_of(path), _Path(of_path, len(definitions)), sum(bit for bit, _ in of_path))

    def passed(
        self,
        type_: str,
        actor: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None,
        data: Mapping[str, Any],
    ) -> int:
        """Bit `i` is set if an event of these passes the filter `i`."""
        passed = self._all
        # What costs least first: `data` is looked at only for those whom the rest has not put off.
        for root, value in zip(self._roots, (type_, actor, metadata, data), strict=True):
            if passed & root.asking:
                found: dict[_Path, list[Any]] = {}
                if value is not None:
                    _visit(root.node, value, found)
                for path in root.paths:
                    passed &= path.passed(found.get(path))
                    if not passed:
                        return 0
        return passed


class _Root:
    """What filters ask of one part of an event; `asking` is who does."""

    __slots__ = ("asking", "node", "paths")

    def __init__(self) -> None:
        self.asking = 0
        self.node = _Node()
        self.paths: list[_Path] = []

    def add(self, keys: Iterable[str], path: _Path, who: int) -> None:
        node = self.node
        for key in keys:
            node = node.children.setdefault(key, _Node())
        node.ends.append(path)
        self.paths.append(path)
        self.asking |= who


class _Node:
    """A place in an event: the paths that end there, and where others go on by key."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.ends: list[_Path] = []


def _visit(node: _Node, value: Any, found: dict[_Path, list[Any]]) -> None:
    """Gather what lies at the ends of paths; an array is its elements, and something even without any."""
    kind = type(value)
    if kind is list:
        _visit_array(node, value, found)
        return
    for path in node.ends:
        found.setdefault(path, []).append(value)
    if kind is dict and node.children:
        _descend(node.children, value, found)


def _visit_array(node: _Node, array: list[Any], found: dict[_Path, list[Any]]) -> None:
    gathered = [found.setdefault(path, []) for path in node.ends]
    if not array:
        return
    kinds = set(map(type, array))
    for values in gathered:
        values += array if list not in kinds else [item for item in array if type(item) is not list]
    if dict in kinds and node.children:
        for item in array:
            if type(item) is dict:
                _descend(node.children, item, found)
    if list in kinds:
        for item in array:
            if item and type(item) is list:
                _visit_array(node, item, found)


def _descend(children: dict[str, _Node], value: dict[str, Any], found: dict[_Path, list[Any]]) -> None:
    if len(children) <= len(value):
        for key, child in children.items():
            if key in value:
                _visit(child, value[key], found)
    else:
        for key, inner in value.items():
            if key in children:
                _visit(children[key], inner, found)


class _Path:
    """What filters ask of one path.

    A set of bits holds the filters that are content and, above them, the `anything_but` that are not: those
    that name a value that lies there.
    """

    __slots__ = (
        "_absent",
        "_anything_but",
        "_constants",
        "_numbers",
        "_prefixes",
        "_present",
        "_ranges",
        "_strings",
    )

    def __init__(self, asked: Sequence[tuple[int, Sequence[Any]]], filters: int) -> None:
        indifferent = (1 << filters) - 1 & ~sum(bit for bit, _ in asked)
        self._absent = self._present = indifferent
        self._strings: dict[str, int] = {}
        self._numbers: dict[float, int] = {}
        #: true, false and null: apart, because Python's True equals 1.
        self._constants: dict[bool | None, int] = {}
        #: The bits of a filter's `anything_but`, and its own.
        self._anything_but: list[tuple[int, int]] = []
        prefixes: list[_Span] = []
        ranges: list[_Span] = []
        unused = 1 << filters
        for bit, alternatives in asked:
            first = unused
            for each in alternatives:
                if type(each) is not dict:
                    self._name(each, bit)
                    continue
                name, value = next(iter(each.items()))
                match name:
                    case "exists" if value:
                        self._present |= bit
                    case "exists":
                        self._absent |= bit
                    case "prefix":
                        prefixes.append(_prefixed(value, bit))
                    case "numeric":
                        ranges.append(_between(value, bit))
                    case _:
                        for named in value:
                            self._name(named, unused)
                        unused <<= 1
            if unused > first:
                self._anything_but.append((unused - first, bit))
        self._prefixes = _Line(prefixes) if prefixes else None
        self._ranges = _Line(ranges) if ranges else None

    def _name(self, literal: Any, bit: int) -> None:
        kind = type(literal)
        table: dict[Any, int] = self._constants
        if kind is str:
            table = self._strings
        elif kind is int or kind is float:
            table = self._numbers
        table[literal] = table.get(literal, 0) | bit

    def passed(self, values: list[Any] | None) -> int:
        """Who is content with what lies at the path, None for nothing. Bits above the filters' may be set."""
        if values is None:
            return self._absent
        seen = self._present
        for value in values if len(values) <= _FEW else _distinct(values):
            kind = type(value)
            if kind is str:
                seen |= self._strings.get(value, 0)
                if self._prefixes is not None:
                    seen |= self._prefixes.at(value)
            elif kind is int or kind is float:
                seen |= self._numbers.get(value, 0)
                if self._ranges is not None:
                    seen |= self._ranges.at(value)
            elif kind is not dict:
                seen |= self._constants.get(value, 0)
        if values:
            for mask, bit in self._anything_but:
                if mask & ~seen:
                    seen |= bit
        return seen


def _distinct(values: list[Any]) -> list[Any]:
    """The scalars among them, each once; true and 1 are two."""
    strings = {value for value in values if type(value) is str}
    numbers = {value for value in values if type(value) is int or type(value) is float}
    constants = {value for value in values if value is True or value is False or value is None}
    return [*strings, *numbers, *constants]


class _Line:
    """Spans laid on a line of numbers or of strings: who covers a value, by one search.

    The values where spans begin or end cut it into pieces: each such value itself, and what lies between.
    """

    __slots__ = ("_cuts", "_pieces")

    def __init__(self, spans: Sequence[_Span]) -> None:
        self._cuts: list[Any] = sorted({place[0] for span in spans for place in span[:2] if place})
        index = {cut: i for i, cut in enumerate(self._cuts)}
        beyond = 2 * len(index) + 1
        changes: dict[int, list[tuple[int, int]]] = {}
        for start, end, bit in spans:
            first = 0 if start is None else 2 * index[start[0]] + 1 + start[1]
            last = beyond if end is None else 2 * index[end[0]] + 1 + end[1]
            changes.setdefault(first, []).append((bit, 1))
            changes.setdefault(last, []).append((bit, -1))
        self._pieces: list[int] = []
        covering: dict[int, int] = {}
        bits = 0
        for piece in range(beyond):
            for bit, change in changes.get(piece, ()):
                covering[bit] = covering.get(bit, 0) + change
                bits = bits | bit if covering[bit] else bits & ~bit
            self._pieces.append(bits)

    def at(self, value: Any) -> int:
        """The bits of all spans that hold the value."""
        i = bisect_left(self._cuts, value)
        on_cut = i < len(self._cuts) and self._cuts[i] == value
        return self._pieces[2 * i + on_cut]


def _prefixed(prefix: str, bit: int) -> _Span:
    """All strings that begin so: from the prefix to the first string beyond all of them."""
    cut = prefix.rstrip(_LAST_CHAR)
    end = (cut[:-1] + chr(ord(cut[-1]) + 1), 0) if cut else None
    return (prefix, 0), end, bit


def _between(comparisons: Sequence[Any], bit: int) -> _Span:
    """All numbers that fulfil each comparison; a span that ends where it begins holds none."""
    start: _Place = None
    end: _Place = None
    for comparison, bound in zip(comparisons[::2], comparisons[1::2], strict=True):
        if comparison in ("=", ">", ">="):
            place = (bound, int(comparison == ">"))
            start = place if start is None else max(start, place)
        if comparison in ("=", "<", "<="):
            place = (bound, int(comparison != "<"))
            end = place if end is None else min(end, place)
    if start is not None and end is not None and end < start:
        end = start
    return start, end, bit
