"""What a command may hold that others than Atlas wrote: else the fold refuses it, in every process alike.

Only what no Atlas has ever written, and what would do harm in a fold, a store or an answer. The limits of
requests have no place here: they may change, and what was decided by those of then stays decided.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from atlas.core.entities import Stream, Target
from atlas.core.errors import InvalidRequest
from atlas.core.filters import check_filter
from atlas.core.limits import MS_MAX, STREAM_NAME_PATTERN
from atlas.core.shapes import WHOLE_MAX

#: By what a field's name ends with: mostly its unit, of which it may be a hundred years.
_MAX_BY_END: Final = {"_ms": MS_MAX, "_seconds": 3_200_000_000, "_days": 37_000, "producer_id": 2**63 - 1}
_AT_LEAST_1: Final = frozenset(
    {
        "burst",
        "max_in_flight",
        "rate_limit_per_second",
        "rate_per_second",
        "requests_per_minute",
        "retention_days",
        "timeout_ms",
    }
)
_NAME: Final = re.compile(STREAM_NAME_PATTERN).match
#: As Kafka has it.
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}").fullmatch


def check_bounds(command: Struct) -> None:
    """Refuse a command that cannot be folded, kept or shown.

    Raises:
        InvalidRequest: with the path of what is wrong.
    """
    try:
        _check(command, "")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(None, "holds what nobody can read") from error


def _check(value: Any, path: str) -> None:
    if isinstance(value, Struct):
        _check_whole(value, path)
        for name in value.__struct_fields__:
            if name != "filter":
                _check(getattr(value, name), f"{path}.{name}" if path else name)
        _check_filter(getattr(value, "filter", None), path)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            # Of a number in a list the list's name tells the unit.
            _check(item, path if isinstance(item, int) else f"{path}.{index}")
    elif isinstance(value, int) and not isinstance(value, bool):
        _check_number(value, path)


def _check_whole(value: Struct, path: str) -> None:
    if isinstance(value, Stream) and _NAME(value.name) is None:
        raise InvalidRequest(f"{path}.name", "is no name of a stream")
    if isinstance(value, Stream) and _TOPIC(value.topic) is None:
        raise InvalidRequest(f"{path}.workspace_id", "makes no name of a topic")
    if isinstance(value, Target) and not value.secrets:
        raise InvalidRequest(f"{path}.secrets", "a target has a secret")


def _check_filter(definition: Any, path: str) -> None:
    if isinstance(definition, dict):
        check_filter(definition, f"{path}.filter" if path else "filter")


def _check_number(number: int, path: str) -> None:
    name = path.rpartition(".")[2]
    low = 1 if name in _AT_LEAST_1 else 0
    high = next((most for end, most in _MAX_BY_END.items() if name.endswith(end)), WHOLE_MAX)
    if not low <= number <= high:
        raise InvalidRequest(path, f"must be {low} to {high}")
