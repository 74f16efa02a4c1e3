"""Every scenario there is, in the order in which they are run."""

from __future__ import annotations

from typing import Final

from tests.kafka.faults import broker, control, deliverer, gateway, projector, records
from tests.kafka.faults.scenario import Scenario

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        broker.KILLED,
        broker.PAUSED,
        gateway.KILLED,
        gateway.HELD,
        projector.KILLED,
        deliverer.KILLED,
        deliverer.TWO,
        deliverer.STORM,
        records.FOREIGN,
        records.DELETED,
        control.UNKNOWN,
    )
}
