"""Invariants 1 to 7 of what must survive any fault, checked over one run's four sources. Pure.

1. A 202: exactly one log record; a try of unknown end: at most one; a refusal: none.
2. Same key and payload: the same answer. Same key, another payload: 409 and no record.
3. An offset never shows two values; per client and ordering key, order is kept, in the log and to receivers.
4. After healing nothing is unseen, within a stated bound, and every (event, route) is terminal.
5. Attempts are gapless and rising; none starts after terminal without a replay.
6. Transitions follow the declared graph (a poller may skip states).
7. Delivered: a receiver answered 2xx to a valid signature. Receiver 2xx without delivered: a later attempt
   with the same id. Each outcome is told to a webhook endpoint in one notification.
"""

from __future__ import annotations

from tests.invariants_history import History, Violation
from tests.invariants_lifecycle import attempts_are_gapless, everything_ends, moves_follow_the_graph
from tests.invariants_log import one_answer_each, one_record_each, order_is_kept, the_log_stands
from tests.invariants_notices import outcomes_are_told
from tests.invariants_order import order_reaches_receivers
from tests.invariants_receipts import deliveries_are_real
from tests.invariants_routes import Routes


def check(history: History) -> list[Violation]:
    """Everything that is wrong with a run, in the order of the invariants."""
    routes = Routes(history.records)
    return [
        *one_record_each(history),
        *one_answer_each(history),
        *the_log_stands(history),
        *order_is_kept(history),
        *order_reaches_receivers(history),
        *everything_ends(history, routes),
        *attempts_are_gapless(history, routes),
        *moves_follow_the_graph(history, routes),
        *deliveries_are_real(history, routes),
        *outcomes_are_told(history),
    ]
