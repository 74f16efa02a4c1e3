"""What every run under faults sends to: two streams in each environment, the workflows behind them, and an
endpoint that is told of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults_client import Clients
from tests.faults_load import BARE, ORDERS
from tests.faults_receiver import ENDPOINT, FINE, FLAKY, TIMEOUT_MS, Receiver

#: Routes of the stream `orders`, by environment; the stream `bare` has none.
ROUTES: Final = {"live": ("wf_fine", "wf_flaky"), "test": ("wf_test_fine",)}
TEMPERS: Final = {"wf_fine": FINE, "wf_flaky": FLAKY, "wf_test_fine": FINE} | {
    ENDPOINT + environment: FLAKY for environment in ROUTES
}
#: Of those, the ones that keep the order of a key.
ORDERED: Final = ("wf_fine",)
RETRY_SCHEDULE_S: Final = (1, 1, 1)


async def set_up(clients: Clients, receiver: Receiver) -> dict[str, str]:
    """Make all of it; returns the signing secret of each target."""
    secrets: dict[str, str] = {}
    for environment, targets in ROUTES.items():
        for target in targets:
            workflow = {
                "id": target,
                "url": receiver.url(target),
                "timeout_ms": TIMEOUT_MS,
                "retry_schedule_seconds": RETRY_SCHEDULE_S,
                "ordered": target in ORDERED,
            }
            made = await clients.make(environment, "/v1/workflows", workflow)
            secrets[target] = made["secret"]
        endpoint = {
            "url": receiver.url(ENDPOINT + environment),
            "timeout_ms": TIMEOUT_MS,
            "retry_schedule_seconds": [1] * 10,
        }
        made = await clients.make(environment, "/v1/webhook-endpoints", endpoint)
        secrets[ENDPOINT + environment] = made["secret"]
        for name, routes in ((ORDERS, targets), (BARE, ())):
            stream = {"name": name, "default_routes": routes}
            await clients.make(environment, "/v1/event-streams", stream)
    return secrets


def alarms(stderr: str, words: Sequence[str]) -> list[str]:
    """Lines that hold one of these words, which nothing logs unless something is broken; counted."""
    lines = [line for line in stderr.splitlines() if any(word in line for word in words)]
    return [f"{len(lines)} alarms on stderr, the first: {lines[0][:300]}"] if lines else []
