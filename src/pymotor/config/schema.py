"""The JSON schema of a configuration file, and what it says about one place in words."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from pymotor.config.problems import Location, json_path
from pymotor.config.section import HEADER_NAME, LARGEST, NO_EFFECT

Schema = Mapping[str, Any]


@functools.cache
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a file's model. Do not change what is returned."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def schema_at(model: type[BaseModel], location: Location) -> Schema:
    """The schema of what stands at a place; empty where anything may."""
    root = json_schema(model)
    schema: Schema = resolved(root, root)
    for step in location:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            inner = schema.get("properties", {}).get(step)
            if inner is None:
                inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
            schema = inner if isinstance(inner, Mapping) else {}
        schema = resolved(root, schema)
    return schema


def known_keys(schema: Schema) -> list[str]:
    """The keys of an object's schema that do something."""
    return [key for key, inner in schema.get("properties", {}).items() if NO_EFFECT not in inner]


@functools.cache
def places_of_keys(model: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """For every key of the file, the places of the objects it may stand in, as JSON paths."""
    root = json_schema(model)
    places: dict[str, list[str]] = {}
    for location, key in _keys(root, root, ()):
        places.setdefault(key, []).append(json_path(location))
    return {key: tuple(paths) for key, paths in places.items()}


def describe(schema: Schema) -> str:
    """What a schema allows, in words: `an integer from 1 to 16`; empty where anything may stand."""
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    words = _KINDS.get(schema.get("type", ""), "")
    if schema.get("type") == "array":
        items = describe(schema.get("items", {}))
        return f"a list, each item {items}" if items else words
    least, most = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if above is not None:
        words += f" greater than {above:g}" + (f", at most {most:g}" if most is not None else "")
    elif least is not None:
        unbounded = most is None or most == LARGEST
        words += f", {least:g} or more" if unbounded else f" from {least:g} to {most:g}"
    if schema.get("minLength"):
        words += ", not empty"
    pattern = schema.get("pattern")
    if pattern is not None:
        words += f" ({_PATTERNS.get(pattern, f'that matches {pattern}')})"
    return words


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "a string",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_PATTERNS = {
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$": (
        "a DNS label: lower-case letters, digits and -, beginning and ending with a letter or digit, at most 63"
    ),
    "^/": "that begins with /",
    HEADER_NAME: "the name of a header: letters, digits and !#$%&'*+-.^_`|~",
    r"^[0-9A-Za-z][0-9A-Za-z.:_-]*$|^::": "an IP address or the name of a host",
}


def resolved(root: Schema, schema: Schema) -> Schema:
    """The schema behind a reference; of one that may be null, the part that is not."""
    while True:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "anyOf" in schema:
            parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
            if len(parts) != 1:
                return schema
            schema = parts[0]
        else:
            return schema


def _keys(root: Schema, schema: Schema, location: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, inner in schema.get("properties", {}).items():
        if NO_EFFECT in inner:
            continue
        yield location, key
        yield from _keys(root, resolved(root, inner), (*location, key))
