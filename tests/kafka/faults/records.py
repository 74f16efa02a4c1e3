"""Faults of what lies in topics: foreign records that no fold can take, and records that are gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from tests.faults_load import BARE, ORDERS
from tests.faults_routes import ROUTES
from tests.invariants_history import OK, LogRecord
from tests.kafka.faults.raw_topics import Foreign, Place, delete_records, write
from tests.kafka.faults.scenario import Act, Plan, Scenario
from tests.kafka.faults.site import HEALS_WITHIN_S, PROBE, Site, until
from tests.kafka.installation import READY_MAX_S, SHARDS, Node
from tests.processes import request

_LIFECYCLE: Final = "atlas.lifecycle"
_EVENT: Final = b"atlas.event/1"
_FACT: Final = b"atlas.lifecycle/1"
_LATER_EVENT: Final = b"atlas.event/2"
_LATER_FACT: Final = b"atlas.lifecycle/2"
#: What is said of a gap.
_GAP_ALARM: Final = "records trimmed unread"
_ASKED_AT_ONCE: Final = 20
_QUARANTINED: Final = "atlas_quarantined_records_total"


# --- foreign records


async def _foreign(act: Act) -> None:
    site = act.site
    for _ in range(act.plan.times):
        await act.accepted()
        records = list(_bad_records(site, await site.read()))
        facts = sum(record.topic == _LIFECYCLE for record in records)
        counts = {site.projector: len(records), site.deliverers[0]: len(records) - facts}
        expected = {node: _quarantined(node) + count for node, count in counts.items()}
        site.foreign.update(await write(site.broker.bootstrap(), records))
        for node, count in expected.items():
            await until(lambda n=node, c=count: _counts(n, c), f"{node.name} counts {count}", READY_MAX_S)  # type: ignore[misc]  # bound at once
            act.more.append(("quarantined", f"{counts[node]} of {len(records)} records by {node.name}"))
        await _a_later_fact_about_an_open_route(act)
        act.lifted()
        await act.recovered()


async def _counts(node: Node, count: float) -> bool:
    return _quarantined(node) >= count


def _bad_records(site: Site, found: Mapping[Place, LogRecord]) -> Iterator[Foreign]:
    """For every partition of every topic but the control topic."""
    events = [record for record in found.values() if record.is_event]
    facts = [record for record in found.values() if record.is_fact]
    for partition in range(SHARDS):
        for topic in _event_topics(site):
            yield from _bad(topic, partition, _EVENT, _LATER_EVENT)
            lying = [each for each in events if (each.topic, each.partition) == (topic, partition)]
            for record in (*lying[:1], *lying[-1:]):  # read by an owner long gone; by this one
                yield Foreign(topic, partition, record.value, schema=_EVENT)  # an event id twice
                yield Foreign(topic, partition, record.value, schema=_LATER_EVENT)
                other = {**record.json, "stream": "another"}
                yield Foreign(topic, partition, orjson.dumps(other), schema=_EVENT)
        yield from _bad(_LIFECYCLE, partition, _FACT, _LATER_FACT)
        for record in [each for each in facts if each.partition == partition][:3]:
            yield Foreign(_LIFECYCLE, partition, record.value, schema=_LATER_FACT, key=b"shard")


def _bad(topic: str, partition: int, schema: bytes, later: bytes) -> Iterator[Foreign]:
    yield Foreign(topic, partition, b"\xff no JSON \x00", schema=schema)
    yield Foreign(topic, partition, b'{"fact": "nobody.knows"}', schema=schema)
    yield Foreign(topic, partition, b'{"id": "evt_1"}')
    yield Foreign(topic, partition, b"", schema=schema)
    yield Foreign(topic, partition, None, key=b"k", schema=schema)
    yield Foreign(topic, partition, None, key=b"shard")
    yield Foreign(topic, partition, b'{"new": ["shape"]}', schema=later)


async def _a_later_fact_about_an_open_route(act: Act) -> None:
    """While nobody delivers: a fact that this version cannot know must not make the route look decided."""
    site = act.site
    [deliverer] = site.deliverers
    await site.stop(deliverer)
    ids = await act.probe(6)
    found = await site.read()
    epochs = {p.partition: p.offset for p, r in found.items() if r.is_fact and _is_claim(r)}
    records = [
        Foreign(_LIFECYCLE, place.partition, _decided(record, epochs[place.partition]), schema=_LATER_FACT)
        for place, record in found.items()
        if record.is_event and record.json["id"] in ids
    ]
    site.foreign.update(await write(site.broker.bootstrap(), records))
    await site.start("deliverer")
    act.load.go_on()


def _is_claim(record: LogRecord) -> bool:
    return bool(record.json["fact"] == "shard.claimed")


def _decided(record: LogRecord, epoch: int) -> bytes:
    return orjson.dumps(
        {
            "fact": "delivery.closed",
            "epoch": epoch,
            "event_id": record.json["id"],
            "topic": record.topic,
            "offset": record.offset,
            "target": "wf_fine",
            "error": {"code": "target_deleted", "message": "The target was deleted."},
            "at_ms": record.timestamp_ms,
        }
    )


def _event_topics(site: Site) -> list[str]:
    live = [f"atlas.live.{site.workspace_id}.{stream}" for stream in (ORDERS, BARE, PROBE)]
    return [*live, *(f"atlas.test.{site.workspace_id}.{stream}" for stream in (ORDERS, BARE))]


def _quarantined(node: Node) -> float:
    text = request(node.url, "GET", "/metrics").content.decode()
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(_QUARANTINED)]
    return sum(map(float, values))


# --- deleted records


async def _deleted(act: Act) -> None:
    """Below the positions of a deliverer and a projector that are down; the one has known of more events."""
    site = act.site
    for _ in range(act.plan.times):
        await act.accepted()
        [deliverer] = site.deliverers
        await site.stop(deliverer)
        await _all_written_down(act, deliverer)
        await act.accepted()
        await act.load.idle()
        await _projected(act)
        unseen_from_ms = time.time_ns() // 1_000_000
        await site.stop(site.projector)
        act.load.go_on()
        await act.accepted()
        await act.load.idle()
        gone = await _delete_all(site)
        act.load.go_on()
        act.lifted()
        await site.start("projector")
        deliverer = await site.start("deliverer")
        await act.recovered()
        await _what_is_left(act, deliverer, gone, unseen_from_ms)


async def _all_written_down(act: Act, deliverer: Node) -> None:
    """It was asked to end: each attempt that it made has its fact."""
    facts = [record.json for record in (await act.site.read()).values() if record.is_fact]
    written = {
        (fact["event_id"], fact["target"], fact["attempt"])
        for fact in facts
        if fact["fact"] == "delivery.attempted"
    }
    lines = [orjson.loads(line) for line in deliverer.stderr().splitlines() if '"delivery attempt"' in line]
    made = {(line["event_id"], line["workflow_id"], line["attempt"]) for line in lines}
    act.expect(made <= written, f"{len(made - written)} attempts of {deliverer.name} are recorded nowhere")


async def _projected(act: Act) -> None:
    """The newest event shows."""
    newest = [each.event_id for each in act.site.clients.tries if each.outcome == OK][-1]

    async def shows() -> bool:
        path = f"/v1/events/{newest}"
        answers = [await act.site.clients.get(environment, path) for environment in ROUTES]
        return any(status == 200 for status, *_ in answers)

    await until(shows, f"{newest} shows", HEALS_WITHIN_S)


async def _delete_all(site: Site) -> list[LogRecord]:
    """Everything that event topics hold; returns the events among it."""
    found = await site.read()
    gone = [record for record in found.values() if record.topic in _event_topics(site)]
    before = {(record.topic, record.partition): record.offset + 1 for record in gone}
    await delete_records(site.broker.bootstrap(), before)
    site.deleted.update(before)
    return [record for record in gone if record.is_event]


async def _what_is_left(act: Act, deliverer: Node, gone: list[LogRecord], unseen_from_ms: int) -> None:
    """Known events end, as `payload_expired` where they were open; the others are unknown, and no error."""
    site = act.site
    for node in (site.projector, deliverer):
        act.expect(_GAP_ALARM in node.stderr(), f"{node.name} raised no alarm about the gap")
    gone = [record for record in gone if record.json["id"] not in site.views]
    expired = 0
    for start in range(0, len(gone), _ASKED_AT_ONCE):
        asked = gone[start : start + _ASKED_AT_ONCE]
        answers = await asyncio.gather(*(_settled(act, record) for record in asked))
        for record, (status, _, body) in zip(asked, answers, strict=True):
            if status == 404:
                event_id = record.json["id"]
                act.expect(record.timestamp_ms >= unseen_from_ms, f"{event_id} was known, and is unknown")
                site.unseen.add(Place(record.topic, record.partition, record.offset))
            else:
                expired += _expired(orjson.loads(body))
    act.more.append(("deleted", f"{len(gone)} events, {len(site.unseen)} of them before anybody knew them"))
    act.more.append(("expired", f"{expired} routes closed as payload_expired"))
    act.expect(expired > 0, "no route was closed as payload_expired")


async def _settled(act: Act, record: LogRecord) -> tuple[int, Mapping[str, str], bytes]:
    """What the API says once the event is unknown, or has ended."""
    environment, path = record.json["environment"], f"/v1/events/{record.json['id']}"
    answer: tuple[int, Mapping[str, str], bytes] = (0, {}, b"")

    async def done() -> bool:
        nonlocal answer
        answer = await act.site.clients.get(environment, path)
        ended = answer[0] == 200 and orjson.loads(answer[2])["status"] in ("delivered", "failed")
        return answer[0] == 404 or ended

    await until(done, f"{path} ends or is unknown", EXPIRES_WITHIN_S)
    return answer


def _expired(event: Mapping[str, Any]) -> int:
    return sum("payload_expired" in orjson.dumps(route).decode() for route in event["attempts"])


#: A shard's owner closes them when it finds them gone.
EXPIRES_WITHIN_S: Final = 30.0
FOREIGN: Final = Scenario(
    name="foreign-records",
    about="poison, tombstones, copies and records of a later version are written to every topic",
    carry_out=_foreign,
    full=Plan(times=3, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
DELETED: Final = Scenario(
    name="records-deleted",
    about="records are deleted below the positions of a deliverer and a projector that are down",
    carry_out=_deleted,
    full=Plan(times=2, events=300),
    short=Plan(events=50),
    recovers_within_s=30.0,
)
