"""Makes `spec_answers.json`, a digest of what the specification says that answers look like.

`python -m tests.house.digest …/matrix-spec` writes it anew from a copy of the specification's
repository. For each operation and status it holds the JSON schema of the body, and for each type
of event that of the event, without the words that are for people.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

SPEC_ANSWERS: Final = Path(__file__).parent / "spec_answers.json"

_APIS: Final = ("client-server", "server-server")
_METHODS: Final = ("get", "put", "post", "delete")

_FOR_PEOPLE: Final = frozenset(
    {"description", "title", "example", "examples", "deprecated", "default", "externalDocs",
     "$schema", "$id", "$comment", "x-addedInMatrixVersion", "x-changedInMatrixVersion",
     "x-pattern-format", "x-weight"}
)  # fmt: skip
_NAMED: Final = ("properties", "patternProperties", "$defs")
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE: Final = ("items", "additionalProperties", "not", "propertyNames", "if", "then", "else")


class Digest:
    """Reads the specification's files, and remembers the schemas that are referred to."""

    def __init__(self, data: Path) -> None:
        self.definitions: dict[str, Any] = {}
        self._data = data
        self._documents: dict[Path, Any] = {}

    def answers(self, api: str) -> dict[str, dict[str, Any]]:
        """Operation → status → schema; None for a body that is no JSON."""
        found: dict[str, dict[str, Any]] = {}
        for file in sorted((self._data / "api" / api).glob("*.yaml")):
            document = self._read(file)
            base = document.get("servers", [{}])[0].get("variables", {}).get("basePath", {})
            for path, methods in document.get("paths", {}).items():
                for method in _METHODS:
                    if method in methods:
                        name = f"{method.upper()} {base.get('default', '')}{path}"
                        found[name] = self._responses(methods[method]["responses"], file)
        return found

    def events(self) -> dict[str, Any]:
        """Type of an event → its schema."""
        schemas = self._data / "event-schemas" / "schema"
        return {
            file.stem: self._reference(file.name, schemas / "here.yaml")
            for file in sorted(schemas.glob("m.*.yaml"))
            if "$" not in file.stem and not file.stem.endswith("m.relates_to")
        }

    def _responses(self, responses: Mapping[Any, Any], file: Path) -> dict[str, Any]:
        found = {}
        for status, response in responses.items():
            if "$ref" in response:
                _, response, file_of_it = self._follow(response["$ref"], file)
            else:
                file_of_it = file
            content = response.get("content", {}).get("application/json", {})
            schema = content.get("schema")
            found[str(status)] = None if schema is None else self._schema(schema, file_of_it)
        return found

    def _schema(self, schema: Any, file: Path) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        told: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _FOR_PEOPLE:
                continue
            if key == "$ref":
                told |= self._reference(value, file)
            elif key in _NAMED:
                told[key] = {name: self._schema(inner, file) for name, inner in value.items()}
            elif key in _MANY:
                told[key] = [self._schema(inner, file) for inner in value]
            elif key in _ONE:
                told[key] = self._schema(value, file)
            else:
                told[key] = value
        return told

    def _reference(self, reference: str, file: Path) -> dict[str, Any]:
        name, schema, file_of_it = self._follow(reference, file)
        if name not in self.definitions:
            # Known before it is read: what refers to itself ends here.
            self.definitions[name] = {}
            self.definitions[name] = self._schema(schema, file_of_it)
        return {"$ref": f"#/$defs/{name}"}

    def _follow(self, reference: str, file: Path) -> tuple[str, Any, Path]:
        path, _, pointer = reference.partition("#")
        target = Path(os.path.normpath(file.parent / path)) if path else file
        value = self._read(target)
        for part in pointer.split("/")[1:]:
            value = value[part]
        name = str(target.relative_to(self._data)).removesuffix(".yaml") + pointer
        return name.replace("/", "."), value, target

    def _read(self, file: Path) -> Any:
        if file not in self._documents:
            self._documents[file] = yaml.safe_load(file.read_text())
        return self._documents[file]


def make_digest(data: Path) -> dict[str, Any]:
    """The digest of the specification's `data` directory."""
    digest = Digest(data)
    answers = {api: digest.answers(api) for api in _APIS}
    return {"answers": answers, "events": digest.events(), "$defs": digest.definitions}


if __name__ == "__main__":
    told = make_digest(Path(sys.argv[1]) / "data")
    SPEC_ANSWERS.write_text(json.dumps(told, sort_keys=True, separators=(",", ":")) + "\n")
