"""`GET /v1/webhook-endpoints/{endpoint_id}/deliveries`: every attempt to tell an endpoint of an outcome.

By the delivery's id, which is oldest outcome first, the attempts of one together. A page ends between two
outcomes, so that its cursor, the id of a delivery, says all, also when that one is past retention; only where
one delivery alone has more attempts than `limit` is the page longer.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

from atlas.core.errors import ApiError
from atlas.core.views import delivery_view
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.parameters import page_cursor, page_limit, parameters
from atlas.ports.read_model import NoticeAttempt

PARAMETERS: Final = frozenset({"limit", "cursor"})
_DELIVERY_PREFIX: Final = "whd_"


class Deliveries:
    """The handler of one process."""

    def __init__(self, services: Services) -> None:
        self._registry, self._read_model = services.registry, services.read_model

    async def list(self, call: Call) -> Reply:
        """A page of attempts."""
        values = parameters(call, PARAMETERS)
        limit, cursor = page_limit(values), page_cursor(values, _DELIVERY_PREFIX)
        await self._registry.catch_up()
        scope = call.principal.scope
        endpoint = self._registry.state.endpoints.get(scope, {}).get(call.path_params["endpoint_id"])
        if endpoint is None:
            raise ApiError("endpoint_not_found", "No such webhook endpoint exists here.")
        made = await self._read_model.deliveries(scope, endpoint.id, cursor, limit + 1)
        page, has_more = _page(made, limit)
        data = [delivery_view(each.attempt.notice or "", each.attempt, each.outcome) for each in page]
        next_cursor = data[-1]["delivery_id"] if has_more else None
        body = {"object": "list", "data": data, "has_more": has_more, "next_cursor": next_cursor}
        return json_reply(200, body)


def _page(made: list[NoticeAttempt], limit: int) -> tuple[list[NoticeAttempt], bool]:
    """Whole deliveries, as long as there is room for them; whether some are left."""
    page: list[NoticeAttempt] = []
    for _, group in groupby(made, key=lambda each: each.attempt.notice):
        attempts = list(group)
        if page and len(page) + len(attempts) > limit:
            return page, True
        page += attempts
    return page, False
