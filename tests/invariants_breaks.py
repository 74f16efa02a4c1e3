"""Ways to break a history: small changes to a good one, to be put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from tests.invariants_history import Arrival, History, LogRecord, Poll, Rule, Shown, Try
from tests.invariants_samples import good_history

GOOD: Final = good_history()
Break = Callable[[History], History]


def with_records(*extra: LogRecord, without: tuple[int, ...] = ()) -> Break:
    """The log with these records more, and without those at these places of the sample."""

    def broken(history: History) -> History:
        kept = [each for index, each in enumerate(history.records) if index not in without]
        return replace(history, records=(*kept, *extra), readings=())

    return broken


def with_tries(*extra: Try, without: tuple[int, ...] = ()) -> Break:
    def broken(history: History) -> History:
        kept = [each for index, each in enumerate(history.tries) if index not in without]
        return replace(history, tries=(*kept, *extra))

    return broken


def with_arrivals(*extra: Arrival, without: tuple[int, ...] = ()) -> Break:
    def broken(history: History) -> History:
        kept = [each for index, each in enumerate(history.arrivals) if index not in without]
        return replace(history, arrivals=(*kept, *extra))

    return broken


def with_notices(*extra: Arrival, without: tuple[int, ...] = ()) -> Break:
    def broken(history: History) -> History:
        kept = [each for index, each in enumerate(history.notices or ()) if index not in without]
        return replace(history, notices=(*kept, *extra))

    return broken


def with_shown(event_id: str, view: dict[str, Any], *attempts: dict[str, Any]) -> Break:
    return lambda history: replace(history, shown={**history.shown, event_id: Shown(view, attempts)})


def without_shown(event_id: str) -> Break:
    return lambda history: replace(
        history, shown={name: each for name, each in history.shown.items() if name != event_id}
    )


def with_polls(*extra: Poll) -> Break:
    return lambda history: replace(history, polls=(*history.polls, *extra))


def ordered_to_a(history: History) -> History:
    """The same run, `wf_a` being an ordered workflow."""
    records = [
        replace(each, value=orjson.dumps({**each.json, "ordered_routes": ["wf_a"]}))
        if each.is_event and each.json.get("ordering_key")
        else each
        for each in history.records
    ]
    return replace(history, records=records, readings=())


def arrivals_reversed(history: History) -> History:
    return replace(history, arrivals=tuple(reversed(history.arrivals)))


def both(first: Break, second: Break) -> Break:
    return lambda history: second(first(history))


def poll(event: dict[str, Any]) -> Poll:
    return Poll("p1", event["id"], 200, event)


def altered(each: Arrival, **headers: str) -> Arrival:
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(each, headers={**each.headers, **renamed})


#: Place in the sample: E1 0, E2 1, E3 2, then the lifecycle topic from its offset 0 on.
FACTS: Final = 3
LAST_FACT: Final = FACTS + 7

#: What is wrong with it, the rule it breaks, and the change to the sample.
Bad = tuple[str, Rule, Break]
