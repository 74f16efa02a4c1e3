"""The published schemas, for tests that hold real records and answers against them.

Fields may be added within a version, so the schemas let any through. Here none is: a field that is written
and not described is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import jsonschema
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.asgi_client import Answer
from tests.tidy_rules import ROOT

SCHEMAS: Final = ROOT / "schemas"


def document(name: str) -> dict[str, Any]:
    """A file of `schemas/`."""
    found: dict[str, Any] = json.loads((SCHEMAS / name).read_text())
    return found


def closed(node: Any) -> Any:
    """The schema, with every object's fields being all that it may have."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    shut = {key: closed(value) for key, value in node.items()}
    if node.get("type") == "object" and "properties" in node:
        shut["additionalProperties"] = False
    return shut


@cache
def record_validator(header: str) -> jsonschema.Draft202012Validator:
    """For the values of records with this `atlas-schema`."""
    name, _, version = header.removeprefix("atlas.").partition("/")
    return _validator(closed(document(f"{name}.v{version}.json")))


def check_record(header: str, value: object) -> None:
    """Fails unless the value is what the record's schema says, and nothing more."""
    _refuse(record_validator(header).iter_errors(value), f"{header}: {value}")


def described_headers(header: str) -> set[str]:
    """Names of the headers that records with this `atlas-schema` have, as asyncapi.yaml says."""
    messages = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())["components"]["messages"].values()
    [message] = [each for each in messages if each["name"] == header]
    return set(message["headers"]["properties"])


class Api:
    """openapi.json: which answer is described for a request."""

    def __init__(self) -> None:
        self.document = document("openapi.json")
        self.seen: set[tuple[str, str, int]] = set()
        self._registry = Registry().with_resource(
            "urn:openapi", Resource.from_contents(closed(self.document), default_specification=DRAFT202012)
        )
        self._templates: dict[re.Pattern[str], str] = {
            re.compile(re.sub(r"{\w+}", "[^/]+", template)): template for template in self.document["paths"]
        }

    def operations(self) -> set[tuple[str, str]]:
        """Every method and path."""
        return {
            (method.upper(), template)
            for template, path in self.document["paths"].items()
            for method in path
            if method != "parameters"
        }

    def check(self, method: str, target: str, answer: Answer) -> None:
        """Fails unless the answer is described for this operation: status, headers, body."""
        template = self.template(target)
        described = self.response(method, template, answer.status)
        self.seen.add((method, template, answer.status))
        self.check_described(described, answer)

    def check_described(self, described: dict[str, Any], answer: Answer) -> None:
        """Fails unless the answer is as this response of the document says."""
        for name, header in described.get("headers", {}).items():
            self._check_header(name, self._resolved(header), answer)
        content = described.get("content")
        if content is None:
            assert answer.body == b"", answer
        elif "application/json" in content:
            assert answer.header("content-type") == "application/json", answer
            self._check(content["application/json"]["schema"], answer.json(), answer)
        else:
            assert str(answer.header("content-type")).startswith("text/plain"), answer

    def template(self, target: str) -> str:
        """The path that a request's target falls under; a written-out one first."""
        path = target.partition("?")[0]
        fitting = [template for pattern, template in self._templates.items() if pattern.fullmatch(path)]
        assert fitting, f"{path} is not described"
        return min(fitting, key=lambda template: template.count("{"))

    def response(self, method: str, template: str, status: int) -> dict[str, Any]:
        """What is described for a status; another one than those listed is a fault."""
        operation = self.document["paths"][template].get(method.lower())
        assert operation is not None, f"{method} {template} is not described"
        assert str(status) in operation["responses"], f"{method} {template}: {status} is not described"
        return self._resolved(operation["responses"][str(status)])

    def check_request(self, method: str, target: str, body: object) -> None:
        """Fails unless the body is described for this operation."""
        operation = self.document["paths"][self.template(target)][method.lower()]
        self._check(operation["requestBody"]["content"]["application/json"]["schema"], body, body)

    def _check_header(self, name: str, header: dict[str, Any], answer: Answer) -> None:
        text = answer.header(name)
        assert text is not None or not header.get("required"), f"{name} is missing: {answer}"
        if text is not None:
            is_number = header["schema"].get("type") == "integer"
            self._check(header["schema"], int(text) if is_number else text, answer)

    def _check(self, schema: dict[str, Any], value: object, about: object) -> None:
        absolute = json.loads(json.dumps(closed(schema)).replace('"$ref": "#/', '"$ref": "urn:openapi#/'))
        _refuse(_validator(absolute, self._registry).iter_errors(value), f"{about}")

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in node:
            return node
        found: Any = self.document
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        resolved: dict[str, Any] = found
        return resolved


def _validator(schema: Any, registry: Any = None) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        schema,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        registry=Registry() if registry is None else registry,
    )


def _refuse(errors: Iterable[jsonschema.ValidationError], about: str) -> None:
    found = [f"{list(error.absolute_path)}: {error.message}"[:500] for error in errors]
    assert not found, "\n  ".join([about[:1_000], *found])
