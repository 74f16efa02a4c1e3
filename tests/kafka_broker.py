"""Where tests get a Kafka broker from.

In this order: the address in ATLAS_TEST_KAFKA; Docker; Java and Maven (scripts/kafka_lib). Without any, tests
that need one skip on a laptop and fail where CI is set. One broker serves a whole run, all its workers
included; a test that kills or pauses its broker asks for one of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from scripts.kafka_lib.broker import HOW_TO, Broker, NoBroker, fetch_jars
from tests.kafka import keeper

ADDRESS_VARIABLE: Final = "ATLAS_TEST_KAFKA"


def shared_broker() -> str:
    """The run's broker: its bootstrap address. Skips or fails the test when there is none.

    What tests leave there stays until the end of the run: names must be their own.
    """
    address, refusal = _shared()
    if refusal:
        _refuse(refusal)
    return address


def own_broker(
    directory: Path, overrides: Mapping[str, str] | None = None, format_arguments: Sequence[str] = ()
) -> Broker:
    """A broker of this test's own, not started yet, to kill, pause and start again.

    Skips or fails the test when it cannot be run here.
    """
    try:
        fetch_jars()
    except NoBroker as error:
        _refuse(str(error))
    return Broker(directory / "kafka", overrides=overrides, format_arguments=format_arguments)


@cache
def _shared() -> tuple[str, str]:
    """Address and why there is none: found out once in each worker."""
    if given := os.environ.get(ADDRESS_VARIABLE):
        return given, ""
    try:
        return keeper.obtain(_directory()), ""
    except NoBroker as error:
        return "", str(error)


def _directory() -> Path:
    """The same for all workers of a run, another for each run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    return Path(tempfile.gettempdir()) / f"atlas-test-kafka-{run}"


def _refuse(reason: str) -> None:
    message = f"no Kafka broker ({reason.splitlines()[0]}): {HOW_TO}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
