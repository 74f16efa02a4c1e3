"""Data shipped with Atlas: real payloads for the demo, the bench and the tests (NOTICE.md says whose)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final

import orjson

_GITHUB_EVENTS: Final = "github-events.ndjson.gz"


def github_events() -> Iterator[tuple[str, dict[str, Any]]]:
    """The 240 bundled GitHub webhook payloads, 1 to 26 KB each, always in the same order.

    Yields:
        `(type, data)` as a producer would post them: an event type such as `github.push`, and its payload.
    """
    packed = resources.files(__name__).joinpath(_GITHUB_EVENTS)
    with packed.open("rb") as file, gzip.open(file) as lines:
        for line in lines:
            record = orjson.loads(line)
            yield record["type"], record["data"]
