"""Invariants 1 to 3: what clients were told against what lies in the raw topics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from tests.invariants_history import (
    FAIL,
    INFO,
    OK,
    History,
    Logical,
    LogRecord,
    Reading,
    Rule,
    Try,
    Violation,
    fingerprint,
)

_CONFLICT = 409


def one_record_each(history: History) -> Iterator[Violation]:
    """1: ok: exactly one record; info: at most one; fail: none."""
    events = [record for record in history.records if record.is_event]
    recorded = _grouped(events)
    tried = _tries_by_event(history)
    yield from _doubled(events)
    for logical, records in recorded.items():
        if logical not in tried:
            yield Violation(Rule.NEVER_SENT, f"{_name(logical)} at {records[0].where}")
    for logical, tries in tried.items():
        records = recorded.get(logical, [])
        ok = [each for each in tries if each.outcome == OK]
        if ok and not records:
            yield Violation(Rule.LOST, f"{_name(logical)} answered as {ok[0].event_id}")
        if records and all(each.outcome == FAIL for each in tries):
            yield Violation(Rule.REFUSED_YET_RECORDED, f"{_name(logical)} at {records[0].where}")
        ids = {record.json["id"] for record in records}
        for each in ok:
            if records and each.event_id not in ids:
                yield Violation(Rule.OTHER_ID, f"{_name(logical)}: {each.event_id}, not {sorted(ids)}")


def _doubled(events: Iterable[LogRecord]) -> Iterator[Violation]:
    by_key: dict[object, list[str]] = defaultdict(list)
    by_id: dict[str, list[str]] = defaultdict(list)
    for record in events:
        logical = record.logical
        one: object = logical if logical.key is None else (logical.environment, logical.key)
        by_key[one].append(record.where)
        by_id[record.json["id"]].append(record.where)
    for one, places in by_key.items():
        if len(places) > 1:
            yield Violation(Rule.DOUBLED, f"{one} at {places}")
    for event_id, places in by_id.items():
        if len(places) > 1:
            yield Violation(Rule.ID_TWICE, f"{event_id} at {places}")


def one_answer_each(history: History) -> Iterator[Violation]:
    """2: same key and payload: the same answer, byte for byte; another payload: 409."""
    keyed = {logical: tries for logical, tries in _tries_by_event(history).items() if logical.key is not None}
    for logical, tries in keyed.items():
        answers = {(each.event_id, each.answer) for each in tries if each.outcome == OK}
        if len(answers) > 1:
            ids = sorted(str(event_id) for event_id, _ in answers)
            yield Violation(Rule.ANSWERS_DIFFER, f"{_name(logical)}: {ids}")
    by_key: dict[tuple[str, str | None], list[Try]] = defaultdict(list)
    for logical, tries in keyed.items():
        by_key[logical.environment, logical.key].extend(tries)
    for (environment, key), tries in by_key.items():
        yield from _one_payload(f"{environment} {key}", tries)


def _one_payload(name: str, tries: Sequence[Try]) -> Iterator[Violation]:
    taken = [each for each in tries if each.outcome == OK]
    if len({each.payload for each in taken}) > 1:
        yield Violation(Rule.KEY_TAKEN_TWICE, name)
    for each in tries:
        others = [other for other in tries if other.payload != each.payload]
        if each.status == _CONFLICT:
            if not any(other.invoked_s < each.ended_s and other.outcome != FAIL for other in others):
                yield Violation(Rule.REFUSED_FOR_NOTHING, f"{name}: {each.client}/{each.sequence}")
        elif each.outcome == FAIL and any(
            other.outcome == OK and other.ended_s < each.invoked_s for other in others
        ):
            yield Violation(Rule.REUSE_NOT_REFUSED, f"{name}: answered {each.status}")


def the_log_stands(history: History) -> Iterator[Violation]:
    """3, first half: a (topic, partition, offset) never shows two values."""
    last = reading_of(history.records)
    by_source: dict[tuple[str, int], list[int]] = defaultdict(list)
    for record in history.records:
        by_source[record.topic, record.partition].append(record.offset)
    for source, offsets in by_source.items():
        for before, after in pairwise(sorted([-1, *offsets])):
            if after == before:
                yield Violation(Rule.OFFSET_TWICE, f"{source} {after}")
            elif after != before + 1:
                yield Violation(Rule.OFFSET_LEFT_OUT, f"{source} between {before} and {after}")
    for number, reading in enumerate(history.readings):
        for source, seen in reading.items():
            yield from _still_there(f"{source}, reading {number}", seen, last.get(source, ()))


def _still_there(name: str, seen: Sequence[int], now: Sequence[int]) -> Iterator[Violation]:
    if len(seen) > len(now):
        yield Violation(Rule.VANISHED, f"{name}: {len(seen)} records, now {len(now)}")
    changed = [offset for offset, (a, b) in enumerate(zip(seen, now, strict=False)) if a != b]
    if changed:
        yield Violation(Rule.VALUE_CHANGED, f"{name}: offsets {changed[:5]}")


def reading_of(records: Iterable[LogRecord]) -> Reading:
    """The log as it stands: a fingerprint of each record."""
    reading: dict[tuple[str, int], list[int]] = defaultdict(list)
    for record in records:
        reading[record.topic, record.partition].append(fingerprint(record))
    return reading


def order_is_kept(history: History) -> Iterator[Violation]:
    """3, second half: per client and ordering key; other clients' events may lie in between."""
    sent: dict[Logical, Try] = {}
    for each in history.tries:
        if each.outcome == OK and each.ordering_key is not None:
            sent.setdefault(each.logical, each)
    lanes: dict[tuple[str, str, str], list[tuple[LogRecord, Try]]] = defaultdict(list)
    partitions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for record in history.records:
        first = sent.get(record.logical) if record.is_event else None
        if first is not None:
            assert first.ordering_key is not None
            lanes[record.topic, first.ordering_key, first.client].append((record, first))
            partitions[record.topic, first.ordering_key].add(record.partition)
    for ordering, where in partitions.items():
        if len(where) > 1:
            yield Violation(Rule.KEY_SPLIT, f"{ordering} in {sorted(where)}")
    for lane, entries in lanes.items():
        entries.sort(key=lambda entry: entry[1].sequence)
        for (record, _), (later, _) in pairwise(entries):
            if record.partition == later.partition and record.offset > later.offset:
                yield Violation(Rule.OUT_OF_ORDER, f"{lane}: {record.where} and {later.where}")


def _grouped(events: Iterable[LogRecord]) -> dict[Logical, list[LogRecord]]:
    groups: dict[Logical, list[LogRecord]] = defaultdict(list)
    for record in events:
        groups[record.logical].append(record)
    return groups


def _tries_by_event(history: History) -> dict[Logical, list[Try]]:
    groups: dict[Logical, list[Try]] = defaultdict(list)
    for each in history.tries:
        assert each.outcome in (OK, FAIL, INFO), each
        groups[each.logical].append(each)
    return groups


def _name(logical: Logical) -> str:
    return f"{logical.environment} {logical.key or logical.payload}"
