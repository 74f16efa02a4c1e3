"""JSON Schemas of what lies in the log, one for each value of the header `atlas-schema`."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from atlas.core import facts
from atlas.core.commands import Command
from scripts.schemas_lib.shaping import Schema, schemas_of

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: What may change without a new version, said in every schema.
WITHIN_A_VERSION: Final = (
    "Within this version fields may be added to any object, so that a reader passes over those it does not "
    "know. No field is taken away, renamed or given another type or meaning, a required one is always there, "
    "and values stay within the bounds said here. Anything else is a new version, under a new value of the "
    "header `atlas-schema`."
)
_MORE_KINDS: Final = "New kinds of records may be added too."


def tag_of(kind: type[Struct]) -> str:
    """As in `shard.claimed`."""
    return str(kind.__struct_config__.tag)


class RecordKind(Struct, frozen=True):
    """The records that carry one value of the header.

    Attributes:
        header: name and version, as in `atlas.event/1`.
        type: what their values decode to.
        about: for people.
    """

    header: bytes
    type: Any
    about: str

    @property
    def name(self) -> str:
        """As in `event`."""
        return self._parts[0]

    @property
    def version(self) -> str:
        """As in `1`."""
        return self._parts[1]

    @property
    def file_name(self) -> str:
        """As in `event.v1.json`."""
        return f"{self.name}.v{self.version}.json"

    @property
    def _parts(self) -> list[str]:
        return self.header.decode().removeprefix("atlas.").split("/")


EVENT: Final = RecordKind(facts.EVENT_SCHEMA, facts.EventRecord, WITHIN_A_VERSION)
LIFECYCLE: Final = RecordKind(
    facts.LIFECYCLE_SCHEMA,
    facts.LifecycleFact,
    f"A record of `{facts.LIFECYCLE_TOPIC}`: what became of events. The kind is in `fact`.\n\n"
    f"{WITHIN_A_VERSION} {_MORE_KINDS} A reader passes over those it does not know.",
)
CONTROL: Final = RecordKind(
    facts.CONTROL_SCHEMA,
    Command,
    f"A record of `{facts.CONTROL_TOPIC}`: what somebody asked for. What came of it follows from the "
    f"records before it. The kind is in `command`.\n\n{WITHIN_A_VERSION} {_MORE_KINDS} Whoever folds them "
    "must stop at one it does not know.",
)
FENCE: Final = RecordKind(facts.FENCE_SCHEMA, facts.FenceRecord, WITHIN_A_VERSION)
RECORDS: Final = (EVENT, LIFECYCLE, CONTROL, FENCE)

#: The keys of the facts whose key is not their event's id, by their kind.
FACT_KEYS: Final = {
    tag_of(kind): key.decode()
    for kind, key in (
        (facts.ShardClaimed, facts.SHARD_KEY),
        (facts.ShardCheckpoint, facts.SHARD_KEY),
        (facts.RecordsTrimmed, facts.SHARD_KEY),
        (facts.ReplayRequested, facts.REPLAY_KEY),
        (facts.ReplayProgressed, facts.PROGRESS_KEY),
        (facts.BreakerChanged, facts.BREAKER_KEY),
    )
}


def record_schema(record: RecordKind) -> Schema:
    """The whole document."""
    [schema], defs = schemas_of([record.type], "#/$defs/{name}")
    document: Schema = {
        "$schema": DIALECT,
        "$id": f"urn:atlas:schema:{record.name}:{record.version}",
        "title": record.header.decode(),
    }
    if set(schema) == {"$ref"}:  # one kind of record: it is the document
        schema = defs.pop(schema["$ref"].rpartition("/")[2])
        document["description"] = f"{schema.pop('description')}\n\n{record.about}"
    else:
        document["description"] = record.about
    return {**document, **schema, **({"$defs": defs} if defs else {})}
