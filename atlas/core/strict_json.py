r"""JSON that every consumer can read (API notes, "Every request and response"; security notes, "JSON").

How it is fast and still exact. orjson parses; it refuses malformed text, invalid UTF-8, lone surrogates,
NaN, and numbers beyond a double, and stops at 1,024 levels. What it lets through is caught by
arithmetic on the bytes, which is exact for text that orjson has accepted:

- Duplicate keys. orjson keeps the last and drops the others. A string contributes its two delimiters
  and one `"` for each quote in it, which is written `\"` or `\u0022` in the body and always `\"` in
  orjson's output. So the numbers of quotes agree if, and only if, no key was dropped.
- Integers. orjson turns one beyond 64 bits into a float. With every digit made a 0, a run of 20, or of
  19 behind a minus sign, is necessary for that; only then the numbers outside strings are looked at.
- Depth. 64 opening brackets are needed for 64 levels; only where there are more are levels counted.

A body that orjson would write byte for byte, as most programs do, repeats no key and holds no such integer:
a dropped key makes it shorter, and a float is not written as an integer is.

Containers are counted before anything is parsed: what they take in memory and time is out of all
proportion to their two bytes.

Nothing here recurses, and everything is linear in the body. The place of what is wrong is looked for
only once it is known that something is.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final, Literal, NamedTuple

import orjson

from atlas.core.errors import InvalidRequest
from atlas.core.limits import CONTAINERS_MAX, DEPTH_MAX, INTEGER_MAX, INTEGER_MIN

PAYLOAD_HASH_BYTES: Final = 16
#: How U+0000 is written in JSON, always; the text can be that of an escaped backslash and more as well.
NUL: Final = b"\\u0000"

_TOO_DEEP: Final = f"is nested deeper than {DEPTH_MAX} levels"
_TOO_MANY: Final = f"the body holds more than {CONTAINERS_MAX:,} objects and arrays"
_REPEATED: Final = "repeats a key of the same object"
_INTEGER: Final = "is an integer outside -2^63..2^64-1"
_NUMBER: Final = "is a number beyond what a double can hold"
_NOT_A_NUMBER: Final = "NaN and Infinity are not JSON"

_DIGITS_TO_0: Final = bytes(ord("0") if chr(i).isdigit() and i < 128 else i for i in range(256))
#: The shortest that can lie outside the range: 2^64 has 20 digits, -2^63-1 has 19.
_LONG_POSITIVE: Final = b"0" * 20
_LONG_NEGATIVE: Final = b"-" + b"0" * 19

#: A container takes two bytes at least.
_CONTAINERS_BYTES: Final = 2 * CONTAINERS_MAX
#: The body and its array.
_LEVELS_ABOVE_ITEMS: Final = 2

#: A string, closed or not; possessive, so that no input makes it backtrack.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_TOKEN: Final = re.compile(_STRING + rb'|[{}\[\]:,]|[^\s{}\[\]:,"]++', re.DOTALL)
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
#: A whole integer (not digits of a fraction or an exponent) long enough to lie outside the range.
_LONG_INTEGER: Final = re.compile(rb"(?<![0-9.eE+\-])-?[0-9]{19,}+(?![.eE])")
_INTEGER_TOKEN: Final = re.compile(rb"-?[0-9]++\Z")
_NUMBER_TOKEN: Final = re.compile(rb"-?[0-9][0-9.eE+\-]*+\Z")
#: Naming the place of what is wrong stops after this many tokens (about 0.1 s): a hostile 8 MiB body
#: must not hold up everybody else's requests. Then `field` is None, and the reason still right.
_EXPLAIN_TOKENS_MAX: Final = 250_000


class Text(NamedTuple):
    """A body that was read.

    Attributes:
        value: decoded.
        compact: the same, serialized compactly.
    """

    value: dict[str, Any]
    compact: bytes


def read(body: bytes, *, envelope_depth: int = 0) -> Text:
    """The JSON object that a whole request body is.

    Args:
        body: as received.
        envelope_depth: how many outer levels do not count as depth; `BATCH_ENVELOPE_DEPTH` for a batch.

    Raises:
        InvalidRequest: refused by the rules above; `field` is the dotted path of the first thing wrong
            where it can be told, None where the text is not JSON at all.
    """
    if len(body) > _CONTAINERS_BYTES and _holds_too_many(body):
        raise InvalidRequest(None, _TOO_MANY)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error, envelope_depth) from None
    if type(value) is not dict:
        raise InvalidRequest(None, "the body must be a JSON object")
    depth_max = DEPTH_MAX + envelope_depth
    # Of a batch, the items alone have more brackets than that, as a rule.
    if (envelope_depth or _brackets(body) > depth_max) and _is_deeper(value, depth_max):
        raise _wrong(body, envelope_depth, _TOO_DEEP)
    compact = orjson.dumps(value)
    if compact != body:
        zeros = body.translate(_DIGITS_TO_0)
        if (_LONG_POSITIVE in zeros or _LONG_NEGATIVE in zeros) and _holds_large_integer(body):
            raise _wrong(body, envelope_depth, _INTEGER)
        if _quotes(body) != compact.count(b'"'):
            raise _wrong(body, envelope_depth, _REPEATED)
    return Text(value, compact)


def canonical(value: object) -> bytes:
    """The same bytes for equal JSON values, whatever their key order and spacing; 1 and 1.0 differ."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def payload_hash(value: object) -> bytes:
    """`PAYLOAD_HASH_BYTES` bytes that are equal for equal JSON values (design section 7)."""
    return hashlib.sha256(canonical(value)).digest()[:PAYLOAD_HASH_BYTES]


def find_nul(value: object, at: str = "") -> str | None:
    r"""Dotted path of the first string or key holding U+0000, or None.

    Not every store can hold it, so it is refused in every field but an event's `data`. A body without
    the bytes `\u0000` needs no look: a raw NUL is not JSON.
    """
    pending = [(at, value)]
    while pending:
        path, item = pending.pop()
        if type(item) is str:
            if "\0" in item:
                return path
        elif type(item) is dict:
            for key in item:
                if "\0" in key:
                    return _join(path, key)
            pending.extend(reversed([(_join(path, key), inner) for key, inner in item.items()]))
        elif type(item) is list:
            pending.extend(reversed([(_join(path, str(i)), inner) for i, inner in enumerate(item)]))
    return None


def _join(path: str, segment: str) -> str:
    return f"{path}.{segment}" if path else segment


def _holds_too_many(body: bytes) -> bool:
    return _brackets(body) > CONTAINERS_MAX and _brackets(_STRINGS.sub(b"", body)) > CONTAINERS_MAX


def _brackets(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def _is_deeper(value: object, depth_max: int) -> bool:
    """Whether more than `depth_max` containers are nested; level by level, no recursion.

    Of a batch, the items are at the third level: those with fewer brackets than they would need are put
    aside, which is four times as fast as going through them.
    """
    level: list[Any] = [value]
    for depth in range(1, depth_max + 1):
        deeper: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                if type(item) is dict or type(item) is list:
                    deeper.append(item)  # noqa: PERF401 - one loop, on the hot path
        if depth == _LEVELS_ABOVE_ITEMS:
            deeper = _may_nest(deeper, depth_max - depth)
        if not deeper:
            return False
        level = deeper
    return True


def _may_nest(containers: list[Any], depth_max: int) -> list[Any]:
    """Those that have the brackets for more levels than that."""
    try:
        return [each for each in containers if _brackets(orjson.dumps(each)) > depth_max]
    except orjson.JSONEncodeError:  # one of more levels than orjson writes
        return containers


def _holds_large_integer(body: bytes) -> bool:
    """Exact for valid JSON."""
    outside_strings = _STRINGS.sub(b"", body)
    return any(_number_problem(match[0]) for match in _LONG_INTEGER.finditer(outside_strings))


def _quotes(body: bytes) -> int:
    quotes = body.count(b'"')
    if b"\\u0022" in body:
        # An escaped backslash before `u0022` does not make it an escape: take those pairs away first.
        # Runs of backslashes pair from the left, as `replace` does.
        quotes += body.replace(b"\\\\", b"__").count(b"\\u0022")
    return quotes


def _number_problem(token: bytes) -> str | None:
    """What is wrong with a scalar as a number, if anything."""
    if _INTEGER_TOKEN.match(token):
        # Python's int() is quadratic, and bounded: look at the length first. No leading zeros in JSON.
        inside = len(token) <= 20 and INTEGER_MIN <= int(token) <= INTEGER_MAX
        return None if inside else _INTEGER
    if token in (b"NaN", b"Infinity", b"-Infinity"):
        return _NOT_A_NUMBER
    if not _NUMBER_TOKEN.match(token):
        return None
    try:
        return _NUMBER if math.isinf(float(token)) else None
    except ValueError:
        return None  # malformed


def _malformed(body: bytes, error: orjson.JSONDecodeError, envelope_depth: int) -> InvalidRequest:
    try:
        text = body.decode()
    except UnicodeDecodeError as invalid:
        return InvalidRequest(None, f"the body is not valid UTF-8 (byte {invalid.start})")
    # Beyond where orjson stopped nothing is known to be JSON. Its position counts characters.
    end = len(text[: error.pos + 1].encode())
    found = _Scan(envelope_depth).run(body, end)
    if found is not None:
        return found
    return InvalidRequest(None, f"the body is not valid JSON (line {error.lineno}, column {error.colno})")


def _wrong(body: bytes, envelope_depth: int, reason: str) -> InvalidRequest:
    return _Scan(envelope_depth).run(body, len(body)) or InvalidRequest(
        None, f"something in the body {reason}"
    )


class _Frame:
    """An open container: where in it the scan stands."""

    __slots__ = ("at_key", "keys", "segment")

    def __init__(self, kind: Literal["{", "["]) -> None:
        self.keys: set[str] | None = set() if kind == "{" else None
        self.at_key = kind == "{"
        self.segment: str | int = "" if kind == "{" else 0


class _Scan:
    """Finds the first thing wrong, in the order of the text, and its dotted path."""

    def __init__(self, envelope_depth: int) -> None:
        self._depth_max = DEPTH_MAX + envelope_depth
        self._frames: list[_Frame] = []

    def run(self, body: bytes, end: int) -> InvalidRequest | None:
        """What is wrong in a token that starts before `end`; None if nothing, or it takes too long."""
        for count, match in enumerate(_TOKEN.finditer(body)):
            if match.start() >= end or count >= _EXPLAIN_TOKENS_MAX:
                return None
            reason = self._step(match[0])
            if reason is not None:
                path = ".".join(str(frame.segment) for frame in self._frames)
                return InvalidRequest(path or None, reason)
        return None

    def _step(self, token: bytes) -> str | None:
        frame = self._frames[-1] if self._frames else None
        match token:
            case b"{" | b"[":
                if len(self._frames) == self._depth_max:
                    return _TOO_DEEP
                self._frames.append(_Frame("{" if token == b"{" else "["))
            case b"}" | b"]":
                if frame:
                    self._frames.pop()
            case b",":
                if frame and type(frame.segment) is int:
                    frame.segment += 1
                elif frame:
                    frame.at_key = True
            case b":":
                if frame:
                    frame.at_key = False
            case _:
                if frame and frame.at_key and frame.keys is not None:
                    return _key_problem(frame, token)
                return _number_problem(token)
        return None


def _key_problem(frame: _Frame, token: bytes) -> str | None:
    try:
        key = orjson.loads(token)
    except orjson.JSONDecodeError:
        return None  # malformed: not ours to name
    if type(key) is not str or frame.keys is None:
        return None
    frame.segment = key
    if key in frame.keys:
        return _REPEATED
    frame.keys.add(key)
    return None
