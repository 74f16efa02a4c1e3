"""What the owners of shards work with."""

from __future__ import annotations

import msgspec

from atlas.ports.clock import Clock
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.runtime.engine import Engine
from atlas.runtime.registry import Registry
from atlas.runtime.telemetry import Metrics


class OwnerServices(msgspec.Struct, frozen=True, kw_only=True):
    """What the owners of a process work with."""

    log: Log
    read_model: ReadModel
    registry: Registry
    engine: Engine
    clock: Clock
    metrics: Metrics
