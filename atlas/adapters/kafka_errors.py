"""Kafka's errors, translated once: whatever aiokafka raises becomes `LogUnavailable` at the port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError, for_code

from atlas.core.errors import LogUnavailable


class NotSent(LogUnavailable):
    """The append never left this process: it will not land."""


class InDoubt(LogUnavailable):
    """The append left, and its producer is given up: it may have landed, or may land yet."""


@asynccontextmanager
async def within(deadline_s: float, what: str) -> AsyncIterator[None]:
    """Give what happens inside a deadline, and its failures the port's name.

    Raises:
        LogUnavailable: it failed, or took longer.
    """
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError as error:
        raise LogUnavailable(f"{what}: Kafka did not answer in time") from error
    except (KafkaError, OSError) as error:
        raise unavailable(what, error) from error


def unavailable(what: str, error: BaseException) -> LogUnavailable:
    """The port's word for a failure of Kafka."""
    return LogUnavailable(f"{what}: {type(error).__name__}: {error}")


def is_passing(code: int) -> bool:
    """Whether a broker's error code says: ask again, perhaps another broker."""
    error = for_code(code)
    return bool(error.retriable or error.invalid_metadata)


def raise_code(code: int) -> None:
    """Raise the error that a broker's error code stands for; 0 stands for none."""
    if code:
        raise for_code(code)
