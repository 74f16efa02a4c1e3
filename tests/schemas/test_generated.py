"""`schemas/` is what the code's types say now, complete, and well-formed by the rules of each format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, cast, get_args

import jsonschema
import msgspec
import pytest
import yaml
from openapi_spec_validator import validate
from starlette.routing import Route

from atlas.core import facts
from atlas.core.errors import HTTP_STATUS_BY_CODE, ApiError, InvalidRequest, Unavailable
from atlas.core.lifecycle import OUTCOMES
from atlas.gateway.app import App
from atlas.gateway.replies import error_reply, response_headers
from atlas.gateway.resources import Area, Operation, Resource
from scripts.schemas_lib import documents, openapi
from scripts.schemas_lib.records import FACT_KEYS, RECORDS, tag_of
from scripts.schemas_lib.shaping import Vague, schemas_of
from tests.asgi_client import Answer
from tests.gateway.harness import gateway
from tests.schemas.contract import SCHEMAS, Api, check_record, document
from tests.tidy_rules import ROOT
from tests.virtual_time import VirtualClock, run_virtual

REQUEST_ID: Final = "req_01HX9ZD2M1Y0K8X6V3N7P5Q2W4"
ASYNCAPI: Final[dict[str, Any]] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())


def test_the_files_are_current() -> None:
    assert documents.stale() == []


def test_the_script_says_what_is_not_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "DIRECTORY", tmp_path)
    for name, content in documents.documents().items():
        (tmp_path / name).write_bytes(content)
    assert documents.stale() == []
    (tmp_path / "event.v1.json").write_text("{}")
    (tmp_path / "openapi.json").unlink()
    (tmp_path / "event.v0.json").write_text("{}")
    assert documents.stale() == ["event.v0.json", "event.v1.json", "openapi.json"]


def test_the_same_code_makes_the_same_bytes() -> None:
    """In another process too, where names hash differently."""
    made = (
        "import hashlib; from scripts.schemas_lib.documents import documents;"
        "print(hashlib.sha256(repr(sorted(documents().items())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", made],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# --- well-formed


def test_record_schemas_are_schemas() -> None:
    for record in RECORDS:
        schema = document(record.file_name)
        assert schema["title"] == record.header.decode()
        jsonschema.Draft202012Validator.check_schema(schema)


def test_openapi_is_valid() -> None:
    validate(document("openapi.json"))


def test_asyncapi_is_valid() -> None:
    rules = json.loads((ROOT / "tests" / "schemas" / "asyncapi-3.0.0.json").read_text())
    validator = jsonschema.Draft7Validator(rules)
    assert [error.message for error in validator.iter_errors(ASYNCAPI)] == []
    broken = {**ASYNCAPI, "operations": {"readEvents": {"action": "look"}}}
    assert not validator.is_valid(broken), "the rules can fail"


def test_asyncapi_names_files_that_are_there() -> None:
    messages = ASYNCAPI["components"]["messages"]
    named = {message["payload"]["schema"]["$ref"].removeprefix("./") for message in messages.values()}
    assert named == {record.file_name for record in RECORDS}
    assert all((SCHEMAS / name).exists() for name in named)
    addresses = {channel["address"] for channel in ASYNCAPI["channels"].values()}
    topic = facts.event_topic("{environment}", "{workspace}", "{stream}")
    assert addresses == {topic, facts.LIFECYCLE_TOPIC, facts.CONTROL_TOPIC}


def test_asyncapi_names_the_key_of_every_kind_of_fact() -> None:
    """What the records of a run have is held against the same table: see `tests/api/test_records.py`."""
    of_an_event = {tag_of(kind) for kind in get_args(facts.DeliveryFact)}
    assert {tag_of(kind) for kind in get_args(facts.LifecycleFact)} == {*FACT_KEYS, *of_an_event}
    key = ASYNCAPI["components"]["messages"]["lifecycle"]["bindings"]["kafka"]["key"]["description"]
    said = re.findall(r"`([^`]+)` for ((?:`[^`]+`(?:, )?)+)", key)
    assert {kind: name for name, kinds in said for kind in kinds.strip("`").split("`, `")} == FACT_KEYS
    assert key.startswith("The event's id for every fact but these: ")


# --- complete


def test_every_route_is_in_openapi_and_has_its_answers(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as running:
            routes = cast(App, running.app)._router.routes
            resources = [cast(Any, route).app._resource for route in routes if isinstance(route, Route)]
        there = {(method, one.template) for one in resources for method in one.operations}
        there |= {("OPTIONS", one.template) for one in resources if one.preflight}
        assert there == Api().operations()

    run_virtual(main)


def test_a_route_that_is_not_documented_stops_the_generator() -> None:
    added = Resource("/v1/new", Area.WORKSPACE, {"GET": Operation(cast(Any, None))})
    with pytest.raises(openapi.Undocumented, match="/v1/new"):
        openapi._check_complete([added])


def test_a_type_that_says_too_little_stops_the_generator() -> None:
    class Loose(msgspec.Struct):
        text: str

    with pytest.raises(Vague, match=r"Loose\.properties\.text"):
        schemas_of([Loose], "#/$defs/{name}")


def test_enumerations_are_those_of_the_code() -> None:
    [outcome], _ = schemas_of([facts.Outcome], "")
    assert set(outcome["enum"]) == OUTCOMES


# --- errors


@pytest.mark.parametrize("code", HTTP_STATUS_BY_CODE)
def test_every_error_is_described(code: str) -> None:
    api = Api()
    error = ApiError(code, "Why.", headers={"www-authenticate": "Bearer", "allow": "GET"})
    if code == "invalid_request":
        error = InvalidRequest("data.a", "is wrong")
    elif code in {"service_unavailable", "rate_limit_exceeded"}:
        like = Unavailable("Later.")
        error = ApiError(code, "Later.", like.details, like.headers)
    reply = error_reply(error, REQUEST_ID)
    headers = [(name.decode(), value.decode()) for name, value in response_headers(REQUEST_ID, reply, [])]
    answer = Answer(reply.status, headers, reply.body)
    responses = api.document["components"]["responses"]
    api.check_described(responses["refusal"], answer)
    api.check_described(responses[code], answer)
    other = next(each for each in HTTP_STATUS_BY_CODE if each != code)
    with pytest.raises(AssertionError):
        api.check_described(responses[other], answer)


def test_a_field_that_is_not_described_is_a_fault() -> None:
    fence = {"type": "log.fence", "producer_id": 1, "epoch": 2}
    check_record("atlas.fence/1", fence)
    for wrong in ({**fence, "more": 1}, {**fence, "epoch": -1}, {"type": "log.fence", "epoch": 1}):
        with pytest.raises(AssertionError):
            check_record("atlas.fence/1", wrong)
    validator = jsonschema.Draft202012Validator(document("fence.v1.json"))
    assert validator.is_valid({**fence, "more": 1}), "readers let new fields through"
