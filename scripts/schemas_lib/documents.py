"""Every file of `schemas/`, as bytes: the same from the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.schemas_lib.asyncapi import asyncapi
from scripts.schemas_lib.openapi import openapi
from scripts.schemas_lib.records import RECORDS, record_schema

DIRECTORY: Final = Path(__file__).resolve().parent.parent.parent / "schemas"
_GENERATED: Final = "# Written by scripts/schemas from the code's own types: change those, not this file.\n"


def documents() -> dict[str, bytes]:
    """Contents by file name."""
    made = {record.file_name: _json(record_schema(record)) for record in RECORDS}
    made["openapi.json"] = _json(openapi())
    made["asyncapi.yaml"] = (_GENERATED + _yaml(asyncapi())).encode()
    return made


def stale() -> list[str]:
    """Names of files that are missing, out of date, or not ours."""
    made = documents()
    there = {path.name: path.read_bytes() for path in DIRECTORY.glob("*")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _yaml(document: Any) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and nothing by reference."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
