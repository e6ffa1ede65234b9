"""Checking answers against the vendor's own description of its API."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import referencing
from referencing.jsonschema import DRAFT202012


def _properties_present(
    validator: Any, properties: dict[str, Any], instance: Any, schema: dict[str, Any]
) -> Iterator[Any]:
    # The service sends `null` for an optional field that has no value (e.g. `Batch.usage`), where
    # the description only allows that it is absent.
    if validator.is_type(instance, "object"):
        required = schema.get("required", ())
        for name, value in instance.items():
            if name in properties and (value is not None or name in required):
                yield from validator.descend(value, properties[name], path=name, schema_path=name)


_LenientValidator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"properties": _properties_present}
)


@functools.cache
def _validator(name: str) -> Any:
    document = json.loads((Path(__file__).parent / "openai-schemas.json").read_text())
    resource = referencing.Resource.from_contents(document, default_specification=DRAFT202012)
    registry: referencing.Registry[Any] = referencing.Registry().with_resource(
        "urn:openai", resource
    )
    return _LenientValidator({"$ref": f"urn:openai#/components/schemas/{name}"}, registry=registry)


@functools.cache
def _properties(name: str) -> frozenset[str]:
    document = json.loads((Path(__file__).parent / "openai-schemas.json").read_text())
    return frozenset(document["components"]["schemas"][name]["properties"])


def assert_shape(name: str, value: Any) -> None:
    """Fail with the deepest complaint if the value is not of that schema."""
    error = jsonschema.exceptions.best_match(_validator(name).iter_errors(value))
    assert error is None, f"{name}: {error.message} at {error.json_path}"


def assert_known_fields(name: str, value: dict[str, Any]) -> None:
    """Fail if the value has a top-level field that the schema does not describe."""
    assert set(value) <= _properties(name), set(value) - _properties(name)
