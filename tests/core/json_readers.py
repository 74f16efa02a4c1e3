"""What the gateway accepts, everybody has to be able to read: orjson, msgspec and the standard library."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson

from atlas.core.strict_json import canonical


def assert_everybody_reads(body: bytes, value: dict[str, Any]) -> None:
    """Compared by `repr`: 1, 1.0 and True are equal to Python."""
    for text in (body, orjson.dumps(value), canonical(value)):
        for read in (json.loads, msgspec.json.decode, orjson.loads):
            again = read(text)
            assert again == value
            assert canonical(again) == canonical(value)
    assert repr(json.loads(body)) == repr(value)
