"""What is wrong with a body, in our own words: msgspec's message taken apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Struct

from atlas.core import limits
from atlas.core.errors import InvalidRequest

Model = TypeVar("Model", bound=Struct)

_AT: Final = re.compile(r" - at (`key` in )?`(\$[^`]*)`\Z")
_STEP: Final = re.compile(r"\.([A-Za-z_]+)|\[(\d+|\.\.\.)\]")
_MISSING: Final = "Object missing required field `"
_UNKNOWN: Final = "Object contains unknown field `"
_GOT: Final = re.compile(r"Expected `(.+)`, got `(.+)`")
_LENGTH: Final = re.compile(r"Expected `(\w+)` of length ([<>])= (\d+)")
_RANGE: Final = re.compile(r"Expected `int` ([<>])= (-?\d+)")
_WORDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a number with a fraction",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_NAMES: Final = {
    str: "str", int: "int", float: "float", bool: "bool", list: "array", type(None): "null",
}  # fmt: skip
_UNITS: Final = {"str": "characters", "array": "items", "object": "entries"}


def converted(model: type[Model], value: object) -> Model:
    """Decoded JSON as a model.

    Raises:
        InvalidRequest: with the dotted path of what is wrong.
    """
    try:
        return msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        raise explain(model, value, str(error)) from None


def explain(model: type[Struct], value: object, text: str) -> InvalidRequest:
    """A `msgspec.ValidationError` in our own words, its place as a dotted path.

    msgspec says `<what> - at `$.a[0]``, for a value of a mapping `$.a[...]`, and for its key
    `` `key` in `$.a` ``: which entry it was is found out here.
    """
    if text.startswith(_UNKNOWN) and type(value) is dict and text[len(_UNKNOWN) : -1] in value:
        # At the top there is no place to take off, and the name may hold anything, even ` - at `.
        return InvalidRequest(text[len(_UNKNOWN) : -1] or None, "is an unknown field")
    match = _AT.search(text)
    what = text[: match.start()] if match else text
    steps = [name or index for name, index in _STEP.findall(match[2])] if match else []
    entry = "the value"
    if match and match[1]:
        steps.append("...")
        entry = "the key"
    if "..." in steps:
        where = steps.index("...")
        steps[where] = _bad_entry(model, value, steps[:where])
        reason = f"{entry} {_reason(model, steps, what)}"
    elif what.startswith(_MISSING):
        steps.append(what[len(_MISSING) : -1])
        reason = "is required"
    elif what.startswith(_UNKNOWN):
        steps.append(what[len(_UNKNOWN) : -1])
        reason = "is an unknown field"
    else:
        reason = _reason(model, steps, what)
    return InvalidRequest(".".join(steps) or None, reason)


def holds_nul(at: str) -> InvalidRequest:
    """The refusal of a text that not every store can hold."""
    return InvalidRequest(at, "must not hold U+0000")


def not_an_object(at: str, value: object) -> InvalidRequest:
    """The refusal of a decoded value that should have been an object."""
    return InvalidRequest(at, f"must be an object, not {_WORDS[_NAMES[type(value)]]}")


def _reason(model: type[Struct], steps: Sequence[str], what: str) -> str:
    if match := _GOT.match(what):
        wanted = [_WORDS.get(name, name) for name in match[1].split(" | ") if name != "null"]
        return f"must be {' or '.join(wanted)}, not {_WORDS.get(match[2], match[2])}"
    if match := _LENGTH.match(what):
        if (match[2], match[3]) == (">", "1"):
            return "must not be empty"
        bound = "most" if match[2] == "<" else "least"
        return f"must have at {bound} {int(match[3]):,} {_UNITS[match[1]]}"
    if match := _RANGE.match(what):
        return f"must be at {'most' if match[1] == '<' else 'least'} {int(match[2]):,}"
    for pattern, reason in limits.REASON_BY_PATTERN.items():
        if repr(pattern) in what:
            return reason
    if what.startswith("Invalid enum value") and len(steps) == 1:
        return f"must be one of: {', '.join(_choices(get_type_hints(model)[steps[0]]))}"
    return "is not valid"


def _choices(hint: object) -> list[str]:
    """The values of the `Literal` in a field's type."""
    return [choice for arg in get_args(hint) for choice in ([arg] if isinstance(arg, str) else _choices(arg))]


def _bad_entry(model: type[Struct], value: Any, steps: Sequence[str]) -> str:
    """Key of the first entry that the mapping at `steps` (all of them fields of `model`) fails with."""
    kind = get_type_hints(model, include_extras=True)[steps[0]]
    for key, item in value[steps[0]].items():
        try:
            msgspec.convert({key: item}, kind)
        except msgspec.ValidationError:
            return str(key)
    return "..."
