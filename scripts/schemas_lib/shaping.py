"""JSON Schemas of types: msgspec's, with the words of their docstrings, and exact or not at all."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from atlas.core.shapes import portable

Schema = dict[str, Any]

#: One of these says what a string or a number may be.
_EXACT: Final = {
    "string": {"pattern", "format", "enum", "const", "maxLength", "minLength", "description", "anyOf"},
    "integer": {"minimum", "enum", "const"},
    "number": {"minimum", "enum", "const", "description"},
}
_PAGE: Final = re.compile(r"Page_(\w+?)_$")
_ATTRIBUTE: Final = re.compile(r"^    (\w[\w, ]*): (.*(?:\n        .*)*)", re.MULTILINE)


class Vague(Exception):
    """A type leaves open what a schema has to say."""


def schemas_of(types: Sequence[Any], ref: str) -> tuple[list[Schema], dict[str, Schema]]:
    """A schema for each type, and those that they name.

    Args:
        ref: where the named ones lie, with `{name}` for the name.

    Raises:
        Vague: a string or a number could be anything.
    """
    made, named = msgspec.json.schema_components(types, ref_template=ref)
    known = {each.__name__: each for one in types for each in _named(one)}
    defs = {}
    for name, schema in named.items():
        plain = _PAGE.sub(r"PageOf\1", name)
        defs[plain] = _worded(_tidy(schema), known.get("Page" if plain != name else name))
        _refuse_vague(plain, defs[plain])
    return [_tidy(schema) for schema in made], dict(sorted(defs.items()))


def _named(hint: Any) -> Iterator[Any]:
    """The structs and typed dictionaries in a type."""
    seen: set[Any] = set()
    left = [hint]
    while left:
        one = left.pop()
        left += get_args(one)
        one = get_origin(one) or one
        if one in seen or not (
            is_typeddict(one) or (isinstance(one, type) and issubclass(one, msgspec.Struct))
        ):
            continue
        seen.add(one)
        left += get_type_hints(one).values()
        yield one


def _tidy(node: Any) -> Any:
    """Without titles that repeat a name; patterns that every language reads; one value as a constant."""
    if isinstance(node, list | tuple):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    tidy = {
        key: {name: _tidy(each) for name, each in value.items()} if key == "properties" else _tidy(value)
        for key, value in node.items()
        if key not in {"title", "discriminator"}
    }
    if isinstance(tidy.get("pattern"), str):
        tidy["pattern"] = portable(tidy["pattern"])
    if isinstance(tidy.get("$ref"), str):
        tidy["$ref"] = _PAGE.sub(r"PageOf\1", tidy["$ref"])
    if isinstance(tidy.get("enum"), list) and len(tidy["enum"]) == 1:
        tidy["const"] = tidy.pop("enum")[0]
    return tidy


def _worded(schema: Schema, made_from: Any) -> Schema:
    """With the type's docstring, its attributes' too, and the fields in the type's own order."""
    words, _, attributes = (inspect.getdoc(made_from) or "").partition("\n\nAttributes:\n")
    schema.pop("description", None)
    properties = schema.get("properties", {})
    for names, text in _ATTRIBUTE.findall(attributes):
        for name in names.split(", "):
            properties[name] = {"description": _one_line(text), **properties[name]}
    if is_typeddict(made_from):
        schema["properties"] = {name: properties[name] for name in get_type_hints(made_from)}
        schema["required"] = [name for name in schema["properties"] if name in schema["required"]]
    if words:
        return {"description": "\n\n".join(_one_line(each) for each in words.split("\n\n")), **schema}
    return schema


def _one_line(text: str) -> str:
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))


def _refuse_vague(where: str, node: Any) -> None:
    if isinstance(node, list):
        for index, each in enumerate(node):
            _refuse_vague(f"{where}.{index}", each)
    if not isinstance(node, dict):
        return
    wanted = _EXACT.get(str(node.get("type")), set())
    if wanted and not wanted & node.keys():
        raise Vague(
            f"{where}: {node['type']} alone says too little; give the field a type of atlas.core.shapes"
        )
    for key, each in node.items():
        _refuse_vague(f"{where}.{key}", each)
