"""`GET /v1/workflows/{workflow_id}/health`, and of webhook endpoints: how a target is doing."""

from __future__ import annotations

from atlas.core import breaker
from atlas.core.health import ERRORS_MAX, LATENCIES_MAX, WINDOW_MS, health_view
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.parameters import refuse_parameters
from atlas.gateway.targets import Targets


class TargetHealths:
    """The handler of one kind of targets.

    Args:
        services: of the process.
        targets: the handlers that know the kind.
    """

    def __init__(self, services: Services, targets: Targets) -> None:
        self._clock, self._registry, self._read_model = services.clock, services.registry, services.read_model
        self._targets = targets

    async def retrieve(self, call: Call) -> Reply:
        """As far as the read model has folded the log.

        Raises:
            ApiError: workflow_not_found, endpoint_not_found.
        """
        refuse_parameters(call)
        await self._registry.catch_up()
        target = self._targets.named(call)
        since_ms = self._clock.now_ms() - WINDOW_MS
        health = await self._read_model.target_health(
            call.principal.scope, target.id, since_ms, ERRORS_MAX, LATENCIES_MAX
        )
        known = await self._read_model.breakers(call.principal.scope)
        return json_reply(200, health_view(health, breaker.of(target, known)))
