"""`/healthz`, `/readyz`, `/metrics`: for those who run Atlas; no key, no workspace's data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from atlas.core import answers
from atlas.gateway.call import Call, Reply, json_reply
from atlas.gateway.parameters import refuse_parameters
from atlas.runtime.telemetry import Metrics

#: Tells whether this process is ready, and what is not.
Readiness = Callable[[], Awaitable[answers.Readiness]]

_ALIVE: Final = orjson.dumps(answers.Alive(status="alive"))
_METRICS_TYPE: Final = ((b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),)


class Operations:
    """The handlers."""

    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness

    async def healthz(self, call: Call) -> Reply:
        """The process answers."""
        refuse_parameters(call)
        return Reply(200, _ALIVE)

    async def readyz(self, call: Call) -> Reply:
        """Whether it can append and is making progress: 200, or 503 with what is not."""
        refuse_parameters(call)
        report = await self._readiness()
        return json_reply(200 if _is_ready(report) else 503, report)

    async def metrics(self, call: Call) -> Reply:
        """Prometheus text, readiness in it: an alert needs nobody to ask `/readyz`."""
        refuse_parameters(call)
        self._metrics.ready.set(_is_ready(await self._readiness()))
        return Reply(200, generate_latest(self._metrics.registry), _METRICS_TYPE)


def _is_ready(report: answers.Readiness) -> bool:
    return bool(report["status"] == "ready")
