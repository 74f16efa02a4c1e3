"""asyncapi.yaml: the topics as those see them who read them without Atlas."""

from __future__ import annotations

from typing import Any, Final

from atlas.core import facts
from scripts.schemas_lib.records import CONTROL, EVENT, FACT_KEYS, FENCE, LIFECYCLE, RecordKind
from scripts.schemas_lib.shaping import Schema

_BINDING: Final = "0.5.0"
_DRAFT: Final = "application/schema+json;version=draft-2020-12"
_ABOUT: Final = f"""\
What Atlas writes to Apache Kafka, for teams that read it with a client of their own.

Every value is UTF-8 JSON, except that of a tombstone, which has none. The header `{facts.SCHEMA_HEADER}`
names the kind of a record and its version; `schemas/<kind>.v<version>.json` is its JSON Schema. Two rules:

1. Pass over every record whose `{facts.SCHEMA_HEADER}` is not `{EVENT.header.decode()}`: between events lie
   fences (`{FENCE.header.decode()}`), and what foreign producers and operators may have written, tombstones
   among them.
2. Keep the first record of an event id. A later one with the same `id` is void, whatever it holds: it can
   come about when a gateway is cut off from the brokers at the wrong moment.

Retention removes records from the start of a partition: a reader that stood below it goes on at the first
record there is.

The events of one partition are in the order of their acceptance. An event lies in the partition
`murmur2(key) mod partitions`, as Kafka's own producer would have it; the key is the event's `ordering_key`,
or its `id` where it has none. All event topics of an installation, and `{facts.LIFECYCLE_TOPIC}`, have the
same number of partitions, which never changes.

Only Atlas may write to these topics. `{facts.LIFECYCLE_TOPIC}` and `{facts.CONTROL_TOPIC}` hold the records
of every workspace: let operators alone read them, and give a team the topics of its own workspace.
"""
_EVENTS: Final = """\
The accepted events of one stream. The topic is there from the moment the stream is; records stay for the
stream's `retention_days`.
"""
_LIFECYCLE: Final = """\
What became of events, and who decided it. For operators: it holds every workspace's.
The facts of an event lie in the partition of the same number as the event. A delivery fact carries the
`epoch` of the owner that wrote it, which is the offset of that owner's `shard.claimed`; it is void unless
that is the newest claim before it. The first valid fact of an event, target, replay and attempt counts.
"""
_CONTROL: Final = """\
What was set up: workspaces, keys (as digests), streams, workflows (their signing secrets encrypted, their
headers not). For operators: it holds every workspace's. One partition, kept for ever; whether a command took
effect follows from the records before it.
"""


def asyncapi() -> Schema:
    """The document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Atlas topics",
            "version": EVENT.version,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(),
        "operations": {
            "readEvents": _receive("events", "Read the events of a stream."),
            "readLifecycle": _receive("lifecycle", "Read what became of events. Operators only."),
            "readControl": _receive("control", "Read what was set up. Operators only."),
        },
        "components": {
            "messages": {
                "event": _message(EVENT, "An accepted event.", "The event's `ordering_key`, or its `id`."),
                "fence": _message(
                    FENCE,
                    "Shuts an older incarnation of a producer out of a partition. Pass over it.",
                    f"Always `{facts.FENCE_KEY.decode()}`.",
                ),
                "lifecycle": _message(
                    LIFECYCLE,
                    "What became of an event, or of a shard.",
                    _lifecycle_keys(),
                ),
                "control": _message(CONTROL, "What somebody asked for.", "There is none."),
            }
        },
    }


def _channels() -> Schema:
    return {
        "events": {
            "address": facts.event_topic("{environment}", "{workspace}", "{stream}"),
            "title": "Events of a stream",
            "description": _EVENTS,
            "parameters": {
                "environment": {
                    "description": "Keys and events of the two never meet.",
                    "enum": list(facts.ENVIRONMENTS),
                },
                "workspace": {"description": "The workspace's id, as in `ws_4F9KQ2C7Z1`."},
                "stream": {"description": "The stream's name, as in `orders-prod`."},
            },
            "messages": _messages("event", "fence"),
            "bindings": _kafka(),
        },
        "lifecycle": {
            "address": facts.LIFECYCLE_TOPIC,
            "title": "Deliveries",
            "description": _LIFECYCLE,
            "messages": _messages("lifecycle"),
            "bindings": _kafka(),
        },
        "control": {
            "address": facts.CONTROL_TOPIC,
            "title": "Settings",
            "description": _CONTROL,
            "messages": _messages("control"),
            "bindings": _kafka(partitions=1),
        },
    }


def _lifecycle_keys() -> str:
    kinds: dict[str, list[str]] = {}
    for kind, key in FACT_KEYS.items():
        kinds.setdefault(key, []).append(f"`{kind}`")
    others = (f"`{key}` for {', '.join(named)}" for key, named in kinds.items())
    return f"The event's id for every fact but these: {'; '.join(others)}."


def _message(record: RecordKind, about: str, key: str) -> Schema:
    return {
        "name": record.header.decode(),
        "title": record.name.capitalize(),
        "summary": about,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": [facts.SCHEMA_HEADER],
            "properties": {
                facts.SCHEMA_HEADER: {"type": "string", "const": record.header.decode()},
            },
        },
        "payload": {"schemaFormat": _DRAFT, "schema": {"$ref": f"./{record.file_name}"}},
        "bindings": {
            "kafka": {"key": {"type": "string", "description": key}, "bindingVersion": _BINDING},
        },
    }


def _messages(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _receive(channel: str, does: str) -> Schema:
    return {"action": "receive", "channel": {"$ref": f"#/channels/{channel}"}, "summary": does}


def _kafka(**more: Any) -> Schema:
    settings = {"topicConfiguration": {"cleanup.policy": ["delete"]}}
    return {"kafka": {**more, **settings, "bindingVersion": _BINDING}}
